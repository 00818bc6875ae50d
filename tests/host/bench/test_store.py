"""Folders of results: what a kill, a full disk, a second sweep or another file cannot do."""

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from host.bench import method, rows, spec, store
from host.bench.spec import Experiment
from host.bench.store import Store, StoreError
from partitioner.output import OutputError

TEXT = """\
version: 1
name: test
models: [{model: mobilenet_v2}]
cuts: [block_5_add]
transports: [udp, tcp, ble]
"""


@pytest.fixture
def experiment() -> Experiment:
    return spec.parse(TEXT, Path())


def fill(held: Store, *, stop: Callable[[int], bool] = lambda _: False) -> int:
    """Write two runs of three rows for every cell that is left; stops at the step that says so."""
    step = 0

    def stopped() -> bool:
        nonlocal step
        step += 1
        return stop(step)

    for cell in held._experiment.ordered():
        if cell.number in held.cells:
            continue
        boot = held.begin(cell)
        base = {**rows.blank(), "cell": cell.name, "purpose": rows.RUN}
        held.base(base)
        for run in range(len(held.progress.runs), 2):
            for iteration in range(3):
                if stopped():
                    return step
                held.add({**base, "boot": boot, "run": run, "iteration": iteration})
            held.end_run({"boot": boot, "run": run})
        held.end_cell({"state": "done", "reason": None, **method.cell_summary([], 0, None)})
    held.finish()
    return step


def content(folder: Path) -> list[tuple[str, int, int]]:
    """Cell, run and iteration of every row that counts."""
    found = store.read(folder).rows.to_pylist()
    return sorted((r["cell"], r["run"], r["iteration"]) for r in found if r["purpose"] == rows.RUN)


@pytest.mark.parametrize("at", range(1, 19))
def test_a_sweep_stopped_anywhere_resumes_to_the_same_cells(
    experiment: Experiment, tmp_path: Path, at: int
) -> None:
    with Store(tmp_path / "whole", experiment) as held:
        fill(held)
    with Store(tmp_path / "cut", experiment) as held:
        fill(held, stop=lambda step: step == at)
    before = store.read(tmp_path / "cut").rows.num_rows
    assert before == at - 1
    with Store(tmp_path / "cut", experiment) as held:
        fill(held)
    assert content(tmp_path / "cut") == content(tmp_path / "whole")
    assert store.read(tmp_path / "cut").rows.num_rows == 18 + (at - 1) % 3
    assert store.read(tmp_path / "cut").finished


@pytest.mark.parametrize("missing", range(1, 400, 7))
def test_a_torn_end_of_the_journal_costs_its_last_record_at_most(
    experiment: Experiment, tmp_path: Path, missing: int
) -> None:
    with Store(tmp_path, experiment) as held:
        fill(held, stop=lambda step: step == 6)
    journal = tmp_path / store.JOURNAL
    whole = journal.read_bytes()
    records = len(whole[:-missing].split(b"\n")) - 1
    journal.write_bytes(whole[:-missing])
    assert len(store.decode(journal.read_bytes(), "")[0]) == records
    with Store(tmp_path, experiment) as held:
        fill(held)
    assert len(content(tmp_path)) == 18


def test_a_journal_damaged_in_the_middle_is_refused_by_name(
    experiment: Experiment, tmp_path: Path
) -> None:
    with Store(tmp_path, experiment) as held:
        fill(held, stop=lambda step: step == 6)
    journal = tmp_path / store.JOURNAL
    data = bytearray(journal.read_bytes())
    data[30] ^= 1
    journal.write_bytes(data)
    with pytest.raises(StoreError, match="damaged at line 1"), Store(tmp_path, experiment):
        pass


