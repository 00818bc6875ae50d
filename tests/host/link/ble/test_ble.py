"""BLE end to end in this process: bleak and C cores on Bumble's stacks and controllers."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest
from ble_nodes import Air, MakeNode, boundary, first_input, output, place
from bumble import gatt as bumble_gatt
from bumble.core import AdvertisingData
from bumble.device import Device, Peer
from bumble.gatt import Characteristic
from bumble.hci import HCI_ErrorCode

from host.boards.address import CENTRAL, Address
from host.boards.virtual.ble import BleRadio, device_address
from host.boards.virtual.radio import RadioSetup
from host.link.ble import gatt, transport
from host.link.ble.bumble_backend import Adapter
from host.link.ble.controllers import open_hci, power_on
from host.link.ble.gatt import WrongServiceError
from host.link.ble.link_layer import LE_2M, T_IFS_US, air_time_us
from host.link.ble.transport import BLE_PROFILE, BleClient, BleServer, scan
from host.link.driver import LinkClient, LinkServer, Reply, Request
from host.link.errors import SendFailedError
from host.link.events import Address as Peername
from host.link.session import Node
from host.link.transport import ConnectionLostError, TransportError, UnreachableError
from partitioner.bundle import Bundle

QUICK = replace(BLE_PROFILE, retry_pause_us=200_000, connect_deadline_us=8_000_000)


def client(adapter: Adapter, target: str, bundle: Bundle) -> LinkClient:
    node = Node.head(bytes.fromhex(bundle.manifest.id))
    return LinkClient(BleClient(target, backend=adapter.backend(), profile=QUICK), node)


async def infer(link: LinkClient, bundle: Bundle, number: int, deadline_s: float = 8.0) -> None:
    result = await link.infer(number, boundary(bundle, number % 3), deadline_s)
    assert [bytes(t) for t in result.tensors] == output(bundle, number % 3)


@pytest.mark.parametrize("target", [place(1).host, place(1).host.upper(), "stage1", ""])
def test_a_host_finds_a_board_and_its_results_are_exact(
    air: Air, node: MakeNode, pair: Bundle, target: str
) -> None:
    node(1)

    async def work() -> transport.BleClient:
        carrier = BleClient(target, backend=air.adapter().backend(), profile=QUICK)
        async with LinkClient(carrier, Node.host(bytes.fromhex(pair.manifest.id))) as link:
            await asyncio.gather(*(infer(link, pair, number) for number in range(1, 7)))
        return carrier

    status = air.background.run(work(), 20).status
    assert status is not None
    assert (status.identity.name, status.identity.stage) == ("stage1", 1)
    assert status.identity.bundle.hex() == pair.manifest.id
    assert status.granted == gatt.Granted(517, 6, 0, 200, 2, 2, 251, 251)


def test_two_boards_and_the_next_stage_by_its_name(air: Air, node: MakeNode, pair: Bundle) -> None:
    node(1, name="the-tail")
    head = node(0, following=Address("ble", "the-tail"))
    for vector in range(3):
        head.begin(vector + 1, first_input(pair, head.core.stage, vector))
        result = head.result(vector + 1)
        assert result.code == "ok"
        assert list(result.tensors) == output(pair, vector)
    (peer,) = head.radio.describe()["peers"]
    assert peer["gap_role"] == "central"
    assert (peer["interval"], peer["phy_up"], peer["data_bytes_up"]) == (6, 2, 251)


def test_a_head_whose_tail_is_a_host(air: Air, node: MakeNode, pair: Bundle) -> None:
    """The head is the peripheral and opens the session over the host's connection."""
    head = node(0, following=Address("ble", CENTRAL))
    tail = Node.tail(bytes.fromhex(pair.manifest.id))

    def handle(request: Request) -> Reply:
        given = [bytes(t) for t in request.tensors]
        vector = next(v for v in range(3) if boundary(pair, v) == given)
        return Reply(output(pair, vector))

    async def make() -> LinkServer:
        carrier = BleServer(head.own.host, backend=air.adapter().backend())
        return LinkServer(carrier, tail, handle)

    air.background.enter(air.background.run(make()))
    for vector in range(3):
        head.begin(vector + 1, first_input(pair, head.core.stage, vector))
        result = head.result(vector + 1)
        assert result.code == "ok"
        assert list(result.tensors) == output(pair, vector)


