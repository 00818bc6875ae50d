"""The Bluetooth of a virtual board, and the air it shares.

`BleRadio` is Bumble's host stack over any HCI that Bumble can open; `BleAir` hosts a controller for
every node.

Theory of operation. The board is always a peripheral with the service of SPEC.md section 13, and a
central too if its next stage has an address. A connection becomes a *link* when its central has
subscribed; the core names it by the peer's device address, and the next stage by what the setting
`next` says. Values go to Bumble until so many packets wait in the controller's buffers that the
radio stops reading the packet port, which blocks the core.

`air` is a Bumble transport name: `tcp-client:HOST:PORT` of an `HciPort`, a real controller
(`usb:0`), or `vhci`, which makes an air of its own here with the kernel as the other host.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib.metadata
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from bumble import gatt as bumble_gatt
from bumble import hci
from bumble.core import UUID, AdvertisingData, BaseBumbleError, ProtocolError
from bumble.device import Connection, ConnectionParametersPreferences, Device, Peer
from bumble.gatt_client import CharacteristicProxy
from bumble.transport.common import Transport as HciTransport

from host.boards.address import CENTRAL, Address
from host.boards.virtual.radio import Air, AirCounts, Radio, RadioSetup
from host.link.ble import gatt
from host.link.ble.controllers import HciPort, TimedLink, open_hci, power_on
from host.link.ble.gatt import Granted, Identity, Status, Values, WrongServiceError
from host.link.errors import MalformedError
from host.link.impairment import Impairment
from host.link.transport import ServerTransport, TransportError, not_installed

if TYPE_CHECKING:
    from host.link.ble.bumble_backend import Adapter

_log = logging.getLogger(__name__)

HOST_ADDRESS: Final = "c0:54:53:00:ff:ff"  # Of this process on an air that it hosts.
SILENT_S: Final = 0.3
CENTRAL_FIRST_S: Final = 0.1
MAX_CENTRALS: Final = 3  # As NimBLE's default.
CONNECT_TIMEOUT_S: Final = 5.0
SETUP_TIMEOUT_S: Final = 5.0
FIRST_PAUSE_S: Final = 0.2
LONGEST_PAUSE_S: Final = 2.0
PACKETS_IN_STACK: Final = 2 * gatt.VALUES_IN_STACK  # A frame fills two.
ADVERTISING_MS: Final = (30.0, 60.0)
_FAILURES: Final = (BaseBumbleError, ProtocolError, asyncio.TimeoutError, OSError, MalformedError)


@dataclass(eq=False)
class _Link:
    """A connection that carries frames; `up` is the peer's characteristic, for a central."""

    key: bytes
    connection: Connection
    values: Values
    up: CharacteristicProxy[bytes] | None
    began_s: float
    spoke: bool = False
    phy: tuple[int, int] = (1, 1)  # Out, in.
    frames_in: int = 0
    frames_out: int = 0
    gone: asyncio.Event = field(default_factory=asyncio.Event)


def granted(connection: Connection, phy: tuple[int, int]) -> Granted:
    """What this connection was granted; `phy` is what this end sends and receives by."""
    peripheral = connection.role == hci.Role.PERIPHERAL
    out, back = phy
    lengths = connection.data_length
    sent, received = lengths.max_tx_octets, lengths.max_rx_octets
    parameters = connection.parameters
    return Granted(
        att_mtu=connection.att_mtu,
        interval=round(parameters.connection_interval / 1.25),
        latency=parameters.peripheral_latency,
        timeout=round(parameters.supervision_timeout / 10),
        phy_down=out if peripheral else back,
        phy_up=back if peripheral else out,
        data_bytes_down=sent if peripheral else received,
        data_bytes_up=received if peripheral else sent,
    )


def device_address(address: Address) -> hci.Address:
    """The static random address of a board."""
    return hci.Address(address.host.upper(), hci.Address.RANDOM_DEVICE_ADDRESS)


async def attach(port: HciPort, name: str) -> None:
    """Put a controller of the host at this Bumble transport name on the air. TransportError."""
    try:
        await port.attach(name)
    except (*_FAILURES, ValueError, ImportError) as error:
        hint = "needs the kernel module hci_vhci and the right to open /dev/vhci"
        why = f"{error.strerror}: {hint}" if isinstance(error, OSError) else str(error)
        raise TransportError(f"cannot be the controller of a host at {name}: {why}") from error


