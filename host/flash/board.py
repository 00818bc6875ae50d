"""A board at its boot loader: what chip it is, and its flash written and verified, by esptool.

Theory of operation. `connected` opens the port, brings the board into its boot loader (by DTR and
RTS; over a socket somebody else must) and asks it who it is. `write` carries out Contents, in
their order, and has the chip compute the MD5 of everything it wrote. esptool speaks through one
logger of its own for the whole process; while we use it, it is ours and only the progress of a
write comes out of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import serial

from host.flash.build import BuildError, Piece
from host.flash.contents import Contents, Region
from host.serial_port import why_unusable
from models.errors import TinysplitError

ROM_BAUD = 115_200
FAST_BAUD = 460_800
HOLD_BOOT = "hold BOOT, press RESET (or plug the cable in) and let go of BOOT"
_BLANK = b"\xff"
# eFuse PSRAM_CAP of an ESP32-S3 (esptool's targets/esp32s3.py): MB, and how it is wired, where the
# chip series says ("ESP32-S3 Series Datasheet", table of the series).
_PSRAM = {0: (0, "none"), 1: (8, "octal"), 2: (2, "quad"), 3: (16, "octal"), 4: (4, None)}
_VANISHED = (OSError, TypeError, AttributeError)  # What pyserial raises when a port does.
_SILENT = ("No serial data", "Serial data stream", "Packet content", "No more data")

Progress = Callable[[str, int], None]


class FlashingError(TinysplitError):
    """Flashing failed."""


class UnfinishedError(FlashingError):
    """It failed after the first byte of the flash was changed."""


@dataclass(frozen=True)
class Found:
    """What is at the port. `psram` is `none`, `quad`, `octal`, or None where that is not known."""

    chip: str
    mac: str
    flash_bytes: int
    psram_bytes: int
    psram: str | None


def require_esptool() -> None:
    """Raises BuildError if it is not installed."""
    if importlib.util.find_spec("esptool") is None:
        raise BuildError("flashing needs esptool: pip install 'tinysplit[boards]'")


@contextlib.contextmanager
def quiet(progress: Callable[[int, int], None] | None = None) -> Iterator[None]:
    """esptool's messages go nowhere, its progress (done, of how much) to `progress`."""
    from esp_pylib.logger import EspLog, EspLogBase

    class Logger(EspLogBase):
        def nothing(self, *args: object, **kwargs: object) -> None: ...

        print = err = warn = note = hint = debug = counter_line = nothing

        def stage(self, finish: bool = False) -> None: ...

        def set_verbosity(self, mode: int | str) -> None: ...

        def set_info_stream(self, stream: object) -> None: ...

        def progress_bar(self, cur_iter: int, total_iters: int, *_: object, **__: object) -> None:
            if progress is not None:
                progress(cur_iter, total_iters)

    before = EspLog.instance
    EspLog.set_logger(Logger())
    try:
        yield
    finally:
        EspLog.instance = before