@pytest.mark.parametrize("smaller", ["host", "board"])
def test_an_att_mtu_of_23_works(air: Air, node: MakeNode, pair: Bundle, smaller: str) -> None:
    node(1, att_mtu=23 if smaller == "board" else 517)

    async def work() -> None:
        adapter = air.adapter(att_mtu=23 if smaller == "host" else 517)
        async with client(adapter, "stage1", pair) as link:
            await asyncio.gather(*(infer(link, pair, number) for number in range(1, 4)))

    air.background.run(work(), 20)
    (peer,) = air.nodes[0].radio.describe()["peers"] or [{"att_mtu": 23}]
    assert peer["att_mtu"] == 23


@pytest.mark.parametrize("air", [0.1], indirect=True)
def test_lost_packets_are_repeated_below_the_link(air: Air, node: MakeNode, pair: Bundle) -> None:
    node(1)

    async def work() -> int:
        async with client(air.adapter(), "stage1", pair) as link:
            for number in range(1, 31):
                await infer(link, pair, number)
            return sum(sum(wire.model.tally.lost) for wire in air.port.link.wires())

    assert air.background.run(work(), 30) > 5


def test_two_heads_at_one_tail(air: Air, node: MakeNode, pair: Bundle) -> None:
    tail = node(1)

    async def work() -> None:
        async with (
            client(air.adapter(1), "stage1", pair) as one,
            client(air.adapter(2), "stage1", pair) as other,
        ):
            await asyncio.gather(
                *(infer(link, pair, number) for link in (one, other) for number in range(1, 9))
            )
            assert len(tail.radio.describe()["peers"]) == 2

    air.background.run(work(), 30)


def test_scan_lists_who_is_in_range(air: Air, node: MakeNode, pair: Bundle) -> None:
    node(0, following=Address("ble", CENTRAL), name="a-long-name-of-a-head")
    node(1)
    found = air.background.run(scan(0.4, backend=air.adapter().backend()))
    version = ".".join(str(n) for n in gatt.version_numbers(transport_version()))
    prefix = pair.manifest.id[:8]
    by_address = {board.address.lower(): board for board in found}
    assert len(by_address) == 2
    head, tail = by_address[place(0).host], by_address[place(1).host]
    assert head == transport.Found(
        place(0).host.upper(), "a-long-n", -50, "head", 0, 2, prefix, version
    )
    assert (tail.name, tail.role, tail.stage, tail.bundle_prefix) == ("stage1", "tail", 1, prefix)


def transport_version() -> str:
    import importlib.metadata

    return importlib.metadata.version("tinysplit")


def test_nobody_in_range_is_said_plainly(air: Air) -> None:
    assert air.background.run(scan(0.2, backend=air.adapter().backend())) == []


def test_a_board_that_is_not_there(air: Air, pair: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "FIND_TIMEOUT_S", 0.3)

    async def work() -> None:
        async with client(air.adapter(), "nobody", pair):
            pass

    with pytest.raises(UnreachableError, match="ble nobody is not in range"):
        air.background.run(work())


async def stranger_device(air: Air, services: list[bumble_gatt.Service]) -> tuple[Device, Any]:
    hci = await open_hci(air.place)
    device = Device.with_hci("strange", device_address(place(9)), hci.source, hci.sink)
    for service in services:
        device.add_service(service)
    await power_on(device, air.place)
    await device.start_advertising(
        advertising_data=bytes(
            AdvertisingData([(AdvertisingData.Type.COMPLETE_LOCAL_NAME, b"strange")])
        ),
        advertising_interval_min=30,
        advertising_interval_max=60,
    )
    return device, hci


@pytest.mark.parametrize("lacks", ["the service", "a characteristic of the service"])
@pytest.mark.parametrize("who", ["host", "board"])
def test_a_device_that_is_no_board(
    air: Air, node: MakeNode, pair: Bundle, lacks: str, who: str
) -> None:
    up: Characteristic[bytes] = Characteristic(
        gatt.UP, Characteristic.Properties.WRITE, Characteristic.WRITEABLE, b""
    )
    own = [] if lacks == "the service" else [bumble_gatt.Service(gatt.SERVICE, [up])]
    _, hci = air.background.run(stranger_device(air, own))
    wanted = f"ble {place(9).host} is no tinysplit board: it lacks {lacks}"
    if who == "board":
        head = node(0, following=place(9))
        deadline = time.monotonic() + 8
        while head.radio.describe()["problem"] != wanted:
            assert time.monotonic() < deadline, head.radio.describe()
            time.sleep(0.01)
    else:

        async def work() -> None:
            async with client(air.adapter(), place(9).host, pair):
                pass

        with pytest.raises(WrongServiceError) as failed:
            air.background.run(work(), 15)
        assert str(failed.value) == wanted
    air.background.run(hci.close())


