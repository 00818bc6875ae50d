"""UDP and TCP between two network namespaces, through the kernel's own netem.

    head board (left, 10.77.0.1) -- veth, 10 % loss and 20 ms each way -- tail (right, 10.77.0.2)

netem of this kernel takes no seed: every run meets other losses, and none may cost a byte.
"""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from host.background import Background
from host.boards.address import Address
from host.boards.board import BoardError
from host.boards.virtual.process import VirtualBoard
from host.link.driver import LinkServer
from host.link.session import Node
from host.link.tcp import TcpServer
from host.link.udp import UdpServer
from partitioner import bundle as bundles
from partitioner import kernels
from partitioner.bundle import Bundle
from tests.radio.guest.namespaces import inside, ip
from tests.radio.guest.stages import decoded, output, serve_last

LEFT, RIGHT, PORT = "10.77.0.1", "10.77.0.2", 4000
DELAY_US = 20_000
LOSS = "10%"
BOOT_S = 90.0
RUN_S = 60.0
MOST_RUNS = 100

Pair = tuple[VirtualBoard, VirtualBoard]


@pytest.fixture(scope="module", autouse=True)
def network() -> None:
    for name, device, address in (("left", "veth0", LEFT), ("right", "veth1", RIGHT)):
        ip("netns", "add", name)
        ip("-n", name, "link", "set", "lo", "up")
        if name == "left":
            ip("link", "add", "veth0", "type", "veth", "peer", "name", "veth1")
        ip("link", "set", device, "netns", name)
        ip("-n", name, "address", "add", f"{address}/24", "dev", device)
        ip("-n", name, "link", "set", device, "up")
        spoil = ["qdisc", "add", "dev", device, "root", "netem", "limit", "1000"]
        spoil += ["loss", LOSS, "delay", f"{DELAY_US}us"]
        subprocess.run(["tc", "-n", name, *spoil], check=True, timeout=10)


def start_head(bundle: Path, port: int) -> VirtualBoard:
    following = Address("udp", RIGHT, port)
    with inside("left"):
        return VirtualBoard("head", bundle, 0, Address("udp", LEFT, 0), following, mtu=250)


@pytest.fixture(scope="module")
def pair(small: Path) -> Iterator[Pair]:
    """A head in `left` and a tail in `right`, both ready."""
    with inside("right"):
        starting = VirtualBoard("tail", small, 1, Address("udp", RIGHT, PORT), None)
    with starting as tail, start_head(small, PORT) as head:
        for board in (tail, head):
            board.wait_ready(BOOT_S)
        yield head, tail


def reboot(board: VirtualBoard, **settings: Any) -> None:
    board.ask("configure", BOOT_S, set=settings)
    board.ask("reboot", BOOT_S)
    assert board.wait_ready(BOOT_S)["problem"] is None


def point(head: VirtualBoard, transport: str, port: int) -> None:
    """Make the head speak `transport` to that port in `right`."""
    reboot(head, listen=f"{transport}://{LEFT}:0", next=f"{transport}://{RIGHT}:{port}")


@contextmanager
def host_tail(bundle: Bundle, transport: str) -> Iterator[int]:
    """The last stage in this process, behind the Python end of the link; yields its port."""
    manifest = bundle.manifest
    kind = UdpServer if transport == "udp" else TcpServer
    with ExitStack() as stack:
        with inside("right"):  # The thread that Background starts stays there.
            background = stack.enter_context(Background())
        node = Node.tail(bytes.fromhex(manifest.id), len(manifest.stages))
        server = LinkServer(kind(RIGHT, 0), node, serve_last(bundle))
        background.enter(server)
        yield server.address[1]


def netem(name: str, device: str) -> tuple[int, int]:
    """Packets that netem let through and that it dropped, leaving `name`."""
    shown = subprocess.run(
        ["tc", "-n", name, "-s", "-j", "qdisc", "show", "dev", device, "root"],
        check=True,
        capture_output=True,
        timeout=10,
    )
    (qdisc,) = json.loads(shown.stdout)
    assert qdisc["kind"] == "netem"
    return qdisc["packets"], qdisc["drops"]


@pytest.fixture
def losses() -> Callable[[], list[tuple[int, int]]]:
    """Packets and drops since the test began, towards the tail and back."""
    places = (("left", "veth0"), ("right", "veth1"))
    before = [netem(*place) for place in places]

    def since() -> list[tuple[int, int]]:
        now = [netem(*place) for place in places]
        return [(a - b, c - d) for (a, c), (b, d) in zip(now, before, strict=True)]

    return since


def assert_exact(
    head: VirtualBoard, bundle: Bundle, seed: int, until: Callable[[int], bool], **fields: Any
) -> None:
    """Run random inputs until told so; every output equals the uncut model's, and took its time."""
    uncut = kernels.exact().load(bundle.full, arena_bytes=bundle.manifest.full["arena_bytes"])
    rng = np.random.default_rng(seed)
    (spec,) = bundle.manifest.inputs
    count = 0
    while not until(count):
        value = rng.integers(-128, 128, spec.shape, np.int8)
        tensors = [base64.b64encode(value.tobytes()).decode()]
        answer = head.ask("run", RUN_S, input="tensors", tensors=tensors, timeout_ms=50_000)
        assert decoded(answer) == [tensor.tobytes() for tensor in uncut.run([value])]
        assert answer["total_us"] >= 2 * DELAY_US
        count += 1


@pytest.mark.timeout(120)
@pytest.mark.parametrize("tail", ["board", "host"])
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_loss_and_delay_cost_time_but_no_byte(
    pair: Pair,
    small_bundle: Bundle,
    losses: Callable[[], list[tuple[int, int]]],
    transport: str,
    tail: str,
) -> None:
    head, tail_board = pair
    with ExitStack() as stack:
        if tail == "host":
            port = stack.enter_context(host_tail(small_bundle, transport))
        else:
            reboot(tail_board, listen=f"{transport}://{RIGHT}:{PORT}")
            port = PORT
        point(head, transport, port)

        def enough(count: int) -> bool:
            assert count < MOST_RUNS, "netem loses nothing"
            return count >= 5 and sum(lost for _, lost in losses()) >= 3

        assert_exact(head, small_bundle, 1, enough)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_a_cable_out_for_two_seconds_is_survived(
    pair: Pair, small_bundle: Bundle, transport: str
) -> None:
    head, tail = pair
    reboot(tail, listen=f"{transport}://{RIGHT}:{PORT}")
    point(head, transport, PORT)
    assert_exact(head, small_bundle, 2, lambda count: count == 1)
    ip("-n", "right", "link", "set", "veth1", "down")
    command = head.begin("run", input="selftest", timeout_ms=50_000)
    with pytest.raises(BoardError, match="does not answer"):
        head.finish(command, 2.0)
    ip("-n", "right", "link", "set", "veth1", "up")
    answer = head.finish(command, RUN_S)
    assert decoded(answer) == output(small_bundle, 0)


@pytest.mark.timeout(120)
def test_the_network_that_ships(digits: Path) -> None:
    bundle = bundles.read(digits)
    with host_tail(bundle, "udp") as port, start_head(digits, port) as head:
        head.wait_ready(BOOT_S)
        answer = head.ask("run", RUN_S, input="selftest", timeout_ms=50_000)
    assert decoded(answer) == output(bundle, 0)
