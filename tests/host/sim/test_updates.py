"""Updates in the simulation: the core's slot manager on flash that loses its power."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from host.sim import images, world
from host.sim import scenario as scenarios
from partitioner import image
from partitioner.image import ImageError

FOLDER = Path(__file__).parents[3] / "experiments" / "sim"


def updated(**update: Any) -> dict[str, Any]:
    return {
        "name": "updates",
        "seconds": 20,
        "stages": [1008, 10],
        "input_bytes": 3072,
        "nodes": [{"stage": 0, "period_ms": 100, "down_ms": 200}, {"stage": 1, "down_ms": 200}],
        "update": {"stages": [504, 10], "pause_s": 0.5, **update},
        "link": {"medium": "wire"},
    }


def test_images_are_those_that_the_packer_of_images_makes() -> None:
    packed = images.pack(((1008, 10), (504, 10)), 3072, 9000, 4)
    assert [one.digest for one in packed] == [image.digest_of(one.data) for one in packed]
    opened = [image.decode(one.data, images.verify) for one in packed]
    assert [(one.version, one.stage) for one in opened] == [
        (version, stage) for version in (1, 2, 3, 4) for stage in (0, 1)
    ]
    assert len({one.manifest.bundle for one in opened if one.manifest}) == 2
    assert [len(one.output) for one in opened[::2]] == [504, 1008, 504, 1008]
    assert packed[0].word == packed[4].word != packed[2].word


def test_without_faults_every_version_reaches_every_node() -> None:
    report, events = world.run(scenarios.parse(updated(versions=4)), 1, trace=True)
    assert report.problems == []
    assert report.counts["updates"] == 2 * 3
    booted = [(e.node, e.value) for e in events if e.kind == "boot"]
    assert booted.count((0, 1)) == booted.count((1, 1)) == 1
    assert booted[-2:] == [(0, 4), (1, 4)] or booted[-2:] == [(1, 4), (0, 4)]
    assert report.counts["exact"] > 300


def test_power_goes_in_every_step_of_an_update_and_in_the_boot_after_it() -> None:
    one = scenarios.read(FOLDER / "hostile_update.yaml")
    before: dict[str, int] = {}
    for seed in range(12):
        report, events = world.run(one, seed, trace=True)
        assert report.problems == []
        last: dict[int, str] = {}
        for event in events:
            if event.kind == "cut":
                step = last.get(event.node, "")
                before[step] = before.get(step, 0) + 1
            if event.kind in ("boot", "flash", "cut", "reboot"):
                last[event.node] = (
                    f"{event.kind} {event.other}" if event.kind == "flash" else event.kind
                )
    assert before["boot"] > 10  # In a begin.
    assert before["flash 0"] > 10  # In the pieces.
    assert before["flash 1"] > 10  # In more of them, or in finishing.
    assert before["flash 2"] > 5  # In activating.
    assert before["reboot"] + before["cut"] > 10  # In the boot on trial.


def test_a_head_and_a_tail_of_two_bundles_refuse_each_other_by_name() -> None:
    report, _ = world.run(scenarios.read(FOLDER / "update.yaml"), 2)
    assert report.problems == []
    assert set(report.failures) <= {"bundle_mismatch", "deadline", "no_peer"}
    failed = sum(world.run(scenarios.read(FOLDER / "update.yaml"), seed)[0].failures.get(
        "bundle_mismatch", 0) for seed in range(5))  # fmt: skip
    assert failed > 0


def test_an_image_longer_than_the_slot_is_refused() -> None:
    one = scenarios.parse({**updated(), "input_bytes": 30_000})
    with pytest.raises(ImageError, match="simulated slot"):
        world.run(one, 1)
