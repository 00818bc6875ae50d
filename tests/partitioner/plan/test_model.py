"""Networks, boards and links as a split problem; the command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

from partitioner import kernels, quantize
from partitioner.cost.codecs import CodedSizes, measure
from partitioner.cost.links import Link
from partitioner.plan import comparators, report
from partitioner.plan.cli import main
from partitioner.plan.exact import best, pareto, ranked
from partitioner.plan.model import NodeError, NodeProfile, SplitModel, named, node
from partitioner.plan.problem import Criterion, PlanError, cost_of
from partitioner.plan.spec import parse_hop, parse_node
from partitioner.source import Request, Source, realistic

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


@pytest.fixture(scope="module")
def coded(digits_source: Source) -> CodedSizes:
    (inputs,) = realistic(digits_source, Request(), 1, [])
    return measure(digits_source.graph, kernels.exact(), [inputs])


HOPS = ("espnow:rate=1M/11M:codec=any,ble:codec=any", "udp:codec=any,ble:phy=any")


def by_options(source: Source, coded: CodedSizes, *nodes: str) -> SplitModel:
    hops = [parse_hop(HOPS[number % 2]) for number in range(len(nodes) - 1)]
    return SplitModel(source.graph, named([parse_node(text) for text in nodes]), hops, coded)


@pytest.mark.parametrize("by", ["latency", "period", "energy", "drain"])
def test_options_and_cuts_together_are_brute_forces(
    by: str, digits_source: Source, coded: CodedSizes
) -> None:
    """Wi-Fi and Bluetooth on one board leave less memory, which decides whether PSRAM is taken."""
    board = "esp32s3-psram:battery=900"
    model = by_options(digits_source, coded, board, "esp32s3:psram=1M:battery=500", board)
    problem = model.problem(max_payload=4000)
    criterion: Criterion = getattr(model, by)()
    brute = comparators.brute_force(problem, criterion)
    assert brute is not None
    assert best(problem, criterion).costs[0] == pytest.approx(brute.costs[0], rel=1e-12)


def test_what_a_plan_is_shown_to_cost_is_what_it_was_chosen_for(
    digits_source: Source, coded: CodedSizes
) -> None:
    model = by_options(digits_source, coded, *["esp32s3-psram:battery=700"] * 3)
    problem, names = model.problem(), dict.fromkeys(model.positions, "")
    for criterion, shown in (
        (model.latency(), "latency_us"),
        (model.period(), "period_us"),
        (model.energy(), "energy_mj"),
    ):
        for solution in ranked(problem, criterion, 4):
            described = report.describe(model, solution.plan, names)
            assert described[shown] == pytest.approx(solution.costs[0])
    worst = best(problem, model.drain(500.0))
    described = report.describe(model, worst.plan, names, 500.0)
    least = min(node["battery_days"] for node in described["nodes"])
    assert 1e6 / worst.costs[0] == pytest.approx(least)


def test_a_codec_is_taken_where_it_pays(digits_source: Source, coded: CodedSizes) -> None:
    """Coding costs time for each byte of code; slow air costs more than that, fast air less."""
    nodes = named([node("esp32s3-psram")] * 2)
    chosen = []
    for hop in ("espnow:codec=any", "udp:codec=any"):
        model = SplitModel(digits_source.graph, nodes, [parse_hop(hop)], coded)
        plan = report.by_cut(model, model.problem(), model.latency())[0]  # Many zeros cross there.
        (cost,) = model.hops(plan)
        chosen.append(cost.link.codec)
        assert (cost.payload_bytes < cost.raw_bytes) == bool(cost.link.codec)
    assert chosen == [1, 0]


def test_sizes_that_nobody_measured_are_refused(digits_source: Source) -> None:
    with pytest.raises(NodeError, match="codec 1 were not measured"):
        SplitModel(digits_source.graph, [node("host")] * 2, [Link(codec=1)])


def test_both_radios_on_a_board_leave_less_internal_ram(digits_source: Source) -> None:
    nodes = named([node("esp32s3")] * 3)
    wifi = SplitModel(digits_source.graph, nodes, [Link(), Link("udp")])
    both = SplitModel(digits_source.graph, nodes, [Link(), Link("ble")])
    free = [m.problem().limits[0].most for m in (wifi, both)]
    assert np.asarray(free[0])[1] == 260 * 1024
    assert np.asarray(free[1])[1][1, 2] < np.asarray(free[1])[1][1, 1]


def test_a_node_that_is_no_help_is_left_out(digits_source: Source) -> None:
    slow = NodeProfile("slow", psram_bytes=8 << 20, speed=0.01)
    board, host = node("esp32s3-psram"), node("host")
    links = [Link("udp")] * 2
    chained = SplitModel(digits_source.graph, [board, slow, host], links)
    free = SplitModel(
        digits_source.graph, [board, slow, host], links, every_node=False,
        may_begin=[True, False, False], may_end=[False, True, True],
    )  # fmt: skip
    plan = best(free.problem(), free.latency()).plan
    assert plan.nodes == (0, 2)
    assert [cost.node for cost in free.node_costs(plan)] == ["esp32s3-psram", "host"]
    assert best(chained.problem(), chained.latency()).plan.nodes == (0, 1, 2)


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


def test_boundaries_are_planned_raw_where_nothing_can_be_coded_and_that_is_said(
    invoke: Callable[..., Result], keras: Any, tmp_path: Path
) -> None:
    inputs = keras.Input((40,))
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Dense(8, "relu")(inputs)))
    data = quantize.to_int8(model, [np.zeros((4, 40), np.float32)])
    (tmp_path / "flat.tflite").write_bytes(data)
    result = invoke(main, "--model", tmp_path / "flat.tflite")
    assert result.exit_code == 0, result.output
    assert "boundaries are planned raw, coded sizes cannot be measured" in result.stderr
    assert "codec 1" not in result.stdout
    result = invoke(main, "--model", tmp_path / "flat.tflite", "--codec", 1)
    assert result.exit_code == 1
    assert "coded sizes cannot be measured" in result.output


def test_hops_differ_and_the_data_say_how(invoke: Callable[..., Result], tmp_path: Path) -> None:
    data = tmp_path / "plan.json"
    result = invoke(
        main, "--model", STRANGER, "--nodes", 3, "--hop", "espnow:rate=24M", "--hop", "ble:phy=1",
        "--codec", 0, "--json", data,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    hops = json.loads(data.read_text())["plans"][0]["hops"]
    assert [hop["link"] for hop in hops] == ["espnow v1 24M", "ble 1M 7.5 ms"]
    assert all(hop["encode_us"] == 0 for hop in hops)


def test_several_objectives_give_their_front_and_its_picture(
    invoke: Callable[..., Result], tmp_path: Path
) -> None:
    data, picture = tmp_path / "plan.json", tmp_path / "front.svg"
    result = invoke(
        main, "--model", STRANGER, "--node", "esp32s3", "--node", "esp32s3:speed=4",
        "--objective", "latency", "--objective", "energy", "--json", data, "--plot", picture,
        "--dark",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "the Pareto front of latency and energy, whole" in result.output
    plans = json.loads(data.read_text())["plans"]
    points = [(plan["latency_us"], plan["energy_mj"]) for plan in plans]
    assert points == sorted(points)
    assert [e for _, e in points] == sorted((e for _, e in points), reverse=True)
    assert picture.read_text().startswith("<?xml")


def test_a_day_and_the_batteries_are_told(invoke: Callable[..., Result], tmp_path: Path) -> None:
    data, days = tmp_path / "plan.json", []
    for rest in ("idle", "deep"):
        result = invoke(
            main, "--model", STRANGER, "--node", "esp32s3:battery=3700", "--node", "host",
            "--per-day", 100, "--rest", rest, "--objective", "lifetime", "--json", data,
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        assert "battery" in result.output
        board, host = json.loads(data.read_text())["plans"][0]["nodes"]
        days.append(board["battery_days"])
        assert host["battery_days"] is None
    assert days[1] > 10 * days[0]


def test_more_a_day_than_it_can_is_said(invoke: Callable[..., Result]) -> None:
    result = invoke(main, "--model", STRANGER, "--per-day", 1e9)
    assert result.exit_code == 0
    assert "1,000,000,000 a day are more than it can" in result.output


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
