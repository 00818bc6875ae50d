"""Boards commanded over their link."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from host.background import Background
from host.boards.address import Address
from host.boards.board import BoardError
from host.boards.linked import LinkedBoard
from host.boards.virtual.process import VirtualBoard
from host.link.udp import UdpClient


def test_a_board_that_goes_before_it_says_who_it_is_leaves_no_session(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: Any, **__: Any) -> dict[str, Any]:
        raise BoardError("gone", "a is gone")

    with VirtualBoard("a", folder, 2, Address("udp", "127.0.0.1", 0), None) as board:
        port = int(board.wait_ready(60)["listen"].rsplit(":", 1)[1])
        made: list[UdpClient] = []

        def connect() -> UdpClient:
            made.append(UdpClient("127.0.0.1", port))
            return made[-1]

        monkeypatch.setattr(LinkedBoard, "ask", gone)
        with Background() as background, pytest.raises(BoardError, match="a is gone"):
            LinkedBoard("a", background, connect)
        assert made[0]._sock is None
        deadline = time.monotonic() + 5
        while board.ask("stats")["sessions_up"] and time.monotonic() < deadline:
            time.sleep(0.05)
        assert board.ask("stats")["sessions_up"] == 0
