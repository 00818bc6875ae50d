"""A firmware's build: what its folder or a release archive says is to be flashed, and where.

Three layouts are read. `idf.py build` leaves `flasher_args.json`, which names its files and their
offsets. PlatformIO leaves `bootloader.bin`, `partitions.bin` and `firmware.bin` (and CMake's
`flasher_args.json`, whose names do not hold there). An archive (.zip, .tar.gz) holds either, at its
top or in one folder; nothing of it is unpacked to disk.
"""

from __future__ import annotations

import itertools
import json
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from models.errors import TinysplitError

CHIP = "esp32s3"
CHIP_NUMBERS = {0: "esp32", 2: "esp32s2", 5: "esp32c3", 9: CHIP, 12: "esp32c2", 13: "esp32c6"}
CHIP_NUMBERS |= {16: "esp32h2", 18: "esp32p4", 23: "esp32c5"}  # esp_chip_id_t, esp_app_format.h
MAX_FILE_BYTES = 32 << 20  # As much as any of the flash chips.
ARCHIVES = (".zip", ".tar.gz", ".tgz")
_BOOTLOADER_AT = 0  # Of an ESP32-S3.
_TABLE_AT = 0x8000  # PARTITION_TABLE_OFFSET, unless the build says.
_ENTRY = struct.Struct("<2sBBII16sI")  # esp_partition_info_t, ESP-IDF's esp_flash_partitions.h
_ENTRY_MAGIC = b"\xaa\x50"
_HEADER_BYTES = 24  # esp_image_header_t: size in the high half of byte 3, chip at byte 12.
_IMAGE_MAGIC = 0xE9
_APP, _DATA, _OTADATA = 0, 1, 0
_FACTORY, _OTA_0 = 0x00, 0x10
_ARGUMENTS = "flasher_args.json"
_CONFIG = "config/sdkconfig.json"
_PLATFORMIO = ("bootloader.bin", "partitions.bin", "firmware.bin")


class BuildError(TinysplitError):
    """A build that no board can be flashed with."""


@dataclass(frozen=True)
class Partition:
    """A line of the partition table; offset and size in bytes."""

    label: str
    kind: int
    subtype: int
    offset: int
    size: int

    @property
    def end(self) -> int:
        return self.offset + self.size


@dataclass(frozen=True)
class Piece:
    """Bytes that belong at an offset of the flash. `file` is where they are, if on this disk."""

    offset: int
    name: str
    data: bytes
    file: Path | None = None

    @property
    def end(self) -> int:
        return self.offset + len(self.data)


@dataclass(frozen=True)
class Build:
    """What an ESP-IDF build is to be flashed as.

    `pieces` come by offset. `psram` is `none`, `quad` or `octal`; it, `unsigned` (whether images
    without a signature are taken) and `ethernet` (the emulator's) are None if the build does not
    say.
    """

    place: Path
    chip: str
    flash_size: str
    pieces: tuple[Piece, ...]
    partitions: tuple[Partition, ...]
    psram: str | None
    unsigned: bool | None
    ethernet: bool | None

    @property
    def flash_bytes(self) -> int:
        return int(self.flash_size.removesuffix("MB")) << 20

    def partition(self, label: str) -> Partition:
        """Raises BuildError."""
        for found in self.partitions:
            if found.label == label:
                return found
        known = ", ".join(p.label for p in self.partitions) or "none"
        raise BuildError(f"the build's partition table has no {label} (it has: {known})")


@dataclass(frozen=True)
class _Files:
    """The files of a build, by their names in it: a folder's, or an archive's contents."""

    place: Path
    contents: Mapping[str, bytes] | None = None

    def path(self, name: str) -> Path | None:
        return self.place / name if self.contents is None else None

    def has(self, name: str) -> bool:
        return (self.place / name).is_file() if self.contents is None else name in self.contents

    def read(self, name: str) -> bytes:
        """Raises BuildError."""
        if self.contents is not None:
            if name not in self.contents:
                raise BuildError(f"{self.place} has no {name} in it: it is incomplete")
            return self.contents[name]
        path = self.place / name
        if not path.is_file():
            raise BuildError(f"{path} is missing: finish the build")
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise BuildError(f"{path} is larger than any flash")
            return path.read_bytes()
        except OSError as error:
            raise BuildError(f"cannot read {path}: {error.strerror}") from error


