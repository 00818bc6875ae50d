"""What the broker decides, without sockets, threads or waiting: packets in, packets out."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from host.broker import access, lasting
from host.broker.broker import Broker, Lasting, Limits, Session
from host.broker.log import Log
from host.broker.packets import (
    PUBACK,
    PUBREL,
    Acknowledge,
    Connect,
    Message,
    Parser,
    ProtocolError,
    Publish,
    Subscribe,
    Unsubscribe,
)
from tests.host.broker import wire

COMMAND = "tinysplit/tail/cmd"


@dataclass(eq=False)
class FakeLink:
    """A connection that keeps what was sent."""

    sent: list[bytes] = field(default_factory=list)
    closed: bool = False
    held: bool = False

    def send(self, data: bytes) -> None:
        self.sent.append(data)

    def close(self) -> None:
        self.closed = True

    def hold(self, held: bool) -> None:
        self.held = held

    def messages(self) -> list[tuple[Message, int]]:
        """The messages that were sent, with their packet identifiers."""
        parser, found = Parser(1 << 24), []
        for data in self.sent:
            if data[0] >> 4 == 3:
                parser.feed(data)
                packet = parser.next()
                assert isinstance(packet, Publish)
                found.append((packet.message, packet.packet_id))
        self.sent.clear()
        return found


class World:
    """A broker on a clock of its own."""

    def __init__(self, left: Lasting | None = None, **limits: float) -> None:
        self.now = 1000.0
        self.lines: list[str] = []
        log = Log(self.lines.append, lambda: self.now)
        self.broker = Broker(Limits(**limits), log, lambda: self.now, left)  # type: ignore[arg-type]

    def join(
        self,
        name: str,
        *filters: str,
        role: str | None = None,
        client_id: str | None = None,
        clean: bool = True,
        keepalive_s: int = 0,
        will: Message | None = None,
    ) -> tuple[Session, FakeLink]:
        link = FakeLink()
        wanted = Connect(client_id or name, clean, keepalive_s, will, name, b"")
        role = role or ("operator" if name == "boss" else "node")
        session = self.broker.connect(link, wanted, role)
        if filters:
            self.broker.receive(session, Subscribe(1, tuple((one, 1) for one in filters)))
        link.sent.clear()
        return session, link

    def send(
        self, session: Session, topic: str, payload: bytes, number: int, **more: object
    ) -> None:
        message = Message(topic, payload, **{"qos": 1, **more})  # type: ignore[arg-type]
        self.broker.receive(session, Publish(message, number))

    def save(self) -> None:
        """The file has been written."""
        waiting, self.broker.when_saved, self.broker.changed = self.broker.when_saved, [], False
        for answer in waiting:
            answer()


def test_qos_1_is_acknowledged_and_delivered_with_the_lower_qos() -> None:
    world = World()
    boss, at_boss = world.join("boss")
    _, at_tail = world.join("tail", COMMAND)
    other, at_other = world.join("boss", client_id="other")
    world.broker.receive(other, Subscribe(1, ((COMMAND, 0),)))
    world.send(boss, COMMAND, b"x", 9)
    assert at_boss.sent == [wire.acknowledge(PUBACK, 9)]
    assert at_tail.messages() == [(Message(COMMAND, b"x", 1), 1)]
    assert at_other.messages() == [(Message(COMMAND, b"x", 0), 0)]


def test_overlapping_filters_deliver_once_with_the_higher_qos() -> None:
    world = World()
    watcher, link = world.join("boss", "#")
    world.broker.receive(watcher, Subscribe(2, (("tinysplit/+/cmd", 0), (COMMAND, 0))))
    link.sent.clear()
    world.send(watcher, COMMAND, b"x", 1)
    assert link.messages() == [(Message(COMMAND, b"x", 1), 1)]
    world.broker.receive(watcher, Unsubscribe(3, ("#", "tinysplit/+/cmd")))
    world.broker.receive(watcher, Acknowledge(PUBACK, 1))
    world.send(watcher, COMMAND, b"y", 2)
    assert link.messages() == [(Message(COMMAND, b"y", 0), 0)]
    world.broker.receive(watcher, Unsubscribe(4, (COMMAND, "never")))
    world.send(watcher, COMMAND, b"z", 3)
    assert link.messages() == []


def test_qos_2_is_delivered_once_however_often_it_is_sent() -> None:
    world = World()
    boss, at_boss = world.join("boss")
    _, at_tail = world.join("tail", COMMAND)
    world.send(boss, COMMAND, b"x", 5, qos=2)
    world.send(boss, COMMAND, b"x", 5, qos=2)
    world.broker.receive(boss, Acknowledge(PUBREL, 5))
    assert at_boss.sent == [wire.acknowledge(kind, 5) for kind in (5, 5, 7)]
    assert len(at_tail.messages()) == 1
    world.send(boss, COMMAND, b"y", 5, qos=2)
    assert len(at_tail.messages()) == 1


def test_a_retained_message_is_acknowledged_once_it_is_in_the_file() -> None:
    world = World()
    head, link = world.join("head")
    world.send(head, "tinysplit/head/status", b"here", 1, retain=True)
    world.send(head, "tinysplit/head/reply", b"later", 2)
    assert link.sent == []
    assert world.broker.lasting.retained == (Message("tinysplit/head/status", b"here", 1, True),)
    world.save()
    assert link.sent == [wire.acknowledge(PUBACK, 1), wire.acknowledge(PUBACK, 2)]
    world.send(head, "tinysplit/head/reply", b"more", 3)
    assert link.sent[2:] == [wire.acknowledge(PUBACK, 3)]


def test_an_empty_retained_message_removes_the_one_there_was() -> None:
    world = World()
    head, _ = world.join("head")
    for payload in (b"here", b""):
        world.send(head, "tinysplit/head/status", payload, 1, retain=True)
    assert world.broker.lasting.retained == ()


def test_retained_messages_have_bounds() -> None:
    world = World(retained_bytes=100, retained_total_bytes=1000)
    head, _ = world.join("head")
    with pytest.raises(ProtocolError, match="no room to retain"):
        world.send(head, "tinysplit/head/status", bytes(101), 1, retain=True)
    for _ in range(50):  # Replaced, not added.
        world.send(head, "tinysplit/head/status", bytes(100), 1, retain=True)
    boss, _ = world.join("boss")
    for number in range(2):
        world.send(boss, f"tinysplit/x/{number}", bytes(100), 1, retain=True)
    with pytest.raises(ProtocolError, match="no room to retain"):
        world.send(boss, "tinysplit/x/3", bytes(100), 1, retain=True)
    assert len(world.broker.lasting.retained) == 3


def test_retained_messages_come_once_per_subscribe_and_not_faster_than_they_are_read() -> None:
    world = World(window=2, backlog_messages=5)
    boss, link = world.join("boss")
    for name in ("a", "b", "c"):
        world.send(boss, f"tinysplit/{name}/status", name.encode(), 1, retain=True)
    link.sent.clear()
    filters = (("#", 0), ("tinysplit/+/status", 1), ("tinysplit/a/#", 1))
    world.broker.receive(boss, Subscribe(1, filters))
    assert [(m.topic, m.qos, m.retain) for m, _ in link.messages()] == [
        ("tinysplit/a/status", 1, True),
        ("tinysplit/b/status", 1, True),
    ]
    assert len(boss.queue) == 1
    for _ in range(2):
        world.broker.receive(boss, Subscribe(1, filters))
    with pytest.raises(ProtocolError, match="faster than it reads"):
        world.broker.receive(boss, Subscribe(1, filters))


def test_a_message_waits_until_the_window_has_room() -> None:
    world = World(window=3)
    boss, _ = world.join("boss")
    tail, link = world.join("tail", COMMAND)
    for number in range(1, 8):
        world.send(boss, COMMAND, bytes((number,)), number)
    assert [number for _, number in link.messages()] == [1, 2, 3]
    world.broker.receive(tail, Acknowledge(PUBACK, 2))
    world.broker.receive(tail, Acknowledge(PUBACK, 99))  # Never sent.
    assert [(m.payload, number) for m, number in link.messages()] == [(b"\4", 4)]
    for number in (1, 3, 4, 5, 6):
        world.broker.receive(tail, Acknowledge(PUBACK, number))
    assert [m.payload for m, _ in link.messages()] == [b"\5", b"\6", b"\7"]


def test_publishers_are_held_while_a_subscriber_is_behind() -> None:
    world = World(window=1, backlog_messages=10)
    boss, at_boss = world.join("boss")
    tail, at_tail = world.join("tail", COMMAND)
    sent = 0
    while not at_boss.held:
        sent += 1
        world.send(boss, COMMAND, b"x", sent)
    assert sent == 12  # One on its way, eleven waiting.
    acknowledged = 0
    while at_boss.held:
        acknowledged += 1
        world.broker.receive(tail, Acknowledge(PUBACK, acknowledged))
    assert acknowledged == 11
    assert len(at_tail.messages()) == sent


def test_a_publisher_is_let_go_when_the_slow_subscriber_leaves() -> None:
    world = World(window=1, backlog_messages=1)
    boss, at_boss = world.join("boss")
    tail, _ = world.join("tail", COMMAND)
    for number in range(1, 4):
        world.send(boss, COMMAND, b"x", number)
    assert at_boss.held
    world.broker.leave(tail)
    assert not at_boss.held


def test_who_acknowledges_nothing_is_disconnected() -> None:
    world = World(stall_s=30)
    boss, _ = world.join("boss")
    tail, link = world.join("tail", COMMAND)
    world.send(boss, COMMAND, b"x", 1)
    world.now += 29
    world.broker.tick()
    assert not link.closed
    world.broker.receive(tail, Acknowledge(PUBACK, 1))
    world.now += 100
    world.broker.tick()
    assert not link.closed  # It owes nothing.
    world.send(boss, COMMAND, b"x", 2)
    world.now += 31
    world.broker.tick()
    assert link.closed
    assert "tail: acknowledges nothing" in world.lines[-1]


def test_two_that_hold_each_other_are_parted() -> None:
    world = World(window=1, backlog_messages=1, stall_s=30)
    one, at_one = world.join("boss", "tinysplit/b/cmd", client_id="1")
    two, at_two = world.join("boss", "tinysplit/a/cmd", client_id="2")
    for number in range(1, 4):
        world.send(one, "tinysplit/a/cmd", b"x", number)
        world.send(two, "tinysplit/b/cmd", b"x", number)
    assert at_one.held
    assert at_two.held
    world.now += 121
    world.broker.tick()
    assert at_one.closed or at_two.closed


def test_with_qos_0_a_client_that_does_not_read_misses_messages_and_the_log_says_so() -> None:
    world = World()
    boss, _ = world.join("boss")
    tail, link = world.join("tail", COMMAND)
    world.broker.writable(tail, False)
    for _ in range(5):
        world.send(boss, COMMAND, b"x", 0, qos=0)
    world.broker.writable(tail, True)
    world.send(boss, COMMAND, b"y", 0, qos=0)
    assert [m.payload for m, _ in link.messages()] == [b"y"]
    world.broker.tick()
    assert "tail does not keep up: 5 messages dropped" in world.lines[-1]


def test_silence_beyond_one_and_a_half_keep_alives_is_a_lost_connection() -> None:
    world = World()
    _, at_boss = world.join("boss", "tinysplit/+/status")
    will = Message("tinysplit/tail/status", b"gone", 1, True)
    _, link = world.join("tail", keepalive_s=10, will=will)
    world.now += 14.9
    world.broker.tick()
    assert not link.closed
    world.now += 0.2
    world.broker.tick()
    assert link.closed
    assert [m.payload for m, _ in at_boss.messages()] == [b"gone"]
    assert world.broker.lasting.retained == (will,)


def test_who_is_not_back_after_a_restart_is_gone() -> None:
    world = World()
    for name in ("head", "tail"):
        will = Message(f"tinysplit/{name}/status", b"gone", 1, True)
        session, _ = world.join(name, keepalive_s=40, will=will)
        world.send(session, f"tinysplit/{name}/status", b"here", 1, retain=True)
    left, _ = world.join("boss", will=Message("tinysplit/boss/status", b"gone", 1, True))
    left.will = None
    world.broker.leave(left)
    kept = lasting.encode(world.broker.lasting)
    later = World(_decoded(kept), stall_s=1000)  # The operator acknowledges nothing here.
    _, at_boss = later.join("boss", "tinysplit/+/status")
    assert len(later.broker.lasting.wills) == 2
    later.join("head")
    later.now += 59
    later.broker.tick()
    assert at_boss.messages() == []
    later.now += 2
    later.broker.tick()
    assert [m.topic for m, _ in at_boss.messages()] == ["tinysplit/tail/status"]
    said = {m.topic: m.payload for m in later.broker.lasting.retained}
    assert said == {"tinysplit/head/status": b"here", "tinysplit/tail/status": b"gone"}
    assert later.broker.lasting.wills == ()


def _decoded(data: bytes) -> Lasting:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "file"
        lasting.write(file, data)
        return lasting.read(file)


def test_a_session_that_is_not_clean_waits_for_its_client() -> None:
    world = World(window=2)
    boss, _ = world.join("boss")
    tail, link = world.join("tail", COMMAND, clean=False)
    for number in range(1, 5):
        world.send(boss, COMMAND, bytes((number,)), number)
    assert len(link.messages()) == 2
    world.broker.leave(tail)
    world.send(boss, COMMAND, b"\5", 5)
    world.send(boss, COMMAND, b"\6", 6, qos=0)  # Not for who is away.
    again, back = FakeLink(), Connect("tail", False, 0, None, "tail", b"")
    assert world.broker.connect(again, back, "node") is tail
    assert again.sent[0] == b"\x20\x02\x01\x00"
    assert again.sent[1][0] & 8  # Sent before, perhaps.
    assert [m.payload for m, _ in again.messages()] == [b"\1", b"\2"]
    for number in range(1, 6):
        world.broker.receive(tail, Acknowledge(PUBACK, number))
    assert [m.payload for m, _ in again.messages()] == [b"\3", b"\4", b"\5"]
    world.broker.leave(tail)
    fresh = FakeLink()
    world.broker.connect(fresh, Connect("tail", True, 0, None, "tail", b""), "node")
    assert fresh.sent == [b"\x20\x02\x00\x00"]
    world.send(boss, COMMAND, b"x", 7)
    assert fresh.messages() == []


def test_absent_sessions_and_what_waits_for_them_have_bounds() -> None:
    world = World(absent=3, absent_s=60, backlog_messages=5)
    boss, at_boss = world.join("boss")
    for number in range(6):
        session, _ = world.join("boss", COMMAND, client_id=f"away{number}", clean=False)
        world.now += 1
        world.broker.leave(session)
    away = [session for session in world.broker.sessions.values() if session.link is None]
    assert [session.client_id for session in away] == ["away3", "away4", "away5"]
    for number in range(1, 50):
        world.send(boss, COMMAND, b"x", number)
    assert not at_boss.held
    assert {len(session.queue) for session in away} == {6}
    world.now += 61
    world.broker.tick()
    assert list(world.broker.sessions) == [boss.key]


def test_a_client_too_many_is_told_so() -> None:
    world = World(clients=2)
    world.join("boss")
    tail, _ = world.join("tail")
    with pytest.raises(ProtocolError, match="2 clients are connected") as refused:
        world.join("head")
    assert refused.value.code == 3
    world.join("tail")  # Its older connection ends.
    world.broker.leave(tail)
    assert world.broker.connected == 2


def test_who_is_removed_is_disconnected_and_forgotten() -> None:
    world = World()
    _, link = world.join("tail", COMMAND, clean=False)
    _, other = world.join("head")
    world.broker.evict("tail")
    assert link.closed
    assert not other.closed
    assert [key[0] for key in world.broker.sessions] == ["head"]


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"client_id": "head"}, 2),
        ({"will": Message("tinysplit/head/status", b"")}, 5),
        ({"will": Message("tinysplit/tail/cmd", b"")}, 5),
    ],
)
def test_connections_that_a_node_may_not_make(more: dict[str, object], code: int) -> None:
    with pytest.raises(ProtocolError) as refused:
        World().join("tail", **more)  # type: ignore[arg-type]
    assert refused.value.code == code


def test_subscriptions_have_bounds() -> None:
    world = World(subscriptions=3)
    boss, link = world.join("boss")
    filters = tuple((f"tinysplit/{n}/cmd", 1) for n in range(5))
    world.broker.receive(boss, Subscribe(1, filters))
    assert link.sent == [bytes((0x90, 7, 0, 1, 1, 1, 1, 0x80, 0x80))]
    world.broker.receive(boss, Subscribe(2, (("tinysplit/0/cmd", 0), ("a#", 0), ("#/a", 0))))
    assert link.sent[1:] == [bytes((0x90, 5, 0, 2, 0, 0x80, 0x80))]


@pytest.mark.parametrize(
    ("wanted", "topic", "takes"),
    [
        ("a/b", "a/b", True),
        ("a/+", "a/b", True),
        ("a/+", "a/b/c", False),
        ("a/+", "a/", True),
        ("+/+", "/b", True),
        ("a/#", "a", True),
        ("a/#", "a/b/c", True),
        ("a/b", "a/B", False),
        ("#", "$SYS/x", False),
        ("+/x", "$SYS/x", False),
        ("$SYS/#", "$SYS/x", True),
        ("a", "a/b", False),
    ],
)
def test_filters(wanted: str, topic: str, takes: bool) -> None:
    """Section 4.7 of the standard."""
    assert access.is_filter(wanted)
    assert access.matches(wanted, topic) == takes


def test_the_log_does_not_drown() -> None:
    lines: list[str] = []
    clock = [0.0]
    log = Log(lines.append, lambda: clock[0])
    for _ in range(1000):
        log.warning("noise", "somebody sent \x1b[2J\nnoise")
    assert len(lines) == 20
    assert "\n" not in lines[0]
    assert "\x1b" not in lines[0]
    log.info("other", "something else")
    assert len(lines) == 21
    clock[0] += 11
    log.flush()
    assert "noise: 980 more in 10 s" in lines[-1]
