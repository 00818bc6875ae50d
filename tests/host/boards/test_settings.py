"""The flash file: whatever moment a write is cut short at, old or new settings are read."""

from __future__ import annotations

import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from host.boards.virtual.settings import SECTOR_BYTES, Flash, FlashError
from host.boards.virtual.slots import SlotFlash


def test_settings_survive_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "flash"
    flash = Flash(path)
    assert flash.read() == {}
    for stage in range(5):
        flash.write({"name": "a", "stage": stage})
        assert Flash(path).read() == {"name": "a", "stage": stage}


def test_a_write_cut_short_anywhere_leaves_old_or_new(tmp_path: Path) -> None:
    path = tmp_path / "flash"
    flash = Flash(path)
    flash.write({"stage": 1})
    flash.write({"stage": 2})
    before = path.read_bytes()
    flash.write({"stage": 3})
    after = path.read_bytes()
    changed = [i for i in range(len(before)) if before[i] != after[i]]
    assert changed
    seen = set()
    for cut in (*changed, changed[-1] + 1):
        path.write_bytes(after[:cut] + before[cut:])
        stage = Flash(path).read()["stage"]
        assert stage in (2, 3)
        seen.add(stage)
    assert seen == {2, 3}


@pytest.mark.parametrize("content", [b"", b"\x00" * 8192, b"tsNV" * 2048])
def test_a_file_without_records_reads_as_empty(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "flash"
    path.write_bytes(content)
    assert Flash(path).read() == {}


@pytest.mark.parametrize("make", [Flash, SlotFlash])
@pytest.mark.parametrize("count", [241, SECTOR_BYTES, 2 * SECTOR_BYTES + 1])
def test_a_file_of_something_else_is_left_alone(
    tmp_path: Path, make: Callable[[Path], object], count: int
) -> None:
    path = tmp_path / "thesis.txt"
    path.write_bytes(b"x" * count)
    with pytest.raises(FlashError, match="no flash"):
        make(path)
    assert path.read_bytes() == b"x" * count


def test_a_full_disk_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "flash"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SECTOR_BYTES, hard))
    try:
        with pytest.raises(FlashError, match="cannot use"):
            Flash(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert not path.exists()


def test_settings_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    flash = Flash(tmp_path / "flash")
    flash.write({"stage": 1})
    with pytest.raises(FlashError, match="do not fit"):
        flash.write({"name": "x" * SECTOR_BYTES})
    assert flash.read() == {"stage": 1}


def test_a_path_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(FlashError, match=r"cannot use .* as flash"):
        Flash(tmp_path / "none" / "flash")
