"""What measuring costs: round trips of a bare loop and of the sweep's own, on one chain of boards.

    .venv/bin/python experiments/bench_harness.py

One chain of two virtual boards over UDP serves both, block by block, in a drawn order within each
pair: in one block this process does nothing but send the next input when a result is there; in the
other it does all that `tinysplit bench` does (preprocessing, link counters of every board, the row,
the journal on disk, the screen). The round trip is the head's, by its own clock. Writes
bench_harness.md; exits 1 if the harness adds more than 1 % to the median.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
from itertools import chain
from pathlib import Path

from rich.console import Console

from host.bench import bundles, environment, spec
from host.bench.measured import Examples, OnNodes
from host.bench.progress import Screen
from host.bench.runner import CellRun
from host.bench.store import Store

HERE = Path(__file__).parent
BOUND = 0.01
EXPERIMENT = """\
version: 1
name: harness
models: [{model: mobilenet_v2}]
cuts: [block_16_project_BN]
transports: [udp]
"""


def interval(ratios: list[float], rng: random.Random, draws: int = 4000) -> tuple[float, float]:
    """95 % bootstrap interval of the median (Efron 1979, percentile method)."""
    medians = sorted(statistics.median(rng.choices(ratios, k=len(ratios))) for _ in range(draws))
    return medians[round(0.025 * draws)], medians[round(0.975 * draws) - 1]


def measure(pairs: int, block: int, cache: Path, folder: Path) -> dict[str, list[list[float]]]:
    """Round trips in us by kind, `pairs` blocks of `block` each; and wall times."""
    experiment = spec.parse(EXPERIMENT, folder)
    (cell,) = experiment.cells
    folders = bundles.prepare(experiment, cache, print)
    opened = bundles.read_all(experiment, folders)[bundles.key(cell)]
    found: dict[str, list[list[float]]] = {"bare": [], "harness": [], "bare wall": [],
                                           "harness wall": []}  # fmt: skip
    rng = random.Random(1)
    examples = Examples(experiment.inputs)
    nodes = OnNodes(experiment, cell, opened, folders[bundles.key(cell)], examples)
    with Store(folder / "out", experiment) as held, nodes, (folder / "screen").open("w") as sink:
        screen = Screen(Console(file=sink, force_terminal=True, width=120))
        screen.begin(experiment, [], [cell])
        screen.cell(cell)
        run = CellRun(experiment, held, cell, nodes, screen, lambda _cell, _boards: None)
        held.begin(cell)
        run.begin()
        inputs = [example.quantized for example in examples.of(bundles.key(cell), opened)]

        def bare(number: int) -> float:
            return nodes.testbed.infer(inputs[number % len(inputs)]).round_trip_us

        def harness(number: int) -> float:
            return float(run.infer("run", 0, number)["round_trip_us"])

        for number in range(30):
            bare(number), harness(number)
        for _ in range(pairs):
            kinds = [("bare", bare), ("harness", harness)]
            rng.shuffle(kinds)
            for name, infer in kinds:
                began = time.perf_counter()
                found[name].append([infer(number) for number in range(block)])
                found[f"{name} wall"].append([(time.perf_counter() - began) * 1e6 / block])
        screen.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=120)
    parser.add_argument("--block", type=int, default=20, help="inferences of a block")
    parser.add_argument("--bundles", type=Path, default=Path("build/bundles"))
    parser.add_argument("--output", type=Path, default=HERE / "bench_harness.md")
    chosen = parser.parse_args()
    if chosen.pairs < 10 or chosen.block < 2:
        parser.error("at least 10 pairs of blocks of 2")
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        found = measure(chosen.pairs, chosen.block, chosen.bundles, Path(folder))
    ratios = [
        statistics.median(b) / statistics.median(a)
        for a, b in zip(found["bare"], found["harness"], strict=True)
    ]
    added = statistics.median(ratios) - 1
    low, high = interval(ratios, random.Random(2))
    every = {kind: statistics.median(chain.from_iterable(blocks)) for kind, blocks in found.items()}
    machine = environment.machine()
    lines = [
        "# What measuring costs",
        "",
        "`.venv/bin/python experiments/bench_harness.py`: two virtual boards over UDP, MobileNetV2 "
        f"(0.35, 96x96) cut at block_16_project_BN; {chosen.pairs} pairs of blocks of "
        f"{chosen.block} inferences on one chain, one of a bare loop and one of the sweep's. "
        f"{machine['processor']}, {machine['cores']} cores, load {load:.1f} at the start.",
        "",
        "| what | bare loop | sweep | how |",
        "|---|---|---|---|",
        f"| round trip, median of all | {every['bare'] / 1e3:.2f} ms | "
        f"{every['harness'] / 1e3:.2f} ms | measured by the head's clock |",
        f"| added by the sweep, median of pairs | | {added:+.2%} ({low - 1:+.2%} to "
        f"{high - 1:+.2%}, 95 %) | the same; bound: {BOUND:.0%} |",
        f"| from one inference to the next | {every['bare wall'] / 1e3:.2f} ms | "
        f"{every['harness wall'] / 1e3:.2f} ms | measured by this process's clock |",
        "",
        "The last line is what the sweep does between inferences; no round trip contains it.",
    ]
    chosen.output.write_text("\n".join(lines) + "\n", "utf-8")
    print("\n".join(lines[4:]))
    if added > BOUND:
        sys.exit(f"the sweep adds {added:.2%} to the median round trip, more than {BOUND:.0%}")


if __name__ == "__main__":
    main()
