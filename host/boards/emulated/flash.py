"""The flash of an emulated board: an ESP-IDF build, and one stage in its first model slot.

`flasher_args.json` and `config/sdkconfig.json` are what every ESP-IDF build leaves in its folder.
"""

from __future__ import annotations

import importlib.util
import json
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.errors import TinysplitError

CHIP = "esp32s3"
SLOT = "model_0"
FLASH_SIZES = ("2MB", "4MB", "8MB", "16MB")  # That the emulator has.
EFUSE_BYTES = 1024
_TABLE = "partition-table"
_ENTRY = struct.Struct("<2sBBII16sI")  # esp_partition_info_t, ESP-IDF's esp_flash_partitions.h
_ENTRY_MAGIC = b"\xaa\x50"
# QEMU's image of the eFuses begins with EFUSE_RD_WR_DIS_REG, six registers before
# EFUSE_RD_MAC_SPI_SYS_0_REG (ESP32-S3 TRM, eFuse registers).
_MAC_AT = 24
_REVISION_AT, _REVISION = 38, 0x0C  # WAFER_VERSION_MINOR_LO: chip revision 0.3, as idf.py qemu.


class BuildError(TinysplitError):
    """A build folder that no emulated board can be made of."""


@dataclass(frozen=True)
class Partition:
    """A line of the partition table; offset and size in bytes."""

    label: str
    offset: int
    size: int


@dataclass(frozen=True)
class Build:
    """What an ESP-IDF build is to be flashed as. `psram` is `none`, `quad` or `octal`."""

    files: dict[int, Path]
    flash_size: str
    psram: str
    partitions: tuple[Partition, ...]

    def partition(self, label: str) -> Partition:
        """Raises BuildError."""
        for found in self.partitions:
            if found.label == label:
                return found
        known = ", ".join(p.label for p in self.partitions) or "none"
        raise BuildError(f"the build's partition table has no {label} (it has: {known})")


def read_build(folder: Path) -> Build:
    """The build in `folder`.

    Raises:
        BuildError: it is none, not finished, for another chip, or without emulated Ethernet.
    """
    arguments = _json(folder, "flasher_args.json")
    config = _json(folder, "config/sdkconfig.json")
    try:
        chip = arguments["extra_esptool_args"]["chip"]
        size = arguments["flash_settings"]["flash_size"]
        files = {int(at, 0): folder / name for at, name in arguments["flash_files"].items()}
        table = folder / arguments[_TABLE]["file"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BuildError(
            f"{folder}/flasher_args.json is not what an ESP-IDF build writes: {error!r}"
        ) from error
    if chip != CHIP:
        raise BuildError(f"{folder} is a build for {chip}, not for {CHIP}")
    if size not in FLASH_SIZES:
        raise BuildError(f"the emulator has {', '.join(FLASH_SIZES)} of flash, not {size}")
    if not config.get("ETH_USE_OPENETH"):
        raise BuildError(
            f"{folder} is a build without emulated Ethernet: build the environment esp32s3-qemu"
        )
    for path in (*files.values(), table):
        if not path.is_file():
            raise BuildError(f"{path} is missing: finish the build")
    psram = "none"
    if config.get("SPIRAM"):
        psram = "octal" if config.get("SPIRAM_MODE_OCT") else "quad"
    return Build(files, size, psram, partition_table(table.read_bytes()))


def _json(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    try:
        content = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise BuildError(
            f"{folder} is no ESP-IDF build folder: cannot read {name} ({error.strerror})"
        ) from error
    except ValueError as error:
        raise BuildError(f"{path} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise BuildError(f"{path} is not what an ESP-IDF build writes")
    return content


def partition_table(data: bytes) -> tuple[Partition, ...]:
    """The entries of a binary partition table. Raises BuildError if it has none."""
    found = []
    for start in range(0, len(data) - _ENTRY.size + 1, _ENTRY.size):
        magic, _, _, offset, size, label, _ = _ENTRY.unpack_from(data, start)
        if magic != _ENTRY_MAGIC:
            break
        found.append(Partition(label.rstrip(b"\0").decode("ascii", "replace"), offset, size))
    if not found:
        raise BuildError("the build's partition table is empty or damaged")
    return tuple(found)


def write_flash(build: Build, image: bytes, target: Path) -> None:
    """Merge the build and the stage's image, at its slot, into one file of the whole flash.

    Raises:
        BuildError: the image does not fit, or esptool refuses; says why.
    """
    if importlib.util.find_spec("esptool") is None:
        raise BuildError("making a flash image needs esptool: pip install 'tinysplit[boards]'")
    slot = build.partition(SLOT)
    if len(image) > slot.size:
        raise BuildError(
            f"the stage's image has {len(image):,} bytes, the slot {SLOT} {slot.size:,}"
        )
    packed = target.with_suffix(".stage")
    packed.write_bytes(image)
    pairs = [part for at, path in build.files.items() for part in (hex(at), str(path))]
    command = [sys.executable, "-m", "esptool", "--chip", CHIP, "merge-bin"]
    command += ["--output", str(target), "--pad-to-size", build.flash_size]
    # The emulator has no quad I/O: with `qio` in the header its bootloader stops.
    command += ["--flash-mode", "dio", "--flash-size", "keep", "--flash-freq", "keep"]
    done = subprocess.run(  # noqa: S603
        [*command, *pairs, hex(slot.offset), str(packed)], capture_output=True, text=True
    )
    packed.unlink()
    if done.returncode != 0:
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise BuildError(f"esptool could not merge the flash: {said[-1] if said else 'no reason'}")


def efuse(mac: bytes) -> bytes:
    """The eFuses of a chip with this MAC address; the rest is as in a new chip.

    Read back, the address is stored last byte first (ESP-IDF's esp_efuse_table.csv).
    """
    content = bytearray(EFUSE_BYTES)
    content[_MAC_AT : _MAC_AT + 6] = mac[::-1]
    content[_REVISION_AT] = _REVISION
    return bytes(content)
