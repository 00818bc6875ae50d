"""Runs an endpoint over a transport under asyncio: `LinkClient` and `LinkServer`.

Theory of operation. One loop of two steps: what the transport brings goes into the endpoint,
then the endpoint is polled until it has nothing more to say, and a timer is set for its next
deadline. There is no thread and no task per frame. Every wait has a deadline and ends with a
named error. A client that loses its session while an inference waits for its RESULT sends the
TENSOR again in the next session, until the inference's deadline.

The clock is `time.monotonic_ns`, so times of two processes on one machine can be compared.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from host.link import messages
from host.link.endpoint import UNLIMITED, Acceptor, Endpoint, Initiator
from host.link.errors import (
    ClosedError,
    DeadlineError,
    DuplicateError,
    ErrorCode,
    LinkError,
    NoPeerError,
)
from host.link.events import (
    Address,
    ControlReceived,
    Event,
    FailureReceived,
    MessageFailed,
    MessageSent,
    Received,
    ResultReceived,
    SessionEnded,
    SessionOpened,
    TensorReceived,
)
from host.link.messages import Buffer, MessageKind, Phase, PhaseRecord
from host.link.session import ClockEstimate, Node, Profile
from host.link.transport import (
    ClientTransport,
    ServerTransport,
    Transport,
    TransportError,
)
from models.errors import TinysplitError

_log = logging.getLogger(__name__)
BLOCKED_LOOK_US = 10_000
CLOSE_GRACE_S = 0.05


def now_us() -> int:
    """The driver's clock: monotonic, microseconds."""
    return time.monotonic_ns() // 1000


