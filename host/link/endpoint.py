"""What a user drives: frames and the time in, events and frames out.

Theory of operation. An `Initiator` keeps one session to one peer open; an `Acceptor` serves as
many peers as it has sessions for. Both are driven the same way:

    events = endpoint.receive(frame, peer, now)      # for every frame that arrived
    output = endpoint.poll(now)                      # afterwards, and when output.deadline_us came
    for peer, frame in output.frames: ...            # hand them to the link

Neither owns a socket or reads a clock. `now` is microseconds of any clock; one that steps
backwards is taken to have stood still. What a user asks for (`send_tensor`, `close`) takes
effect with the next `poll`. Nothing here raises for anything a peer does: that becomes an
event. What raises is a `LocalMistakeError`.

The acceptor keeps a heap of deadlines and a set of peers that something happened to, so its
work per frame does not grow with the number of peers.
"""

from __future__ import annotations

import heapq
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, NamedTuple

from host.link import messages
from host.link.errors import (
    ClosedError,
    ErrorCode,
    InvalidError,
    LinkError,
    MalformedError,
    NoPeerError,
    NoSlotError,
    ReplacedError,
    SendFailedError,
    error_for,
)
from host.link.events import (
    Address,
    BlobReceived,
    ControlReceived,
    Event,
    FailureReceived,
    MessageFailed,
    MessageSent,
    PrivateReceived,
    Received,
    ResultReceived,
    SessionEnded,
    SessionOpened,
    TensorReceived,
)
from host.link.frames import (
    Hello,
    Kind,
    Reset,
    Seal,
    claimed_session,
    decode_hello,
    refusal,
    session_id,
)
from host.link.messages import Buffer, MessageKind, PhaseRecord
from host.link.session import (
    ACCEPTOR,
    INITIATOR,
    RESET_PAUSE_US,
    UDP_PROFILE,
    Accepting,
    Cause,
    ClockEstimate,
    Ended,
    Node,
    Opening,
    Outcome,
    Profile,
    Session,
    accept_hello,
    choose_node,
    judge_hello_ack,
)
from host.link.transfer import NEVER, Counters, Delivered, NotSent, Outgoing, Sent

UNLIMITED: Final = 1 << 30
# Refusals that time may cure; after any other, what is queued can never be delivered.
_PASSING: Final = frozenset({ErrorCode.BUSY, ErrorCode.REFUSED})


class Output(NamedTuple):
    """`deadline_us`: when to call `poll` again if nothing comes in; None: not by itself."""

    frames: list[tuple[Address, bytes]]
    events: list[Event]
    deadline_us: int | None


def random_nonce() -> int:
    """A random non-zero u32 from the system's source."""
    return secrets.randbelow(0xFFFF_FFFF) + 1


class _SteadyClock:
    """Time that never goes back: a backward step of the caller's clock is bridged."""

    def __init__(self) -> None:
        self._skew = 0
        self._last = 0

    def __call__(self, now: int) -> int:
        inside = now + self._skew
        if inside < self._last:
            self._skew += self._last - inside
            inside = self._last
        self._last = inside
        return inside

    def inside(self, moment: int) -> int:
        return moment + self._skew

    def outside(self, moment: int) -> int:
        return moment - self._skew


