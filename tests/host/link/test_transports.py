"""Real sockets on this machine: UDP and TCP, IPv4 and IPv6, through a bad network."""

import asyncio
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from simulation import BUNDLE

from host.link.driver import LinkClient, LinkServer, Reply, Request
from host.link.errors import (
    BundleMismatchError,
    DeadlineError,
    DuplicateError,
    InvokeFailedError,
    NoPeerError,
)
from host.link.impairment import Impairment, TcpRelay, UdpRelay
from host.link.messages import Phase
from host.link.session import TCP_PROFILE, UDP_PROFILE, Node
from host.link.tcp import TcpClient, TcpServer
from host.link.transport import (
    AddressInUseError,
    ConnectRefusedError,
    TransportError,
    UnreachableError,
)
from host.link.udp import UdpClient, UdpServer
from tests.ports import free_port

TENSOR = bytes(range(256)) * 21 + bytes(112)  # 5,488 bytes.
TAIL, HEAD = Node.tail(BUNDLE), Node.head(BUNDLE)
CLIENTS = {"udp": UdpClient, "tcp": TcpClient}
SERVERS = {"udp": UdpServer, "tcp": TcpServer}
RELAYS: dict[str, Any] = {"udp": UdpRelay, "tcp": TcpRelay}
HOSTS = ["127.0.0.1"]
if socket.has_ipv6:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
        HOSTS.append("::1")
    except OSError:
        pass
KINDS = [(kind, host) for kind in ("udp", "tcp") for host in HOSTS]


def reverse(request: Request) -> list[bytes]:
    return [bytes(tensor)[::-1] for tensor in request.tensors]


async def reverse_in_loop(request: Request) -> Reply:
    return Reply(reverse(request))


