"""Many seeds of a scenario, on all cores of this machine or on a dask cluster."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from host.sim import world
from host.sim.scenario import Scenario
from host.sim.world import Report
from models.errors import TinysplitError

_CHUNK = 8


class SweepError(TinysplitError):
    """The cluster is not to be had."""


def _run(work: tuple[Scenario, list[int]]) -> list[Report]:
    scenario, seeds = work
    return [world.run(scenario, seed)[0] for seed in seeds]


def sweep(
    scenario: Scenario, seeds: Iterable[int], *, jobs: int, scheduler: str | None = None
) -> Iterator[Report]:
    """A report for every seed, as they come.

    Args:
        jobs: processes on this machine.
        scheduler: address of a dask scheduler to run on instead.

    Raises:
        SweepError: dask is not installed, or nobody answers at that address.
    """
    listed = list(seeds)
    chunks = [(scenario, listed[i : i + _CHUNK]) for i in range(0, len(listed), _CHUNK)]
    if scheduler is not None:
        yield from _on_cluster(chunks, scheduler)
    elif jobs == 1:
        for chunk in chunks:
            yield from _run(chunk)
    else:
        with ProcessPoolExecutor(jobs) as pool:
            for reports in pool.map(_run, chunks):
                yield from reports


def _on_cluster(chunks: list[tuple[Scenario, list[int]]], scheduler: str) -> Iterator[Report]:
    try:
        distributed = importlib.import_module("distributed")
    except ModuleNotFoundError as error:
        raise SweepError("--scheduler needs dask: pip install 'tinysplit[cluster]'") from error
    try:
        client = distributed.Client(scheduler, timeout="10s")
    except (OSError, ValueError) as error:
        raise SweepError(f"no dask scheduler at {scheduler}: {error}") from error
    with client:
        for _, reports in distributed.as_completed(client.map(_run, chunks), with_results=True):
            yield from reports


@dataclass(frozen=True)
class Total:
    """Over all seeds of a scenario."""

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
    return Total(number, counts, failures, bad)
