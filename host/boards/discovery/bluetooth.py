"""Boards in reach of this machine's Bluetooth, by the service they advertise."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from host.boards import address
from host.boards.address import AddressError
from host.boards.discovery.found import FoundBoard, Search, described
from host.link.transport import TransportError

if TYPE_CHECKING:
    from host.link.ble.transport import Found

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
    boards = tuple(from_advertisement(one) for one in seen)
    return Search("bluetooth", boards, "" if boards else "no board in range")


def from_advertisement(seen: Found) -> FoundBoard:
    """The board of an advertisement, by its name if that is an address, else by its MAC."""
    try:
        place = str(address.parse(f"ble://{seen.name}"))
    except AddressError:
        place = f"ble://{seen.address.lower()}"
    said = {
        "name": seen.name or None,
        "role": seen.role,
        "stage": seen.stage,
        "stages": seen.stages,
        "bundle": seen.bundle_prefix,
        "firmware": seen.version,
    }
    return described("bluetooth", place, said, f"{seen.rssi_dbm} dBm")