def test_a_board_with_another_layout_of_status(air: Air, pair: Bundle) -> None:
    properties = Characteristic.Properties
    parts: list[tuple[str, Any, bytes]] = [
        (gatt.UP, properties.WRITE_WITHOUT_RESPONSE, b""),
        (gatt.DOWN, properties.NOTIFY, b""),
        (gatt.STATUS, properties.READ, b"\x02future"),
    ]
    both = Characteristic.Permissions.READABLE | Characteristic.Permissions.WRITEABLE
    characteristics = [Characteristic(uuid, kind, both, value) for uuid, kind, value in parts]
    _, hci = air.background.run(
        stranger_device(air, [bumble_gatt.Service(gatt.SERVICE, characteristics)])
    )

    async def work() -> None:
        async with client(air.adapter(), place(9).host, pair):
            pass

    with pytest.raises(WrongServiceError, match="another layout"):
        air.background.run(work(), 15)
    air.background.run(hci.close())


def test_garbage_in_values_harms_nobody(air: Air, node: MakeNode, pair: Bundle) -> None:
    tail = node(1)

    async def spoil() -> None:
        hci = await open_hci(air.place)
        device = Device.with_hci("spoiler", device_address(place(8)), hci.source, hci.sink)
        await power_on(device, air.place)
        connection = await device.connect(device_address(place(1)))
        peer = Peer(connection)
        await peer.request_mtu(517)
        (service,) = await peer.discover_service(gatt.SERVICE)
        found = {
            gatt.uuid_text(c.uuid.to_bytes(True)): c
            for c in await service.discover_characteristics()
        }
        await found[gatt.UP].write_value(b"before the subscription")
        await found[gatt.DOWN].discover_descriptors()
        await found[gatt.DOWN].subscribe(lambda _: None)
        for size in (0, 1, 20, 68, 495, 496, 512):
            await found[gatt.UP].write_value(bytes([0x10]) * size)
        await found[gatt.STATUS].read_value()
        await hci.close()

    air.background.run(spoil(), 15)

    async def work() -> None:
        async with client(air.adapter(), "stage1", pair) as link:
            await infer(link, pair, 1)

    air.background.run(work(), 15)
    assert tail.core.status()["dropped"] == 4  # 1, 20, 68 and 495 bytes; the others are no frames.


def test_garbage_over_hci_ends_one_connection_only(air: Air, node: MakeNode, pair: Bundle) -> None:
    node(1)

    async def work() -> None:
        host, port = air.place.removeprefix("tcp-client:").split(":")
        for junk in (b"\xee" * 50, b"\x01\x03\x0c", bytes(300), b"\x02\x01\x20\xff\xff" + bytes(9)):
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write(junk)
            await writer.drain()
            writer.close()
        async with client(air.adapter(), "stage1", pair) as link:
            await infer(link, pair, 1)

    air.background.run(work(), 15)


class Frames:
    """A transport's user that only counts."""

    def __init__(self) -> None:
        self.lost: list[TransportError] = []
        self.room = asyncio.Event()

    def frames_received(self, batch: list[tuple[bytes, Peername]]) -> None: ...

    def peer_lost(self, peer: Peername, error: TransportError) -> None:
        self.lost.append(error)

    def link_error(self, error: TransportError) -> None: ...

    def writable(self) -> None:
        self.room.set()


