"""A radio of somebody else's: frames through a bridge on a serial port (SPEC sections 8 and 9.1).

Theory of operation. Each frame travels as a FORWARD that names the radio peer. What the radio has
not taken stays below what the bridge has room for (CREDIT); the rest waits here and blocks the
protocol above. A thread reads the port and another one writes it, because serial ports have no
asyncio that works on every system. A port that vanishes, as USB ports of resetting boards do, is
opened again and again; frames are lost meanwhile, as in any radio, and sessions go on where they
were if it comes back within their idle timeout.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections import deque
from typing import Any, Final

import serial

from host.link.events import Address
from host.link.frames import decode_credit, decode_forward, encode_credit, encode_forward
from host.link.session import Profile
from host.link.streams import On, WireDecoder, wire_encode
from host.link.transport import (
    ClientTransport,
    ConnectionLostError,
    NotAllowedError,
    ServerTransport,
    TransportError,
    TransportUser,
    UnreachableError,
)
from host.serial_port import why_unusable

BAUD: Final = 115_200
FORWARD_BYTES: Final = 19  # Around a frame at most.
ANSWER_TIMEOUT_S: Final = 5.0
ASK_S: Final = 1.0
FULL_S: Final = 0.1
REOPEN_S: Final = 0.2
MAX_WAITING: Final = 256  # Frames here; a window of the protocol is far less.
_READ_S: Final = 0.2
_WRITE_S: Final = 2.0

_log = logging.getLogger(__name__)


def _unusable(port: str, error: Exception) -> TransportError:
    code, why = why_unusable(error, "the bridge")
    kind = NotAllowedError if code == "not_allowed" else UnreachableError
    return kind(f"cannot use the bridge on {port}: {why}")


class _Wire:
    """An open port with its two threads. What comes goes to `read`, a failure to `lost`."""

    def __init__(self, port: str, baud: int, read: Any, lost: Any) -> None:
        self._loop = asyncio.get_running_loop()
        self._read = read
        self._lost = lost
        self._out: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._ending = False
        try:
            self._serial = serial.Serial(
                port, baud, timeout=_READ_S, write_timeout=_WRITE_S, exclusive=True
            )
        except (OSError, ValueError) as error:
            raise _unusable(port, error) from error
        self._threads = [
            threading.Thread(target=work, name=f"bridge {port}", daemon=True)
            for work in (self._reader, self._writer)
        ]
        for thread in self._threads:
            thread.start()

    def write(self, data: bytes) -> None:
        self._out.put(data)

    def _tell(self, what: Any, *arguments: Any) -> None:
        with contextlib.suppress(RuntimeError):  # The loop has ended.
            self._loop.call_soon_threadsafe(what, *arguments)

    def _failed(self, error: Exception) -> None:
        if not self._ending:
            self._ending = True
            self._tell(self._lost, error)

    def _reader(self) -> None:
        try:
            while not self._ending:
                data = self._serial.read(self._serial.in_waiting or 1)
                if data:
                    self._tell(self._read, data)
        except (OSError, TypeError, AttributeError) as error:  # pyserial, when a port vanishes.
            self._failed(error)

    def _writer(self) -> None:
        try:
            while (data := self._out.get()) is not None:
                self._serial.write(data)
        except (OSError, TypeError, AttributeError) as error:
            self._failed(error)

    def close(self) -> None:
        """End the threads, which takes up to 0.2 s, and let go of the port. May be called twice."""
        self._ending = True
        self._out.put(None)
        with contextlib.suppress(OSError, AttributeError):
            self._serial.cancel_write()
        for thread in self._threads:
            thread.join(_WRITE_S)
        with contextlib.suppress(OSError):
            self._serial.close()


class BridgeServer(ServerTransport):
    """The radio behind the bridge on `port`, for peers that call. Peers are the bytes of radio
    addresses.

    `profile` is that of the radio's link. `address` is the port and 0.
    """

    def __init__(self, port: str, profile: Profile, *, baud: int = BAUD) -> None:
        self.profile = profile
        self.address = (port, 0)
        self._port = port
        self._baud = baud
        self._user: TransportUser | None = None
        self._wire: _Wire | None = None
        self._reopening: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._answered = asyncio.Event()
        self._waiting: deque[bytes] = deque()
        self._sent = self._over = self._window = 0
        self._full_since = self._asked = 0.0
        self._text = ""

    @property
    def place(self) -> str:
        return f"the bridge on {self._port}"

    @property
    def blocked(self) -> bool:
        return bool(self._waiting)

    async def open(self, user: TransportUser) -> None:
        """As Transport's. The bridge is asked until it answers: it may be starting.

        Raises a TransportError: no port, no permission, busy, or no bridge on it.
        """
        await self.close()
        self._user = user
        self._answered = asyncio.Event()
        self._connect()
        try:
            await asyncio.wait_for(self._answered.wait(), ANSWER_TIMEOUT_S)
        except asyncio.TimeoutError:
            await self.close()
            said = f"; it says {self._text[-60:]!r}" if self._text else ""
            raise UnreachableError(
                f"no bridge answers on {self._port}{said}; is it the right port, and is the "
                "board's role bridge?"
            ) from None

    def _connect(self) -> None:
        self._decoder = WireDecoder(self.profile.mtu + FORWARD_BYTES)
        self._window = 0
        self._wire = _Wire(self._port, self._baud, self._read, self._lost)
        self._ask()
        self._tick()

    def _ask(self) -> None:
        self._asked = time.monotonic()
        self._write(encode_credit(0, self._sent))

    def _write(self, frame: bytes) -> None:
        if self._wire is not None:
            self._wire.write(wire_encode(frame))

    def _tick(self) -> None:
        """Ask when it is time to."""
        now = time.monotonic()
        full = self._waiting and now - max(self._full_since, self._asked) >= FULL_S
        if full or now - self._asked >= (ASK_S if self._window else FULL_S):
            self._ask()
        self._timer = asyncio.get_running_loop().call_later(FULL_S / 2, self._tick)

    def _room(self) -> int:
        return self._window - (self._sent - self._over & 0xFFFF)

    def send(self, frame: bytes, peer: Address) -> bool:
        if self._wire is None or len(self._waiting) >= MAX_WAITING:
            return False
        if not self._waiting:
            self._full_since = time.monotonic()
        self._waiting.append(encode_forward(peer, frame))
        self._pump()
        return True

    def _pump(self) -> None:
        while self._waiting and self._room() > 0:
            self._sent = self._sent + 1 & 0xFFFF
            self._write(self._waiting.popleft())
            self._full_since = time.monotonic()

    def _read(self, data: bytes) -> None:
        assert self._user is not None
        batch: list[tuple[bytes, Address]] = []
        for kind, piece in self._decoder.feed(data):
            if kind is On.TEXT:
                self._text = (self._text + piece.decode("utf-8", "replace"))[-200:]
                continue
            forward = decode_forward(piece)
            credit = decode_credit(piece)
            if forward is not None:
                batch.append((forward[1], forward[0]))
            elif credit is not None and credit[0] > 0:
                self._credited(*credit)
        if batch:
            self._user.frames_received(batch)

    def _credited(self, window: int, count: int) -> None:
        assert self._user is not None
        self._window, self._over = window, count
        self._answered.set()
        blocked = self.blocked
        self._pump()
        if blocked and not self.blocked:
            self._user.writable()

    def _lost(self, error: Exception) -> None:
        assert self._user is not None
        problem = ConnectionLostError(f"the bridge on {self._port} is gone: unplugged or reset")
        _log.warning("%s", problem)
        self._waiting.clear()
        self._stop()
        self._user.link_error(problem)
        self._reopening = asyncio.get_running_loop().create_task(self._reopen())

    async def _reopen(self) -> None:
        while self._wire is None:
            await asyncio.sleep(REOPEN_S)
            with contextlib.suppress(TransportError):
                self._connect()
        _log.warning("the bridge on %s is back", self._port)
        if self._user is not None:
            self._user.writable()

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.close()

    async def close(self) -> None:
        if self._reopening is not None:
            self._reopening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reopening
            self._reopening = None
        self._stop()


class SharedBridge:
    """One bridge for sessions to many boards; open while one of its clients is."""

    def __init__(self, bridge: BridgeServer) -> None:
        self._bridge = bridge
        self._users: dict[Address, TransportUser] = {}
        self._opening = asyncio.Lock()

    def client(self, peer: bytes) -> BridgeClient:
        """The way to the board at a radio address."""
        return BridgeClient(self, self._bridge, peer)

    async def join(self, peer: Address, user: TransportUser) -> None:
        """Frames of `peer` go to `user` from now on. Raises TransportError."""
        async with self._opening:
            if not self._users:
                await self._bridge.open(self)
            self._users[peer] = user

    async def leave(self, peer: Address) -> None:
        """The opposite; the last one closes the port."""
        async with self._opening:
            if self._users.pop(peer, None) is not None and not self._users:
                await self._bridge.close()

    def frames_received(self, batch: list[tuple[bytes, Address]]) -> None:
        for peer in {peer for _, peer in batch}:
            if peer in self._users:
                own = [(frame, source) for frame, source in batch if source == peer]
                self._users[peer].frames_received(own)

    def peer_lost(self, peer: Address, error: TransportError) -> None:
        if peer in self._users:
            self._users[peer].peer_lost(peer, error)

    def link_error(self, error: TransportError) -> None:
        for user in list(self._users.values()):
            user.link_error(error)

    def writable(self) -> None:
        for user in list(self._users.values()):
            user.writable()


class BridgeClient(ClientTransport):
    """The way to one board through a bridge, to open sessions to it."""

    def __init__(self, shared: SharedBridge, bridge: BridgeServer, peer: bytes) -> None:
        self.profile = bridge.profile
        self.peer = peer
        self._shared = shared
        self._bridge = bridge

    @property
    def place(self) -> str:
        return f"espnow {self.peer.hex(':')} through {self._bridge.place}"

    @property
    def blocked(self) -> bool:
        return self._bridge.blocked

    async def open(self, user: TransportUser) -> None:
        await self._shared.join(self.peer, user)

    def send(self, frame: bytes, peer: Address) -> bool:
        return self._bridge.send(frame, peer)

    async def close(self) -> None:
        await self._shared.leave(self.peer)