class BleRadio(Radio):
    """See `Radio`. `peers` in what `describe` returns has every link and what it was granted."""

    transport = "ble"

    def __init__(self, setup: RadioSetup) -> None:
        super().__init__(setup)
        self.profile = gatt.PROFILE
        node = setup.node
        try:
            version = importlib.metadata.version("tinysplit")
        except importlib.metadata.PackageNotFoundError:
            version = "0.0.0"
        self._identity = Identity(
            int(node.role), node.stage, node.stage_count, node.bundle, version, setup.name
        )
        self._max_mtu = int(setup.settings.get("att_mtu", gatt.WANTED_ATT_MTU))
        self._links: dict[Connection, _Link] = {}
        self._phys: dict[Connection, tuple[int, int]] = {}
        self._next_link: _Link | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._device: Device | None = None
        self._hci: HciTransport | None = None
        self._port: HciPort | None = None
        self._advertising = asyncio.Lock()

    # What the board asks

    def peer(self, address: Address) -> bytes:
        if address.mac is not None:
            return address.mac
        return hashlib.sha256(address.host.encode()).digest()[:8]  # Names can be 29 bytes long.

    def describe(self) -> dict[str, Any]:
        peers = [
            {
                "peer": str(link.connection.peer_address).split("/")[0].lower(),
                "gap_role": "central" if link.up is not None else "peripheral",
                "frames_in": link.frames_in,
                "frames_out": link.frames_out,
                "values_dropped": link.values.dropped,
                **asdict(granted(link.connection, link.phy)),
            }
            for link in list(self._links.values())
        ]
        return {
            "address": self.address.host,
            "peers": peers,
            "dropped": self.dropped,
            "problem": self.problem,
        }

    # Opening and closing

    async def _open(self) -> None:
        air = self.setup.air
        if air.split(":")[0] == "vhci":
            self._port = HciPort(TimedLink())
            await self._port.__aenter__()
            await attach(self._port, air)
            air = self._port.place
        self._hci = await open_hci(air)
        address = device_address(self.setup.own) if self.setup.own.mac else None
        if address is None:
            raise TransportError(f"a virtual board needs a device address, not {self.setup.own}")
        device = Device.with_hci(self.setup.name, address, self._hci.source, self._hci.sink)
        self._device = device
        device.gatt_server.max_mtu = self._max_mtu
        device.on(Device.EVENT_CONNECTION, self._on_connection)
        self._down = self._add_service(device)
        await power_on(device, self.setup.air)
        await self._advertise()
        following = self.setup.next
        if following is not None and following.host != CENTRAL:
            loop = asyncio.get_running_loop()
            self._tasks.append(loop.create_task(self._dial(following)))

    async def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._device is not None:
            for connection in list(self._device.connections.values()):
                with contextlib.suppress(*_FAILURES, hci.HCI_Error):
                    await asyncio.wait_for(connection.disconnect(), 1.0)
        if self._hci is not None:
            await self._hci.close()
        if self._port is not None:
            await self._port.__aexit__(None, None, None)

    def _add_service(self, device: Device) -> bumble_gatt.Characteristic[bytes]:
        char, properties = bumble_gatt.Characteristic, bumble_gatt.Characteristic.Properties
        down = char(gatt.DOWN, properties.NOTIFY, char.Permissions(0), b"")
        up: bumble_gatt.Characteristic[bytes] = char(
            gatt.UP,
            properties.WRITE_WITHOUT_RESPONSE,
            char.Permissions.WRITEABLE,
            bumble_gatt.CharacteristicValue(write=self._on_value),
        )
        status: bumble_gatt.Characteristic[bytes] = char(
            gatt.STATUS,
            properties.READ,
            char.Permissions.READABLE,
            bumble_gatt.CharacteristicValue(read=self._status),
        )
        device.add_service(bumble_gatt.Service(gatt.SERVICE, [up, down, status]))
        down.on(down.EVENT_SUBSCRIPTION, self._on_subscription)
        return down

    async def _advertise(self) -> None:
        """Advertise as long as a connection is free."""
        assert self._device is not None
        async with self._advertising:
            count = sum(c.role == hci.Role.PERIPHERAL for c in self._device.connections.values())
            if count >= MAX_CENTRALS:
                return
            name = gatt.shortened(self.setup.name, gatt.NAME_BYTES)
            whole = name == self.setup.name.encode()
            kinds = AdvertisingData.Type
            uuid = bytes(UUID(gatt.SERVICE))
            flags = AdvertisingData.Flags
            await self._device.start_advertising(
                advertising_data=bytes(
                    AdvertisingData(
                        [
                            (
                                kinds.FLAGS,
                                bytes(
                                    [
                                        flags.LE_GENERAL_DISCOVERABLE_MODE
                                        | flags.BR_EDR_NOT_SUPPORTED
                                    ]
                                ),
                            ),
                            (kinds.COMPLETE_LIST_OF_128_BIT_SERVICE_CLASS_UUIDS, uuid),
                            (
                                kinds.COMPLETE_LOCAL_NAME if whole else kinds.SHORTENED_LOCAL_NAME,
                                name,
                            ),
                        ]
                    )
                ),
                scan_response_data=bytes(
                    AdvertisingData(
                        [
                            (
                                kinds.SERVICE_DATA_128_BIT_UUID,
                                uuid + self._identity.service_data(),
                            )
                        ]
                    )
                ),
                advertising_interval_min=ADVERTISING_MS[0],
                advertising_interval_max=ADVERTISING_MS[1],
            )

    def _advertise_again(self) -> None:
        self._spawn(self._advertise_quietly())

    async def _advertise_quietly(self) -> None:
        try:
            await self._advertise()
        except (*_FAILURES, hci.HCI_Error) as error:
            self.problem = f"advertising failed: {error}"

    def _spawn(self, work: Any) -> None:
        self._tasks = [task for task in self._tasks if not task.done()]
        self._tasks.append(asyncio.get_running_loop().create_task(work))

    # Connections

    def _on_connection(self, connection: Connection) -> None:
        self._phys[connection] = (1, 1)

        def phy_changed(phy: Any) -> None:
            self._phys[connection] = (int(phy.tx_phy), int(phy.rx_phy))
            if connection in self._links:
                self._links[connection].phy = self._phys[connection]

        connection.on(connection.EVENT_CONNECTION_PHY_UPDATE, phy_changed)
        connection.on(connection.EVENT_DISCONNECTION, lambda _: self._on_disconnection(connection))
        if connection.role == hci.Role.PERIPHERAL:
            self._advertise_again()
            self._spawn(self._ask_for_speed(connection))

    def _on_disconnection(self, connection: Connection) -> None:
        self._phys.pop(connection, None)
        link = self._links.pop(connection, None)
        if link is not None:
            link.gone.set()
            if link is self._next_link:
                self._next_link = None
        if connection.role == hci.Role.PERIPHERAL:
            self._advertise_again()

    def _add_link(
        self, key: bytes, connection: Connection, up: CharacteristicProxy[bytes] | None
    ) -> _Link:
        link = _Link(
            key, connection, Values(connection.att_mtu), up, asyncio.get_running_loop().time(),
            phy=self._phys.get(connection, (1, 1)),
        )  # fmt: skip
        self._links[connection] = link
        return link

    # This board as a peripheral

    def _status(self, connection: Connection) -> bytes:
        phy = self._phys.get(connection, (1, 1))
        return Status(self._identity, granted(connection, phy)).encode()

    def _on_subscription(self, connection: Connection, notify: bool, _indicate: bool) -> None:
        link = self._links.pop(connection, None)
        if link is not None:
            link.gone.set()
            if link is self._next_link:
                self._next_link = None
        if not notify:
            return
        self._add_link(bytes(connection.peer_address)[::-1], connection, None)
        if connection.parameters.connection_interval > gatt.INTERVAL_MS[1]:
            self._spawn(self._ask_for_interval(connection))

    async def _ask_for_speed(self, connection: Connection) -> None:
        """What the central did not ask for itself (13.5). A refusal shows in the status."""
        await asyncio.sleep(CENTRAL_FIRST_S)
        with contextlib.suppress(*_FAILURES, hci.HCI_Error):
            if connection.data_length.max_tx_octets < gatt.DATA_BYTES:
                await connection.set_data_length(gatt.DATA_BYTES, gatt.DATA_TIME_US)
        with contextlib.suppress(*_FAILURES, hci.HCI_Error):
            if self._phys.get(connection, (2, 2)) != (2, 2):
                await connection.set_phy([hci.Phy.LE_2M], [hci.Phy.LE_2M])

    async def _ask_for_interval(self, connection: Connection) -> None:
        with contextlib.suppress(*_FAILURES, hci.HCI_Error):  # What is granted is in the status.
            await asyncio.wait_for(
                connection.update_parameters(
                    *gatt.INTERVAL_MS, 0, gatt.SUPERVISION_MS, use_l2cap=True
                ),
                SETUP_TIMEOUT_S,
            )

    def _on_value(self, connection: Connection, value: bytes) -> None:
        link = self._links.get(connection)
        if link is not None:  # Before the subscription it is dropped.
            self._take(link, value)

    def _take(self, link: _Link, value: bytes) -> None:
        link.spoke = True
        for frame in link.values.incoming(value):
            link.frames_in += 1
            self._received(link.key, frame)

    # This board as a central

    async def _dial(self, following: Address) -> None:
        """Connect to the next stage, again and again."""
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                link = await self._connect(following)
            except WrongServiceError as error:
                self.problem, pause_s = str(error), LONGEST_PAUSE_S
            except (*_FAILURES, hci.HCI_Error) as error:
                why = str(error) or "no answer in time"
                self.problem = f"ble {following.host} cannot be connected: {why}"
            else:
                self.problem, pause_s = None, FIRST_PAUSE_S
                await link.gone.wait()
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _find(self, following: Address) -> hci.Address:
        if following.mac is not None:
            return device_address(following)
        device = self._device
        assert device is not None
        found: asyncio.Future[hci.Address] = asyncio.get_running_loop().create_future()
        wanted = following.host[: gatt.NAME_BYTES]

        def seen(advertisement: Any) -> None:
            kinds = AdvertisingData.Type
            for kind in (kinds.COMPLETE_LOCAL_NAME, kinds.SHORTENED_LOCAL_NAME):
                if advertisement.data.get(kind) == wanted and not found.done():
                    found.set_result(advertisement.address)

        device.on(Device.EVENT_ADVERTISEMENT, seen)
        try:
            await device.start_scanning(legacy=True)
            return await asyncio.wait_for(found, CONNECT_TIMEOUT_S)
        finally:
            device.remove_listener(Device.EVENT_ADVERTISEMENT, seen)
            await device.stop_scanning()

    async def _connect(self, following: Address) -> _Link:
        assert self._device is not None
        address = await self._find(following)
        connection = await self._device.connect(
            address,
            connection_parameters_preferences={
                hci.Phy.LE_1M: ConnectionParametersPreferences(
                    *gatt.INTERVAL_MS, 0, gatt.SUPERVISION_MS
                )
            },
            timeout=CONNECT_TIMEOUT_S,
        )
        try:
            return await asyncio.wait_for(self._set_up(following, connection), SETUP_TIMEOUT_S)
        except BaseException:
            with contextlib.suppress(*_FAILURES, hci.HCI_Error):
                await asyncio.wait_for(connection.disconnect(), 1.0)
            raise

    async def _set_up(self, following: Address, connection: Connection) -> _Link:
        """From a bare connection to a link (13.5, 13.4)."""
        peer = Peer(connection)
        if self._max_mtu > connection.att_mtu:
            await peer.request_mtu(self._max_mtu)
        for request in (
            connection.set_data_length(gatt.DATA_BYTES, gatt.DATA_TIME_US),
            connection.set_phy([hci.Phy.LE_2M], [hci.Phy.LE_2M]),
        ):
            with contextlib.suppress(hci.HCI_Error):  # A refusal is not an error.
                await request
        found = await board_characteristics(peer, following.host)
        status = gatt.parse_status(await found[gatt.STATUS].read_value())
        link = self._add_link(self.peer(following), connection, found[gatt.UP])
        link.values = Values(status.granted.att_mtu or connection.att_mtu)
        await found[gatt.DOWN].subscribe(lambda value: self._take(link, value))
        return link

    # Sending

    def _link_to(self, to: bytes) -> _Link | None:
        following = self.setup.next
        if following is None or following.host != CENTRAL or to != self.peer(following):
            return next((link for link in self._links.values() if link.key == to), None)
        if self._next_link is None:
            before = asyncio.get_running_loop().time() - SILENT_S
            for link in self._links.values():
                if link.up is None and not link.spoke and link.began_s <= before:
                    self._next_link = link
                    link.key = to
                    break
        return self._next_link

    async def _send(self, to: bytes, frame: bytes) -> None:
        link = self._link_to(to)
        if link is None:
            raise TransportError(self.problem or "the peer is not connected")
        assert self._device is not None
        self.problem = None
        queue = link.connection.data_packet_queue
        link.frames_out += 1
        for value in link.values.outgoing(frame):
            while queue is not None and queue.pending >= PACKETS_IN_STACK:
                if link.gone.is_set():
                    return
                await self._flow(queue)
            if link.gone.is_set():
                return
            try:
                if link.up is not None:
                    await link.up.write_value(value)
                else:
                    await self._device.gatt_server.notify_subscriber(
                        link.connection, self._down, value
                    )
            except _FAILURES as error:
                raise TransportError(f"the connection broke: {error}") from error

    @staticmethod
    async def _flow(queue: Any) -> None:
        """Until the controller has sent something, or a while if the connection broke."""
        flowed = asyncio.get_running_loop().create_future()

        def flow() -> None:
            if not flowed.done():
                flowed.set_result(None)

        queue.on("flow", flow)
        try:
            await asyncio.wait_for(flowed, 0.1)
        except asyncio.TimeoutError:
            pass
        finally:
            queue.remove_listener("flow", flow)


