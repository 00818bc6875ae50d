"""Many boards at once: telemetry every second with QoS 1, and none of it lost."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from tests.host.broker import brokers
from tests.host.broker.brokers import LOOPBACK, Running
from tests.host.broker.clients import Client
from tests.host.broker.wire import connect, publish

BOARDS = 200
ROUNDS = 30 if os.environ.get("TINYSPLIT_LONG") == "1" else 4
PERIOD_S = 1.0


async def board(broker: Running, number: int) -> None:
    """One board: sends every second, and waits for the broker's acknowledgement of each."""
    name = f"node{number}"
    reader, writer = await asyncio.open_connection(LOOPBACK, broker.port)
    try:
        status = f"tinysplit/{name}/status"
        writer.write(connect(name, keepalive_s=15, will=(status, b"gone")))
        assert await reader.readexactly(4) == b"\x20\x02\x00\x00"
        await asyncio.sleep(number / BOARDS * PERIOD_S)
        for count in range(1, ROUNDS + 1):
            payload = f"{name} {count}".encode()
            topic = f"tinysplit/{name}/telemetry"
            writer.write(publish(topic, payload, qos=1, number=count))
            assert await reader.readexactly(4) == b"\x40\x02" + count.to_bytes(2, "big")
            await asyncio.sleep(PERIOD_S)
        writer.write(b"\xe0\x00")
        await writer.drain()
    finally:
        writer.close()


async def boards(broker: Running) -> None:
    await asyncio.gather(*(board(broker, number) for number in range(BOARDS)))


def test_two_hundred_boards(tmp_path: Path) -> None:
    roles = {"boss": "operator", **{f"node{number}": "node" for number in range(BOARDS)}}
    with brokers.running(brokers.embedded(tmp_path / "files", roles=roles)) as broker:
        with Client(broker, "boss") as boss:
            assert boss.subscribe("tinysplit/+/telemetry", "tinysplit/+/status") == [True, True]
            asyncio.run(boards(broker))
            expected = BOARDS * ROUNDS
            deadline = time.monotonic() + 10
            while boss.messages.qsize() < expected and time.monotonic() < deadline:
                time.sleep(0.01)
            got = [boss.messages.get_nowait() for _ in range(boss.messages.qsize())]
        said = [payload.decode().split() for _, payload, _ in got]
        assert sorted(said) == sorted(
            [f"node{number}", str(count)]
            for number in range(BOARDS)
            for count in range(1, ROUNDS + 1)
        )
        for number in range(BOARDS):  # Each board's in its order.
            own = [int(count) for name, count in said if name == f"node{number}"]
            assert own == list(range(1, ROUNDS + 1))
        assert broker.peak_bytes < 200 << 20