class Driver(ABC):
    """The loop of two steps. Subclasses say what an event means."""

    def __init__(self, endpoint: Endpoint, transport: Transport) -> None:
        self._endpoint = endpoint
        self._transport = transport
        self._timer: asyncio.TimerHandle | None = None
        self._timer_us = 0
        self._pumping = False
        self._again = False
        self._closed = False

    @abstractmethod
    async def close(self) -> None:
        """End every session and let go of the transport. Safe to call twice."""

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def frames_received(self, batch: list[tuple[bytes, Address]]) -> None:
        receive = self._endpoint.receive
        for frame, peer in batch:
            # The time anew for each: what an event leads to is later than the frame before, and the
            # endpoint would take an older time for a clock that stepped back.
            for event in receive(frame, peer, now_us()):
                self._on_event(event)
        self._pump()

    def peer_lost(self, peer: Address, error: TransportError) -> None:
        self._endpoint.link_lost(peer, str(error), now_us())
        self._pump()

    def link_error(self, error: TransportError) -> None:
        _log.debug("%s", error)

    def writable(self) -> None:
        self._pump()

    @abstractmethod
    def _on_event(self, event: Event) -> None: ...

    def _pump(self) -> None:
        """Poll the endpoint until it has nothing more to say, then set the timer."""
        if self._pumping or self._closed:
            self._again = True
            return
        self._pumping = True
        try:
            while True:
                self._again = False
                blocked = self._transport.blocked
                output = self._endpoint.poll(now_us(), 0 if blocked else UNLIMITED)
                for peer, frame in output.frames:
                    self._transport.send(frame, peer)
                for event in output.events:
                    self._on_event(event)
                if not output.events and not self._again:
                    break
        finally:
            self._pumping = False
        self._set_timer(output.deadline_us, blocked)

    def _set_timer(self, deadline_us: int | None, blocked: bool) -> None:
        now = now_us()
        if deadline_us is not None and blocked:
            deadline_us = max(deadline_us, now + BLOCKED_LOOK_US)
        if self._timer is not None:
            # One that fires too early costs a look; setting a new one for each frame costs more.
            if deadline_us is not None and now < self._timer_us <= deadline_us:
                return
            self._timer.cancel()
            self._timer = None
        if deadline_us is not None:
            self._timer_us = deadline_us
            delay_s = max(deadline_us - now, 0) / 1e6
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._pump()

    async def _stop(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        await self._transport.close()


@dataclass(frozen=True)
class Result:
    """What an inference brought.

    `phases` holds the records of the stages on the way and, at the end, this end's own (send,
    receive and downstream). `round_trip_us` is from `infer` to the whole RESULT. `fragments` is
    how many DATA frames the tensors needed, `frames` and `frame_bytes` what was sent for them.
    """

    inference_id: int
    stage: int
    tensors: tuple[memoryview, ...]
    phases: tuple[PhaseRecord, ...]
    round_trip_us: int
    fragments: int
    frames: int
    frame_bytes: int


@dataclass
class _Pending:
    inference_id: int
    tensors: Sequence[Buffer]
    submitted_us: int
    deadline_us: int
    future: asyncio.Future[ResultReceived]
    token: int = 0
    sent: MessageSent | None = None
    encode_us: int = 0


class LinkClient(Driver):
    """An initiator under asyncio: `async with LinkClient(transport, node) as client: ...`.

    Entering opens the session; it raises the refusal, `NoPeerError` or a TransportError.
    `on_control` is called with every JSON value the peer sends by itself. With `reconnect` False
    neither the session nor the connection below it is opened again once it is over.
    """

    def __init__(
        self,
        transport: ClientTransport,
        node: Node,
        *,
        profile: Profile | None = None,
        on_control: Callable[[Any], None] | None = None,
        reconnect: bool = True,
        nonce: Callable[[], int] | None = None,
    ) -> None:
        profile = transport.profile if profile is None else profile
        accept = () if on_control is None else (int(MessageKind.CONTROL),)
        extra = {} if nonce is None else {"nonce": nonce}
        self.endpoint = Initiator(
            node, profile, peer=transport.peer, accept=accept, reconnect=reconnect, **extra
        )
        super().__init__(self.endpoint, transport)
        self._node = node
        self._profile = profile
        self._on_control = on_control
        self._reconnect = reconnect
        self._by_token: dict[int, _Pending | asyncio.Future[MessageSent]] = {}
        self._by_id: dict[int, _Pending] = {}
        self._spent: set[int] = set()  # Ids whose RESULT may still come in this session.
        self._opening: asyncio.Future[None] | None = None
        self._room: list[asyncio.Future[None]] = []
        self._hint: TransportError | None = None
        self._mending: asyncio.Task[None] | None = None
        self.sessions = 0

    async def __aenter__(self) -> LinkClient:
        deadline_s = self._profile.connect_deadline_us / 1e6
        self._opening = asyncio.get_running_loop().create_future()
        # It may fail while `open` does, whose error is the one raised.
        self._opening.add_done_callback(lambda opening: opening.cancelled() or opening.exception())
        try:
            await asyncio.wait_for(self._transport.open(self), deadline_s)
            self.endpoint.connect(now_us())
            self._pump()
            await asyncio.wait_for(self._opening, deadline_s + 1.0)
        except asyncio.TimeoutError:
            await self._stop()
            raise self._hint or NoPeerError(f"no answer at {self._transport.place}") from None
        except NoPeerError as silent:
            await self._stop()
            text = f"no answer at {self._transport.place}; is it running?"
            raise self._hint or NoPeerError(text) from silent
        except BaseException:
            await self._stop()
            raise
        return self

    async def close(self) -> None:
        """Say BYE and let go; inferences that wait end with `closed`."""
        if self._closed:
            return
        if self._mending is not None:
            self._mending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._mending
        self.endpoint.close(now_us())
        self._pump()
        for pending in list(self._by_id.values()):
            self._fail(pending, ClosedError("closed here"))
        await self._stop()

    @property
    def largest_message(self) -> int:
        """The longest message that the peer takes, bytes; 0 while no session is up."""
        return self.endpoint.largest_message(self.endpoint.peer)

    def clock(self) -> ClockEstimate | None:
        """The peer's clock minus this one's, with its uncertainty."""
        return self.endpoint.clock(self.endpoint.peer, now_us())

    async def infer(
        self, inference_id: int, tensors: Sequence[Buffer], deadline_s: float
    ) -> Result:
        """Send a boundary and wait for its RESULT. Several may be under way at once.

        Raises DuplicateError for an id in use, DeadlineError, the error the peer or a stage
        behind it reported, or what ended the session if nothing could be delivered.
        """
        if inference_id in self._by_id or inference_id in self._spent:
            raise DuplicateError(f"inference {inference_id} is in progress or just timed out")
        loop = asyncio.get_running_loop()
        start = now_us()
        pending = _Pending(
            inference_id, tensors, start, start + int(deadline_s * 1e6), loop.create_future()
        )
        self._by_id[inference_id] = pending
        try:
            await self._wait_for_room(pending.deadline_us)
            self._send(pending)
            left_s = (pending.deadline_us - now_us()) / 1e6 + CLOSE_GRACE_S
            event = await asyncio.wait_for(pending.future, max(left_s, CLOSE_GRACE_S))
        except asyncio.TimeoutError:
            self._spent.add(inference_id)
            known = "delivered, but no result came" if pending.sent else "not delivered"
            why = "" if self._hint is None else f": {self._hint}"
            raise DeadlineError(f"{known} within {deadline_s:g} s{why}") from None
        except LinkError as failed:
            if self._mending is None or self._hint is None:
                raise
            text = str(failed).removeprefix(f"{failed.name}: ")
            raise type(failed)(f"{text}; now: {self._hint}", code=failed.code) from failed
        except asyncio.CancelledError:
            self._spent.add(inference_id)
            raise
        finally:
            del self._by_id[inference_id]
            self._by_token.pop(pending.token, None)
            answered = pending.future.done() and not pending.future.cancelled()
            if pending.token and pending.sent is None and not answered:
                self.endpoint.cancel(pending.token, now_us())
                self._pump()
        return self._result(pending, event)

    async def control(self, value: Any, deadline_s: float) -> MessageSent:
        """Send a JSON value; returns when the peer has it. Raises what `infer` raises."""
        return await self._message(
            deadline_s,
            lambda now, end: self.endpoint.send_control(value, now, deadline_us=end),
        )

    async def blob(
        self, blob_id: int, offset: int, total: int, piece: Buffer, deadline_s: float
    ) -> MessageSent:
        """Send a piece of something big; returns when the peer has it. Raises what `infer` raises.

        What is sent while another one is under way may arrive before it.
        """
        return await self._message(
            deadline_s,
            lambda now, end: self.endpoint.send_blob(
                blob_id, offset, total, piece, now, deadline_us=end
            ),
        )

    async def _message(self, deadline_s: float, send: Callable[[int, int], int]) -> MessageSent:
        deadline_us = now_us() + int(deadline_s * 1e6)
        await self._wait_for_room(deadline_us)
        token = send(now_us(), deadline_us)
        sent: asyncio.Future[MessageSent] = asyncio.get_running_loop().create_future()
        self._by_token[token] = sent
        self._pump()
        try:
            return await asyncio.wait_for(sent, deadline_s + CLOSE_GRACE_S)
        except asyncio.TimeoutError:
            raise DeadlineError(f"not delivered within {deadline_s:g} s") from None
        finally:
            self._by_token.pop(token, None)

    def peer_lost(self, peer: Address, error: TransportError) -> None:
        super().peer_lost(peer, error)
        if self._opening is not None and not self._opening.done():
            self._opening.set_exception(error)
        elif self._reconnect and not self._closed and self._mending is None:
            self._mending = asyncio.get_running_loop().create_task(self._mend())

    def link_error(self, error: TransportError) -> None:
        self._hint = error

    async def _mend(self) -> None:
        """Open a broken connection again, with pauses, for as long as the client lives."""
        pause_s = self._profile.retry_pause_us / 1e6
        try:
            while not self._closed:
                try:
                    deadline_s = self._profile.connect_deadline_us / 1e6
                    await asyncio.wait_for(self._transport.open(self), deadline_s)
                except (TransportError, asyncio.TimeoutError) as failed:
                    _log.debug("not back yet: %s", failed)
                    if isinstance(failed, TransportError):
                        self._hint = failed
                    await asyncio.sleep(pause_s)
                    continue
                self.endpoint.connect(now_us())
                self._pump()
                return
        finally:
            self._mending = None

    async def _wait_for_room(self, deadline_us: int) -> None:
        while self.endpoint.queued >= self._profile.max_queued:
            room: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._room.append(room)
            left_s = max((deadline_us - now_us()) / 1e6, 0)
            try:
                await asyncio.wait_for(room, left_s)
            except asyncio.TimeoutError:
                raise DeadlineError("the queue of unsent messages stayed full") from None

    def _send(self, pending: _Pending) -> None:
        pending.sent = None
        started_us = now_us()
        pending.token = self.endpoint.send_tensor(
            pending.inference_id, pending.tensors, now_us(), deadline_us=pending.deadline_us
        )
        pending.encode_us = now_us() - started_us
        self._by_token[pending.token] = pending
        self._pump()

    @staticmethod
    def _fail(pending: _Pending, error: LinkError) -> None:
        if not pending.future.done():
            pending.future.set_exception(error)

    def _on_event(self, event: Event) -> None:
        if isinstance(event, MessageSent | MessageFailed):
            self._settled(event)
        elif isinstance(event, ResultReceived | FailureReceived):
            self._answered(event)
        elif isinstance(event, SessionOpened):
            self.sessions += 1
            self._hint = None
            if self._opening is not None and not self._opening.done():
                self._opening.set_result(None)
        elif isinstance(event, SessionEnded):
            self._ended(event)
        elif isinstance(event, ControlReceived) and self._on_control is not None:
            try:
                self._on_control(messages.decode_control(event.body))
            except TinysplitError as broken:
                _log.warning("%s", broken)
        if isinstance(event, Received):
            self.endpoint.release(event, now_us())

    def _settled(self, event: MessageSent | MessageFailed) -> None:
        for room in self._room:
            if not room.done():
                room.set_result(None)
        self._room.clear()
        owner = self._by_token.get(event.token)
        if isinstance(owner, _Pending):
            if isinstance(event, MessageSent):
                owner.sent = event
            else:
                self._fail(owner, event.error)
        elif owner is not None and not owner.done():
            if isinstance(event, MessageSent):
                owner.set_result(event)
            else:
                owner.set_exception(event.error)

    def _answered(self, event: ResultReceived | FailureReceived) -> None:
        pending = self._by_id.get(event.inference_id)
        if pending is None:
            self._spent.discard(event.inference_id)
        elif isinstance(event, FailureReceived):
            self._fail(pending, event.error)
        elif not pending.future.done():
            pending.future.set_result(event)

    def _ended(self, event: SessionEnded) -> None:
        self._spent.clear()
        if self._opening is not None and not self._opening.done():
            self._opening.set_exception(event.error)
            return
        for pending in list(self._by_id.values()):
            if pending.sent is None or pending.future.done():
                continue
            if event.will_retry:
                self._by_token.pop(pending.token, None)
                self._send(pending)
            else:
                self._fail(pending, event.error)

    def _result(self, pending: _Pending, event: ResultReceived) -> Result:
        sent = pending.sent
        # A RESULT proves that the tensors arrived, even if their ACK is still on its way.
        acked_us = event.first_us if sent is None else min(sent.acked_us, event.first_us)
        own = self._node.stage
        phases = (
            *event.phases,
            PhaseRecord(own, Phase.ENCODE, pending.encode_us),
            PhaseRecord(own, Phase.SEND, acked_us - pending.submitted_us - pending.encode_us),
            PhaseRecord(own, Phase.RECEIVE, event.complete_us - event.first_us),
            PhaseRecord(own, Phase.DOWNSTREAM, event.complete_us - acked_us),
        )
        return Result(
            event.inference_id,
            event.stage,
            event.tensors,
            phases,
            event.complete_us - pending.submitted_us,
            sent.fragments if sent else 0,
            sent.frames if sent else 0,
            sent.frame_bytes if sent else 0,
        )


@dataclass(frozen=True)
class Request:
    """An inference to do. Tensors are in manifest order and valid as long as they are kept."""

    peer: Address
    inference_id: int
    stage: int
    tensors: tuple[memoryview, ...]
    deadline_us: int


@dataclass(frozen=True)
class Reply:
    """What the handler gives back; `phases` are records it measured itself."""

    tensors: Sequence[Buffer]
    phases: Sequence[PhaseRecord] = ()


Answer = Reply | Sequence[Buffer]
Handler = Callable[[Request], Answer | Awaitable[Answer]]


class LinkServer(Driver):
    """An acceptor under asyncio that calls `handler` for every inference.

    A coroutine function runs in the loop; a plain function in one of `workers` threads, so that
    the link goes on while the engine works. A handler that raises a LinkError answers with its
    code, any other exception with `invoke_failed`. Each inference takes a slot until the handler
    starts on it: that is the back-pressure. `on_control(peer, value)` may return a JSON answer.
    """

    def __init__(
        self,
        transport: ServerTransport,
        node: Node,
        handler: Handler,
        *,
        profile: Profile | None = None,
        workers: int = 1,
        on_control: Callable[[Address, Any], Any] | None = None,
        on_event: Callable[[Event], None] | None = None,
        accept: Collection[int] = (),
        nonce: Callable[[], int] | None = None,
    ) -> None:
        profile = transport.profile if profile is None else profile
        kinds = {*accept, int(MessageKind.CONTROL)} if on_control else set(accept)
        extra = {} if nonce is None else {"nonce": nonce}
        self.endpoint = Acceptor(node, profile, accept=kinds, **extra)
        super().__init__(self.endpoint, transport)
        self._server = transport
        self._profile = profile
        self._node = node
        self._handler = handler
        self._workers = workers
        self._on_control = on_control
        self._watch = on_event
        self._jobs: deque[tuple[TensorReceived, int]] = deque()
        self._waiting = asyncio.Semaphore(0)
        self._tasks: list[asyncio.Task[None]] = []
        self._pool: ThreadPoolExecutor | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Host and port, once open."""
        return self._server.address

    async def __aenter__(self) -> LinkServer:
        await self._transport.open(self)
        if not inspect.iscoroutinefunction(self._handler):
            self._pool = ThreadPoolExecutor(self._workers, "link-handler")
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._work()) for _ in range(self._workers)]
        self._pump()
        return self

    async def close(self) -> None:
        """Say BYE to everybody and let go; a handler that runs in a thread is not waited for."""
        if self._closed:
            return
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.endpoint.close_all(now_us())
        self._pump()
        await self._stop()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _on_event(self, event: Event) -> None:
        if self._watch is not None:
            self._watch(event)
        if isinstance(event, TensorReceived):
            self._jobs.append((event, now_us()))
            self._waiting.release()
            return
        if isinstance(event, SessionEnded):
            self._jobs = deque(job for job in self._jobs if job[0].peer != event.peer)
        if isinstance(event, ControlReceived) and self._on_control is not None:
            self._control(event)
        if isinstance(event, Received):
            self.endpoint.release(event, now_us())

    def _control(self, event: ControlReceived) -> None:
        assert self._on_control is not None
        try:
            answer = self._on_control(event.peer, messages.decode_control(event.body))
            if answer is not None:
                self.endpoint.send_control(event.peer, answer, now_us())
        except TinysplitError as broken:
            _log.warning("%s", broken)

    async def _work(self) -> None:
        while True:
            await self._waiting.acquire()
            if not self._jobs:  # Its session ended while it waited.
                continue
            event, queued_us = self._jobs.popleft()
            started_us = now_us()
            self.endpoint.release(event, started_us)
            self._pump()
            if started_us >= event.deadline_us:
                self._failed(event, ErrorCode.DEADLINE, "")
                continue
            try:
                tensors = await self._decode(event)
                decode_us = now_us() - started_us
                reply = await self._call(event, tensors)
            except LinkError as error:
                self._failed(event, error.code, str(error))
            except Exception as error:
                if not isinstance(error, TinysplitError):
                    _log.exception("the handler failed")
                self._failed(event, ErrorCode.INVOKE_FAILED, str(error) or type(error).__name__)
            else:
                self._reply(event, reply, (queued_us, started_us, decode_us), now_us())

    async def _decode(self, event: TensorReceived) -> tuple[memoryview, ...]:
        """The boundary out of its codec, in a thread: the link goes on meanwhile."""
        if event.codec == messages.RAW_CODEC:
            return event.tensors
        return await asyncio.get_running_loop().run_in_executor(
            self._pool,
            messages.decode_boundary,
            event.tensors,
            event.codec,
            self._profile.max_message,
        )

    async def _call(self, event: TensorReceived, tensors: tuple[memoryview, ...]) -> Reply:
        request = Request(event.peer, event.inference_id, event.stage, tensors, event.deadline_us)
        if self._pool is None:
            answer = self._handler(request)
        else:
            loop = asyncio.get_running_loop()
            answer = await loop.run_in_executor(self._pool, self._handler, request)
        if inspect.isawaitable(answer):
            answer = await answer
        return answer if isinstance(answer, Reply) else Reply(answer)

    def _reply(
        self, event: TensorReceived, reply: Reply, times: tuple[int, int, int], ended_us: int
    ) -> None:
        queued_us, started_us, decode_us = times
        own = self._node.stage
        phases = [
            PhaseRecord(own, Phase.RECEIVE, event.complete_us - event.first_us),
            PhaseRecord(own, Phase.DECODE, queued_us - event.complete_us + decode_us),
            PhaseRecord(own, Phase.QUEUE, started_us - queued_us),
            *reply.phases,
        ]
        if all(record.phase != Phase.INVOKE for record in reply.phases):
            phases.append(PhaseRecord(own, Phase.INVOKE, ended_us - started_us - decode_us))
        phases.append(PhaseRecord(own, Phase.ENCODE, now_us() - ended_us))
        try:
            self.endpoint.send_result(event, reply.tensors, phases, now_us())
        except LinkError as wrong:
            self._failed(event, ErrorCode.INVOKE_FAILED, str(wrong))
        self._pump()

    def _failed(self, event: TensorReceived, code: int, text: str) -> None:
        self.endpoint.send_failure(event, code, text, now_us())
        self._pump()
