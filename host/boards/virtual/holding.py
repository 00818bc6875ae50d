"""What a virtual board holds to run: a stage of a bundle, or the image in its slots."""

from __future__ import annotations

import base64
import contextlib
import itertools
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from host.boards.control import ControlError
from host.boards.selftest import SelfTest, golden, image_selftest, selftest
from host.boards.virtual.fetch import BUSY, Fetch
from host.boards.virtual.slots import Rules, SlotError, SlotFlash, Slots
from host.link.messages import Blob
from host.packing.keys import PublicKey
from partitioner import bundle as bundles
from partitioner import image as images
from partitioner.chain import Stage, StageError
from partitioner.image import Image, ImageError
from partitioner.kernels import Kernels

UPDATE_PIECE_BYTES = 3072  # As control.schema.json says.
LEASE_S = 20.0  # As firmware/main/update.c.


class Lease:
    """Whose update is under way (IMAGE.md section 8.2), by `clock` in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._owner = 0
        self._by = ""
        self._heard = 0.0

    def check(self, owner: int) -> None:
        """A command, or a piece, of `owner` has come; 0: of nobody in particular.

        Raises:
            ControlError: `busy`: it is somebody else's, heard not long ago.
        """
        silent_s = self._clock() - self._heard
        if self._owner in (0, owner) or silent_s >= LEASE_S:
            self._owner = self._owner if self._owner == owner else 0
            self._heard = self._clock()
            return
        raise ControlError(
            "busy", f"another update is under way, by {self._by}, heard {silent_s:.0f} s ago"
        )

    def take(self, owner: int, by: str = "", take_over: bool = False) -> None:
        """It is the update of `owner` from now on. Raises as `check`, unless `take_over`."""
        if not take_over:
            self.check(owner)
        self._by = by or (self._by if owner == self._owner else f"number {owner}")
        self._owner = owner
        self._heard = self._clock()

    def release(self) -> None:
        """It is nobody's."""
        self._owner = 0


class NoStageError(StageError):
    """A stage that is not here."""


@dataclass(frozen=True)
class Held:
    """A loaded stage and what goes with it.

    `result_bytes` are the sizes of what the chain's last stage answers; `golden` is what the
    stage receives in its self-test; `image` is empty unless it came in one.
    """

    bundle: str
    model: str
    stages: int
    stage: Stage
    result_bytes: tuple[int, ...]
    golden: tuple[bytes, ...]
    selftest: Callable[[], SelfTest]
    image: dict[str, Any]


class Holding(ABC):
    """Where a board's stage comes from."""

    @abstractmethod
    def boot(self) -> None:
        """The board starts.

        Raises:
            TinysplitError: there is nothing to run.
        """

    @abstractmethod
    def stages(self, number: int) -> int:
        """How many stages the chain has.

        Raises:
            NoStageError: stage `number` is not here.
        """

    @abstractmethod
    def load(self, number: int, kernels: Kernels) -> Held:
        """Stage `number`.

        Raises:
            StageError: it is not here.
            KernelError: it does not load.
        """

    def complaint(self) -> str | None:
        """What went wrong with an update before this boot; None: nothing."""
        return None

    @property
    def fetching(self) -> bool:
        """A download is under way: `step` is to be called often."""
        return False

    def step(self) -> None:
        """Do what a download has made possible."""
        return

    def blob(self, piece: Blob) -> None:
        """A piece of an update that came as a BLOB. What is wrong with it shows in the offset
        that the next `update_data` answers with (SPEC.md section 6.3)."""
        return

    def update(self, name: str, fields: dict[str, Any], ca: str | None = None) -> dict[str, Any]:
        """Carry out a control command `update_...` (control.schema.json).

        Args:
            ca: the certificate that servers are checked with; None: the common authorities.

        Raises:
            ControlError: it is refused; `code` says why.
        """
        raise ControlError(
            "unsupported",
            f"this virtual board runs a bundle: it has no {name}; start it from an image "
            "(tinysplit pack)",
        )


class BundleHolding(Holding):
    """Any stage of the bundle in a folder."""

    def __init__(self, folder: Path) -> None:
        self._bundle = bundles.read(folder)

    def boot(self) -> None:
        pass

    def stages(self, number: int) -> int:
        count = len(self._bundle.stages)
        if number >= count:
            raise NoStageError(f"the bundle has no stage {number}, only 0 to {count - 1}")
        return count

    def load(self, number: int, kernels: Kernels) -> Held:
        bundle = self._bundle
        count = self.stages(number)
        stage = Stage(bundle.manifest, number, bundle.stages[number], kernels)
        return Held(
            bundle=bundle.manifest.id,
            model=bundle.manifest.model["name"],
            stages=count,
            stage=stage,
            result_bytes=tuple(spec.bytes for spec in bundle.manifest.outputs),
            golden=tuple(array.tobytes() for array in golden(bundle, stage)),
            selftest=lambda: selftest(bundle, stage, kernels),
            image={},
        )


