"""The simulator: same seed, same bytes; properties that hold and that can fail; bad scenarios."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result

from host.commands.sim import main, replay_command
from host.sim import scenario as scenarios
from host.sim import sweep, world
from host.sim.scenario import ScenarioError
from host.sim.world import Report
from partitioner.cost import wifi

FOLDER = Path(__file__).parents[3] / "experiments" / "sim"
FILES = sorted(FOLDER.glob("*.yaml"))
SEEDS = 25  # Of each scenario: 250 fresh ones in every run of the tests.


def seeds_that_failed() -> list[Any]:
    """The lines of `seeds`."""
    lines = Path(__file__).with_name("seeds").read_text("utf-8").splitlines()
    fields = [line.split(maxsplit=2) for line in lines if line and not line.startswith("#")]
    return [pytest.param(FOLDER.parents[1] / path, int(seed), id=f"{Path(path).stem}-{seed}")
            for path, seed, _ in fields]  # fmt: skip


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
    summed = sweep.total(sweep.sweep(scenarios.read(path), range(first, first + SEEDS), jobs=2))
    assert [replay_command(path, report.seed) for report in summed.bad] == []
    assert summed.counts["exact"] > SEEDS * 100
    ends = ("exact", "failed", "lost_heads", "under_way", "wrong", "mixed")
    assert summed.counts["begun"] == sum(summed.counts[name] for name in ends)


@pytest.mark.parametrize(("path", "seed"), seeds_that_failed())
def test_seeds_that_ever_failed(path: Path, seed: int) -> None:
    report, _ = world.run(scenarios.read(path), seed)
    assert report.problems == []


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_the_same_seed_gives_the_same_history(path: Path) -> None:
    one = scenarios.read(path)
    assert world.run(one, 7)[0] == world.run(one, 7)[0]
    assert world.run(one, 7)[0].digest != world.run(one, 8)[0].digest


def test_a_trace_has_the_same_bytes_in_every_process(tmp_path: Path) -> None:
    """Two processes, each with its own order of sets."""
    written = []
    for hash_seed in ("1", "2"):
        path = tmp_path / f"{hash_seed}.json"
        command = ["sim", FOLDER / "update.yaml", "--replay", "7", "--trace", path]
        subprocess.run(
            [Path(sys.executable).with_name("tinysplit"), *command],
            env={**os.environ, "PYTHONHASHSEED": hash_seed}, check=True, capture_output=True,
        )  # fmt: skip
        written.append(path.read_bytes())
    assert written[0] == written[1]


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


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"stagess": [1, 2]}, "unknown key 'stagess'; the nearest known is 'stages'"),
        ({"link": {"medium": "wire", "los": 0.1}}, "link: unknown key 'los'; .* 'loss'"),
        ({"link": {"medium": "espnow", "jitter_ms": 1}}, "'jitter_ms' means nothing over espnow"),
        ({"update": {"stages": [5, 5, 5]}}, "as many stages"),
        (
            {"update": {"stages": [5, 5]}, "nodes": [{"stage": 0, "bundle": 1}, {"stage": 1}]},
            "bundle",
        ),
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


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name: a\nname: b", "line 2: name: is given twice"),
        ("[" * 100_000, "nested too deeply"),
        ("name: !!int ''", "line 1: name: is no int"),
        ("link: {medium: espnow, loss: .nan}", "line 1: link/loss: is not finite"),
        ("a0: &a0 [1, 1]\n" + "\n".join(f"a{i}: &a{i} [{f'*a{i - 1}, ' * 9}]" for i in range(1, 9)),
         "more than 100,000 values"),
    ],
    ids=["twice", "deep", "tag", "nan", "aliases"],
)  # fmt: skip
def test_files_that_are_no_scenario_are_told_at_once(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ScenarioError, match=says):
        scenarios.read(path)


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
    assert re.search(r"^inferences begun +[\d,]+$", replayed.output, re.MULTILINE)
    assert not [name for name in world._COUNTS if re.search(rf"^{name} ", replayed.output)]
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
    assert f"tinysplit sim {path} --replay 41 --trace seed-41.json" in result.output


@pytest.mark.parametrize(
    ("text", "arguments", "status", "says"),
    [
        (None, [], 2, "does not exist"),
        ("a: [", [], 1, "no YAML"),
        ("\x00", [], 1, "no YAML"),
        ("[1, 2]", [], 1, "a mapping"),
        (
            json.dumps({**pair(), "secconds": 1}),
            [],
            1,
            "'secconds'; the nearest known is 'seconds'",
        ),
        (json.dumps(pair(seconds=-1)), [], 1, "seconds"),
        (json.dumps(pair(seconds=math.inf)), [], 1, "seconds"),
        (yaml.safe_dump(pair(link={"medium": "wire", "loss": math.nan})), [], 1, "finite"),
        (json.dumps(pair(link={"medium": "udp", "version": 1})), [], 1, "nothing over udp"),
        ("version: 1\ntransports: [udp]\nmodelz: []\n", [], 1, "nearest known is 'models'"),
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
    assert result.output.count("\n") == 1


def test_reports_add_up() -> None:
    reports = [Report(n, {**dict.fromkeys(world._COUNTS, n)}, {"deadline": 1}, "") for n in (1, 2)]
    summed = sweep.total(reports)
    assert summed.counts["exact"] == 3
    assert summed.counts["latency_max_us"] == 2
    assert summed.failures == {"deadline": 2}
    assert len(summed.bad) == 2
