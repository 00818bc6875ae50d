"""Sweeps on a dask cluster: a scheduler and workers in processes of their own, on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from host.commands.sim import main
from host.sim import scenario as scenarios
from host.sim import sweep

SCENARIO = {
    "name": "for a cluster",
    "seconds": 5,
    "settle_seconds": 11,
    "stages": [1008, 10],
    "nodes": [{"stage": 0, "period_ms": 20}, {"stage": 1, "reboot_every_s": 5}],
    "link": {"medium": "wire", "loss": 0.1},
}
SEEDS = range(1000, 1000 + 80)
# The client's own: an event loop and sockets that its threads close after it.
pytestmark = pytest.mark.filterwarnings("default")


class Cluster:
    """A scheduler and two workers, each with one thread and without a nanny to restart it."""

    def __init__(self, folder: Path) -> None:
        self.processes: list[subprocess.Popen[bytes]] = []
        place = folder / "scheduler.json"
        self.start("dask_scheduler", "--port", "0", "--host", "127.0.0.1", "--no-dashboard",
                   "--scheduler-file", place)  # fmt: skip
        deadline = time.monotonic() + 60
        while not (place.exists() and place.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        self.address: str = json.loads(place.read_text())["address"]
        self.workers = [
            self.start("dask_worker", self.address, "--nthreads", "1", "--no-nanny",
                       "--no-dashboard", "--local-directory", folder / str(n))
            for n in range(2)
        ]  # fmt: skip

    def start(self, module: str, *arguments: Any) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.{module}", *map(str, arguments)]
        # How soon the scheduler takes a worker for dead; the default is half a minute.
        environment = {**os.environ, "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "2s"}
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.processes.append(process)
        return process

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.kill()
            process.wait()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    try:
        yield made
    finally:
        made.stop()


def test_the_same_reports_as_here_though_a_worker_dies(cluster: Cluster) -> None:
    one = scenarios.parse(SCENARIO)
    remote = []
    for count, report in enumerate(sweep.sweep(one, SEEDS, jobs=1, scheduler=cluster.address)):
        remote.append(report)
        if count == 10:
            cluster.workers[0].kill()
    assert cluster.workers[0].wait() == -9
    local = list(sweep.sweep(one, SEEDS, jobs=2))
    assert sorted(remote, key=lambda r: r.seed) == sorted(local, key=lambda r: r.seed)
    assert sweep.total(remote) == sweep.total(local)


def test_the_command_runs_on_a_cluster(
    cluster: Cluster, invoke: Callable[..., Result], tmp_path: Path
) -> None:
    path = tmp_path / "scenario.yaml"
    path.write_text(json.dumps(SCENARIO))
    result = invoke(main, path, "--seeds", 5, "--scheduler", cluster.address)
    assert result.exit_code == 0, result.output
    assert "for a cluster" in result.output


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense", "foo://127.0.0.1:1"])
def test_nobody_at_that_address_is_one_line(
    invoke: Callable[..., Result], tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("host.cluster.CONNECT_TIMEOUT", "1s")
    path = tmp_path / "scenario.yaml"
    path.write_text(json.dumps(SCENARIO))
    result = invoke(main, path, "--seeds", 1, "--scheduler", address)
    assert result.exit_code == 1
    assert result.output.endswith(f"error: no dask scheduler answers at {address}\n")
    assert result.output.count("\n") == 1
