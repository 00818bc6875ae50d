"""kill -9 at random moments of updates; `make ota-kills` does 200."""

from __future__ import annotations

from pathlib import Path

from host.packing import keys

from .conftest import Cuts
from .kills import run


def test_whatever_is_killed_runs_a_verified_bundle(cuts: Cuts, tmp_path: Path) -> None:
    key = keys.new(tmp_path / "key")
    tally = run(cuts.a, cuts.b, key, tmp_path, updates=4, seed=2)
    assert tally.updates == 4
    assert tally.kills >= 1  # An update may be over before its moment comes.
