"""The engines of a gateway: started, fed, and started again when they die.

Theory of operation. Each engine has a few requests at once, one that runs and those behind it, so
that it need not wait for the gateway between two. A request is kept here until it is answered. When
an engine dies, what it had is given back: the first of it was running, so it may be to blame and
counts the death; the others were only near. One that has been at a request for much longer than the
stage takes hangs, and is killed. What an engine has not done by its deadline is given up, and what
comes of it later is dropped. A new engine is started at once, later if the one
before lived briefly, and loads everything that is served.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from host.gateway import wire
from host.gateway.bundles import GatewayError, Served
from host.gateway.engine import Trial
from host.gateway.schedule import Job
from host.gateway.wire import Kind
from partitioner import child

READ_BYTES: Final = 1 << 18
SOCKET_BYTES: Final = 1 << 20
LOAD_TIMEOUT_S: Final = 120.0
SHORT_LIFE_S: Final = 5.0
LONGEST_PAUSE_S: Final = 5.0
END_TIMEOUT_S: Final = 5.0
AHEAD_US: Final = 4_000  # Work that an engine has at hand, so that it need not wait.
FEWEST_AHEAD: Final = 2
MOST_AHEAD: Final = 32
# So many times what an inference takes may be a busy machine: processors shared with many others.
TIMES_BUSY: Final = 20
# Where the link has no processor of its own it goes first: its work is short, and theirs waits
# for it.
NICENESS: Final = 5

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Done:
    """What an engine made of a request: `tensors`, and when it was worked on, microseconds."""

    tensors: list[memoryview]
    started_us: int
    decode_us: int
    invoke_us: int


class PoolUser(ABC):
    """Who gets what engines bring. All in the loop's thread."""

    @abstractmethod
    def done(self, job: Job, done: Done) -> None:
        """The request is answered."""

    @abstractmethod
    def failed(self, job: Job, code: int, text: str) -> None:
        """The stage did not take it."""

    @abstractmethod
    def engine_died(self, how: str, running: Job | None, others: list[Job]) -> None:
        """What an engine had is to be done by another one."""

    @abstractmethod
    def room(self) -> None:
        """Some engine takes more now; whatever came together was told before."""


Chosen = TypeVar("Chosen")  # Who computes a request, as `free` names it.


class Engines(ABC, Generic[Chosen]):
    """What computes for a gateway: processes (`Pool`), or itself (`host.gateway.inline`).

    `deaths` counts engines that ended too early, `hung` those of them that hung.
    """

    def __init__(self) -> None:
        self.deaths = 0
        self.hung = 0

    @abstractmethod
    def start(self) -> None:
        """Start the engines; nothing is loaded yet."""

    @property
    @abstractmethod
    def pids(self) -> list[int]:
        """The processes that live."""

    @property
    @abstractmethod
    def running(self) -> int:
        """Requests that engines have."""

    @abstractmethod
    def ready(self, served: Served) -> int:
        """How many engines have it."""

    @abstractmethod
    async def load(self, served: Served) -> Trial:
        """Have every engine load it; what they found on its golden inputs.

        Raises:
            GatewayError: an engine refuses it, or dies of it.
        """

    @abstractmethod
    def unload(self, served: Served) -> None:
        """Have every engine forget it."""

    @abstractmethod
    def free(self, served: Served) -> Chosen | None:
        """Who takes one more of these; None: nobody does."""

    @abstractmethod
    def has_room(self) -> bool:
        """Whether there may be somebody who takes one more of anything."""

    @abstractmethod
    def submit(self, chosen: Chosen, job: Job, now_us: int) -> None:
        """Give a request to whom `free` named."""

    @abstractmethod
    def late(self, now_us: int) -> Iterator[Job]:
        """Give up what engines have and nobody waits for any more."""

    @abstractmethod
    def end_hung(self, now_us: int, allowed_us: int) -> None:
        """End engines that have been at one request for too long: `allowed_us`, and more if it is a
        long one."""

    @abstractmethod
    async def close(self) -> None:
        """End the engines; what they run is not waited for."""


@dataclass(eq=False)
class _Engine:
    """One process."""

    process: subprocess.Popen[bytes]
    own: socket.socket
    started_s: float
    # In the order they were given; None: given up.
    jobs: dict[int, Job | None] = field(default_factory=dict)
    loaded: set[int] = field(default_factory=set)
    held: bytearray = field(default_factory=bytearray)
    out: deque[bytes] = field(default_factory=deque)
    running_since_us: int = 0
    hung_us: int = 0  # It was killed because it had done nothing for so long.


