"""How fast the simulator is: writes bench_sim.md. Takes a few minutes, on a quiet machine.

    .venv/bin/python experiments/bench_sim.py

Times are measured: wall clock, in this process for one core, in a pool of two for sweeps. What is
simulated counts from begin to end, the time to settle included.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path

from host.bench.environment import machine
from host.sim import scenario as scenarios
from host.sim import sweep, world
from host.sim.scenario import Scenario

HERE = Path(__file__).parent
OUTPUT = HERE / "bench_sim.md"
PAIR = HERE / "sim" / "espnow_pair.yaml"
SWEPT = ("espnow_pair", "many_heads", "update", "two_chains")
CORES = 2
RUNS = 5
LEAST_TIMES_REAL = 200
MOST_MINUTES = 10


def simulated_s(scenario: Scenario) -> float:
    """Of one seed."""
    return float(scenario["seconds"] + scenario["settle_seconds"])


def times_real(scenario: Scenario, seeds: int) -> float:
    """Simulated time over wall time, one core, median of RUNS."""
    found = []
    for run in range(RUNS):
        began = time.perf_counter()
        for seed in range(run * seeds, (run + 1) * seeds):
            world.run(scenario, seed)
        found.append(seeds * simulated_s(scenario) / (time.perf_counter() - began))
    return statistics.median(found)


def sweep_s(scenario: Scenario, seeds: int) -> float:
    """Wall time of so many seeds on CORES processes, their start included."""
    began = time.perf_counter()
    summed = sweep.total(sweep.sweep(scenario, range(seeds), jobs=CORES))
    assert summed.bad == []
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    chosen = parser.parse_args()
    load = os.getloadavg()[0]
    pair = scenarios.read(PAIR)
    ratio = times_real(pair, 20)
    rows = [("two boards, ESP-NOW, 10 % loss, one core",
             f"{ratio:,.0f} times real time", f"at least {LEAST_TIMES_REAL}")]  # fmt: skip
    for name in SWEPT:
        scenario = scenarios.read(HERE / "sim" / f"{name}.yaml")
        took_s = sweep_s(scenario, chosen.seeds)
        rows.append((
            f"{chosen.seeds:,} seeds of {scenario.name} ({scenario['seconds']:g} s and "
            f"{scenario['settle_seconds']:g} s to settle), {CORES} processes",
            f"{took_s:,.0f} s", f"at most {MOST_MINUTES * 60} s",
        ))  # fmt: skip
    here = machine()
    lines = [
        "# Simulating",
        "",
        "`.venv/bin/python experiments/bench_sim.py` on "
        f"{here.get('processor') or here.get('machine')}, {os.cpu_count()} cores; load when it "
        f"began {load:.1f}. Wall time, the median of {RUNS} runs or one sweep.",
        "",
        "| what | measured | bound |",
        "|---|---|---|",
        *(f"| {what} | {figure} | {bound} |" for what, figure, bound in rows),
    ]
    chosen.output.write_text("\n".join(lines) + "\n", "utf-8")
    print(chosen.output.read_text("utf-8"))


if __name__ == "__main__":
    main()
