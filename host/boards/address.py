"""Addresses of links: `udp://127.0.0.1:4000`, `tcp://[::1]:4000`."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from models.errors import TinysplitError

TRANSPORTS = ("udp", "tcp")


class AddressError(TinysplitError):
    """Not an address of a link."""


@dataclass(frozen=True)
class Address:
    """A transport, a numeric IPv4 or IPv6 host, and a port (0: any, to listen on)."""

    transport: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.transport}://{host}:{self.port}"


def parse(text: str) -> Address:
    """The address in `text`.

    Raises:
        AddressError: it is none.
    """
    match = re.fullmatch(r"(\w+)://(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+)):(\d{1,5})", text)
    if match is None or match[1] not in TRANSPORTS or int(match[4]) > 65535:
        raise AddressError(
            f"{text!r} is no address: write udp://127.0.0.1:4000 or tcp://[::1]:4000"
        )
    try:
        host = str(ipaddress.ip_address(match[2] or match[3]))
    except ValueError as error:
        raise AddressError(f"{text!r} is no address: {error}") from error
    return Address(match[1], host, int(match[4]))
