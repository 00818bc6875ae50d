"""The medium in real time: a server that radios of several processes share, and its client.

Theory of operation. The ether's clock is the loop's; every frame is submitted to the model at the
moment it arrives here, and what the model says happens at a time is told when that time has come.
The model is advanced by its own times, never by when the loop woke: frames that wait in a
station's queue follow each other as they would in the air, however busy the machine is.

Messages have a u16 length (little-endian) and a kind before them; see the constants. Only this
machine can connect.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import struct
from collections.abc import Callable
from types import TracebackType
from typing import Final

from host.link.espnow import frames
from host.link.espnow.medium import CHANNELS, Medium, Received, Sent, Tally
from host.link.streams import LengthPrefixDecoder, length_prefixed
from host.link.transport import (
    ConnectionLostError,
    TransportError,
    UnreachableError,
    transport_error,
)
from models.errors import TinysplitError
from partitioner.cost.wifi import RATES, Rate

JOIN: Final = 1  # To the ether: 6 bytes of MAC, u8 channel.
SUBMIT: Final = 2  # To the ether: u32 token, u8 index of the rate, the frame with FCS.
WELCOME: Final = 3  # To a radio, nothing more.
REFUSED: Final = 4  # To a radio: why, UTF-8. The connection ends.
RECEIVED: Final = 5  # To a radio: a frame with FCS.
SENT: Final = 6  # To a radio: u32 token, u8 acknowledged, u8 attempts, u32 us it took.

MAX_QUEUED: Final = 64  # Frames of one radio; one that does not wait for SENT is thrown out.
_LONGEST: Final = 5 + 1 + frames.LONGEST_FRAME
_RATES: Final = tuple(RATES.values())
_SUBMIT: Final = struct.Struct("<IB")
_SENT: Final = struct.Struct("<IBBI")
_ANSWER_TIMEOUT_S: Final = 5.0
_SCHEME: Final = "ether://"


class _Client(asyncio.Protocol):
    """The ether's end of a radio's connection."""

    def __init__(self, ether: Ether) -> None:
        self._ether = ether
        self._decoder = LengthPrefixDecoder(_LONGEST)
        self.mac: bytes | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._ether.clients.add(self)

    def data_received(self, data: bytes) -> None:
        try:
            for message in self._decoder.feed(data):
                self._ether.handle(self, message)
        except (TinysplitError, struct.error) as error:
            self.refuse(str(error))

    def connection_lost(self, exc: Exception | None) -> None:
        self._ether.clients.discard(self)
        self._ether.gone(self)

    def tell(self, kind: int, content: bytes = b"") -> None:
        if not self.transport.is_closing():
            self.transport.write(length_prefixed(bytes([kind]) + content))

    def refuse(self, why: str) -> None:
        self.tell(REFUSED, why.encode())
        self.transport.close()


class Ether:
    """Hosts a `Medium` for radios of this machine; an asynchronous context manager.

    `place` is what radios connect to, once entered. Its times are exact to a few hundred
    microseconds in a loop whose selector is (see host.background.Background).
    """

    def __init__(self, medium: Medium, *, port: int = 0) -> None:
        self._medium = medium
        self._port = port
        self.place = ""
        self.clients: set[_Client] = set()
        self._radios: dict[bytes, _Client] = {}
        self._server: asyncio.Server | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Ether:
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(lambda: _Client(self), "127.0.0.1", self._port)
        except OSError as error:
            raise transport_error(error, f"port {self._port} for the ether") from error
        self.place = f"{_SCHEME}127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._server is not None:
            self._server.close()
        for client in list(self.clients):
            client.transport.abort()
        await asyncio.sleep(0)

    @property
    def tally(self) -> Tally:
        return self._medium.tally

    def handle(self, client: _Client, message: bytes) -> None:
        kind, content = message[0], message[1:]
        if kind == JOIN and client.mac is None:
            self._join(client, content)
        elif kind == SUBMIT and client.mac is not None:
            self._submit(client, client.mac, content)
        else:
            raise TransportError("not a message of the ether's")

    def _join(self, client: _Client, content: bytes) -> None:
        if len(content) != 7 or content[6] not in CHANNELS:
            raise TransportError("not a message of the ether's")
        mac = content[:6]
        if mac in self._radios:
            raise TransportError(f"another radio has the address {mac.hex(':')}")
        self._radios[mac] = client
        client.mac = mac
        self._advance()
        self._medium.join(mac, content[6])
        client.tell(WELCOME)

    def _submit(self, client: _Client, mac: bytes, content: bytes) -> None:
        token, index = _SUBMIT.unpack_from(content)
        frame = content[_SUBMIT.size :]
        whole = index < len(_RATES) and frames.fcs_holds(frame)
        if not whole or frames.source(frame) != mac or len(frame) > frames.LONGEST_FRAME:
            raise TransportError("not a frame of this radio")
        now_us = self._now_us()  # Once: the medium must have come to when the frame is submitted.
        self._advance(now_us)
        if self._medium.queued(mac) >= MAX_QUEUED:
            raise TransportError("too many frames at once")
        self._medium.submit(mac, frame, _RATES[index], now_us, token)
        self._schedule()

    def gone(self, client: _Client) -> None:
        if client.mac is not None:
            self._radios.pop(client.mac, None)
            self._medium.leave(client.mac)

    @staticmethod
    def _now_us() -> float:
        return asyncio.get_running_loop().time() * 1e6

    def _advance(self, now_us: float | None = None) -> None:
        for one in self._medium.advance(self._now_us() if now_us is None else now_us):
            client = self._radios.get(one.station)
            if client is None:
                continue
            if isinstance(one, Received):
                client.tell(RECEIVED, one.frame)
            elif isinstance(one, Sent):
                waited = min(round(one.waited_us), 0xFFFF_FFFF)
                content = _SENT.pack(one.token, one.acknowledged, one.attempts, waited)
                client.tell(SENT, content)

    def _schedule(self) -> None:
        when = self._medium.next_us()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if when != math.inf:
            self._timer = asyncio.get_running_loop().call_at(when / 1e6, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._advance()
        self._schedule()


class Station(asyncio.Protocol):
    """A radio's connection to an ether.

    Args:
        received: called with every frame.
        sent: called with token, acknowledged, attempts and microseconds of every `submit`.
        lost: called with a TransportError when the connection breaks; not after `close`.
    """

    def __init__(
        self,
        received: Callable[[bytes], None],
        sent: Callable[[int, bool, int, int], None],
        lost: Callable[[TransportError], None],
    ) -> None:
        self._received = received
        self._sent = sent
        self._lost = lost
        self._decoder = LengthPrefixDecoder(_LONGEST)
        self._place = ""
        self._refusal: TransportError | None = None
        self._transport: asyncio.Transport | None = None
        self._joined: asyncio.Future[None] | None = None

    async def join(self, place: str, mac: bytes, channel: int) -> None:
        """Connect, and be a station of that address on that channel.

        Raises:
            TransportError: nobody there, no ether, or the address is taken.
        """
        self._place = place
        host, _, port = place.removeprefix(_SCHEME).rpartition(":")
        if not place.startswith(_SCHEME) or not port.isdecimal() or int(port) > 65535:
            raise UnreachableError(f"{place!r} is no ether: it is like {_SCHEME}127.0.0.1:4000")
        loop = asyncio.get_running_loop()
        self._joined = loop.create_future()
        try:
            await loop.create_connection(lambda: self, host, int(port))
        except OSError as error:
            raise transport_error(error, f"the ether at {place}") from error
        assert self._transport is not None
        self._transport.write(length_prefixed(bytes([JOIN]) + mac + bytes([channel])))
        try:
            await asyncio.wait_for(self._joined, _ANSWER_TIMEOUT_S)
        except asyncio.TimeoutError:
            self.close()
            raise UnreachableError(f"{place} does not answer as an ether does") from None

    def submit(self, token: int, rate: Rate, frame: bytes) -> None:
        """Hand a frame to the medium. Raises ConnectionLostError if there is no connection."""
        if self._transport is None or self._transport.is_closing():
            raise self._gone()
        content = _SUBMIT.pack(token, _RATES.index(rate)) + frame
        self._transport.write(length_prefixed(bytes([SUBMIT]) + content))

    def close(self) -> None:
        """Leave the medium. Safe to call twice."""
        self._lost = lambda _: None
        if self._transport is not None:
            self._transport.abort()

    def _gone(self) -> TransportError:
        return self._refusal or ConnectionLostError(f"the ether at {self._place} is gone")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        assert self._joined is not None
        if not self._joined.done():
            self._joined.set_exception(self._gone())
        else:
            self._lost(self._gone())

    def data_received(self, data: bytes) -> None:
        assert self._joined is not None
        assert self._transport is not None
        try:
            messages = self._decoder.feed(data)
        except TinysplitError:
            self._transport.abort()
            return
        for message in messages:
            kind, content = message[0], message[1:]
            if kind == WELCOME and not self._joined.done():
                self._joined.set_result(None)
            elif kind == REFUSED:
                why = content.decode("utf-8", "replace")
                self._refusal = TransportError(f"the ether at {self._place}: {why}")
            elif kind == RECEIVED:
                self._received(content)
            elif kind == SENT:
                with contextlib.suppress(struct.error):
                    token, acknowledged, attempts, us = _SENT.unpack(content)
                    self._sent(token, bool(acknowledged), attempts, us)
