"""Outputs that appear whole or not at all: written beside their place, then renamed."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import sys
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

    A link is followed, and what is no regular file (a device, a pipe) is written to, not replaced.

    Raises:
        OutputError: it cannot be written (no room, no permission, a folder of that name).
    """
    temporary: Path | None = None
    try:
        target = path.resolve()
        special = target.exists() and not target.is_file() and not target.is_dir()
        folder = Path(tempfile.gettempdir()) if special else target.parent
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(path.suffix, f".{path.name}.", folder)
        os.close(handle)
        temporary = Path(name)
        temporary.chmod(0o666 & ~_umask())
        yield temporary
        if special:
            with target.open("wb") as sink:
                sink.write(temporary.read_bytes())
        else:
            temporary.replace(target)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def refuse_existing(path: Path, *, force: bool | None) -> None:
    """Say early that `path` is in the way.

    Args:
        force: replace a bundle; None: the command has no --force to speak of.

    Raises:
        OutputError: it exists and `force` is not set, or it holds anything but a bundle.
    """
    if not os.path.lexists(path):
        return
    if not force:
        replace = "" if force is None else "--force to replace it, or "
        raise OutputError(f"{path} exists already; give {replace}another --output")
    if not path.is_dir() or path.is_symlink():
        raise OutputError(f"{path} is not a folder; give another --output")
    present = {entry.name for entry in path.iterdir()}
    if not present:
        return
    foreign = sorted(present - _bundle_files(path))
    if foreign:
        raise OutputError(
            f"{path} holds {foreign[0]!r}, which is not a bundle's, so --force leaves it alone; "
            "give another --output"
        )


def _bundle_files(folder: Path) -> set[str]:
    """The names a bundle's manifest in `folder` accounts for, itself included; empty if none."""
    try:
        content = json.loads((folder / "manifest.json").read_text("utf-8"))
        if not {"id", "format", "files"} <= content.keys():
            return set()
        return {"manifest.json", *content["files"]}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return set()


@contextmanager
def whole_folder(path: Path, *, force: bool | None) -> Iterator[Path]:
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
        _put_in_place(temporary, path)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _put_in_place(new: Path, path: Path) -> None:
    """Rename `new` to `path`; a folder there before takes `new`'s place, at one stroke."""
    if not path.exists():
        new.replace(path)
    elif not _exchange(new, path):
        # Without an atomic exchange there is a moment with neither; what fails is undone.
        aside = new.with_name(f"{new.name}.old")
        path.replace(aside)
        try:
            new.replace(path)
        except BaseException:
            aside.replace(path)
            raise
        aside.replace(new)


def _exchange(a: Path, b: Path) -> bool:
    """Swap two folders atomically (Linux's renameat2); False where that does not exist."""
    if not sys.platform.startswith("linux"):
        return False
    at_cwd, exchange = -100, 2  # AT_FDCWD of fcntl.h, RENAME_EXCHANGE of linux/fs.h
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        return False
    if call(at_cwd, os.fsencode(a), at_cwd, os.fsencode(b), exchange) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOENT):
        return False
    raise OSError(code, os.strerror(code))


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
