"""Under which names a listener of HTTP is called; others are answered 421. Pure.

Theory of operation. A page that somebody opens elsewhere may have its own name resolved to this
machine's address a moment later (DNS rebinding), and the browser then lets it read what is here as
if it were its own. The name stays in the request's Host, so what does not name us is not for us. An
address in Host cannot be rebound: the page itself came from there.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection

_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]{2,45})\]|([A-Za-z0-9._-]{1,253}))(?::[0-9]{0,5})?")


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def same(name: str) -> str:
    """A name as it is compared: without case and the root's dot."""
    return name.lower().rstrip(".")


def is_ours(
    header: str, listens_on: str, told: Collection[str], machine: Collection[str] = ()
) -> bool:
    """Whether a request with this Host (RFC 9110 7.2: a name or an address, and a port) is for us.

    Args:
        listens_on: the address of the socket that it came to.
        told: further names and addresses, as `same` gives them.
        machine: names of this machine, likewise; they count if all its addresses are listened on.
    """
    match = _HOST.fullmatch(header)
    if match is None:
        return False
    host = same(match[1] or match[2])
    here = ipaddress.ip_address(listens_on.partition("%")[0])
    address = _address(host)
    if host in told:
        return True
    if address is None:
        local = here.is_loopback or here.is_unspecified
        return (local and host == "localhost") or (here.is_unspecified and host in machine)
    if here.is_unspecified:
        return True
    return address == here or (here.is_loopback and address.is_loopback)