@pytest.mark.parametrize("step", ["rows", "cells"])
def test_a_kill_while_a_cell_is_settled_loses_nothing(
    experiment: Experiment, tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, Store(tmp_path, experiment) as held:
        if step == "rows":
            patch.setattr(rows, "write", killed)
        else:
            patch.setattr(Store, "_write_cells", killed)
        with pytest.raises(KeyboardInterrupt):
            fill(held)
    with Store(tmp_path, experiment) as held:
        assert len(held.cells) == 1
        fill(held)
    assert len(content(tmp_path)) == 18


def test_a_kill_between_rows_and_cells_does_not_show_rows_twice(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, Store(tmp_path, experiment) as held:
        patch.setattr(Store, "_write_cells", killed)
        with pytest.raises(KeyboardInterrupt):
            fill(held)
    assert len(content(tmp_path)) == 6


def test_rows_that_are_gone_are_told(experiment: Experiment, tmp_path: Path) -> None:
    with Store(tmp_path, experiment) as held:
        fill(held)
    (tmp_path / store.ROWS).unlink()
    with pytest.raises(StoreError, match=r"lost rows.*rows\.parquet nor cells/0000\.parquet"):
        store.read(tmp_path)
    with (
        Store(tmp_path, experiment) as held,
        pytest.raises(StoreError, match="restore them, or give another --output"),
    ):
        held.finish()


def test_two_sweeps_do_not_write_to_one_place(experiment: Experiment, tmp_path: Path) -> None:
    with Store(tmp_path, experiment) as held:
        assert store.is_locked(tmp_path)
        with pytest.raises(StoreError, match=r"another sweep \(process \d+\) writes to"):
            Store(tmp_path, experiment).__enter__()
        fill(held)
    assert not store.is_locked(tmp_path)


def test_a_changed_experiment_does_not_resume(experiment: Experiment, tmp_path: Path) -> None:
    with Store(tmp_path, experiment) as held:
        fill(held, stop=lambda step: step == 5)
    other = spec.parse(TEXT + "# as it was, with a remark\n", Path())
    with (
        pytest.raises(StoreError, match=r"begun with another test: its experiment\.yaml differs"),
        Store(tmp_path, other),
    ):
        pass


def test_a_folder_of_something_else_is_left_alone(experiment: Experiment, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(StoreError, match=r"thesis\.tex"), Store(tmp_path, experiment):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_failed_cells_can_be_taken_out_again(experiment: Experiment, tmp_path: Path) -> None:
    with Store(tmp_path, experiment) as held:
        fill(held)
    with Store(tmp_path, experiment) as held:
        held.forget([1])
        assert sorted(held.cells) == [0, 2]
        assert store.read(tmp_path).rows.num_rows == 12
        fill(held)
    assert len(content(tmp_path)) == 18


def test_empty_and_foreign_results_are_told_apart(experiment: Experiment, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no results"):
        store.read(tmp_path)
    with Store(tmp_path, experiment):
        pass
    assert store.read(tmp_path).rows.num_rows == 0
    (tmp_path / store.CELLS).write_text(json.dumps({"version": 9, "cells": []}))
    with pytest.raises(StoreError, match="is of version 9"):
        store.read(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [("number", 3), ("number", "0"), ("name", "x"), ("state", "so so"), ("median_us", "1"),
     ("least_us", [1]), ("failed", None), ("warm_up", {})],
)  # fmt: skip
def test_damage_to_cells_is_one_line(
    experiment: Experiment, tmp_path: Path, key: str, value: object
) -> None:
    with Store(tmp_path, experiment) as held:
        fill(held)
    path = tmp_path / store.CELLS
    whole = json.loads(path.read_text())
    whole["cells"][0][key] = value
    path.write_text(json.dumps(whole))
    with pytest.raises(StoreError, match=r"cells.json (is damaged|names cell)"):
        store.read_state(tmp_path)
    with pytest.raises(StoreError, match="cells"), Store(tmp_path, experiment):
        pass
    del whole["cells"][0][key]
    path.write_text(json.dumps(whole))
    with pytest.raises(StoreError, match="is damaged at cells/0"):
        store.read_state(tmp_path)


FULL_DISK = """
import resource, sys
from pathlib import Path
from host.bench import rows, spec, store
from tests.host.bench.test_store import TEXT, fill
rows.schema()
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
with store.Store(Path(sys.argv[1]), spec.parse(TEXT, Path())) as held:
    fill(held)
"""


@pytest.mark.parametrize("room", [2500, 6000])
def test_a_full_disk_is_one_line_and_what_is_there_is_whole(
    experiment: Experiment, tmp_path: Path, room: int
) -> None:
    """Room for some of the journal, or for the journal and not for the rows."""
    assert resource.RLIMIT_FSIZE is not None
    words = [sys.executable, "-c", FULL_DISK, str(tmp_path), str(room)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parents[3])
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(("host.bench.store.StoreError: ", "partitioner.output.OutputError: "))
    assert "File too large" in last
    with Store(tmp_path, experiment) as held:
        fill(held)
    assert len(content(tmp_path)) == 18


def test_the_results_that_ship_are_whole_and_of_this_version() -> None:
    folder = Path(__file__).parents[3] / "experiments"
    found = store.read(folder / "results" / "quickstart")
    assert found.finished
    assert all(cell["state"] == "done" for cell in found.cells)
    assert (folder / "quickstart.yaml").read_text("utf-8") == found.experiment.text
    for row in found.rows.to_pylist():
        assert row["exact"]
        modelled = row["transport"] in ("ble", "espnow")
        assert row["link_provenance"] == ("modelled" if modelled else "measured")


def test_a_place_that_cannot_be_written_is_one_line(experiment: Experiment, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="is no folder"), Store(tmp_path / "file", experiment):
        pass
    with pytest.raises((StoreError, OutputError)), Store(tmp_path / "file" / "x", experiment):
        pass
