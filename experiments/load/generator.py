"""Many heads in one process, as bench_gateway.py and the gateway's tests use them.

    with Heads(program, "udp", ("127.0.0.1", 4000), examples, count=100) as heads:
        report = heads.closed(seconds=5)

`program` is what `build` compiled from the C files beside this one and firmware/core: the link
library that ships, one core node and one socket for each head. For comparison the same program
speaks HTTP/1.1 and gRPC.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import struct
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from partitioner.bundle import Bundle

ROOT = Path(__file__).parents[2]
MAX_TENSORS = 8
Report = dict[str, Any]


class LoadError(RuntimeError):
    """The load generator did not do what it was told."""


def build(folder: Path) -> Path:
    """Compiles the generator into `folder`; its path.

    Raises:
        LoadError: there is no C compiler, or the files do not compile.
    """
    compiler = os.environ.get("CC", "cc")
    if shutil.which(compiler) is None:
        raise LoadError(f"{compiler} not found: install a C compiler, or name one in CC")
    program = folder / "heads"
    core, board, here = ROOT / "firmware/core", ROOT / "host/boards/virtual", Path(__file__).parent
    command: list[str | Path] = [compiler, "-std=c11", "-O2", "-o", program]
    command += [f"-I{place}" for place in (core / "include", core / "src", board, here)]
    command += [*sorted(here.glob("*.c")), board / "machine.c", *sorted((core / "src").glob("*.c"))]
    done = subprocess.run([*command, "-lm"], capture_output=True, text=True)
    if done.returncode != 0:
        raise LoadError(f"the load generator does not compile:\n{done.stderr}")
    return program


def write_examples(bundle: Bundle, path: Path) -> int:
    """What the heads send and must get back: the last boundary of a bundle's golden inputs, and the
    exact result. How many there are.
    """
    manifest = bundle.manifest
    golden = bundle.selftest()
    last = len(manifest.boundaries) - 1
    sent = [golden[f"boundary_{last}_{i}"] for i in range(len(manifest.boundaries[last].tensors))]
    results = [golden[f"output_{i}"] for i in range(len(manifest.outputs))]
    sizes = [tensor.bytes for tensor in manifest.boundaries[last].tensors]
    count = len(sent[0])
    with path.open("wb") as file:
        file.write(bytes.fromhex(manifest.id))
        file.write(struct.pack("<4I", last, len(manifest.stages), count, len(sizes)))
        file.write(struct.pack(f"<{MAX_TENSORS}I", *sizes, *[0] * (MAX_TENSORS - len(sizes))))
        file.write(struct.pack("<I", sum(tensor.bytes for tensor in manifest.outputs)))
        for number in range(count):
            file.write(b"".join(tensor[number].tobytes() for tensor in (*sent, *results)))
    return count


class Heads:
    """A running generator with all its heads connected; a context manager.

    `opened` says how many came up, and how long that took. Every request's result is compared byte
    for byte; `failed` turns true with the first that is wrong or lost.

    Raises (entering):
        LoadError: it does not start.
    """

    def __init__(
        self,
        program: Path,
        protocol: str,
        address: tuple[str, int],
        examples: Path,
        *,
        count: int,
        timeout_ms: int = 10_000,
        connect_s: float = 30.0,
        core: int | None = None,
        extra: Sequence[str] = (),
    ) -> None:
        words = [program, protocol, address[0], address[1], examples, "--heads", count]
        words += ["--timeout", timeout_ms, "--connect", connect_s, *extra]
        self._words = [str(word) for word in words]
        self._timeout_s = timeout_ms / 1000
        self._connect_s = connect_s
        self._core = core
        self.failed = False

    def __enter__(self) -> Heads:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(self._words, stdin=pipe, stdout=pipe, text=True)
        try:
            if self._core is not None:
                os.sched_setaffinity(self._process.pid, {self._core})
            self.opened = self._answer(self._connect_s + 5)
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._process.kill()
        try:
            self._process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()

    @property
    def pid(self) -> int:
        return self._process.pid

    def closed(self, seconds: float, *, outstanding: int = 1, warm_s: float = 0.5) -> Report:
        """Each head sends its next request as soon as it has a result; what happened."""
        self.begin_closed(seconds, outstanding=outstanding, warm_s=warm_s)
        return self.report()

    def open(self, seconds: float, rate: float, *, seed: int = 1, warm_s: float = 0.5) -> Report:
        """Requests as a Poisson process of `rate` per second over all heads; what happened."""
        self.begin_open(seconds, rate, seed=seed, warm_s=warm_s)
        return self.report()

    def begin_closed(self, seconds: float, *, outstanding: int = 1, warm_s: float = 0.5) -> None:
        """As `closed`, and `report` waits for it."""
        self._say(f"closed {warm_s} {seconds} {outstanding}", warm_s + seconds)

    def begin_open(
        self, seconds: float, rate: float, *, seed: int = 1, warm_s: float = 0.5
    ) -> None:
        """As `open`, and `report` waits for it."""
        self._say(f"open {warm_s} {seconds} {rate} {seed}", warm_s + seconds)

    def report(self) -> Report:
        """What happened in the block that was begun; times in microseconds."""
        found = self._answer(self._until - time.monotonic())
        self.failed = self.failed or bool(found["wrong"] or found["lost"])
        return found

    def _say(self, line: str, seconds: float) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        self._until = time.monotonic() + seconds + self._timeout_s + 15

    def _answer(self, timeout_s: float) -> Report:
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], timeout_s)[0]:
            raise LoadError("the load generator does not answer")
        line = self._process.stdout.readline()
        if not line:
            raise LoadError(f"the load generator ended with {self._process.wait()}")
        found: Report = json.loads(line)
        return found
