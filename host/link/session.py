"""One agreement between two ends: HELLO, the tables of section 2.3, keep-alive and clocks.

Theory of operation. `judge_hello` and `judge_hello_ack` decide about the two opening frames and
keep no state. `INITIATOR` and `ACCEPTOR` are the specification's tables, (state, input) ->
(action, next state); an input a state does not list is dropped. A `Session` is what exists once
both nonces are known: a sender, a receiver, the PINGs under way and the clock offset. It can
only end; a new session is a new object, so nothing of an old one can leak into it.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from host.link.errors import ErrorCode, InvalidError
from host.link.frames import (
    DATA_OVERHEAD,
    MAX_FRAGMENT,
    MAX_LIVE,
    MAX_MTU,
    MAX_WINDOW,
    MIN_MTU,
    VERSION,
    Ack,
    Bye,
    Hello,
    Kind,
    Ping,
    Poll,
    Pong,
    Reject,
    Reset,
    Seal,
    decode,
)
from host.link.messages import EVERY_CODEC, HOST_STAGE, RAW_ONLY
from host.link.transfer import (
    PARTIAL_TIMEOUT_US,
    Counters,
    Delivered,
    NotSent,
    Receiver,
    RoundTrip,
    Sender,
    Sent,
)

BUNDLE_BYTES: Final = 32
NO_BUNDLE: Final = bytes(BUNDLE_BYTES)
PING_ANSWER_US: Final = 1_000_000
CLOCK_MEMORY_US: Final = 60_000_000
CLOCK_PING_US: Final = 50_000_000
RESET_PAUSE_US: Final = 10_000


class Role(enum.IntEnum):
    """SPEC 2.1."""

    HOST = 0
    HEAD = 1
    RELAY = 2
    TAIL = 3
    BRIDGE = 4


@dataclass(frozen=True)
class Node:
    """Who this end is. `bundle` is the 32-byte SHA-256 id, all zero for none."""

    role: Role
    stage: int = HOST_STAGE
    stage_count: int = 0
    bundle: bytes = NO_BUNDLE
    serving: bool = True
    version_min: int = VERSION
    version_max: int = VERSION
    codecs: int = RAW_ONLY

    def __post_init__(self) -> None:
        if len(self.bundle) != BUNDLE_BYTES:
            raise InvalidError(f"a bundle id has 32 bytes, not {len(self.bundle)}")
        if not self.codecs & 1:
            raise InvalidError("codec 0 (raw bytes) is always spoken")
        if self.codecs & ~EVERY_CODEC:
            raise InvalidError("codecs above 1 are not known")

    @classmethod
    def host(cls, bundle: bytes = NO_BUNDLE, *, codecs: int = RAW_ONLY) -> Node:
        return cls(Role.HOST, bundle=bundle, codecs=codecs)

    @classmethod
    def head(cls, bundle: bytes, stage_count: int = 2, *, codecs: int = RAW_ONLY) -> Node:
        return cls(Role.HEAD, 0, stage_count, bundle, codecs=codecs)

    @classmethod
    def tail(cls, bundle: bytes, stage_count: int = 2, *, codecs: int = RAW_ONLY) -> Node:
        return cls(Role.TAIL, stage_count - 1, stage_count, bundle, codecs=codecs)


@dataclass(frozen=True)
class Profile:
    """What a link needs: sizes, windows and timers. Defaults are SPEC's, for UDP.

    `window`: fragments in flight and fragments accepted beyond a gap. `slots`: messages
    received at once. `max_message`: largest body accepted, bytes. `pace_bps`: bits per
    second of DATA frames, 0 for no limit. `reorder`: how many later frames must arrive before
    a missing one counts as lost. `max_queued`: messages an application may queue per peer.
    `max_sessions`: peers of an acceptor; where they are used up, one more makes the oldest
    unconfirmed one forgotten, so that HELLOs from nowhere keep nobody out.
    """

    mtu: int = 1452
    window: int = 64
    slots: int = 4
    max_message: int = 1 << 20
    reorder: int = 3
    pace_bps: int = 0
    ack_delay_us: int = 1_000
    rto_min_us: int = 5_000
    idle_timeout_us: int = 15_000_000
    hello_timer_us: int = 100_000
    hello_timer_max_us: int = 1_000_000
    connect_deadline_us: int = 5_000_000
    retry_pause_us: int = 1_000_000
    pending_lifetime_us: int = 3_000_000
    message_deadline_us: int = 10_000_000
    partial_timeout_us: int = PARTIAL_TIMEOUT_US
    max_sessions: int = 16
    max_queued: int = 64

    def __post_init__(self) -> None:
        for name, low, high in (
            ("mtu", MIN_MTU, MAX_MTU),
            ("window", 1, MAX_WINDOW),
            ("slots", 1, MAX_LIVE),
            ("max_message", 0, 0xFFFF_FFFF),
            ("idle_timeout_us", 0, 0xFFFF * 100_000),
            ("ack_delay_us", 0, 0xFFFF * 100),
        ):
            if not low <= getattr(self, name) <= high:
                raise InvalidError(f"{name} is {getattr(self, name)}, must be {low} to {high}")

    def hello(
        self,
        node: Node,
        initiator_nonce: int,
        acceptor_nonce: int = 0,
        *,
        version: int | None = None,
        codecs: int | None = None,
    ) -> Hello:
        """A HELLO of this node; with `version` and `codecs` chosen, a HELLO_ACK."""
        return Hello(
            initiator_nonce=initiator_nonce,
            acceptor_nonce=acceptor_nonce,
            version_max=node.version_max if version is None else version,
            version_min=node.version_min,
            mtu=self.mtu,
            window=self.window,
            max_message=self.max_message,
            slots=self.slots,
            role=node.role,
            stage=node.stage,
            stage_count=node.stage_count,
            codecs=node.codecs if codecs is None else codecs,
            ack_delay=-(-self.ack_delay_us // 100),
            idle_timeout=-(-self.idle_timeout_us // 100_000),
            bundle=node.bundle,
        )


UDP_PROFILE: Final = Profile()
TCP_PROFILE: Final = Profile(mtu=MAX_MTU, reorder=1, rto_min_us=1_000_000)


def _ranges_hold(hello: Hello) -> bool:
    return (
        1 <= hello.window <= MAX_WINDOW
        and 1 <= hello.slots <= MAX_LIVE
        and hello.role <= Role.BRIDGE
        and hello.codecs != 0
        and hello.version_min <= hello.version_max
    )


def _neighbours(node: Node, hello: Hello) -> bool:
    if hello.role == Role.HOST:
        return True
    return (
        hello.role in (Role.HEAD, Role.RELAY)
        and node.role in (Role.RELAY, Role.TAIL)
        and hello.stage + 1 == node.stage
        and hello.stage_count == node.stage_count
    )


def _well_formed(hello: Hello) -> bool:
    return bool(not hello.acceptor_nonce and hello.initiator_nonce and not hello.status)


def _checks(node: Node, hello: Hello) -> tuple[tuple[Any, ErrorCode], ...]:
    return (
        (node.version_max >= hello.version_min, ErrorCode.VERSION_NEWER),
        (hello.version_max >= node.version_min, ErrorCode.VERSION_OLDER),
        (hello.mtu >= MIN_MTU, ErrorCode.MTU_TOO_SMALL),
        (_ranges_hold(hello), ErrorCode.MALFORMED),
        (node.serving, ErrorCode.REFUSED),
        (_neighbours(node, hello), ErrorCode.STAGE_MISMATCH),
        (
            hello.role == Role.HOST or (hello.bundle == node.bundle != NO_BUNDLE),
            ErrorCode.BUNDLE_MISMATCH,
        ),
        (hello.codecs & node.codecs, ErrorCode.CODEC_MISMATCH),
    )


def judge_hello(node: Node, hello: Hello) -> int | None:
    """SPEC 2.2, checks 1 to 9: None to drop, 0 to accept, else the code to refuse with."""
    if not _well_formed(hello):
        return None
    return next((int(code) for passed, code in _checks(node, hello) if not passed), 0)


def choose_node(nodes: Sequence[Node], hello: Hello) -> tuple[Node, int | None]:
    """Which of the nodes of one end a HELLO is for, and `judge_hello`'s verdict (SPEC 2.2).

    It is the one that accepts, else the one that gets furthest in the checks, so that the refusal
    names what is wrong: a known stage of an unknown bundle is `bundle_mismatch`. Of several alike
    the one whose bundle is the peer's.
    """
    if len(nodes) == 1 or not _well_formed(hello):
        return nodes[0], judge_hello(nodes[0], hello)

    def passed(node: Node) -> tuple[int, bool]:
        checks = _checks(node, hello)
        failed = next((i for i, (passed, _) in enumerate(checks) if not passed), len(checks))
        return failed, hello.bundle == node.bundle

    chosen = max(nodes, key=passed)
    return chosen, judge_hello(chosen, hello)


def accept_hello(profile: Profile, node: Node, hello: Hello, acceptor_nonce: int) -> Hello:
    """The HELLO_ACK that accepts: chosen version, highest common codec."""
    return profile.hello(
        node,
        hello.initiator_nonce,
        acceptor_nonce,
        version=min(node.version_max, hello.version_max),
        codecs=1 << (hello.codecs & node.codecs).bit_length() - 1,
    )


def judge_hello_ack(node: Node, nonce: int, ack: Hello) -> int | None:
    """What an initiator makes of a HELLO_ACK: None to drop, 0 accepted, else the refusal."""
    if ack.initiator_nonce != nonce:
        return None
    if ack.status:
        return ack.status
    fine = (
        node.version_min <= ack.version_max <= node.version_max
        and ack.acceptor_nonce
        and ack.codecs & (ack.codecs - 1) == 0
        and ack.codecs & node.codecs
        and ack.mtu >= MIN_MTU
        and _ranges_hold(ack)
    )
    return 0 if fine else None


class Opening(enum.Enum):
    """The states of an initiator."""

    DOWN = enum.auto()
    OPENING = enum.auto()
    UP = enum.auto()


class Cause(enum.Enum):
    """What moves an initiator or an acceptor's peer from state to state."""

    CONNECT = enum.auto()
    HELLO_TIMER = enum.auto()
    ACCEPTED = enum.auto()
    REFUSED = enum.auto()
    CONNECT_DEADLINE = enum.auto()
    ENDED = enum.auto()  # RESET, BYE, idle timeout, or the link under the session is gone.
    CLOSE = enum.auto()
    HELLO_NEW = enum.auto()  # A HELLO with a nonce that is neither pending nor up.
    HELLO_PENDING = enum.auto()
    HELLO_UP = enum.auto()
    CONFIRMED = enum.auto()  # A valid frame under the pending session id.
    PENDING_OVER = enum.auto()


