"""Unmodified bleak on BlueZ on the kernel's Bluetooth, and virtual boards behind hci_vhci.

bleak -- D-Bus -- bluetoothd -- kernel -- hci_vhci -- controller -- air -- controller -- board
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from host.background import Background
from host.boards import address
from host.boards.virtual.process import VirtualBoard
from host.link.ble import transport
from host.link.ble.controllers import HciPort, TimedLink
from host.link.ble.transport import BleClient, BleServer, BluetoothOffError
from host.link.driver import LinkClient, LinkServer
from host.link.session import Node
from host.link.transport import TransportError
from partitioner.bundle import Bundle
from tests.radio.guest.stages import boundary, decoded, output, serve_last

HEAD, TAIL = "c0:54:53:00:00:00", "c0:54:53:00:00:01"
BLUETOOTHD = "/usr/libexec/bluetooth/bluetoothd"
START_S = 30.0
BOOT_S = 90.0
INFER_S = 20.0
pytestmark = pytest.mark.timeout(120)


def scan_until(wanted: Callable[[list[transport.Found]], bool]) -> list[transport.Found]:
    """What is in range, as soon as it is what is wanted; at the latest after START_S."""
    deadline = time.monotonic() + START_S
    seen: list[transport.Found] | None = None
    while seen is None or not wanted(seen):
        last = time.monotonic() > deadline
        with contextlib.suppress(*([] if last else [TransportError])):
            seen = asyncio.run(transport.scan(1.0))
        if last:
            break
        if seen is None:
            time.sleep(0.5)
    return seen or []


@pytest.fixture(scope="module", autouse=True)
def bluez(lane: Path) -> Iterator[None]:
    """D-Bus and bluetoothd, as a distribution starts them."""
    Path("/run/dbus").mkdir(exist_ok=True)
    subprocess.run(["dbus-daemon", "--system", "--fork"], check=True, timeout=10)
    with (lane / "bluetoothd.log").open("w") as log:
        daemon = subprocess.Popen([BLUETOOTHD, "--nodetach", "--debug"], stdout=log, stderr=log)
        yield
        daemon.terminate()
        daemon.wait(10)


@pytest.fixture(scope="module")
def air(bluez: None) -> Iterator[str]:
    """An air in this process that the kernel has a controller on; yields what boards call it."""
    with Background(precise=True) as background:

        async def make() -> HciPort:
            return HciPort(TimedLink())

        port = background.run(make())
        background.enter(port)
        background.run(port.attach("vhci"))
        scan_until(lambda seen: True)
        yield port.place


@contextlib.contextmanager
def board(
    bundle: Path, stage: int, air: str, place: str, following: str | None = None
) -> Iterator[VirtualBoard]:
    with VirtualBoard(
        f"stage{stage}",
        bundle,
        stage,
        address.parse(f"ble://{place}"),
        None if following is None else address.parse(following),
        settings={"air": air},
    ) as started:
        started.wait_ready(BOOT_S)
        yield started


@pytest.fixture(scope="module")
def tail(small: Path, air: str) -> Iterator[VirtualBoard]:
    with board(small, 1, air, TAIL) as started:
        yield started


def client(bundle: Bundle) -> LinkClient:
    return LinkClient(BleClient(TAIL), Node.head(bytes.fromhex(bundle.manifest.id)))


def test_a_board_is_discovered_by_the_service_it_advertises(
    tail: VirtualBoard, small_bundle: Bundle
) -> None:
    (found,) = scan_until(lambda seen: len(seen) == 1 and seen[0].role is not None)
    assert found.address.lower() == TAIL
    assert (found.name, found.role, found.stage, found.stages) == ("stage1", "tail", 1, 2)
    assert found.bundle_prefix == small_bundle.manifest.id[:8]


def test_a_split_inference_with_the_tail_on_a_board(
    tail: VirtualBoard, small_bundle: Bundle
) -> None:
    async def work() -> None:
        async with client(small_bundle) as link:
            for number in range(4):
                sent = boundary(small_bundle, number)
                result = await link.infer(number + 1, sent, INFER_S)
                assert [bytes(t) for t in result.tensors] == output(small_bundle, number)

    asyncio.run(work())


def test_a_split_inference_with_the_tail_on_the_host(
    air: str, small: Path, small_bundle: Bundle
) -> None:
    manifest = small_bundle.manifest
    node = Node.tail(bytes.fromhex(manifest.id), len(manifest.stages))
    with (
        board(small, 0, air, HEAD, "ble://central") as head,
        Background() as background,
    ):
        server = LinkServer(BleServer(HEAD), node, serve_last(small_bundle))
        background.enter(server)
        timeout_ms = round(INFER_S * 1000)
        answer = head.ask("run", INFER_S + 5, input="selftest", timeout_ms=timeout_ms)
        (radio,) = head.ask("stats")["radio"]["peers"]
    assert decoded(answer) == output(small_bundle, 0)
    assert radio["gap_role"] == "peripheral"


def test_a_board_that_vanishes_and_comes_back_is_found_again(
    air: str, small: Path, small_bundle: Bundle, tail: VirtualBoard
) -> None:
    async def infer(link: LinkClient, number: int, deadline_s: float) -> None:
        result = await link.infer(number, boundary(small_bundle, number), deadline_s)
        assert [bytes(t) for t in result.tensors] == output(small_bundle, number)

    async def work() -> int:
        async with client(small_bundle) as link:
            await infer(link, 1, INFER_S)
            tail.kill()
            with board(small, 1, air, TAIL):
                await infer(link, 2, 3 * INFER_S)
            return link.sessions

    assert asyncio.run(work()) == 2


def test_bluetooth_that_is_off_is_named(air: str) -> None:
    def power(state: str) -> None:
        subprocess.run(["bluetoothctl", "power", state], check=True, timeout=20)

    power("off")
    try:
        with pytest.raises(BluetoothOffError):
            asyncio.run(transport.scan(0.5))
    finally:
        power("on")
    scan_until(lambda seen: True)
