"""This machine's Bluetooth as the central of many boards, each of which opens a session here.

Theory of operation. A host is always the GATT central (SPEC.md section 13), so it is the hub that
looks for boards: what advertises the service, as a neighbour of a node that is served here, is
connected to. An adapter scans or connects, one thing at a time, so one task does both in turn.
A board that cannot be connected, or that opens no session, is left alone for a while, longer each
time: connections are few. Frames then travel as with `BleServer`; peers are device addresses.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Container
from typing import Final

from bleak import BleakScanner
from bleak.backends.device import BLEDevice

from host.link.ble import gatt
from host.link.ble.transport import (
    BLE_PROFILE,
    CAUGHT,
    RETRY_PAUSE_S,
    Backend,
    Central,
    Found,
    ble_error,
    found,
)
from host.link.events import Address
from host.link.session import Node, Profile
from host.link.transport import ServerTransport, TransportError, TransportUser

SCAN_S: Final = 4.0
REST_S: Final = 1.0  # Between scans that found nobody: the radio is for those who are connected.
MOST: Final = 7  # Connections that common controllers keep.
OPENING_S: Final = 10.0
LEFT_ALONE_S: Final = (1.0, 60.0)
VALUES_WAITING: Final = 64  # For one board; what is more is lost, as on any radio.

_log = logging.getLogger(__name__)


class BleHub(ServerTransport):
    """See above. `target` is a board's name or address; empty: every neighbour of `welcome`'s."""

    def __init__(
        self,
        target: str = "",
        *,
        backend: Backend | None = None,
        profile: Profile = BLE_PROFILE,
    ) -> None:
        self.profile = profile
        self.address = (target, 0)
        self.problem: TransportError | None = None
        self._backend = backend or Backend()
        self._nodes: tuple[Node, ...] = ()
        self._most = MOST
        self._centrals: dict[Address, Central] = {}
        self._since_s: dict[Address, float] = {}
        self._alone: dict[Address, tuple[float, float]] = {}  # Until when, and for how long.
        self._room = asyncio.Event()
        self._user: TransportUser | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._stopped = False

    @property
    def place(self) -> str:
        return f"ble {self.address[0] or 'heads in range'}"

    @property
    def blocked(self) -> bool:
        return False

    def welcome(self, nodes: Collection[Node]) -> None:
        self._nodes = tuple(nodes)

    def limit(self, peers: int) -> None:
        self._most = min(peers, MOST)

    def refuse_more(self) -> None:
        self._stopped = True

    def wanted(self, board: Found) -> bool:
        """Whether a board that advertises this belongs here."""
        name = self.address[0]
        if (
            name
            and name.lower() != board.address.lower()
            and name.encode()[:8] != (board.name.encode()[:8])
        ):
            return False
        return any(
            board.role in ("head", "relay")
            and board.stage is not None
            and board.stage + 1 == node.stage
            and board.bundle_prefix == node.bundle[:4].hex()
            for node in self._nodes
        )

    async def open(self, user: TransportUser) -> None:
        """As Transport's; returns at once. What goes wrong is told by `link_error`."""
        await self.close()
        self._user = user
        self._stopped = False
        self._keeper = asyncio.get_running_loop().create_task(self._keep(user))

    async def _keep(self, user: TransportUser) -> None:
        while not self._stopped:
            if len(self._centrals) >= self._most:
                self._room.clear()
                await self._room.wait()
                continue
            try:
                device = await self._look()
                if device is not None:
                    await self._connect(device, user)
                self.problem = None
            except TransportError as error:
                self.problem = error
                _log.info("%s", error)
                user.link_error(error)
                await asyncio.sleep(RETRY_PAUSE_S)
            else:
                await asyncio.sleep(0 if device is not None else REST_S)

    async def _look(self) -> BLEDevice | None:
        """A board to connect to, if one is in range. Raises TransportError."""
        try:
            async with BleakScanner(
                service_uuids=[gatt.SERVICE], backend=self._backend.scanner
            ) as scanner:
                return await asyncio.wait_for(self._first(scanner), SCAN_S)
        except asyncio.TimeoutError:
            return None
        except CAUGHT as failed:
            raise ble_error(failed, "the scan for heads") from failed

    async def _first(self, scanner: BleakScanner) -> BLEDevice:
        now_s = asyncio.get_running_loop().time
        async for device, adv in scanner.advertisement_data():
            until_s, _ = self._alone.get(device.address, (0.0, 0.0))
            free = device.address not in self._centrals and until_s <= now_s()
            if free and self.wanted(found(device, adv)):
                return device
        raise TransportError("the scan for heads ended by itself")

    async def _connect(self, device: BLEDevice, user: TransportUser) -> None:
        peer = device.address

        def frames(received: list[bytes]) -> None:
            user.frames_received([(frame, peer) for frame in received])

        central = Central(
            peer, self._backend, frames, lambda error: self._lost(peer, error), user.writable
        )
        try:
            await central.open(device)
        except TransportError:
            self._leave_alone(peer)
            raise
        self._centrals[peer] = central
        self._since_s[peer] = asyncio.get_running_loop().time()

    def _leave_alone(self, peer: Address) -> None:
        shortest_s, longest_s = LEFT_ALONE_S
        _, before_s = self._alone.pop(peer, (0.0, 0.0))
        pause_s = min(max(2 * before_s, shortest_s), longest_s)
        self._alone[peer] = (asyncio.get_running_loop().time() + pause_s, pause_s)
        while len(self._alone) > 1024:  # Addresses come and go.
            self._alone.pop(next(iter(self._alone)))

    def _lost(self, peer: Address, error: TransportError) -> None:
        self._drop(peer)
        if self._user is not None:
            self._user.peer_lost(peer, error)

    def _drop(self, peer: Address) -> None:
        central = self._centrals.pop(peer, None)
        self._since_s.pop(peer, None)
        self._room.set()
        if central is not None:
            task = asyncio.get_running_loop().create_task(central.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def sweep(self, known: Container[Address]) -> None:
        now_s = asyncio.get_running_loop().time()
        for peer, since_s in list(self._since_s.items()):
            if peer in known:
                self._since_s[peer] = now_s
                self._alone.pop(peer, None)
            elif now_s - since_s > OPENING_S:
                self._leave_alone(peer)
                self._drop(peer)

    def send(self, frame: bytes, peer: Address) -> bool:
        central = self._centrals.get(peer)
        if central is None or central.waiting >= VALUES_WAITING:
            return False
        return central.send(frame)

    async def close(self) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
        for peer in list(self._centrals):
            self._drop(peer)
        await asyncio.gather(*self._closing, return_exceptions=True)
