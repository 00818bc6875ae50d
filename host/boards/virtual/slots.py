"""A virtual board's slots: the slot manager of firmware/core on a file that stands for the flash.

The file begins with the two sectors of the settings (settings.py). Behind them lie the two of the
slots' state, then slot 0 and slot 1, as in the firmware's partition table
(firmware/partitions.csv; firmware/core/IMAGE.md section 7 has the bytes). Whatever instant the
process is killed at, the next one that opens the file goes on as a board does after a power cut.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from host.boards.virtual import _board
from host.boards.virtual.core import error_name
from host.boards.virtual.settings import SECTOR_BYTES, FlashError, refuse_foreign
from host.packing.keys import PublicKey
from models.errors import TinysplitError
from partitioner import image
from partitioner.image import Image
from partitioner.output import whole_file

STATE_OFFSET = 2 * SECTOR_BYTES
SLOTS_OFFSET = 4 * SECTOR_BYTES
SLOT_BYTES = 2 << 20  # As the firmware's partition table has it.
NO_SLOT = 255
STATES = ("empty", "receiving", "ready", "trial", "confirmed", "refused")
INVOKE_FAILED = 19  # SPEC.md section 11: invoke_failed
SELF_TEST_FAILED = 118  # IMAGE.md section 9: self_test

_ffi, _lib = _board.ffi, _board.lib


class SlotError(TinysplitError):
    """What the slot manager refused. `code` is its name in IMAGE.md section 9."""

    def __init__(self, code: str, doing: str) -> None:
        super().__init__(f"{doing}: {code}")
        self.code = code


class SlotFlash:
    """The slots' part of the flash file at `path`; the file is made, or made longer, if need be.

    Args:
        slot_bytes: size of each slot in whole sectors; None: what the file has, else SLOT_BYTES.

    Raises:
        FlashError: the file cannot be used, has slots of another size, or another board uses it.
    """

    def __init__(self, path: Path, slot_bytes: int | None = None) -> None:
        try:
            if path.is_file():
                refuse_foreign(path)
            elif path.exists() and not path.is_dir():
                raise FlashError(f"{path} is no regular file; flash is kept in one")
            if not path.exists() or path.stat().st_size <= STATE_OFFSET:
                _make(path, slot_bytes or SLOT_BYTES)
            self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise FlashError(f"cannot use {path} as flash: {error.strerror}") from error
        present, rest = divmod(os.fstat(self._fd).st_size - SLOTS_OFFSET, 2 * SECTOR_BYTES)
        self.slot_bytes = present * SECTOR_BYTES
        if rest != 0 or present < 1 or slot_bytes not in (None, self.slot_bytes):
            os.close(self._fd)
            raise FlashError(f"{path} has no slots of that size in it; start with a new file")
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._fd)
            raise FlashError(f"{path} is the flash of another board that runs") from error

    def _fill(self, at: int, count: int) -> None:
        os.pwrite(self._fd, b"\xff" * count, at)

    def close(self) -> None:
        os.close(self._fd)

    def _at(self, area: int, offset: int, length: int) -> int:
        """Where an area's offset lies in the file."""
        base, size = (
            (STATE_OFFSET, 2 * SECTOR_BYTES)
            if area == _lib.TS_AREA_STATE
            else (SLOTS_OFFSET + area * self.slot_bytes, self.slot_bytes)
        )
        if offset + length > size:
            raise FlashError(f"{length} bytes at {offset} are outside of area {area}")
        return base + offset

    def read(self, area: int, offset: int, length: int) -> bytes:
        return os.pread(self._fd, length, self._at(area, offset, length))

    def program(self, area: int, offset: int, data: bytes) -> None:
        """Ones to zeros only, as NOR flash does."""
        before = int.from_bytes(self.read(area, offset, len(data)), "little")
        after = (before & int.from_bytes(data, "little")).to_bytes(len(data), "little")
        os.pwrite(self._fd, after, self._at(area, offset, len(data)))

    def erase(self, area: int, offset: int) -> None:
        self._fill(self._at(area, offset, SECTOR_BYTES), SECTOR_BYTES)

    @property
    def fresh(self) -> bool:
        """Whether no board has ever started from these slots."""
        state = self.read(_lib.TS_AREA_STATE, 0, 2 * SECTOR_BYTES)
        return state == b"\xff" * (2 * SECTOR_BYTES)

    def install(self, data: bytes) -> None:
        """Write an image as a cable would: to slot 0, with everything else erased.

        Raises:
            FlashError: it is longer than the slot.
        """
        if len(data) > self.slot_bytes:
            raise FlashError(f"the image has {len(data):,} bytes, a slot {self.slot_bytes:,}")
        self._fill(STATE_OFFSET, 2 * SECTOR_BYTES + 2 * self.slot_bytes)
        os.pwrite(self._fd, data, SLOTS_OFFSET)


