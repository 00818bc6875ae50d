"""Networks, boards and links as a split problem; the command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from partitioner.cost.links import Link
from partitioner.plan import comparators
from partitioner.plan.cli import main
from partitioner.plan.exact import best, pareto, ranked
from partitioner.plan.model import NodeError, NodeProfile, SplitModel, named, node
from partitioner.plan.problem import PlanError, cost_of
from partitioner.source import Source

STRANGER = Path(__file__).parents[2] / "data" / "stranger.tflite"


def chain(source: Source, *kinds: str, transport: str = "espnow") -> SplitModel:
    nodes = named([node(kind) for kind in kinds])
    return SplitModel(source.graph, nodes, [Link(transport)] * (len(nodes) - 1))  # type: ignore[arg-type]


def test_the_best_plan_of_two_boards_is_brute_forces(digits_source: Source) -> None:
    model = chain(digits_source, "esp32s3", "esp32s3")
    problem = model.problem()
    for criterion in (model.latency(), model.period(), model.energy()):
        brute = comparators.brute_force(problem, criterion)
        assert brute is not None
        assert best(problem, criterion).costs == brute.costs


def test_three_boards_too_by_every_criterion(digits_source: Source) -> None:
    model = chain(digits_source, "esp32s3", "esp32s3-psram", "host", transport="ble")
    problem = model.problem()
    for criterion in (model.latency(), model.period(), model.energy()):
        brute = comparators.brute_force(problem, criterion)
        assert brute is not None
        assert best(problem, criterion).costs == pytest.approx(brute.costs)


def test_latency_is_the_sum_of_what_is_shown(digits_source: Source) -> None:
    model = chain(digits_source, "esp32s3-psram", "esp32s3")
    solution = best(model.problem(), model.latency())
    stages, hops = model.stages(solution.plan), model.hops(solution.plan)
    shown = sum(s.us for s in stages) + sum(h.crossing.us + h.result.us for h in hops)
    assert shown == pytest.approx(solution.costs[0])
    assert all(s.low_us <= s.us <= s.high_us for s in stages)


def test_psram_is_taken_where_internal_ram_does_not_do_and_is_slower(digits_source: Source) -> None:
    small = NodeProfile("small", internal_bytes=100_000, psram_bytes=8 << 20)
    model = SplitModel(digits_source.graph, named([small, node("host")]), [Link("udp")])
    plan = best(model.problem(), model.latency()).plan
    first = model.stages(plan)[0]
    assert (first.memory == "psram") == (first.arena_bytes > 100_000)
    inside = NodeProfile("large", internal_bytes=8 << 20)
    faster = SplitModel(digits_source.graph, named([inside, node("host")]), [Link("udp")])
    assert faster.stages(plan)[0].us <= first.us


def test_a_payload_limit_moves_the_cut(digits_source: Source) -> None:
    model = chain(digits_source, "esp32s3-psram", "esp32s3")
    plan = best(model.problem(max_payload=600), model.latency()).plan
    assert model.hops(plan)[0].payload_bytes <= 600
    with pytest.raises(PlanError, match="payload on node 0"):
        best(model.problem(max_payload=5), model.latency())


def test_the_front_of_latency_and_energy_has_both_ends(digits_source: Source) -> None:
    model = chain(digits_source, "esp32s3", "esp32s3")
    problem, criteria = model.problem(), [model.latency(), model.energy()]
    front = pareto(problem, criteria)
    for number, criterion in enumerate(criteria):
        least = min(s.costs[number] for s in front)
        assert least == pytest.approx(best(problem, criterion).costs[0])


def test_lifetime_is_the_battery_that_drains_fastest(digits_source: Source) -> None:
    weak = NodeProfile("weak", psram_bytes=8 << 20, battery_mwh=100.0)
    strong = NodeProfile("strong", psram_bytes=8 << 20, battery_mwh=100_000.0)
    ahead = SplitModel(digits_source.graph, [weak, strong], [Link("udp")])
    behind = SplitModel(digits_source.graph, [strong, weak], [Link("udp")])
    cut = [best(m.problem(), m.drain()).plan.cuts[0] for m in (ahead, behind)]
    assert cut[0] < cut[1]


def test_runners_up_are_ever_more_expensive(digits_source: Source) -> None:
    model = chain(digits_source, "esp32s3", "esp32s3")
    criterion = model.latency()
    problem = model.problem()
    found = ranked(problem, criterion, 10)
    costs = [cost_of(problem, s.plan, criterion) for s in found]
    assert costs == sorted(costs)
    assert len({s.plan for s in found}) == len(found)


@pytest.mark.parametrize("bad", [{"speed": 0.0}, {"speed": np.nan}, {"battery_mwh": -1.0}])
def test_nodes_that_cannot_be_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(NodeError):
        NodeProfile("bad", **bad)  # type: ignore[arg-type]


def test_the_command_gives_plans_a_picture_and_data(
    invoke: Callable[..., Result], tmp_path: Path
) -> None:
    data, picture = tmp_path / "plan.json", tmp_path / "plan.png"
    result = invoke(
        main, "--model", STRANGER, "--nodes", 2, "--json", data, "--plot", picture, "--sources"
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "modelled" in result.output
    assert "cycles each" in result.output
    plans = json.loads(data.read_text())["plans"]
    assert plans[0]["provenance"] == "modelled"
    assert plans[0]["latency_us"] <= plans[-1]["latency_us"]
    assert picture.read_bytes()[:4] == b"\x89PNG"


def test_a_longer_chain_is_drawn_too(invoke: Callable[..., Result], tmp_path: Path) -> None:
    picture = tmp_path / "plan.png"
    result = invoke(
        main, "--model", STRANGER, "--nodes", 3, "--transport", "ble", "--plot", picture
    )
    assert result.exit_code == 0, result.output
    assert picture.exists()


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["--nodes", 40], 2, "longer than the network"),
        (["--node", "esp32s"], 2, "no node 'esp32s', did you mean 'esp32s3'?"),
        (["--node", "host:ramm=3"], 2, "no setting 'ramm'; the nearest known is 'ram'"),
        (["--node", "esp32s3:speed=0"], 2, "a speed is a number above 0"),
        (["--node", "esp32s3:battery=inf"], 2, "'inf' is no number from 0 on"),
        (["--node", "esp32s3:ram=many"], 2, "'many' is no number of bytes"),
        (["--nodes", 2, "--node", "host"], 2, "either --nodes or --node"),
        (["--transport", "zigbee"], 2, "no transport 'zigbee', did you mean"),
        (["--transport", "udpp"], 2, "did you mean 'udp'?"),
        (["--nodes", 4, "--transport", "udp", "--transport", "ble"], 2, "2 times, and there are 3"),
        (["--hop", "espnow:rat=1M"], 2, "no setting 'rat'; the nearest known is 'rate'"),
        (["--hop", "udp:rate=1M"], 2, "no setting 'rate'; the nearest known is"),
        (["--hop", "espnow:rate=3M"], 2, "'3M' is no ESP-NOW rate"),
        (["--hop", "udp", "--transport", "udp"], 2, "either --transport or --hop"),
        (["--codec", "7"], 2, "no codec 7"),
        (["--loss", "1"], 2, "a loss of 1.0 is impossible"),
        (["--loss", "nan"], 2, "'nan' is no number"),
        (["--loss", "-0.1"], 2, "'-0.1' is no number from 0 on"),
        (["--ram", "100"], 1, "RAM on node"),
        (["--max-payload", "1"], 1, "payload on node 0"),
        (["--slot", "100"], 1, "flash on node"),
        (["--objective", "lifetime"], 2, "--battery"),
        (["--battery", "-5", "--objective", "lifetime"], 2, "not below 0"),
        (["--battery", "nan"], 2, "not below 0"),
        (["--per-day", "nan"], 2, "--per-day is a number above 0"),
        (["--per-day", "-1"], 2, "--per-day is a number above 0"),
        (["--ble-interval", "nan", "--transport", "ble"], 2, "interval"),
        (["--ble-interval", "2", "--transport", "ble"], 2, "interval is 7.5 to 4000 ms"),
        (["--nodes", 3, "--why"], 2, "two nodes"),
        (["--input", 2], 2, "nodes are 0 to 1"),
        (["--input", 1], 1, "input: none; output: 1; every node is used"),
        (["--objective", "speed"], 2, "speed"),
    ],
)
def test_bad_input_ends_in_a_line(
    invoke: Callable[..., Result], arguments: list[object], status: int, says: str
) -> None:
    result = invoke(main, "--model", STRANGER, *arguments)
    assert result.exit_code == status, result.output
    assert says in " ".join(result.output.split())
    assert "Traceback" not in result.output


def test_why_names_what_each_cut_breaks(invoke: Callable[..., Result]) -> None:
    result = invoke(main, "--model", STRANGER, "--nodes", 2, "--why", "--ram", "4000")
    assert "RAM on node" in result.output
    assert "too many" in result.output
