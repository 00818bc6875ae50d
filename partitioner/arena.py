"""How much arena TensorFlow Lite Micro needs for a model, by its own account.

A model it does not like can take the process down, so models are loaded in a
worker process: `python -m partitioner.arena` reads length-prefixed models on
standard input and answers with a line of JSON each.

Figures are of the x86-64 build: its pointers are twice as wide as a board's and it
has no ESP-NN scratch.
"""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from partitioner.kernels import KernelError, available, explain
from partitioner.native_output import captured

_WORKER_ARENA = 256 << 20


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
    command = [sys.executable, "-m", "partitioner.arena"]
    with subprocess.Popen(  # noqa: S603
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    ) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        try:
            for data in models:
                try:
                    worker.stdin.write(struct.pack("<I", len(data)) + data)
                    worker.stdin.flush()
                    line = worker.stdout.readline()
                except BrokenPipeError:
                    line = b""
                if not line:
                    raise KernelError(
                        "TensorFlow Lite Micro crashed while loading the model "
                        f"(exit {worker.wait()}): its quantization is outside what the kernels "
                        "accept, or the file is damaged"
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
            runtime.Interpreter.from_bytes(data, arena_size=_WORKER_ARENA).print_allocations()
        except RuntimeError as error:
            reason = str(error)
    return {"error": explain(printed.text, reason)} if reason else vars(_parse(printed.text))


def _serve() -> None:
    while header := sys.stdin.buffer.read(4):
        (size,) = struct.unpack("<I", header)
        answer = json.dumps(_answer(sys.stdin.buffer.read(size)))
        sys.stdout.write(answer + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
