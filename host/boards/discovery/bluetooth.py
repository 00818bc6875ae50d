"""Boards in reach of this machine's Bluetooth, by the service they advertise."""

from __future__ import annotations

import asyncio

from host.boards.discovery.found import FoundBoard, Search
from host.link.transport import TransportError

_SLACK_S = 10.0


def search(timeout_s: float) -> Search:
    """Listen for so long."""
    try:
        from host.link.ble import transport
    except ModuleNotFoundError:
        return Search(
            "bluetooth", note="not looked for: bleak is missing (pip install 'tinysplit[ble]')"
        )
    try:
        seen = asyncio.run(asyncio.wait_for(transport.scan(timeout_s), timeout_s + _SLACK_S))
    except TransportError as error:
        return Search("bluetooth", note=f"not looked for: {error}")
    except asyncio.TimeoutError:
        return Search("bluetooth", note="not looked for: this machine's Bluetooth does not answer")
    boards = tuple(
        FoundBoard(
            "bluetooth",
            f"ble://{board.name or board.address.lower()}",
            board.name or None,
            board.role,
            board.stage,
            board.stages,
            board.bundle_prefix,
            board.version,
            f"{board.rssi_dbm} dBm",
        )
        for board in seen
    )
    return Search("bluetooth", boards, "" if boards else "no board in range")