class Endpoint(ABC):
    """One node on one link.

    `accept` lists the message kinds the application takes besides its role's own: CONTROL,
    BLOB and private kinds; others are rejected `unsupported`. `nonce` yields random non-zero
    u32 numbers that never repeat. `sending` and `receiving` count what was done in all sessions.
    """

    def __init__(
        self,
        node: Node,
        profile: Profile = UDP_PROFILE,
        *,
        accept: Collection[int] = (),
        nonce: Callable[[], int] = random_nonce,
    ) -> None:
        self.node = node
        self.profile = profile
        self.sending = Counters()
        self.receiving = Counters()
        self._accept = frozenset(accept)
        self._nonce = nonce
        self._steady = _SteadyClock()
        self._events: list[Event] = []
        self._token = 0
        self._resets = 0
        self._resets_since_us = -RESET_PAUSE_US

    @abstractmethod
    def receive(self, frame: bytes, peer: Address, now: int) -> list[Event]:
        """One frame as it came from the link. It is kept: pass bytes that nobody changes."""

    @abstractmethod
    def poll(self, now: int, budget: int = UNLIMITED) -> Output:
        """What is to be sent now, at most about `budget` DATA frames per peer, and when next.

        With a budget of 0 nothing is taken out: only deadlines are looked at.
        """

    @abstractmethod
    def clock(self, peer: Address, now: int) -> ClockEstimate | None:
        """The peer's clock against this one's, if a PONG came in the last 60 s."""

    @abstractmethod
    def link_lost(self, peer: Address, text: str, now: int) -> None:
        """The transport says that the way to this peer is gone (a connection broke)."""

    @abstractmethod
    def _session(self, peer: Address) -> Session | None: ...

    @abstractmethod
    def _touch(self, peer: Address) -> None: ...

    @property
    @abstractmethod
    def _most_resets(self) -> int:
        """For strangers, per RESET_PAUSE_US."""

    def largest_message(self, peer: Address) -> int:
        """The longest message body that the peer takes, bytes; 0: no session is up."""
        session = self._session(peer)
        return 0 if session is None else session.peer.max_message

    def release(self, event: Received, now: int) -> None:
        """Give a received message back; its slot is free for the next one."""
        session = self._session(event.peer)
        if session is not None and session.seal.sid == event.session:
            session.receiver.release(event.message_id, self._steady(now))
            self._touch(event.peer)

    def _outgoing(
        self, kind: int, body: Buffer, now: int, deadline_us: int | None, say_ttl: bool = False
    ) -> Outgoing:
        if deadline_us is None:
            deadline = now + self.profile.message_deadline_us
        else:
            deadline = self._steady.inside(deadline_us)
        self._token += 1
        return Outgoing(self._token, kind, body, now, deadline, say_ttl=say_ttl)

    def _take_events(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def _reset_for(self, frame: bytes, sid: int, now: int) -> bytes | None:
        """The RESET that answers a PING of a session not known here, not too often."""
        if now >= self._resets_since_us + RESET_PAUSE_US:
            self._resets, self._resets_since_us = 0, now
        if self._resets >= self._most_resets:
            return None
        self._resets += 1
        return Reset(int.from_bytes(frame[2:4], "little"), sid).encode(Seal(sid))

    def _settled(self, peer: Address, outcome: Sent | NotSent) -> None:
        """A message of ours is over, well or not."""
        token = outcome.message.token
        if isinstance(outcome, NotSent):
            self._events.append(MessageFailed(peer, token, outcome.error))
            return
        self._events.append(
            MessageSent(
                peer,
                token,
                outcome.message.submitted_us,
                outcome.first_us,
                outcome.acked_us,
                outcome.fragments,
                outcome.frames,
                outcome.frame_bytes,
            )
        )

    def _event(self, peer: Address, session: Session, message: Delivered) -> Received:
        """The event of a whole message. Raises MalformedError for a bad body."""
        kind, body = message.kind, message.body
        place = (peer, session.seal.sid, message.message_id, message.first_us, message.complete_us)
        if kind == MessageKind.TENSOR:
            boundary = messages.decode_tensors(body)
            wait_us = message.ttl_ms * 1000 or self.profile.message_deadline_us
            return TensorReceived(
                *place,
                boundary.inference_id,
                boundary.stage,
                boundary.tensors,
                message.complete_us + wait_us,
                boundary.codec,
            )
        if kind == MessageKind.RESULT:
            result = messages.decode_results(body)
            return ResultReceived(
                *place, result.inference_id, result.stage, result.tensors, result.phases
            )
        if kind == MessageKind.ERROR:
            failure = messages.decode_failure(body)
            where = f"stage {failure.stage}: {failure.text}" if failure.text else ""
            return FailureReceived(
                *place, failure.inference_id, failure.stage, error_for(failure.code, where)
            )
        if kind == MessageKind.CONTROL:
            return ControlReceived(*place, body)
        if kind == MessageKind.BLOB:
            return BlobReceived(*place, messages.decode_blob(body))
        return PrivateReceived(*place, kind, body)

    def _opened(self, peer: Address, session: Session, node: Node) -> None:
        hello = session.peer
        self._events.append(
            SessionOpened(
                peer,
                session.seal.sid,
                hello.role,
                hello.stage,
                hello.bundle,
                session.frame_size,
                node,
            )
        )


class Initiator(Endpoint):
    """The end nearer to the input: opens a session and, with `reconnect`, keeps it open.

    Messages may be sent at any time; they wait for the session until their deadline.
    """

    def __init__(
        self,
        node: Node,
        profile: Profile = UDP_PROFILE,
        *,
        peer: Address = None,
        accept: Collection[int] = (),
        nonce: Callable[[], int] = random_nonce,
        reconnect: bool = True,
    ) -> None:
        super().__init__(node, profile, accept=accept, nonce=nonce)
        self.peer = peer
        self.state = Opening.DOWN
        self._reconnect = reconnect
        self._wanted = False
        self._up: Session | None = None
        self._outbox: list[Outgoing] = []
        self._hello = Hello()
        self._hello_frame = b""
        self._hello_count = 0
        self._hello_sent_us = 0
        self._hello_wait_us = 0
        self._hello_due_us = NEVER
        self._connect_deadline_us = NEVER
        self._retry_us = NEVER
        self._why_down: LinkError | None = None
        self._end_error: LinkError = ClosedError()
        self._ack = Hello()
        self._frames: list[bytes] = []

    def connect(self, now: int) -> None:
        """Open the session. Nothing happens if one is opening or up."""
        now = self._steady(now)
        self._wanted = True
        self._retry_us = NEVER
        self._apply(Cause.CONNECT, now)

    def close(self, now: int, code: int = ErrorCode.OK) -> None:
        """Say BYE and stay down. Unresolved messages end with `closed`."""
        now = self._steady(now)
        self._wanted = False
        self._retry_us = NEVER
        self._end_error = ClosedError("closed here", code=code or ErrorCode.CLOSED)
        self._apply(Cause.CLOSE, now)

    def link_lost(self, peer: Address, text: str, now: int) -> None:
        """The way to the peer is gone; `connect` when there is one again."""
        now = self._steady(now)
        self._end_error = SendFailedError(text)
        self._apply(Cause.ENDED, now)
        self._retry_us = NEVER

    def send_tensor(
        self,
        inference_id: int,
        tensors: Sequence[Buffer],
        now: int,
        *,
        deadline_us: int | None = None,
    ) -> int:
        """Send one boundary; its token. `deadline_us` (absolute) also travels as the ttl.

        While the session is up it is coded as agreed, otherwise it goes raw. Raises InvalidError
        for values that do not fit, NoSlotError if the queue is full.
        """
        codec = messages.RAW_CODEC if self._up is None else self._up.codec
        body = messages.encode_tensors(
            inference_id,
            messages.encode_boundary(tensors, codec),
            stage=self.node.stage,
            codec=codec,
        )
        return self._send(MessageKind.TENSOR, body, now, deadline_us, say_ttl=True)

    def send_control(self, value: Any, now: int, *, deadline_us: int | None = None) -> int:
        """Send a JSON value; its token."""
        return self._send(MessageKind.CONTROL, messages.encode_control(value), now, deadline_us)

    def send_blob(
        self,
        blob_id: int,
        offset: int,
        total: int,
        piece: Buffer,
        now: int,
        *,
        deadline_us: int | None = None,
    ) -> int:
        """Send a piece of something big; its token."""
        body = messages.encode_blob(blob_id, offset, total, piece)
        return self._send(MessageKind.BLOB, body, now, deadline_us)

    def send_private(
        self, kind: int, body: Buffer, now: int, *, deadline_us: int | None = None
    ) -> int:
        """Send a message of a private kind, 128 to 255; its token."""
        if not messages.FIRST_PRIVATE <= kind <= 255:
            raise InvalidError(f"private kinds are 128 to 255, not {kind}")
        return self._send(kind, body, now, deadline_us)

    def cancel(self, token: int, now: int) -> bool:
        """Forget a message; whether it was still unresolved. No event follows."""
        now = self._steady(now)
        for message in self._outbox:
            if message.token == token:
                self._outbox.remove(message)
                return True
        return self._up is not None and self._up.sender.give_up(token, now) is not None

    @property
    def queued(self) -> int:
        """Messages without an outcome."""
        waiting = len(self._up.sender.unresolved()) if self._up is not None else 0
        return waiting + len(self._outbox)

    def receive(self, frame: bytes, peer: Address, now: int) -> list[Event]:
        now = self._steady(now)
        if not frame:
            self.receiving.dropped += 1
        elif frame[0] >> 4 == Kind.HELLO_ACK:
            self._hello_ack(frame, now)
        elif self._up is not None and not self._foreign_ping(frame, self._up):
            session, heard = self._up, self._up.heard
            outcome = session.receive(frame, now)
            if session.heard == heard:
                self.receiving.dropped += 1
            else:
                self._hello_due_us = NEVER
                self._handle(session, outcome, now)
        else:
            sid = claimed_session(frame)
            reset = None if sid is None else self._reset_for(frame, sid, now)
            if reset is not None:
                self._frames.append(reset)
            else:
                self.receiving.dropped += 1
        return self._take_events()

    def poll(self, now: int, budget: int = UNLIMITED) -> Output:
        now = self._steady(now)
        self._timers(now)
        frames: list[bytes] = []
        if budget:
            frames, self._frames = self._frames, []
            if self._up is not None:
                frames += self._up.flush(now, budget)
        when = min(
            self._hello_due_us,
            self._connect_deadline_us,
            self._retry_us,
            self._up.deadline(now) if self._up is not None else NEVER,
            min((message.deadline_us for message in self._outbox), default=NEVER),
        )
        return Output(
            [(self.peer, frame) for frame in frames],
            self._take_events(),
            None if when >= NEVER else self._steady.outside(when),
        )

    def clock(self, peer: Address, now: int) -> ClockEstimate | None:
        return None if self._up is None else self._up.clock(self._steady(now))

    def _session(self, peer: Address) -> Session | None:
        return self._up

    def _touch(self, peer: Address) -> None:
        pass

    @property
    def _most_resets(self) -> int:
        return 1

    def _send(
        self, kind: int, body: Buffer, now: int, deadline_us: int | None, say_ttl: bool = False
    ) -> int:
        if self.queued >= self.profile.max_queued:
            raise NoSlotError
        message = self._outgoing(kind, body, self._steady(now), deadline_us, say_ttl)
        self._submit(message)
        return message.token

    def _submit(self, message: Outgoing) -> None:
        if self._up is None:
            self._outbox.append(message)
            return
        refused = self._up.sender.submit(message)
        if refused is not None:
            self._settled(self.peer, refused)

    @staticmethod
    def _foreign_ping(frame: bytes, session: Session) -> bool:
        return frame[0] == Kind.PING << 4 and claimed_session(frame) not in (
            None,
            session.seal.sid,
        )

    def _judge(self, kind: int) -> int:
        if kind in (MessageKind.RESULT, MessageKind.ERROR) or kind in self._accept:
            return 0
        return ErrorCode.UNSUPPORTED

    def _handle(self, session: Session, outcome: Outcome | None, now: int) -> None:
        if outcome is None:
            return
        if isinstance(outcome, Delivered):
            try:
                self._events.append(self._event(self.peer, session, outcome))
            except MalformedError:
                self.receiving.dropped += 1
                session.receiver.release(outcome.message_id, now)
        elif isinstance(outcome, Ended):
            self._end_error = error_for(outcome.code)
            self._apply(Cause.ENDED, now)
        else:
            self._settled(self.peer, outcome)

    def _hello_ack(self, frame: bytes, now: int) -> None:
        ack = decode_hello(frame, Kind.HELLO_ACK)
        verdict = None
        if ack is not None and self.state is Opening.OPENING:
            verdict = judge_hello_ack(self.node, self._hello.initiator_nonce, ack)
        if ack is None or verdict is None:
            self.receiving.dropped += 1
        elif verdict:
            self._end_error = error_for(verdict)
            self._apply(Cause.REFUSED, now)
        else:
            self._ack = ack
            self._apply(Cause.ACCEPTED, now)

    def _timers(self, now: int) -> None:
        if now >= self._connect_deadline_us:
            self._end_error = NoPeerError()
            self._apply(Cause.CONNECT_DEADLINE, now)
        if now >= self._retry_us:
            self._retry_us = NEVER
            self._apply(Cause.CONNECT, now)
        if now >= self._hello_due_us:
            self._apply(Cause.HELLO_TIMER, now)
        if self._up is not None:
            session = self._up
            for outcome in session.expire(now):
                self._handle(session, outcome, now)
        late = [message for message in self._outbox if message.deadline_us <= now]
        if late:
            self._outbox = [message for message in self._outbox if message.deadline_us > now]
            why = self._why_down or NoPeerError()
            for message in late:
                self._settled(self.peer, NotSent(message, why))

    def _apply(self, cause: Cause, now: int) -> None:
        """One step of the specification's table; what it does not list is dropped."""
        step = INITIATOR.get((self.state, cause))
        if step is None:
            return
        action, following = step
        was, self.state = self.state, following
        getattr(self, f"_do_{action}")(now, was)

    def _do_say_hello(self, now: int, was: Opening) -> None:
        self._hello = self.profile.hello(self.node, self._nonce())
        self._hello_frame = self._hello.encode(Kind.HELLO)
        self._hello_count = 1
        self._hello_sent_us = now
        self._hello_wait_us = self.profile.hello_timer_us
        self._hello_due_us = now + self._hello_wait_us
        self._connect_deadline_us = now + self.profile.connect_deadline_us
        self._frames.append(self._hello_frame)

    def _do_repeat_hello(self, now: int, was: Opening) -> None:
        self._hello_count += 1
        self._wait_longer(now)
        self._frames.append(self._hello_frame)

    def _do_open(self, now: int, was: Opening) -> None:
        self._connect_deadline_us = NEVER
        sid = session_id(self._hello.initiator_nonce, self._ack.acceptor_nonce)
        session = self._up = Session(
            Seal(sid),
            self.profile,
            self._hello,
            self._ack,
            self._judge,
            now,
            self.sending,
            self.receiving,
        )
        if self._hello_count == 1:
            session.round_trip.sample(now - self._hello_sent_us)
        session.ping()
        self._hello_wait_us = self.profile.hello_timer_us
        self._hello_due_us = now + self._hello_wait_us
        self._opened(self.peer, session, self.node)
        waiting, self._outbox = self._outbox, []
        for message in waiting:
            self._submit(message)

    def _do_ping_again(self, now: int, was: Opening) -> None:
        self._wait_longer(now)
        if self._up is not None:
            self._up.ping()

    def _do_say_bye(self, now: int, was: Opening) -> None:
        if self._up is not None:
            self._frames.append(self._up.bye(0))
        self._do_end(now, was)

    def _do_end(self, now: int, was: Opening) -> None:
        error = self._end_error
        session, self._up = self._up, None
        self._hello_due_us = self._connect_deadline_us = NEVER
        if session is not None:
            self._outbox = session.sender.unresolved() + self._outbox
        again = self._wanted and self._reconnect
        self._wanted = again
        self._why_down = error
        if was is not Opening.DOWN:
            self._events.append(SessionEnded(self.peer, error, session is not None, again))
        hopeless = was is Opening.OPENING and error.code not in (
            *_PASSING,
            ErrorCode.NO_PEER,
            ErrorCode.SEND_FAILED,
        )
        if hopeless or not again:
            ended, self._outbox = self._outbox, []
            for message in ended:
                self._settled(self.peer, NotSent(message, error))
        if again:
            pause = 0 if error.code == ErrorCode.RESET else self.profile.retry_pause_us
            self._retry_us = now + pause

    def _wait_longer(self, now: int) -> None:
        self._hello_wait_us = min(2 * self._hello_wait_us, self.profile.hello_timer_max_us)
        self._hello_due_us = now + self._hello_wait_us


class _Offer(NamedTuple):
    """What a HELLO was answered with: of a session that is up, or of one not confirmed yet."""

    seal: Seal
    node: Node
    ack: Hello
    hello: Hello
    ack_frame: bytes
    until_us: int


class _Up(NamedTuple):
    """A session of an acceptor, and what made it."""

    session: Session
    offer: _Offer


class _Peer:
    """What an acceptor knows of one address."""

    __slots__ = (
        "address",
        "confirmed",
        "due_us",
        "frames",
        "hello",
        "in_progress",
        "node",
        "offer",
        "returning",
        "state",
        "up",
    )

    def __init__(self, address: Address, node: Node) -> None:
        self.address = address
        self.node = node  # Whom the last HELLO is for.
        self.state = Accepting.NONE
        self.up: _Up | None = None
        self.offer: _Offer | None = None  # Pending; kept small, since strangers make it.
        self.confirmed: Session | None = None  # What its first frame made of the offer.
        self.hello = Hello()
        self.frames: list[bytes] = []
        self.in_progress: set[int] = set()
        self.returning: dict[int, tuple[int, bool]] = {}  # token -> inference, is a RESULT.
        self.due_us = NEVER


class Acceptor(Endpoint):
    """The end that is called: one session per peer address, `profile.max_sessions` of them.

    It may be several nodes, such as the tails of several bundles: each HELLO finds its own.
    """

    MAX_LOOSE_FRAMES = 64  # HELLO_ACKs and RESETs waiting for `poll`.
    LOOSE_DEADLINES = 1024  # Entries of the heap that nobody waits for any more.

    def __init__(
        self,
        node: Node | Sequence[Node],
        profile: Profile = UDP_PROFILE,
        *,
        accept: Collection[int] = (),
        nonce: Callable[[], int] = random_nonce,
    ) -> None:
        nodes = [node] if isinstance(node, Node) else node
        super().__init__(nodes[0], profile, accept=accept, nonce=nonce)
        self.serve(nodes)
        self._peers: dict[Address, _Peer] = {}
        self._pending: dict[Address, None] = {}  # Peers without a session that is up, oldest first.
        self._touched: dict[Address, None] = {}
        self._due: list[tuple[int, int, _Peer]] = []
        self._order = 0
        self._loose: list[tuple[Address, bytes]] = []
        self._end_error: LinkError = ClosedError()

    def serve(self, nodes: Sequence[Node]) -> None:
        """Be these nodes from now on, for HELLOs to come; sessions that are there stay."""
        self.nodes = tuple(nodes)
        self.node = self.nodes[0]

    @property
    def peers(self) -> list[Address]:
        """The peers with a session that is up."""
        return [address for address, peer in self._peers.items() if peer.up is not None]

    def send_result(
        self,
        request: TensorReceived,
        tensors: Sequence[Buffer],
        phases: Sequence[PhaseRecord],
        now: int,
        *,
        deadline_us: int | None = None,
    ) -> int | None:
        """Answer an inference; the token, or None if the session it came in is gone.

        If it cannot be delivered an ERROR is sent in its place.
        """
        stage = self._stage(request.peer)
        body = messages.encode_results(request.inference_id, tensors, phases, stage=stage)
        return self._answer(request, MessageKind.RESULT, body, now, deadline_us)

    def send_failure(
        self,
        request: TensorReceived,
        code: int,
        text: str,
        now: int,
        *,
        deadline_us: int | None = None,
    ) -> int | None:
        """Report that an inference failed; the token.

        None if its session is gone, or if the peer has not taken `max_queued` messages before:
        then its own deadline ends the inference.
        """
        stage = self._stage(request.peer)
        body = messages.encode_failure(request.inference_id, code, stage, text)
        return self._answer(request, MessageKind.ERROR, body, now, deadline_us)

    def send_control(
        self, peer: Address, value: Any, now: int, *, deadline_us: int | None = None
    ) -> int | None:
        """Send a JSON value; the token, or None if there is no session."""
        body = messages.encode_control(value)
        return self._send(peer, MessageKind.CONTROL, body, now, deadline_us)

    def send_blob(
        self,
        peer: Address,
        blob_id: int,
        offset: int,
        total: int,
        piece: Buffer,
        now: int,
        *,
        deadline_us: int | None = None,
    ) -> int | None:
        """Send a piece of something big; the token, or None if there is no session."""
        body = messages.encode_blob(blob_id, offset, total, piece)
        return self._send(peer, MessageKind.BLOB, body, now, deadline_us)

    def close(self, peer: Address, now: int, code: int = ErrorCode.OK) -> None:
        """Say BYE to one peer."""
        now = self._steady(now)
        known = self._peers.get(peer)
        if known is not None:
            self._end_error = ClosedError("closed here", code=code or ErrorCode.CLOSED)
            self._apply(known, Cause.CLOSE, now)

    def close_all(self, now: int, code: int = ErrorCode.OK) -> None:
        """Say BYE to everybody."""
        for peer in self.peers:
            self.close(peer, now, code)

    def link_lost(self, peer: Address, text: str, now: int) -> None:
        now = self._steady(now)
        known = self._peers.get(peer)
        if known is not None:
            self._end_error = SendFailedError(text)
            self._apply(known, Cause.ENDED, now)
            self._apply(known, Cause.PENDING_OVER, now)

    def receive(self, frame: bytes, peer: Address, now: int) -> list[Event]:
        now = self._steady(now)
        if not frame:
            self.receiving.dropped += 1
        elif frame[0] >> 4 == Kind.HELLO:
            self._hello(frame, peer, now)
        else:
            known = self._peers.get(peer)
            if known is None or not self._in_session(known, frame, now):
                self._stray(frame, peer, now)
        return self._take_events()

    def poll(self, now: int, budget: int = UNLIMITED) -> Output:
        now = self._steady(now)
        frames: list[tuple[Address, bytes]] = []
        while self._due and self._due[0][0] <= now:
            when, _, peer = heapq.heappop(self._due)
            if when == peer.due_us:
                peer.due_us = NEVER
                if self._peers.get(peer.address) is peer:
                    self._touched[peer.address] = None
        touched, self._touched = self._touched, {}
        for address in touched:
            known = self._peers.get(address)
            if known is None:
                continue
            # Before its deadline nothing is over; whoever was just due, or is new, has none.
            if known.due_us == NEVER or now >= known.due_us:
                self._timers(known, now)
            if not budget:
                self._touched[address] = None
                continue
            frames += ((address, frame) for frame in known.frames)
            known.frames.clear()
            if known.up is not None:
                frames += ((address, frame) for frame in known.up.session.flush(now, budget))
            self._schedule(known, now)
        if budget:
            frames += self._loose
            self._loose = []
        earliest = self._due[0][0] if self._due else None
        return Output(
            frames,
            self._take_events(),
            None if earliest is None else self._steady.outside(earliest),
        )

    def clock(self, peer: Address, now: int) -> ClockEstimate | None:
        session = self._session(peer)
        return None if session is None else session.clock(self._steady(now))

    def _session(self, peer: Address) -> Session | None:
        known = self._peers.get(peer)
        return None if known is None or known.up is None else known.up.session

    def _touch(self, peer: Address) -> None:
        self._touched[peer] = None

    @property
    def _most_resets(self) -> int:
        return self.profile.max_sessions  # One that restarted is missed by all of them at once.

    def _stage(self, peer: Address) -> int:
        """The stage of the node that this peer has its session with."""
        known = self._peers.get(peer)
        node = self.node if known is None or known.up is None else known.up.offer.node
        return node.stage

    def _answer(
        self,
        request: TensorReceived,
        kind: int,
        body: bytes,
        now: int,
        deadline_us: int | None,
    ) -> int | None:
        """Never across sessions: the peer may be another run that reuses inference ids."""
        known = self._peers.get(request.peer)
        if known is None or known.up is None or known.up.session.seal.sid != request.session:
            return None
        if kind == MessageKind.ERROR and known.up.session.sender.count >= self.profile.max_queued:
            known.in_progress.discard(request.inference_id)
            return None
        now = self._steady(now)
        message = self._outgoing(kind, body, now, deadline_us)
        known.returning[message.token] = (request.inference_id, kind == MessageKind.RESULT)
        refused = known.up.session.sender.submit(message)
        if refused is not None:
            self._handle(known, known.up.session, refused, now)
        self._touch(request.peer)
        return message.token

    def _send(
        self, peer: Address, kind: int, body: bytes, now: int, deadline_us: int | None
    ) -> int | None:
        session = self._session(peer)
        if session is None:
            return None
        if len(session.sender.unresolved()) >= self.profile.max_queued:
            raise NoSlotError
        message = self._outgoing(kind, body, self._steady(now), deadline_us)
        refused = session.sender.submit(message)
        if refused is not None:
            self._settled(peer, refused)
        self._touch(peer)
        return message.token

    def _schedule(self, peer: _Peer, now: int) -> None:
        when = NEVER
        if peer.up is not None:
            when = peer.up.session.deadline(now)
        if peer.offer is not None:
            when = min(when, peer.offer.until_us)
        if peer.state is Accepting.NONE:
            self._peers.pop(peer.address, None)
            self._pending.pop(peer.address, None)
        if when < peer.due_us:
            # A later deadline needs no entry of its own: the earlier one leads back here.
            self._order += 1
            heapq.heappush(self._due, (when, self._order, peer))
            peer.due_us = when
            if len(self._due) > 4 * len(self._peers) + self.LOOSE_DEADLINES:
                self._due = [one for one in self._due if one[0] == one[2].due_us]
                self._due = [one for one in self._due if self._peers.get(one[2].address) is one[2]]
                heapq.heapify(self._due)

    def _timers(self, peer: _Peer, now: int) -> None:
        if peer.offer is not None and now >= peer.offer.until_us:
            self._apply(peer, Cause.PENDING_OVER, now)
        if peer.up is not None:
            session = peer.up.session
            for outcome in session.expire(now):
                self._handle(peer, session, outcome, now)

    def _in_session(self, peer: _Peer, frame: bytes, now: int) -> bool:
        """Whether a session of this peer took the frame."""
        if len(frame) < 2:
            return False
        up, offer = peer.up, peer.offer
        if up is not None and frame[1] == up.session.seal.tag:
            session = up.session
            heard = session.heard
            outcome = session.receive(frame, now)
            if session.heard != heard:
                self._handle(peer, session, outcome, now)
                self._touch(peer.address)
                return True
        if offer is not None and frame[1] == offer.seal.tag and offer.seal.holds(frame):
            session = self._session_of(offer, now)
            outcome = session.receive(frame, now)
            if session.heard:
                peer.confirmed = session
                self._apply(peer, Cause.CONFIRMED, now)
                self._handle(peer, session, outcome, now)
                self._touch(peer.address)
                return True
        return False

    def _session_of(self, offer: _Offer, now: int) -> Session:
        return Session(
            offer.seal,
            self.profile,
            offer.ack,
            offer.hello,
            self._judge(offer.hello, offer.node),
            now,
            self.sending,
            self.receiving,
        )

    def _stray(self, frame: bytes, address: Address, now: int) -> None:
        sid = claimed_session(frame)
        reset = None if sid is None else self._reset_for(frame, sid, now)
        if reset is None:
            self.receiving.dropped += 1
        else:
            self._say(address, reset)

    def _say(self, address: Address, frame: bytes) -> None:
        if len(self._loose) < self.MAX_LOOSE_FRAMES:
            self._loose.append((address, frame))

    def _hello(self, frame: bytes, address: Address, now: int) -> None:
        hello = decode_hello(frame, Kind.HELLO)
        if hello is None:
            self.receiving.dropped += 1
            return
        node, verdict = choose_node(self.nodes, hello)
        if verdict is None:
            self.receiving.dropped += 1
            return
        peer = self._peers.get(address)
        if not verdict and peer is None and not self._room(now):
            verdict = ErrorCode.BUSY
        if verdict:
            own = self.profile.hello(node, 0)
            self._say(address, refusal(own, hello, verdict))
            return
        if peer is None:
            peer = self._peers[address] = _Peer(address, node)
            self._pending[address] = None
        peer.hello, peer.node = hello, node
        nonce = hello.initiator_nonce
        if peer.offer is not None and peer.offer.hello.initiator_nonce == nonce:
            cause = Cause.HELLO_PENDING
        elif peer.up is not None and peer.up.offer.hello.initiator_nonce == nonce:
            cause = Cause.HELLO_UP
        else:
            cause = Cause.HELLO_NEW
        self._apply(peer, cause, now)
        self._touch(address)

    def _room(self, now: int) -> bool:
        """Whether one more peer fits; the oldest unconfirmed one may have to go for it."""
        profile = self.profile
        full = len(self._peers) >= profile.max_sessions
        if full and self._pending:
            oldest = self._peers[next(iter(self._pending))]
            self._apply(oldest, Cause.PENDING_OVER, now)
            self._schedule(oldest, now)
            full = len(self._peers) >= profile.max_sessions
        return not full

    def _judge(self, hello: Hello, node: Node) -> Callable[[int], int]:
        def judge(kind: int) -> int:
            if kind == MessageKind.TENSOR:
                same = hello.bundle == node.bundle and any(hello.bundle)
                return 0 if same else ErrorCode.BUNDLE_MISMATCH
            return 0 if kind in self._accept else ErrorCode.UNSUPPORTED

        return judge

    def _handle(self, peer: _Peer, session: Session, outcome: Outcome | None, now: int) -> None:
        if outcome is None:
            return
        if isinstance(outcome, Delivered):
            self._delivered(peer, session, outcome, now)
        elif isinstance(outcome, Ended):
            self._end_error = error_for(outcome.code)
            self._apply(peer, Cause.ENDED, now)
        else:
            self._settled(peer.address, outcome)
            self._returned(peer, outcome, now)

    def _delivered(self, peer: _Peer, session: Session, message: Delivered, now: int) -> None:
        code = 0
        try:
            event = self._event(peer.address, session, message)
        except MalformedError:
            code = ErrorCode.MALFORMED
        else:
            if isinstance(event, TensorReceived):
                code = self._judge_tensor(peer, event, session.codec)
            if not code:
                self._events.append(event)
                return
        self.receiving.dropped += 1
        session.receiver.release(message.message_id, now)
        if message.kind == MessageKind.TENSOR:
            inference_id = (
                int.from_bytes(message.body[:4], "little") if len(message.body) > 3 else 0
            )
            body = messages.encode_failure(inference_id, code, self._stage(peer.address))
            # A peer that takes no answers is not told more than it may queue.
            if session.sender.count < self.profile.max_queued:
                session.sender.submit(self._outgoing(MessageKind.ERROR, body, now, None))

    @staticmethod
    def _judge_tensor(peer: _Peer, event: TensorReceived, agreed: int) -> int:
        if event.codec not in (messages.RAW_CODEC, agreed):
            return ErrorCode.CODEC_MISMATCH
        if event.inference_id in peer.in_progress:
            return ErrorCode.DUPLICATE
        peer.in_progress.add(event.inference_id)
        return 0

    def _returned(self, peer: _Peer, outcome: Sent | NotSent, now: int) -> None:
        """An answer is over; a RESULT that could not be sent becomes an ERROR."""
        inference_id, was_result = peer.returning.pop(outcome.message.token, (None, False))
        if inference_id is None:
            return
        if isinstance(outcome, NotSent) and was_result:
            stage = self._stage(peer.address)
            body = messages.encode_failure(inference_id, outcome.error.code, stage)
            message = self._outgoing(MessageKind.ERROR, body, now, None)
            if peer.up is None or peer.up.session.sender.count >= self.profile.max_queued:
                peer.in_progress.discard(inference_id)
                return
            peer.returning[message.token] = (inference_id, False)
            peer.up.session.sender.submit(message)
        else:
            peer.in_progress.discard(inference_id)

    def _apply(self, peer: _Peer, cause: Cause, now: int) -> None:
        """One step of the specification's table; what it does not list is dropped."""
        step = ACCEPTOR.get((peer.state, cause))
        if step is None:
            return
        action, peer.state = step
        getattr(self, f"_do_{action}")(peer, now)
        self._touch(peer.address)

    def _do_make_pending(self, peer: _Peer, now: int) -> None:
        hello = peer.hello
        ack = accept_hello(self.profile, peer.node, hello, self._nonce())
        seal = Seal(session_id(hello.initiator_nonce, ack.acceptor_nonce))
        until = now + self.profile.pending_lifetime_us
        frame = ack.encode(Kind.HELLO_ACK)
        if peer.offer is not None and peer.offer.ack_frame in peer.frames:
            peer.frames.remove(peer.offer.ack_frame)
        peer.offer = _Offer(seal, peer.node, ack, hello, frame, until)
        peer.frames.append(frame)

    def _do_repeat_pending(self, peer: _Peer, now: int) -> None:
        if peer.offer is not None:
            self._repeat(peer, peer.offer)

    def _do_repeat_up(self, peer: _Peer, now: int) -> None:
        if peer.up is not None:
            self._repeat(peer, peer.up.offer)

    @staticmethod
    def _repeat(peer: _Peer, offer: _Offer) -> None:
        if offer.ack_frame not in peer.frames:
            peer.frames.append(offer.ack_frame)

    def _do_promote(self, peer: _Peer, now: int) -> None:
        offer, session = peer.offer, peer.confirmed
        peer.offer = peer.confirmed = None
        self._pending.pop(peer.address, None)
        if offer is not None and session is not None:
            peer.up = _Up(session, offer)
            session.ping()
            self._opened(peer.address, session, offer.node)

    def _do_replace(self, peer: _Peer, now: int) -> None:
        self._end_error = ReplacedError()
        self._do_end(peer, now)
        self._do_promote(peer, now)

    def _do_forget_pending(self, peer: _Peer, now: int) -> None:
        peer.offer = None

    def _do_say_bye(self, peer: _Peer, now: int) -> None:
        if peer.up is not None:
            peer.frames.append(peer.up.session.bye(0))
        self._do_end(peer, now)

    def _do_end(self, peer: _Peer, now: int) -> None:
        if peer.up is None:
            return
        error = self._end_error
        unresolved = peer.up.session.sender.unresolved()
        peer.up = None
        if peer.state is Accepting.PENDING:
            self._pending[peer.address] = None
        peer.in_progress.clear()
        peer.returning.clear()
        for message in unresolved:
            self._settled(peer.address, NotSent(message, error))
        self._events.append(SessionEnded(peer.address, error, was_up=True, will_retry=False))
