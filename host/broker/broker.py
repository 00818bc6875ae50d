"""Sessions, subscriptions, retained messages, last wills: what a broker does with packets.

No I/O: a connection is a `Link`, time is what `now` says, and what must survive a restart is a
value (`Broker.lasting`) that the server writes.

What is promised:

- A message with QoS 1 or 2 is acknowledged once it is queued for everybody who is subscribed and
  connected; one that is retained, once it is in the file, too.
- Nothing that was acknowledged is dropped while the broker runs and the subscriber is connected.
  A subscriber that is slower than its publishers slows them down: nothing is read from them while
  its backlog is full. One that acknowledges nothing for `Limits.stall_s` is disconnected.
- With QoS 0 messages are dropped, and counted in the log, where a subscriber does not keep up.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

from host.broker import access, packets
from host.broker.log import Log
from host.broker.packets import (
    PUBACK,
    PUBCOMP,
    PUBREC,
    PUBREL,
    UNSUBACK,
    Acknowledge,
    Connect,
    Message,
    Packet,
    ProtocolError,
    Publish,
    Subscribe,
    Unsubscribe,
)

Key = tuple[str, str]  # User and client id: nobody takes over another user's session.
_GRACE = 1.5  # Keep-alives without a packet until a client is gone: section 3.1.2.10.
_MESSAGE_BYTES = 200  # What a queued message takes beside topic and payload, about.


@dataclass(frozen=True)
class Limits:
    """What one broker takes; bytes and seconds."""

    clients: int = 1000
    packet_bytes: int = (1 << 20) + 4096  # A command of 1 MiB, its topic and header.
    window: int = 64  # Messages sent and not acknowledged yet, per client.
    backlog_bytes: int = 4 << 20  # Waiting for one client.
    backlog_messages: int = 2000
    subscriptions: int = 100  # Of one client.
    retained_bytes: int = 64 << 10  # One retained message.
    retained_total_bytes: int = 16 << 20
    stall_s: float = 30.0
    absent: int = 100  # Sessions kept for clients that are not connected ...
    absent_s: float = 3600.0  # ... and for how long.
    orphan_s: float = 30.0  # Until the will of who does not come back is published, at least.


class Link(Protocol):
    """What a connection offers. None of it waits, and all of it is harmless after `close`."""

    def send(self, data: bytes) -> None:
        """Send in order."""

    def close(self) -> None:
        """End the connection when what was sent is on its way."""

    def hold(self, held: bool) -> None:
        """Read no further packet until told otherwise."""


@dataclass(eq=False)
class Session:
    """A client, connected while it has a `link`."""

    user: str
    client_id: str
    role: str
    clean: bool
    link: Link | None = None
    writable: bool = True  # The link takes more without hoarding it.
    will: Message | None = None
    keepalive_s: int = 0
    heard_at: float = 0.0
    left_at: float = 0.0
    progress_at: float = 0.0  # When it last acknowledged, or had nothing to.
    filters: dict[str, int] = field(default_factory=dict)
    queue: deque[Message] = field(default_factory=deque)
    queue_bytes: int = 0
    inflight: OrderedDict[int, Message] = field(default_factory=OrderedDict)
    inflight_bytes: int = 0
    last_id: int = 0
    received: set[int] = field(default_factory=set)  # QoS 2, not released yet.
    slows: set[Session] = field(default_factory=set)  # Publishers that are held for it.
    held_for: set[Session] = field(default_factory=set)
    dropped: int = 0
    unsaved: int = 0  # Acknowledgements that wait for the file.

    @property
    def key(self) -> Key:
        return self.user, self.client_id

    @property
    def shown(self) -> str:
        """For people: the user, and the client id where it says more."""
        if not self.user:
            return f"client {self.client_id!r}"
        return self.user if self.client_id == self.user else f"{self.user} ({self.client_id!r})"


@dataclass(frozen=True)
class Lasting:
    """What survives the broker: retained messages, and the wills of who is connected."""

    retained: tuple[Message, ...] = ()
    wills: tuple[tuple[Key, Message, int], ...] = ()  # Whose, what, keep-alive in seconds.


def _bytes(message: Message) -> int:
    return len(message.topic) + len(message.payload) + _MESSAGE_BYTES


class Broker:
    """Args:
    now: seconds that never go back.
    lasting: what an earlier broker left.
    """

    def __init__(
        self, limits: Limits, log: Log, now: Callable[[], float], lasting: Lasting | None = None
    ) -> None:
        self.limits, self.log, self._now = limits, log, now
        self.sessions: dict[Key, Session] = {}
        self.connected = 0
        self.changed = False  # `lasting` is not what it was when this was last set to False.
        self.when_saved: list[Callable[[], None]] = []  # To be called once `lasting` is in a file.
        lasting = lasting or Lasting()
        self._retained = {message.topic: message for message in lasting.retained}
        self._retained_bytes = sum(_bytes(message) for message in lasting.retained)
        self._exact: dict[str, dict[Session, int]] = {}
        self._wild: dict[str, dict[Session, int]] = {}
        # Who was connected to the earlier broker, and when it is taken for gone.
        self._orphans = {
            key: (now() + max(_GRACE * keepalive_s, limits.orphan_s), will, keepalive_s)
            for key, will, keepalive_s in lasting.wills
        }

    @property
    def lasting(self) -> Lasting:
        wills = [(key, will, keepalive_s) for key, (_, will, keepalive_s) in self._orphans.items()]
        wills += [
            (session.key, session.will, session.keepalive_s)
            for session in self.sessions.values()
            if session.link is not None and session.will is not None
        ]
        return Lasting(tuple(self._retained.values()), tuple(wills))

    @property
    def drained(self) -> bool:
        """Nobody who is connected waits for a message."""
        return not any(s.link and (s.queue or s.inflight) for s in self.sessions.values())

    def connect(self, link: Link, wanted: Connect, role: str) -> Session:
        """Begin or take up the session of a client whose password is right, and say so to it.

        Raises:
            ProtocolError: it is refused; with a code for CONNACK.
        """
        user = wanted.user if wanted.user is not None else ""
        client_id = wanted.client_id
        if role == access.NODE and client_id != user:
            raise ProtocolError(
                f"{user} is a node, whose client id must be its name, not {client_id!r}",
                packets.WRONG_ID,
            )
        if not client_id and not wanted.clean:  # Section 3.1.3.1.
            raise ProtocolError("a session to keep without a client id", packets.WRONG_ID)
        if wanted.will is not None and not access.may_publish(role, user, wanted.will.topic):
            raise ProtocolError(
                f"{user} may not publish to {wanted.will.topic!r}, as a last will",
                packets.NOT_AUTHORIZED,
            )
        key = (user, client_id or f"auto-{id(link):x}")
        old = self.sessions.get(key)
        if old is not None and old.link is not None:
            self.log.warning("taken_over", f"{old.shown} connected again", user=user)
            self.leave(old)
            old = self.sessions.get(key)
        if self.connected >= self.limits.clients:
            raise ProtocolError(
                f"{self.connected:,} clients are connected, and no more are taken",
                packets.UNAVAILABLE,
            )
        if old is not None and wanted.clean:
            self._forget(old)
            old = None
        session = old or Session(user, key[1], role, wanted.clean)
        self.sessions[key] = session
        self._orphans.pop(key, None)
        session.link, session.writable, session.role = link, True, role
        session.will, session.keepalive_s = wanted.will, wanted.keepalive_s
        session.heard_at = session.progress_at = self._now()
        self.connected += 1
        self.changed = True
        link.send(packets.connack(packets.ACCEPTED, old is not None))
        for number, message in session.inflight.items():  # Section 4.4.
            link.send(packets.publish(message, number, again=True))
        self._pump(session)
        return session

    def receive(self, session: Session, packet: Packet) -> None:
        """A packet of a connected client.

        Raises:
            ProtocolError: the connection must end.
        """
        session.heard_at = self._now()
        link = session.link
        assert link is not None
        if isinstance(packet, Publish):
            self._published(session, link, packet)
        elif isinstance(packet, Acknowledge):
            self._acknowledged(session, link, packet)
        elif isinstance(packet, Subscribe):
            self._subscribe(session, link, packet)
        elif isinstance(packet, Unsubscribe):
            for wanted in packet.filters:
                self._unsubscribe(session, wanted)
            link.send(packets.acknowledge(UNSUBACK, packet.packet_id))
        elif isinstance(packet, packets.Ping):
            link.send(packets.PINGRESP_BYTES)
        elif isinstance(packet, packets.Disconnect):
            session.will = None  # Section 3.14.4.
            self.leave(session)
        else:
            raise ProtocolError("a second CONNECT")

    def leave(self, session: Session) -> None:
        """The connection is over. The will of a client that did not take its leave is published."""
        link, session.link = session.link, None
        if link is None:
            return
        link.close()
        self.connected -= 1
        self.changed = True
        session.left_at = self._now()
        self._release(session)
        for slow in session.held_for:
            slow.slows.discard(session)
        session.held_for.clear()
        absent = [one for one in self.sessions.values() if one.link is None]
        if session.clean:
            self._forget(session)
        elif len(absent) > self.limits.absent:
            self._forget(min(absent, key=lambda one: one.left_at))
        will, session.will = session.will, None
        if will is not None:
            self._publish(will, None)

    def evict(self, user: str) -> None:
        """The user is one no longer, or has another password or role."""
        for session in [s for s in self.sessions.values() if s.user == user]:
            self.log.info("evicted", f"{session.shown}: the user was changed or removed", user=user)
            self.leave(session)
            self._forget(session)

    def writable(self, session: Session, ready: bool) -> None:
        """Whether the link takes more without hoarding it."""
        session.writable = ready
        if ready:
            self._pump(session)

    def tick(self) -> None:
        """What is due; to be called every second or so."""
        now = self._now()
        for session in list(self.sessions.values()):
            if session.link is None:
                if now - session.left_at > self.limits.absent_s:
                    self._forget(session)
                continue
            if session.dropped:
                self.log.warning(
                    "dropped",
                    f"{session.shown} does not keep up: {session.dropped:,} messages dropped",
                    user=session.user,
                    messages=session.dropped,
                )
                session.dropped = 0
            # Nothing is read from those who are held: their silence is ours. Four times as long
            # ends what two clients that hold each other could not.
            held = 4 if session.held_for else 1
            silent = _GRACE * session.keepalive_s
            if silent and not session.held_for and now - session.heard_at > silent:
                self._lost(session, f"silent for {silent:.0f} s")
            elif session.inflight and now - session.progress_at > self.limits.stall_s * held:
                self._lost(session, f"acknowledges nothing for {self.limits.stall_s * held:.0f} s")
        for key, (deadline, will, _) in list(self._orphans.items()):
            if now > deadline:
                del self._orphans[key]
                self.changed = True
                self.log.warning(
                    "not_back", f"{key[0] or key[1]} did not come back after the restart"
                )
                self._publish(will, None)

    def _lost(self, session: Session, why: str) -> None:
        self.log.warning("lost", f"{session.shown}: {why}", user=session.user)
        self.leave(session)

    def _forget(self, session: Session) -> None:
        for wanted in list(session.filters):
            self._unsubscribe(session, wanted)
        if self.sessions.get(session.key) is session:
            del self.sessions[session.key]

    # What clients send.

    def _published(self, session: Session, link: Link, packet: Publish) -> None:
        message = packet.message
        if not access.may_publish(session.role, session.user, message.topic):
            raise ProtocolError(f"it may not publish to {message.topic!r}", packets.NOT_AUTHORIZED)
        if message.retain and not self._has_room(message):
            raise ProtocolError(f"no room to retain a message for {message.topic!r}")
        if message.qos == 2:
            if packet.packet_id in session.received:
                link.send(packets.acknowledge(PUBREC, packet.packet_id))
                return
            if len(session.received) >= self.limits.backlog_messages:
                raise ProtocolError("too many messages with QoS 2 that are not released")
            session.received.add(packet.packet_id)
        self._publish(message, session)
        if not message.qos:
            return
        answer = packets.acknowledge(PUBACK if message.qos == 1 else PUBREC, packet.packet_id)
        if not message.retain and not session.unsaved:
            link.send(answer)
            return
        session.unsaved += 1  # Those that come after it wait, too: section 4.6.

        def saved() -> None:
            session.unsaved -= 1
            link.send(answer)

        self.when_saved.append(saved)

    def _acknowledged(self, session: Session, link: Link, packet: Acknowledge) -> None:
        if packet.kind == PUBACK:
            message = session.inflight.pop(packet.packet_id, None)
            if message is not None:
                session.inflight_bytes -= _bytes(message)
                session.progress_at = self._now()
                self._pump(session)
        elif packet.kind == PUBREL:
            session.received.discard(packet.packet_id)
            link.send(packets.acknowledge(PUBCOMP, packet.packet_id))
        else:
            raise ProtocolError("an acknowledgement of QoS 2, which this broker does not send")

    def _subscribe(self, session: Session, link: Link, packet: Subscribe) -> None:
        if self._full(session):  # Or a few bytes, again and again, would queue much.
            raise ProtocolError("it subscribes faster than it reads")
        codes = []
        for wanted, qos in packet.filters:
            known = wanted in session.filters
            if not access.may_subscribe(session.role, session.user, wanted):
                self.log.warning(
                    "not_authorized",
                    f"{session.shown} may not subscribe to {wanted!r}",
                    user=session.user,
                    topic=wanted,
                )
                codes.append(packets.SUBSCRIPTION_REFUSED)
            elif not access.is_filter(wanted) or (
                not known and len(session.filters) >= self.limits.subscriptions
            ):
                self.log.warning(
                    "bad_subscription",
                    f"{session.shown}: {wanted!r} is no filter, or one too many",
                    user=session.user,
                )
                codes.append(packets.SUBSCRIPTION_REFUSED)
            else:
                codes.append(min(qos, 1))
                session.filters[wanted] = codes[-1]
                self._by_filter(wanted).setdefault(wanted, {})[session] = codes[-1]
        link.send(packets.suback(packet.packet_id, codes))
        granted = [
            (wanted, qos)
            for (wanted, _), qos in zip(packet.filters, codes, strict=True)
            if qos != packets.SUBSCRIPTION_REFUSED
        ]
        for message in list(self._retained.values()):
            taken = [qos for wanted, qos in granted if access.matches(wanted, message.topic)]
            if taken:
                self._offer(session, replace(message, qos=min(max(taken), message.qos)))

    def _by_filter(self, wanted: str) -> dict[str, dict[Session, int]]:
        return self._wild if "+" in wanted or "#" in wanted else self._exact

    def _unsubscribe(self, session: Session, wanted: str) -> None:
        if session.filters.pop(wanted, None) is None:
            return
        table = self._by_filter(wanted)
        del table[wanted][session]
        if not table[wanted]:
            del table[wanted]

    # What clients get.

    def _has_room(self, message: Message) -> bool:
        old = self._retained.get(message.topic)
        total = self._retained_bytes + _bytes(message) - (0 if old is None else _bytes(old))
        return not message.payload or (
            len(message.payload) <= self.limits.retained_bytes
            and total <= self.limits.retained_total_bytes
        )

    def _publish(self, message: Message, sender: Session | None) -> None:
        if message.retain and self._has_room(message):  # A will finds none, perhaps.
            old = self._retained.pop(message.topic, None)
            self._retained_bytes -= 0 if old is None else _bytes(old)
            if message.payload:  # Without one, nothing is kept: section 3.3.1.3.
                self._retained[message.topic] = message
                self._retained_bytes += _bytes(message)
            self.changed = True
        for session, qos in self._takers(message.topic):
            self._offer(session, replace(message, qos=min(qos, message.qos), retain=False))
            if session.link is not None and self._full(session) and sender is not None:
                if session is sender:
                    raise ProtocolError("it reads what it sends to itself too slowly")
                session.slows.add(sender)
                sender.held_for.add(session)
                if sender.link is not None:
                    sender.link.hold(True)

    def _takers(self, topic: str) -> Iterator[tuple[Session, int]]:
        found = dict(self._exact.get(topic, {}))
        for wanted, takers in self._wild.items():
            if access.matches(wanted, topic):
                for session, qos in takers.items():
                    found[session] = max(qos, found.get(session, 0))
        return iter(found.items())

    def _full(self, session: Session) -> bool:
        return (
            session.queue_bytes > self.limits.backlog_bytes
            or len(session.queue) > self.limits.backlog_messages
        )

    def _offer(self, session: Session, message: Message) -> None:
        if message.qos == 0:
            if session.link is not None and session.writable:
                session.link.send(packets.publish(message))
            elif session.link is not None:
                session.dropped += 1
            return
        if session.link is None and self._full(session):
            session.dropped += 1  # Told when it is back.
            return
        session.queue.append(message)
        session.queue_bytes += _bytes(message)
        self._pump(session)

    def _pump(self, session: Session) -> None:
        """Send what the window and the link take, and let publishers go on where there is room."""
        if session.link is None:
            return
        if not session.inflight:
            session.progress_at = self._now()
        while (
            session.queue
            and session.writable
            and len(session.inflight) < self.limits.window
            and session.inflight_bytes <= self.limits.backlog_bytes
        ):
            message = session.queue.popleft()
            session.queue_bytes -= _bytes(message)
            session.inflight_bytes += _bytes(message)
            number = session.last_id % 0xFFFF + 1
            while number in session.inflight:
                number = number % 0xFFFF + 1
            session.last_id = number
            session.inflight[number] = message
            session.link.send(packets.publish(message, number))
        if session.slows and not session.queue:
            self._release(session)

    def _release(self, session: Session) -> None:
        held, session.slows = session.slows, set()
        for publisher in held:
            publisher.held_for.discard(session)
            if not publisher.held_for and publisher.link is not None:
                publisher.heard_at = publisher.progress_at = self._now()
                publisher.link.hold(False)
