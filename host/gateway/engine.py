"""An engine: a process that has stages loaded and runs them, one inference after the other.

Theory of operation. It reads its socket (standard input), which ends when the gateway does, and so
does the engine; on Linux the kernel ends it even if it hangs (`partitioner.child.die_with`). What
it is told to run is pure: the same job may be done again by another engine. A stage is loaded only
if it holds on the bundle's golden inputs; how its bytes compare with the expected ones is told to
the gateway, which decides.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from io import BufferedReader
from typing import Any, Final

import numpy as np

from host.gateway import wire
from host.gateway.wire import Kind
from host.link import messages
from host.link.errors import ErrorCode, LinkError
from models.errors import TinysplitError
from partitioner import kernels, manifest
from partitioner.chain import Stage, StageError

TRIAL_RUNS: Final = 12  # To say how long an inference takes.
READ_BYTES: Final = 1 << 17


@dataclass(frozen=True)
class Trial:
    """A stage on a bundle's golden inputs: how many output bytes are not the expected ones, of how
    many, by how much values differ at most, how often the class is another; and how long one
    inference takes, microseconds, median.
    """

    kernels: str
    compared_bytes: int
    differing_bytes: int
    largest_difference: float
    classes: int
    classes_changed: int
    invoke_us: float

    @property
    def exact(self) -> bool:
        return self.differing_bytes == 0


def now_us() -> int:
    return time.monotonic_ns() // 1000


class Loaded:
    """A stage ready to run."""

    def __init__(self, stage: Stage, limit: int) -> None:
        self.stage = stage
        self.limit = limit  # Bytes that a boundary may have once it is decoded.

    def run(
        self, codec: int, lengths: Sequence[int], data: memoryview
    ) -> tuple[list[bytes], int, int]:
        """Outputs as bytes, and the microseconds for decoding and for the kernels."""
        started_us = now_us()
        if codec != messages.RAW_CODEC:
            decoded = messages.decode_boundary(wire.pieces(lengths, data), codec, self.limit)
            lengths = [len(tensor) for tensor in decoded]
            data = memoryview(b"".join(decoded))
        try:
            received = self.stage.decode(data, lengths)
        except StageError as error:
            raise LinkError(str(error), code=ErrorCode.MALFORMED) from error
        decode_us = now_us() - started_us
        done = self.stage.run(received)
        return [tensor.tobytes() for tensor in done.tensors], decode_us, done.invoke_us


def load(piece: bytes) -> tuple[Loaded, Trial]:
    """A stage from a LOAD piece, and how it holds on the golden inputs.

    Raises:
        TinysplitError: the kernels refuse it.
    """
    size = wire.HEAD.size
    return _load(memoryview(piece)[size:], wire.unpack(piece).code)


def code_of(error: TinysplitError) -> int:
    """The code of SPEC.md section 11 by which a head is told that its request failed."""
    return error.code if isinstance(error, LinkError) else ErrorCode.INVOKE_FAILED


def _load(body: memoryview, head_bytes: int) -> tuple[Loaded, Trial]:
    head: dict[str, Any] = json.loads(bytes(body[:head_bytes]))
    files = body[head_bytes:]
    parsed = manifest.parse(head["manifest"])
    data = bytes(files[: head["file_bytes"]])
    stage = Stage(parsed, head["stage"], data, kernels.by_name(head["kernels"]))
    loaded = Loaded(stage, stage.received_bytes)
    received = [tensor.bytes for tensor in stage.received]
    return loaded, _try(
        loaded, received, head["vectors"], files[head["file_bytes"] :], head["name"]
    )


def _try(
    loaded: Loaded, received: Sequence[int], vectors: int, golden: memoryview, name: str
) -> Trial:
    """Run the golden inputs; `golden` has them and then the expected outputs."""
    step = sum(received)
    inputs = [golden[i * step : (i + 1) * step] for i in range(vectors)]
    expected = golden[vectors * step :]
    sent = loaded.stage.sent
    made = sum(tensor.bytes for tensor in sent)
    differing = changed = 0
    largest = 0.0
    for i, value in enumerate(inputs):
        outputs, _, _ = loaded.run(messages.RAW_CODEC, received, value)
        at = i * made
        for number, (spec, output) in enumerate(zip(sent, outputs, strict=True)):
            wanted = bytes(expected[at : at + spec.bytes])
            at += spec.bytes
            a, b = np.frombuffer(output, spec.dtype), np.frombuffer(wanted, spec.dtype)
            differing += sum(x != y for x, y in zip(output, wanted, strict=True))
            largest = max(largest, float(np.abs(a.astype(np.float64) - b).max(initial=0)))
            if number == 0 and a.size:
                changed += int(a.argmax()) != int(b.argmax())
    times = [
        loaded.run(messages.RAW_CODEC, received, inputs[i % vectors])[2] for i in range(TRIAL_RUNS)
    ]
    return Trial(
        name, vectors * made, differing, largest, vectors, changed, statistics.median(times)
    )


class _Engine:
    def __init__(self, own: socket.socket) -> None:
        self._own = own
        self._loaded: dict[int, Loaded] = {}

    def serve(self, reader: BufferedReader[socket.SocketIO]) -> None:
        """Until the gateway is gone."""
        while len(head := reader.read(wire.HEAD.size)) == wire.HEAD.size:
            piece = wire.unpack(head)
            body = memoryview(reader.read(piece.size))
            if piece.kind == Kind.RUN:
                self._own.sendall(self._run(piece, body))
            elif piece.kind == Kind.LOAD:
                self._own.sendall(self._load(piece, body))
            else:
                self._loaded.pop(piece.key, None)

    def _load(self, piece: wire.Head, body: memoryview) -> bytes:
        try:
            self._loaded[piece.key], trial = _load(body, piece.code)
        except TinysplitError as error:
            return wire.pack(Kind.REFUSED, str(error).encode(), key=piece.key)
        return wire.pack(Kind.LOADED, json.dumps(asdict(trial)).encode(), key=piece.key)

    def _run(self, piece: wire.Head, body: memoryview) -> bytes:
        started_us = now_us()
        try:
            lengths, data = wire.split(body, piece.parts)
            outputs, decode_us, invoke_us = self._loaded[piece.key].run(piece.code, lengths, data)
        except TinysplitError as error:
            text = str(error).encode()
            return wire.pack(Kind.FAILED, text, job=piece.job, code=code_of(error))
        times = wire.TIMES.pack(started_us, decode_us, invoke_us)
        return wire.pack(Kind.DONE, times + wire.join(outputs), count=len(outputs), job=piece.job)


def main() -> None:
    """What the process does; standard input is the socket to the gateway."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The gateway says when it is over.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    own = socket.socket(fileno=os.dup(0))
    own.setblocking(True)
    with (
        contextlib.suppress(ConnectionError),
        BufferedReader(socket.SocketIO(own, "r"), READ_BYTES) as reader,
    ):
        _Engine(own).serve(reader)
