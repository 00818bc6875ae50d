"""Addresses of links, such as `udp://127.0.0.1:4000` or `ble://NAME`, and names of boards."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from models.errors import TinysplitError

RADIOS = ("espnow", "ble")
TRANSPORTS = ("udp", "tcp", *RADIOS)
NODE = r"[A-Za-z0-9._-]{1,32}"  # The setting `name` in control.schema.json.
CENTRAL = "central"  # ble://central: the next stage is a central that connects (SPEC section 13).


class AddressError(TinysplitError):
    """Not an address of a link."""


@dataclass(frozen=True)
class Address:
    """A transport and where on it.

    udp and tcp: a numeric IPv4 or IPv6 host and a port (0: any, to listen on). espnow and ble: the
    six bytes of a MAC address as `aa:bb:cc:dd:ee:ff`, for ble also a name; the port is 0.
    """

    transport: str
    host: str
    port: int = 0

    def __str__(self) -> str:
        if self.transport in RADIOS:
            return f"{self.transport}://{self.host}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.transport}://{host}:{self.port}"

    @property
    def mac(self) -> bytes | None:
        """The six bytes of a MAC address; None for names."""
        return bytes.fromhex(self.host.replace(":", "")) if re.fullmatch(_MAC, self.host) else None


_MAC = r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}"
_NAME = r"[A-Za-z0-9._-]{1,29}"  # As long as a name in an advertisement can be.


def is_node(name: str) -> bool:
    """Whether a node can be called so."""
    return re.fullmatch(NODE, name) is not None


def parse(text: str) -> Address:
    """The address in `text`.

    Raises:
        AddressError: it is none.
    """
    transport, _, rest = text.partition("://")
    if transport in RADIOS:
        return _parse_radio(text, transport, rest)
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+)):(\d{1,5})", rest)
    if match is None or transport not in TRANSPORTS or int(match[3]) > 65535:
        raise AddressError(
            f"{text!r} is no address: write udp://127.0.0.1:4000, tcp://[::1]:4000, "
            "espnow://02:00:00:00:00:01 or ble://NAME"
        )
    try:
        host = str(ipaddress.ip_address(match[1] or match[2]))
    except ValueError as error:
        raise AddressError(f"{text!r} is no address: {error}") from error
    return Address(transport, host, int(match[3]))


def _parse_radio(text: str, transport: str, rest: str) -> Address:
    if re.fullmatch(_MAC, rest.lower()):
        return Address(transport, rest.lower())
    if transport == "ble" and re.fullmatch(_NAME, rest):
        return Address(transport, rest)
    wanted = "espnow://02:00:00:00:00:01" if transport == "espnow" else "ble://NAME or a MAC"
    raise AddressError(f"{text!r} is no {transport} address: write {wanted}")
