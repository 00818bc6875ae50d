"""What carries frames: the contract between a driver and a real link.

Theory of operation. A `Transport` moves whole frames to and from named peers and knows nothing
of sessions. It never raises from `send`: like a radio it may lose a frame, and the protocol
above recovers. What a person must hear of is a `TransportError` with one plain line: raised by
`open`, or told through `TransportUser.peer_lost` and `link_error` later. All calls happen in the
thread of the running asyncio loop.
"""

from __future__ import annotations

import errno
import socket
from abc import ABC, abstractmethod
from collections.abc import Collection, Container
from typing import Protocol

from host.link.events import Address
from host.link.session import Node, Profile
from models.errors import TinysplitError


class TransportError(TinysplitError):
    """The link below the protocol failed."""


class AddressInUseError(TransportError):
    """Somebody else listens on this port."""


class ConnectRefusedError(TransportError):
    """The machine answers, and nobody listens on that port."""


class UnreachableError(TransportError):
    """There is no way to that address, or it has no meaning here."""


class ConnectionLostError(TransportError):
    """A connection that was open broke."""


class NotAllowedError(TransportError):
    """The operating system does not permit it."""


_BY_ERRNO: dict[int, tuple[type[TransportError], str]] = {
    errno.EADDRINUSE: (AddressInUseError, "is in use; choose another port or stop the other user"),
    errno.EADDRNOTAVAIL: (UnreachableError, "is not an address of this machine"),
    errno.ECONNREFUSED: (ConnectRefusedError, "refused the connection; is the peer running?"),
    errno.ENETUNREACH: (UnreachableError, "cannot be reached: no route to that network"),
    errno.EHOSTUNREACH: (UnreachableError, "cannot be reached: no route to that host"),
    errno.EAFNOSUPPORT: (UnreachableError, "cannot be reached: that kind of address is off here"),
    errno.ETIMEDOUT: (UnreachableError, "did not answer in time"),
    errno.ECONNRESET: (ConnectionLostError, "closed the connection"),
    errno.ECONNABORTED: (ConnectionLostError, "closed the connection"),
    errno.EPIPE: (ConnectionLostError, "closed the connection"),
    errno.EACCES: (NotAllowedError, "may not be used: permission denied"),
    errno.EPERM: (NotAllowedError, "may not be used: permission denied"),
}


def transport_error(cause: BaseException, place: str) -> TransportError:
    """The named error for what the operating system said about `place`."""
    if isinstance(cause, TransportError):
        return cause
    if isinstance(cause, socket.gaierror):
        return UnreachableError(f"{place} is not a known address")
    number = cause.errno if isinstance(cause, OSError) else None
    kind, text = _BY_ERRNO.get(number or 0, (TransportError, f"failed: {cause}"))
    return kind(f"{place} {text}")


class TransportUser(Protocol):
    """Who gets what a transport brings."""

    def frames_received(self, batch: list[tuple[bytes, Address]]) -> None:
        """Whole frames that came together, each in a buffer of its own, with their senders."""

    def peer_lost(self, peer: Address, error: TransportError) -> None:
        """The connection to this peer broke; frames to it go nowhere until `open` again."""

    def link_error(self, error: TransportError) -> None:
        """Something that may pass, such as an ICMP refusal while the peer restarts."""

    def writable(self) -> None:
        """`blocked` turned false."""


class Transport(ABC):
    """One end of a real link.

    `profile` holds what this kind of link needs (frame size, window, timers).
    """

    profile: Profile

    @property
    @abstractmethod
    def place(self) -> str:
        """What a person calls this link, such as `udp 127.0.0.1:4242`."""

    @property
    @abstractmethod
    def blocked(self) -> bool:
        """The link takes no more for now; the user waits for `writable`."""

    @abstractmethod
    async def open(self, user: TransportUser) -> None:
        """Be ready to send and receive. May be called again after `peer_lost`.

        Raises a TransportError. The caller puts a deadline on it.
        """

    @abstractmethod
    def send(self, frame: bytes, peer: Address) -> bool:
        """Hand a frame of at most `profile.mtu` bytes to the link; False if it was lost here."""

    @abstractmethod
    async def close(self) -> None:
        """Send what is buffered, briefly, and let go. Safe to call twice."""


class ClientTransport(Transport):
    """A link to one peer, whose name is `peer`."""

    peer: Address


class ServerTransport(Transport):
    """A link that many peers call. `address` is (host, port) once it is open."""

    address: tuple[str, int]

    def welcome(self, nodes: Collection[Node]) -> None:
        """Whom peers find here, for links on which it is this end that looks for them."""

    def limit(self, peers: int) -> None:
        """So many peers are wanted at most; connections beyond that may be refused."""

    def refuse_more(self) -> None:
        """Take no new peers where the link below can refuse them; those that are there stay."""

    def sweep(self, known: Container[Address]) -> None:
        """Called once a second: let go of what peers hold here that never became `known`."""


def not_installed(what: str, extra: str, error: ModuleNotFoundError) -> TransportError:
    """What to install when an optional package is missing."""
    lacks = f"{what} needs a package that is not installed ({error.name})"
    return TransportError(
        f"{lacks}: pip install 'tinysplit[{extra}]' (in its checkout: pip install '.[{extra}]')"
    )


def place_of(kind: str, host: str, port: int) -> str:
    """`udp 127.0.0.1:4242`, `tcp [::1]:4242`."""
    return f"{kind} [{host}]:{port}" if ":" in host else f"{kind} {host}:{port}"
