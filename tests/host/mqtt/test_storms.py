"""Brokers that die, networks that break, nodes that are killed: every command is carried out once.

The commands are inferences. A tail counts its invocations by itself, whatever its head or the
control plane believes: that is what is compared.
"""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from host.boards import address
from host.boards.board import BoardError
from host.boards.virtual.process import VirtualBoard
from host.mqtt.access import parse
from host.mqtt.board import MqttBoard
from tests.host.broker import brokers
from tests.host.mqtt.mosquitto import Mosquitto
from tests.host.mqtt.nodes import Rough, node

PATIENCE_S = 30.0


class Cutter:
    """A TCP proxy before a broker; while it is `wild` it cuts all connections again and again."""

    def __init__(self, port: int, seed: int) -> None:
        self._target = ("127.0.0.1", port)
        self._random = random.Random(seed)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._over = threading.Event()
        self.wild = False
        self.cuts = 0
        for work in (self._accept, self._cut):
            threading.Thread(target=work, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._server.accept()
                try:
                    far = socket.create_connection(self._target)
                except OSError:
                    near.close()
                    continue
                with self._lock:
                    self._open |= {near, far}
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=pair, daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(4096):
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _cut(self) -> None:
        while not self._over.wait(self._random.uniform(0.05, 1.2)):
            if not self.wild:
                continue
            with self._lock:
                cut, self._open = self._open, set()
            self.cuts += bool(cut)
            for end in cut:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()

    def __enter__(self) -> Cutter:
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._server.close()
        with self._lock:
            for end in self._open:
                end.close()


class Embedded:
    """`tinysplit broker`, killed like the other."""

    def __init__(self, folder: Path) -> None:
        self._running = brokers.embedded(folder, roles={})
        self.port = self._running.port
        self.url = f"mqtt://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        self._running.start()

    def kill(self) -> None:
        with self._running.process as process:
            process.kill()


Broker = Mosquitto | Embedded


@pytest.fixture(
    scope="module", params=["mosquitto", pytest.param("embedded", marks=pytest.mark.slow)]
)
def broker(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Broker]:
    folder = tmp_path_factory.mktemp("broker") / request.param
    found = Mosquitto(folder) if request.param == "mosquitto" else Embedded(folder)
    yield found
    found.kill()


@pytest.fixture(scope="module")
def tail(pair_folder: Path, broker: Broker) -> Iterator[VirtualBoard]:
    with node(pair_folder, 1, "tail", broker.url) as board:
        yield board


def head_of(folder: Path, tail: VirtualBoard, url: str, name: str = "head") -> VirtualBoard:
    following = address.parse(tail.ask("info")["listen"])
    board = node(folder, 0, name, url, following=following)
    end = time.monotonic() + 10
    while not board.ask("stats")["next_up"]:
        assert time.monotonic() < end
        time.sleep(0.02)
    return board


def runs(board: VirtualBoard) -> int:
    return int(board.ask("telemetry")["runs"])


def stream(
    board: MqttBoard,
    count: int,
    answered: list[dict[str, Any]],
    enough: threading.Event | None = None,
) -> None:
    """So many inferences, one after the other, or until it is enough."""
    for _ in range(count):
        if enough is not None and enough.is_set():
            return
        answered.append(board.ask("run", PATIENCE_S, input="pattern"))


def test_a_broker_killed_in_the_middle(
    pair_folder: Path, broker: Broker, tail: VirtualBoard
) -> None:
    answered: list[dict[str, Any]] = []
    before = runs(tail)
    with (
        head_of(pair_folder, tail, broker.url) as head,
        MqttBoard(parse(broker.url), "head") as board,
    ):
        sender = threading.Thread(target=stream, args=(board, 150, answered))
        sender.start()
        for wanted in (10, 40):
            while len(answered) < wanted:
                assert sender.is_alive()
                time.sleep(0.001)
            broker.kill()
            time.sleep(0.1)
            broker.start()
        sender.join(60)
        assert len(answered) == 150
        assert runs(tail) - before == runs(head) == 150
        assert {result["inference"] for result in answered} == set(range(1, 151))


def test_a_network_that_breaks_all_the_time(
    pair_folder: Path, broker: Broker, tail: VirtualBoard
) -> None:
    answered: list[dict[str, Any]] = []
    before = runs(tail)
    with (
        Cutter(broker.port, 1) as near_node,
        Cutter(broker.port, 2) as near_host,
        head_of(pair_folder, tail, f"mqtt://127.0.0.1:{near_node.port}") as head,
        MqttBoard(parse(f"mqtt://127.0.0.1:{near_host.port}"), "head") as board,
    ):
        near_node.wild = near_host.wild = True
        enough = threading.Event()
        sender = threading.Thread(target=stream, args=(board, 10_000, answered, enough))
        sender.start()
        while near_node.cuts < 4 or near_host.cuts < 4:
            time.sleep(0.05)
        near_node.wild = near_host.wild = False
        now = len(answered)
        while len(answered) < now + 5:  # It goes on by itself.
            assert sender.is_alive()
            time.sleep(0.01)
        enough.set()
        sender.join(PATIENCE_S)
        assert runs(head) == runs(tail) - before == len(answered)
        assert len({result["inference"] for result in answered}) == len(answered)


def test_a_node_that_is_killed_does_not_do_it_again(
    pair_folder: Path, broker: Broker, tail: VirtualBoard
) -> None:
    answered: list[dict[str, Any]] = []
    refused: list[str] = []
    before = runs(tail)
    with (
        head_of(pair_folder, tail, broker.url) as head,
        MqttBoard(parse(broker.url), "head") as board,
    ):

        def send() -> None:
            try:
                stream(board, 10_000, answered)
            except BoardError as error:
                refused.append(error.code)

        sender = threading.Thread(target=send)
        sender.start()
        while len(answered) < 20:
            time.sleep(0.001)
        head.kill()
        with head_of(pair_folder, tail, broker.url) as again:
            sender.join(30)
            assert refused == ["restarted"]
            assert board.ask("info")["boot"] == again.ask("info")["boot"]
            time.sleep(0.3)
            assert runs(again) == 0  # Nothing of before is done now.
            assert len(answered) <= runs(tail) - before <= len(answered) + 1


def test_a_reboot_is_one_whatever_comes_twice(pair_folder: Path, broker: Broker) -> None:
    with (
        node(pair_folder, 1, "twice", broker.url) as tail,
        Rough(broker.url, "tinysplit/twice/reply", "tinysplit/twice/status") as rough,
    ):
        boots = [rough.hear()[1]["boot"]]
        command = {"id": "r-1", "cmd": "reboot", "boot": boots[0]}
        for _ in range(3):
            rough.publish("tinysplit/twice/cmd", command)
        heard = []
        with contextlib.suppress(Exception):
            while True:
                heard.append(rough.hear(1.5))
        boots += [said["boot"] for where, said in heard if said.get("online")]
        assert len(boots) == 2
        assert boots[1] == tail.ask("info")["boot"]
        rough.publish("tinysplit/twice/cmd", command)
        assert rough.hear()[1]["error"]["code"] == "stale"
        assert tail.ask("info")["boot"] == boots[1]


def test_many_who_command_one_node(pair_folder: Path, broker: Broker, tail: VirtualBoard) -> None:
    """More than a node remembers ids of, at once."""
    done: list[dict[str, Any]] = []
    with (
        head_of(pair_folder, tail, broker.url) as head,
        contextlib.ExitStack() as stack,
    ):
        boards = [stack.enter_context(MqttBoard(parse(broker.url), "head")) for _ in range(12)]
        threads = [threading.Thread(target=_ask_often, args=(board, done)) for board in boards]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert len(done) == 12 * 20
        assert head.ask("telemetry")["commands"]["taken"] == 12 * 20


def _ask_often(board: MqttBoard, done: list[dict[str, Any]]) -> None:
    done.extend(board.ask("stats", PATIENCE_S) for _ in range(20))
