"""Outputs that appear whole or not at all: written beside their place, then renamed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from models.errors import TinysplitError


class OutputError(TinysplitError):
    """A file or folder that cannot be written, or must not be overwritten."""


def _cannot_write(path: Path, error: OSError) -> OutputError:
    return OutputError(f"cannot write {path}: {error.strerror or error}; nothing was left there")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path with the same suffix, which replaces `path` when the block ends well.

    Raises:
        OutputError: it cannot be written (no room, no permission, a folder of that name).
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(path.suffix, f".{path.name}.", path.parent)
        os.close(handle)
        temporary = Path(name)
        temporary.chmod(0o666 & ~_umask())
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def refuse_existing(path: Path, *, force: bool) -> None:
    """Say early that `path` is in the way.

    Raises:
        OutputError: it exists and `force` is not set, or it is not a folder tinysplit wrote.
    """
    if not os.path.lexists(path):
        return
    if not force:
        raise OutputError(f"{path} exists already; give --force to replace it, or another --output")
    if not path.is_dir() or path.is_symlink():
        raise OutputError(f"{path} is not a folder; give another --output")
    if any(path.iterdir()) and not (path / "manifest.json").is_file():
        raise OutputError(f"{path} is not a bundle, so --force leaves it alone")


@contextmanager
def whole_folder(path: Path, *, force: bool) -> Iterator[Path]:
    """A temporary folder that becomes `path` when the block ends well.

    Raises:
        OutputError: as `refuse_existing`, or it cannot be written.
    """
    refuse_existing(path, force=force)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        temporary.chmod(0o777 & ~_umask())
        yield temporary
        refuse_existing(path, force=force)
        if path.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
            path.replace(old / path.name)
            temporary.replace(path)
            shutil.rmtree(old)
        else:
            temporary.replace(path)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
