"""tinysplit's own boards and commands at the brokers, with users: wrong logins, and a broker that
is killed while commands are under way."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from host.boards.virtual.process import VirtualBoard
from host.mqtt.access import Access
from host.mqtt.board import MqttBoard
from host.mqtt.connection import Connection, MqttError
from tests.host.broker import brokers
from tests.host.broker.brokers import LOOPBACK, Running, password
from tests.host.mqtt.nodes import node

COMMANDS = 60


def access(broker: Running, name: str | None, secret: str | None = None) -> Access:
    role = brokers.USERS.get(name or "", "node")
    if secret is None and name is not None:
        secret = password(name)
    return Access(LOOPBACK, broker.port_of(role), False, broker.version, name, secret)


def board(broker: Running, folder: Path) -> VirtualBoard:
    environment = {"TINYSPLIT_MQTT_USER": "tail", "TINYSPLIT_MQTT_PASSWORD": password("tail")}
    url = f"mqtt://{LOOPBACK}:{broker.port}?version={broker.version}"
    return node(folder, 1, "tail", url, environment=environment)


@pytest.mark.parametrize(
    ("name", "secret", "wanted", "code"),
    [
        ("boss", "wrong", "#", "login_refused"),
        (None, None, "#", "login_refused"),
        ("boss", None, "#", ""),
    ],
)
def test_clients_name_a_wrong_login(
    broker: Running, name: str | None, secret: str | None, wanted: str, code: str
) -> None:
    connection = Connection(access(broker, name, secret), subscriptions=[wanted])
    try:
        connection.open()
        found = ""
    except MqttError as error:
        found = error.code
    finally:
        connection.close()
    assert found == code


def test_a_subscription_that_is_refused_is_named(tmp_path: Path) -> None:
    with brokers.running(brokers.embedded(tmp_path / "files")) as broker:
        connection = Connection(access(broker, "tail"), client_id="tail", subscriptions=["#"])
        with pytest.raises(MqttError, match="does not let the user 'tail' read #") as refused:
            connection.open()
        assert refused.value.code == "not_authorized"


def test_a_broker_killed_while_commands_are_under_way(pair_folder: Path, tmp_path: Path) -> None:
    """Every command is answered, each by its own answer."""
    with (
        brokers.running(brokers.embedded(tmp_path / "files")) as broker,
        board(broker, pair_folder),
        MqttBoard(access(broker, "boss"), "tail") as remote,
    ):
        answered: list[int] = []

        def command() -> None:
            answered.extend(remote.ask("telemetry", 60)["uptime_ms"] for _ in range(COMMANDS))

        sender = threading.Thread(target=command)
        sender.start()
        for wanted in (10, 30):
            while len(answered) < wanted:
                assert sender.is_alive()
                time.sleep(0.001)
            broker.process.kill()
            broker.restart()
        sender.join(60)
        assert len(answered) == COMMANDS
        assert answered == sorted(answered)