class Accepting(enum.Enum):
    """The states of one peer at an acceptor."""

    NONE = enum.auto()
    PENDING = enum.auto()
    UP = enum.auto()
    UP_PENDING = enum.auto()  # A session is up and another one waits to be confirmed.


INITIATOR: Final = {
    (Opening.DOWN, Cause.CONNECT): ("say_hello", Opening.OPENING),
    (Opening.OPENING, Cause.HELLO_TIMER): ("repeat_hello", Opening.OPENING),
    (Opening.OPENING, Cause.ACCEPTED): ("open", Opening.UP),
    (Opening.OPENING, Cause.REFUSED): ("end", Opening.DOWN),
    (Opening.OPENING, Cause.CONNECT_DEADLINE): ("end", Opening.DOWN),
    (Opening.OPENING, Cause.ENDED): ("end", Opening.DOWN),
    (Opening.OPENING, Cause.CLOSE): ("end", Opening.DOWN),
    (Opening.UP, Cause.HELLO_TIMER): ("ping_again", Opening.UP),
    (Opening.UP, Cause.ENDED): ("end", Opening.DOWN),
    (Opening.UP, Cause.CLOSE): ("say_bye", Opening.DOWN),
    (Opening.DOWN, Cause.CLOSE): ("end", Opening.DOWN),
}

