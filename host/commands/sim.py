"""The command `tinysplit sim`."""

from __future__ import annotations

import os
import secrets
import shlex
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from host.bench import simulated, spec
from host.bench.spec import Experiment
from host.report import sim_table
from host.sim import scenario as scenarios
from host.sim import timeline, world
from host.sim.scenario import Scenario
from host.sim.sweep import Total, sweep, total
from host.sim.world import Report
from models.errors import TinysplitError
from partitioner.command import Command, existing, verbose_option, wide_console
from partitioner.output import whole_file

_COLUMNS = (
    "seeds", "inferences", "exact", "failed\nby name", "down with\nthe head",
    "under way\nat the end", "wrong", "mixed", "stuck", "latency\nmean ms", "frames", "lost",
    "collided", "reboots",
)  # fmt: skip
_UPDATE_COLUMNS = ("power\ncuts", "updates", "unverified\nboots", "never\nupdated")
_MOST_SHOWN = 10


class PropertyError(TinysplitError):
    """A property did not hold for a seed."""


@click.command(cls=Command)
@click.argument("files", nargs=-1, required=True, type=existing())
@click.option("--seeds", type=click.IntRange(1), default=100, show_default=True, help="How many.")
@click.option(
    "--seed", type=click.IntRange(0, 2**63 - 1), help="The first of them.  [default: a fresh one]"
)
@click.option("--replay", type=click.IntRange(0, 2**63 - 1), metavar="SEED", help="Only this one.")
@click.option(
    "--trace", "trace_path", type=click.Path(path_type=Path), metavar="FILE",
    help="With --replay: a timeline for ui.perfetto.dev.",
)  # fmt: skip
@click.option("--jobs", type=click.IntRange(1), help="Processes.  [default: one for each core]")
@click.option("--scheduler", metavar="ADDRESS", help="Run on a dask cluster instead.")
@verbose_option()
def main(
    files: tuple[Path, ...],
    seeds: int,
    seed: int | None,
    replay: int | None,
    trace_path: Path | None,
    jobs: int | None,
    scheduler: str | None,
    verbose: bool,
) -> None:
    """Simulate scenarios with the firmware's own link library, and check what must always hold.

    \b
    Every result delivered is exact and comes once; results never cross two bundles; every
    boot runs one whole, verified bundle; after everything has healed no node is stuck or
    outdated. Same seed, same bytes, on any machine.

    \b
    Of an experiment (as for `tinysplit bench`) it simulates each cell on ESP32-S3 boards,
    with both kinds of kernels.
    """
    if trace_path is not None and replay is None:
        raise click.UsageError("--trace needs --replay SEED")
    loaded = [(path, _load(path)) for path in files]
    found = [(path, one) for path, one in loaded if isinstance(one, Scenario)]
    if replay is not None and (len(found) != 1 or len(loaded) != 1):
        raise click.UsageError("--replay takes one scenario")
    if scheduler is not None and len(found) != len(loaded):
        raise click.UsageError("--scheduler is for scenarios")
    console = wide_console()
    if replay is not None:
        _replay(found[0][1], replay, trace_path, console)
        return
    first = secrets.randbits(48) if seed is None else seed
    if first + seeds > 2**63:
        raise click.UsageError(f"--seed and --seeds go beyond {2**63 - 1}, the last seed")
    for _, one in loaded:
        if isinstance(one, Experiment):
            _print_cells(one, first)
    if found:
        _sweep(found, range(first, first + seeds), jobs or os.cpu_count() or 1, scheduler, console)


def _load(path: Path) -> Scenario | Experiment:
    """Raises ScenarioError, SpecError."""
    content = scenarios.content(path)
    if simulated.is_experiment(content):
        return spec.read(path)
    return scenarios.of_file(path, content)


def _print_cells(experiment: Experiment, seed: int) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, provenance in zip(sim_table.HEADER, sim_table.PROVENANCE, strict=True):
        justify = "right" if provenance == "modelled" else "left"
        table.add_column(Text.assemble(f"{name}\n", (provenance, "dim")), justify=justify)  # type: ignore[arg-type]
    for row in sim_table.table(experiment, simulated.simulate(experiment, seed)):
        table.add_row(*row)
    console = wide_console(table)
    console.print(table)
    console.print(f"\n{sim_table.WHAT}; seed {seed}", soft_wrap=True)