def run(work: Awaitable[None]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(work, 25)

    asyncio.run(bounded())


async def exact(client: LinkClient, ids: Sequence[int], deadline_s: float = 10.0) -> None:
    """Many inferences at once; every result is the right one."""

    async def one(number: int) -> None:
        tensors = [TENSOR + number.to_bytes(4, "little"), bytes([number & 255]) * 33]
        result = await client.infer(number, tensors, deadline_s)
        assert [bytes(tensor)[::-1] for tensor in result.tensors] == tensors

    await asyncio.gather(*(one(number) for number in ids))


@pytest.mark.parametrize(("kind", "host"), KINDS)
@pytest.mark.parametrize("handler", [reverse, reverse_in_loop])
def test_inferences(kind: str, host: str, handler: Callable[[Request], Any]) -> None:
    async def work() -> None:
        async with (
            LinkServer(SERVERS[kind](host, 0), TAIL, handler) as server,
            LinkClient(CLIENTS[kind](*server.address), HEAD) as client,
        ):
            await exact(client, range(30))
            result = await client.infer(99, [b"one"], 2.0)
            recorded = {(phase.stage, phase.phase) for phase in result.phases}
            assert {(1, Phase.INVOKE), (1, Phase.QUEUE), (0, Phase.SEND)} <= recorded
            assert result.round_trip_us > 0
            clock = client.clock()
            assert clock is not None
            assert abs(clock.offset_us) <= clock.uncertainty_us + 1

    run(work())


@pytest.mark.parametrize("host", HOSTS)
def test_udp_through_a_terrible_network(host: str) -> None:
    bad = Impairment(loss=0.2, reorder=0.2, corrupt=0.01, duplicate=0.02, delay_ms=1, seed=5)

    async def work() -> None:
        async with (
            LinkServer(UdpServer(host, 0), TAIL, reverse) as server,
            UdpRelay(server.address, bad, host=host) as relay,
            LinkClient(UdpClient(*relay.address), HEAD) as client,
        ):
            await exact(client, range(40))
            there, back = relay.tallies()
            assert there.lost > 10
            assert there.reordered > 10
            assert back.lost > 5
            assert client.endpoint.sending.retransmitted > 0

    run(work())


@pytest.mark.parametrize("host", HOSTS)
def test_tcp_through_a_slow_network(host: str) -> None:
    slow = Impairment(delay_ms=3, jitter_ms=2, rate_bps=20_000_000, seed=5)

    async def work() -> None:
        async with (
            LinkServer(TcpServer(host, 0), TAIL, reverse) as server,
            TcpRelay(server.address, slow, host=host) as relay,
            LinkClient(TcpClient(*relay.address), HEAD) as client,
        ):
            await exact(client, range(40))
            assert relay.tallies()[0].bytes > 40 * len(TENSOR)

    run(work())


def test_tcp_with_flipped_bits_is_exact_or_a_named_error() -> None:
    bad = Impairment(corrupt=0.05, seed=2)
    profile = replace(
        TCP_PROFILE, idle_timeout_us=600_000, retry_pause_us=50_000, rto_min_us=100_000
    )

    async def work() -> None:
        async with (
            LinkServer(TcpServer("127.0.0.1", 0, profile), TAIL, reverse) as server,
            TcpRelay(server.address, bad) as relay,
            LinkClient(TcpClient(*relay.address, profile), HEAD) as client,
        ):
            for number in range(25):
                await exact(client, [number])
            assert relay.tallies()[0].corrupted > 0

    run(work())


@pytest.mark.parametrize("kind", ["udp", "tcp"])
def test_two_heads_at_one_tail(kind: str) -> None:
    async def work() -> None:
        async with LinkServer(SERVERS[kind]("127.0.0.1", 0), TAIL, reverse) as server:
            transports = [CLIENTS[kind](*server.address) for _ in range(2)]
            async with LinkClient(transports[0], HEAD) as a, LinkClient(transports[1], HEAD) as b:
                await asyncio.gather(exact(a, range(25)), exact(b, range(25)))

    run(work())


@pytest.mark.parametrize("kind", ["udp", "tcp"])
def test_tail_dies_in_mid_inference_and_comes_back(kind: str) -> None:
    profile = replace(TCP_PROFILE if kind == "tcp" else UDP_PROFILE, retry_pause_us=100_000)

    async def hang(request: Request) -> list[bytes]:
        await asyncio.sleep(60)
        return []

    async def work() -> None:
        first = LinkServer(SERVERS[kind]("127.0.0.1", 0, profile), TAIL, hang)
        await first.__aenter__()
        port = first.address[1]
        async with LinkClient(CLIENTS[kind]("127.0.0.1", port, profile), HEAD) as client:
            waiting = asyncio.ensure_future(exact(client, range(3)))
            while not client.endpoint.sending.data_frames or client.endpoint.queued:
                await asyncio.sleep(0.01)
            first.endpoint.close_all = lambda *_: None  # type: ignore[method-assign]
            await first.close()  # Without a BYE, as when a process is killed.
            async with LinkServer(SERVERS[kind]("127.0.0.1", port, profile), TAIL, reverse):
                await waiting
                assert client.sessions == 2

    run(work())


@pytest.mark.parametrize("kind", ["udp", "tcp"])
def test_nobody_listens(kind: str) -> None:
    port = free_port()
    profile = replace(UDP_PROFILE, connect_deadline_us=300_000)

    async def work() -> None:
        with pytest.raises((ConnectRefusedError, NoPeerError)) as told:
            async with LinkClient(CLIENTS[kind]("127.0.0.1", port, profile), HEAD):
                pass
        assert f"127.0.0.1:{port}" in str(told.value)
        assert "\n" not in str(told.value)

    run(work())


def test_udp_peer_that_is_silent() -> None:
    profile = replace(UDP_PROFILE, connect_deadline_us=300_000)

    async def work() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
            silent.bind(("127.0.0.1", 0))
            with pytest.raises(NoPeerError, match="udp 127"):
                async with LinkClient(UdpClient(*silent.getsockname(), profile), HEAD):
                    pass

    run(work())


@pytest.mark.parametrize(("kind", "host"), KINDS)
def test_port_in_use(kind: str, host: str) -> None:
    async def work() -> None:
        async with LinkServer(SERVERS[kind](host, 0), TAIL, reverse) as server:
            with pytest.raises(AddressInUseError, match="in use"):
                async with LinkServer(SERVERS[kind](*server.address), TAIL, reverse):
                    pass

    run(work())


@pytest.mark.parametrize("kind", ["udp", "tcp"])
def test_addresses_that_lead_nowhere(kind: str) -> None:
    async def work() -> None:
        with pytest.raises(UnreachableError, match="not a known address"):
            async with LinkClient(CLIENTS[kind]("no.such.host.invalid", 1), HEAD):
                pass
        with pytest.raises(TransportError):
            async with LinkServer(SERVERS[kind]("192.0.2.1", 0), TAIL, reverse):
                pass

    run(work())


@pytest.mark.parametrize("kind", ["udp", "tcp"])
def test_wrong_bundle(kind: str) -> None:
    async def work() -> None:
        async with LinkServer(SERVERS[kind]("127.0.0.1", 0), TAIL, reverse) as server:
            with pytest.raises(BundleMismatchError):
                async with LinkClient(CLIENTS[kind](*server.address), Node.head(bytes(31) + b"x")):
                    pass

    run(work())


def test_handler_that_fails() -> None:
    def broken(request: Request) -> list[bytes]:
        if request.inference_id == 1:
            raise InvokeFailedError("arena too small")
        return [bytes(request.tensors[0])]

    async def work() -> None:
        async with (
            LinkServer(UdpServer("127.0.0.1", 0), TAIL, broken) as server,
            LinkClient(UdpClient(*server.address), HEAD) as client,
        ):
            with pytest.raises(InvokeFailedError, match=r"stage 1.*arena too small"):
                await client.infer(1, [b"x"], 2.0)
            assert bytes((await client.infer(2, [b"y"], 2.0)).tensors[0]) == b"y"

    run(work())


def test_deadline_and_ids_in_use() -> None:
    release = threading.Event()

    def slow(request: Request) -> list[bytes]:
        if request.inference_id == 1:
            release.wait(10)
        return [b"done"]

    async def work() -> None:
        async with (
            LinkServer(UdpServer("127.0.0.1", 0), TAIL, slow) as server,
            LinkClient(UdpClient(*server.address), HEAD) as client,
        ):
            start = time.monotonic()
            with pytest.raises(DeadlineError, match="delivered, but no result"):
                await client.infer(1, [b"x"], 0.2)
            assert time.monotonic() - start < 1.0
            with pytest.raises(DuplicateError):
                await client.infer(1, [b"x"], 0.2)
            release.set()
            assert bytes((await client.infer(2, [b"x"], 5.0)).tensors[0]) == b"done"

    run(work())


def test_more_at_once_than_the_queue_holds() -> None:
    profile = replace(UDP_PROFILE, max_queued=4, slots=2, message_deadline_us=60_000_000)

    async def work() -> None:
        async with (
            LinkServer(UdpServer("127.0.0.1", 0, profile), TAIL, reverse) as server,
            LinkClient(UdpClient(*server.address, profile), HEAD) as client,
        ):
            await exact(client, range(60), 60.0)

    run(work())


def test_control_both_ways() -> None:
    heard: list[Any] = []

    async def work() -> None:
        async with (
            LinkServer(
                UdpServer("127.0.0.1", 0),
                TAIL,
                reverse,
                on_control=lambda _, value: {"echo": value},
            ) as server,
            LinkClient(UdpClient(*server.address), Node.host(), on_control=heard.append) as client,
        ):
            await client.control({"cmd": "info"}, 2.0)
            for _ in range(100):
                if heard:
                    break
                await asyncio.sleep(0.01)
            assert heard == [{"echo": {"cmd": "info"}}]

    run(work())


def test_a_stream_out_of_step_is_closed() -> None:
    async def work() -> None:
        async with LinkServer(TcpServer("127.0.0.1", 0), TAIL, reverse) as server:
            reader, writer = await asyncio.open_connection(*server.address)
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            assert await reader.read() == b""
            writer.close()
            async with LinkClient(TcpClient(*server.address), HEAD) as client:
                await exact(client, range(3))

    run(work())


def test_a_peer_that_never_reads_does_not_hold_up_others() -> None:
    async def work() -> None:
        async with LinkServer(TcpServer("127.0.0.1", 0), TAIL, reverse) as server:
            _, writer = await asyncio.open_connection(*server.address)
            async with LinkClient(TcpClient(*server.address), HEAD) as client:
                await exact(client, range(10))
            writer.close()

    run(work())


class Clogged(UdpClient):
    """A link whose send buffer is full while `stuck` is set."""

    stuck = False

    @property
    def blocked(self) -> bool:
        return self.stuck


def test_a_full_send_buffer_holds_back_and_then_goes_on() -> None:
    async def work() -> None:
        async with LinkServer(UdpServer("127.0.0.1", 0), TAIL, reverse) as server:
            link = Clogged(*server.address)
            async with LinkClient(link, HEAD) as client:
                await exact(client, [0])
                before = client.endpoint.sending.data_frames
                link.stuck = True
                waiting = asyncio.ensure_future(exact(client, range(1, 5)))
                with pytest.raises(DeadlineError, match="not delivered"):
                    await client.infer(9, [b"x"], 0.1)
                assert client.endpoint.sending.data_frames == before
                link.stuck = False
                client.writable()
                await waiting

    run(work())
