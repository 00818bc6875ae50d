"""Keys of ESP-NOW: from files that are their owner's alone, or from the environment."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

from host.link.espnow.frames import KEY_BYTES, check_key
from models.errors import TinysplitError

PMK_VARIABLE: Final = "TINYSPLIT_ESPNOW_PMK"  # In hexadecimal, in a board's environment.
LMK_VARIABLE: Final = "TINYSPLIT_ESPNOW_LMK"
_MAX_KEY_FILE_BYTES: Final = 256  # More than any key; a device file has no end.


class KeyFileError(TinysplitError):
    """A file with a key that cannot be used."""


def read_key(path: Path, name: str) -> bytes:
    """The key in a file: 16 characters or 32 hexadecimal digits, and a line end.

    Raises:
        KeyFileError: it cannot be read, or others can read it.
        KeyLengthError: it has another length.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(_MAX_KEY_FILE_BYTES).strip(b"\r\n")
    except OSError as error:
        raise KeyFileError(f"cannot read the {name} in {path}: {error.strerror}") from error
    if mode & 0o077:
        raise KeyFileError(f"{path} holds the {name} and others can read it: chmod 600 {path}")
    return parse_key(text, name)


def parse_key(text: bytes, name: str) -> bytes:
    """16 bytes as they are, or as 32 hexadecimal digits. Raises KeyLengthError."""
    if len(text) == 2 * KEY_BYTES:
        with contextlib.suppress(ValueError):
            return bytes.fromhex(text.decode("ascii"))
    check_key(name, text)
    return text


def from_environment(variable: str, name: str) -> bytes | None:
    """The key in a variable of the environment, None without one. Raises KeyLengthError."""
    text = os.environ.get(variable)
    return parse_key(text.encode(), name) if text else None