async def board_characteristics(peer: Peer, place: str) -> dict[str, CharacteristicProxy[bytes]]:
    """The characteristics of a board's service, by UUID. Raises WrongServiceError."""
    found: dict[str, CharacteristicProxy[bytes]] = {}
    for service in await peer.discover_service(gatt.SERVICE):
        for characteristic in await service.discover_characteristics():
            found[gatt.uuid_text(characteristic.uuid.to_bytes(True))] = characteristic
            await characteristic.discover_descriptors()
    missing = {gatt.UP, gatt.DOWN, gatt.STATUS} - set(found)
    if missing:
        raise WrongServiceError(
            f"ble {place} is no tinysplit board: it lacks "
            + ("the service" if not found else "a characteristic of the service")
        )
    return found


class BleAir(Air):
    """See `Air`.

    Options: `att_mtu`, which every node asks for and grants, 23 at least; `controllers`, hosts
    outside by Bumble's names for them, whose controllers are to be on this air.
    """

    def __init__(self, impairment: Impairment, options: Mapping[str, Any]) -> None:
        impairment.check_air("ble")
        self._att_mtu = int(options.get("att_mtu", gatt.WANTED_ATT_MTU))
        self._controllers: tuple[str, ...] = tuple(options.get("controllers", ()))
        self._impairment = impairment
        self._port: HciPort | None = None
        self._adapter: Adapter | None = None
        self._host_stage: int | None = None

    async def __aenter__(self) -> BleAir:
        link = TimedLink(self._impairment.loss, self._impairment.seed)
        self._port = await HciPort(link).__aenter__()
        self.place = self._port.place
        try:
            for name in self._controllers:
                await attach(self._port, name)
        except BaseException:
            await self._port.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._port is not None
        if self._adapter is not None:
            await self._adapter.close()
        await self._port.__aexit__(kind, error, trace)

    def address(self, stage: int) -> Address:
        if stage == self._host_stage:
            return Address("ble", CENTRAL)
        return Address("ble", f"c0:54:53:00:{stage >> 8:02x}:{stage & 255:02x}")

    def settings(self) -> dict[str, Any]:
        return {} if self._att_mtu == gatt.WANTED_ATT_MTU else {"att-mtu": self._att_mtu}

    def host_tail(self, stage: int) -> ServerTransport:
        try:
            from host.link.ble.bumble_backend import Adapter
            from host.link.ble.transport import BleServer
        except ModuleNotFoundError as error:
            raise not_installed("a host on BLE", "ble", error) from error
        self._host_stage = stage
        self._adapter = Adapter(self.place, HOST_ADDRESS, self._att_mtu)
        return BleServer(self.address(stage - 1).host, backend=self._adapter.backend())

    def provenance(self) -> str:
        return "modelled as Bluetooth 5.4 (connection events, packet times, repetition)"

    def counts(self) -> AirCounts:
        assert self._port is not None
        tallies = [wire.model.tally for wire in self._port.link.wires()]
        return AirCounts(sum(sum(t.sent) for t in tallies), sum(sum(t.lost) for t in tallies))

    def report(self, radios: list[dict[str, Any]]) -> list[str]:
        assert self._port is not None
        lines = []
        for stage, radio in enumerate(radios):
            for peer in radio["peers"]:
                if peer["gap_role"] == "central":
                    lines.append(f"stage {stage} to {stage + 1}, granted: {_granted(peer)}")
                elif peer["peer"] == HOST_ADDRESS:
                    lines.append(f"stage {stage} to host, granted: {_granted(peer)}")
            if radio["problem"]:
                lines.append(f"stage {stage}: {radio['problem']}")
        link = self._port.link
        tallies = [wire.model.tally for wire in link.wires()]
        mean_ms = link.late_sum_us / max(link.deliveries, 1) / 1000
        sent, lost = sum(sum(t.sent) for t in tallies), sum(sum(t.lost) for t in tallies)
        lines.append(
            f"link layer: {sent} data packets in {sum(t.events for t in tallies)} connection "
            f"events, {lost} lost and repeated; this machine delivered them {mean_ms:.1f} ms later "
            f"than modelled on average, {link.late_us / 1000:.1f} ms at most"
        )
        return lines


def _granted(peer: dict[str, Any]) -> str:
    return Granted(**{name: peer[name] for name in Granted.__dataclass_fields__}).text()