def _sweep(
    found: Sequence[tuple[Path, Scenario]],
    seeds: range,
    jobs: int,
    scheduler: str | None,
    console: Console,
) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    updates = any("update" in one.content for _, one in found)
    table.add_column("scenario")
    for name in (*_COLUMNS, *(_UPDATE_COLUMNS if updates else ()), "times\nreal"):
        table.add_column(name, justify="right")
    bad: list[tuple[Path, Report]] = []
    progress = Console(stderr=True)
    for path, one in found:
        began = time.perf_counter()
        reports: Iterator[Report] = sweep(one, seeds, jobs=jobs, scheduler=scheduler)
        summed = total(
            track(reports, one.name, len(seeds), console=progress, transient=True,
                  disable=not progress.is_terminal)
        )  # fmt: skip
        _add_row(table, one, summed, time.perf_counter() - began, updates)
        bad += [(path, report) for report in summed.bad]
    wide_console(table).print(table)
    console.print(
        f"\nseeds {seeds[0]} to {seeds[-1]}; inferences = exact + failed + down with the head + "
        "under way + wrong + mixed; latency is modelled (simulated time), `times real` measured "
        "on this machine",
        soft_wrap=True,
    )
    if bad:
        for path, report in bad[:_MOST_SHOWN]:
            console.print(f"{replay_command(path, report.seed)}    # {', '.join(report.problems)}",
                          soft_wrap=True, markup=False, highlight=False)  # fmt: skip
        raise PropertyError(
            f"{len(bad)} seeds broke a property, the first: {bad[0][0]} seed {bad[0][1].seed}: "
            f"{', '.join(bad[0][1].problems)}; replay it with the command above"
        )


def replay_command(path: Path, seed: int) -> str:
    """The command that shows what happened for a seed."""
    return f"tinysplit sim {shlex.quote(str(path))} --replay {seed} --trace seed-{seed}.json"


def _add_row(table: Table, scenario: Scenario, summed: Total, took_s: float, updates: bool) -> None:
    counts = summed.counts
    simulated = (scenario["seconds"] + scenario["settle_seconds"]) * summed.seeds
    mean = counts["latency_sum_us"] / max(counts["exact"], 1) / 1e3
    names = ("cuts", "updates", "unverified", "outdated") if updates else ()
    table.add_row(
        scenario.name,
        f"{summed.seeds:,}",
        f"{counts['begun']:,}",
        f"{counts['exact']:,}",
        "\n".join(f"{n:,} {name}" for name, n in sorted(summed.failures.items())) or "0",
        f"{counts['lost_heads']:,}",
        f"{counts['under_way']:,}",
        str(counts["wrong"]),
        str(counts["mixed"]),
        str(counts["stuck"]),
        f"{mean:,.1f}",
        f"{counts['frames']:,}",
        f"{counts['lost']:,}",
        f"{counts['collisions']:,}",
        f"{counts['reboots']:,}",
        *(f"{counts[name]:,}" for name in names),
        f"{simulated / took_s:,.0f}",
    )


_MEANING = {
    "begun": "inferences begun",
    "exact": "  exact",
    "failed": "  failed by name",
    "wrong": "  not exact, or answered twice",
    "mixed": "  answered across two bundles",
    "lost_heads": "  down with the head",
    "under_way": "  under way at the end",
    "stuck": "nodes stuck",
    "unverified": "boots of an image that was not verified",
    "outdated": "nodes never updated",
    "refused": "inferences not begun (no job free)",
    "frames": "frames",
    "bytes": "bytes of frames",
    "lost": "frames lost",
    "collisions": "frames collided",
    "reboots": "reboots",
    "cuts": "power cuts",
    "updates": "updates",
    "air_us": "microseconds on the air",
    "latency_sum_us": "microseconds of latency, together",
    "latency_max_us": "microseconds of latency, at most",
    "events": "simulated events",
}


def _replay(scenario: Scenario, seed: int, path: Path | None, console: Console) -> None:
    report, events = world.run(scenario, seed, trace=path is not None)
    for name, value in report.counts.items():
        console.print(f"{_MEANING[name]:40} {value:,}")
    for name, value in report.failures.items():
        console.print(f"{'failed, ' + name:40} {value:,}")
    console.print(f"{'digest':40} {report.digest}")
    if path is not None:
        with whole_file(path) as temporary:
            temporary.write_text(timeline.encode(timeline.chrome_trace(scenario, events)), "utf-8")
        console.print(f"wrote {path} ({len(events):,} events); open it in ui.perfetto.dev")
    if report.problems:
        raise PropertyError(f"seed {seed}: {', '.join(report.problems)}")