class Pool(Engines[_Engine]):
    """`count` engines for `user`. `cores`: the processors they may use, None: all."""

    def __init__(self, count: int, user: PoolUser, cores: set[int] | None = None) -> None:
        super().__init__()
        self.count = count
        self._user = user
        self._cores = cores
        self._engines: list[_Engine] = []
        self._served: dict[int, Served] = {}
        self._ahead: dict[int, int] = {}
        self._invoke_us: dict[int, int] = {}  # Of what is served, as engines found it.
        self._loading: dict[tuple[_Engine, int], asyncio.Future[Trial]] = {}
        self._next_job = 0
        self._starting: set[asyncio.Task[None]] = set()
        self._closing = False
        self._pause_s = 0.0

    def start(self) -> None:
        for _ in range(self.count):
            self._start_one()

    def _start_one(self) -> _Engine:
        try:
            own, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError as error:  # Too many files are open, say.
            raise GatewayError(f"no engine can be started: {error.strerror}") from error
        for end in (own, theirs):
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                with contextlib.suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, option, SOCKET_BYTES)
        own.setblocking(False)
        try:
            process = subprocess.Popen(  # noqa: S603
                child.command("host.gateway.engine", "main", bound=True),
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the gateway, which ends them itself.
            )
        except OSError as error:
            own.close()
            raise GatewayError(f"no engine can be started: {error.strerror}") from error
        finally:
            theirs.close()
        if self._cores is not None and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(process.pid, self._cores)
        else:
            with contextlib.suppress(OSError):
                nice = os.getpriority(os.PRIO_PROCESS, 0) + NICENESS
                os.setpriority(os.PRIO_PROCESS, process.pid, nice)
        engine = _Engine(process, own, time.monotonic())
        self._engines.append(engine)
        asyncio.get_running_loop().add_reader(own.fileno(), self._read, engine)
        return engine

    @property
    def pids(self) -> list[int]:
        return [engine.process.pid for engine in self._engines]

    @property
    def running(self) -> int:
        return sum(len(engine.jobs) for engine in self._engines)

    def ready(self, served: Served) -> int:
        return sum(served.key in engine.loaded for engine in self._engines)

    async def load(self, served: Served) -> Trial:
        piece = await asyncio.to_thread(served.load)
        if not self._engines:
            raise GatewayError(f"{served.folder} cannot be loaded now: all engines restart")
        self._served[served.key] = served  # Those that are started meanwhile load it, too.
        waiting = [self._send_load(engine, served, piece) for engine in self._engines]
        try:
            trials = await asyncio.wait_for(asyncio.gather(*waiting), LOAD_TIMEOUT_S)
        except asyncio.TimeoutError:
            for engine, key in list(self._loading):
                if key == served.key:
                    self._end_hung(engine, int(LOAD_TIMEOUT_S * 1e6))
            self.unload(served)
            raise GatewayError(
                f"{served.folder} cannot be served: an engine did not load it within "
                f"{LOAD_TIMEOUT_S:g} s"
            ) from None
        except GatewayError:
            self.unload(served)
            raise
        finally:
            for one in waiting:
                one.add_done_callback(lambda done: done.cancelled() or done.exception())
        found = trials[0]
        wanted = round(AHEAD_US / max(found.invoke_us, 1))
        self._invoke_us[served.key] = round(found.invoke_us)
        self._ahead[served.key] = min(max(wanted + 1, FEWEST_AHEAD), MOST_AHEAD)
        return found

    def _send_load(self, engine: _Engine, served: Served, piece: bytes) -> asyncio.Future[Trial]:
        future: asyncio.Future[Trial] = asyncio.get_running_loop().create_future()
        self._loading[engine, served.key] = future
        self._write(engine, piece)
        return future

    def unload(self, served: Served) -> None:
        self._served.pop(served.key, None)
        self._invoke_us.pop(served.key, None)
        for engine in self._engines:
            engine.loaded.discard(served.key)
            self._write(engine, wire.pack(Kind.UNLOAD, key=served.key))

    def free(self, served: Served) -> _Engine | None:
        """The engine with the least to do."""
        most = self._ahead.get(served.key, FEWEST_AHEAD)
        chosen = None
        for engine in self._engines:
            if len(engine.jobs) < most and served.key in engine.loaded:
                chosen, most = engine, len(engine.jobs)
        return chosen

    def has_room(self) -> bool:
        most = max(self._ahead.values(), default=0)
        return any(engine.loaded and len(engine.jobs) < most for engine in self._engines)

    def submit(self, chosen: _Engine, job: Job, now_us: int) -> None:
        self._next_job += 1
        event = job.event
        if not chosen.jobs:
            chosen.running_since_us = now_us
        chosen.jobs[self._next_job] = job
        body = wire.join(event.tensors)
        self._write(
            chosen,
            wire.pack(
                Kind.RUN,
                body,
                count=len(event.tensors),
                key=job.head.served.key,
                job=self._next_job,
                code=event.codec,
            ),
        )

    def _write(self, engine: _Engine, data: bytes) -> None:
        if engine.out:
            engine.out.append(data)
            return
        try:
            sent = engine.own.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            return  # It is dead, which reading says, too.
        if sent < len(data):
            engine.out.append(data[sent:])
            asyncio.get_running_loop().add_writer(engine.own.fileno(), self._flush, engine)

    def _flush(self, engine: _Engine) -> None:
        try:
            while engine.out:
                sent = engine.own.send(engine.out[0])
                if sent < len(engine.out[0]):
                    engine.out[0] = engine.out[0][sent:]
                    return
                engine.out.popleft()
        except BlockingIOError:
            return
        except OSError:
            engine.out.clear()
        asyncio.get_running_loop().remove_writer(engine.own.fileno())

    def _read(self, engine: _Engine) -> None:
        try:
            data = engine.own.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._dead(engine)
            return
        held = engine.held
        held += data
        at = 0
        size = wire.HEAD.size
        while len(held) - at >= size:
            piece = wire.unpack(memoryview(held)[at : at + size])
            end = at + size + piece.size
            if len(held) < end:
                break
            self._take(engine, piece, bytes(memoryview(held)[at + size : end]))
            at = end
        del held[:at]
        self._user.room()

    def _take(self, engine: _Engine, piece: wire.Head, body: bytes) -> None:
        if piece.kind in (Kind.DONE, Kind.FAILED):
            job = engine.jobs.pop(piece.job, None)
            engine.running_since_us = time.monotonic_ns() // 1000
            if job is None:
                return
            if piece.kind == Kind.FAILED:
                self._user.failed(job, piece.code, body.decode("utf-8", "replace"))
                return
            times = wire.TIMES.unpack_from(body)
            lengths, data = wire.split(memoryview(body)[wire.TIMES.size :], piece.parts)
            self._user.done(job, Done(wire.pieces(lengths, data), *times))
            return
        engine.running_since_us = time.monotonic_ns() // 1000
        future = self._loading.pop((engine, piece.key), None)
        if future is None or future.done():
            return
        if piece.kind == Kind.REFUSED:
            future.set_exception(GatewayError(f"an engine refuses it: {body.decode()}"))
            return
        engine.loaded.add(piece.key)
        future.set_result(Trial(**json.loads(body)))

    def late(self, now_us: int) -> Iterator[Job]:
        for engine in self._engines:
            for number, job in engine.jobs.items():
                if job is not None and job.event.deadline_us <= now_us:
                    engine.jobs[number] = None
                    yield job

    def end_hung(self, now_us: int, allowed_us: int) -> None:
        """Those that have been at one request for longer than `allowed_us` and TIMES_BUSY times
        what a stage takes, or at loading for LOAD_TIMEOUT_S."""
        loading = {engine for engine, _ in self._loading}
        for engine in self._engines:
            took_us = now_us - engine.running_since_us
            if not engine.jobs or engine.hung_us:
                continue
            longest_us = allowed_us + TIMES_BUSY * max(self._invoke_us.values(), default=0)
            if engine in loading:
                longest_us = int(LOAD_TIMEOUT_S * 1e6)
            if took_us > longest_us:
                self._end_hung(engine, took_us)

    def _end_hung(self, engine: _Engine, for_us: int) -> None:
        """Its death is noticed as any other's."""
        engine.hung_us = for_us
        self.hung += 1
        with contextlib.suppress(ProcessLookupError):
            os.kill(engine.process.pid, signal.SIGKILL)

    def _dead(self, engine: _Engine) -> None:
        """Its socket ended."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(engine.own.fileno())
        loop.remove_writer(engine.own.fileno())
        engine.own.close()
        self._engines.remove(engine)
        for (one, key), future in list(self._loading.items()):
            if one is engine:
                del self._loading[one, key]
                if not future.done():
                    future.set_exception(GatewayError("an engine died while it loaded it"))
        if self._closing:
            return
        with contextlib.suppress(ProcessLookupError):
            engine.process.kill()
        how = child.how_ended(engine.process.wait())
        if engine.hung_us:
            how = f"it hung for {engine.hung_us / 1e6:.1f} s, {how}"
        self.deaths += 1
        running, *behind = list(engine.jobs.values()) or [None]
        others = [job for job in behind if job is not None]
        brief = time.monotonic() - engine.started_s < SHORT_LIFE_S
        self._pause_s = min(max(2 * self._pause_s, 0.1), LONGEST_PAUSE_S) if brief else 0.0
        self._user.engine_died(how, running, others)
        task = loop.create_task(self._replace(self._pause_s))
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)

    async def _replace(self, pause_s: float) -> None:
        await asyncio.sleep(pause_s)
        if self._closing:
            return
        try:
            engine = self._start_one()
        except GatewayError as error:
            _log.warning("%s", error)
            await self._replace(LONGEST_PAUSE_S)
            return
        for served in list(self._served.values()):
            piece = await asyncio.to_thread(served.load)
            try:
                await asyncio.wait_for(self._send_load(engine, served, piece), LOAD_TIMEOUT_S)
            except GatewayError:
                return  # It died, and is being replaced.
            except asyncio.TimeoutError:
                self._end_hung(engine, int(LOAD_TIMEOUT_S * 1e6))  # Another one comes for it.
                return
        self._user.room()

    async def close(self) -> None:
        self._closing = True
        for task in list(self._starting):
            task.cancel()
        await asyncio.gather(*self._starting, return_exceptions=True)
        loop = asyncio.get_running_loop()
        for engine in self._engines:
            loop.remove_reader(engine.own.fileno())
            loop.remove_writer(engine.own.fileno())
            engine.own.close()
            if engine.jobs:
                engine.process.kill()
        await asyncio.gather(*(asyncio.to_thread(_reap, one.process) for one in self._engines))
        self._engines.clear()


def _reap(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
