"""What a board's flash is to hold: a build, the settings and a stage's image; and in which order.

Pure. Emulated boards' flash is made from the same pieces (host/boards/emulated/flash.py).

The first sector of the bootloader is erased before anything else and the bootloader written after
everything else. So whatever moment flashing ends at, a board starts either all of it or nothing.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from host.flash.build import Build, BuildError, Partition, Piece, refuse_overlap

SECTOR_BYTES = 4096
NVS, STATE, SLOT, OTHER_SLOT = "nvs", "slot_state", "model_0", "model_1"
# As the firmware looks for them: firmware/partitions.csv, firmware/main/flash.c.
_TYPES = {NVS: (1, 0x02), STATE: (1, 0x40), SLOT: (1, 0x41), OTHER_SLOT: (1, 0x42)}
_OTADATA = (1, 0x00)
_STATE_BYTES = 2 * SECTOR_BYTES


@dataclass(frozen=True)
class Region:
    """Bytes of the flash that are to be all ones."""

    offset: int
    size: int
    name: str


@dataclass(frozen=True)
class Contents:
    """In this order: `erased`, then `pieces`; the first region is the bootloader's first sector,
    the last piece the bootloader."""

    erased: tuple[Region, ...]
    pieces: tuple[Piece, ...]

    @property
    def total_bytes(self) -> int:
        return sum(len(piece.data) for piece in self.pieces)


def contents(build: Build, image: bytes | None, nvs: bytes | None) -> Contents:
    """What flashing `build` writes.

    Args:
        image: for the first model slot; None: the slots stay as they are.
        nvs: the whole partition of the settings; None: they stay.

    Raises:
        BuildError: the build's partition table is not the firmware's, or something does not fit.
    """
    bootloader, *rest = build.pieces  # By offset, and the bootloader's is 0.
    erased = [Region(bootloader.offset, SECTOR_BYTES, "bootloader")]
    for partition in build.partitions:
        given = any(piece.offset == partition.offset for piece in rest)
        if (partition.kind, partition.subtype) == _OTADATA and not given:
            erased.append(Region(partition.offset, partition.size, partition.label))
    if nvs is not None:
        place = _place(build, NVS)
        if len(nvs) != place.size:
            raise BuildError(f"the settings have {len(nvs):,} bytes, {NVS} {place.size:,}")
        rest.append(Piece(place.offset, "nvs.bin", nvs))
    if image is not None:
        slot = _place(build, SLOT)
        if len(image) > slot.size:
            raise BuildError(
                f"the stage's image has {len(image):,} bytes, the slot {SLOT} {slot.size:,}"
            )
        other, state = _place(build, OTHER_SLOT), _place(build, STATE)
        if other.size != slot.size or state.size < _STATE_BYTES:
            raise BuildError("the build's model slots differ in size: build the firmware's own")
        rest.append(Piece(slot.offset, "stage.tsim", image))
        # Without a record, the slot with the newer image counts (IMAGE.md section 8): the other
        # one must hold none.
        erased.append(Region(state.offset, state.size, STATE))
        erased.append(Region(other.offset, SECTOR_BYTES, OTHER_SLOT))
    rest.sort(key=lambda piece: piece.offset)
    refuse_overlap((bootloader, *rest))
    return Contents(tuple(erased), (*rest, bootloader))


def _place(build: Build, label: str) -> Partition:
    found = build.partition(label)
    if (found.kind, found.subtype) != _TYPES[label]:
        raise BuildError(
            f"the build's partition {label} has type {found.kind} and subtype {found.subtype:#x}, "
            f"not {_TYPES[label][0]} and {_TYPES[label][1]:#x}: build the firmware's own"
        )
    return found


def whole_chip(plan: Contents) -> Contents:
    """The same after the whole flash was erased."""
    return Contents((), plan.pieces)


def commands(
    plan: Contents, names: Sequence[str], *, chip: str, port: str, stub: bool, baud: int
) -> list[str]:
    """The command lines of esptool 5 that do it.

    Args:
        names: the files that hold the pieces, in their order.
    """
    base = ["esptool", "--chip", chip, "--port", port]
    if port.startswith("socket:"):
        base += ["--before", "no-reset"]
    else:
        base += ["--baud", str(baud)]
    if not stub:
        base += ["--no-stub"]
    stay = ["--after", "no-reset"]
    lines = [
        [*base, *stay, "erase-region", hex(region.offset), hex(region.size)]
        for region in plan.erased
    ] or [[*base, *stay, "erase-flash"]]
    named = [[hex(piece.offset), name] for piece, name in zip(plan.pieces, names, strict=True)]
    before = [part for pair in named[:-1] for part in pair]
    last = stay if port.startswith("socket:") else []
    lines.append([*base, *stay, "write-flash", *before])
    lines.append([*base, *last, "write-flash", *named[-1]])
    return [shlex.join(line) for line in lines]
