"""Boards by their names: who opens the way to each, and what ways share.

serial:PORT[@BAUD], /dev/...       on a serial port, or a virtual board's pseudo-terminal
mqtt:NODE                          through a broker
udp://, tcp://, ble://, espnow://  where the board listens for its link (host.boards.address)
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable

from host.background import Background
from host.boards import address, kinds
from host.boards.address import CENTRAL, Address
from host.boards.board import Board, BoardError, ForeignBoard
from host.boards.bridge import open_bridge
from host.boards.kinds import OnMqtt, OnSerial
from host.boards.linked import LinkedBoard
from host.boards.serial import SerialBoard
from host.closing import Assembly
from host.link.bridge import SharedBridge
from host.link.tcp import TcpClient
from host.link.transport import ClientTransport, not_installed
from host.link.udp import UdpClient
from host.mqtt import access
from host.mqtt.access import Access

_HOST_ADDRESS = "c0:54:53:00:ff:fe"  # On an air of virtual boards, beside the one who hosts it.
Place = OnSerial | OnMqtt | Address


def parse(name: str) -> Place:
    """What a name means.

    Raises:
        KindError: nothing.
    """
    if "://" in name:
        try:
            place = address.parse(name)
        except address.AddressError as error:
            raise kinds.KindError(str(error)) from error
        if place.host == CENTRAL or (place.transport in ("udp", "tcp") and place.port == 0):
            raise kinds.KindError(f"{name} is no address that a board can be called at")
        return place
    if re.fullmatch(r"/.+|COM\d+", name):
        name = f"serial:{name}"
    found = kinds.parse(name) if name.startswith(("serial:", "mqtt:")) else None
    if not isinstance(found, OnSerial | OnMqtt):
        raise kinds.KindError(
            f"{name!r} names no board: write serial:PORT, mqtt:NODE, udp://HOST:PORT, "
            "tcp://HOST:PORT, ble://NAME or espnow://ADDRESS"
        )
    return found


class Reach(Assembly):
    """Opens boards by name; a context manager. Safe in several threads, one board in each.

    Args:
        bridge: lends its radio for espnow:// names.
        air: for ble:// names of virtual boards: their air's place. None: this machine's Bluetooth.
        timeout_s: how long opening a session may take, and half of what a message may, except over
            BLE, which takes its own time; None: as the transport has it.
        broker: says which broker mqtt: names are at, when one is opened.
    """

    def __init__(
        self,
        *,
        bridge: OnSerial | None = None,
        air: str | None = None,
        timeout_s: float | None = None,
        broker: Callable[[], Access] = access.need,
    ) -> None:
        super().__init__()
        self._broker = broker
        self._bridge = bridge
        self._air = air
        self._timeout_s = timeout_s
        self._adapter = threading.Lock()

    def _assemble(self) -> None:
        self._background = self._stack.enter_context(Background())
        self._shared: SharedBridge | None = None
        if self._bridge is not None:
            self._shared = SharedBridge(open_bridge(self._bridge.port, self._bridge.baud)[1])
        self._backend = None
        if self._air is not None:
            try:
                from host.link.ble.bumble_backend import Adapter
            except ModuleNotFoundError as error:
                raise not_installed("virtual boards on BLE", "air", error) from error
            adapter = Adapter(self._air, _HOST_ADDRESS)
            self._stack.callback(lambda: self._background.run(adapter.close()))
            self._backend = adapter.backend()

    def open(self, place: Place, name: str, stop: threading.Event | None = None) -> Board:
        """The board, which has answered. `name` is for people; `stop`: as Board's.

        Raises:
            BoardError: it cannot be reached; says why.
        """
        if isinstance(place, OnSerial):
            return _greeted(SerialBoard(place.port, name=name, baud=place.baud), stop)
        if isinstance(place, OnMqtt):
            from host.mqtt.board import MqttBoard  # paho: not for those who need none.

            return _greeted(MqttBoard(self._broker(), place.node, name=name), stop)
        # One adapter scans and connects for one at a time.
        if place.transport == "ble":
            return LinkedBoard(
                name, self._background, lambda: self._transport(place), self._adapter, stop=stop
            )
        return LinkedBoard(
            name,
            self._background,
            lambda: self._transport(place),
            timeout_s=self._timeout_s,
            stop=stop,
        )

    def _transport(self, place: Address) -> ClientTransport:
        if place.transport == "udp":
            return UdpClient(place.host, place.port)
        if place.transport == "tcp":
            return TcpClient(place.host, place.port)
        if place.transport == "espnow":
            if self._shared is None or place.mac is None:
                raise BoardError(
                    "unreachable",
                    f"{place} needs --bridge serial:PORT, a board that lends its radio",
                )
            return self._shared.client(place.mac)
        try:
            from host.link.ble.transport import BleClient
        except ModuleNotFoundError as error:
            raise not_installed("this machine's Bluetooth", "ble", error) from error
        return BleClient(place.host, backend=self._backend)


def _greeted(board: ForeignBoard, stop: threading.Event | None) -> ForeignBoard:
    board.stop = stop
    try:
        board.greet()
    except BaseException:
        board.close()
        raise
    return board