class SlotHolding(Holding):
    """The image that the slot manager runs."""

    def __init__(self, slots: Slots) -> None:
        self.slots = slots
        self._lease = Lease()
        self._fetch: Fetch | None = None
        self._fetched_for = 0

    def boot(self) -> None:
        if self._fetch is not None:
            self._fetch.cancel("cancelled")
            self._fetch = None
        self._lease.release()
        if self.slots.boot() is None:
            reason = self.slots.state().reason
            why = "" if reason == "ok" else f" (the last one: {reason})"
            raise StageError(f"the flash holds no image that can run{why}; start with a new file")

    @property
    def fetching(self) -> bool:
        return self._fetch is not None and self._fetch.state == BUSY

    def step(self) -> None:
        if self._fetch is not None:
            self._fetch.step(self.slots)

    def blob(self, piece: Blob) -> None:
        with contextlib.suppress(SlotError, ControlError):
            self._lease.check(piece.blob_id)
            self.slots.write(piece.offset, bytes(piece.piece))

    def update(self, name: str, fields: dict[str, Any], ca: str | None = None) -> dict[str, Any]:
        digest = bytes.fromhex(fields.get("digest", ""))
        try:
            data = base64.b64decode(fields.get("data", ""), validate=True)
        except ValueError as error:  # Not base64, or not even ASCII.
            raise ControlError("bad_command", f"data is no base64: {error}") from error
        if len(data) > UPDATE_PIECE_BYTES:
            raise ControlError("bad_command", f"data has more than {UPDATE_PIECE_BYTES} bytes")
        if name == "update_begin" and data[6:7] == bytes([images.FIRMWARE]):
            raise ControlError("unsupported", "a virtual board has no slot for a firmware")
        slots, owner = self.slots, fields.get("owner", 0)
        if name in ("update_begin", "update_activate"):
            self._lease.take(owner, fields.get("by", ""), fields.get("take_over", False))
        else:
            self._lease.check(owner)
        actions: dict[str, Callable[[], object]] = {
            "update_begin": lambda: self._begin(data, digest, owner),
            "update_data": lambda: slots.write(fields["offset"], data),
            "update_finish": slots.finish,
            "update_activate": lambda: slots.activate(digest),
            "update_abort": self._abort,
            "update_release": self._lease.release,
            "update_fetch": lambda: self._start_fetch(fields.get("url", ""), digest, ca, owner),
        }
        try:
            actions[name]()
        except SlotError as error:
            raise ControlError(error.code, str(error)) from error
        offset, length = slots.progress
        fetched = {} if self._fetch is None else {"fetch": self._fetch.state}
        return {"offset": offset, "bytes": length, **fetched}

    def _begin(self, header: bytes, digest: bytes, owner: int) -> None:
        if self._fetch is not None and self._fetched_for != owner:
            self._fetch.cancel("cancelled")
            self._fetch = None
        self.slots.begin(header, digest)

    def _abort(self) -> None:
        if self._fetch is not None:
            self._fetch.cancel("cancelled")
        self._lease.release()
        self.slots.abort()

    def _start_fetch(self, url: str, digest: bytes, ca: str | None, owner: int) -> None:
        if not url.startswith(("http://", "https://")):
            raise ControlError("invalid", "url: http:// or https://")
        if self.fetching:
            raise ControlError("busy", "a download is under way")
        self._fetch = Fetch(url, digest, ca)
        self._fetched_for = owner

    @property
    def _running(self) -> Image:
        assert self.slots.running is not None
        return self.slots.running

    def complaint(self) -> str | None:
        state = self.slots.state()
        if state.reason == "ok":
            return None
        return (
            f"image version {state.reason_version} was refused or rolled back: "
            f"{state.reason} ({state.reason_detail})"
        )

    def stages(self, number: int) -> int:
        if number != self._running.stage:
            raise NoStageError(
                f"the flash holds an image of stage {self._running.stage}, not of stage {number}"
            )
        return self._running.stage_count

    def load(self, number: int, kernels: Kernels) -> Held:
        count, image = self.stages(number), self._running
        stage = images.open_stage(image, kernels)
        assert image.manifest is not None
        sizes = [tensor.bytes for tensor in stage.received]
        cuts = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
        return Held(
            bundle=image.manifest.bundle.hex(),
            model=image.manifest.name,
            stages=count,
            stage=stage,
            result_bytes=tuple(tensor.bytes for tensor in image.manifest.result),
            golden=tuple(image.input[a:b] for a, b in itertools.pairwise(cuts)),
            selftest=lambda: image_selftest(image, stage, kernels)[0],
            image={"image": self.slots.digest, "image_version": image.version},
        )


def from_image(
    file: Path, flash: SlotFlash, key: PublicKey | None, stage: int, kernels: Kernels
) -> SlotHolding:
    """The slots in `flash`, of a board of this stage; if they are new, with the image in `file`.

    Args:
        key: the public key of images; None: a development board, which takes unsigned ones.

    Raises:
        ImageError: the image is not one, or not to be taken.
        FlashError: it does not fit.
    """
    if flash.fresh:
        try:
            data = file.read_bytes()
        except OSError as error:
            raise ImageError(f"cannot read {file}: {error.strerror}") from error
        try:
            found = images.decode(data, None if key is None else key.verify)
        except ImageError as error:
            hint = "; give --public-key FILE" if error.code == "image_no_key" else ""
            raise ImageError(f"{file}: {error}{hint}", error.code) from error
        if found.stage != stage:
            raise ImageError(
                f"{file} is not of stage {stage}, which this board runs, but of {found.stage}",
                "image_stage",
            )
        flash.install(data)
    rules = Rules(key, allow_unsigned=key is None, stage=stage)
    return SlotHolding(Slots(flash, rules, tried(kernels)))


def tried(kernels: Kernels) -> Callable[[Image], int | None]:
    """The self-test of images on trial, for Slots."""

    def trial(image: Image) -> int | None:
        outcome, wrong = image_selftest(image, images.open_stage(image, kernels), kernels)
        return wrong if outcome.first_wrong is not None else None

    return trial
