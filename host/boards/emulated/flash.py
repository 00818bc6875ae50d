"""The flash of an emulated board: an ESP-IDF build, and one stage in its first model slot.

Its pieces are those of a real board's flash (host/flash), in one file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from host.flash import build as builds
from host.flash import nvs
from host.flash.board import quiet, require_esptool
from host.flash.build import CHIP, Build, BuildError
from host.flash.contents import NVS, contents
from partitioner.output import whole_file

FLASH_SIZES = ("2MB", "4MB", "8MB", "16MB")  # That the emulator has.
EFUSE_BYTES = 1024
# QEMU's image of the eFuses begins with EFUSE_RD_WR_DIS_REG, six registers before
# EFUSE_RD_MAC_SPI_SYS_0_REG (ESP32-S3 TRM, eFuse registers).
_MAC_AT = 24
_REVISION_AT, _REVISION = 38, 0x0C  # WAFER_VERSION_MINOR_LO: chip revision 0.3, as idf.py qemu.


def read_build(place: Path) -> Build:
    """The build in a folder, or an archive.

    Raises:
        BuildError: it is none, not finished, for another chip, or without emulated Ethernet.
    """
    build = builds.read_build(place)
    if build.chip != CHIP:
        raise BuildError(f"{place} is a build for {build.chip}, not for {CHIP}")
    if build.flash_size not in FLASH_SIZES:
        raise BuildError(
            f"the emulator has {', '.join(FLASH_SIZES)} of flash, not {build.flash_size}"
        )
    if not build.ethernet:
        raise BuildError(
            f"{place} is a build without emulated Ethernet: build the environment esp32s3-qemu"
        )
    return build


def write_flash(build: Build, image: bytes, settings: dict[str, Any], target: Path) -> None:
    """Merge the build, the settings and the stage's image, at its slot, into one file of the whole
    flash.

    Raises:
        BuildError: the image does not fit, or esptool is missing or refuses; says why.
        SettingsError: a setting that real boards would not take.
        OutputError: `target` cannot be written.
    """
    require_esptool()
    from esptool import cmds
    from esptool.util import FatalError

    kept = nvs.image(settings, None, build.partition(NVS).size)
    pieces = [(piece.offset, piece.data) for piece in contents(build, image, kept).pieces]
    try:
        with quiet():
            # The emulator has no quad I/O: with `qio` in the header its bootloader stops.
            whole = cmds.merge_bin(pieces, CHIP, flash_mode="dio", pad_to_size=build.flash_size)
    except FatalError as error:
        raise BuildError(f"esptool could not merge the flash: {error}") from error
    with whole_file(target) as file:
        file.write_bytes(whole)


def check_flash(build: Build, file: Path) -> None:
    """Raises BuildError if a file is not as long as the build's flash, or cannot be looked at."""
    try:
        found = file.stat().st_size
    except OSError as error:
        raise BuildError(f"cannot read {file}: {error.strerror}") from error
    if found != build.flash_bytes:
        raise BuildError(
            f"{file} has {found:,} bytes, the build's flash {build.flash_bytes:,}: it is none of "
            "its boards; give another name"
        )


def efuse(mac: bytes) -> bytes:
    """The eFuses of a chip with this MAC address; the rest is as in a new chip.

    Read back, the address is stored last byte first (ESP-IDF's esp_efuse_table.csv).
    """
    content = bytearray(EFUSE_BYTES)
    content[_MAC_AT : _MAC_AT + 6] = mac[::-1]
    content[_REVISION_AT] = _REVISION
    return bytes(content)