ACCEPTOR: Final = {
    (Accepting.NONE, Cause.HELLO_NEW): ("make_pending", Accepting.PENDING),
    (Accepting.PENDING, Cause.HELLO_NEW): ("make_pending", Accepting.PENDING),
    (Accepting.PENDING, Cause.HELLO_PENDING): ("repeat_pending", Accepting.PENDING),
    (Accepting.PENDING, Cause.CONFIRMED): ("promote", Accepting.UP),
    (Accepting.PENDING, Cause.PENDING_OVER): ("forget_pending", Accepting.NONE),
    (Accepting.UP, Cause.HELLO_NEW): ("make_pending", Accepting.UP_PENDING),
    (Accepting.UP, Cause.HELLO_UP): ("repeat_up", Accepting.UP),
    (Accepting.UP, Cause.ENDED): ("end", Accepting.NONE),
    (Accepting.UP, Cause.CLOSE): ("say_bye", Accepting.NONE),
    (Accepting.UP_PENDING, Cause.HELLO_NEW): ("make_pending", Accepting.UP_PENDING),
    (Accepting.UP_PENDING, Cause.HELLO_PENDING): ("repeat_pending", Accepting.UP_PENDING),
    (Accepting.UP_PENDING, Cause.HELLO_UP): ("repeat_up", Accepting.UP_PENDING),
    (Accepting.UP_PENDING, Cause.CONFIRMED): ("replace", Accepting.UP),
    (Accepting.UP_PENDING, Cause.PENDING_OVER): ("forget_pending", Accepting.UP),
    (Accepting.UP_PENDING, Cause.ENDED): ("end", Accepting.PENDING),
    (Accepting.UP_PENDING, Cause.CLOSE): ("say_bye", Accepting.PENDING),
}


