"""Experiments through the simulator: every cell, both kinds of kernels, the paper's figures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from host.bench import simulated, spec
from host.bench.simulated import KERNELS, Modelled, ModelledError
from host.commands.sim import main
from host.report import sim_table
from host.report.sim_table import HEADER, PROVENANCE
from partitioner.cost.links import Link
from partitioner.graph import Graph

ROOT = Path(__file__).parents[3]
STRANGER = ROOT / "tests" / "data" / "stranger.tflite"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, stranger: Graph) -> Path:
    layer = f"'#{stranger.cuts[0].position - 1}'"
    made = tmp_path_factory.mktemp("experiment") / "mine.yaml"
    made.write_text(
        "version: 1\nname: mine\n"
        f"models: [{{name: stranger, model: {STRANGER}}}]\ncuts: [{layer}]\n"
        "transports: [udp, tcp, ble, espnow, {name: fast, transport: espnow, espnow_version: 2,"
        " espnow_rate: 24M}]\nrepetitions: 3\n"
        "links: [{name: clean}, {name: lossy, loss: 0.1}]\nuse: [modelled, simulated]\n"
    )
    return made


@pytest.fixture(scope="module")
def found(path: Path) -> list[Modelled]:
    return list(simulated.simulate(spec.read(path), 1))


def test_each_distinct_cell_is_simulated_with_both_kinds_of_kernels(found: list[Modelled]) -> None:
    assert len(found) == 5 * 2 * len(KERNELS)
    assert {one.kernels for one in found} == {"esp-nn", "ansi"}
    assert all(one.inferences >= 100 for one in found)


def test_links_take_what_the_planner_says(found: list[Modelled]) -> None:
    for one in found:
        if one.cell.link.name == "clean":
            transport = one.cell.transport
            chosen = {"version": 2, "rate": "24M"} if transport.name == "fast" else {}
            link = Link(transport.transport, **chosen)  # type: ignore[arg-type]
            planned = link.crossing(one.payload_bytes).us
            assert one.link_us == pytest.approx(planned, rel=0.1), transport.name


def test_a_round_trip_is_its_parts(found: list[Modelled]) -> None:
    for one in found:
        computing = sum(stage.us for stage in one.stages)
        assert one.round_trip_us > computing + one.link_us
        assert one.low_us < one.round_trip_us < one.high_us


def test_loss_and_slower_kernels_show(found: list[Modelled]) -> None:
    of = {(one.cell.transport.name, one.cell.link.name, one.kernels): one for one in found}
    for transport in ("udp", "tcp", "ble", "espnow", "fast"):
        assert of[transport, "lossy", "ansi"].link_us > of[transport, "clean", "ansi"].link_us
        fast, slow = (of[transport, "clean", kernels] for kernels in ("esp-nn", "ansi"))
        assert slow.stages[0].us > fast.stages[0].us


def test_a_column_says_modelled_or_is_the_papers() -> None:
    for name, provenance in zip(HEADER[2:], PROVENANCE[2:], strict=True):
        assert provenance == ("measured by its authors" if "paper" in name else "modelled")


def test_the_papers_figures_stand_beside_the_cells_that_ask_what_it_asked() -> None:
    experiment = spec.read(ROOT / "experiments" / "paper.yaml")
    cells = simulated.distinct(experiment)
    assert {cell.transport.transport for cell in cells} == {"udp", "tcp", "ble", "espnow"}
    beside = {c.transport.transport: sim_table.published(c, "steady_state_rtt") for c in cells}
    assert beside == {"udp": "5.8 s", "tcp": "", "ble": ">10 s", "espnow": "3.7 s / 3.6 s"}


def test_the_command_prints_an_experiment(invoke: Callable[..., Result], path: Path) -> None:
    short = path.with_name("short.yaml")
    lines = path.read_text().splitlines()
    kept = ["transports: [udp]" if "espnow" in line else line for line in lines]
    short.write_text("\n".join(kept))
    result = invoke(main, short, "--seed", 1)
    assert result.exit_code == 0, result.output
    assert "modelled  " in result.output
    assert "[dim]" not in result.output
    assert result.output.count("ANSI C") == 2  # Clean and lossy.
    assert "modelled" in result.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["--replay", 1], "one scenario"), (["--scheduler", "tcp://127.0.0.1:9"], "scenarios")],
)
def test_what_is_for_scenarios_only_is_refused(
    invoke: Callable[..., Result], path: Path, arguments: list[str | int], says: str
) -> None:
    result = invoke(main, path, *arguments)
    assert result.exit_code == 2
    assert says in result.output


def test_a_codec_alone_cannot_be_simulated(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulated, "_RAW", "none such")
    with pytest.raises(ModelledError, match="codecs"):
        simulated.distinct(spec.read(path))
