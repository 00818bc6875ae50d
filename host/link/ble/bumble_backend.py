"""A backend for bleak whose Bluetooth is Bumble's host stack on a virtual air.

The bleak code above it is the one that runs with real adapters. `Adapter.backend` gives the two
classes that bleak asks a backend for.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from bleak.assigned_numbers import CharacteristicPropertyName
from bleak.backends.characteristic import BleakGATTCharacteristic
from bleak.backends.client import BaseBleakClient
from bleak.backends.descriptor import BleakGATTDescriptor
from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData, BaseBleakScanner
from bleak.backends.service import BleakGATTService, BleakGATTServiceCollection
from bleak.exc import BleakDeviceNotFoundError, BleakError
from bumble import hci
from bumble.core import AdvertisingData, BaseBumbleError
from bumble.device import Connection, ConnectionParametersPreferences, Device, Peer
from bumble.gatt import Characteristic
from bumble.transport.common import Transport as HciTransport

from host.link.ble import gatt
from host.link.ble.controllers import open_hci, power_on
from host.link.ble.transport import Backend

_FAILURES = (BaseBumbleError, hci.HCI_Error, asyncio.TimeoutError)
_PROPERTIES: dict[CharacteristicPropertyName, Characteristic.Properties] = {
    "broadcast": Characteristic.Properties.BROADCAST,
    "read": Characteristic.Properties.READ,
    "write-without-response": Characteristic.Properties.WRITE_WITHOUT_RESPONSE,
    "write": Characteristic.Properties.WRITE,
    "notify": Characteristic.Properties.NOTIFY,
    "indicate": Characteristic.Properties.INDICATE,
}


class Adapter:
    """A host with a controller at a Bumble transport name; powered on when first used.

    `att_mtu` is what it asks for as a central; 23 asks for nothing.
    """

    def __init__(self, air: str, address: str, att_mtu: int = gatt.WANTED_ATT_MTU) -> None:
        self.att_mtu = att_mtu
        self._air = air
        self._address = hci.Address(address.upper(), hci.Address.RANDOM_DEVICE_ADDRESS)
        self._hci: HciTransport | None = None
        self._device: Device | None = None
        self._lock = asyncio.Lock()

    async def device(self) -> Device:
        """Raises TransportError if there is no controller."""
        async with self._lock:
            if self._device is None:
                self._hci = await open_hci(self._air)
                device = Device.with_hci("host", self._address, self._hci.source, self._hci.sink)
                await power_on(device, self._air)
                self._device = device
            return self._device

    async def close(self) -> None:
        transport, self._hci, self._device = self._hci, None, None
        if transport is not None:
            await transport.close()

    def backend(self) -> Backend:
        """What bleak is given instead of the machine's Bluetooth."""
        adapter = self

        class Scanner(_Scanner):
            _adapter = adapter

        class Client(_Client):
            _adapter = adapter

        return Backend(Client, Scanner)


class _Scanner(BaseBleakScanner):
    _adapter: Adapter

    def __init__(self, callback: Any, service_uuids: Any, mode: Any, **_: Any) -> None:
        super().__init__(callback, service_uuids)
        self._data: dict[str, dict[int, Any]] = {}

    async def start(self) -> None:
        self.seen_devices = {}
        device = await self._adapter.device()
        device.on(Device.EVENT_ADVERTISEMENT, self._seen)
        with _as_bleak():
            await device.start_scanning(legacy=True)

    async def stop(self) -> None:
        device = await self._adapter.device()
        device.remove_listener(Device.EVENT_ADVERTISEMENT, self._seen)
        with _as_bleak():
            await device.stop_scanning()

    def _seen(self, advertisement: Any) -> None:
        kinds = AdvertisingData.Type
        address = str(advertisement.address).split("/")[0]
        data = self._data.setdefault(address, {})  # Scan responses complete advertisements.
        data.update({int(kind): value for kind, value in advertisement.data.ad_structures})
        uuid_list = data.get(kinds.COMPLETE_LIST_OF_128_BIT_SERVICE_CLASS_UUIDS, b"")
        uuids = [gatt.uuid_text(uuid_list[i : i + 16]) for i in range(0, len(uuid_list), 16)]
        name = data.get(kinds.COMPLETE_LOCAL_NAME) or data.get(kinds.SHORTENED_LOCAL_NAME)
        text = name.decode("utf-8", "replace") if name is not None else None
        service = data.get(kinds.SERVICE_DATA_128_BIT_UUID, b"")
        adv = AdvertisementData(
            local_name=text,
            manufacturer_data={},
            service_data={gatt.uuid_text(service[:16]): service[16:]} if len(service) >= 16 else {},
            service_uuids=uuids,
            tx_power=None,
            rssi=advertisement.rssi,
            platform_data=(advertisement,),
        )
        if not self.is_allowed_uuid(uuids):
            return
        found = self.create_or_update_device(address, address, text, advertisement.address, adv)
        self.call_detection_callbacks(found, adv)


