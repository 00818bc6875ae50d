"""How much arena TensorFlow Lite Micro needs for a model, by its own account.

A model it does not like can take the process down, when it is loaded or when it runs. So
models are loaded and run once, on noise, in a worker process, which reads length-prefixed
models on standard input and answers with a line of JSON each.

Figures are of the x86-64 build: its pointers are twice as wide as a board's and it
has no ESP-NN scratch.
"""

from __future__ import annotations

import contextlib
import json
import re
import select
import struct
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from partitioner import child
from partitioner.kernels import KernelError, available, explain
from partitioner.native_output import captured

_WORKER_ARENA = 256 << 20
_TIMEOUT_S = 120


@dataclass(frozen=True)
class ArenaUse:
    """Bytes of arena: `planned` is shared by tensors over time, `persistent` is not."""

    total: int
    planned: int
    persistent: int


def measure(models: Iterable[bytes]) -> Iterator[ArenaUse]:
    """The arena of each model in turn; one worker process serves them all.

    Raises:
        KernelError: TensorFlow Lite Micro is not installed, lacks an operator (named), refuses
            a model or crashes on it.
    """
    if not available():
        raise KernelError(
            "arena figures come from the package tflite-micro, which has wheels for x86-64 Linux "
            "only"
        )
    with subprocess.Popen(  # noqa: S603
        child.command("partitioner.arena", "serve"), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        try:
            for data in models:
                try:
                    worker.stdin.write(struct.pack("<I", len(data)) + data)
                    worker.stdin.flush()
                    ready, _, _ = select.select([worker.stdout], [], [], _TIMEOUT_S)
                    line = worker.stdout.readline() if ready else None
                except BrokenPipeError:
                    line = b""
                if line is None:
                    raise KernelError(
                        f"TensorFlow Lite Micro did not finish one inference in {_TIMEOUT_S} s; "
                        "the model is too large for this machine, or damaged"
                    )
                if not line:
                    raise KernelError(
                        f"TensorFlow Lite Micro crashed on the model (exit {worker.wait()}): its "
                        "quantization is outside what the kernels accept, or the file is damaged"
                    )
                answer = json.loads(line)
                if "error" in answer:
                    raise KernelError(answer["error"])
                yield ArenaUse(**answer)
        finally:
            worker.stdin.close()
            worker.kill()


def _parse(printed: str) -> ArenaUse:
    found = dict(re.findall(r"Arena allocation (total|head|tail) (\d+) bytes", printed))
    return ArenaUse(int(found["total"]), int(found["head"]), int(found["tail"]))


def _answer(data: bytes) -> dict[str, int | str]:
    from tflite_micro.python.tflite_micro import runtime

    reason = ""
    with captured(2) as printed:
        try:
            interpreter = runtime.Interpreter.from_bytes(data, arena_size=_WORKER_ARENA)
            rng = np.random.default_rng(0)
            for index in range(schema.Model.GetRootAs(data, 0).Subgraphs(0).InputsLength()):
                detail = interpreter.get_input_details(index)
                noise = rng.integers(0, 2 if detail["dtype"] == np.bool_ else 4, detail["shape"])
                interpreter.set_input(noise.astype(detail["dtype"]), index)
            interpreter.invoke()
            interpreter.print_allocations()
        except (RuntimeError, ValueError, IndexError) as error:
            reason = str(error) or type(error).__name__
    return {"error": explain(printed.text, reason)} if reason else vars(_parse(printed.text))


def serve() -> None:
    """What the worker process does until its input ends."""
    with contextlib.suppress(BrokenPipeError, KeyboardInterrupt):
        _serve()


def _serve() -> None:
    while header := sys.stdin.buffer.read(4):
        (size,) = struct.unpack("<I", header)
        answer = json.dumps(_answer(sys.stdin.buffer.read(size)))
        sys.stdout.write(answer + "\n")
        sys.stdout.flush()
