"""Who may do what, the same at every broker: the embedded one and Mosquitto, MQTT 3.1.1 and 5.

That nothing came is seen by what came after it: a marker that only comes in its turn.
"""

from __future__ import annotations

import socket

import pytest

from tests.host.broker.brokers import LOOPBACK, Running
from tests.host.broker.clients import Client
from tests.host.broker.wire import connect

MARK = b"mark"


def mark(boss: Client, node: str) -> None:
    """A command that a node gets after all that was meant for it before."""
    assert boss.send(f"tinysplit/{node}/cmd", MARK)


@pytest.mark.parametrize("name", ["head", "boss"])
def test_the_right_password_lets_in(broker: Running, name: str) -> None:
    with Client(broker, name) as client:
        assert client.accepted, client.reason


@pytest.mark.parametrize(
    ("name", "secret"),
    [("head", "wrong"), ("head", ""), ("nobody", "password"), ("boss", "password of head")],
)
def test_a_wrong_password_does_not(broker: Running, name: str, secret: str) -> None:
    with Client(broker, name, secret=secret) as client:
        assert client.accepted is False
        assert client.reason in ("Bad user name or password", "Not authorized")


def test_nobody_does_not(broker: Running) -> None:
    with Client(broker, None) as client:
        assert client.accepted is False
        assert client.reason == "Not authorized"


def test_commands_replies_and_telemetry_pass(broker: Running) -> None:
    with Client(broker, "boss") as boss, Client(broker, "head") as head:
        assert boss.subscribe("tinysplit/+/reply", "tinysplit/+/telemetry", qos=1) == [True, True]
        assert head.subscribe("tinysplit/head/cmd") == [True]
        large = bytes(range(256)) * 4096  # 1 MiB.
        assert boss.send("tinysplit/head/cmd", large)
        assert head.take() == ("tinysplit/head/cmd", large, False)
        assert head.send("tinysplit/head/reply", b"done")
        assert head.send("tinysplit/head/telemetry", b"warm", qos=0)
        assert boss.take() == ("tinysplit/head/reply", b"done", False)
        assert boss.take() == ("tinysplit/head/telemetry", b"warm", False)


@pytest.mark.parametrize("retain", [False, True], ids=["", "retained"])
@pytest.mark.parametrize("what", ["cmd", "reply", "telemetry", "status"])
def test_a_node_neither_commands_nor_impersonates(broker: Running, what: str, retain: bool) -> None:
    topic = f"tinysplit/head/{what}"
    with Client(broker, "boss") as boss, Client(broker, "head") as head:
        boss.subscribe("#")
        head.subscribe("tinysplit/head/cmd")
        with Client(broker, "tail") as tail:
            tail.send(topic, b"forged", retain=retain)
        mark(boss, "head")
        assert head.until(MARK) == []
        assert [m for m in boss.until(MARK) if m[1] == b"forged"] == []
        with Client(broker, "boss", client_id="later") as later:
            later.subscribe(topic)
            mark(boss, "head")
            assert [m for m in _until_mark(later, boss, what) if m[1] == b"forged"] == []


def _until_mark(later: Client, boss: Client, what: str) -> list[tuple[str, bytes, bool]]:
    """What a later subscriber gets up to a message that it certainly gets."""
    boss.send(f"tinysplit/head/{what}", b"end")
    return later.until(b"end")


@pytest.mark.parametrize("topic", ["tinysplit/tail/cmd", "elsewhere", "tinysplit/tail/reply/x"])
def test_a_node_writes_nowhere_else(broker: Running, topic: str) -> None:
    with Client(broker, "boss") as boss:
        boss.subscribe("#")
        with Client(broker, "tail") as tail:
            tail.send(topic, b"astray")
        mark(boss, "head")
        assert [m for m in boss.until(MARK) if m[1] == b"astray"] == []


@pytest.mark.parametrize(
    "wanted",
    [
        *("#", "tinysplit/#", "+/+/+", "tinysplit/+/cmd", "tinysplit/+/status", "$SYS/#"),
        *("tinysplit/head/cmd", "tinysplit/head/reply", "tinysplit/head/status"),
    ],
)
def test_a_node_does_not_eavesdrop(broker: Running, wanted: str) -> None:
    with Client(broker, "boss") as boss, Client(broker, "head") as head:
        head.send("tinysplit/head/status", b"secret", retain=True)
        with Client(broker, "tail") as tail:
            tail.subscribe(wanted)
            assert tail.subscribe("tinysplit/tail/cmd") == [True]
            for what in ("reply", "telemetry", "status"):
                assert head.send(f"tinysplit/head/{what}", b"secret")
            assert boss.send("tinysplit/head/cmd", b"secret")
            mark(boss, "tail")
            assert tail.until(MARK) == []
        boss.send("tinysplit/head/status", b"", retain=True)


