"""The suite's brokers: the embedded one, and Mosquitto as clients of MQTT 3.1.1 and of 5 see it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.host.broker import brokers
from tests.host.broker.brokers import Running

KINDS = ("embedded", "mosquitto-3.1.1", "mosquitto-5")


def need_mosquitto() -> None:
    if shutil.which("mosquitto_passwd") is None:
        missing = "Mosquitto is missing: apt-get install mosquitto"
        if os.environ.get("TINYSPLIT_REQUIRE_ALL") == "1":
            pytest.fail(missing)
        pytest.skip(missing)


def make(
    kind: str, folder: Path, *, roles: dict[str, str] | None = None, tls: tuple[Path, Path] | None
) -> Running:
    named = brokers.USERS if roles is None else roles
    if kind == "embedded":
        return brokers.embedded(folder, roles=named, tls=tls)
    need_mosquitto()
    return brokers.mosquitto(folder, 5 if kind.endswith("5") else 3, roles=named, tls=tls)


@pytest.fixture(scope="module", params=KINDS)
def broker(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """A broker for all tests of a module: they must leave nothing retained behind."""
    folder = tmp_path_factory.mktemp("broker") / "files"
    with brokers.running(make(request.param, folder, tls=None)) as started:
        yield started


@pytest.fixture(params=KINDS)
def own_broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Running]:
    """A broker for one test."""
    with brokers.running(make(request.param, tmp_path / "files", tls=None)) as started:
        yield started
