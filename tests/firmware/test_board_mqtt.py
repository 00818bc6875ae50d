"""The whole application, run on this machine, at a real broker: its answers, and that it does
everything once."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from host.boards.board import BoardError
from host.mqtt.access import parse
from host.mqtt.board import MqttBoard
from host.packing.pack import pack
from partitioner.bundle import Bundle
from tests.firmware.pc_board import PcBoard, factory_flash
from tests.host.mqtt.mosquitto import Mosquitto
from tests.host.mqtt.nodes import Rough
from tests.ports import free_port

PROGRAM = os.environ.get("TINYSPLIT_FIRMWARE_BOARD")
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="run by tests/firmware/run.sh")


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    found = Mosquitto(tmp_path_factory.mktemp("broker"))
    yield found
    found.kill()


@contextlib.contextmanager
def started(
    folder: Path, image: bytes, broker: Mosquitto, name: str, **settings: Any
) -> Iterator[PcBoard]:
    assert PROGRAM is not None
    flash = factory_flash(folder / name, {0: image})
    with PcBoard(Path(PROGRAM), flash) as board:
        board.wait_ready(30)
        board.ask("configure", set={"name": name, "mqtt_url": broker.url, **settings})
        board.reboot(30)
        yield board


@pytest.fixture(scope="module")
def pair(
    broker: Mosquitto, stranger_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[PcBoard, PcBoard]]:
    """A head that sends to a tail, both at the broker."""
    images = [packed.data for packed in pack(stranger_bundle, range(3), None, version=1)]
    folder = tmp_path_factory.mktemp("boards")
    ports = [free_port(), free_port()]
    listen = [f"udp://0.0.0.0:{port}" for port in ports]
    near = [f"udp://127.0.0.1:{port}" for port in ports]
    with (
        started(folder, images[2], broker, "ctail", listen=listen[1]) as tail,
        started(folder, images[1], broker, "crelay", listen=listen[0], next=near[1]) as relay,
        started(
            folder, images[0], broker, "chead", listen=f"udp://0.0.0.0:{free_port()}", next=near[0]
        ) as head,
    ):
        end = time.monotonic() + 20
        while not (head.ask("stats")["next_up"] and relay.ask("stats")["next_up"]):
            assert time.monotonic() < end
            time.sleep(0.05)
        yield head, tail


Boards = tuple[PcBoard, PcBoard]


def test_it_announces_itself_and_tells_of_itself(broker: Mosquitto, pair: Boards) -> None:
    """Whatever does not follow the schema would be left out here."""
    info = pair[0].ask("info")
    with MqttBoard(parse(broker.url), "chead") as board:
        said = board.greet()
        assert {**said, "uptime_ms": 0, "memory": 0} == {**info, "uptime_ms": 0, "memory": 0}
        assert board.ask("telemetry")["commands"]["taken"] >= 2
        assert not board.texts
    with Rough(broker.url, "tinysplit/chead/status") as rough:
        status = rough.hear()[1]
        assert status["online"] is True
        members = ("boot", "kind", "role", "stage", "bundle", "transport", "listen", "kernels")
        assert {name: status[name] for name in members} == {name: info[name] for name in members}
        assert (status["role"], status["transport"]) == ("head", "udp")


def test_telemetry_comes_by_itself(broker: Mosquitto, pair: Boards) -> None:
    with Rough(broker.url, "tinysplit/ctail/telemetry") as rough:
        event = rough.hear()[1]
        assert event["event"] == "telemetry"
        assert event["values"]["temperature_c"] == pytest.approx(41.2)


def test_a_command_that_comes_twice_is_answered_twice_and_done_once(
    broker: Mosquitto, pair: Boards
) -> None:
    head, tail = pair
    boot = head.ask("info")["boot"]
    before = tail.ask("telemetry")["runs"]
    command = {"id": "twice", "cmd": "run", "input": "pattern", "boot": boot}
    with Rough(broker.url, "tinysplit/chead/reply") as rough:
        for _ in range(5):
            rough.publish("tinysplit/chead/cmd", command)
        answers = [rough.hear()[1]]
        with contextlib.suppress(Exception):
            while True:
                answers.append(rough.hear(0.5)[1])
        assert all(answer == answers[0] for answer in answers)
        assert answers[0]["ok"]
        assert tail.ask("telemetry")["runs"] == before + 1
        for number in range(5):
            rough.publish("tinysplit/chead/cmd", {"id": number, "cmd": "stats"})
            assert rough.hear()[1]["id"] == number
        rough.publish("tinysplit/chead/cmd", command)
        assert rough.hear()[1]["error"]["code"] == "done_already"
        rough.publish("tinysplit/chead/cmd", {**command, "id": "old", "boot": "0" * 16})
        assert rough.hear()[1]["error"]["code"] == "stale"
        rough.publish("tinysplit/chead/cmd", {**command, "id": "late", "after": 1 << 30})
        assert rough.hear()[1]["error"]["code"] == "forgotten"
        rough.publish("tinysplit/chead/cmd", b"{nothing")
        assert rough.hear()[1]["error"]["code"] == "malformed"
        counts = head.ask("telemetry")["commands"]
        assert counts["duplicates"] >= 2  # Of a burst some are not even read.
        assert (counts["stale"], counts["malformed"], counts["retained"]) == (2, 1, 0)
    assert tail.ask("telemetry")["runs"] == before + 1


def test_two_who_choose_the_same_id_do_not_get_each_others_answers(
    broker: Mosquitto, pair: Boards
) -> None:
    head, tail = pair
    before = tail.ask("telemetry")["runs"]
    counts = head.ask("telemetry")["commands"]
    command = {"id": "both", "cmd": "run", "input": "pattern"}
    with Rough(broker.url, "tinysplit/chead/reply") as rough:
        rough.publish("tinysplit/chead/cmd", command)
        # While the first is under way, or after it: neither changes what is remembered of it.
        others = ({"cmd": "abort"}, {"cmd": "explode"}, {"cmd": "info", "boot": "0" * 16})
        told = []
        for other in others:
            rough.publish("tinysplit/chead/cmd", {"id": "both", **other})
            told.append(rough.hear()[1])
        told.append(rough.hear()[1])
        (first,) = [answer for answer in told if answer["ok"]]
        codes = [answer["error"]["code"] for answer in told if not answer["ok"]]
        assert codes == ["id_reused", "unknown_command", "stale"]
        rough.publish("tinysplit/chead/cmd", command)
        assert rough.hear()[1] == first
    after = head.ask("telemetry")["commands"]
    assert (after["reused"], after["taken"]) == (counts["reused"] + 1, counts["taken"] + 1)
    assert tail.ask("telemetry")["runs"] == before + 1


def test_a_retained_command_is_left_alone(broker: Mosquitto, pair: Boards) -> None:
    head = pair[0]
    with Rough(broker.url, "tinysplit/chead/reply", "tinysplit/chead/status") as rough:
        assert rough.hear()[1]["online"]
        command = {"id": "retained", "cmd": "abort"}
        rough.publish("tinysplit/chead/cmd", command, retain=True)
        assert rough.hear()[1]["ok"]  # It was there when that was sent.
        board = MqttBoard(parse(broker.url), "chead")
        with board:
            board.reboot(20)
        head.wait_ready(20)
        taken = head.ask("telemetry")["commands"]
        assert (taken["retained"], taken["taken"]) == (1, 1)
        rough.publish("tinysplit/chead/cmd", b"", retain=True)


def test_a_broker_killed_in_the_middle(broker: Mosquitto, pair: Boards) -> None:
    head, tail = pair
    end = time.monotonic() + 10
    while not head.ask("stats")["next_up"]:
        assert time.monotonic() < end
        time.sleep(0.05)
    answered: list[dict[str, Any]] = []
    before = tail.ask("telemetry")["runs"]
    with MqttBoard(parse(broker.url), "chead") as board:
        board.greet()

        def send() -> None:
            answered.extend(board.ask("run", 30, input="pattern") for _ in range(60))

        sender = threading.Thread(target=send)
        sender.start()
        time.sleep(0.05)
        broker.kill()
        time.sleep(0.1)
        broker.start()
        sender.join(40)
        assert len(answered) == 60
        assert tail.ask("telemetry")["runs"] == before + 60


def test_a_console_command_while_one_by_mqtt_is_under_way(broker: Mosquitto, pair: Boards) -> None:
    """`abort` on the wire answers runs of the broker's side, while the broker's side sends."""
    head = pair[0]
    with MqttBoard(parse(broker.url), "chead") as board:
        board.greet()
        for _ in range(20):
            commands = [board.begin("run", input="pattern") for _ in range(2)]
            head.ask("abort")
            for command in commands:
                with contextlib.suppress(BoardError):
                    board.finish(command, 10)
        assert board.ask("info")["name"] == "chead"