def test_a_full_stack_blocks_loses_nothing_and_is_no_faster_than_the_air(
    air: Air, node: MakeNode
) -> None:
    tail = node(1)
    # 480 bytes and 7 of ATT and L2CAP are packets of 251 and 236, each answered by an empty one.
    packets_us = sum(air_time_us(n, LE_2M) + air_time_us(0, LE_2M) for n in (251, 236))
    frame_us = packets_us + 4 * T_IFS_US

    async def work() -> int:
        carrier = BleClient("stage1", backend=air.adapter().backend())
        user = Frames()
        await carrier.open(user)
        waits, started = 0, time.monotonic()
        for number in range(120):
            if carrier.blocked:
                waits += 1
                user.room.clear()
                await asyncio.wait_for(user.room.wait(), 5)
            assert carrier.send(bytes([0xF0, number]) * 240, carrier.peer)
        await carrier.close()
        assert time.monotonic() - started >= 120 * frame_us / 1e6
        return waits

    assert air.background.run(work(), 20) > 5
    deadline = time.monotonic() + 2
    while tail.core.status()["frames_in"] < 120 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert tail.core.status()["frames_in"] == 120
    assert tail.radio.dropped == 0


def test_a_client_whose_adapter_is_unplugged_says_so_in_time(
    air: Air, node: MakeNode, pair: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "FIND_TIMEOUT_S", 0.3)
    node(1)

    async def work() -> None:
        adapter = air.adapter()
        async with client(adapter, "stage1", pair) as link:
            await infer(link, pair, 1)
            await adapter.close()
            adapter._air = "tcp-client:127.0.0.1:1"
            started = time.monotonic()
            with pytest.raises(SendFailedError) as failed:
                await infer(link, pair, 2, deadline_s=2.0)
            assert time.monotonic() - started < 3
            assert "went away; now: no Bluetooth controller at" in str(failed.value)

    air.background.run(work(), 20)


def test_a_client_meets_its_board_again(air: Air, node: MakeNode, pair: Bundle) -> None:
    first = node(1)

    async def before(link: LinkClient) -> None:
        await link.__aenter__()
        await infer(link, pair, 1)

    async def make() -> LinkClient:
        return client(air.adapter(), "stage1", pair)

    link = air.background.run(make())
    air.background.run(before(link), 15)
    first.close()
    node(1)
    air.background.run(infer(link, pair, 2), 15)
    assert link.sessions == 2
    air.background.run(link.close())


def test_connections_that_break_lose_no_inference(air: Air, node: MakeNode, pair: Bundle) -> None:
    node(1)
    head = node(0, following=place(1))

    async def jam() -> int:
        """Every connection ends as if its packets no longer came through."""
        ended = 0
        for controller in list(air.port.link.controllers):
            for connection in list(controller.le_connections.values()):
                controller.on_le_disconnected(connection, HCI_ErrorCode.CONNECTION_TIMEOUT_ERROR)
                ended += 1
        return ended

    ended = 0
    for number in range(1, 13):
        given = first_input(pair, head.core.stage, number % 3)
        head.begin(number, given, timeout_ms=15_000)
        if number % 4 == 2:
            time.sleep(0.02)
            ended += air.background.run(jam())
        result = head.result(number, 16)
        assert result.code == "ok"
        assert list(result.tensors) == output(pair, number % 3)
    assert ended >= 4


def test_an_air_behind_a_kernel_that_is_not_there_says_why() -> None:
    radio = BleRadio(RadioSetup(place(1), None, "vhci:/nonexistent/vhci"))
    with pytest.raises(TransportError, match="needs the kernel module hci_vhci"):
        radio.start()


def test_a_radio_without_an_air_says_why() -> None:
    radio = BleRadio(RadioSetup(place(1), None, "tcp-client:127.0.0.1:1"))
    with pytest.raises(TransportError, match="no Bluetooth controller at tcp-client"):
        radio.start()


def test_a_closed_client_sends_nothing(air: Air, node: MakeNode) -> None:
    node(1)

    async def work() -> None:
        carrier = BleClient("stage1", backend=air.adapter().backend())
        user = Frames()
        await carrier.open(user)
        await carrier.close()
        await carrier.close()
        assert not carrier.send(b"frame", carrier.peer)
        assert user.lost == []

    air.background.run(work())


def test_a_board_that_vanishes_is_told_of_once(air: Air, node: MakeNode) -> None:
    tail = node(1)

    async def opened() -> tuple[BleClient, Frames]:
        carrier = BleClient("stage1", backend=air.adapter().backend())
        user = Frames()
        await carrier.open(user)
        return carrier, user

    carrier, user = air.background.run(opened())
    tail.close()

    async def told() -> None:
        while not user.lost:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        await carrier.close()

    air.background.run(told())
    assert [type(error) for error in user.lost] == [ConnectionLostError]
