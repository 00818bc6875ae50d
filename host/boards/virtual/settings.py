"""What a virtual board remembers: its settings, in a file that stands for its flash.

Two sectors of 4 KiB take turns. A record is a magic, a sequence number, a length, the settings
as JSON and a CRC-32; the valid one with the higher number counts. A write that is cut short
leaves the other sector as it was.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from pathlib import Path
from typing import Any

from host.boards.control import ControlError, check_settings
from models.errors import TinysplitError

SECTOR_BYTES = 4096
_HEADER = struct.Struct("<4sII")
_MAGIC = b"tsNV"


class FlashError(TinysplitError):
    """The file that stands for the flash cannot be used."""


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(2 * SECTOR_BYTES)


def refuse_foreign(path: Path) -> None:
    """Leave a file alone that is no flash: one has whole sectors, two or more, or is empty.

    Raises:
        FlashError: it is no flash.
        OSError: it cannot be looked at.
    """
    sectors, rest = divmod(path.stat().st_size, SECTOR_BYTES)
    if sectors == 1 or rest:
        raise FlashError(f"{path} is no flash of a virtual board; start with a new file")


class Flash:
    """The flash file at `path`, created empty if it is missing. None: kept in memory only."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._memory = bytearray(b"\xff" * (2 * SECTOR_BYTES))
        if path is None:
            return
        try:
            if not path.exists():
                try:
                    path.write_bytes(self._memory)
                except OSError:  # A full disk takes the name and not the bytes.
                    path.unlink(missing_ok=True)
                    raise
            if not path.is_file() and not path.is_dir():
                raise FlashError(f"{path} is no regular file; flash is kept in one")
            refuse_foreign(path)
            self._memory[:] = _read(path).ljust(2 * SECTOR_BYTES, b"\xff")
        except OSError as error:
            raise FlashError(f"cannot use {path} as flash: {error.strerror}") from error

    def _records(self) -> dict[int, tuple[int, dict[str, Any]]]:
        """Sector to sequence number and settings, of the valid ones."""
        found = {}
        for sector in (0, 1):
            data = self._memory[sector * SECTOR_BYTES : (sector + 1) * SECTOR_BYTES]
            magic, number, length = _HEADER.unpack_from(data)
            end = _HEADER.size + length
            if magic != _MAGIC or end + 4 > SECTOR_BYTES:
                continue
            if zlib.crc32(data[:end]) != int.from_bytes(data[end : end + 4], "little"):
                continue
            try:
                content = check_settings(json.loads(data[_HEADER.size : end]))
            except (ValueError, TypeError, AttributeError, RecursionError, ControlError):
                continue
            found[sector] = number, content
        return found

    def read(self) -> dict[str, Any]:
        """The settings last written; empty if there are none."""
        records = self._records().values()
        return max(records, key=lambda r: r[0])[1] if records else {}

    def write(self, settings: dict[str, Any]) -> None:
        """Keep `settings` instead of what was there.

        Raises:
            FlashError: they do not fit, or the file cannot be written.
        """
        records = self._records()
        newest = max(records, key=lambda s: records[s][0], default=1)
        number = records[newest][0] + 1 if records else 1
        if number > 0xFFFFFFFF:
            raise FlashError("this flash was written four billion times; start with a new file")
        sector = 1 - newest
        content = json.dumps(settings, separators=(",", ":")).encode()
        record = _HEADER.pack(_MAGIC, number, len(content)) + content
        record += zlib.crc32(record).to_bytes(4, "little")
        if len(record) > SECTOR_BYTES:
            raise FlashError(f"settings of {len(content)} bytes do not fit a flash sector")
        start = sector * SECTOR_BYTES
        sector_bytes = record.ljust(SECTOR_BYTES, b"\xff")
        try:
            if self._path is not None:
                with self._path.open("r+b") as file:
                    file.seek(start)
                    file.write(sector_bytes)
                    file.flush()
                    os.fsync(file.fileno())
        except OSError as error:
            raise FlashError(f"cannot write {self._path}: {error.strerror}") from error
        self._memory[start : start + SECTOR_BYTES] = sector_bytes
