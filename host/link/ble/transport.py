"""The host's end of a BLE link, through whatever adapter bleak can use.

Theory of operation. A host is always the GATT central (SPEC.md section 13). `BleClient` opens
sessions to a board; `BleServer` lets a board open them, over a connection that the host makes and
makes again when it breaks. Both hold a `Central`: find, connect, check the service, read what was
granted, subscribe; then frames go out as values through a queue with one writer, so that they keep
their order, and `blocked` while the stack has not taken those before. The ATT_MTU that counts is
the one in the board's status record: bleak on BlueZ cannot tell (23 until `_acquire_mtu`).

Every failure is a TransportError that says what to do. bleak is the extra `ble`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import re
from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from bleak import BleakClient, BleakScanner
from bleak.backends.characteristic import BleakGATTCharacteristic
from bleak.backends.client import BaseBleakClient
from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData, BaseBleakScanner
from bleak.exc import (
    BleakBluetoothNotAvailableError,
    BleakBluetoothNotAvailableReason,
    BleakDBusError,
    BleakDeviceNotFoundError,
    BleakError,
    BleakGATTProtocolError,
)

from host.link.ble import gatt
from host.link.ble.gatt import Status, Values, WrongServiceError
from host.link.errors import MalformedError
from host.link.events import Address
from host.link.session import Profile
from host.link.transport import (
    ClientTransport,
    ConnectionLostError,
    NotAllowedError,
    ServerTransport,
    Transport,
    TransportError,
    TransportUser,
    UnreachableError,
)

_log = logging.getLogger(__name__)

FIND_TIMEOUT_S: Final = 8.0
CONNECT_TIMEOUT_S: Final = 10.0
REQUEST_TIMEOUT_S: Final = 5.0
CLOSE_TIMEOUT_S: Final = 1.0
RETRY_PAUSE_S: Final = 1.0
ADDRESS: Final = re.compile(
    r"[0-9A-F]{2}(:[0-9A-F]{2}){5}|[0-9A-F]{8}(-[0-9A-F]{4}){3}-[0-9A-F]{12}", re.I
)
BLE_PROFILE: Final = Profile(
    mtu=gatt.PROFILE.mtu,
    window=gatt.PROFILE.window,
    reorder=gatt.PROFILE.reorder,
    rto_min_us=gatt.PROFILE.rto_min_us,
    connect_deadline_us=25_000_000,
)


class BluetoothOffError(TransportError):
    """There is an adapter, and it is switched off."""


class NoBluetoothError(TransportError):
    """This machine has no Bluetooth that can be used."""


@dataclass(frozen=True)
class Backend:
    """What bleak talks to instead of this machine's Bluetooth; None: the machine's."""

    client: type[BaseBleakClient] | None = None
    scanner: type[BaseBleakScanner] | None = None


_NOT_AVAILABLE: Final = {
    BleakBluetoothNotAvailableReason.POWERED_OFF: (
        BluetoothOffError,
        "Bluetooth is off; switch it on (Linux: rfkill unblock bluetooth; bluetoothctl power on)",
    ),
    BleakBluetoothNotAvailableReason.NO_BLUETOOTH: (
        NoBluetoothError,
        "this machine has no Bluetooth adapter; plug one in",
    ),
    BleakBluetoothNotAvailableReason.NO_BLE_CENTRAL_ROLE: (
        NoBluetoothError,
        "this machine's Bluetooth adapter cannot be a BLE central; plug in another",
    ),
}
_DBUS: Final = {
    "org.bluez.Error.NotReady": (
        BluetoothOffError,
        "Bluetooth is off; switch it on (rfkill unblock bluetooth; bluetoothctl power on)",
    ),
    "org.freedesktop.DBus.Error.AccessDenied": (
        NotAllowedError,
        "the system does not permit the use of Bluetooth; see the policy of org.bluez",
    ),
    "org.freedesktop.DBus.Error.ServiceUnknown": (
        NoBluetoothError,
        "bluetoothd does not run here; start BlueZ (systemctl start bluetooth)",
    ),
}
_NEEDS_PAIRING: Final = (0x05, 0x08, 0x0C, 0x0F)  # ATT: authentication, authorization, encryption.


def ble_error(cause: BaseException, place: str) -> TransportError:
    """The named error for what bleak or the system below it said."""
    if isinstance(cause, TransportError):
        return cause
    if isinstance(cause, MalformedError):
        return WrongServiceError(f"{place} speaks another layout than this tinysplit: {cause}")
    if isinstance(cause, BleakBluetoothNotAvailableError):
        denied = (NotAllowedError, "the system does not permit the use of Bluetooth here")
        kind, text = _NOT_AVAILABLE.get(cause.reason, denied)
        return kind(text)
    if isinstance(cause, BleakDeviceNotFoundError):
        return UnreachableError(f"{place} is not in range any more")
    if isinstance(cause, BleakGATTProtocolError):
        if int(cause.args[0]) in _NEEDS_PAIRING:
            return NotAllowedError(f"{place} wants an encrypted connection; pair with it first")
        return ConnectionLostError(f"{place} refused: {cause.args[-1]}")
    if isinstance(cause, BleakDBusError):
        if cause.dbus_error in _DBUS:
            kind, text = _DBUS[cause.dbus_error]
            return kind(text)
        if cause.dbus_error.endswith(("NotPermitted", "NotAuthorized")):
            return NotAllowedError(f"{place} wants an encrypted connection; pair with it first")
        return ConnectionLostError(f"{place} failed: {cause.dbus_error_details or cause}")
    if isinstance(cause, asyncio.TimeoutError | TimeoutError):
        return UnreachableError(f"{place} did not answer in time")
    if isinstance(cause, OSError):
        if cause.errno in (errno.EACCES, errno.EPERM):
            return NotAllowedError("the system does not permit the use of Bluetooth here")
        if cause.errno in (errno.ENOENT, errno.ECONNREFUSED):
            return NoBluetoothError(
                "no Bluetooth here: the system's D-Bus cannot be reached, so BlueZ does not run"
            )
    return TransportError(f"{place} failed: {cause or type(cause).__name__}")


CAUGHT: Final = (BleakError, OSError, asyncio.TimeoutError, MalformedError, EOFError)


class Central:
    """One connection to one board, and its queue of values."""

    def __init__(
        self,
        target: str,
        backend: Backend,
        frames: Callable[[list[bytes]], None],
        lost: Callable[[TransportError], None],
        writable: Callable[[], None],
    ) -> None:
        self.place = f"ble {target or 'board'}"
        self.status: Status | None = None
        self.address = ""
        self._target = target
        self._backend = backend
        self._frames = frames
        self._lost_call = lost
        self._writable = writable
        self._client: BleakClient | None = None
        self._status: BleakGATTCharacteristic | None = None
        self._values: Values | None = None
        self._queue: deque[bytes] = deque()
        self._wake = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None
        self._closing = False

    @property
    def blocked(self) -> bool:
        return len(self._queue) >= gatt.VALUES_IN_STACK

    @property
    def waiting(self) -> int:
        """Values that the stack has not taken."""
        return len(self._queue)

    def _matches(self, device: BLEDevice, adv: AdvertisementData) -> bool:
        if ADDRESS.fullmatch(self._target):
            return device.address.upper() == self._target.upper()
        if gatt.SERVICE not in adv.service_uuids:
            return False
        # An advertisement holds 8 bytes of the name; the system may know all of it.
        wanted, name = self._target, adv.local_name or device.name or ""
        return not wanted or name == wanted or name.encode() == gatt.shortened(wanted, 8)

    async def open(self, device: BLEDevice | None = None) -> None:
        """To `device`, or what is found. Raises TransportError; then nothing is left open."""
        await self.close()
        self._closing = False
        try:
            await self._connect(device or await self._find())
        except BaseException as failed:
            await self.close()
            if isinstance(failed, TransportError | asyncio.CancelledError):
                raise
            if isinstance(failed, CAUGHT):
                raise ble_error(failed, self.place) from failed
            raise

    async def _find(self) -> BLEDevice:
        async with BleakScanner(backend=self._backend.scanner) as scanner:
            try:
                return await asyncio.wait_for(self._first(scanner), FIND_TIMEOUT_S)
            except asyncio.TimeoutError:
                hint = "is it on, and not connected to another central?"
                raise UnreachableError(f"{self.place} is not in range; {hint}") from None

    async def _first(self, scanner: BleakScanner) -> BLEDevice:
        async for device, adv in scanner.advertisement_data():
            if self._matches(device, adv):
                return device
        raise UnreachableError(f"the scan for {self.place} ended by itself")

    async def _connect(self, device: BLEDevice) -> None:
        client = BleakClient(
            device,
            disconnected_callback=self._disconnected,
            timeout=CONNECT_TIMEOUT_S,
            backend=self._backend.client,
        )
        self._client = client
        self.address = device.address
        await asyncio.wait_for(client.connect(), CONNECT_TIMEOUT_S)
        service = client.services.get_service(gatt.SERVICE)
        found = [
            None if service is None else service.get_characteristic(uuid)
            for uuid in (gatt.UP, gatt.DOWN, gatt.STATUS)
        ]
        up, down, status = found
        if up is None or down is None or status is None:
            lacks = "the service" if service is None else "a characteristic of the service"
            raise WrongServiceError(f"{self.place} is no tinysplit board: it lacks {lacks}")
        self._status = status
        await self._read_status()
        assert self.status is not None
        att_mtu = self.status.granted.att_mtu or (
            up.max_write_without_response_size + gatt.ATT_HEADER_BYTES
        )
        self._values = Values(att_mtu)
        await asyncio.wait_for(client.start_notify(down, self._received), REQUEST_TIMEOUT_S)
        self._queue.clear()
        self._writer = asyncio.get_running_loop().create_task(self._write(client, up))

    async def _read_status(self) -> None:
        assert self._client is not None
        assert self._status is not None
        read = self._client.read_gatt_char(self._status)
        self.status = gatt.parse_status(bytes(await asyncio.wait_for(read, REQUEST_TIMEOUT_S)))

    def _received(self, _: BleakGATTCharacteristic, value: bytearray) -> None:
        assert self._values is not None
        frames = self._values.incoming(bytes(value))
        if frames and not self._closing:
            self._frames(frames)

    def send(self, frame: bytes) -> bool:
        if self._writer is None or self._writer.done() or self._values is None:
            return False
        self._queue.extend(self._values.outgoing(frame))
        self._wake.set()
        return True

    async def _write(self, client: BleakClient, up: BleakGATTCharacteristic) -> None:
        """Hand values to the stack, one after the other."""
        try:
            while True:
                while self._queue:
                    was_blocked = self.blocked
                    value = self._queue.popleft()
                    await client.write_gatt_char(up, value, response=False)
                    if was_blocked and not self.blocked:
                        self._writable()
                self._wake.clear()
                await self._wake.wait()
        except CAUGHT as failed:
            self._broke(ble_error(failed, self.place))

    def _disconnected(self, client: BleakClient) -> None:
        if client is self._client:
            self._broke(ConnectionLostError(f"{self.place} closed the connection or went away"))

    def _broke(self, error: TransportError) -> None:
        if self._closing or self._client is None:
            return
        self._closing = True
        self._lost_call(error)

    async def close(self) -> None:
        """Send what is queued, briefly, and disconnect."""
        client, self._client = self._client, None
        writer, self._writer = self._writer, None
        if client is None:
            return
        if writer is not None:
            if client.is_connected and not self._closing:
                with contextlib.suppress(*CAUGHT):
                    await asyncio.wait_for(self._flush(client), CLOSE_TIMEOUT_S)
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)
        self._closing = True
        self._queue.clear()
        with contextlib.suppress(*CAUGHT):
            await asyncio.wait_for(client.disconnect(), REQUEST_TIMEOUT_S)

    async def _flush(self, client: BleakClient) -> None:
        """A read is answered behind all that was written, and brings the parameters of the end."""
        while self._queue:
            await asyncio.sleep(0.005)
        assert self._status is not None
        self.status = gatt.parse_status(bytes(await client.read_gatt_char(self._status)))


class _Ble(Transport):
    """What client and server share. `target` is an address, a name, or empty: any board."""

    def __init__(self, target: str, backend: Backend | None, profile: Profile) -> None:
        self.profile = profile
        self._user: TransportUser | None = None
        self._central = Central(
            target, backend or Backend(), self._on_frames, self._on_lost, self._on_writable
        )

    @property
    def place(self) -> str:
        return self._central.place

    @property
    def blocked(self) -> bool:
        return self._central.blocked

    @property
    def status(self) -> Status | None:
        """Who the board is and what was granted, as it last said; None before a connection."""
        return self._central.status

    @abstractmethod
    def _peer(self) -> Address:
        """What the peer is called in frames received."""

    def send(self, frame: bytes, peer: Address) -> bool:
        return self._central.send(frame)

    def _on_frames(self, frames: list[bytes]) -> None:
        if self._user is not None:
            peer = self._peer()
            self._user.frames_received([(frame, peer) for frame in frames])

    def _on_lost(self, error: TransportError) -> None:
        if self._user is not None:
            self._user.peer_lost(self._peer(), error)

    def _on_writable(self) -> None:
        if self._user is not None:
            self._user.writable()

    async def close(self) -> None:
        await self._central.close()


class BleClient(_Ble, ClientTransport):
    """A link to one board, to open sessions to."""

    def __init__(
        self,
        target: str,
        *,
        backend: Backend | None = None,
        profile: Profile = BLE_PROFILE,
    ) -> None:
        super().__init__(target, backend, profile)
        self.peer = ("ble", target)

    def _peer(self) -> Address:
        return self.peer

    async def open(self, user: TransportUser) -> None:
        self._user = user
        await self._central.open()


class BleServer(_Ble, ServerTransport):
    """A link to one board that opens sessions to this host, such as a head with `--tail host`.

    `open` returns at once; the board is looked for until it is there, and again whenever the
    connection breaks. What goes wrong meanwhile is told by `link_error`, and is `problem`.
    """

    def __init__(
        self,
        target: str,
        *,
        backend: Backend | None = None,
        profile: Profile = BLE_PROFILE,
    ) -> None:
        super().__init__(target, backend, profile)
        self.address = (target, 0)
        self.problem: TransportError | None = None
        self._broken = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    def _peer(self) -> Address:
        return self.address

    async def open(self, user: TransportUser) -> None:
        await self.close()
        self._user = user
        self._keeper = asyncio.get_running_loop().create_task(self._keep(user))

    async def _keep(self, user: TransportUser) -> None:
        while True:
            self._broken.clear()
            try:
                await self._central.open()
            except TransportError as error:
                self.problem = error
                _log.info("%s", error)
                user.link_error(error)
                await asyncio.sleep(RETRY_PAUSE_S)
                continue
            self.problem = None
            await self._broken.wait()

    def _on_lost(self, error: TransportError) -> None:
        super()._on_lost(error)
        self._broken.set()

    async def close(self) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
        await super().close()


@dataclass(frozen=True)
class Found:
    """A board in range. `address` is a MAC, on macOS a UUID; the rest is what it advertises.

    `bundle_prefix` is the first 4 bytes of the bundle's id in hex, empty if it has none;
    `rssi_dbm` as the adapter says. Fields are None if the board advertises another layout.
    """

    address: str
    name: str
    rssi_dbm: int
    role: str | None
    stage: int | None
    stages: int | None
    bundle_prefix: str | None
    version: str | None


def found(device: BLEDevice, adv: AdvertisementData) -> Found:
    """What an advertisement says."""
    said = gatt.parse_service_data(adv.service_data.get(gatt.SERVICE, b""))
    name = adv.local_name or device.name or ""
    if said is None:
        return Found(device.address, name, adv.rssi, None, None, None, None, None)
    empty = not any(said.bundle_prefix)
    return Found(
        device.address,
        name,
        adv.rssi,
        said.role_name,
        None if said.stage == 255 else said.stage,
        said.stage_count or None,
        "" if empty else said.bundle_prefix.hex(),
        ".".join(str(n) for n in said.version),
    )


async def scan(seconds: float = 4.0, *, backend: Backend | None = None) -> list[Found]:
    """The boards in range, strongest first.

    Raises:
        TransportError: NoBluetoothError, BluetoothOffError, NotAllowedError: it cannot be known.
    """
    scanner_type = None if backend is None else backend.scanner
    try:
        async with BleakScanner(service_uuids=[gatt.SERVICE], backend=scanner_type) as scanner:
            await asyncio.sleep(seconds)
            seen = scanner.discovered_devices_and_advertisement_data
    except CAUGHT as failed:
        raise ble_error(failed, "the scan") from failed
    boards = [found(device, adv) for device, adv in seen.values()]
    return sorted(boards, key=lambda board: (-board.rssi_dbm, board.address))