class Board:
    """A board in its boot loader."""

    def __init__(self, loader: Any, port: str, found: Found) -> None:
        self._loader = loader
        self._port = port
        self.found = found

    def write(self, plan: Contents, progress: Progress) -> None:
        """Erase and write what `plan` says, and verify all of it.

        Args:
            progress: told which piece is written, and how many bytes of it are.

        Raises:
            UnfinishedError: the board holds nothing that boots now.
        """
        started = False
        doing = "erasing"
        *before, bootloader = plan.pieces
        try:
            for region in plan.erased or (Region(0, self.found.flash_bytes, "the whole flash"),):
                doing = f"erasing {region.name}"
                self._erase(region.offset, region.size)
                started = True
            for piece in before:
                doing = f"writing {piece.name}"
                self._write(piece, progress)
            for region in plan.erased[1:]:
                doing = f"verifying {region.name}"
                self._verify(region.offset, _BLANK * region.size)
            doing = f"writing {bootloader.name}"
            self._write(bootloader, progress)
        except (Exception, KeyboardInterrupt) as error:
            raise UnfinishedError(
                f"{_why(error, doing)}: the board on {self._port} "
                f"{'holds' if started else 'may hold'} nothing that boots now; run the same "
                f"command again, and if the board does not answer, first {HOLD_BOOT}"
            ) from error

    def _erase(self, offset: int, size: int) -> None:
        from esptool import cmds

        with quiet():
            cmds.erase_region(self._loader, offset, size)

    def _write(self, piece: Piece, progress: Progress) -> None:
        from esptool import cmds

        size = len(piece.data)

        def told(done: int, total: int) -> None:  # Of what travels, which is compressed.
            progress(piece.name, size * done // max(total, 1))

        with quiet(told):
            cmds.write_flash(self._loader, [(piece.offset, piece.data)])
        progress(piece.name, size)

    def _verify(self, offset: int, data: bytes) -> None:
        if self._loader.flash_md5sum(offset, len(data)) != hashlib.md5(data).hexdigest():  # noqa: S324
            raise _WrongError

    def start(self) -> bool:
        """Restart it into what was written. False if somebody else must."""
        from esptool import cmds

        if self._port.startswith("socket:"):
            return False
        try:
            with quiet():
                cmds.reset_chip(self._loader, "hard-reset")
        except Exception:  # esptool raises many kinds; all is written and verified by now.
            return False
        return True


class _WrongError(Exception):
    """What the flash holds is not what was written."""


def _why(error: BaseException, doing: str) -> str:
    from esptool.util import FatalError

    if isinstance(error, KeyboardInterrupt):
        return f"interrupted while {doing}"
    text = " ".join(str(error).split())
    if isinstance(error, _WrongError) or "MD5 of file" in text or "Write failed, the" in text:
        thing = doing.partition(" ")[2]
        return f"the flash does not hold what was written ({thing}, by the chip's own MD5)"
    if isinstance(error, FatalError):
        silent = any(words in text for words in _SILENT)
        what = (
            "the board stopped answering" if silent else text.partition(" (result")[0].rstrip(".")
        )
        return f"{what} while {doing}"
    if isinstance(
        error, OSError | TypeError | AttributeError
    ):  # pyserial, on a port that vanishes.
        return f"the board is gone (unplugged, or reset) while {doing}"
    return f"{type(error).__name__} while {doing} ({text})"


@contextlib.contextmanager
def connected(port: str, chip: str, *, stub: bool = True, baud: int = FAST_BAUD) -> Iterator[Board]:
    """The board at `port` in its boot loader; nothing of its flash has been touched.

    Args:
        port: a serial port, or `socket://HOST:PORT` where one is served.
        chip: what the board must be, such as `esp32s3`.
        stub: use esptool's own loader, which is faster than the one in ROM.

    Raises:
        FlashingError: the port cannot be had, nobody answers, it is another chip, its flash does
            not answer, or it takes no plain images.
    """
    require_esptool()
    try:
        opened = serial.serial_for_url(port, ROM_BAUD, exclusive=True, do_not_open=True)
        if sys.platform == "win32":  # There, opening a port would reset the board.
            opened.rts = opened.dtr = False
        opened.open()
    except (OSError, ValueError) as error:
        _, why = why_unusable(error)
        raise FlashingError(f"cannot use {port}: {why}") from error
    try:
        loader = _loader(opened, port, chip, stub=stub, baud=baud)
        yield Board(loader, port, _found(loader, port, chip))
    finally:
        with contextlib.suppress(OSError):
            opened.close()


def _loader(opened: serial.SerialBase, port: str, chip: str, *, stub: bool, baud: int) -> Any:
    from esptool import cmds
    from esptool.util import FatalError

    socket = port.startswith("socket:")
    try:
        with quiet():
            loader = cmds.detect_chip(
                opened, connect_mode="no-reset" if socket else "default-reset"
            )
    except FatalError as error:
        raise FlashingError(
            f"no boot loader answers on {port}: {HOLD_BOOT}, then run this again"
        ) from error
    except _VANISHED as error:
        raise FlashingError(f"the board on {port} is gone: unplugged, or reset") from error
    name = loader.CHIP_NAME.lower().replace("-", "")
    if name != chip:
        raise FlashingError(
            f"the board on {port} is an {loader.CHIP_NAME}, and the build is for {chip}"
        )
    if loader.secure_download_mode or _secured(loader, port):
        raise FlashingError(
            f"the board on {port} has secure boot or flash encryption enabled, and "
            "tinysplit writes plain images only; nothing was written"
        )
    try:
        with quiet():
            if stub:
                loader = cmds.run_stub(loader)
                if not socket and baud > ROM_BAUD:
                    loader.change_baud(baud)
            cmds.attach_flash(loader)
    except (FatalError, OSError) as error:
        raise FlashingError(f"the board on {port} does not go on: {_first_line(error)}") from error
    loader.WRITE_FLASH_ATTEMPTS = 1  # esptool's second one would go on with half of its state.
    return loader


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _secured(loader: Any, port: str) -> bool:
    from esptool.util import FatalError

    try:
        return bool(loader.get_secure_boot_enabled() or loader.get_flash_encryption_enabled())
    except (FatalError, OSError) as error:
        raise FlashingError(f"the board on {port} stopped answering") from error


def _found(loader: Any, port: str, chip: str) -> Found:
    from esptool import cmds
    from esptool.util import FatalError, flash_size_bytes

    try:
        with quiet():
            size = cmds.detect_flash_size(loader)
            mac = ":".join(f"{part:02x}" for part in loader.read_mac("BASE_MAC"))
            capacity = loader.get_psram_cap()
            if size is not None:
                # The boot loader in ROM believes in 2 MB until it is told.
                loader.flash_set_parameters(flash_size_bytes(size))
    except (FatalError, OSError) as error:
        raise FlashingError(f"the board on {port} stopped answering") from error
    if size is None:
        raise FlashingError(
            f"the flash of the board on {port} does not say its size "
            f"(its id is {loader.flash_id():#08x}); is it connected?"
        )
    megabytes, kind = _PSRAM.get(capacity, (0, None))
    return Found(chip, mac, cast(int, flash_size_bytes(size)), megabytes << 20, kind)
