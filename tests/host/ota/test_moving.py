"""A running pair is moved to another cut of its model: no result is wrong, whatever the way."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from host.cli import main

from .conftest import Cuts
from .pairs import Inferring, Pair

Invoke = Callable[..., Result]

# What a head may answer while the two of them are not on one bundle yet.
NAMED = {"cancelled", "bundle_mismatch", "no_peer", "peer_lost", "reset", "closed", "send_failed"}
NAMED |= {"deadline", "refused"}


@pytest.mark.parametrize(
    ("transport", "via"),
    [
        ("udp", "link"),
        ("tcp", "link"),
        ("ble", "link"),
        ("espnow", "link"),
        ("udp", "http"),
        pytest.param("udp", "control", marks=pytest.mark.slow),
    ],
)
def test_not_one_result_is_wrong(
    cuts: Cuts, tmp_path: Path, invoke: Invoke, transport: str, via: str
) -> None:
    with Pair(transport, cuts.folder / "images-a", tmp_path, cuts.public_key) as pair:
        with Inferring(pair, cuts.a) as inferring:
            inferring.wait(10)
            done = invoke(
                main, "ota", cuts.folder / "b", "--key", cuts.key_file, "--via", via, "--json",
                *pair.arguments,
            )  # fmt: skip
            assert done.exit_code == 0, done.output
            inferring.wait(10)
        said = json.loads(done.stdout)
        assert [pair.info(stage)["bundle"] for stage in (0, 1)] == [cuts.b.manifest.id] * 2
    assert inferring.wrong == 0
    assert set(inferring.errors) <= NAMED
    assert [board["state"] for board in said["boards"]] == ["running", "running"]
    assert said["gap_provenance"] == "measured"
    # From the first restart until this machine has seen both serve: it may see it late, but the
    # head's own gap is not longer than that and the inferences around it.
    assert 1000 * inferring.longest_gap_s < said["gap_ms"]["0"] + 3000
