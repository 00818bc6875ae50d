"""Speed of the link: overhead, retransmission, time through the stack, and beside its peers.

    make setup-dev && .venv/bin/python experiments/bench_link.py [--quick] [--parts 1,2,3,4]

Prints a table and writes it to experiments/bench_link.md (`--quick`: only with --output). Part 1
and 2 run the C core over a simulated network in simulated time (modelled), part 3 real sockets on
loopback.
Part 4 needs root: it makes two network namespaces with a lossy path between them and sends the
same boundaries by tinysplit, TCP and CoAP (aiocoap) over it. Needs a C compiler; exits 1 when a
bound fails.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import datetime
import fcntl
import json
import logging
import os
import platform
import select
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from host.link.driver import LinkClient, LinkServer, Request
from host.link.events import MessageSent, TensorReceived
from host.link.session import Node, Profile
from host.link.tcp import TcpClient, TcpServer
from host.link.udp import UdpClient, UdpServer
from partitioner.output import whole_file

ROOT = Path(__file__).parents[1]
TENSOR_BYTES = 5488
TENSOR = bytes(range(256)) * 21 + bytes(112)
BUNDLE = bytes(range(32))
MTUS = {"UDP 1452": 1452, "ESP-NOW 250": 250, "ESP-NOW 1470": 1470, "BLE 512": 512}
OVERHEAD_BOUNDS = {"UDP 1452": 0.015, "ESP-NOW 250": 0.04}
LOSSES = (0.01, 0.05, 0.10, 0.20, 0.30)
FRAMES_BOUND = 1.10
LOOPBACK_BOUND = 3.0
# Loss, and how many CoAP clients then work at once: its timeouts are seconds.
PEER_LOSSES = {0.05: 5, 0.10: 10, 0.20: 25}
PEER_DELAY_US = 2000
PEER_COUNT = 500
COAP_PORT = 5683
HERE = "127.0.0.1"


@dataclass
class Row:
    what: str
    value: str
    how: str  # measured, modelled
    bound: str = ""
    holds: bool | None = None

    def cells(self) -> tuple[str, ...]:
        verdict = "" if self.holds is None else "holds" if self.holds else "FAILS"
        return self.what, self.value, self.how, self.bound, verdict


@dataclass
class Part:
    title: str
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def text(self) -> str:
        lines = [f"## {self.title}", ""]
        if self.rows:
            lines += ["| what | figure | how | bound | |", "|---|---|---|---|---|"]
            lines += [f"| {' | '.join(row.cells())} |" for row in self.rows]
            lines.append("")
        for note in self.notes:
            lines += [note, ""]
        return "\n".join(lines)


def build(folder: Path) -> Path:
    """Compiles the C half with the core, the virtual board and the simulated network."""
    compiler = os.environ.get("CC", "cc")
    if shutil.which(compiler) is None:
        raise SystemExit(f"{compiler} not found: install a C compiler, or name one in CC")
    program = folder / "bench_link"
    core = ROOT / "firmware/core"
    board, network = ROOT / "host/boards/virtual", ROOT / "tests/core"
    command = [compiler, "-std=c11", "-O2", "-o", program, "-pthread"]
    command += [f"-I{place}" for place in (core / "include", core / "src", board, network)]
    command += [
        ROOT / "experiments/bench_link.c",
        board / "board.c",
        board / "machine.c",
        network / "network.c",
    ]
    command += sorted((core / "src").glob("*.c"))
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"bench_link.c does not compile:\n{done.stderr}")
    return program


def counted(program: Path, *arguments: object) -> dict[str, int]:
    """What `wire` and `loss` of the C half print."""
    words = [str(program), *map(str, arguments)]
    return json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def overhead(program: Path) -> Part:
    part = Part(f"1. Overhead on the wire, one {TENSOR_BYTES:,}-byte boundary, no loss")
    for name, mtu in MTUS.items():
        found = counted(program, "wire", mtu)
        share = (found["data_bytes"] - TENSOR_BYTES) / TENSOR_BYTES
        bound = OVERHEAD_BOUNDS.get(name)
        part.rows.append(
            Row(
                f"{name}: bytes of DATA frames beyond the payload / payload",
                f"{share:.2%} ({found['data_frames']} frames, {found['data_bytes']} bytes; "
                f"acknowledged by {found['ack_frames']} frame of {found['ack_bytes']} bytes)",
                "modelled",
                f"<= {bound:.1%}" if bound else "",
                share <= bound if bound else None,
            )
        )
    part.notes.append(
        "Modelled: the C core itself, over a simulated network. Frames are those it sends. "
        "IP, UDP and MAC headers below it are not counted."
    )
    return part


def python_frames(mtu: int, loss: float, count: int) -> tuple[float, bool]:
    """DATA frames per boundary of the Python end, and whether all arrived exact."""
    folder = str(ROOT / "tests/host/link")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    import simulation

    sim = simulation.Simulation(mtu, simulation.network(loss=loss))
    head = sim.head(profile=Profile(mtu=mtu))
    sim.tail()
    head.connect(sim.now)
    sim.give_back("tail")
    minute = 60 * simulation.S
    for done in range(1, count + 1):
        tensor = done.to_bytes(4, "little") + TENSOR[4:]
        head.send_tensor(done, [tensor], sim.now, deadline_us=sim.now + minute)
        if not sim.run(minute, lambda done=done: len(sim.of("head", MessageSent)) == done):
            return 0.0, False
    exact = all(
        bytes(event.tensors[0]) == event.inference_id.to_bytes(4, "little") + TENSOR[4:]
        for event in sim.of("tail", TensorReceived)
    )
    frames = sum(event.frames for event in sim.of("head", MessageSent))
    return frames / count, exact and len(sim.of("tail", TensorReceived)) == count


def retransmission(program: Path, count: int, python_count: int) -> Part:
    part = Part("2. DATA frames sent under independent loss, each way, over n / (1 - p)")
    for name in ("UDP 1452", "ESP-NOW 250"):
        mtu = MTUS[name]
        pieces = counted(program, "wire", mtu)["data_frames"]
        for loss in LOSSES:
            found = counted(program, "loss", mtu, count, round(loss * 10000))
            least = pieces / (1 - loss)
            exact = found["delivered"] == count and found["inexact"] == 0
            ours = found["data_frames"] / count / least
            there, there_exact = python_frames(mtu, loss, python_count)
            for end, ratio, whole, of in (
                ("C core", ours, exact, count),
                ("Python end", there / least, there_exact, python_count),
            ):
                said = f"all {of:,} exact" if whole else "NOT all exact"
                part.rows.append(
                    Row(
                        f"{name}, loss {loss:.0%}, {end}",
                        f"{ratio:.3f} ({said})",
                        "modelled",
                        f"<= {FRAMES_BOUND:.2f}",
                        ratio <= FRAMES_BOUND and whole,
                    )
                )
    part.notes.append(
        "One boundary at a time; only its acknowledgement ends it (a RESULT would do as well, and "
        "hide what lost acknowledgements cost). 1 ms one way."
    )
    return part


class Race:
    """The C half's `race`: boundaries over real sockets, variants in turn."""

    def __init__(
        self,
        program: Path,
        variants: list[str],
        *,
        spaces: tuple[str, str] = ("-", "-"),
        host: str = HERE,
        cores: tuple[int, int] = (-1, -1),
    ) -> None:
        words = [str(program), "race", *spaces, host, *map(str, cores), *variants]
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.times_us: dict[str, list[float]] = defaultdict(list)
        self.failed: dict[str, int] = defaultdict(int)
        self.frames: dict[str, int] = defaultdict(int)
        self.resent: dict[str, int] = defaultdict(int)

    def __enter__(self) -> Race:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def run(self, count: int, pause_us: int, timeout_s: float = 600.0) -> None:
        """Sends `count` boundaries of each variant. Raises SystemExit if the C half stops."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{count} {pause_us}\n")
        self._process.stdin.flush()
        if not select.select([self._process.stdout], [], [], timeout_s)[0]:
            raise SystemExit(f"a race took longer than {timeout_s:g} s")
        for line in self._process.stdout:
            if line == "done\n":
                return
            name, verdict, took_ns, frames, resent = line.split()
            if verdict == "ok":
                self.times_us[name].append(int(took_ns) / 1000)
            else:
                self.failed[name] += 1
            self.frames[name] += int(frames)
            self.resent[name] += int(resent)
        raise SystemExit("bench_link race stopped")

    def keep_on(self, count: int, seconds: float) -> None:
        """Sends boundaries 1 ms apart until so many are delivered or the time is over."""
        end = time.monotonic() + seconds
        while sum(map(len, self.times_us.values())) < count and time.monotonic() < end:
            self.run(1, 1000)


def loopback_c(program: Path, part: Part, count: int) -> None:
    variants = ["ours_udp", "udp_one", "ours_udp_one", "udp_many", "ours_tcp", "tcp"]
    pairs = (
        ("UDP 1452 over one bare datagram of 5,488 bytes", "ours_udp", "udp_one", True),
        ("UDP 1452 over as many bare datagrams of 1,452", "ours_udp", "udp_many", False),
        ("UDP 16384 over one bare datagram of 5,488 bytes", "ours_udp_one", "udp_one", False),
        ("TCP over a bare TCP socket", "ours_tcp", "tcp", True),
    )
    usable = sorted(os.sched_getaffinity(0))
    placements = [("one core for both", (usable[0], usable[0]), False)]
    if len(usable) > 1:
        placements.insert(0, ("a core for each end", (usable[0], usable[-1]), True))
    for where, cores, own in placements:
        for pause_us in (1000, 0):
            with Race(program, variants, cores=cores) as race:
                race.run(50, pause_us)
                race.times_us.clear()
                race.run(count, pause_us)
            pace = f"{pause_us / 1000:g} ms apart" if pause_us else "back to back"
            for what, ours, bare, bounded in pairs:
                found = [statistics.median(race.times_us[name] or [0.0]) for name in (ours, bare)]
                ratio = found[0] / max(found[1], 1e-9)
                judged = bounded and own and pause_us > 0
                whole = not race.failed[ours] and bool(race.times_us[ours])
                part.rows.append(
                    Row(
                        f"C core, {where}, {pace}: {what}",
                        f"{ratio:.2f} ({found[0]:.1f} us / {found[1]:.1f} us)",
                        "measured",
                        f"<= {LOOPBACK_BOUND:g}" if judged else "",
                        ratio <= LOOPBACK_BOUND and whole if judged else None,
                    )
                )


def receive_bare(kind: int) -> int:
    """Serves one bare Python socket in a thread: answers each boundary with when it was whole."""
    listener = socket.socket(socket.AF_INET, kind)
    listener.bind((HERE, 0))
    if kind == socket.SOCK_STREAM:
        listener.listen(1)

    def stream() -> None:
        connection, _ = listener.accept()
        left = TENSOR_BYTES
        while data := connection.recv(left):
            left -= len(data)
            if left == 0:
                connection.sendall(struct.pack("<q", time.monotonic_ns()))
                left = TENSOR_BYTES

    def datagrams() -> None:
        while True:
            _, peer = listener.recvfrom(TENSOR_BYTES)
            listener.sendto(struct.pack("<q", time.monotonic_ns()), peer)

    target = stream if kind == socket.SOCK_STREAM else datagrams
    threading.Thread(target=target, daemon=True).start()
    return listener.getsockname()[1]


async def child_python_tail() -> None:
    """The other process of part 3: tails and bare receivers; says their ports."""

    async def stamp(request: Request) -> list[bytes]:
        at = time.monotonic_ns()
        return [struct.pack("<q", at), bytes(request.tensors[0][:4])]

    node = Node.tail(BUNDLE)
    async with (
        LinkServer(UdpServer(HERE, 0), node, stamp) as udp,
        LinkServer(TcpServer(HERE, 0), node, stamp) as tcp,
    ):
        ports = [udp.address[1], tcp.address[1]]
        ports += [receive_bare(kind) for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM)]
        print(json.dumps(ports), flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


async def loopback_python(part: Part, count: int) -> None:
    words = [sys.executable, str(Path(__file__).resolve()), "--child", "python-tail"]
    child = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    try:
        ports = json.loads(child.stdout.readline())
        bare = []
        for kind, port in zip((socket.SOCK_DGRAM, socket.SOCK_STREAM), ports[2:], strict=True):
            one = socket.socket(socket.AF_INET, kind)
            one.connect((HERE, port))
            bare.append(one)
        node = Node.head(BUNDLE)
        times: dict[str, list[float]] = defaultdict(list)
        async with (
            LinkClient(UdpClient(HERE, ports[0]), node) as udp,
            LinkClient(TcpClient(HERE, ports[1]), node) as tcp,
        ):
            for number in range(1, count + 51):
                tensor = number.to_bytes(4, "little") + TENSOR[4:]
                for name, client, plain in (("UDP", udp, bare[0]), ("TCP", tcp, bare[1])):
                    await asyncio.sleep(0.001)
                    start = time.monotonic_ns()
                    result = await client.infer(number, [tensor], 10.0)
                    if bytes(result.tensors[1]) != tensor[:4]:
                        raise SystemExit("the Python end delivered something else")
                    (at,) = struct.unpack("<q", result.tensors[0])
                    await asyncio.sleep(0.001)
                    again = time.monotonic_ns()
                    plain.sendall(tensor)
                    (bare_at,) = struct.unpack("<q", plain.recv(8))
                    if number > 50:
                        times[name].append((at - start) / 1000)
                        times[f"bare {name}"].append((bare_at - again) / 1000)
    finally:
        child.kill()
        child.communicate()
    for name in ("UDP", "TCP"):
        ours, plain_us = (statistics.median(times[key]) for key in (name, f"bare {name}"))
        part.rows.append(
            Row(
                f"Python end, two processes, 1 ms apart: {name} over a bare Python socket",
                f"{ours / plain_us:.2f} ({ours:.0f} us / {plain_us:.0f} us)",
                "measured",
            )
        )
    for one in bare:
        one.close()


def loopback(program: Path, count: int) -> Part:
    part = Part(
        f"3. One-way time of a {TENSOR_BYTES:,}-byte message on loopback, over bare sockets"
    )
    loopback_c(program, part, count)
    asyncio.run(loopback_python(part, count))
    part.notes += [
        f"Ratio of medians of {count:,} messages each, sent in turn in one run. From the message "
        "handed to the link to the tail's engine called with it (bare: from before sendto to after "
        "recvfrom); the C receiver compares every byte. Head and tail are threads of one process "
        "(C), so the clock is one.",
        "The bound is judged with a core for each end, as two boards have, and 1 ms between "
        "messages, so that the receiver sleeps as it would between inferences.",
    ]
    return part


# Part 4: two network namespaces and what is between them.


def ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"ip {' '.join(words)}: {done.stderr.strip()}")


def inside(space: str, *words: str) -> list[str]:
    return ["ip", "netns", "exec", space, *words]


def no_offload(device: str) -> None:
    """Frames leave as they would on a wire: no TCP segmentation or merging by the device.

    struct ethtool_value by SIOCETHTOOL, as `ethtool -K DEVICE tso off gso off gro off`.
    """
    set_tso, set_gso, set_gro, ethtool = 0x1F, 0x24, 0x2C, 0x8946
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for command in (set_tso, set_gso, set_gro):
            value = ctypes.create_string_buffer(struct.pack("II", command, 0))
            request = struct.pack("16sP16x", device.encode(), ctypes.addressof(value))
            fcntl.ioctl(any_socket, ethtool, request)


@contextlib.contextmanager
def two_spaces() -> Iterator[tuple[str, str]]:
    """Two namespaces that go away with this process, however it ends."""
    names = (f"tsbench{os.getpid()}a", f"tsbench{os.getpid()}b")
    # Ends when its stdin does, which a kill -9 of this process does as well.
    clean = "cat >/dev/null; " + "; ".join(f"ip netns del {name} 2>/dev/null" for name in names)
    guard = subprocess.Popen(["sh", "-c", clean], stdin=subprocess.PIPE, start_new_session=True)
    try:
        for name in names:
            ip("netns", "add", name)
        yield names
    finally:
        assert guard.stdin is not None
        guard.stdin.close()
        guard.wait(10)


@contextlib.contextmanager
def veth_path(spaces: tuple[str, str], loss: float) -> Iterator[None]:
    """A veth pair; nft drops a share of what arrives at either end."""
    a, b = spaces
    ip("-n", a, "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", b)
    for space, number in ((a, 1), (b, 2)):
        ip("-n", space, "addr", "add", f"10.1.1.{number}/24", "dev", "wire")
        ip("-n", space, "link", "set", "wire", "up")
        me = str(Path(__file__).resolve())
        subprocess.run(inside(space, sys.executable, me, "--child", "no-offload"), check=True)
        rules = (
            "table inet bench { chain in { type filter hook input priority 0; "
            f'iifname "wire" meta l4proto {{ tcp, udp }} numgen random mod 1000 < '
            f"{round(loss * 1000)} drop; }}; }}"
        )
        subprocess.run(inside(space, "nft", rules), check=True)
    try:
        yield
    finally:
        for space in spaces:
            subprocess.run(inside(space, "nft", "delete table inet bench"), check=False)
        ip("-n", a, "link", "del", "wire")


@contextlib.contextmanager
def relay_path(program: Path, spaces: tuple[str, str], loss: float) -> Iterator[None]:
    """A pair of tun devices with the C half's relay between them: loss and delay."""
    words = [str(program), "relay", *map(space_file, spaces)]
    words += [str(round(loss * 10000)), str(PEER_DELAY_US)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        if process.stdout.readline() != "ready\n":
            raise SystemExit("the relay did not start: is /dev/net/tun there?")
        for space, number in zip(spaces, (1, 2), strict=True):
            ip("-n", space, "addr", "add", f"10.1.1.{number}/24", "dev", "wire")
            ip("-n", space, "link", "set", "wire", "up")
        yield
    finally:
        process.kill()
        process.communicate()


def space_file(name: str) -> str:
    return f"/run/netns/{name}"


def have_aiocoap() -> bool:
    try:
        import aiocoap  # noqa: F401
    except ImportError:
        return False
    return True


async def child_coap_server(host: str) -> None:
    """Answers each PUT with when its last block was here."""
    import aiocoap
    import aiocoap.resource

    class Boundary(aiocoap.resource.Resource):
        async def render_put(self, request: Any) -> Any:
            at = time.monotonic_ns()
            whole = len(request.payload) == TENSOR_BYTES and request.payload[4:] == TENSOR[4:]
            code = aiocoap.CHANGED if whole else aiocoap.BAD_REQUEST
            return aiocoap.Message(code=code, payload=struct.pack("<q", at))

    site = aiocoap.resource.Site()
    site.add_resource(["boundary"], Boundary())
    context = await aiocoap.Context.create_server_context(
        site, bind=(host, COAP_PORT), transports=["udp6"]
    )
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await context.shutdown()


class _Retransmissions(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += str(record.msg).startswith("Retransmission")


async def child_coap_client(host: str, clients: int, count: int, seconds: float) -> None:
    """PUTs `count` boundaries, each of several clients one at a time; prints what they took."""
    import aiocoap

    seen = _Retransmissions()
    log = logging.getLogger("coap")
    log.addHandler(seen)
    log.setLevel(logging.INFO)
    log.propagate = False
    times: list[float] = []
    failed = 0
    begun = 0
    end = time.monotonic() + seconds

    async def client() -> None:
        nonlocal failed, begun
        context = await aiocoap.Context.create_client_context()
        while begun < count and time.monotonic() < end:
            begun += 1
            number = begun.to_bytes(4, "little")
            request = aiocoap.Message(
                code=aiocoap.PUT, uri=f"coap://{host}/boundary", payload=number + TENSOR[4:]
            )
            start = time.monotonic_ns()
            try:
                left = max(end - time.monotonic(), 0.1) + 30
                answer = await asyncio.wait_for(context.request(request).response, left)
                (at,) = struct.unpack("<q", answer.payload)
                times.append((at - start) / 1000)
            except (aiocoap.error.Error, asyncio.TimeoutError, struct.error):
                failed += 1
        await context.shutdown()

    await asyncio.gather(*(client() for _ in range(clients)))
    print(json.dumps({"times_us": times, "failed": failed, "resent": seen.count}), flush=True)


def statistics_of(times_us: list[float]) -> tuple[float, float, float]:
    """Median, mean and 95th percentile."""
    ordered = sorted(times_us)
    late = ordered[min(len(ordered) * 95 // 100, len(ordered) - 1)]
    return statistics.median(ordered), statistics.fmean(ordered), late


def peers_at(
    program: Path,
    spaces: tuple[str, str],
    part: Part,
    loss: float,
    seconds: float,
    *,
    delayed: bool,
) -> None:
    """One cell: tinysplit, TCP and CoAP over the same path at the same time."""
    where = f"{PEER_DELAY_US / 1000:g} ms each way" if delayed else "no delay"
    me = [sys.executable, str(Path(__file__).resolve()), "--child"]
    host = "10.1.1.2"
    variants = ["ours_udp", "tcp", "tcp_nodelay"]
    children: list[subprocess.Popen[str]] = []
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    coap: dict[str, Any] | None = None
    races: dict[str, Race] = {}
    try:
        if have_aiocoap():
            children.append(subprocess.Popen(inside(spaces[1], *me, "coap-server", host), **pipes))
            children[0].stdout.readline()
            client = inside(spaces[0], *me, "coap-client", host, str(PEER_LOSSES[loss]))
            client += ["100", str(seconds)]
            children.append(subprocess.Popen(client, **pipes))
        files = (space_file(spaces[0]), space_file(spaces[1]))
        with contextlib.ExitStack() as stack:
            for name in variants:
                races[name] = stack.enter_context(Race(program, [name], spaces=files, host=host))
            runners = [
                threading.Thread(target=race.keep_on, args=(PEER_COUNT, seconds), daemon=True)
                for race in races.values()
            ]
            for runner in runners:
                runner.start()
            for runner in runners:
                runner.join(seconds + 60)
        if have_aiocoap():
            answer, _ = children[1].communicate(timeout=seconds + 120)
            coap = json.loads(answer)
    finally:
        for child in children:
            child.kill()
            child.communicate()
    empty = [name for name in variants if not races[name].times_us[name]]
    if empty:
        raise SystemExit(f"{', '.join(empty)}: nothing was delivered at {loss:.0%} loss")
    found = {name: statistics_of(races[name].times_us[name]) for name in variants}
    done = {name: len(races[name].times_us[name]) for name in variants}
    failed = {name: races[name].failed[name] for name in variants}
    resent = {name: races[name].resent[name] for name in variants}
    if coap is not None and coap["times_us"]:
        found["coap"] = statistics_of(coap["times_us"])
        done["coap"] = len(coap["times_us"])
        failed["coap"], resent["coap"] = coap["failed"], coap["resent"]
    titles = {
        "ours_udp": "tinysplit, C core, UDP",
        "tcp": "TCP, kernel defaults",
        "tcp_nodelay": "TCP, TCP_NODELAY",
        "coap": "CoAP block-wise (aiocoap)",
    }
    ours = found["ours_udp"]
    for name, (median, mean, late) in found.items():
        goodput = TENSOR_BYTES * 8 / mean
        ahead = ours[1] < mean and (ours[0] < median or not delayed)
        bound = "ours ahead in median and mean" if delayed else "ours ahead in mean"
        mine = name == "ours_udp"
        part.rows.append(
            Row(
                f"{where}, loss {loss:.0%}: {titles[name]}",
                f"median {median / 1000:.2f} ms, mean {mean / 1000:.2f}, p95 {late / 1000:.2f}; "
                f"goodput {goodput:.3g} Mbit/s; {resent[name] / max(done[name], 1):.2f} resent "
                f"each; {done[name]} delivered, {failed[name]} not",
                "measured",
                "" if mine else bound,
                None if mine else ahead and not failed["ours_udp"],
            )
        )
        print(" | ".join(part.rows[-1].cells()), file=sys.stderr, flush=True)


def peers(program: Path, seconds: float) -> Part:
    part = Part(f"4. Time to deliver {TENSOR_BYTES:,} bytes beside peers, over the same lossy path")
    if os.geteuid() != 0:
        part.notes.append("Part 4 needs root (network namespaces) and was skipped.")
        return part
    missing = [tool for tool in ("ip", "nft") if shutil.which(tool) is None]
    if missing:
        part.notes.append(f"Part 4 needs {' and '.join(missing)} and was skipped.")
        return part
    if not have_aiocoap():
        part.notes.append("aiocoap is not installed (pip install aiocoap): no CoAP figures.")
    for loss in PEER_LOSSES:
        with two_spaces() as spaces, relay_path(program, spaces, loss):
            peers_at(program, spaces, part, loss, seconds, delayed=True)
    for loss in PEER_LOSSES:
        with two_spaces() as spaces, veth_path(spaces, loss):
            peers_at(program, spaces, part, loss, seconds, delayed=False)
    part.notes += [
        "Two network namespaces; 1500-byte path. `2 ms each way`: tun devices and a relay that "
        "delays and loses packets of any kind; `no delay`: a veth pair without segmentation "
        "offload, nft drops packets at both ends. From the sender's start to the last byte at the "
        "receiver, one boundary at a time; CoAP: several clients at once "
        f"({', '.join(str(clients) for clients in PEER_LOSSES.values())}), since its timeouts are "
        "seconds, PUT with 1,024-byte blocks and the default transmission parameters "
        "of RFC 7252 (ACK_TIMEOUT 2 s, 4 retransmissions), failures left out of its "
        "times; what its server resent is not counted. TCP: "
        "one persistent connection, a 1-byte answer from the application before the next. "
        f"At most {PEER_COUNT} boundaries and {seconds:g} s per cell.",
        "Without any delay the bound is on the mean alone: an undisturbed delivery, which is what "
        "a median is at 5 and 10 % loss, there costs TCP nothing but the kernel's own work, and "
        "part 3 says what ours costs beside it.",
    ]
    return part


def machine() -> str:
    kernel = platform.release().split(".")[0]
    return (
        f"{os.cpu_count()} cores, {platform.system()} {kernel}, Python "
        f"{platform.python_version()}, {platform.machine()}"
    )


async def _child(words: list[str]) -> None:
    if words[0] == "python-tail":
        await child_python_tail()
    elif words[0] == "coap-server":
        await child_coap_server(words[1])
    elif words[0] == "coap-client":
        await child_coap_client(words[1], int(words[2]), int(words[3]), float(words[4]))
    elif words[0] == "no-offload":
        no_offload("wire")


def _leave(number: int, _: object) -> None:
    raise SystemExit(128 + number)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="a few seconds: parts 1, 2 and 3")
    parser.add_argument("--parts", default=None, help="such as 1,3")
    parser.add_argument("--output", type=Path, default=None)
    parser.add_argument("--seconds", type=float, default=240.0, help="per cell of part 4")
    parser.add_argument("--child", nargs="+", default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        asyncio.run(_child(options.child))
        return
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    chosen = options.parts or ("1,2,3" if options.quick else "1,2,3,4")
    output = options.output or (None if options.quick else ROOT / "experiments/bench_link.md")
    parts: list[Part] = []
    with tempfile.TemporaryDirectory() as name:
        program = build(Path(name))
        makers = {
            "1": lambda: overhead(program),
            "2": lambda: retransmission(program, *((100, 50) if options.quick else (1000, 200))),
            "3": lambda: loopback(program, 300 if options.quick else 2000),
            "4": lambda: peers(program, options.seconds),
        }
        for key in chosen.split(","):
            if key not in makers:
                raise SystemExit(f"--parts takes 1, 2, 3 and 4, not {key!r}")
            parts.append(makers[key]())
            print(parts[-1].text(), flush=True)
    rows = [row for part in parts for row in part.rows]
    failed = [row.what for row in rows if row.holds is False]
    if output is not None:
        words = " ".join(["python experiments/bench_link.py", *sys.argv[1:]])
        head = [
            "# What the link costs",
            "",
            f"Made by `{words}`, {datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d}; "
            f"{machine()}.",
            "",
            "",
        ]
        with whole_file(output) as temporary:
            temporary.write_text("\n".join(head) + "\n".join(part.text() for part in parts))
    if failed:
        raise SystemExit("over the bound: " + "; ".join(failed))


if __name__ == "__main__":
    main()