class _Client(BaseBleakClient):
    _adapter: Adapter

    def __init__(self, address_or_ble_device: BLEDevice | str, **kwargs: Any) -> None:
        kept = {k: kwargs[k] for k in ("disconnected_callback", "timeout")}
        super().__init__(address_or_ble_device, **kept)
        given = address_or_ble_device
        self._target = given.details if isinstance(given, BLEDevice) else hci.Address(given)
        self._connection: Connection | None = None

    @property
    def name(self) -> str:
        return self.address

    @property
    def mtu_size(self) -> int:
        return 23 if self._connection is None else int(self._connection.att_mtu)

    @property
    def is_connected(self) -> bool:
        return self._connection is not None

    async def connect(self, pair: bool, **kwargs: Any) -> None:
        device = await self._adapter.device()
        preferences = ConnectionParametersPreferences(*gatt.INTERVAL_MS, 0, gatt.SUPERVISION_MS)
        try:
            connection = await device.connect(
                self._target,
                connection_parameters_preferences={hci.Phy.LE_1M: preferences},
                timeout=self._timeout,
            )
        except asyncio.CancelledError:
            # Bumble would leave the controller looking for the board; nobody holds what it finds.
            with contextlib.suppress(*_FAILURES):
                await device.cancel_connection()  # type: ignore[no-untyped-call]
            raise
        except _FAILURES as error:
            raise BleakDeviceNotFoundError(self.address, str(error)) from error
        self._connection = connection
        connection.on(connection.EVENT_DISCONNECTION, self._gone)
        with self._connected():
            peer = Peer(connection)
            if self._adapter.att_mtu > connection.att_mtu:
                await peer.request_mtu(self._adapter.att_mtu)
            with contextlib.suppress(hci.HCI_Error):
                await connection.set_data_length(gatt.DATA_BYTES, gatt.DATA_TIME_US)
                await connection.set_phy([hci.Phy.LE_2M], [hci.Phy.LE_2M])
            self.services = await self._discover(peer)

    async def _discover(self, peer: Peer) -> BleakGATTServiceCollection:
        services = BleakGATTServiceCollection()
        for one in await peer.discover_services():
            service = BleakGATTService(one, one.handle, gatt.uuid_text(one.uuid.to_bytes(True)))
            services.add_service(service)
            for found in await one.discover_characteristics():
                await found.discover_descriptors()
                characteristic = BleakGATTCharacteristic(
                    found,
                    found.handle,
                    gatt.uuid_text(found.uuid.to_bytes(True)),
                    [n for n, bit in _PROPERTIES.items() if found.properties & bit],
                    lambda: min(self.mtu_size - 3, gatt.MAX_VALUE_BYTES),
                    service,
                )
                services.add_characteristic(characteristic)
        return services

    def _gone(self, _reason: int) -> None:
        self._connection = None
        if self._disconnected_callback is not None:
            self._disconnected_callback()

    async def disconnect(self) -> None:
        connection = self._connection
        if connection is not None:
            with _as_bleak():
                await connection.disconnect()

    @contextlib.contextmanager
    def _connected(self) -> Any:
        """Within it the connection stands; Bumble cancels what waits for an answer when it ends."""
        if self._connection is None:
            raise BleakError("not connected")
        try:
            with _as_bleak():
                yield
        except asyncio.CancelledError:
            if self._connection is not None:
                raise
            raise BleakError("the connection ended meanwhile") from None

    async def read_gatt_char(
        self, characteristic: BleakGATTCharacteristic, *, use_cached: bool = False, **kwargs: Any
    ) -> bytearray:
        with self._connected():
            return bytearray(await characteristic.obj.read_value())

    async def write_gatt_char(
        self, characteristic: BleakGATTCharacteristic, data: Any, response: bool
    ) -> None:
        with self._connected():
            assert self._connection is not None
            await characteristic.obj.write_value(bytes(data), with_response=response)
            queue = self._connection.data_packet_queue
            while queue is not None and queue.pending >= 2 * gatt.VALUES_IN_STACK:
                await asyncio.sleep(0.002)
                if self._connection is None:
                    raise BleakError("not connected")

    async def start_notify(
        self,
        characteristic: BleakGATTCharacteristic,
        callback: Callable[[bytearray], None],
        **kwargs: Any,
    ) -> None:
        with self._connected():
            await characteristic.obj.subscribe(lambda value: callback(bytearray(value)))

    async def stop_notify(self, characteristic: BleakGATTCharacteristic) -> None:
        with self._connected():
            await characteristic.obj.unsubscribe()

    async def read_gatt_descriptor(
        self, descriptor: BleakGATTDescriptor, *, use_cached: bool = False, **kwargs: Any
    ) -> bytearray:
        with self._connected():
            return bytearray(await descriptor.obj.read_value())

    async def write_gatt_descriptor(self, descriptor: BleakGATTDescriptor, data: Any) -> None:
        with self._connected():
            await descriptor.obj.write_value(bytes(data), with_response=True)

    async def pair(self, *args: Any, **kwargs: Any) -> None:
        with self._connected():
            assert self._connection is not None
            await self._connection.pair()

    async def unpair(self) -> None:
        raise BleakError("pairings are not kept on a virtual air")


@contextlib.contextmanager
def _as_bleak() -> Any:
    try:
        yield
    except _FAILURES as error:
        raise BleakError(str(error) or "no answer in time") from error
