"""Many seeds of a scenario, on all cores of this machine or on a dask cluster."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

from host import cluster
from host.sim import world
from host.sim.scenario import Scenario
from host.sim.world import Report
from models.errors import TinysplitError

_CHUNK = 8
Chunk = tuple[Scenario, list[int]]
Map = Callable[[list[Chunk]], Iterator[list[Report]]]


class SweepError(TinysplitError):
    """Processes or workers that died, or a scheduler that went away, in mid-sweep."""


def _run(work: Chunk) -> list[Report]:
    scenario, seeds = work
    return [world.run(scenario, seed)[0] for seed in seeds]


def sweep(
    scenario: Scenario, seeds: Iterable[int], *, jobs: int, scheduler: str | None = None
) -> Iterator[Report]:
    """A report for every seed, as they come.

    Args:
        jobs: processes on this machine.
        scheduler: address of a dask scheduler to run on instead; its workers need tinysplit.

    Raises:
        ClusterError: dask is not installed, or nobody answers at that address.
        SweepError: workers or processes die.
    """
    listed = list(seeds)
    chunks = [(scenario, listed[i : i + _CHUNK]) for i in range(0, len(listed), _CHUNK)]
    if scheduler is None and jobs == 1:
        for chunk in chunks:
            yield from _run(chunk)
        return
    with ExitStack() as stack:
        if scheduler is not None:
            map_unordered = stack.enter_context(_cluster(scheduler))
        else:
            map_unordered = partial(_locally, stack.enter_context(ProcessPoolExecutor(jobs)))
        for reports in map_unordered(chunks):
            yield from reports


def _locally(pool: ProcessPoolExecutor, chunks: list[Chunk]) -> Iterator[list[Report]]:
    try:
        for future in as_completed([pool.submit(_run, chunk) for chunk in chunks]):
            yield future.result()
    except BrokenProcessPool as error:
        raise SweepError("a process of the sweep was killed, perhaps for memory: "
                         "try fewer --jobs") from error  # fmt: skip


@contextmanager
def _cluster(address: str) -> Iterator[Map]:
    with cluster.connected(address) as client:
        distributed = importlib.import_module("distributed")

        def remotely(chunks: list[Chunk]) -> Iterator[list[Report]]:
            futures = client.map(_run, chunks, pure=False)
            try:
                for _, reports in distributed.as_completed(futures, with_results=True):
                    yield reports
            except distributed.scheduler.KilledWorker as error:
                raise SweepError(f"workers of {address} keep dying over the same seeds") from error
            except (distributed.CancelledError, OSError) as error:
                raise SweepError(f"the dask scheduler at {address} went away") from error

        yield remotely


@dataclass(frozen=True)
class Total:
    """Over all seeds of a scenario; `bad` by seed."""

    seeds: int
    counts: dict[str, int]
    failures: dict[str, int]
    bad: list[Report]


def total(reports: Iterable[Report]) -> Total:
    """What the reports add up to; latency_max_us is the largest."""
    counts: dict[str, int] = {}
    failures: dict[str, int] = {}
    bad = []
    number = 0
    for report in reports:
        number += 1
        for name, value in report.counts.items():
            known = counts.get(name, 0)
            counts[name] = max(known, value) if name == "latency_max_us" else known + value
        for name, value in report.failures.items():
            failures[name] = failures.get(name, 0) + value
        if report.problems:
            bad.append(report)
    bad.sort(key=lambda report: report.seed)
    return Total(number, counts, failures, bad)
