"""Speed and size of `partition`, as README states them.

    make setup && .venv/bin/python experiments/bench_partition.py [--runs 3]

Times are measured on this machine, the median of several runs of whole commands. The peer is
what people do without a flatbuffer cut: quantize two Keras sub-models, each on its own. It is
timed in the same run, and the bytes it gets wrong are counted.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from partitioner import bundle, inputs, kernels, quantize
from partitioner.catalogue import Catalogue
from partitioner.cut import split
from partitioner.graph import Graph
from partitioner.source import Request, Source, open_source

LAYER = "block_16_project_BN"
PEER_LAYERS = ("block_5_add", LAYER)
BOUNDS = {"whole_s": 30.0, "list_s": 60.0, "tflite_s": 3.0, "cut_ms": 100.0, "peak_gb": 3.0}


def command(*arguments: str, cwd: Path) -> tuple[float, float]:
    """Seconds and peak resident GB of one `partition` as a whole process."""
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "partitioner.cli", *arguments],
        cwd=cwd,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"partition {' '.join(arguments)} failed")
    return time.monotonic() - started, usage.ru_maxrss / 1e6


def median_ms(action: Callable[[], Any], runs: int = 21) -> float:
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        action()
        times.append((time.perf_counter() - started) * 1e3)
    return statistics.median(times)


def peer(source: Source, layer: str) -> tuple[float, float, float]:
    """Quantize head and tail as Keras models of their own.

    Returns seconds, and the share of differing values at the boundary and at the output, over
    20 real images.
    """
    import keras

    model = source.keras_model
    assert model is not None
    assert source.calibration is not None
    (data,) = source.calibration.arrays
    started = time.perf_counter()
    head = keras.Model(model.input, model.get_layer(layer).output)
    tail_input = keras.Input(head.output_shape[1:])
    tail = _tail(model, layer, tail_input)
    middle = head.predict(data, verbose=0)
    pieces = [Graph(quantize.to_int8(head, [data])), Graph(quantize.to_int8(tail, [middle]))]
    seconds = time.perf_counter() - started

    catalogue = Catalogue(source.graph, source.layers)
    _, cut = catalogue.resolve(layer)
    full = kernels.exact().load(source.graph.data, keep_tensors=True)
    first, second = (kernels.exact().load(piece.data) for piece in pieces)
    rows = inputs.quantized([data[:20]], [bundle.spec(source.graph, source.graph.inputs[0])])
    counts = np.zeros(4)
    for row in rows:
        wanted = full.run(row)[0]
        boundary = first.run(row)[0]
        found = second.run([boundary])[0]
        reference = full.tensor(cut.tensors[0])
        counts += [
            (boundary.reshape(-1) != reference.reshape(-1)).sum(),
            boundary.size,
            (found.reshape(-1) != wanted.reshape(-1)).sum(),
            found.size,
        ]
    return seconds, counts[0] / counts[1], counts[2] / counts[3]


def _tail(model: Any, layer: str, tail_input: Any) -> Any:
    """The layers after `layer`, which nothing else crosses, applied to a new input."""
    import keras

    values = {id(model.get_layer(layer).output): tail_input}
    seen = False
    for one in model.layers:
        if seen:
            taken = one.input if isinstance(one.input, list) else [one.input]
            given = [values[id(t)] for t in taken]
            values[id(one.output)] = one(given if isinstance(one.input, list) else given[0])
        seen = seen or one.name == layer
    return keras.Model(tail_input, values[id(model.output)])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args().runs
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole = [command("--layer", LAYER, "--force", cwd=folder) for _ in range(runs)]
        (full,) = folder.rglob("full.tflite")
        listing = [command("--list", cwd=folder) for _ in range(runs)]
        small = [
            command("--model", str(full), "--layer", "#60", "--force", cwd=folder)
            for _ in range(runs)
        ]
    found["whole_s"] = statistics.median(s for s, _ in whole)
    found["list_s"] = statistics.median(s for s, _ in listing)
    found["tflite_s"] = statistics.median(s for s, _ in small)
    found["peak_gb"] = max(gb for _, gb in whole + listing)

    source = open_source(Request())
    position = Catalogue(source.graph, source.layers).resolve(LAYER)[1].position
    found["cut_ms"] = median_ms(lambda: split(source.graph, (position,)))

    meanings = {
        "whole_s": f"partition --layer {LAYER}, with TensorFlow's import, conversion, accuracy",
        "list_s": "partition --list, arena of all 128 sub-models",
        "tflite_s": "partition --model FILE.tflite --layer ..., no TensorFlow",
        "cut_ms": "the cut itself: one flatbuffer into two",
        "peak_gb": "peak resident memory of the largest of these",
    }
    print(f"measured, median of {runs} runs of whole commands, {os.cpu_count()} cores")
    failed = []
    for key, meaning in meanings.items():
        unit = key.rsplit("_", 1)[1]
        holds = found[key] <= BOUNDS[key]
        failed += [] if holds else [key]
        print(
            f"  {found[key]:8.2f} {unit:<3} (bound {BOUNDS[key]:g} {unit}, "
            f"{'holds' if holds else 'FAILS'})  {meaning}"
        )
    print("peer: two Keras sub-models quantized apart, same run, same calibration")
    for layer in PEER_LAYERS:
        seconds, at_boundary, at_output = peer(source, layer)
        print(
            f"  {layer}: {seconds:.1f} s, {seconds * 1e3 / found['cut_ms']:,.0f} times the cut; "
            f"{at_boundary:.1%} of boundary values and {at_output:.1%} of outputs differ from the "
            "uncut model (cut flatbuffer: 0)"
        )
    if failed:
        raise SystemExit(f"over the bound: {', '.join(failed)}")


if __name__ == "__main__":
    main()
