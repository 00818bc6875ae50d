"""What strangers do to a broker; meanwhile an operator and a node talk, and miss nothing."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.host.broker.brokers import LOOPBACK, Running
from tests.host.broker.clients import Client
from tests.host.broker.wire import connect, length, publish, subscribe, text

_MIB = 1 << 20
_LATE_S = 5.0


class Talk:
    """Commands and replies, one at a time, until told to stop; all must arrive, in order."""

    def __init__(self, broker: Running) -> None:
        self._broker = broker
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self.times_s: list[float] = []

    def __enter__(self) -> Talk:
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        enough = len(self.times_s) + 5  # Some after the attack, too.
        deadline = time.monotonic() + _LATE_S
        while len(self.times_s) < enough and time.monotonic() < deadline:
            time.sleep(0.01)
        self._stop.set()
        self._thread.join()
        if self._error is not None:
            raise self._error
        assert len(self.times_s) >= enough
        assert max(self.times_s) < _LATE_S

    def _run(self) -> None:
        try:
            with Client(self._broker, "boss") as boss, Client(self._broker, "head") as head:
                boss.subscribe("tinysplit/head/reply")
                head.subscribe("tinysplit/head/cmd")
                number = 0
                while not self._stop.is_set():
                    began = time.monotonic()
                    said = str(number).encode()
                    boss.send("tinysplit/head/cmd", said, wait=False)
                    assert head.take()[1] == said
                    head.send("tinysplit/head/reply", said, wait=False)
                    assert boss.take()[1] == said
                    self.times_s.append(time.monotonic() - began)
                    number += 1
                    time.sleep(0.005)
        except BaseException as error:  # Raised again by the test's thread.
            self._error = error


# The bytes are those of MQTT 3.1.1: one Mosquitto is enough.
pytestmark = pytest.mark.parametrize("broker", ["embedded", "mosquitto-3.1.1"], indirect=True)


@pytest.fixture
def talk(broker: Running) -> Iterator[Talk]:
    """Goes on during the test; the broker must not have died or grown by it."""
    before = broker.peak_bytes
    with Talk(broker) as talking:
        while len(talking.times_s) < 3 and talking._error is None:
            time.sleep(0.01)
        yield talking
    assert broker.process.poll() is None
    assert broker.peak_bytes < before + 40 * _MIB


def opened(broker: Running, role: str = "node") -> socket.socket:
    return socket.create_connection((LOOPBACK, broker.port_of(role)), 5)


def shut(connection: socket.socket) -> bool:
    """The broker ended it; what it said before does not count."""
    connection.settimeout(_LATE_S)
    try:
        while connection.recv(4096):
            pass
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    return True


def logged_in(broker: Running, name: str = "tail") -> socket.socket:
    connection = opened(broker)
    connection.sendall(connect(name))
    assert connection.recv(4) == b"\x20\x02\x00\x00"
    return connection


def test_noise(broker: Running, talk: Talk) -> None:
    rng = random.Random(1)
    for _ in range(150):
        with opened(broker) as connection, contextlib.suppress(OSError):
            connection.sendall(rng.randbytes(rng.randrange(1, 2000)))


def test_packets_with_flipped_bits(broker: Running, talk: Talk) -> None:
    rng = random.Random(2)
    packets = [
        connect(),
        subscribe("tinysplit/tail/cmd"),
        publish("tinysplit/tail/reply", b"", qos=1),
        b"\xc0\x00",
        b"\x40\x02\x00\x01",
        b"\xe0\x00",
    ]
    for _ in range(150):
        stream = bytearray(b"".join(packets))
        for _ in range(rng.randrange(1, 6)):
            stream[rng.randrange(len(stream))] ^= 1 << rng.randrange(8)
        with opened(broker) as connection, contextlib.suppress(OSError):
            connection.sendall(stream)
            connection.settimeout(0.002)
            connection.recv(4096)


@pytest.mark.parametrize(
    "sent",
    [
        b"\x10\xff\xff\xff\xff\x01",  # A length of five bytes.
        b"\x30\x05\x00\x03a/b",  # PUBLISH before CONNECT.
        b"\x10" + length(20) + text("MQTT") + b"\x04\x02\x00\x1e" + b"\xff\xff" + b"abcdefgh",
        connect() + connect(),
        connect() + b"\x82\x02\x00\x01",  # SUBSCRIBE to nothing.
        connect() + b"\x80\x06\x00\x01\x00\x01a\x00",  # SUBSCRIBE without its flags.
        connect() + b"\x36\x07\x00\x03a/b\x00\x01",  # QoS 3.
        connect() + b"\x30\x05\x00\x03a/#",  # PUBLISH to a wildcard.
        connect() + b"\x30\x04\x00\x02\xc3\x28",  # A topic that is not UTF-8.
        connect() + b"\xf0\x00",
    ],
    ids=lambda sent: sent[-12:].hex(),
)
def test_what_no_client_sends_ends_the_connection(broker: Running, sent: bytes) -> None:
    with opened(broker) as connection:
        connection.sendall(sent)
        assert shut(connection)


def test_connections_that_say_one_byte(broker: Running, talk: Talk) -> None:
    waiting = [opened(broker) for _ in range(300)]
    for connection in waiting:
        with contextlib.suppress(OSError):  # The broker may have ended the oldest already.
            connection.sendall(b"\x10")
    time.sleep(0.5)
    with Client(broker, "tail") as tail:
        assert tail.accepted
    for connection in waiting:
        connection.close()


def test_a_thousand_connects(broker: Running, talk: Talk) -> None:
    wrong = connect().replace(b"password of", b"passport of")
    for number in range(1000):
        with opened(broker) as connection, contextlib.suppress(OSError):
            connection.sendall(wrong if number % 2 else b"")


def test_a_packet_that_is_too_long(broker: Running, talk: Talk) -> None:
    body = text("tinysplit/tail/reply")
    with logged_in(broker) as connection:
        connection.sendall(b"\x30" + length(200 * _MIB) + body)
        with contextlib.suppress(OSError):
            for _ in range(200):
                connection.sendall(bytes(_MIB))
            assert shut(connection)
    assert talk.times_s


def test_a_subscriber_that_does_not_read(broker: Running, talk: Talk) -> None:
    """Its commands wait for it, or are dropped; others are not kept waiting."""
    with opened(broker) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(connect() + subscribe("tinysplit/tail/cmd", 0))
        with Client(broker, "boss", client_id="flood") as flood:
            payload = os.urandom(_MIB)
            for _ in range(30):
                flood.send("tinysplit/tail/cmd", payload, qos=0)
            assert flood.send("tinysplit/tail/cmd", b"end")


def test_another_version_is_told_so(broker: Running) -> None:
    with opened(broker) as connection:
        connection.sendall(connect(level=9))
        assert connection.recv(4)[:1] in (b"\x20", b"")
        assert shut(connection)
