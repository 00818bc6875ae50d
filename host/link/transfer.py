"""Messages over frames that get lost: fragmentation, selective repeat, timing (SPEC 3 and 4).

Theory of operation. Each direction of a session has one `Sender` and one `Receiver`; both live
only as long as the session. Neither reads a clock: time comes in, in microseconds.

The receiver keeps, per message, the set of fragments that are here as the bits of one integer,
and answers only when the specification says so; there is no acknowledgement timer. What it
answers is kept as small records and coded when the driver collects output, so that the delay
and the limit in an ACK are those of the moment it leaves. Everything it holds is bounded:
at most `slots` messages of at most `max_message` bytes, and the outcome of the last 8 ids.

The sender numbers every transmission of a message. An ACK names the transmission that caused
it (fragment and attempt), so "sent earlier, still missing, and something later arrived" needs
no guess about order; that is QUIC's way (RFC 9002 section 6.1), with the round-trip estimate of
RFC 6298. A fragment that stays unanswered for a retransmission timeout is probed. Fragments in
flight are kept in order of transmission, which makes loss detection a walk from the oldest.

Message ids are given out at the first transmission, so a message that waits in the queue costs
the receiver nothing and one given up there leaves no gap.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from host.link.errors import (
    DeadlineError,
    ErrorCode,
    LinkError,
    TooLargeError,
    error_for,
)
from host.link.frames import (
    ACK_DELAY_UNIT_US,
    ACKREQ,
    DATA_OVERHEAD,
    ECHO_NONE,
    ECHO_POLL,
    LAST,
    MAX_FRAGMENT,
    MAX_LIVE,
    Ack,
    Poll,
    Reject,
    Seal,
    encode_data,
    extend,
    unpack_data,
)
from host.link.messages import (
    ENVELOPE,
    Buffer,
    MessageKind,
    decode_envelope,
    encode_message,
    message_crc,
)

RTO_INITIAL_US: Final = 250_000
RTO_MAX_US: Final = 2_000_000
PROBE_MAX_US: Final = 100_000
KNOCK_MAX_US: Final = 500_000
RTO_GRANULARITY_US: Final = 1_000
PARTIAL_TIMEOUT_US: Final = 10_000_000
REORDER_MAX: Final = 16
# Of a row of probes: every eighth carries data, the 2nd, 10th, 18th ... bring a PING, and an answer
# to a row of more than four gives no sample, because attempts and seqs count modulo four.
PROBE_CYCLE: Final = 8
CLEAR_PROBES: Final = 4
WINDOW_MIN: Final = 4
TRIES: Final = 3
# Rejections that a new id may cure: a damaged copy, or a receiver whose patience ended.
_TRY_AGAIN: Final = frozenset({ErrorCode.INTEGRITY, ErrorCode.DEADLINE})
NEVER: Final = 1 << 62


class RoundTrip:
    """The round-trip estimate of one session, and the retransmission timeout from it."""

    __slots__ = ("_peer_ack_delay_us", "_rto_min_us", "_variation_us", "latest_us", "smoothed_us")

    def __init__(self, rto_min_us: int, peer_ack_delay_us: int) -> None:
        self._rto_min_us = rto_min_us
        self._peer_ack_delay_us = peer_ack_delay_us
        self._variation_us = 0
        self.smoothed_us: int | None = None
        self.latest_us = 0

    def sample(self, rtt_us: int) -> None:
        """RFC 6298, section 2."""
        if rtt_us < 0:
            return
        self.latest_us = rtt_us
        if self.smoothed_us is None:
            self.smoothed_us, self._variation_us = rtt_us, rtt_us // 2
            return
        self._variation_us += (abs(self.smoothed_us - rtt_us) - self._variation_us) // 4
        self.smoothed_us += (rtt_us - self.smoothed_us) // 8

    @property
    def rto_us(self) -> int:
        if self.smoothed_us is None:
            return RTO_INITIAL_US
        spread = max(4 * self._variation_us, RTO_GRANULARITY_US)
        rto = self.smoothed_us + spread + self._peer_ack_delay_us
        return min(max(rto, self._rto_min_us), RTO_MAX_US)

    @property
    def loss_delay_us(self) -> int | None:
        """How long after its sending a fragment that was overtaken counts as lost."""
        if self.smoothed_us is None:
            return None
        return max(self.smoothed_us, self.latest_us) * 9 // 8


@dataclass
class Counters:
    """What senders or receivers did. Bytes are bytes of frames."""

    data_frames: int = 0
    data_bytes: int = 0
    retransmitted: int = 0
    polls: int = 0
    acks: int = 0
    ack_bytes: int = 0
    probes: int = 0
    dropped: int = 0


class Delivered(NamedTuple):
    """A whole, checked message. Its slot is busy until `Receiver.release` is called."""

    message_id: int
    kind: int
    ttl_ms: int
    body: memoryview
    first_us: int
    complete_us: int


@dataclass(slots=True)
class _Inbound:
    """A message on its way in."""

    last_us: int
    pieces: dict[int, bytes] = field(default_factory=dict)
    have: int = 0
    base: int = 0
    highest: int = -1
    total: int = 0  # 0 until known.
    first_us: int = 0
    length: int = 0
    kind: int = 0
    ttl_ms: int = 0
    crc: int = 0


class _Outcome(NamedTuple):
    """How an id ended: complete with so many fragments, rejected with a code, or abandoned."""

    total: int = 0
    code: int = 0
    detail: int = 0


_ABANDONED: Final = _Outcome()


class _Answer(NamedTuple):
    message: int
    base: int
    have: int
    echo: int
    attempt: int
    complete: bool
    dup: bool
    caused_us: int
    reject: _Outcome | None = None


class Receiver:
    """One direction's receiving end. `judge(kind)` gives 0 or the code to reject that kind with."""

    MAX_ANSWERS = 256

    def __init__(
        self,
        seal: Seal,
        frame_size: int,
        *,
        slots: int,
        window: int,
        max_message: int,
        judge: Callable[[int], int],
        partial_timeout_us: int = PARTIAL_TIMEOUT_US,
        counters: Counters | None = None,
    ) -> None:
        self._seal = seal
        self._frame_size = frame_size
        self._piece = frame_size - DATA_OVERHEAD
        self._slots = slots
        self._window = window
        self._window_mask = (1 << (window - 1)) - 1
        self._max_message = max_message
        self._judge = judge
        self._partial_timeout_us = partial_timeout_us
        self._highest_id = 0
        self._released = 0
        self._told_limit = slots
        self._inbound: dict[int, _Inbound] = {}
        self._outcomes: dict[int, _Outcome] = {}
        self._held: dict[int, int] = {}  # id -> fragments, delivered and not given back.
        self._answers: deque[_Answer] = deque(maxlen=self.MAX_ANSWERS)
        self.counters = Counters() if counters is None else counters

    @property
    def limit(self) -> int:
        """The highest message id the sender may use."""
        return self._slots + self._released

    @property
    def busy_slots(self) -> int:
        return len(self._inbound) + len(self._held)

    def data(self, frame: bytes, now: int) -> Delivered | None:
        """A DATA frame whose seal holds. The message it completes, if it does (SPEC 3.2)."""
        size = len(frame)
        if size > self._frame_size:
            self._drop()
            return None
        first, _, low, fragment = unpack_data(frame)
        message_id = extend(low, self._highest_id)
        if message_id <= max(self._highest_id - MAX_LIVE, 0) or message_id > self.limit:
            self._drop()
            return None
        attempt = first >> 2 & 3
        outcome = self._outcomes.get(message_id)
        if outcome is not None:
            if outcome is _ABANDONED:
                self._drop()
                return None
            self._answer_outcome(message_id, outcome, fragment, attempt, now, dup=True)
            return None
        if message_id > self._highest_id:
            self._advance(message_id, now)
        inbound = self._inbound.get(message_id)
        if inbound is None:
            if self.busy_slots >= self._slots:
                self._drop()
                return None
            inbound = self._inbound[message_id] = _Inbound(now)
        last = first & LAST
        payload = size - DATA_OVERHEAD
        if (
            (payload > self._piece if last else payload != self._piece)
            or (fragment == 0 and payload < ENVELOPE)
            or fragment > MAX_FRAGMENT
        ):
            self._drop()
            return None
        if fragment < inbound.base:
            self._answer(message_id, inbound, fragment, attempt, now, dup=True)
            return None
        if fragment >= inbound.base + self._window:
            self._drop()
            return None
        total = inbound.total
        if last:
            if (total and total != fragment + 1) or inbound.highest > fragment:
                self._drop()
                return None
            total = fragment + 1
        elif total and fragment + 1 >= total:
            self._drop()
            return None
        if inbound.have >> fragment & 1:
            self._answer(message_id, inbound, fragment, attempt, now, dup=True)
            return None
        return self._store(message_id, inbound, frame, fragment, total, now)

    def _store(
        self, message_id: int, inbound: _Inbound, frame: bytes, fragment: int, total: int, now: int
    ) -> Delivered | None:
        piece = frame[6:-2]
        if fragment == 0:
            envelope = decode_envelope(piece)
            if envelope.flags or envelope.message_id != message_id:
                self._reject(message_id, ErrorCode.MALFORMED)
                return None
            code = self._judge(envelope.kind)
            if code:
                self._reject(message_id, code)
                return None
            if envelope.length > self._max_message:
                self._reject(message_id, ErrorCode.TOO_LARGE, self._max_message)
                return None
            stated = -(-(ENVELOPE + envelope.length) // self._piece)
            unended = stated == 1 and not frame[0] & LAST
            if (total and total != stated) or inbound.highest >= stated or unended:
                self._reject(message_id, ErrorCode.INTEGRITY)
                return None
            total = stated
            inbound.kind, inbound.ttl_ms = envelope.kind, envelope.ttl_ms
            inbound.length, inbound.crc = envelope.length, envelope.crc
        if fragment * self._piece + len(piece) > ENVELOPE + self._max_message:
            self._reject(message_id, ErrorCode.TOO_LARGE, self._max_message)
            return None
        if not inbound.have:
            inbound.first_us = now
        gap = fragment > inbound.highest + 1
        inbound.total = total
        inbound.pieces[fragment] = piece
        inbound.have |= 1 << fragment
        inbound.highest = max(inbound.highest, fragment)
        inbound.last_us = now
        while inbound.have >> inbound.base & 1:
            inbound.base += 1
        if total and inbound.base == total:
            return self._complete(message_id, inbound, frame, fragment, now)
        if gap or frame[0] & ACKREQ:
            self._answer(message_id, inbound, fragment, frame[0] >> 2 & 3, now)
        return None

    def _complete(
        self, message_id: int, inbound: _Inbound, frame: bytes, fragment: int, now: int
    ) -> Delivered | None:
        pieces = inbound.pieces
        message = (
            pieces[0]
            if inbound.total == 1
            else b"".join(map(pieces.__getitem__, range(len(pieces))))
        )
        whole = ENVELOPE + inbound.length == len(message)
        if not whole or message_crc(self._seal.sid, message) != inbound.crc:
            self._reject(message_id, ErrorCode.INTEGRITY)
            return None
        del self._inbound[message_id]
        outcome = self._outcomes[message_id] = _Outcome(inbound.total)
        self._held[message_id] = inbound.total
        self._answer_outcome(message_id, outcome, fragment, frame[0] >> 2 & 3, now)
        return Delivered(
            message_id,
            inbound.kind,
            inbound.ttl_ms,
            memoryview(message)[ENVELOPE:],
            inbound.first_us,
            now,
        )

    def poll(self, low: int, oldest_low: int, seq: int, now: int) -> None:
        """A POLL: abandon what the sender gave up, then say what is here."""
        oldest = extend(oldest_low, self._highest_id)
        # One beyond the limit is the next id of a sender that gave up all it had in flight.
        if oldest > self.limit + 1:
            self._drop()
            return
        if oldest - 1 > self._highest_id:
            self._advance(oldest - 1, now, abandon_from=oldest)
        for message_id in range(max(self._highest_id - MAX_LIVE + 1, 1), oldest):
            if message_id not in self._outcomes:
                self._abandon(message_id)
        message_id = extend(low, self._highest_id)
        outcome = self._outcomes.get(message_id)
        if outcome is not None and outcome is not _ABANDONED:
            self._answer_outcome(message_id, outcome, ECHO_POLL, seq, now)
            return
        inbound = self._inbound.get(message_id, _NOTHING)
        self._answer(message_id, inbound, ECHO_POLL, seq, now)

    def release(self, message_id: int, now: int) -> None:
        """The application gives a delivered message back; its slot is free again."""
        total = self._held.pop(message_id, None)
        if total is None:
            return
        self._released += 1
        if self._told_limit <= self._highest_id and not self._answers:
            self._answer_outcome(message_id, _Outcome(total), ECHO_NONE, 0, now)

    def expire(self, now: int) -> int:
        """Reject messages that got no fragment for the partial timeout; when to look again."""
        if not self._inbound:
            return NEVER
        for message_id, inbound in list(self._inbound.items()):
            if now >= inbound.last_us + self._partial_timeout_us:
                self._reject(message_id, ErrorCode.DEADLINE)
        oldest = min((inbound.last_us for inbound in self._inbound.values()), default=NEVER)
        return oldest + self._partial_timeout_us

    def flush(self, now: int) -> list[bytes]:
        """The frames that answer what came in since the last call."""
        frames: list[bytes] = []
        if not self._answers:
            return frames
        limit = self._told_limit = self.limit
        while self._answers:
            answer = self._answers.popleft()
            if answer.reject is not None:
                frame = Reject(
                    answer.message, answer.reject.code, limit, answer.reject.detail
                ).encode(self._seal)
            else:
                delay = (
                    0
                    if answer.echo == ECHO_NONE
                    else max(now - answer.caused_us, 0) // ACK_DELAY_UNIT_US
                )
                frame = Ack(
                    answer.message,
                    answer.base,
                    answer.echo,
                    answer.attempt,
                    delay,
                    limit,
                    answer.have,
                    answer.complete,
                    answer.dup,
                ).encode(self._seal)
            self.counters.acks += 1
            self.counters.ack_bytes += len(frame)
            frames.append(frame)
        return frames

    def _drop(self) -> None:
        self.counters.dropped += 1

    def _advance(self, highest: int, now: int, abandon_from: int = 0) -> None:
        """Raise the highest id seen; what falls out of the last 8 is over."""
        for message_id in range(max(self._highest_id - MAX_LIVE + 1, 1), highest - MAX_LIVE + 1):
            if message_id not in self._outcomes:
                self._abandon(message_id)
                if not abandon_from:
                    self._answer(message_id, _NOTHING, ECHO_NONE, 0, now)
            self._outcomes.pop(message_id, None)
        self._highest_id = highest

    def _abandon(self, message_id: int) -> None:
        self._inbound.pop(message_id, None)
        self._outcomes[message_id] = _ABANDONED
        self._released += 1

    def _reject(self, message_id: int, code: int, detail: int = 0) -> None:
        self._inbound.pop(message_id, None)
        outcome = self._outcomes[message_id] = _Outcome(0, code, detail)
        self._released += 1
        self._answers.append(_Answer(message_id, 0, 0, 0, 0, False, False, 0, outcome))

    def _answer(
        self,
        message_id: int,
        inbound: _Inbound,
        echo: int,
        attempt: int,
        now: int,
        dup: bool = False,
    ) -> None:
        base = inbound.base
        have = inbound.have >> (base + 1) & self._window_mask
        self._answers.append(_Answer(message_id, base, have, echo, attempt, False, dup, now))

    def _answer_outcome(
        self,
        message_id: int,
        outcome: _Outcome,
        echo: int,
        attempt: int,
        now: int,
        dup: bool = False,
    ) -> None:
        if outcome.code:
            self._answers.append(_Answer(message_id, 0, 0, 0, 0, False, False, 0, outcome))
        else:
            self._answers.append(
                _Answer(message_id, outcome.total, 0, echo, attempt, True, dup, now)
            )


_NOTHING: Final = _Inbound(0)


class Sent(NamedTuple):
    """A message that the receiver has, whole. `frames` and `frame_bytes` count its DATA."""

    message: Outgoing
    first_us: int
    acked_us: int
    fragments: int
    frames: int
    frame_bytes: int


class NotSent(NamedTuple):
    """A message that is over without having arrived."""

    message: Outgoing
    error: LinkError


class Outgoing:
    """A message of the application, from submission to its end, across sessions.

    `deadline_us` is absolute. `say_ttl` puts the time that is left into the envelope.
    """

    __slots__ = ("body", "deadline_us", "kind", "say_ttl", "submitted_us", "token", "tries")

    def __init__(
        self,
        token: int,
        kind: int,
        body: Buffer,
        submitted_us: int,
        deadline_us: int,
        *,
        say_ttl: bool = False,
    ) -> None:
        self.token = token
        self.kind = kind
        self.body = body
        self.submitted_us = submitted_us
        self.deadline_us = deadline_us
        self.say_ttl = say_ttl
        self.tries = 0  # Rejections that a new id may cure.

    def ttl_ms(self, now: int) -> int:
        if not self.say_ttl:
            return 0
        return min(max((self.deadline_us - now) // 1000, 1), 0xFFFF)


class _Transmissions:
    """Every sending of one fragment."""

    __slots__ = ("at_us", "attempts", "last_number", "numbers", "overtaken", "probed")

    def __init__(self) -> None:
        self.attempts = 0
        self.last_number = 0
        self.at_us = 0
        self.numbers = [0, 0, 0, 0]  # By attempt modulo 4.
        self.probed = False  # The latest one was a probe.
        self.overtaken = False  # Something sent later arrived; lost once the time is over.


class _Live:
    """A message that has an id in this session."""

    __slots__ = (
        "acked",
        "bytes",
        "first_us",
        "flight",
        "frames",
        "last_us",
        "lost",
        "message",
        "message_id",
        "number",
        "overtaken",
        "probes",
        "sent",
        "since_ackreq",
        "total",
        "tx",
        "wire",
    )

    def __init__(self, message: Outgoing, message_id: int, wire: bytes, piece: int, now: int):
        self.message = message
        self.message_id = message_id
        self.wire = memoryview(wire)
        self.total = -(-len(wire) // piece)
        self.sent = 0  # Fragments sent at least once: always the first so many.
        self.acked = 0
        self.tx: dict[int, _Transmissions] = {}
        self.flight: dict[int, _Transmissions] = {}  # In order of transmission.
        self.lost: deque[int] = deque()
        self.number = 0  # Transmissions made, POLLs included.
        self.probes = 0  # In a row, unanswered.
        self.since_ackreq = 0
        self.overtaken = False
        self.first_us = now
        self.last_us = now
        self.frames = 0
        self.bytes = 0

    def base(self) -> int:
        """The lowest fragment that is not acknowledged."""
        inverted = ~self.acked
        return (inverted & -inverted).bit_length() - 1


class Sender:
    """One direction's sending end.

    `window` is the fragments in flight this end allows itself, `peer_window`, `peer_slots`
    and `peer_max_message` come from the peer's HELLO. `pace_bps` of 0 means as fast as the
    link takes it.
    """

    def __init__(
        self,
        seal: Seal,
        frame_size: int,
        round_trip: RoundTrip,
        *,
        window: int,
        peer_window: int,
        peer_slots: int,
        peer_max_message: int,
        reorder: int = 3,
        pace_bps: int = 0,
        counters: Counters | None = None,
    ) -> None:
        self._seal = seal
        self._piece = frame_size - DATA_OVERHEAD
        self._rtt = round_trip
        self._start_window = self._window = min(window, peer_window)
        self._peer_window = peer_window
        self._peer_slots = peer_slots
        self._peer_max_message = peer_max_message
        self._reorder = reorder
        self._pace_bps = pace_bps
        self._pace_free_us = 0
        self._limit = peer_slots
        self._next_id = 1
        self._live: dict[int, _Live] = {}
        self._queue: deque[Outgoing] = deque()
        self._blobs: deque[Outgoing] = deque()
        self._in_flight = 0
        self._poll_seq = 0
        self._poll_id = 0
        self._poll_at_us = -1
        self._poll_number = 0
        self._tell_oldest = False  # A message was given up; the receiver must hear of it.
        self._knocks = 0
        self._knock_us = NEVER
        self._control: list[bytes] = []
        self.want_ping = False
        self.counters = Counters() if counters is None else counters

    # What the application asks for.

    def submit(self, message: Outgoing) -> NotSent | None:
        """Queue a message. NotSent at once if the receiver could never take it."""
        size = len(message.body)
        if size > self._peer_max_message or ENVELOPE + size > self._piece * (MAX_FRAGMENT + 1):
            text = f"{size} bytes, the receiver takes {self._peer_max_message}"
            return NotSent(message, TooLargeError(text, detail=self._peer_max_message))
        self._queue_of(message).append(message)
        return None

    def give_up(self, token: int, now: int) -> Outgoing | None:
        """Forget a message; the receiver is told. None if it is not here."""
        for queue in (self._queue, self._blobs):
            for message in queue:
                if message.token == token:
                    queue.remove(message)
                    return message
        for live in self._live.values():
            if live.message.token == token:
                self._forget(live)
                self._say_oldest(now)
                return live.message
        return None

    def unresolved(self) -> list[Outgoing]:
        """Every message without an outcome, oldest first."""
        live = [entry.message for entry in self._live.values()]
        return sorted([*live, *self._queue, *self._blobs], key=lambda message: message.token)

    @property
    def count(self) -> int:
        """How many messages have no outcome."""
        return len(self._live) + len(self._queue) + len(self._blobs)

    @property
    def idle(self) -> bool:
        return not (self._live or self._queue or self._blobs)

    # What the peer says.

    def ack(self, ack: Ack, now: int) -> Sent | None:
        """An ACK whose seal holds. The message it completes, if it does."""
        message_id = extend(ack.message, self._next_id - 1)
        live = self._live.get(message_id)
        limit = extend(ack.limit, self._limit)
        # Each id is released once, so no receiver can have released more than were used.
        if limit > self._next_id - 1 + self._peer_slots:
            self._drop()
            return None
        if live is None:
            self._heard(limit)
            if ack.echo == ECHO_POLL and ack.attempt == self._poll_seq & 3:
                self._poll_answered(ack, message_id, self._knocks, now)
            return None
        if ack.complete and (ack.base != live.total or ack.have):
            self._drop()
            return None
        named = ack.base + 1 + ack.have.bit_length() if ack.have else ack.base
        if named > live.sent:
            self._drop()
            return None
        self._heard(limit)
        shown, echoed = self._echoed(ack, live, message_id, now)
        live.probes = 0
        live.last_us = now
        if ack.complete:
            self._forget(live)
            self._grow_window(len(live.flight))
            return Sent(live.message, live.first_us, now, live.total, live.frames, live.bytes)
        have = (1 << ack.base) - 1 | ack.have << (ack.base + 1)
        fresh = have & ~live.acked
        if fresh:
            live.acked |= fresh
            gone = [fragment for fragment in live.flight if have >> fragment & 1]
            for fragment in gone:
                del live.flight[fragment]
            self._in_flight -= len(gone)
            self._grow_window(len(gone))
        if echoed is not None and ack.dup and ack.attempt and not echoed.probed:
            self._reorder = min(self._reorder + 1, REORDER_MAX)
        if shown:
            self._detect(live, shown, now)
        return None

    def reject(self, reject: Reject, now: int) -> NotSent | None:
        """A REJECT whose seal holds. The message it ends, if it does."""
        limit = extend(reject.limit, self._limit)
        if limit > self._next_id - 1 + self._peer_slots:
            self._drop()
            return None
        self._heard(limit)
        live = self._live.get(extend(reject.message, self._next_id - 1))
        if live is None:
            return None
        self._forget(live)
        message = live.message
        if reject.code in _TRY_AGAIN:
            message.tries += 1
            if message.tries < TRIES:
                self._queue_of(message).appendleft(message)
                return None
        text = f"the receiver takes {reject.detail} bytes, not {len(message.body)}"
        if reject.code != ErrorCode.TOO_LARGE:
            text = ""
        return NotSent(message, error_for(reject.code, text, detail=reject.detail))

    # What time does.

    def expire(self, now: int) -> list[NotSent]:
        """Messages whose deadline is over."""
        if self.idle:
            return []
        late = [message for message in self._waiting() if message.deadline_us <= now]
        for message in late:
            self.give_up(message.token, now)
        return [NotSent(message, DeadlineError("not delivered in time")) for message in late]

    def flush(self, now: int, budget: int = 1 << 30) -> list[bytes]:
        """The frames to send now, at most about `budget` of them."""
        if not (self._live or self._queue or self._blobs or self._control or self._tell_oldest):
            return []
        self._overdue(now)
        self._fill(now, budget)
        self._probe(now)
        frames, self._control = self._control, []
        return frames

    def deadline(self) -> int:
        """When `expire` or `flush` must be called again, if nothing comes in before."""
        if not (self._live or self._queue or self._blobs or self._tell_oldest):
            return NEVER
        when = min((message.deadline_us for message in self._waiting()), default=NEVER)
        loss_delay = self._rtt.loss_delay_us
        for live in self._live.values():
            if live.flight or live.sent == live.total:
                when = min(when, live.last_us + self._wait_us(live.probes, PROBE_MAX_US))
            if live.overtaken and loss_delay is not None:
                for tx in live.flight.values():
                    if tx.overtaken:
                        when = min(when, tx.at_us + loss_delay)
        if self._pace_bps and self._sendable():
            when = min(when, self._pace_free_us)
        return min(when, self._knock_us)

    def _waiting(self) -> Iterable[Outgoing]:
        yield from (live.message for live in self._live.values())
        yield from self._queue
        yield from self._blobs

    def _wait_us(self, probes: int, most_us: int) -> int:
        """How long to wait for an answer after so many probes in a row without one."""
        rto = self._rtt.rto_us
        return min(rto << min(max(probes - 3, 0), 16), max(rto, most_us))

    def _queue_of(self, message: Outgoing) -> deque[Outgoing]:
        return self._blobs if message.kind == MessageKind.BLOB else self._queue

    def _drop(self) -> None:
        self.counters.dropped += 1

    def _heard(self, limit: int) -> None:
        """The limit may have grown."""
        if limit > self._limit:
            self._limit = limit
            self._knocks = 0
            self._knock_us = NEVER

    def _poll_answered(self, ack: Ack, message_id: int, probes: int, now: int) -> None:
        if self._poll_at_us >= 0 and message_id == self._poll_id:
            if probes <= CLEAR_PROBES:
                self._rtt.sample(now - self._poll_at_us - ack.delay * ACK_DELAY_UNIT_US)
            self._poll_at_us = -1
            self._tell_oldest = False
            if self._knock_us != NEVER:  # Heard, but no more room: not so soon again.
                self._knock_us = now + self._wait_us(self._knocks, KNOCK_MAX_US)

    def _echoed(
        self, ack: Ack, live: _Live, message_id: int, now: int
    ) -> tuple[int, _Transmissions | None]:
        """Number of the transmission that caused the ACK (0: unknown); takes the RTT sample."""
        if ack.echo == ECHO_POLL:
            asked = ack.attempt == self._poll_seq & 3 and message_id == self._poll_id
            if not asked:
                return 0, None
            self._poll_answered(ack, message_id, live.probes, now)
            return self._poll_number, None
        tx = live.tx.get(ack.echo)
        if tx is None or not tx.attempts:
            return 0, None
        latest = (tx.attempts - 1) & 3 == ack.attempt and ack.echo in live.flight
        if latest and live.probes <= CLEAR_PROBES:
            self._rtt.sample(now - tx.at_us - ack.delay * ACK_DELAY_UNIT_US)
        return tx.numbers[ack.attempt], tx

    def _detect(self, live: _Live, shown: int, now: int) -> None:
        """Which fragments sent before transmission `shown` are lost (SPEC 4.1)."""
        delay = self._rtt.loss_delay_us
        lost = []
        for fragment, tx in live.flight.items():
            if tx.last_number >= shown:
                break
            if shown - tx.last_number >= self._reorder or (
                delay is not None and now >= tx.at_us + delay
            ):
                lost.append(fragment)
            else:
                tx.overtaken = live.overtaken = True
        self._declare(live, lost)

    def _declare(self, live: _Live, lost: list[int]) -> None:
        for fragment in lost:
            live.flight.pop(fragment).probed = False
        self._in_flight -= len(lost)
        live.lost.extend(sorted(lost))

    def _overdue(self, now: int) -> None:
        """Fragments that were overtaken and whose time is over by now."""
        delay = self._rtt.loss_delay_us
        if delay is None:
            return
        for live in self._live.values():
            if live.overtaken:
                marked = [(f, tx) for f, tx in live.flight.items() if tx.overtaken]
                self._declare(live, [f for f, tx in marked if now >= tx.at_us + delay])
                live.overtaken = any(now < tx.at_us + delay for _, tx in marked)

    def _grow_window(self, acked: int) -> None:
        self._window = min(self._window + acked, self._start_window)

    def _forget(self, live: _Live) -> None:
        del self._live[live.message_id]
        self._in_flight -= len(live.flight)

    def _oldest(self) -> int:
        return min(self._live, default=self._next_id)

    def _may_open(self) -> bool:
        return self._next_id <= min(self._limit, self._oldest() + MAX_LIVE - 1)

    def _sendable(self) -> bool:
        """Whether there is DATA that only pacing holds back."""
        if self._in_flight >= self._window:
            return False
        if (self._queue or self._blobs) and self._may_open():
            return True
        return any(map(self._has_more, self._live.values()))

    def _has_more(self, live: _Live) -> bool:
        """Whether the message has fragments that the receiver's window admits now."""
        return bool(live.lost) or live.sent < min(live.total, live.base() + self._peer_window)

    def _open(self, queue: deque[Outgoing], now: int) -> _Live | None:
        """Give the queue's first message an id, if the receiver has room."""
        if not queue or not self._may_open():
            return None
        message = queue.popleft()
        message_id = self._next_id
        self._next_id += 1
        wire = encode_message(
            self._seal.sid, message.kind, message_id, message.body, message.ttl_ms(now)
        )
        live = self._live[message_id] = _Live(message, message_id, wire, self._piece, now)
        return live

    def _candidates(self, now: int) -> Iterable[tuple[_Live, int, bool]]:
        """Fragments to send in order of urgency: lost ones, older messages, blobs at the end."""
        ordered = sorted(
            self._live.values(), key=lambda live: live.message.kind == MessageKind.BLOB
        )
        for live in ordered:
            while live.lost:
                fragment = live.lost.popleft()
                if not live.acked >> fragment & 1:
                    yield live, fragment, True
        pieces = [live for live in ordered if live.message.kind != MessageKind.BLOB]
        blobs = ordered[len(pieces) :]
        for group, queue in ((pieces, self._queue), (blobs, self._blobs)):
            for live in group:
                yield from self._new_fragments(live)
            while (opened := self._open(queue, now)) is not None:
                yield from self._new_fragments(opened)

    def _new_fragments(self, live: _Live) -> Iterable[tuple[_Live, int, bool]]:
        end = min(live.total, live.base() + self._peer_window)
        while live.sent < end:
            live.sent += 1
            yield live, live.sent - 1, False

    def _fill(self, now: int, budget: int) -> None:
        """Send what the windows, the limit and the pace allow."""
        window_room = self._window - self._in_flight
        room = min(window_room, budget)
        if self._pace_bps:
            room = self._paced(room, now)
        if room <= 0:
            self._knock(now)
            return
        plan: list[tuple[_Live, int]] = []
        for live, fragment, again in self._candidates(now):
            plan.append((live, fragment))
            self._in_flight += 1
            if again:
                self.counters.retransmitted += 1
            if len(plan) >= room:
                break
        held_back = len(plan) >= room and room < window_room
        last = {live.message_id: index for index, (live, _) in enumerate(plan)}
        every = max(min(self._window, self._peer_window) // 2, 1)
        for index, (live, fragment) in enumerate(plan):
            live.since_ackreq += 1
            ask = live.since_ackreq >= every or (
                index == last[live.message_id] and not (held_back and self._has_more(live))
            )
            self._transmit(live, fragment, now, ask)
        self._knock(now)

    def _paced(self, room: int, now: int) -> int:
        """How many frames may leave now; a pause earns at most 10 ms worth of burst."""
        frame_us = (self._piece + DATA_OVERHEAD) * 8_000_000 // self._pace_bps
        self._pace_free_us = max(self._pace_free_us, now - 10_000)
        allowed = max((now - self._pace_free_us) // max(frame_us, 1) + 1, 0)
        return min(room, allowed if now >= self._pace_free_us else 0)

    def _transmit(self, live: _Live, fragment: int, now: int, ask: bool) -> None:
        tx = live.tx.get(fragment)
        if tx is None:
            tx = live.tx[fragment] = _Transmissions()
        attempt = tx.attempts & 3
        flags = attempt << 2
        if fragment == live.total - 1:
            flags |= LAST
        if ask:
            flags |= ACKREQ
            live.since_ackreq = 0
        start = fragment * self._piece
        frame = encode_data(
            self._seal, flags, live.message_id, fragment, live.wire[start : start + self._piece]
        )
        live.number += 1
        tx.attempts += 1
        tx.last_number = tx.numbers[attempt] = live.number
        tx.at_us = now
        tx.overtaken = False
        live.flight.pop(fragment, None)
        live.flight[fragment] = tx
        live.last_us = now
        live.frames += 1
        live.bytes += len(frame)
        self.counters.data_frames += 1
        self.counters.data_bytes += len(frame)
        if self._pace_bps:
            self._pace_free_us += len(frame) * 8_000_000 // self._pace_bps
        self._control.append(frame)

    def _probe(self, now: int) -> None:
        """Ask again where nothing was acknowledged for a retransmission timeout."""
        for live in self._live.values():
            if not (live.flight or live.sent == live.total):
                continue
            if now < live.last_us + self._wait_us(live.probes, PROBE_MAX_US):
                continue
            live.probes += 1
            self.counters.probes += 1
            if live.probes % PROBE_CYCLE == 2:
                self.want_ping = True
            if live.probes == 4:
                self._window = max(self._window // 2, min(WINDOW_MIN, self._start_window))
            first = live.probes == 1
            if (first or live.probes % PROBE_CYCLE == 0) and live.flight:
                fragment = max(live.flight) if first else min(live.flight)
                live.flight[fragment].probed = True
                self.counters.retransmitted += 1
                self._transmit(live, fragment, now, True)
            else:
                live.number += 1
                live.last_us = now
                self._ask(live.message_id, live.number, now)

    def _ask(self, message_id: int, number: int, now: int) -> None:
        self._poll_seq = self._poll_seq + 1 & 3
        self._poll_id = message_id
        self._poll_number = number
        self._poll_at_us = now
        self.counters.polls += 1
        self._control.append(Poll(message_id, self._oldest(), self._poll_seq).encode(self._seal))

    def _say_oldest(self, now: int) -> None:
        self._tell_oldest = True
        self._knocks = 0
        self._knock_us = now

    def _knock(self, now: int) -> None:
        """POLL while nothing is in flight that would be answered, but an answer is needed."""
        waiting = (self._queue or self._blobs) and not self._live and not self._may_open()
        if not (self._tell_oldest or waiting):
            self._knock_us = NEVER
            return
        if self._knock_us == NEVER:
            self._knock_us = now + self._rtt.rto_us
        if now < self._knock_us:
            return
        self._ask(self._oldest(), 0, now)
        self._knocks += 1
        if self._knocks % PROBE_CYCLE == 2:
            self.want_ping = True
        self._knock_us = now + self._wait_us(self._knocks, PROBE_MAX_US)
