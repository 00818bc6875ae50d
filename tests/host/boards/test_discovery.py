"""Finding boards: real virtual boards on pseudo-terminals, on loopback sockets and by real mDNS."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from hypothesis import given
from hypothesis import strategies as st
from serial.tools.list_ports_common import ListPortInfo

from host.boards.address import Address
from host.boards.discovery import network, usb
from host.boards.discovery.bluetooth import from_advertisement
from host.boards.discovery.found import FoundBoard, Search, described
from host.boards.discovery.network import broadcasts, merged, read_refusal, refused_hello
from host.boards.virtual.process import VirtualBoard
from host.cli import main
from host.link.ble.transport import Found
from host.link.errors import ErrorCode
from host.link.frames import Hello, Kind
from host.report import boards_table
from partitioner.bundle import Bundle
from tests.host.boards.ptys import Cable, virtual_board
from tests.ports import free_port

Invoke = Callable[..., Result]
PATIENCE_S = (1.0, 2.5, 10.0, 30.0)  # One after the other: a busy machine answers late.


@pytest.fixture
def named(folder: Path) -> Iterator[int]:
    """A board on UDP that mDNS tells of, on any port; yields the port."""
    listen = Address("udp", "127.0.0.1", 0)
    with VirtualBoard("kitchen", folder, 2, listen, None, flags=("--announce",)) as board:
        yield int(board.wait_ready(60)["listen"].rsplit(":", 1)[1])


@pytest.fixture(scope="module")
def nameless(folder: Path) -> Iterator[int]:
    """A board on UDP that no name service knows; yields the port."""
    listen = Address("udp", "0.0.0.0", 0)
    following = Address("udp", "127.0.0.1", 9)
    with VirtualBoard("cellar", folder, 1, listen, following) as board:
        yield int(board.wait_ready(60)["listen"].rsplit(":", 1)[1])


def on_network(wanted: Callable[[FoundBoard], bool], *udp_port: int) -> list[FoundBoard]:
    """The boards that are wanted, if there are any."""
    for seconds in PATIENCE_S:
        if found := [b for b in network.search(seconds, *udp_port).boards if wanted(b)]:
            return found
    return []


def port(vid: int | None, pid: int | None, device: str) -> ListPortInfo:
    info = ListPortInfo(device)
    info.vid, info.pid = vid, pid
    return info


def test_ports_are_told_by_their_usb_id() -> None:
    ports = [
        port(0x303A, 0x1001, "/dev/ttyACM1"),
        port(0x10C4, 0xEA60, "/dev/ttyUSB0"),
        port(0x0403, 0x6001, "/dev/ttyUSB1"),
        port(0x046D, 0xC52B, "/dev/ttyUSB2"),
        port(None, None, "/dev/ttyS0"),
    ]
    assert [(c.port, c.what) for c in usb.candidates(ports)] == [
        ("/dev/ttyACM1", "Espressif USB"),
        ("/dev/ttyUSB0", "CP210x bridge: possibly a board"),
        ("/dev/ttyUSB1", "FT232R bridge: possibly a board"),
    ]


def test_boards_and_others_on_serial_ports(folder: Path, stranger_bundle: Bundle) -> None:
    with virtual_board(folder, 2, name="attic") as board, Cable() as silent:
        for timeout_s in PATIENCE_S:
            found = usb.search((board, silent.port, "/dev/ttyNONE"), timeout_s)
            if found.boards[0].name is not None:
                break
    first, second, third = found.boards
    assert (first.address, first.name, first.role) == (f"serial:{board}", "attic", "tail")
    assert (first.stage, first.stages, first.bundle) == (2, 3, stranger_bundle.manifest.id)
    assert first.firmware is not None
    assert (second.note, second.name) == ("no answer", None)
    assert third.note == "there is no such port; is the board plugged in?"


def test_a_board_that_mdns_tells_of(named: int, stranger_bundle: Bundle) -> None:
    found = on_network(lambda b: b.address == f"udp://127.0.0.1:{named}")
    assert len(found) == 1
    assert (found[0].name, found[0].role, found[0].stage) == ("kitchen", "tail", 2)
    assert found[0].bundle == stranger_bundle.manifest.id
    assert found[0].firmware is not None


def test_a_board_that_no_name_service_knows(nameless: int, stranger_bundle: Bundle) -> None:
    found = on_network(lambda b: b.address.endswith(f":{nameless}"), nameless)
    assert len(found) == 1, "one board, however many addresses of this machine reach it"
    assert (found[0].role, found[0].stage, found[0].stages) == ("relay", 1, 3)
    assert found[0].bundle == stranger_bundle.manifest.id
    assert (found[0].name, found[0].firmware) == (None, None)


def test_being_asked_leaves_nothing_behind(folder: Path) -> None:
    """The refusal costs no session, and one that is up goes on."""
    with VirtualBoard("a", folder, 2, Address("udp", "127.0.0.1", 0), None) as board:
        place = int(board.wait_ready(60)["listen"].rsplit(":", 1)[1])
        for _ in range(3):
            assert on_network(lambda _: True, place)
        assert board.ask("stats")["sessions_up"] == 0


def test_the_command_lists_them_all(
    invoke: Invoke, folder: Path, named: int, stranger_bundle: Bundle
) -> None:
    with virtual_board(folder, 2, name="attic") as board:
        for seconds in PATIENCE_S:
            ways = ("--port", board, "--seconds", seconds)
            shown = invoke(main, "boards", *ways)
            listed = json.loads(invoke(main, "boards", *ways, "--json").output)
            names = {b["name"] for b in listed["boards"]}
            if all(name in shown.output and name in names for name in ("attic", "kitchen")):
                break
    assert shown.exit_code == 0, shown.output
    short = stranger_bundle.manifest.id[:12]
    for address, name in ((f"serial:{board}", "attic"), (f"udp://127.0.0.1:{named}", "kitchen")):
        (line,) = [line for line in shown.output.splitlines() if line.startswith(address)]
        assert line.split()[1:7] == [name, "tail", "2", "of", "3", short]
    assert {b["name"] for b in listed["boards"]} >= {"attic", "kitchen"}
    assert "bluetooth" in listed["notes"]
    assert "Traceback" not in shown.output


def test_nothing_found_is_said(invoke: Invoke) -> None:
    result = invoke(main, "boards", "--seconds", 0.5, "--udp-port", free_port())
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[0] == "no board found"
    assert [line.partition(":")[0] for line in lines[1:]] == [
        "serial ports", "network", "Bluetooth"
    ]  # fmt: skip


def test_without_the_packages_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, invoke: Invoke
) -> None:
    monkeypatch.setitem(sys.modules, "ifaddr", None)
    monkeypatch.setitem(sys.modules, "bleak", None)
    for module in list(sys.modules):
        if module.startswith("host.link.ble"):
            monkeypatch.delitem(sys.modules, module)
    output = invoke(main, "boards", "--seconds", 0.5).output
    assert "network: not looked for: ifaddr is missing (pip install 'tinysplit[boards]')" in output
    assert "Bluetooth: not looked for: bleak is missing (pip install 'tinysplit[ble]')" in output


def test_an_advertisement_says_who() -> None:
    seen = Found("AA:BB:CC:DD:EE:FF", "attic", -61, "tail", 1, 2, "0a0b0c0d", "0.1.0")
    assert from_advertisement(seen) == FoundBoard(
        "bluetooth", "ble://attic", "attic", "tail", 1, 2, "0a0b0c0d", "0.1.0", "-61 dBm"
    )
    strange = replace(seen, name="my board!")
    assert from_advertisement(strange).address == "ble://aa:bb:cc:dd:ee:ff"


def test_garbage_on_the_network_is_no_board() -> None:
    """Somebody who answers with anything, and one who echoes."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        other.settimeout(0.2)
        stop = threading.Event()

        def answer() -> None:
            while not stop.is_set():
                try:
                    data, place = other.recvfrom(2048)
                except TimeoutError:
                    continue
                for reply in (data, b"", b"\x20" * 68, data[:30], b"\x20" + data[1:]):
                    other.sendto(reply, place)

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            found = network.search(1.0, other.getsockname()[1])
        finally:
            stop.set()
            thread.join()
    assert found.boards == ()


