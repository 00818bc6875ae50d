"""Virtual boards at a broker, and a client that sends what no well-behaved one does."""

from __future__ import annotations

import json
import queue
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from host.boards.address import Address
from host.boards.virtual.process import VirtualBoard
from host.mqtt.access import Access, parse
from host.mqtt.connection import Connection

LOOPBACK = Address("udp", "127.0.0.1", 0)


def node(
    folder: Path,
    stage: int,
    name: str,
    url: str,
    *,
    following: Address | None = None,
    environment: Mapping[str, str] | None = None,
    flags: tuple[str, ...] = (),
) -> VirtualBoard:
    """A virtual board at the broker, booted; also controlled over its standard input."""
    board = VirtualBoard(
        name,
        folder,
        stage,
        LOOPBACK,
        following,
        flags=("--mqtt", url, *flags),
        environment=environment,
    )
    try:
        board.info = board.wait_ready(60)  # type: ignore[attr-defined]
    except BaseException:
        board.close()
        raise
    return board


class Rough:
    """A client that publishes what it is told and collects what it hears."""

    def __init__(self, access: str | Access, *topics: str) -> None:
        self._heard: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self._connection = Connection(
            parse(access) if isinstance(access, str) else access,
            subscriptions=topics,
            on_message=lambda where, payload, _: self._heard.put((where, payload)),
        )
        self._connection.open()

    def publish(self, topic: str, payload: bytes | dict[str, Any], *, retain: bool = False) -> None:
        data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        sent = self._connection._paho.publish(topic, data, 1, retain)
        sent.wait_for_publish(10)
        assert sent.is_published()

    def hear(self, timeout_s: float = 30.0) -> tuple[str, Any]:
        """The next message: topic and JSON."""
        where, payload = self._heard.get(timeout=timeout_s)
        return where, json.loads(payload)

    def silence(self, seconds: float) -> None:
        """Nothing comes for so long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert self._heard.empty(), self._heard.get()
            time.sleep(0.02)

    def __enter__(self) -> Rough:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