def read_build(place: Path) -> Build:
    """The build in a folder or an archive.

    Raises:
        BuildError: it is none, or not finished, or contradicts itself.
    """
    files = _open(place)
    config = _json(files, _CONFIG) if files.has(_CONFIG) else None
    arguments = _json(files, _ARGUMENTS) if files.has(_ARGUMENTS) else {}
    as_platformio = all(files.has(name) for name in _PLATFORMIO)
    if arguments and not (as_platformio and not _complete(files, arguments)):
        pieces, table = _by_idf(files, arguments)
    elif as_platformio:
        pieces, table = _by_platformio(files, config or {})
    else:
        raise BuildError(
            f"{place} is no build of the firmware: neither {_ARGUMENTS} of idf.py nor "
            f"{', '.join(_PLATFORMIO)} of PlatformIO is in it"
        )
    partitions = partition_table(table)
    bootloader = next((p.data for p in pieces if p.offset == _BOOTLOADER_AT), b"")
    if len(bootloader) < _HEADER_BYTES or bootloader[0] != _IMAGE_MAGIC:
        raise BuildError(f"{place} has no bootloader for offset 0: is it for another chip?")
    build = Build(
        place=place,
        chip=_chip(arguments, bootloader),
        flash_size=_flash_size(place, arguments, bootloader),
        pieces=tuple(sorted(pieces, key=lambda p: p.offset)),
        partitions=partitions,
        psram=None if config is None else _psram(config),
        unsigned=None if config is None else bool(config.get("TINYSPLIT_ALLOW_UNSIGNED")),
        ethernet=None if config is None else bool(config.get("ETH_USE_OPENETH")),
    )
    refuse_overlap(build.pieces)
    last = max(partitions, key=lambda p: p.end)
    if last.end > build.flash_bytes:
        raise BuildError(
            f"{place}: the partition {last.label} ends behind the {build.flash_size} of flash"
        )
    return build


def refuse_overlap(pieces: tuple[Piece, ...]) -> None:
    """Raises BuildError if two of them, by offset, share a byte."""
    for one, other in itertools.pairwise(pieces):
        if one.end > other.offset:
            raise BuildError(f"{one.name} and {other.name} overlap at {other.offset:#x}")


def _open(place: Path) -> _Files:
    if place.is_dir():
        return _Files(place)
    if not place.name.endswith(ARCHIVES) or not place.is_file():
        what = "does not exist" if not place.exists() else "is neither a folder nor an archive"
        raise BuildError(f"{place} {what}; name a build folder, or one of {', '.join(ARCHIVES)}")
    try:
        members = _unzipped(place) if place.suffix == ".zip" else _untarred(place)
    except (
        OSError,
        EOFError,
        RuntimeError,
        zlib.error,
        zipfile.BadZipFile,
        tarfile.TarError,
    ) as error:
        raise BuildError(f"{place} cannot be read as an archive: {error}") from error
    marks = [n for n in members if PurePosixPath(n).name in (_ARGUMENTS, _PLATFORMIO[1])]
    folder = min((PurePosixPath(n).parent for n in marks), key=lambda f: len(f.parts), default=None)
    if folder is None:
        raise BuildError(f"{place} holds no build: no {_ARGUMENTS} and no {_PLATFORMIO[1]} in it")
    inside = {
        str(PurePosixPath(name).relative_to(folder)): data
        for name, data in members.items()
        if PurePosixPath(name).is_relative_to(folder)
    }
    return _Files(place, inside)


def _wanted(name: str) -> bool:
    """Whether a member can be part of a flash: no ELF files and the like."""
    return PurePosixPath(name).suffix in (".bin", ".json")


def _room(contents: dict[str, bytes], more: int) -> None:
    if sum(map(len, contents.values())) + more > MAX_FILE_BYTES:
        raise BuildError("the archive's files are larger than any flash")


def _unzipped(place: Path) -> dict[str, bytes]:
    contents: dict[str, bytes] = {}
    with zipfile.ZipFile(place) as archive:
        for member in archive.infolist():
            if not member.is_dir() and _wanted(member.filename):
                _room(contents, member.file_size)
                contents[str(PurePosixPath(member.filename))] = archive.read(member)
    return contents