class ClockEstimate(NamedTuple):
    """The peer's clock minus this one, in us, wrong by at most `uncertainty_us`."""

    offset_us: float
    uncertainty_us: float
    at_us: int


class Ended(NamedTuple):
    """The peer ended the session."""

    code: int


Outcome = Delivered | Sent | NotSent | Ended


class Session:
    """A session with both nonces known. `own` and `peer` are the HELLOs of the two ends."""

    MAX_PONGS = 8

    def __init__(
        self,
        seal: Seal,
        profile: Profile,
        own: Hello,
        peer: Hello,
        judge: Callable[[int], int],
        now: int,
        sending: Counters | None = None,
        receiving: Counters | None = None,
    ) -> None:
        self.seal = seal
        self.peer = peer
        self.frame_size = min(own.frame_limit, peer.frame_limit)
        self.codec = (own.codecs & peer.codecs).bit_length() - 1  # One of the two has one bit.
        idle = [hello.idle_timeout for hello in (own, peer) if hello.idle_timeout]
        self._idle_us = min(idle) * 100_000 if idle else 0
        self.round_trip = RoundTrip(profile.rto_min_us, peer.ack_delay * 100)
        self.sender = Sender(
            seal,
            self.frame_size,
            self.round_trip,
            window=profile.window,
            peer_window=peer.window,
            peer_slots=peer.slots,
            peer_max_message=peer.max_message,
            reorder=profile.reorder,
            pace_bps=profile.pace_bps,
            counters=sending,
        )
        self.receiver = Receiver(
            seal,
            self.frame_size,
            slots=own.slots,
            window=own.window,
            max_message=own.max_message,
            judge=judge,
            partial_timeout_us=profile.partial_timeout_us,
            counters=receiving,
        )
        self.heard = 0  # Valid frames received.
        self._last_valid_us = now
        self._last_ping_us = now
        self._ping_seq = 0
        self._pings: dict[int, int] = {}
        self._pongs: deque[tuple[Ping, int]] = deque(maxlen=self.MAX_PONGS)
        self._ping_due = False
        self._clocks: deque[ClockEstimate] = deque(maxlen=64)

    def receive(self, frame: bytes, now: int) -> Outcome | None:
        """A frame that may be of this session; `heard` counts it if it was."""
        seal = self.seal
        if len(frame) > DATA_OVERHEAD and frame[0] >> 4 == Kind.DATA and frame[1] == seal.tag:
            if (frame[4] | frame[5] << 8) > MAX_FRAGMENT or not seal.holds(frame):
                return None
            self._heard(now)
            return self.receiver.data(frame, now)
        decoded = decode(frame, seal)
        if decoded is None:
            return None
        self._heard(now)
        if isinstance(decoded, Ack):
            return self.sender.ack(decoded, now)
        if isinstance(decoded, Poll):
            self.receiver.poll(decoded.message, decoded.oldest, decoded.seq, now)
        elif isinstance(decoded, Reject):
            return self.sender.reject(decoded, now)
        elif isinstance(decoded, Ping):
            self._pongs.append((decoded, now))
        elif isinstance(decoded, Pong):
            self._pong(decoded, now)
        elif isinstance(decoded, Reset):
            if self._ping_seq and decoded.seq == self._ping_seq & 0xFFFF:
                return Ended(ErrorCode.RESET)
        elif isinstance(decoded, Bye):
            return Ended(ErrorCode.CLOSED)
        return None

    def ping(self) -> None:
        """Send a PING with the next output."""
        self._ping_due = True

    def expire(self, now: int) -> list[Outcome]:
        """What the passing of time ended."""
        if self._idle_us and now >= self._last_valid_us + self._idle_us:
            return [Ended(ErrorCode.PEER_LOST)]
        self.receiver.expire(now)
        if now >= self._next_ping():
            self._ping_due = True
        return list(self.sender.expire(now))

    def flush(self, now: int, budget: int = 1 << 30) -> list[bytes]:
        """The frames to send now; answers first."""
        frames = self.receiver.flush(now)
        while self._pongs:
            ping, arrived = self._pongs.popleft()
            pong = Pong(ping.seq, self.seal.sid, ping.t1_us, arrived, now)
            frames.append(pong.encode(self.seal))
        frames += self.sender.flush(now, budget)
        if self.sender.want_ping or self._ping_due:
            self.sender.want_ping = self._ping_due = False
            frames.append(self._new_ping(now))
        return frames

    def deadline(self, now: int) -> int:
        """When `expire` and `flush` are due if nothing comes in before."""
        when = min(self.sender.deadline(), self.receiver.expire(now), self._next_ping())
        if self._idle_us:
            when = min(when, self._last_valid_us + self._idle_us)
        return when

    def clock(self, now: int) -> ClockEstimate | None:
        """The best estimate of the last 60 s of the peer's clock, if there is one."""
        while self._clocks and self._clocks[0].at_us < now - CLOCK_MEMORY_US:
            self._clocks.popleft()
        return min(self._clocks, key=lambda e: e.uncertainty_us, default=None)

    def bye(self, code: int) -> bytes:
        return Bye(code, self.seal.sid).encode(self.seal)

    def _heard(self, now: int) -> None:
        self.heard += 1
        self._last_valid_us = now

    def _next_ping(self) -> int:
        """Keep-alive: silence for a third of the idle timeout, or a clock that grew old."""
        due = self._last_ping_us + CLOCK_PING_US
        if self._idle_us:
            silent = self._last_valid_us + self._idle_us // 3
            due = min(due, max(silent, self._last_ping_us + PING_ANSWER_US))
        return due

    def _new_ping(self, now: int) -> bytes:
        self._ping_seq = self._ping_seq % 0xFFFF + 1
        self._last_ping_us = now
        self._pings = {seq: t1 for seq, t1 in self._pings.items() if t1 > now - PING_ANSWER_US}
        self._pings[self._ping_seq] = now
        return Ping(self._ping_seq, self.seal.sid, now).encode(self.seal)

    def _pong(self, pong: Pong, now: int) -> None:
        t1 = self._pings.get(pong.seq)
        if t1 is None or t1 != pong.t1_us or now - t1 >= PING_ANSWER_US:
            self.receiver.counters.dropped += 1
            return
        del self._pings[pong.seq]
        away = now - t1 - (pong.t3_us - pong.t2_us)
        if not 0 <= away <= now - t1:
            self.receiver.counters.dropped += 1
            return
        self.round_trip.sample(away)
        offset = (pong.t2_us - t1 + pong.t3_us - now) / 2
        self._clocks.append(ClockEstimate(offset, away / 2, now))
