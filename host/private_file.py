"""Files with secrets: their owner's alone, lines NAME=VALUE."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from models.errors import TinysplitError


class PrivateFileError(TinysplitError):
    """A file that cannot be read, that others can read, or that holds something else."""


def read(file: Path, names: Collection[str], most_bytes: int, otherwise: str) -> dict[str, str]:
    """The values in a file by their names, which are some of `names`.

    Lines that begin with # are left out. `otherwise` says what is wrong with any other line.

    Raises:
        PrivateFileError: says what is wrong, and quotes nothing.
    """
    try:
        with file.open("rb") as opened:
            mode = os.fstat(opened.fileno()).st_mode
            text = opened.read(most_bytes).decode("utf-8")
    except OSError as error:
        raise PrivateFileError(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise PrivateFileError(f"{file} is no text in UTF-8") from None
    if os.name == "posix" and mode & 0o077:
        raise PrivateFileError(
            f"{file} can be read by others; make it yours alone: chmod 600 {file}"
        )
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals or name.strip() not in names:
            raise PrivateFileError(f"{file}, line {number}: {otherwise}")
        found[name.strip()] = value
    return found
