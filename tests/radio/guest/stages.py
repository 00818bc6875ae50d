"""What a bundle's stages should receive and answer, and a last stage in this process."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

from host.boards.selftest import golden
from host.link.driver import Reply, Request
from partitioner import kernels
from partitioner.bundle import Bundle
from partitioner.chain import Stage


def last_stage(bundle: Bundle) -> Stage:
    number = len(bundle.stages) - 1
    return Stage(bundle.manifest, number, bundle.stages[number], kernels.exact())


def boundary(bundle: Bundle, vector: int) -> list[bytes]:
    """What the last stage receives in the self-test."""
    return [array.tobytes() for array in golden(bundle, last_stage(bundle), vector)]


def output(bundle: Bundle, vector: int) -> list[bytes]:
    """What the uncut model answers in the self-test."""
    arrays = bundle.selftest()
    count = len(bundle.manifest.outputs)
    return [arrays[f"output_{i}"][vector].tobytes() for i in range(count)]


def serve_last(bundle: Bundle) -> Callable[[Request], Reply]:
    """The last stage as the handler of a LinkServer."""
    engine = last_stage(bundle)

    def handle(request: Request) -> Reply:
        sizes = [len(tensor) for tensor in request.tensors]
        done = engine.run(engine.decode(b"".join(request.tensors), sizes))
        return Reply([tensor.tobytes() for tensor in done.tensors])

    return handle


def decoded(answer: dict[str, Any]) -> list[bytes]:
    """The tensors in a board's answer to `run`."""
    return [base64.b64decode(tensor) for tensor in answer["tensors"]]