@given(st.binary(max_size=140))
def test_any_datagram_is_read_or_dropped(frame: bytes) -> None:
    assert read_refusal(frame, 7) is None


def test_a_refusal_says_who() -> None:
    ack = Hello(
        initiator_nonce=7, role=3, stage=1, stage_count=2, status=ErrorCode.VERSION_OLDER,
        bundle=bytes(range(32)),
    )  # fmt: skip
    said = read_refusal(ack.encode(Kind.HELLO_ACK), 7)
    assert said == {"role": "tail", "stage": 1, "stages": 2, "bundle": bytes(range(32)).hex()}
    assert read_refusal(ack.encode(Kind.HELLO_ACK), 8) is None
    bridge = Hello(initiator_nonce=7, role=4, status=ErrorCode.VERSION_OLDER)
    assert read_refusal(bridge.encode(Kind.HELLO_ACK), 7) == {
        "role": "bridge", "stage": None, "stages": None, "bundle": ""
    }  # fmt: skip
    assert refused_hello(7)[2:4] == b"\0\0"


def test_where_everybody_is_reached() -> None:
    assert broadcasts(["127.0.0.1/8", "192.168.1.7/24", "10.0.0.1/32", "10.9.9.8/31"]) == [
        "127.0.0.1",
        "127.255.255.255",
        "192.168.1.255",
    ]


def test_what_both_ways_tell_is_one_board() -> None:
    place = ("10.0.0.5", 4000)
    answers = {place: {"role": "tail", "stage": 1, "stages": 2, "bundle": "ab"}}
    services = {("udp", place): {"name": "x", "firmware": "0.1.0", "role": None}}
    (board,) = merged(answers, services, set())
    assert (board.name, board.role, board.stage, board.firmware) == ("x", "tail", 1, "0.1.0")
    assert board.address == "udp://10.0.0.5:4000"
    two = {("10.0.0.5", 4000): {"stage": 0}, ("10.0.0.6", 4000): {"stage": 0}}
    assert len(merged(two, {}, set())) == 2
    assert len(merged(two, {}, {"10.0.0.5", "10.0.0.6"})) == 1


@given(st.dictionaries(st.text(max_size=8), st.one_of(st.none(), st.text(), st.integers())))
def test_nothing_a_board_says_of_itself_is_trusted(said: dict[str, Any]) -> None:
    found = described("network", "udp://10.0.0.5:1", said)
    assert boards_table.table([Search("network", (found,))]) is not None
    assert json.loads(boards_table.as_json([Search("network", (found,), "n")]))["notes"]


def test_a_name_cannot_draw_on_the_terminal() -> None:
    found = described("network", "x", {"name": "\x1b[2Jboo\n", "stage": 300, "bundle": 7})
    assert found == FoundBoard("network", "x", name="?[2Jboo?")
