"""Frames as UDP datagrams, over IPv4 and IPv6.

Theory of operation. One frame is one datagram of at most 1,452 bytes, which no 1500-byte path
fragments. The client's socket is connected, so that the kernel filters foreign senders and
reports an ICMP refusal; that is a hint (`link_error`), not an end, because the peer may just
be starting. A full send buffer blocks; a full receive buffer loses frames, as radios do.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from typing import Any, Final, cast

from host.link.events import Address
from host.link.session import UDP_PROFILE, Profile
from host.link.transport import (
    ClientTransport,
    ServerTransport,
    Transport,
    TransportUser,
    place_of,
    transport_error,
)

RECEIVE_BUFFER_BYTES: Final = 1 << 20
MOST_AT_ONCE: Final = 64
CAN_DRAIN: Final = sys.platform != "win32"  # There the loop has its own read under way.


class _Protocol(asyncio.DatagramProtocol):
    def __init__(self, owner: _Udp, user: TransportUser, peer: Address) -> None:
        self._owner = owner
        self._user = user
        self._peer = peer

    def datagram_received(self, data: bytes, addr: Any) -> None:
        batch = [(data, addr), *self._owner.drain()]
        if self._peer is not None:
            batch = [(frame, self._peer) for frame, _ in batch]
        self._user.frames_received(batch)

    def error_received(self, exc: Exception) -> None:
        self._user.link_error(transport_error(exc, self._owner.place))

    def pause_writing(self) -> None:
        self._owner.is_blocked = True

    def resume_writing(self) -> None:
        self._owner.is_blocked = False
        self._user.writable()


class _Udp(Transport):
    def __init__(self, host: str, port: int, profile: Profile) -> None:
        self.profile = profile
        self.is_blocked = False
        self._host = host
        self._port = port
        self.reuse_port = False
        self._transport: asyncio.DatagramTransport | None = None
        self._sock: socket.socket | None = None

    @property
    def place(self) -> str:
        return place_of("udp", self._host, self._port)

    @property
    def blocked(self) -> bool:
        return self.is_blocked

    async def _start(self, user: TransportUser, peer: Address, *, listen: bool) -> None:
        await self.close()
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_DGRAM)
            sock = self._socket(found[0][0], found[0][4], listen, self.reuse_port)
            try:
                self._transport, _ = await loop.create_datagram_endpoint(
                    lambda: _Protocol(self, user, peer), sock=sock
                )
            except BaseException:
                sock.close()
                raise
        except OSError as failed:
            raise transport_error(failed, self.place) from failed
        self._sock = sock
        self.is_blocked = False

    @staticmethod
    def _socket(family: int, address: Any, listen: bool, reuse_port: bool) -> socket.socket:
        sock = socket.socket(family, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
            if reuse_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if listen:
                sock.bind(address)
            else:
                sock.connect(address)
        except OSError:
            sock.close()
            raise
        return sock

    def drain(self) -> list[tuple[bytes, Any]]:
        """What else waits in the socket: a burst costs one round of the loop, not one each."""
        batch: list[tuple[bytes, Any]] = []
        if self._sock is None or not CAN_DRAIN:
            return batch
        with contextlib.suppress(OSError):
            while len(batch) < MOST_AT_ONCE:
                batch.append(self._sock.recvfrom(self.profile.mtu + 1))
        return batch

    async def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
            self._transport = self._sock = None
            await asyncio.sleep(0)


class UdpClient(_Udp, ClientTransport):
    """A UDP link to one peer."""

    def __init__(self, host: str, port: int, profile: Profile = UDP_PROFILE) -> None:
        super().__init__(host, port, profile)
        self.peer = (host, port)

    async def open(self, user: TransportUser) -> None:
        await self._start(user, self.peer, listen=False)

    def send(self, frame: bytes, peer: Address) -> bool:
        if self._transport is None or self._transport.is_closing():
            return False
        self._transport.sendto(frame)
        return True


class UdpServer(_Udp, ServerTransport):
    """A UDP port that many peers send to. Port 0 takes a free one; see `address`."""

    def __init__(
        self,
        host: str,
        port: int,
        profile: Profile = UDP_PROFILE,
        *,
        reuse_port: bool = False,
    ) -> None:
        """`reuse_port`: share the port with other processes that say so, too."""
        super().__init__(host, port, profile)
        self.address = (host, port)
        self.reuse_port = reuse_port

    @property
    def place(self) -> str:
        return place_of("udp", *self.address)

    async def open(self, user: TransportUser) -> None:
        await self._start(user, None, listen=True)
        name = cast("Any", self._transport).get_extra_info("sockname")
        self.address = (name[0], name[1])

    def send(self, frame: bytes, peer: Address) -> bool:
        if self._transport is None or self._transport.is_closing():
            return False
        self._transport.sendto(frame, peer)
        return True