def _untarred(place: Path) -> dict[str, bytes]:
    contents: dict[str, bytes] = {}
    with tarfile.open(place, "r:gz") as archive:
        for member in archive:
            if member.isfile() and _wanted(member.name):
                _room(contents, member.size)
                file = archive.extractfile(member)
                assert file is not None
                contents[str(PurePosixPath(member.name))] = file.read()
    return contents


def _json(files: _Files, name: str) -> dict[str, Any]:
    try:
        content = json.loads(files.read(name))
    except (ValueError, RecursionError) as error:
        raise BuildError(f"{files.place}/{name} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise BuildError(f"{files.place}/{name} is not what an ESP-IDF build writes")
    return content


def _complete(files: _Files, arguments: dict[str, Any]) -> bool:
    names = arguments.get("flash_files")
    return isinstance(names, dict) and all(files.has(str(name)) for name in names.values())


def _by_idf(files: _Files, arguments: dict[str, Any]) -> tuple[list[Piece], bytes]:
    try:
        named = {int(at, 0): str(name) for at, name in arguments["flash_files"].items()}
        table = str(arguments["partition-table"]["file"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BuildError(
            f"{files.place}/{_ARGUMENTS} is not what an ESP-IDF build writes: {error!r}"
        ) from error
    pieces = [Piece(at, name, files.read(name), files.path(name)) for at, name in named.items()]
    return pieces, files.read(table)


def _by_platformio(files: _Files, config: dict[str, Any]) -> tuple[list[Piece], bytes]:
    table = files.read("partitions.bin")
    partitions = partition_table(table)
    table_at = config.get("PARTITION_TABLE_OFFSET", _TABLE_AT)
    apps = {p.subtype: p.offset for p in partitions if p.kind == _APP}
    app_at = apps.get(_FACTORY, apps.get(_OTA_0))
    if app_at is None or not isinstance(table_at, int):
        raise BuildError(f"{files.place}: the partition table has no place for an application")
    named = {_BOOTLOADER_AT: "bootloader.bin", table_at: "partitions.bin", app_at: "firmware.bin"}
    if files.has("ota_data_initial.bin"):
        where = [p.offset for p in partitions if (p.kind, p.subtype) == (_DATA, _OTADATA)]
        named |= dict.fromkeys(where, "ota_data_initial.bin")
    pieces = [Piece(at, name, files.read(name), files.path(name)) for at, name in named.items()]
    return pieces, table


def _chip(arguments: dict[str, Any], bootloader: bytes) -> str:
    extra = arguments.get("extra_esptool_args")
    if isinstance(extra, dict) and isinstance(extra.get("chip"), str):
        return str(extra["chip"])
    number = int.from_bytes(bootloader[12:14], "little")
    return CHIP_NUMBERS.get(number, f"a chip with number {number}")


def _flash_size(place: Path, arguments: dict[str, Any], bootloader: bytes) -> str:
    if arguments:
        settings = arguments.get("flash_settings")
        size = settings.get("flash_size") if isinstance(settings, dict) else None
        if not isinstance(size, str) or not size.removesuffix("MB").isdecimal():
            raise BuildError(
                f"{place}/{_ARGUMENTS} is not what an ESP-IDF build writes: no flash_size in MB"
            )
        return size
    return f"{1 << (bootloader[3] >> 4)}MB"  # esp_image_flash_size_t: 0 is 1 MB, each doubles.


def _psram(config: dict[str, Any]) -> str:
    if not config.get("SPIRAM"):
        return "none"
    return "octal" if config.get("SPIRAM_MODE_OCT") else "quad"


def partition_table(data: bytes) -> tuple[Partition, ...]:
    """The entries of a binary partition table. Raises BuildError if it has none."""
    found = []
    for start in range(0, len(data) - _ENTRY.size + 1, _ENTRY.size):
        magic, kind, subtype, offset, size, label, _ = _ENTRY.unpack_from(data, start)
        if magic != _ENTRY_MAGIC:
            break
        name = label.rstrip(b"\0").decode("ascii", "replace")
        found.append(Partition(name, kind, subtype, offset, size))
    if not found:
        raise BuildError("the build's partition table is empty or damaged")
    return tuple(found)
