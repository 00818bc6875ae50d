"""Boards at a broker: what they say, what they take, and the commands that show it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result

from host.boards import address, control
from host.boards.board import BoardError
from host.boards.virtual.process import VirtualBoard
from host.cli import main
from host.mqtt.access import parse
from host.mqtt.board import MqttBoard
from host.mqtt.monitor import table
from host.mqtt.roster import MOST_NODES, Roster
from partitioner.command import wide_console
from tests.host.mqtt.mosquitto import Mosquitto
from tests.host.mqtt.nodes import Rough, node

Invoke = Callable[..., Result]
SECRET = "sesam-oeffne-dich"


@pytest.fixture(scope="module")
def tail(pair_folder: Path, mosquitto: Mosquitto) -> Iterator[VirtualBoard]:
    login = {"TINYSPLIT_MQTT_USER": "anna", "TINYSPLIT_MQTT_PASSWORD": SECRET}
    with node(pair_folder, 1, "kitchen", mosquitto.url, environment=login) as board:
        yield board


@pytest.fixture
def rough(tail: VirtualBoard, mosquitto: Mosquitto) -> Iterator[Rough]:
    with Rough(mosquitto.url, "tinysplit/kitchen/reply") as client:
        yield client


def told(rough: Rough, command: object) -> dict[str, object]:
    """The answer to a command, or to what is none."""
    payload = command if isinstance(command, bytes) else json.dumps(command).encode()
    rough.publish("tinysplit/kitchen/cmd", payload)
    answer: dict[str, object] = rough.hear()[1]
    assert control.parse_answer(json.dumps(answer).encode()) == answer
    return answer


def code(answer: dict[str, object]) -> str:
    error = answer["error"]
    assert isinstance(error, dict)
    return str(error["code"])


def test_status_and_telemetry_follow_the_schema(tail: VirtualBoard, mosquitto: Mosquitto) -> None:
    topics = ("tinysplit/kitchen/status", "tinysplit/kitchen/telemetry")
    with Rough(mosquitto.url, *topics) as client:
        heard = dict(client.hear() for _ in range(2))
    status = control.parse_status(json.dumps(heard[topics[0]]).encode())
    info = tail.ask("info")
    assert {name: info[name] for name in status if name != "online"} == {
        name: value for name, value in status.items() if name != "online"
    }
    values = control.parse_answer(json.dumps(heard[topics[1]]).encode())["values"]
    assert values["memory"]["rss"] > 10 << 20
    assert "temperature_c" not in values  # Nobody measured one.


def test_what_is_no_command_is_answered_by_name(tail: VirtualBoard, rough: Rough) -> None:
    before = tail.ask("telemetry")["commands"]
    for payload in (b"{", b"\xff", b"[]", b"{}", b'{"cmd":"info"}', b"[" * 5000):
        assert code(told(rough, payload)) == "malformed"
    assert code(told(rough, {"id": "a", "cmd": "explode"})) == "unknown_command"
    assert code(told(rough, {"id": "a", "cmd": "info", "more": 1})) == "bad_command"
    assert code(told(rough, {"id": "b", "cmd": "run", "input": "selftest"})) == "stage_mismatch"
    wrong_stage = {"id": "c", "cmd": "configure", "set": {"stage": 7}}
    assert code(told(rough, wrong_stage)) == "stage_mismatch"
    assert code(told(rough, b'{"id":1,' + b" " * control.MAX_LINE_BYTES + b"}")) == "too_long"
    after = tail.ask("telemetry")["commands"]
    assert after["malformed"] - before["malformed"] == 6
    assert after["taken"] - before["taken"] == 2  # Those that follow the schema.


def test_secrets_are_said_to_nobody(tail: VirtualBoard, rough: Rough) -> None:
    answer = told(rough, {"id": "s", "cmd": "configure", "set": {}})
    assert answer["result"]["mqtt_password"] is True  # type: ignore[index]
    assert SECRET not in json.dumps(answer)
    wrong = {"id": "t", "cmd": "configure", "set": {"mqtt_password": SECRET * 20}}
    assert SECRET not in json.dumps(told(rough, wrong))
    assert SECRET not in Path(f"/proc/{tail.pid}/cmdline").read_text()


def test_duplicates_retained_and_stale_ones(tail: VirtualBoard, rough: Rough) -> None:
    before = tail.ask("telemetry")["commands"]
    first = told(rough, {"id": "once", "cmd": "stats"})
    assert told(rough, {"id": "once", "cmd": "stats"}) == first
    for number in range(5):
        told(rough, {"id": number, "cmd": "stats"})
    assert code(told(rough, {"id": "once", "cmd": "stats"})) == "done_already"
    assert code(told(rough, {"id": "x", "cmd": "stats", "boot": "0" * 16})) == "stale"
    assert code(told(rough, {"id": "y", "cmd": "stats", "after": 1 << 30})) == "forgotten"
    after = tail.ask("telemetry")["commands"]
    counted = {name: after[name] - before[name] for name in after}
    assert counted == {
        "taken": 6,
        "duplicates": 2,
        "reused": 0,
        "stale": 2,
        "retained": 0,
        "malformed": 0,
    }


def test_two_who_choose_the_same_id_do_not_get_each_others_answers(
    tail: VirtualBoard, rough: Rough
) -> None:
    before = tail.ask("telemetry")["commands"]
    first = told(rough, {"id": "both", "cmd": "stats"})
    assert code(told(rough, {"id": "both", "cmd": "info"})) == "id_reused"
    assert code(told(rough, {"id": "both", "cmd": "explode"})) == "unknown_command"
    assert told(rough, {"id": "both", "cmd": "stats"}) == first
    after = tail.ask("telemetry")["commands"]
    assert {name: after[name] - before[name] for name in ("taken", "reused", "duplicates")} == {
        "taken": 1,
        "reused": 1,
        "duplicates": 1,
    }


def test_a_retained_command_is_left_alone(
    tail: VirtualBoard, rough: Rough, mosquitto: Mosquitto
) -> None:
    rough.publish("tinysplit/kitchen/cmd", {"id": "now", "cmd": "info"}, retain=True)
    assert rough.hear()[1]["ok"]  # The node was there when it was sent.
    tail.reboot()
    with Rough(mosquitto.url, "tinysplit/kitchen/status") as client:
        while client.hear()[1].get("boot") != tail.ask("info")["boot"]:
            pass
    rough.silence(0.2)
    assert tail.ask("telemetry")["commands"]["retained"] == 1
    rough.publish("tinysplit/kitchen/cmd", b"", retain=True)


def test_a_node_that_is_killed_is_offline(pair_folder: Path, mosquitto: Mosquitto) -> None:
    with (
        node(pair_folder, 1, "cellar", mosquitto.url) as board,
        MqttBoard(parse(mosquitto.url), "cellar") as reached,
        Rough(mosquitto.url, "tinysplit/cellar/status") as client,
    ):
        reached.greet()
        assert client.hear()[1]["online"]
        board.kill()
        assert client.hear()[1] == {"online": False}
        with pytest.raises(BoardError, match="offline"):
            reached.ask("info", 1.0)
    with Rough(mosquitto.url) as client:
        client.publish("tinysplit/cellar/status", b"", retain=True)


def test_settings_that_name_no_broker_are_refused(tail: VirtualBoard) -> None:
    with pytest.raises(BoardError, match="no URL of a broker"):
        tail.ask("configure", set={"mqtt_url": "http://x"})


# Commands of the command line.


def test_cmd(invoke: Invoke, tail: VirtualBoard, mosquitto: Mosquitto) -> None:
    broker = ("--broker", mosquitto.url)
    done = invoke(main, "cmd", "kitchen", "configure", 'set={"window": 4}', *broker)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["result"]["window"] == 4
    five = ("--broker", f"{mosquitto.url}?version=5")
    refused = invoke(main, "cmd", "mqtt:kitchen", "run", "input=selftest", *five)
    assert refused.exit_code == 1
    assert json.loads(refused.stdout)["error"]["code"] == "stage_mismatch"
    assert refused.stderr.startswith("tinysplit cmd: error: stage_mismatch: ")
    before = tail.ask("info")["boot"]
    again = invoke(main, "cmd", "kitchen", "reboot", *broker)
    assert json.loads(again.stdout)["result"]["boot"] == tail.ask("info")["boot"] != before


def test_cmd_says_under_which_name_a_renamed_board_will_answer(
    invoke: Invoke, tail: VirtualBoard, mosquitto: Mosquitto
) -> None:
    broker = ("--broker", mosquitto.url)
    try:
        rename = invoke(main, "cmd", "kitchen", "configure", 'set={"name": "cellar"}', *broker)
        assert rename.exit_code == 0, rename.output
        assert rename.stderr == "after a reboot this board is mqtt:cellar\n"
        gone = invoke(main, "cmd", "kitchen", "reboot", "--timeout", "2", *broker)
        assert gone.exit_code == 1
        assert "kitchen is offline; a board that was renamed answers under its new" in gone.stderr
        there = invoke(main, "cmd", "cellar", "info", *broker)
        assert json.loads(there.stdout)["result"]["name"] == "cellar"
    finally:
        tail.ask("configure", set={"name": "kitchen"})
        tail.reboot()
    with Rough(mosquitto.url) as client:
        client.publish("tinysplit/cellar/status", b"", retain=True)


@pytest.mark.parametrize(
    "arguments",
    [
        ("kitchen", "explode"),
        ("kitchen", "run"),
        ("kitchen", "run", "input=camera"),
        ("kitchen", "info", "more"),
        ("kitchen", "info", "more=1"),
        ("kitchen", "configure", 'set={"stage":'),
        ("kitchen", "configure", 'set={"mtu": 1.5}'),
    ],
)
def test_wrong_usage_of_cmd(invoke: Invoke, arguments: tuple[str, ...]) -> None:
    result = invoke(main, "cmd", *arguments, "--broker", "mqtt://127.0.0.1:1")
    assert result.exit_code == 2, result.output


def test_cmd_by_another_way(invoke: Invoke, tail: VirtualBoard) -> None:
    place = str(address.parse(tail.ask("info")["listen"]))
    result = invoke(main, "cmd", place, "info")
    assert json.loads(result.stdout)["result"]["name"] == "kitchen"


def test_boards_and_monitor(invoke: Invoke, tail: VirtualBoard, mosquitto: Mosquitto) -> None:
    """Whatever others say there."""
    broker = ("--broker", mosquitto.url)
    hostile = {
        "tinysplit/evil/status": b'{"online":true,"listen":"\\u001b[2J"}',
        "tinysplit/bad name/status": b'{"online":true}',
        "tinysplit/deep/status": b"[" * 50_000,
        "tinysplit/large/status": b'{"online":false,"x":"' + b"x" * 70_000 + b'"}',
    }
    with Rough(mosquitto.url) as client:
        for where, payload in hostile.items():
            client.publish(where, payload, retain=True)
        client.publish("tinysplit/gone/status", {"online": False}, retain=True)
        found = invoke(main, "boards", "--way", "mqtt", "--json", *broker)
        shown = invoke(main, "boards", "--way", "mqtt", *broker)
        lines = invoke(main, "monitor", "--json", "--seconds", 5.5, *broker)
        quick = invoke(main, "monitor", "kitchen", "--seconds", 0.5, *broker)
        for where in (*hostile, "tinysplit/gone/status"):
            client.publish(where, b"", retain=True)
    boards = {one["name"]: one for one in json.loads(found.stdout)["boards"]}
    assert set(boards) == {"gone", "kitchen"}
    assert boards["gone"]["note"] == "offline"
    assert (boards["kitchen"]["role"], boards["kitchen"]["address"]) == ("tail", "mqtt:kitchen")
    assert "left out" in json.loads(found.stdout)["notes"]["mqtt"]
    records = [json.loads(line) for line in lines.stdout.splitlines()]
    assert {record["node"] for record in records} == {"gone", "kitchen"}
    assert any("values" in record for record in records)
    assert "evil: its status is left out" in lines.stderr
    assert "kitchen  online  tail" in quick.stdout
    assert "\x1b" not in found.output + shown.output + lines.output + quick.output


def test_a_monitor_of_nobody(invoke: Invoke, mosquitto: Mosquitto) -> None:
    result = invoke(main, "monitor", "nobody", "--broker", mosquitto.url)
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "knows no node 'nobody'" in result.stderr


def test_the_roster_has_an_end() -> None:
    roster = Roster()
    assert roster.take("tinysplit/bad\x1bname/status", b'{"online":true}', 0.0) is None
    for number in range(MOST_NODES):
        roster.take(f"tinysplit/n{number}/status", b'{"online":false}', 0.0)
    with pytest.raises(control.ControlError, match="more than"):
        roster.take("tinysplit/another/status", b'{"online":false}', 0.0)
    assert roster.take("tinysplit/n7/status", b'{"online":false}', 0.0) is not None


def test_the_table_of_a_real_board() -> None:
    roster = Roster()
    values = {
        "temperature_c": 41.25, "memory": {"internal_free": 123 << 10}, "rssi_dbm": -61,
        "runs": 7, "inferences": 3, "errors": 1, "last_round_trip_us": 12_345, "uptime_ms": 1,
    }  # fmt: skip
    event = control.event("telemetry", values=values)
    roster.take("tinysplit/head/telemetry", event, 10.0)
    console = wide_console()
    with console.capture() as captured:
        console.print(table(roster, 14.2))
    row = captured.get().splitlines()[1].split("  ")
    assert [cell.strip() for cell in row if cell.strip()] == [
        *("head", "?", "-", "41.2", "123 KiB free", "-61 dBm", "12.3 ms", "3", "1", "4 s"),
    ]
