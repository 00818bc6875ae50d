"""A broker and two boards that several tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.host.mqtt.mosquitto import Mosquitto


@pytest.fixture(scope="package")
def mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    broker = Mosquitto(tmp_path_factory.mktemp("mosquitto"))
    yield broker
    broker.kill()


@pytest.fixture(autouse=True)
def no_broker_of_mine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have one of their own."""
    for name in ("BROKER", "MQTT_USER", "MQTT_PASSWORD", "MQTT_LOGIN", "MQTT_CA"):
        monkeypatch.delenv(f"TINYSPLIT_{name}", raising=False)
