"""A stage as a node runs it: received bytes in, sent bytes out, and the self-test."""

from __future__ import annotations

import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.errors import TinysplitError
from partitioner.bundle import Bundle
from partitioner.kernels import Array, Kernels
from partitioner.manifest import TensorSpec


class StageError(TinysplitError):
    """No such stage in the bundle, or tensors of another size than the manifest's."""


@dataclass(frozen=True)
class SelfTest:
    """How the golden inputs went: `passed` of `vectors` gave the expected bytes.

    `first_wrong` names the first operator whose output disagrees, None if all agree.
    """

    vectors: int
    passed: int
    first_wrong: str | None


@dataclass(frozen=True)
class Done:
    """What a stage made: tensors to send on, and the time it took in microseconds."""

    tensors: tuple[Array, ...]
    invoke_us: int
    encode_us: int


class Stage:
    """Stage `number` of a bundle, loaded on the given kernels."""

    def __init__(self, bundle: Bundle, number: int, chosen: Kernels) -> None:
        manifest = bundle.manifest
        if not 0 <= number < len(manifest.stages):
            raise StageError(f"the bundle has stages 0 to {len(manifest.stages) - 1}, not {number}")
        self._bundle = bundle
        self._spec = manifest.stages[number]
        self._kernels = chosen
        self.number = number
        self.received: tuple[TensorSpec, ...] = manifest.received(number)
        last = number == len(manifest.boundaries)
        self.sent = manifest.outputs if last else manifest.boundaries[number].tensors
        self._interpreter = chosen.load(bundle.stages[number], arena_bytes=self._spec.arena_bytes)

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

    def run(self, received: Sequence[Array]) -> Done:
        """Run the stage's file and route what it sends on."""
        started = time.perf_counter_ns()
        outputs = self._interpreter.run([received[i] for i in self._spec.inputs])
        invoked = time.perf_counter_ns()
        origin = {"output": outputs, "received": received}
        tensors = tuple(origin[route.source][route.index] for route in self._spec.sent)
        ended = time.perf_counter_ns()
        return Done(tensors, (invoked - started) // 1000, (ended - invoked) // 1000)

    def golden(self, vector: int = 0) -> tuple[Array, ...]:
        """What this stage receives in the self-test."""
        arrays = self._bundle.selftest()
        name = f"boundary_{self.number - 1}" if self.number else "input"
        return tuple(arrays[f"{name}_{i}"][vector] for i in range(len(self.received)))

    def selftest(self) -> SelfTest:
        """Run every golden input and compare the bytes of what is sent on."""
        arrays = self._bundle.selftest()
        last = self.number == len(self._bundle.manifest.boundaries)
        name = "output" if last else f"boundary_{self.number}"
        vectors = self._bundle.manifest.selftest["vectors"]
        passed = 0
        for vector in range(vectors):
            done = self.run(self.golden(vector))
            expected = [arrays[f"{name}_{i}"][vector] for i in range(len(self.sent))]
            if all(a.tobytes() == b.tobytes() for a, b in zip(expected, done.tensors, strict=True)):
                passed += 1
        wrong = None if passed == vectors else self._first_wrong(arrays["crc32"])
        return SelfTest(vectors, passed, wrong)

    def _first_wrong(self, crcs: Array) -> str:
        """The first operator whose output has another CRC-32 than the bundle says."""
        from partitioner.graph import Graph

        graph = Graph(self._bundle.stages[self.number])
        keeping = self._kernels.load(graph.data, keep_tensors=True)
        for vector in range(len(crcs)):
            received = self.golden(vector)
            keeping.run([received[i] for i in self._spec.inputs])
            for op, spec in zip(graph.operators, self._spec.operators, strict=True):
                for offset, tensor in enumerate(op.outputs):
                    value = np.ascontiguousarray(keeping.tensor(tensor))
                    if zlib.crc32(value.tobytes()) != crcs[vector, spec.crc_index + offset]:
                        shape = "x".join(str(n) for n in value.shape)
                        return f"operator {op.index} of the stage, {op.kind} to {shape}"
        return "the outputs differ although every operator agrees"