def _make(path: Path, slot_bytes: int) -> None:
    """Make the file, or put slots behind the settings in it."""
    settings = path.read_bytes() if path.exists() else b""
    with whole_file(path) as temporary:
        temporary.write_bytes(settings.ljust(SLOTS_OFFSET + 2 * slot_bytes, b"\xff"))


@dataclass(frozen=True)
class Rules:
    """What the board takes, IMAGE.md section 5.

    `key` None: it has none, and takes unsigned images if `allow_unsigned`. `stage` None: any.
    """

    key: PublicKey | None
    allow_unsigned: bool = False
    stage: int | None = None
    chip: int = image.CHIPS["esp32s3"]
    firmware: int = 0x000100
    max_arena: int = 0


@dataclass(frozen=True)
class SlotState:
    """One slot as the state record has it; `state` is one of STATES."""

    state: str
    bytes: int
    version: int
    digest: str


@dataclass(frozen=True)
class State:
    """The state record; `reason` is the error's name, `ok` if the last image was not refused."""

    running: int | None
    active: int | None
    floor: int
    reason: str
    reason_detail: int
    reason_version: int
    slots: tuple[SlotState, SlotState]


class Slots:
    """The slot manager on `flash`.

    Args:
        self_test: told an image that is on trial; returns None if its bytes are right, else the
            number of the operator that is wrong.
    """

    def __init__(
        self, flash: SlotFlash, rules: Rules, self_test: Callable[[Image], int | None]
    ) -> None:
        self.flash = flash
        self.rules = rules
        self.self_test = self_test
        self.hash = hashlib.sha256()
        self.running: Image | None = None
        self._slots = _ffi.new("struct ts_slots *")
        self._image = _ffi.new("struct ts_image *")
        self._buffer = _ffi.new("uint8_t[]", SECTOR_BYTES)
        self._handle = _ffi.new_handle(self)
        self._config = _ffi.new("struct ts_slots_config *")
        config = self._config
        config.ctx = config.rules.crypto.ctx = self._handle
        config.read = _lib.slot_read
        config.program = _lib.slot_program
        config.erase = _lib.slot_erase
        config.self_test = _lib.slot_self_test
        config.buffer = self._buffer
        config.rules.crypto.sha256_start = _lib.slot_sha_start
        config.rules.crypto.sha256_update = _lib.slot_sha_update
        config.rules.crypto.sha256_finish = _lib.slot_sha_finish
        config.rules.crypto.verify = _ffi.NULL if rules.key is None else _lib.slot_verify
        config.rules.crc.crc16 = _ffi.addressof(_lib, "ts_crc16_small")
        config.rules.crc.crc32 = _ffi.addressof(_lib, "ts_crc32_small")
        config.rules.max_bytes = flash.slot_bytes
        config.rules.max_arena = rules.max_arena
        config.rules.firmware = rules.firmware
        config.rules.chip = rules.chip
        config.rules.stage = NO_SLOT if rules.stage is None else rules.stage
        config.rules.allow_unsigned = rules.allow_unsigned

    @property
    def verify(self) -> image.Verify | None:
        return None if self.rules.key is None else self.rules.key.verify

    @property
    def digest(self) -> str:
        """The name of the image that runs, hex."""
        return bytes(_ffi.buffer(self._image.digest)).hex()

    def image_in(self, slot: int) -> Image:
        """The image in a slot that the slot manager has verified, decoded.

        Raises:
            ImageError: it is none.
        """
        length = int.from_bytes(self.flash.read(slot, 8, 4), "little")
        length = min(length, self.flash.slot_bytes)
        return image.decode(self.flash.read(slot, 0, length), self.verify)

    def boot(self) -> Image | None:
        """Pick, verify and, if need be, try the image to run; None if there is none that can.

        Raises:
            SlotError: the flash failed.
        """
        self.running = None
        code = error_name(_lib.ts_slots_boot(self._slots, self._config, self._image))
        if code == "ok":
            self.running = self.image_in(self._slots.running)
        elif code != "slot_empty":
            raise SlotError(code, "the board cannot start from its flash")
        return self.running

    def begin(self, header: bytes, digest: bytes) -> int:
        """Begin or resume an update; returns the offset to go on at.

        Raises:
            SlotError: the image is refused.
        """
        offset = _ffi.new("uint32_t *")
        if len(header) != image.HEADER_BYTES or len(digest) != image.DIGEST_BYTES:
            raise SlotError("image_malformed", "the update was refused")
        self._check(_lib.ts_slots_begin(self._slots, header, digest, offset))
        return int(offset[0])

    def write(self, offset: int, data: bytes) -> None:
        """Take bytes of the image.

        Raises:
            SlotError: they do not follow, or the flash failed.
        """
        self._check(_lib.ts_slots_write(self._slots, offset, data, len(data)))

    def finish(self) -> None:
        """All bytes are there: verify them.

        Raises:
            SlotError: the image is refused.
        """
        self._check(_lib.ts_slots_finish(self._slots, _ffi.new("struct ts_image *")))

    def check(self, digest: bytes) -> None:
        """Verify the image that waits, again.

        Raises:
            SlotError: there is none of that name, or it decayed.
        """
        self._check(_lib.ts_slots_check(self._slots, digest))

    def activate(self, digest: bytes) -> None:
        """The next boot tries the image that waits.

        Raises:
            SlotError: as `check`.
        """
        self._check(_lib.ts_slots_activate(self._slots, digest))

    def abort(self) -> None:
        """Drop what is being received or waits.

        Raises:
            SlotError: the flash failed.
        """
        self._check(_lib.ts_slots_abort(self._slots))

    @property
    def progress(self) -> tuple[int, int]:
        """Bytes taken of the image being received, and its length; zeros if none is."""
        slot = self._slots.receiving
        if slot == NO_SLOT:
            return 0, 0
        return self._slots.written, self._slots.state.slot[slot].bytes

    def state(self) -> State:
        """The state record as it is now."""
        st = self._slots.state

        def number(slot: int) -> int | None:
            return None if slot == NO_SLOT else slot

        def one(slot: Any) -> SlotState:
            digest = bytes(_ffi.buffer(slot.digest)).hex()
            return SlotState(STATES[slot.state], slot.bytes, slot.version, digest)

        return State(
            running=number(self._slots.running),
            active=number(st.active),
            floor=st.floor,
            reason=error_name(st.reason),
            reason_detail=st.reason_detail,
            reason_version=st.reason_version,
            slots=(one(st.slot[0]), one(st.slot[1])),
        )

    @staticmethod
    def _check(code: int) -> None:
        if code != 0:
            raise SlotError(error_name(code), "the update was refused")


