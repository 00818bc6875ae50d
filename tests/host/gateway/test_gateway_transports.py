"""Every transport at once, real virtual boards, frames lost."""

from __future__ import annotations

import json
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from partitioner.bundle import Bundle
from tests.host.gateway.mixed import Head, Inputs, Shelf


def test_heads_over_every_transport_are_exact_under_loss(pair: Bundle, pair_folder: Path) -> None:
    inputs = Inputs(pair)
    counts = {"udp": 1, "tcp": 1, "espnow": 1, "ble": 2}

    def work(head: Head) -> None:
        for number in range(8):
            inputs.ask(head.board, number)

    with Shelf(pair_folder, counts, 0.05) as shelf, ThreadPoolExecutor(5) as pool:
        list(pool.map(work, shelf.heads))
        with urllib.request.urlopen(f"http://{shelf.gateway.http}/heads", timeout=10) as answer:
            rows = json.load(answer)
        assert sorted(row["transport"] for row in rows) == ["ble", "ble", "espnow", "tcp", "udp"]
        assert [row["requests"] >= 8 for row in rows] == [True] * 5
        names = {row["transport"]: row["head"] for row in rows}
        assert names["espnow"] == "espnow://02:00:00:00:00:01"
        assert names["ble"].startswith("ble://c0:54:53:00:00:0")
        again = next(head for head in shelf.heads if head.transport == "ble")
        again.board.reboot()  # Its connection is lost, and made again.
        inputs.ask(again.board, 1)
        assert shelf.gateway.stop() == (0, "")
