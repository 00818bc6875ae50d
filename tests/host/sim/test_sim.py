"""The simulator: same seed, same bytes; properties that hold and that can fail; bad scenarios."""

from __future__ import annotations

import itertools
import json
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from host.sim import scenario as scenarios
from host.sim import sweep, timeline, world
from host.sim.cli import main
from host.sim.scenario import ScenarioError
from host.sim.world import Report
from partitioner.cost import wifi

FOLDER = Path(__file__).parents[3] / "experiments" / "sim"
FILES = sorted(FOLDER.glob("*.yaml"))


def pair(**changes: Any) -> dict[str, Any]:
    content: dict[str, Any] = {
        "name": "pair",
        "seconds": 5,
        "stages": [1008, 10],
        "nodes": [{"stage": 0, "period_ms": 20}, {"stage": 1}],
        "link": {"medium": "wire"},
    }
    return {**content, **changes}


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_fresh_seeds_of_every_scenario_keep_all_properties(path: Path) -> None:
    first = secrets.randbits(40)
    summed = sweep.total(sweep.sweep(scenarios.read(path), range(first, first + 50), jobs=2))
    assert summed.bad == [], f"first seed {first}"
    assert summed.counts["exact"] > 50 * 100


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_the_same_seed_gives_the_same_history(path: Path) -> None:
    one = scenarios.read(path)
    assert world.run(one, 7)[0] == world.run(one, 7)[0]
    assert world.run(one, 7)[0].digest != world.run(one, 8)[0].digest


def test_a_history_is_the_same_on_every_machine() -> None:
    """A digest of another machine; changes with the core, the model of the air and the scenario."""
    report, _ = world.run(scenarios.parse(pair(link={"medium": "wire", "loss": 0.3})), 1)
    again, _ = world.run(scenarios.parse(pair(link={"medium": "wire", "loss": 0.3})), 1)
    assert report.digest == again.digest
    assert report.counts["exact"] > 50


def test_tracing_does_not_change_what_happens() -> None:
    one = scenarios.parse(pair(link={"medium": "espnow", "loss": 0.2}))
    quiet, none = world.run(one, 3)
    loud, events = world.run(one, 3, trace=True)
    assert quiet == loud
    assert none == []
    assert len(events) == loud.counts["events"]
    assert [e.at_us for e in events] == sorted(e.at_us for e in events)


def test_every_inference_ends_once_and_frames_on_espnow_never_overlap() -> None:
    one = scenarios.parse(
        pair(
            link={"medium": "espnow", "loss": 0.1},
            nodes=[{"stage": 0, "count": 3, "period_ms": 60}, {"stage": 1}],
        )
    )
    report, events = world.run(one, 5, trace=True)
    ends = [(e.node, e.value) for e in events if e.kind == "result"]
    assert len(ends) == len(set(ends))
    assert report.counts["collisions"] > 0
    taken: dict[int, int] = {}
    for event in events:
        if event.kind == "air":
            taken[event.at_us] = max(taken.get(event.at_us, 0), event.value)
    for start, following in itertools.pairwise(taken):
        assert following >= start + taken[start] + wifi.DIFS_US


def test_goodput_of_one_espnow_sender_is_the_published_one_within_fifteen_per_cent() -> None:
    """250-byte frames back to back at 1 Mbit/s without loss: 555 kbit/s in a shielded box."""
    one = scenarios.parse(
        pair(
            stages=[200_000, 10],
            link={"medium": "espnow"},
            nodes=[{"stage": 0, "period_ms": 1}, {"stage": 1}],
            input_bytes=16,
            seconds=20,
            timeout_ms=60_000,
        )
    )
    _, events = world.run(one, 1, trace=True)
    data = [e for e in events if e.kind == "arrived" and e.frame == "DATA" and e.node == 1]
    span = data[-1].at_us - data[0].at_us
    bits = 8 * sum(e.length for e in data[1:])
    assert 555e3 * 0.85 <= bits / span * 1e6 <= 555e3 * 1.15


def test_a_head_of_another_bundle_is_refused_by_name() -> None:
    one = scenarios.parse(
        pair(nodes=[{"stage": 0, "period_ms": 50, "bundle": 1}, {"stage": 1, "bundle": 2}])
    )
    report, _ = world.run(one, 1)
    assert report.counts["exact"] == report.counts["mixed"] == 0
    assert set(report.failures) <= {"bundle_mismatch", "no_peer"}
    assert report.failures["bundle_mismatch"] > 0


def test_a_world_in_which_nothing_arrives_has_named_failures_and_recovers() -> None:
    one = scenarios.parse(pair(link={"medium": "wire", "loss": 0.999}, timeout_ms=500))
    report, _ = world.run(one, 1)
    assert report.problems == []
    assert report.counts["failed"] > 0
    assert report.counts["exact"] > 0


