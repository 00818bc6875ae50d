"""The gateway: listeners, the queue, engines and what is told about all of it, in one loop.

Theory of operation. A request comes in at a listener, waits in `Schedule` while it holds its slot
of the link, is given to an engine, and its answer goes back to the listener it came from. Nothing
here waits for anything else: engines and results work beside this loop, and every queue between has
a bound. What a bundle is served as can change while it runs: heads find the bundle they name.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from host.gateway import bundles
from host.gateway.bundles import GatewayError, Served
from host.gateway.inline import Inline
from host.gateway.listener import Listener, ListenerUser, Past
from host.gateway.pool import Done, Engines, Pool, PoolUser
from host.gateway.schedule import Head, Job, Schedule
from host.link.driver import now_us
from host.link.errors import ErrorCode, code_name
from host.link.events import (
    MessageFailed,
    MessageSent,
    SessionEnded,
    SessionOpened,
    TensorReceived,
)
from host.link.messages import Phase, PhaseRecord
from host.link.session import Node
from host.link.transport import ServerTransport, TransportError
from models.errors import TinysplitError

HEAD_BYTES: Final = 24_000  # What a session costs beside its messages, measured: docs/gateway.md.
LOOK_S: Final = 0.02
LATE_S: Final = 0.05
TICK_S: Final = 1.0
UNUSED_S: Final = 10.0  # A retired bundle goes when no head had a session with it for so long.
MOST_KILLS: Final = 2

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """What the gateway is to be.

    `engines`: processes that compute; 0: this one does. `queue`: requests that wait, of all heads;
    `slots`: messages of one head at once. `heads` and
    `memory_bytes` bound the sessions of each listener together. `grace_s`: how long a stop waits
    for what was acknowledged, `reload_grace_s`: how long a bundle that was replaced is served on;
    `engine_timeout_s`: an engine hangs that is at one request for so long, and `pool.TIMES_BUSY`
    times what an inference takes besides.
    """

    name: str = "gateway"
    engines: int = 1
    engine_cores: frozenset[int] | None = None
    kernels: str = "exact"
    heads: int = 4096
    memory_bytes: int = 1 << 30
    queue: int = 4096
    slots: int = 2
    grace_s: float = 10.0
    reload_grace_s: float = 3600.0
    engine_timeout_s: float = 5.0


class Outcome(NamedTuple):
    """One request and what became of it. Times in microseconds; `done` None: it failed."""

    head: Head
    event: TensorReceived
    queued_us: int
    answered_us: int
    code: int
    done: Done | None

    @property
    def latency_us(self) -> int:
        """From its first fragment until the answer was handed to the link."""
        return self.answered_us - self.event.first_us


Watch = Callable[[Outcome], None]


class Gateway(ListenerUser, PoolUser):
    """An asynchronous context manager: entered, it serves.

    Raises (entering):
        TinysplitError: a bundle, an engine or a listener cannot be had.
    """

    def __init__(
        self,
        folders: list[Path],
        transports: list[tuple[str, ServerTransport]],
        options: Options | None = None,
        *,
        say: Callable[[str], None] = _log.info,
    ) -> None:
        self.options = options or Options()
        self.listeners: list[Listener] = []
        self.served: list[Served] = []
        self.schedule = Schedule(self.options.queue)
        self.started_us = now_us()
        self.requests: Counter[str] = Counter()  # By how they ended: ok, or the error's name.
        self.lost_sessions: Counter[str] = Counter()
        self.watches: list[Watch] = []
        self.answer_watches: list[Callable[[Head, MessageSent], None]] = []
        self.stopping = False
        cores = self.options.engine_cores
        self.pool: Engines[Any] = (
            Pool(self.options.engines, self, None if cores is None else set(cores))
            if self.options.engines
            else Inline(self)
        )
        self._folders = folders
        self._transports = transports
        self._say = say
        self._next_key = 0
        self._dirty: set[Listener] = set()
        self._troubles: dict[Listener, str] = {}  # What was said of each last.
        self._flushing = False
        self._outcomes: list[Outcome] = []  # Not told yet to those who watch.
        self._reloading = asyncio.Lock()
        self._ticker: asyncio.Task[None] | None = None

    # Starting, changing, stopping

    async def __aenter__(self) -> Gateway:
        try:
            await self._start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _start(self) -> None:
        fresh = [self._read(folder) for folder in self._folders]
        for one, other in ((a, b) for i, a in enumerate(fresh) for b in fresh[:i]):
            if one.id == other.id:
                raise GatewayError(f"{one.folder} and {other.folder} are the same bundle")
        self.pool.start()
        for served in fresh:
            await self._load(served)
            self.served.append(served)
        for name, transport in self._transports:
            listener = Listener(name, transport, self._nodes(), transport.profile, self)
            self.listeners.append(listener)
            self._fit(listener)
            await listener.open()
            self._say(f"listening on {listener.place}")
        self._ticker = asyncio.get_running_loop().create_task(self._tick())

    def _read(self, folder: Path) -> Served:
        self._next_key += 1
        return bundles.read(self._next_key, folder, self.options.kernels)

    async def _load(self, served: Served) -> None:
        """Raises GatewayError: the engines do not take it, or do not compute what it says."""
        trial = served.trial = await self.pool.load(served)
        if trial.kernels.startswith(bundles.DEVICE_KERNELS) and not trial.exact:
            self.pool.unload(served)
            raise GatewayError(
                f"{served.folder} cannot be served: {trial.differing_bytes} of "
                f"{trial.compared_bytes} bytes differ from what it says of its golden inputs"
            )
        self._say(describe(served))

    def _nodes(self) -> list[Node]:
        return [
            replace(served.node, serving=not self.stopping)
            for served in sorted(self.served, key=lambda served: served.retired_us is not None)
        ]

    def _fit(self, listener: Listener) -> None:
        """What it admits, from what is served."""
        options = self.options
        longest = max(served.message_bytes for served in self.served)
        per_head = HEAD_BYTES + options.slots * longest
        shared = max(len(self._transports), 1)
        most = max(min(options.heads, options.memory_bytes // per_head) // shared, 1)
        listener.endpoint.serve(self._nodes())
        listener.server.limit(most)
        listener.server.welcome(listener.endpoint.nodes)
        listener.endpoint.profile = replace(
            listener.server.profile,
            slots=options.slots,
            max_message=longest,
            max_sessions=most,
        )

    async def reload(self) -> list[str]:
        """Read the folders again; what came of each, a line for people. Never raises for them."""
        async with self._reloading:
            return [await self._reload(folder) for folder in self._folders]

    async def _reload(self, folder: Path) -> str:
        current = next(s for s in self.served if s.folder == folder and s.retired_us is None)
        self._next_key += 1
        try:
            fresh = await asyncio.to_thread(
                bundles.read, self._next_key, folder, self.options.kernels
            )
            again = next((s for s in self.served if s.id == fresh.id), None)
            if again is current:
                return f"{folder}: the same as before, bundle {current.label} goes on"
            if again is not None and again.folder != folder:
                raise GatewayError(f"{folder} and {again.folder} would be the same bundle")
            if again is None:
                await self._load(fresh)
                self.served.append(fresh)
                again = fresh
        except TinysplitError as error:
            return f"{folder}: refused, bundle {current.label} goes on: {error}"
        again.retired_us = None
        current.retired_us = now_us()
        self._refit()
        return f"{folder}: bundle {again.label} from now on, {current.label} for the heads it has"

    def _refit(self) -> None:
        for listener in self.listeners:
            self._fit(listener)

    def _retire(self, now: int) -> None:
        for served in [one for one in self.served if one.retired_us is not None]:
            assert served.retired_us is not None
            if served.heads:
                served.used_us = now
            unused = now - max(served.used_us, served.retired_us) > UNUSED_S * 1e6
            over = now - served.retired_us > self.options.reload_grace_s * 1e6
            if not unused and not over:
                continue
            self.served.remove(served)
            self._refit()
            for listener in self.listeners:
                for head in list(listener.heads.values()):
                    if head.served is served:
                        listener.endpoint.close(head.peer, now, ErrorCode.BUNDLE_MISMATCH)
                        self._mark(listener)
            self.pool.unload(served)
            self._say(f"bundle {served.label} is not served any more")

    async def stop(self, grace_s: float | None = None) -> int:
        """Admit nobody, answer what was acknowledged, say BYE; how many requests had no answer."""
        self.stopping = True
        self._refit()
        for listener in self.listeners:
            listener.server.refuse_more()
        for listener in self.listeners:
            for head in list(listener.heads.values()):
                self._part(head)
        deadline = time.monotonic() + (self.options.grace_s if grace_s is None else grace_s)
        while any(listener.heads for listener in self.listeners) and time.monotonic() < deadline:
            await asyncio.sleep(LOOK_S)
        return self.unanswered

    @property
    def unanswered(self) -> int:
        """Requests that were acknowledged and whose answers have not arrived."""
        return sum(
            len(head.waiting) + head.taken
            for listener in self.listeners
            for head in listener.heads.values()
        )

    def _part(self, head: Head) -> None:
        """While stopping: BYE to a head that has all its answers."""
        if head.idle and not head.gone:
            head.listener.endpoint.close(head.peer, now_us())
            self._mark(head.listener)

    async def close(self) -> None:
        """Say BYE to everybody and end the engines. Safe to call twice."""
        if self._ticker is not None:
            self._ticker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._ticker
            self._ticker = None
        for listener in self.listeners:
            await listener.close()
        self._flush()
        await self.pool.close()

    async def _tick(self) -> None:
        house_us = 0
        while True:
            await asyncio.sleep(LATE_S)
            try:
                now = now_us()
                for job in list(self.schedule.late(now)):
                    self._turn_away(job, ErrorCode.DEADLINE, "no engine was free")
                for job in list(self.pool.late(now)):
                    self._refuse(job, ErrorCode.DEADLINE, "its engine did not answer")
                if now < house_us:
                    continue
                house_us = now + int(TICK_S * 1e6)
                self.pool.end_hung(now, int(self.options.engine_timeout_s * 1e6))
                self._retire(now)
                for listener in self.listeners:
                    listener.sweep()
                self._flush()
            except Exception:
                _log.exception("housekeeping failed")

    # What heads do

    def opened(self, listener: Listener, event: SessionOpened) -> None:
        served = next((one for one in self.served if one.node.bundle == event.node.bundle), None)
        if served is None:  # Its HELLO was accepted before that bundle went.
            listener.endpoint.close(event.peer, now_us(), ErrorCode.BUNDLE_MISMATCH)
            self._mark(listener)
            return
        served.heads += 1
        head = Head(listener, event.peer, event.session, served, now_us())
        listener.heads[event.peer] = head
        before = listener.history.pop(event.peer, None)
        if before is not None:
            head.sessions, head.requests, head.errors = before.sessions + 1, *before[1:]

    def ended(self, listener: Listener, event: SessionEnded) -> None:
        head = listener.heads.pop(event.peer, None)
        if head is None:
            return
        head.gone = True
        head.served.heads -= 1
        self.schedule.forget(head)
        self.lost_sessions[event.error.name] += 1
        listener.history[event.peer] = Past(head.sessions, head.requests, head.errors)
        if len(listener.history) > self.options.heads:
            listener.history.popitem(last=False)

    def trouble(self, listener: Listener, error: TransportError) -> None:
        if self._troubles.get(listener) != str(error):
            self._troubles[listener] = str(error)
            self._say(f"{listener.name}: {error}")

    def asked(self, listener: Listener, event: TensorReceived) -> None:
        head = listener.heads.get(event.peer)
        if head is None:
            listener.release(event)
            listener.refuse(event, ErrorCode.BUNDLE_MISMATCH, "")
            return
        head.requests += 1
        job = Job(head, event, now_us())
        if not self.schedule.add(job):
            self._turn_away(job, ErrorCode.NO_SLOT, f"{len(self.schedule)} requests wait already")
            return
        self._dispatch()

    def settled(self, listener: Listener, event: MessageSent | MessageFailed) -> None:
        head = listener.tokens.pop(event.token, None)
        if head is None:
            return
        self.schedule.settled(head)
        if isinstance(event, MessageSent):
            for watch in self.answer_watches:
                watch(head, event)
        if self.stopping:
            self._part(head)
        elif head.waiting:
            self._dispatch()

    # What engines do

    def done(self, job: Job, done: Done) -> None:
        event, head = job.event, job.head
        stage = head.served.stage
        now = now_us()
        phases = (
            PhaseRecord(stage, Phase.RECEIVE, event.complete_us - event.first_us),
            PhaseRecord(stage, Phase.DECODE, job.queued_us - event.complete_us + done.decode_us),
            PhaseRecord(stage, Phase.QUEUE, done.started_us - job.queued_us),
            PhaseRecord(stage, Phase.INVOKE, done.invoke_us),
            PhaseRecord(
                stage, Phase.ENCODE, now - done.started_us - done.decode_us - done.invoke_us
            ),
        )
        self._answered(job, head.listener.answer(event, done.tensors, phases), now, 0, done)

    def failed(self, job: Job, code: int, text: str) -> None:
        self._refuse(job, code, text)

    def engine_died(self, how: str, running: Job | None, others: list[Job]) -> None:
        for job in reversed(others):
            self._again(job)
        if running is not None:
            running.kills += 1
            if running.kills >= MOST_KILLS:
                self._refuse(
                    running, ErrorCode.INVOKE_FAILED, f"{running.kills} engines died of it"
                )
            else:
                self._again(running)
        self._say(f"an engine ended ({how}); another is started")
        self.room()

    def _again(self, job: Job) -> None:
        if job.head.gone:
            return
        self.schedule.again(job)

    def room(self) -> None:
        self._dispatch()
        self._flush()

    def _dispatch(self) -> None:
        """Give engines what they take."""
        pool, schedule = self.pool, self.schedule
        while len(schedule) and pool.has_room():
            job = schedule.take()
            if job is None:
                return
            now = now_us()
            if job.event.deadline_us <= now:
                self._release(job)
                self._refuse(job, ErrorCode.DEADLINE, "")
                continue
            engine = pool.free(job.head.served)
            if engine is None:
                schedule.again(job)
                return
            self._release(job)
            pool.submit(engine, job, now)

    def _release(self, job: Job) -> None:
        """Its slot is free for the next one; not while stopping, when none is to follow."""
        if not self.stopping and not job.head.gone:
            job.head.listener.release(job.event)
            self._mark(job.head.listener)

    def _turn_away(self, job: Job, code: int, text: str) -> None:
        """An answer to what no engine has had."""
        job.head.taken += 1
        self._release(job)
        self._refuse(job, code, text)

    def _refuse(self, job: Job, code: int, text: str) -> None:
        token = job.head.listener.refuse(job.event, code, text)
        self._answered(job, token, now_us(), code, None)

    def _answered(
        self, job: Job, token: int | None, now: int, code: int, done: Done | None
    ) -> None:
        head = job.head
        if token is None:
            self.schedule.settled(head)
        else:
            head.listener.tokens[token] = head
        self._mark(head.listener)
        if code:
            head.errors += 1
        self.requests[code_name(code)] += 1
        if self.watches:
            self._outcomes.append(Outcome(head, job.event, job.queued_us, now, code, done))

    def _mark(self, listener: Listener) -> None:
        """It has something to send before the loop waits again."""
        self._dirty.add(listener)
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        """Send what there is, and only then tell those who watch."""
        self._flushing = False
        while self._dirty:
            self._dirty.pop().flush()
        outcomes, self._outcomes = self._outcomes, []
        for outcome in outcomes:
            for watch in self.watches:
                watch(outcome)


def describe(served: Served) -> str:
    """What is served, and how it computes, for people."""
    trial = served.trial
    assert trial is not None
    if trial.exact:
        found = f"all {trial.compared_bytes} golden output bytes are right"
    else:
        found = (
            f"{trial.differing_bytes} of {trial.compared_bytes} golden output bytes differ, by "
            f"{trial.largest_difference:g} at most; {trial.classes_changed} of {trial.classes} "
            "classes change"
        )
    return (
        f"bundle {served.label} from {served.folder}: stage {served.stage}, {trial.kernels}, "
        f"{trial.invoke_us / 1000:.2f} ms (measured); {found}"
    )


def default_engines() -> int:
    """As many as there are processors this process may use; the link's work goes before theirs."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
