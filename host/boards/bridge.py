"""The board that lends a host its radio: asked who it is, made a transport."""

from __future__ import annotations

from host.boards import address
from host.boards.address import Address
from host.boards.board import BoardError
from host.boards.serial import BAUD, SerialBoard
from host.link.bridge import BridgeServer
from host.link.espnow.radio import profile


def open_bridge(port: str, baud: int = BAUD) -> tuple[Address, BridgeServer]:
    """The radio's address and the transport over it, not yet open, of the bridge on a port.

    Raises:
        BoardError: `no_port`, `not_allowed`, `busy`, `not_a_port`, `no_answer`: as SerialBoard's;
            `no_bridge`: the board there is something else, or its radio is not ESP-NOW.
    """
    board = SerialBoard(port, baud=baud)
    try:
        info = board.greet()
    finally:
        board.close()
    role = info.get("role")
    if role != "bridge":
        raise BoardError(
            "no_bridge",
            f"the board on {port} is a {role}, not a bridge: name another port, or configure its "
            "role to be bridge",
        )
    place = address.parse(info["listen"])
    radio = info.get("radio") or {}  # A virtual one.
    link = info.get("link") or {}  # A real one.
    version = radio.get("version") or link.get("espnow_version")
    if place.transport != "espnow" or version not in (1, 2):
        raise BoardError("no_bridge", f"the bridge on {port} has {place.transport}, not ESP-NOW")
    return place, BridgeServer(port, profile(version), baud=baud)
