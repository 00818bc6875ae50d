"""What `--listen` may say, and the transport for it.

udp://HOST:PORT, tcp://HOST:PORT   sockets; [::] and [::1] are IPv6
ble, ble://NAME                    this machine's Bluetooth, which connects to heads in range
espnow:PORT[@BAUD]                 a bridge board on a serial port, which lends its radio
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from host.boards import kinds
from host.boards.bridge import open_bridge
from host.boards.kinds import OnSerial
from host.gateway.bundles import GatewayError
from host.link.tcp import TcpServer
from host.link.transport import ServerTransport, not_installed
from host.link.udp import UdpServer

HOST_ADDRESS = "c0:54:53:00:ff:fd"  # On an air of virtual boards.
_SOCKET = re.compile(r"(udp|tcp)://(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+)):(\d{1,5})")


@dataclass(frozen=True)
class Listen:
    """A place to listen at, checked. `host` is a name or an address of its `kind`."""

    text: str
    kind: str
    host: str = ""
    port: int = 0
    serial: OnSerial | None = None

    def transport(self, *, reuse_port: bool = False, air: str | None = None) -> ServerTransport:
        """Not yet open.

        Raises:
            BoardError: no bridge on that port.
            TransportError: Bluetooth is not installed here.
        """
        if self.kind == "udp":
            return UdpServer(self.host, self.port, reuse_port=reuse_port)
        if self.kind == "tcp":
            return TcpServer(self.host, self.port, reuse_port=reuse_port)
        if self.serial is not None:
            return open_bridge(self.serial.port, self.serial.baud)[1]
        return _ble(self.host, air)


def _ble(target: str, air: str | None) -> ServerTransport:
    try:
        from host.link.ble.hub import BleHub
    except ModuleNotFoundError as error:
        raise not_installed("this machine's Bluetooth", "ble", error) from error
    if air is None:
        return BleHub(target)
    try:
        from host.link.ble.bumble_backend import Adapter
    except ModuleNotFoundError as error:
        raise not_installed("Bluetooth on an air of virtual boards", "air", error) from error
    return BleHub(target, backend=Adapter(air, HOST_ADDRESS).backend())


def parse(text: str) -> Listen:
    """Raises GatewayError: not a place to listen at."""
    match = _SOCKET.fullmatch(text)
    if match is not None and int(match[4]) <= 65535:
        try:
            host = str(ipaddress.ip_address(match[2] or match[3]))
        except ValueError as error:
            raise GatewayError(f"cannot listen at {text}: {error}") from error
        return Listen(text, match[1], host, int(match[4]))
    if text == "ble" or text.startswith("ble://"):
        return Listen(text, "ble", text.removeprefix("ble").removeprefix("://"))
    if text.startswith("espnow:") and not text.startswith("espnow://"):
        found = kinds.parse("serial:" + text.removeprefix("espnow:"))
        assert isinstance(found, OnSerial)
        return Listen(text, "espnow", serial=found)
    raise GatewayError(
        f"cannot listen at {text!r}: write udp://HOST:PORT, tcp://HOST:PORT, ble, ble://NAME or "
        "espnow:PORT, which is a bridge's serial port"
    )
