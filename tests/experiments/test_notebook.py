"""The notebook runs from top to bottom on the results that ship."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parents[2] / "experiments/analysis.ipynb"


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("nbclient")
    done = tmp_path_factory.mktemp("notebook") / "done"
    execute = "from nbclient.cli import main; main()"
    subprocess.run(
        [sys.executable, "-c", execute, "--output", str(done), str(NOTEBOOK)],
        check=True,
        timeout=300,
        capture_output=True,
    )
    return nbformat.read(done.with_suffix(".ipynb"), as_version=4)


def test_every_cell_runs_and_says_something(executed: Any) -> None:
    code = [cell for cell in executed.cells if cell.cell_type == "code"]
    assert len(code) >= 6
    for cell in code:
        assert cell.outputs
        assert not any(output.get("name") == "stderr" for output in cell.outputs), cell.outputs


def test_it_draws(executed: Any) -> None:
    pictures = [
        output
        for cell in executed.cells
        for output in cell.get("outputs", ())
        if "image/png" in output.get("data", {})
    ]
    assert len(pictures) >= 4


def test_it_is_kept_without_outputs() -> None:
    nbformat = pytest.importorskip("nbformat")
    kept = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in kept.cells)