def _of(ctx: Any) -> Slots:
    slots: Slots = _ffi.from_handle(ctx)
    return slots


# Where these fail, the slot manager says flash_failed.


@_ffi.def_extern(error=False)  # type: ignore[untyped-decorator]
def slot_sha_start(ctx: Any) -> bool:
    _of(ctx).hash = hashlib.sha256()
    return True


@_ffi.def_extern(error=False)  # type: ignore[untyped-decorator]
def slot_sha_update(ctx: Any, data: Any, length: int) -> bool:
    _of(ctx).hash.update(_ffi.buffer(data, length))
    return True


@_ffi.def_extern(error=False)  # type: ignore[untyped-decorator]
def slot_sha_finish(ctx: Any, digest: Any) -> bool:
    _ffi.memmove(digest, _of(ctx).hash.digest(), image.DIGEST_BYTES)
    return True


@_ffi.def_extern(error=False)  # type: ignore[untyped-decorator]
def slot_verify(ctx: Any, digest: Any, signature: Any) -> bool:
    key = _of(ctx).rules.key
    return key is not None and key.verify(
        bytes(_ffi.buffer(digest, image.DIGEST_BYTES)),
        bytes(_ffi.buffer(signature, image.SIGNATURE_BYTES)),
    )


@_ffi.def_extern(error=False)  # type: ignore[untyped-decorator]
def slot_read(ctx: Any, area: int, offset: int, out: Any, length: int) -> bool:
    try:
        data = _of(ctx).flash.read(area, offset, length)
    except OSError:
        return False
    _ffi.memmove(out, data, len(data))
    return len(data) == length


@_ffi.def_extern(error=False)  # type: ignore[untyped-decorator]
def slot_program(ctx: Any, area: int, offset: int, data: Any, length: int) -> bool:
    try:
        _of(ctx).flash.program(area, offset, bytes(_ffi.buffer(data, length)))
    except OSError:
        return False
    return True


@_ffi.def_extern(error=False)  # type: ignore[untyped-decorator]
def slot_erase(ctx: Any, area: int, offset: int) -> bool:
    try:
        _of(ctx).flash.erase(area, offset)
    except OSError:
        return False
    return True


@_ffi.def_extern(error=SELF_TEST_FAILED)  # type: ignore[untyped-decorator]
def slot_self_test(ctx: Any, slot: int, _: Any, detail: Any) -> int:
    slots = _of(ctx)
    try:
        wrong = slots.self_test(slots.image_in(slot))
    except TinysplitError:  # Its model does not load, or is not what its manifest says.
        return INVOKE_FAILED
    if wrong is None:
        return 0
    detail[0] = wrong
    return SELF_TEST_FAILED
