"""The command `tinysplit sim`."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import click
from rich.console import Console
from rich.progress import track
from rich.table import Table

from host.sim import scenario as scenarios
from host.sim import timeline, world
from host.sim.scenario import Scenario
from host.sim.sweep import Total, sweep, total
from host.sim.world import Report
from models.errors import TinysplitError
from partitioner.command import Command, verbose_option, wide_console
from partitioner.output import whole_file

_COLUMNS = (
    "seeds", "inferences", "exact", "failed\nby name", "wrong", "mixed", "stuck",
    "latency\nmean ms", "frames", "lost", "collided", "reboots", "times\nreal",
)  # fmt: skip


class PropertyError(TinysplitError):
    """A property did not hold for a seed."""


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
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
    Every result delivered is exact and comes once; results never cross two bundles; after
    everything has healed no node is stuck. Same seed, same bytes, on any machine.
    """
    if trace_path is not None and replay is None:
        raise click.UsageError("--trace needs --replay SEED")
    if replay is not None and len(files) != 1:
        raise click.UsageError("--replay takes one scenario")
    loaded = [scenarios.read(path) for path in files]
    console = wide_console()
    if replay is not None:
        _replay(loaded[0], replay, trace_path, console)
        return
    first = secrets.randbits(48) if seed is None else seed
    if first + seeds > 2**63:
        raise click.UsageError(f"--seed and --seeds go beyond {2**63 - 1}, the last seed")
    table = _table()
    bad: list[tuple[Path, Report]] = []
    progress = Console(stderr=True)
    for path, one in zip(files, loaded, strict=True):
        began = time.perf_counter()
        reports: Iterator[Report] = sweep(
            one, range(first, first + seeds), jobs=jobs or os.cpu_count() or 1, scheduler=scheduler
        )
        summed = total(
            track(reports, one.name, seeds, console=progress, transient=True,
                  disable=not progress.is_terminal)
        )  # fmt: skip
        _add_row(table, one, summed, time.perf_counter() - began)
        bad += [(path, report) for report in summed.bad]
    wide_console(table).print(table)
    console.print(
        f"\nseeds {first} to {first + seeds - 1}; latency is modelled (simulated time), "
        "`times real` measured on this machine",
        soft_wrap=True,
    )
    if bad:
        lines = [
            f"{path} seed {report.seed}: {', '.join(report.problems)}" for path, report in bad[:10]
        ]
        raise PropertyError(
            f"{len(bad)} seeds broke a property; look with --replay SEED --trace FILE: "
            + "; ".join(lines)
        )


def _table() -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("scenario")
    for name in _COLUMNS:
        table.add_column(name, justify="right")
    return table


def _add_row(table: Table, scenario: Scenario, summed: Total, took_s: float) -> None:
    counts = summed.counts
    simulated = (scenario["seconds"] + scenario["settle_seconds"]) * summed.seeds
    mean = counts["latency_sum_us"] / max(counts["exact"], 1) / 1e3
    table.add_row(
        scenario.name,
        f"{summed.seeds:,}",
        f"{counts['begun']:,}",
        f"{counts['exact']:,}",
        "\n".join(f"{n:,} {name}" for name, n in sorted(summed.failures.items())) or "0",
        str(counts["wrong"]),
        str(counts["mixed"]),
        str(counts["stuck"]),
        f"{mean:,.1f}",
        f"{counts['frames']:,}",
        f"{counts['lost']:,}",
        f"{counts['collisions']:,}",
        f"{counts['reboots']:,}",
        f"{simulated / took_s:,.0f}",
    )


_MEANING = {
    "begun": "inferences begun",
    "exact": "  exact",
    "failed": "  failed by name",
    "wrong": "  not exact, or answered twice",
    "mixed": "  answered across two bundles",
    "stuck": "nodes stuck",
    "refused": "inferences not begun (no job free)",
    "frames": "frames",
    "bytes": "bytes of frames",
    "lost": "frames lost",
    "collisions": "frames collided",
    "reboots": "reboots",
    "air_us": "microseconds on the air",
    "latency_sum_us": "microseconds of latency, together",
    "latency_max_us": "microseconds of latency, at most",
    "events": "simulated events",
}


def _replay(scenario: Scenario, seed: int, path: Path | None, console: Console) -> None:
    report, events = world.run(scenario, seed, trace=path is not None)
    for name, value in report.counts.items():
        console.print(f"{_MEANING.get(name, name):36} {value:,}")
    for name, value in report.failures.items():
        console.print(f"{'failed, ' + name:36} {value:,}")
    console.print(f"{'digest':36} {report.digest}")
    if path is not None:
        with whole_file(path) as temporary:
            temporary.write_text(json.dumps(timeline.chrome_trace(scenario, events)), "utf-8")
        console.print(f"wrote {path} ({len(events):,} events); open it in ui.perfetto.dev")
    if report.problems:
        raise PropertyError(f"seed {seed}: {', '.join(report.problems)}")