def test_a_stage_that_never_answers_is_reported_as_stuck() -> None:
    """The checks can fail: an engine that takes longer than the time to settle."""
    one = scenarios.parse(
        pair(nodes=[{"stage": 0, "period_ms": 50}, {"stage": 1, "invoke_ms": 60000}],
             settle_seconds=5, timeout_ms=600000)
    )  # fmt: skip
    report, _ = world.run(one, 1)
    assert report.problems == ["1 nodes stuck after everything healed"]


def test_a_timeline_has_a_row_for_each_thing_and_is_json() -> None:
    one = scenarios.parse(pair())
    _, events = world.run(one, 1, trace=True)
    trace = json.loads(json.dumps(timeline.chrome_trace(one, events)))["traceEvents"]
    assert {e["args"]["name"] for e in trace if e["name"] == "process_name"} == {
        "node 0, stage 0",
        "node 1, stage 1",
    }
    assert sum(e["name"].startswith("inference") for e in trace) > 10


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"stagess": [1, 2]}, "unknown key 'stagess'; the nearest known is 'stages'"),
        ({"link": {"medium": "wire", "los": 0.1}}, "link: unknown key 'los'; .* 'loss'"),
        ({"link": {"medium": "wire", "loss": 1.0}}, "loss"),
        ({"link": {"medium": "wire", "loss": float("nan")}}, "finite"),
        ({"nodes": [{"stage": 1}, {"stage": 1}]}, "nobody begins"),
        ({"nodes": [{"stage": 0}, {"stage": 0}]}, "no node has stage 1"),
        ({"nodes": [{"stage": 0}, {"stage": 5}]}, "stage 5, of 2"),
        ({"nodes": [{"stage": 0, "count": 31}, {"stage": 1, "count": 31}]}, "32 at most"),
        ({"nodes": [{"stage": 0, "next": 0}, {"stage": 1}]}, "not an entry of the next stage"),
        ({"stages": [0, 10]}, "stages/0"),
    ],
)
def test_scenarios_that_make_no_sense_are_named(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ScenarioError, match=says):
        scenarios.parse(pair(**changes))


def test_the_command_prints_a_table_and_writes_a_timeline(
    invoke: Callable[..., Result], tmp_path: Path
) -> None:
    path, trace = tmp_path / "pair.yaml", tmp_path / "trace.json"
    path.write_text(json.dumps(pair()))
    swept = invoke(main, path, "--seeds", 3, "--jobs", 1)
    assert swept.exit_code == 0, swept.output
    assert "pair" in swept.output
    replayed = invoke(main, path, "--replay", 4, "--trace", trace)
    assert replayed.exit_code == 0, replayed.output
    assert "digest" in replayed.output
    assert json.loads(trace.read_text())["traceEvents"]


def test_a_seed_that_breaks_a_property_ends_the_command_with_its_number(
    invoke: Callable[..., Result], tmp_path: Path
) -> None:
    path = tmp_path / "stuck.yaml"
    nodes = [{"stage": 0, "period_ms": 50}, {"stage": 1, "invoke_ms": 60000}]
    path.write_text(json.dumps(pair(nodes=nodes, settle_seconds=5, timeout_ms=600000)))
    result = invoke(main, path, "--seeds", 2, "--seed", 41, "--jobs", 1)
    assert result.exit_code == 1
    assert "seed 41" in result.output
    assert "--replay" in result.output


@pytest.mark.parametrize(
    ("text", "arguments", "status", "says"),
    [
        (None, [], 1, "cannot read"),
        ("a: [", [], 1, "no YAML"),
        ("[1, 2]", [], 1, "a mapping"),
        (json.dumps(pair()), ["--trace", "x.json"], 2, "--replay"),
        (json.dumps(pair()), ["--seeds", "0"], 2, "--seeds"),
        (json.dumps(pair()), ["--seed", 2**63 - 1, "--seeds", "2"], 2, "the last seed"),
    ],
)
def test_bad_input_ends_in_a_line(
    invoke: Callable[..., Result], tmp_path: Path, text: str | None,
    arguments: list[str | int], status: int, says: str,
) -> None:  # fmt: skip
    path = tmp_path / "scenario.yaml"
    if text is not None:
        path.write_text(text)
    result = invoke(main, path, *arguments)
    assert result.exit_code == status, result.output
    assert says in result.output
    assert "Traceback" not in result.output


def test_reports_add_up() -> None:
    reports = [Report(n, {**dict.fromkeys(world._COUNTS, n)}, {"deadline": 1}, "") for n in (1, 2)]
    summed = sweep.total(reports)
    assert summed.counts["exact"] == 3
    assert summed.counts["latency_max_us"] == 2
    assert summed.failures == {"deadline": 2}
    assert len(summed.bad) == 2
