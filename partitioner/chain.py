"""Running stages: one as a node runs it, or all of a bundle one after another."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.errors import TinysplitError
from partitioner.kernels import Array, Kernels
from partitioner.manifest import Manifest, StageSpec, TensorSpec


class StageError(TinysplitError):
    """No such stage in the bundle, or tensors of another size than the manifest's."""


@dataclass(frozen=True)
class Done:
    """What a stage made: the tensors it sends on, and the time it took in microseconds.

    `invoke_us` is the kernels', `encode_us` what it took to route their outputs.
    """

    tensors: tuple[Array, ...]
    invoke_us: int
    encode_us: int


class Stage:
    """Stage `number` of a bundle, loaded: what a node receives in, what it sends on out.

    Args:
        data: the stage's file.

    Raises:
        StageError: the bundle has no such stage.
        KernelError: the file does not load.
    """

    def __init__(self, manifest: Manifest, number: int, data: bytes, kernels: Kernels) -> None:
        if not 0 <= number < len(manifest.stages):
            raise StageError(f"the bundle has stages 0 to {len(manifest.stages) - 1}, not {number}")
        last = number == len(manifest.boundaries)
        sent = manifest.outputs if last else manifest.boundaries[number].tensors
        self._open(number, manifest.stages[number], manifest.received(number), sent, data, kernels)

    @classmethod
    def of(
        cls,
        number: int,
        spec: StageSpec,
        received: tuple[TensorSpec, ...],
        sent: tuple[TensorSpec, ...],
        data: bytes,
        kernels: Kernels,
    ) -> Stage:
        """A stage that did not come in a bundle.

        Raises:
            KernelError: `data`, its file, does not load.
        """
        stage = cls.__new__(cls)
        stage._open(number, spec, received, sent, data, kernels)
        return stage

    def _open(
        self,
        number: int,
        spec: StageSpec,
        received: tuple[TensorSpec, ...],
        sent: tuple[TensorSpec, ...],
        data: bytes,
        kernels: Kernels,
    ) -> None:
        self.number = number
        self.spec = spec
        self.received = received
        self.sent = sent
        self._interpreter = kernels.load(data, arena_bytes=spec.arena_bytes)

    @property
    def received_bytes(self) -> int:
        return sum(tensor.bytes for tensor in self.received)

    @property
    def sent_bytes(self) -> int:
        return sum(tensor.bytes for tensor in self.sent)

    def decode(self, data: bytes | memoryview, lengths: Sequence[int]) -> tuple[Array, ...]:
        """Tensors that lie one behind the other in `data`, as arrays on the same memory.

        Raises:
            StageError: other lengths than the manifest's.
        """
        wanted = [tensor.bytes for tensor in self.received]
        if list(lengths) != wanted or len(data) != sum(wanted):
            raise StageError(f"stage {self.number} takes tensors of {wanted}, not {list(lengths)}")
        arrays, at = [], 0
        for spec in self.received:
            dtype = np.dtype(spec.dtype).newbyteorder("<")
            piece = np.frombuffer(data, dtype, spec.bytes // dtype.itemsize, at)
            arrays.append(piece.reshape(spec.shape).astype(np.dtype(spec.dtype), copy=False))
            at += spec.bytes
        return tuple(arrays)

    def reset(self) -> None:
        """Forget what variable tensors kept from runs before."""
        self._interpreter.reset()

    def run(self, received: Sequence[Array]) -> Done:
        """Run the file on tensors of the manifest's shapes and dtypes; route what it sends."""
        started = time.perf_counter_ns()
        outputs = self._interpreter.run([received[i] for i in self.spec.inputs])
        invoked = time.perf_counter_ns()
        origin = {"output": outputs, "received": received}
        tensors = tuple(origin[route.source][route.index] for route in self.spec.sent)
        ended = time.perf_counter_ns()
        return Done(tensors, (invoked - started) // 1000, (ended - invoked) // 1000)


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
    """All stages of a bundle, loaded.

    Args:
        files: bytes of each stage's file, in order.

    Raises:
        KernelError: a stage does not load.
    """

    def __init__(self, manifest: Manifest, files: Sequence[bytes], kernels: Kernels) -> None:
        self._stages = [Stage(manifest, n, data, kernels) for n, data in enumerate(files)]

    def reset(self) -> None:
        """Forget what variable tensors kept from runs before."""
        for stage in self._stages:
            stage.reset()

    def run(self, inputs: Sequence[Array]) -> Passage:
        """Send one set of inputs, of the manifest's shapes and dtypes, through all stages."""
        received = tuple(inputs)
        messages, times = [], []
        for stage in self._stages:
            done = stage.run(received)
            received = done.tensors
            messages.append(received)
            times.append(float(done.invoke_us + done.encode_us))
        return Passage(tuple(messages[:-1]), messages[-1], tuple(times))
