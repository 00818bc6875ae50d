"""Running the stages of a bundle one after another, in this process."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from partitioner.kernels import Array, Interpreter, Kernels
from partitioner.manifest import Manifest


@dataclass(frozen=True)
class Passage:
    """One input's way through the chain.

    `messages[k]` are the tensors at boundary k; `outputs` those of the last stage;
    `stage_us[k]` the time stage k took, by this machine's clock.
    """

    messages: tuple[tuple[Array, ...], ...]
    outputs: tuple[Array, ...]
    stage_us: tuple[float, ...]


class Chain:
    """The loaded stages of a bundle.

    Args:
        manifest: of the bundle.
        files: bytes of each stage's file, in order.

    Raises:
        KernelError: a stage does not load.
    """

    def __init__(self, manifest: Manifest, files: Sequence[bytes], kernels: Kernels) -> None:
        self._manifest = manifest
        self._interpreters: list[Interpreter] = [
            kernels.load(data, arena_bytes=stage.arena_bytes)
            for data, stage in zip(files, manifest.stages, strict=True)
        ]

    def run(self, inputs: Sequence[Array]) -> Passage:
        """Send one set of inputs, of the manifest's shapes and dtypes, through all stages."""
        received = tuple(inputs)
        messages, times = [], []
        for stage, interpreter in zip(self._manifest.stages, self._interpreters, strict=True):
            started = time.perf_counter()
            outputs = interpreter.run([received[i] for i in stage.inputs])
            times.append((time.perf_counter() - started) * 1e6)
            origin = {"output": outputs, "received": received}
            received = tuple(origin[route.source][route.index] for route in stage.sent)
            messages.append(received)
        return Passage(tuple(messages[:-1]), messages[-1], tuple(times))
