"""The commands `tinysplit bench` and `tinysplit live`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import click
from rich.console import Console

from host import cluster
from host.bench import bundles, live, rows, runner, spec
from host.bench.computed import Computed, Work, compute
from host.bench.environment import Environment
from host.bench.progress import JsonLines, Lines, Observer, Screen, cell_names, cells_table
from host.bench.spec import Cell, Experiment
from host.bench.store import Store
from host.boards.emulated.options import emulator_option
from models.errors import TinysplitError
from partitioner.bundle import Bundle
from partitioner.command import Command, Steps, existing, verbose_option, wide_console


class CellsFailedError(TinysplitError):
    """Some cells of a sweep failed; the others are there."""


@click.command(cls=Command)
@click.argument("file", type=existing())
@click.option(
    "--output", type=click.Path(path_type=Path), metavar="DIR",
    help="Where the results go, and are resumed from.  [default: results/NAME]",
)  # fmt: skip
@click.option(
    "--bundles", "cache", type=click.Path(path_type=Path), default=Path("build/bundles"),
    show_default=True, metavar="DIR", help="Where bundles made for sweeps are kept.",
)  # fmt: skip
@click.option(
    "--list",
    "list_cells",
    is_flag=True,
    help="Print the cells in order, look up layers; run nothing.",
)
@click.option("--prepare", is_flag=True, help="Make the bundles and print where; run nothing.")
@click.option("--retry-failed", is_flag=True, help="Run cells that failed before once more.")
@click.option("--csv", is_flag=True, help="Write rows.csv beside rows.parquet.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
@click.option("--json", "as_json", is_flag=True, help="Progress as a line of JSON per event.")
@click.option(
    "--jobs", type=click.IntRange(1), default=1, show_default=True,
    help="Processes for cells that need no board.",
)  # fmt: skip
@emulator_option
@click.option("--scheduler", metavar="ADDRESS", help="Compute those on a dask cluster instead.")
@verbose_option()
def bench(
    file: Path,
    output: Path | None,
    cache: Path,
    list_cells: bool,
    prepare: bool,
    retry_failed: bool,
    csv: bool,
    quiet: bool,
    as_json: bool,
    jobs: int,
    qemu_bin: Path | None,
    scheduler: str | None,
    verbose: bool,
) -> None:
    """Run the experiment in FILE; run again after an interruption, it goes on.

    \b
      tinysplit bench experiments/quickstart.yaml
      tinysplit bench experiments/paper.yaml --list
    """
    if quiet and as_json:
        raise click.UsageError("--quiet and --json contradict each other")
    experiment = spec.read(file, qemu_bin)
    if list_cells:
        for cell in experiment.ordered():
            click.echo(cell.name)
        with Steps(quiet=quiet) as steps:
            bundles.check(experiment, cache, steps)
        return
    if prepare:
        with Steps(quiet=quiet) as steps:
            made = bundles.prepare(experiment, cache, steps)
            steps("bundles")
            opened = bundles.read_all(experiment, made)
        for name, path in made.items():
            click.echo(f"{path}  {opened[name].manifest.id[:12]}  {' '.join(name[1]) or name[0]}")
        return
    rows.arrow()
    folder = output or Path("results") / experiment.name
    silent = quiet or as_json
    with ExitStack() as stack:
        held = stack.enter_context(Store(folder, experiment))
        if retry_failed:
            held.forget(n for n, cell in held.cells.items() if cell["state"] != runner.DONE)
        if len(held.cells) < len(experiment.cells):
            with Steps(quiet=silent) as steps:
                folders = bundles.prepare(experiment, cache, steps)
                steps("bundles")
                opened = bundles.read_all(experiment, folders)
            noted = stack.enter_context(Environment(folder, experiment, opened))
            observer = _observer(silent, as_json, stack)
            pool = partial(_computed, experiment, opened, jobs, scheduler, stack)
            tell = _print_text if verbose else None
            runner.run(experiment, held, opened, folders, pool, observer, noted.boards, tell)
        whole = held.finish(csv=csv)
        cells = [held.cells[number] for number in sorted(held.cells)]
    if not silent:
        table = cells_table(cells, cell_names(experiment))
        console = wide_console(table)
        console.print(table)
        console.print(f"{whole.num_rows:,} rows in {folder / 'rows.parquet'}")
    failed = [cell for cell in cells if cell["state"] != runner.DONE]
    if failed:
        raise CellsFailedError(
            f"{len(failed)} of {len(cells)} cells failed, the first: {failed[0]['name']}: "
            f"{failed[0]['reason']} (--retry-failed runs them again)"
        )


def _observer(silent: bool, as_json: bool, stack: ExitStack) -> Observer:
    if as_json:
        return JsonLines(sys.stdout)
    if silent:
        return Observer()
    console = Console(stderr=True)
    if not console.is_terminal:
        return Lines(sys.stderr)
    return stack.enter_context(closing(Screen(console)))


def _print_text(board: str, line: str) -> None:
    click.echo(f"{board}: {line}", err=True)


def _computed(
    experiment: Experiment,
    opened: Mapping[bundles.Key, Bundle],
    jobs: int,
    scheduler: str | None,
    stack: ExitStack,
    cells: Sequence[Cell],
) -> dict[int, Callable[[], Computed]]:
    """Who waits for each cell that needs no board; they are under way meanwhile."""
    if not cells:
        return {}
    works = {cell.number: Work(experiment, cell, opened[bundles.key(cell)]) for cell in cells}
    if scheduler is not None:
        executor: Executor = stack.enter_context(cluster.connected(scheduler)).get_executor()
    elif jobs > 1:
        executor = stack.enter_context(ProcessPoolExecutor(jobs))
    else:
        return {number: partial(compute, work) for number, work in works.items()}
    return {number: executor.submit(compute, work).result for number, work in works.items()}


@click.command(cls=Command)
@click.argument("results", type=existing())
@click.option("--once", is_flag=True, help="Print how things are and end.")
@verbose_option()
def follow(results: Path, once: bool, verbose: bool) -> None:
    """Follow the sweep that writes to the folder RESULTS, in this terminal."""
    live.follow(results, Console(), once=once)
