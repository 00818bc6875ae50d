"""What `--listen` may say, and the transport for it.

udp://HOST:PORT, tcp://HOST:PORT   sockets; [::] and [::1] are IPv6
ble, ble://NAME                    this machine's Bluetooth, which connects to heads in range
espnow:PORT[@BAUD]                 a bridge board on a serial port, which lends its radio
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass

from host.boards import kinds
from host.boards.bridge import open_bridge
from host.boards.kinds import OnSerial
from host.gateway.bundles import GatewayError
from host.link.tcp import TcpServer
from host.link.transport import ServerTransport
from host.link.udp import UdpServer

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
        raise GatewayError("not yet")


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


Opener = Callable[[], ServerTransport]
