"""How good and how fast planning is, beside the paper's methods: writes bench_plan.md.

    .venv/bin/python experiments/bench_plan.py

Networks are quantized with random weights, which change no cost. Costs are modelled, planning times
measured: the median of repeated runs in this process, on whatever machine this is.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from partitioner.cost.links import Link
from partitioner.plan import comparators
from partitioner.plan.exact import Solution, best
from partitioner.plan.model import NodeProfile, SplitModel, named
from partitioner.plan.problem import Criterion, PlanError, Problem
from partitioner.source import Request, open_source

OUTPUT = Path(__file__).with_suffix(".md")
NETWORKS = {
    "MobileNetV2 0.35 @96": Request(weights="random", size=96),
    "ResNet50 @64": Request(model="resnet50", weights="random", size=64),
}
DEVICES = (2, 3, 4, 5, 6, 8)
# Enough memory for ResNet50's stages, so that planning, not fitting, is what is compared.
BOARD = NodeProfile("board", psram_bytes=8 << 20, slot_bytes=16 << 20)
_BRUTE_FORCE_UP_TO = 4
_RUNS = 9

Method = Callable[[Problem, Criterion], Solution | None]
METHODS: dict[str, Method] = {
    "exact": best,
    "brute force": comparators.brute_force,
    "beam search (8)": comparators.beam_search,
    "greedy": comparators.greedy,
    "first fit": comparators.first_fit,
    "random fit": comparators.random_fit,
}


def _measure(method: Method, model: SplitModel, runs: int) -> tuple[Solution | None, float]:
    found, times = None, []
    for _ in range(runs):
        problem, criterion = model.problem(), model.latency()  # Nothing cached between runs.
        started = time.perf_counter()
        try:
            found = method(problem, criterion)
        except PlanError:
            found = None
        times.append((time.perf_counter() - started) * 1e3)
    return found, statistics.median(times)


def _rows(name: str, request: Request) -> list[str]:
    graph = open_source(request).graph
    rows = []
    for count in DEVICES:
        model = SplitModel(graph, named([BOARD] * count), [Link()] * (count - 1))
        optimum, _ = _measure(best, model, 1)
        assert optimum is not None
        cells = []
        for label, method in METHODS.items():
            if label == "brute force" and count > _BRUTE_FORCE_UP_TO:
                cells.append("")
                continue
            found, ms = _measure(method, model, 1 if label == "brute force" else _RUNS)
            ratio = "none" if found is None else f"{found.costs[0] / optimum.costs[0]:.3f}"
            cells.append(f"{ratio} / {ms:,.2f}")
        rows.append(f"| {name} | {count} | " + " | ".join(cells) + " |")
        print(rows[-1])
    model = SplitModel(graph, named([BOARD] * 50), [Link()] * 49)
    _, ms = _measure(best, model, _RUNS)
    print(f"{name}: 50 devices, exact {ms:.1f} ms")
    rows.append(f"| {name} | 50 | {1:.3f} / {ms:,.2f} |" + " |" * (len(METHODS) - 1))
    return rows


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    lines = [
        "# Planning",
        "",
        "`.venv/bin/python experiments/bench_plan.py`: end-to-end latency of a chain of equal "
        "boards over ESP-NOW at 1 Mbit/s, every board used. Each cell: cost relative to the "
        "optimum (modelled) / planning time in ms (measured, median of "
        f"{_RUNS} runs, problem set up anew for each). The paper's beam search takes 100 ms for "
        "5 devices on its own machine.",
        "",
        "| network | devices | " + " | ".join(METHODS) + " |",
        "|---|---|" + "---|" * len(METHODS),
    ]
    for name, request in NETWORKS.items():
        lines += _rows(name, request)
    OUTPUT.write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