def test_a_node_that_takes_anothers_client_id_disturbs_nobody(broker: Running) -> None:
    with Client(broker, "boss") as boss, Client(broker, "head") as head:
        head.subscribe("tinysplit/head/cmd")
        with Client(broker, "tail", client_id="head") as tail:
            if tail.accepted:  # Mosquitto gives it its own name as client id.
                assert tail.subscribe("tinysplit/tail/cmd") == [True]
            with Client(broker, "head", secret="wrong") as stranger:
                assert stranger.accepted is False
            mark(boss, "head")
            assert head.until(MARK) == []
            assert not head.gone.is_set()


def test_the_same_node_again_ends_its_older_connection(broker: Running) -> None:
    with Client(broker, "boss") as boss, Client(broker, "head") as older:
        older.subscribe("tinysplit/head/cmd")
        with Client(broker, "head") as newer:
            assert older.gone.wait(5)
            newer.subscribe("tinysplit/head/cmd")
            mark(boss, "head")
            assert newer.until(MARK) == []


def test_the_will_of_a_board_without_power_arrives(broker: Running) -> None:
    will = ("tinysplit/head/status", b"gone", 1, True)
    with Client(broker, "boss") as boss:
        boss.subscribe("tinysplit/+/status")
        with Client(broker, "head", will=will) as head:
            head.send("tinysplit/head/status", b"here", retain=True)
            assert boss.take() == ("tinysplit/head/status", b"here", False)
            head.cut()
            assert boss.take() == ("tinysplit/head/status", b"gone", False)
        with Client(broker, "boss", client_id="later") as later:
            later.subscribe("tinysplit/+/status")
            assert later.take() == ("tinysplit/head/status", b"gone", True)
        boss.send("tinysplit/head/status", b"", retain=True)


def test_a_board_that_falls_silent_is_gone_after_its_keep_alive(broker: Running) -> None:
    with (
        Client(broker, "boss") as boss,
        socket.create_connection((LOOPBACK, broker.port_of("node"))) as board,
    ):
        boss.subscribe("tinysplit/+/status")
        board.sendall(connect("tail", keepalive_s=1, will=("tinysplit/tail/status", b"gone")))
        assert board.recv(4) == b"\x20\x02\x00\x00"
        assert boss.take() == ("tinysplit/tail/status", b"gone", False)
        boss.send("tinysplit/tail/status", b"", retain=True)


def test_who_takes_leave_has_no_will(broker: Running) -> None:
    with Client(broker, "boss") as boss:
        boss.subscribe("tinysplit/#")
        with Client(broker, "head", will=("tinysplit/head/status", b"gone", 1, False)):
            pass
        mark(boss, "head")
        assert boss.until(MARK) == []


@pytest.mark.parametrize("what", ["cmd", "status"])
def test_a_will_is_no_way_around(broker: Running, what: str) -> None:
    will = (f"tinysplit/head/{what}", b"forged", 1, True)
    with Client(broker, "boss") as boss:
        boss.subscribe("#")
        with Client(broker, "tail", will=will) as tail:
            if tail.accepted:
                tail.cut()
        with Client(broker, "tail") as again:  # The broker is over with the one before.
            again.subscribe("tinysplit/tail/cmd")
        mark(boss, "head")
        assert [m for m in boss.until(MARK) if m[1] == b"forged"] == []


def test_operators_may_share_a_name(broker: Running) -> None:
    with Client(broker, "boss", client_id="a") as one, Client(broker, "boss", client_id="b") as two:
        assert one.subscribe("#") == [True]
        assert two.send("tinysplit/tail/cmd", MARK)
        assert one.until(MARK) == []
        assert not one.gone.is_set()


def test_a_retained_status_survives_a_restart(own_broker: Running) -> None:
    with Client(own_broker, "head") as head:
        assert head.send("tinysplit/head/status", b"here", retain=True)
    own_broker.restart()
    with Client(own_broker, "boss") as boss:
        boss.subscribe("tinysplit/+/status")
        assert boss.take() == ("tinysplit/head/status", b"here", True)
