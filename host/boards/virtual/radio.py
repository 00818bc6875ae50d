"""Radios of virtual boards, and the air between them: the contract.

Theory of operation. A virtual board's C core talks to a radio through a *packet port*: one end of
an AF_UNIX socket pair that keeps packets apart. The other end is a `Radio`, written in Python,
which runs in an asyncio loop in a thread of the board's process. It hands frames to the *air*,
which whoever started the boards hosts (`tinysplit run`): the shared medium of ESP-NOW, Bluetooth's
controllers. The pair's buffers are small, so that a radio whose queue is full blocks the core, as
a real one does.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, ClassVar

from host.background import Background
from host.boards.address import Address
from host.link.session import Node, Profile
from host.link.transport import ServerTransport, TransportError

MAX_ADDRESS_BYTES = 18  # TS_ADDR_BYTES of firmware/core.
_LONGEST_PACKET = 1 + MAX_ADDRESS_BYTES + 16384
_SMALLEST_BUFFER = 1  # The kernel raises it to its own minimum: two to four frames.


@dataclass(frozen=True)
class RadioSetup:
    """What a radio is started with.

    `own` is the radio's address (the setting `listen`), `next` the next stage's or None, `air`
    where the air is (its `place`), `settings` the board's settings, of which a radio takes those
    that are its own, `node` who the board says it is.
    """

    own: Address
    next: Address | None
    air: str
    name: str = "board"
    settings: Mapping[str, Any] = field(default_factory=dict)
    node: Node = field(default_factory=Node.host)


class Radio(ABC):
    """The radio of one virtual board.

    A subclass has its `transport` and implements `_open`, `_send`, `_close`, `peer` and `describe`;
    it calls `_received` for every frame that arrives. All but the constructor, `peer` and
    `describe` run in the radio's own loop. It sets `profile` in its constructor: frame size,
    window, reordering, shortest timeout and pace, which the core takes as they are.

    Use: `start`, hand `fileno()` to the core, `close`. `start` raises TransportError with one plain
    line if the air cannot be had; what fails later is counted and stands in `describe`, for a
    radio never ends its board.
    """

    transport: ClassVar[str]
    profile: Profile

    def __init__(self, setup: RadioSetup) -> None:
        self.setup = setup
        self.address = setup.own
        self.dropped = 0  # Frames for the core that it had no room for.
        self.problem: str | None = None  # The last failure of `_send`.
        self._core, self._socket = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._core.setblocking(False)
        self._socket.setblocking(False)
        self._core.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SMALLEST_BUFFER)
        self._background: Background | None = None
        self._reader: asyncio.Task[None] | None = None

    @abstractmethod
    def peer(self, address: Address) -> bytes:
        """The 1 to 18 bytes by which core and radio name the peer at `address`."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What was negotiated and what happened, as `info` and `stats` show it; no secrets.

        Called from another thread than the loop's.
        """

    @abstractmethod
    async def _open(self) -> None:
        """Reach the air and be ready to receive. Raises TransportError."""

    @abstractmethod
    async def _send(self, to: bytes, frame: bytes) -> None:
        """Take a frame; return when there is room for another. May raise TransportError: lost."""

    @abstractmethod
    async def _close(self) -> None:
        """Let go of the air. Safe after a failed `_open`."""

    def _received(self, source: bytes, frame: bytes) -> None:
        """Hand a frame from a peer to the core; a core that does not keep up loses it."""
        try:
            self._socket.send(bytes([len(source)]) + source + frame)
        except (BlockingIOError, ConnectionError):
            self.dropped += 1

    def fileno(self) -> int:
        """The core's end of the packet port; valid until `close`."""
        return self._core.fileno()

    def start(self) -> None:
        """Start the thread and open the radio."""
        background = Background()
        background.__enter__()
        self._background = background
        try:
            background.run(self._begin())
        except BaseException:
            self.close()
            raise

    async def _begin(self) -> None:
        await self._open()
        self._reader = asyncio.get_running_loop().create_task(self._read())

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        while packet := await loop.sock_recv(self._socket, _LONGEST_PACKET):
            size = packet[0]
            try:
                await self._send(packet[1 : 1 + size], packet[1 + size :])
            except TransportError as error:
                self.problem = str(error)

    async def _end(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reader
        await self._close()

    def close(self) -> None:
        """Close the radio and end its thread. Safe to call twice."""
        background, self._background = self._background, None
        if background is not None:
            try:
                background.run(self._end())
            finally:
                background.__exit__(None, None, None)
        self._core.close()
        self._socket.close()


@dataclass(frozen=True)
class AirCounts:
    """What a shared medium has done so far, repetitions included; None: it does not tell."""

    packets: int
    lost: int
    bytes: int | None = None
    busy_us: int | None = None


class Air(ABC):
    """What the radios of one transport share, hosted for a chain of virtual boards.

    An asynchronous context manager; entered, it is at `place`, which boards get as the setting
    `air`. Raises TransportError on entering.
    """

    place: str

    @abstractmethod
    async def __aenter__(self) -> Air: ...

    @abstractmethod
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    @abstractmethod
    def address(self, stage: int) -> Address:
        """The address that the radio of this stage's node has."""

    def settings(self) -> dict[str, Any]:
        """Settings that boards need beside `air`, `listen` and `next`."""
        return {}

    def environment(self) -> dict[str, str]:
        """What else boards get, in their environment: secrets, which no command line shows."""
        return {}

    @abstractmethod
    def host_tail(self, stage: int) -> ServerTransport:
        """The transport by which this process serves the last stage (`--tail host`)."""

    @abstractmethod
    def provenance(self) -> str:
        """How times over this air come about, for people: `modelled as ...`; the first word is
        what rows of a table say."""

    @abstractmethod
    def counts(self) -> AirCounts:
        """What it has done so far. Called from another thread than the loop's."""

    def report(self, radios: list[dict[str, Any]]) -> list[str]:
        """Lines for people about what the link negotiated and what the air did to it.

        `radios` is what each board's radio describes, the head's first.
        """
        return []
