"""Heads for a gateway: what they send, what must come back, and light ones on the Python link."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from host.gateway.service import Gateway, Options
from host.link.driver import LinkClient, Result
from host.link.session import Node
from host.link.tcp import TcpClient, TcpServer
from host.link.udp import UdpClient, UdpServer
from partitioner import child, kernels
from partitioner.bundle import Bundle
from partitioner.kernels import Array

LOOPBACK = "127.0.0.1"


class Examples:
    """Boundaries before the last stage of a bundle and the uncut model's outputs."""

    def __init__(self, bundle: Bundle, count: int = 5, seed: int = 7) -> None:
        rng = np.random.default_rng(seed)
        shape = bundle.manifest.inputs[0].shape
        chain = bundle.chain(kernels.exact())
        uncut = kernels.exact().load(bundle.full)
        self.id = bytes.fromhex(bundle.manifest.id)
        self.stages = len(bundle.stages)
        self.boundaries: list[tuple[Array, ...]] = []
        self.outputs: list[bytes] = []
        for _ in range(count):
            value = rng.integers(-128, 128, shape, np.int8)
            self.boundaries.append(chain.run([value]).messages[-1])
            self.outputs.append(uncut.run([value])[0].tobytes())

    def node(self, **changes: Any) -> Node:
        """Who a head of the bundle is: the stage before the last."""
        role = Node.head(self.id, self.stages, **changes)
        if self.stages == 2:
            return role
        return Node(2, self.stages - 2, self.stages, self.id, **changes)  # type: ignore[arg-type]


async def ask(
    client: LinkClient, examples: Examples, number: int, deadline_s: float = 30.0
) -> Result:
    """One inference, exact."""
    which = number % len(examples.outputs)
    result = await client.infer(number, examples.boundaries[which], deadline_s)
    assert bytes(result.tensors[0]) == examples.outputs[which]
    return result


@contextlib.asynccontextmanager
async def serving(
    *folders: Path, tcp: bool = False, engines: int = 1, **options: Any
) -> AsyncIterator[tuple[Gateway, int, list[str]]]:
    """A gateway in this process: it, its port and what it says."""
    said: list[str] = []
    kind, name = (TcpServer, "tcp://") if tcp else (UdpServer, "udp://")
    transports = [(name, kind(LOOPBACK, 0))]
    settings = Options(engines=engines, **options)
    async with Gateway(list(folders), transports, settings, say=said.append) as gateway:
        yield gateway, gateway.listeners[0].server.address[1], said


def connect(port: int, examples: Examples, *, tcp: bool = False, **node: Any) -> LinkClient:
    kind = TcpClient if tcp else UdpClient
    return LinkClient(kind(LOOPBACK, port), examples.node(**node))


@contextlib.contextmanager
def stopped(*pids: int) -> Any:
    """These engines do nothing meanwhile."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


async def until(holds: Any, timeout_s: float = 20.0) -> None:
    """Wait for a condition of this process."""
    end = asyncio.get_running_loop().time() + timeout_s
    while not holds():
        assert asyncio.get_running_loop().time() < end, "it did not come about"
        await asyncio.sleep(0.01)


class GatewayProcess:
    """`tinysplit gateway` as a process of its own; a context manager that ends it.

    `ports` are those it listens at, in order; `http` is where it answers, `lines` what it said.
    """

    def __init__(
        self, *arguments: object, environment: Mapping[str, str] | None = None, before: str = ""
    ) -> None:
        command = [*child.command("host.cli", "main"), "gateway", "--json", "--engines", "1"]
        command[3] = before + command[3]
        self.process = subprocess.Popen(
            [*command, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        self.lines: list[dict[str, Any]] = []
        ready = self.wait_for("ready")
        places = [place.rsplit(":", 1) for place in ready["listen"] if ":" in place]
        self.ports = [int(port) for _, port in places if port.isdigit()]
        self.http: str | None = ready["http"]

    def wait_for(self, event: str, text: str = "") -> dict[str, Any]:
        """The next such line."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(json.loads(line))
            if self.lines[-1]["event"] == event and text in self.lines[-1].get("text", ""):
                return self.lines[-1]
        assert self.process.stderr is not None
        raise AssertionError(f"it ended: {self.process.stderr.read()}")

    def __enter__(self) -> GatewayProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def stop(self) -> tuple[int, str]:
        """SIGTERM: the exit code and standard error."""
        self.process.terminate()
        out, err = self.process.communicate(timeout=30)
        self.lines += [json.loads(line) for line in out.splitlines()]
        return self.process.returncode, err
