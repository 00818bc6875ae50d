"""Frames over TCP, each with its length before it, over IPv4 and IPv6.

Theory of operation. A connection is a peer: when it breaks the session over it is over, and the
client opens another. The protocol's own acknowledgements run on top (they say that a *message*
is whole at the other node, which TCP cannot), with timers that leave retransmission to TCP. A
stream whose lengths make no sense is closed, for there is no way to find the next frame. A peer
that does not read loses the frames that its buffer has no room for; it cannot hold up others.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Container
from typing import Any, Final, cast

from host.link.errors import MalformedError
from host.link.events import Address
from host.link.session import TCP_PROFILE, Profile
from host.link.streams import LengthPrefixDecoder, length_prefixed
from host.link.transport import (
    ClientTransport,
    ConnectionLostError,
    ServerTransport,
    TransportUser,
    place_of,
    transport_error,
)

SERVER_BUFFER_BYTES: Final = 1 << 20
CLOSE_WAIT_S: Final = 1.0
OPENING_S: Final = 10.0  # For a session on a connection, where somebody sweeps.
UNOPENED: Final = 256  # Connections beyond the sessions that are wanted.
BACKLOG: Final = 1024


class _Connection(asyncio.Protocol):
    """One TCP connection: cuts what arrives into frames."""

    def __init__(self, owner: TcpClient | TcpServer, user: TransportUser, peer: Address) -> None:
        self._owner = owner
        self._user = user
        self._decoder = LengthPrefixDecoder(owner.profile.mtu)
        self._broken: Exception | None = None
        self.peer = peer
        self.since_s = asyncio.get_running_loop().time()
        self.blocked = False
        self.quiet = False  # Closed on purpose: nobody needs to hear of it.
        self.transport = cast("asyncio.Transport", None)
        self.closed = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        if self.peer is None:
            self.peer = transport.get_extra_info("peername")
        self._owner.connected(self)

    def data_received(self, data: bytes) -> None:
        try:
            frames = self._decoder.feed(data)
        except MalformedError as broken:
            self._broken = broken
            self.transport.abort()
            return
        if frames:
            self._user.frames_received([(frame, self.peer) for frame in frames])

    def connection_lost(self, exc: Exception | None) -> None:
        self._owner.disconnected(self)
        if not self.closed.done():
            self.closed.set_result(None)
        if self.quiet:
            return
        place = self._owner.place
        if self._broken is not None:
            self._user.peer_lost(self.peer, ConnectionLostError(f"{place}: {self._broken}"))
        elif exc is None:
            self._user.peer_lost(self.peer, ConnectionLostError(f"{place} closed the connection"))
        else:
            self._user.peer_lost(self.peer, transport_error(exc, place))

    def pause_writing(self) -> None:
        self.blocked = True

    def resume_writing(self) -> None:
        self.blocked = False
        self._user.writable()

    def send(self, frame: bytes) -> bool:
        if self.transport.is_closing():
            return False
        self.transport.write(length_prefixed(frame))
        return True

    async def close(self) -> None:
        self.quiet = True
        self.transport.close()
        try:
            await asyncio.wait_for(asyncio.shield(self.closed), CLOSE_WAIT_S)
        except asyncio.TimeoutError:
            self.transport.abort()


class TcpClient(ClientTransport):
    """A TCP connection to one peer."""

    def __init__(self, host: str, port: int, profile: Profile = TCP_PROFILE) -> None:
        self.profile = profile
        self.peer = (host, port)
        self._connection: _Connection | None = None

    @property
    def place(self) -> str:
        return place_of("tcp", *self.peer)

    @property
    def blocked(self) -> bool:
        return self._connection is not None and self._connection.blocked

    async def open(self, user: TransportUser) -> None:
        await self.close()
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: _Connection(self, user, self.peer), *self.peer)
        except OSError as failed:
            raise transport_error(failed, self.place) from failed

    def send(self, frame: bytes, peer: Address) -> bool:
        return self._connection is not None and self._connection.send(frame)

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close()

    def connected(self, connection: _Connection) -> None:
        self._connection = connection

    def disconnected(self, connection: _Connection) -> None:
        if self._connection is connection:
            self._connection = None


class TcpServer(ServerTransport):
    """A TCP port that many peers connect to. Port 0 takes a free one; see `address`."""

    def __init__(
        self,
        host: str,
        port: int,
        profile: Profile = TCP_PROFILE,
        *,
        reuse_port: bool = False,
    ) -> None:
        """`reuse_port`: share the port with other processes that say so, too."""
        self.profile = profile
        self.address = (host, port)
        self._most = 1 << 30
        self._reuse_port = reuse_port
        self._server: asyncio.Server | None = None
        self._connections: dict[Address, _Connection] = {}

    @property
    def place(self) -> str:
        return place_of("tcp", *self.address)

    @property
    def blocked(self) -> bool:
        return False

    async def open(self, user: TransportUser) -> None:
        await self.close()
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                lambda: _Connection(self, user, None),
                *self.address,
                backlog=BACKLOG,
                reuse_port=self._reuse_port or None,
            )
        except OSError as failed:
            raise transport_error(failed, self.place) from failed
        name: Any = self._server.sockets[0].getsockname()
        self.address = (name[0], name[1])

    def send(self, frame: bytes, peer: Address) -> bool:
        connection = self._connections.get(peer)
        if connection is None:
            return False
        if connection.transport.get_write_buffer_size() > SERVER_BUFFER_BYTES:
            return False
        return connection.send(frame)

    async def close(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()
        await asyncio.gather(*(one.close() for one in list(self._connections.values())))

    def limit(self, peers: int) -> None:
        self._most = peers + UNOPENED

    def refuse_more(self) -> None:
        if self._server is not None:
            self._server.close()

    def sweep(self, known: Container[Address]) -> None:
        oldest = asyncio.get_running_loop().time() - OPENING_S
        for peer, connection in list(self._connections.items()):
            if peer in known:
                connection.since_s = math.inf
            elif connection.since_s < oldest:
                connection.transport.abort()
            elif connection.since_s == math.inf:  # Its session ended; it may open another one.
                connection.since_s = oldest + OPENING_S

    def connected(self, connection: _Connection) -> None:
        if len(self._connections) >= self._most:
            connection.quiet = True
            connection.transport.abort()
            return
        self._connections[connection.peer] = connection

    def disconnected(self, connection: _Connection) -> None:
        if self._connections.get(connection.peer) is connection:
            del self._connections[connection.peer]
