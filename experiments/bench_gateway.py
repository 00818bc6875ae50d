"""What the gateway costs, beside bare engines and other servers.

    .venv/bin/python experiments/bench_gateway.py [--parts 1,2] [--quick] [--peers grpc,fastapi]
    .venv/bin/python experiments/bench_gateway.py --soak 60     # memory at saturation, in minutes

Throughput, latency, memory and fairness; about seven minutes, and it wants a quiet machine. Part 1:
one gateway, one engine on one core, 1 to 1,000 heads (the shipping C core over UDP, by
experiments/load) against the same stage in a bare loop on the same core, block by block in a drawn
order. Part 2: the same tail behind gRPC, HTTP and Triton, at equal offered rates and at saturation;
for these:

    pip install grpcio fastapi 'uvicorn[standard]' aiohttp

Triton (`pip install nvidia-pytriton`) needs numpy below 2, so an environment of its own with this
project's dependencies in it: name its Python by --triton-python. What is not installed is left out,
and the page says so. Needs a C compiler and two cores. Writes bench_gateway.md; exits 1 if a bound
does not hold, a result was wrong or a request was lost.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.util
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from load.generator import Heads, LoadError, Report, build, write_examples
from load.peers import GRPC_PATH, HOST, HTTP_PATH, TRITON_PATH

from host.bench import environment
from partitioner import bundle as bundles
from partitioner.output import whole_file

HERE = Path(__file__).parent
PEERS_SCRIPT = HERE / "load/peers.py"
MODEL = "mobilenet_v2"
LAYER = "block_16_project_BN"
BOUND = 0.90  # of the bare loop's throughput
FLAT_MB_PER_HOUR = 4.0
HEADS = (1, 10, 100, 1000)
PIPELINED = 4  # requests that a single head has under way: it need not wait for its results
PEER_HEADS = 20
LOADS = (0.25, 0.50, 0.75)  # of the bare loop's rate
START_S = 60.0
MB = 1 << 20
IN_LOOP = "in the loop"  # The leanest there is: no thread, no process, and nothing else meanwhile.
PEERS = {
    "grpc": ("gRPC, thread pool", "grpc", ("--path", GRPC_PATH), ("grpc",)),
    "grpc-aio": (f"gRPC, asyncio, {IN_LOOP}", "grpc", ("--path", GRPC_PATH), ("grpc",)),
    "fastapi": (
        "HTTP, FastAPI, thread pool",
        "http",
        ("--path", HTTP_PATH),
        ("fastapi", "uvicorn"),
    ),
    "fastapi-loop": (
        f"HTTP, FastAPI, {IN_LOOP}",
        "http",
        ("--path", HTTP_PATH),
        ("fastapi", "uvicorn"),
    ),
    "aiohttp": (f"HTTP, aiohttp, {IN_LOOP}", "http", ("--path", HTTP_PATH), ("aiohttp",)),
    "triton": (
        "HTTP, Triton (pytriton)",
        "http",
        ("--path", TRITON_PATH, "--header", "Inference-Header-Content-Length: 0"),
        (),
    ),
}


@dataclass
class Part:
    """A piece of the page, and what did not hold."""

    title: str
    lines: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def text(self) -> str:
        return "\n".join([f"## {self.title}", "", *self.lines, ""])


@dataclass(frozen=True)
class Setting:
    """What everything here runs with."""

    program: Path
    bundle: Path
    examples: Path
    engine_core: int
    link_core: int
    seconds: float  # of a block
    triton_python: Path | None


def interval(
    values: Sequence[float],
    of: Callable[[list[float]], float] = statistics.median,
    draws: int = 4000,
) -> tuple[float, float]:
    """95 % bootstrap interval (Efron 1979, percentile method)."""
    rng = random.Random(2)
    found = sorted(of(rng.choices(values, k=len(values))) for _ in range(draws))
    return found[round(0.025 * draws)], found[round(0.975 * draws) - 1]


def free_port() -> int:
    """One that neither UDP nor TCP uses now."""
    while True:
        with socket.socket() as stream, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
            stream.bind((HOST, 0))
            port: int = stream.getsockname()[1]
            with contextlib.suppress(OSError):
                datagrams.bind((HOST, port))
                return port


def children(pid: int) -> list[int]:
    """A process and those it started."""
    found = [pid]
    for one in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{one}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def rss_bytes(pids: Sequence[int]) -> int:
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
            total += int(pages) * os.sysconf("SC_PAGE_SIZE")
    return total


def cpu_s(pid: int) -> float:
    """What all threads of a process have used so far."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def running(words: Sequence[object], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A server as a process; ended with SIGTERM, and killed if that does not help."""
    process = subprocess.Popen(
        [str(word) for word in words], stdout=subprocess.PIPE, text=True, **options
    )
    try:
        yield process
    finally:
        every = children(process.pid)
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pid in every[1:]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert process.stdout is not None
        process.stdout.close()


@contextlib.contextmanager
def gateway(setting: Setting, port: int, *options: object) -> Iterator[subprocess.Popen[str]]:
    """`tinysplit gateway` with one engine on UDP and TCP, ready to serve."""
    words = [Path(sys.executable).parent / "tinysplit", "gateway", setting.bundle, "--json"]
    words += ["--listen", f"udp://{HOST}:{port}", "--listen", f"tcp://{HOST}:{port}"]
    words += ["--engines", 1, "--every", 3600, *options]
    with running(words) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if json.loads(line)["event"] == "ready":
                yield process
                return
        raise SystemExit("the gateway does not start")


def connectable(port: int, process: subprocess.Popen[str]) -> None:
    """Waits until somebody listens."""
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), 1):
            return
        time.sleep(0.1)
    raise SystemExit(f"no server on port {port}")


class Bare:
    """The stage in a loop on one core, a block at a time."""

    def __init__(self, setting: Setting) -> None:
        self._words = [sys.executable, PEERS_SCRIPT, "bare", setting.bundle]
        self._core = setting.engine_core

    def __enter__(self) -> Bare:
        self._stack = contextlib.ExitStack()
        self._process = self._stack.enter_context(running(self._words, stdin=subprocess.PIPE))
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            raise SystemExit("the bare loop does not start")
        os.sched_setaffinity(self._process.pid, {self._core})
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def per_second(self, seconds: float) -> float:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()
        found = json.loads(self._process.stdout.readline())
        if found["wrong"]:
            raise SystemExit("the bare loop computes something else than the bundle says")
        return float(found["per_second"])


def judged(part: Part, report: Report, what: str) -> None:
    """Every result exact, none lost."""
    if report["wrong"] or report["lost"]:
        part.failed.append(
            f"{what}: {report['wrong']} results wrong, lost: {report['errors'] or 'none'}"
        )


def ms(us: float) -> str:
    return f"{us / 1000:.2f} ms" if us < 100_000 else f"{us / 1000:.0f} ms"


def throughput(setting: Setting, pairs: int) -> Part:
    """Part 1."""
    part = Part("1. Throughput against a bare loop")
    part.lines += [
        "| heads | bare loop | gateway | of the bare loop, median of pairs | bound | p50 | p99 | "
        "requests per head, min to max | CPU of the link process per request |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    rng = random.Random(1)
    port = free_port()
    memory: dict[int, int] = {}
    cases = [(HEADS[0], 1), *((n, PIPELINED if n == 1 else 1) for n in HEADS)]
    options = ("--engine-cores", setting.engine_core)
    with gateway(setting, port, *options) as server, Bare(setting) as bare:
        os.sched_setaffinity(server.pid, {setting.link_core})
        for count, outstanding in cases:
            rates, blocks, spent = defaultdict(list), [], []
            with Heads(
                setting.program,
                "udp",
                (HOST, port),
                setting.examples,
                count=count,
                core=setting.link_core,
            ) as heads:
                for _ in range(pairs):
                    for kind in rng.sample(["bare", "gateway"], 2):
                        if kind == "bare":
                            rates[kind].append(bare.per_second(setting.seconds))
                            continue
                        before = cpu_s(server.pid)
                        report = heads.closed(setting.seconds, outstanding=outstanding)
                        spent.append((cpu_s(server.pid) - before) * 1e6 / report["exact"])
                        rates[kind].append(report["per_second"])
                        blocks.append(report)
                        judged(part, report, f"{count} heads")
                memory[count] = rss_bytes(children(server.pid))
            ratios = [g / b for g, b in zip(rates["gateway"], rates["bare"], strict=True)]
            low, high = interval(ratios)
            found = statistics.median(ratios)
            judged_by = (count, outstanding) != (1, 1)
            name = f"{count:,}" if count > 1 else f"1, {outstanding} request(s) under way"
            if judged_by and found < BOUND:
                part.failed.append(f"{name} heads: {found:.1%} of the bare loop")
            latency = {
                q: statistics.median(one["latency_us"][q] for one in blocks) for q in ("p50", "p99")
            }
            least = min(one["per_head"]["min"] for one in blocks)
            most = max(one["per_head"]["max"] for one in blocks)
            part.lines.append(
                f"| {name} | {statistics.median(rates['bare']):,.0f}/s | "
                f"{statistics.median(rates['gateway']):,.0f}/s | "
                f"{found:.1%} ({low:.1%} to {high:.1%}, 95 %) | "
                f"{f'>= {BOUND:.0%}' if judged_by else ''} | {ms(latency['p50'])} | "
                f"{ms(latency['p99'])} | {least} to {most} | {statistics.median(spent):.0f} us |"
            )
            print(part.lines[-1], flush=True)
    per_head = (memory[HEADS[-1]] - memory[HEADS[0]]) / (HEADS[-1] - HEADS[0])
    part.lines += [
        "",
        f"Memory: {memory[HEADS[0]] / MB:.1f} MB with one head, {memory[HEADS[-1]] / MB:.1f} MB "
        f"with {HEADS[-1]:,} at saturation (RSS of link process and engine): "
        f"{per_head / 1024:.1f} kB per head, measured.",
        "",
        f"All measured, UDP, {pairs} pairs of blocks of {setting.seconds:g} s per line, each head "
        "with one request under way unless the line says otherwise; latency is the median of the "
        "blocks' percentiles, and at saturation it is the queue. The bare loop runs the stage by "
        f"the same interpreter alone on core {setting.engine_core} while the gateway stands still; "
        "the gateway's only engine has the same core. The link process and the heads share core "
        f"{setting.link_core}, which the bare loop leaves idle: the ratio says whether the link "
        "keeps an engine busy, and the last column what it costs beside it. A lone head with one "
        "request at a time cannot keep an engine busy over any link: its first line has no bound.",
    ]
    return part


@dataclass
class Server:
    """One that part 2 compares."""

    name: str
    heads: Heads
    rate: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    p50: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    p99: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))


def peer_words(setting: Setting, kind: str, port: int) -> list[object] | None:
    """The command that serves; None: not installed."""
    python: Path | str | None = sys.executable
    if kind == "triton":
        python = setting.triton_python
    elif not all(importlib.util.find_spec(module) for module in PEERS[kind][3]):
        python = None
    return None if python is None else [python, PEERS_SCRIPT, kind, setting.bundle, port]


def open_servers(
    setting: Setting, kinds: Sequence[str], stack: contextlib.ExitStack, part: Part
) -> list[Server]:
    """The gateway and the peers that are installed, each with its clients connected."""

    def clients(protocol: str, port: int, extra: Sequence[str] = ()) -> Heads:
        return stack.enter_context(
            Heads(
                setting.program,
                protocol,
                (HOST, port),
                setting.examples,
                count=PEER_HEADS,
                core=setting.link_core,
                extra=extra,
            )
        )

    port = free_port()
    stack.enter_context(gateway(setting, port, "--engine-cores", setting.engine_core))
    servers = [
        Server("tinysplit gateway, UDP", clients("udp", port)),
        Server("tinysplit gateway, TCP", clients("tcp", port)),
    ]
    for kind in kinds:
        title, protocol, extra, _ = PEERS[kind]
        port = free_port()
        words = peer_words(setting, kind, port)
        if words is None:
            part.lines.append(f"{title}: not installed, so not measured.")
            continue
        process = stack.enter_context(running(words, stderr=subprocess.DEVNULL))
        connectable(port, process)
        if kind == "triton":
            assert process.stdout is not None
            while process.stdout.readline() != "ready\n":
                if process.poll() is not None:
                    raise SystemExit("Triton does not start")
        servers.append(Server(title, clients(protocol, port, extra)))
    return servers


def bounded(name: str, load: float) -> bool:
    """Whether the gateway is to be ahead: of all at the highest load, of those that do not stand
    still while they compute at every one."""
    return "tinysplit" not in name and (load == max(LOADS) or IN_LOOP not in name)


def compare(setting: Setting, kinds: Sequence[str], rounds: int) -> Part:
    """Part 2."""
    part = Part("2. Beside other servers")
    rng = random.Random(3)
    with contextlib.ExitStack() as stack:
        with Bare(setting) as bare:
            whole = statistics.median(bare.per_second(setting.seconds) for _ in range(3))
        servers = open_servers(setting, kinds, stack, part)
        for number in range(rounds):
            for load in (*LOADS, 1.0):
                for server in rng.sample(servers, len(servers)):
                    what = f"{load:.0%}"
                    if load < 1:
                        report = server.heads.open(
                            setting.seconds, load * whole, seed=number + 1, warm_s=0.3
                        )
                    else:
                        report = server.heads.closed(setting.seconds, warm_s=0.3)
                    if "tinysplit" in server.name:
                        judged(part, report, f"{server.name}, {what}")
                    server.rate[what].append(report["per_second"])
                    server.p50[what].append(report["latency_us"]["p50"])
                    server.p99[what].append(report["latency_us"]["p99"])
    for load in LOADS:
        what = f"{load:.0%}"
        part.lines += [
            "",
            f"Offered: {load * whole:,.0f} requests/s in all ({what} of a bare loop), as a Poisson "
            "process.",
            "",
            "| server | p50 | p99 | p50 over ours by UDP | p99 over ours by UDP | bound |",
            "|---|---|---|---|---|---|",
        ]
        ours = servers[0]
        for server in servers:
            cells = []
            for mine, theirs in ((ours.p50, server.p50), (ours.p99, server.p99)):
                ratios = [b / a for a, b in zip(mine[what], theirs[what], strict=True)]
                low, high = interval(ratios)
                cells.append(f"{statistics.median(ratios):.2f} ({low:.2f} to {high:.2f})")
                if bounded(server.name, load) and statistics.median(ratios) <= 1:
                    q = "p50" if mine is ours.p50 else "p99"
                    part.failed.append(f"{server.name} is ahead in {q} at {what}")
            part.lines.append(
                f"| {server.name} | {ms(statistics.median(server.p50[what]))} | "
                f"{ms(statistics.median(server.p99[what]))} | "
                f"{' | '.join(cells if server is not ours else ['', ''])} | "
                f"{'> 1' if bounded(server.name, load) else ''} |"
            )
    part.lines += [
        "",
        f"At saturation ({PEER_HEADS} clients, each with one request under way):",
        "",
        "| server | throughput | p50 | p99 |",
        "|---|---|---|---|",
    ]
    for server in servers:
        part.lines.append(
            f"| {server.name} | {statistics.median(server.rate['100%']):,.0f}/s | "
            f"{ms(statistics.median(server.p50['100%']))} | "
            f"{ms(statistics.median(server.p99['100%']))} |"
        )
    part.lines += [
        "",
        f"All measured: {rounds} rounds of blocks of {setting.seconds:g} s, servers in a drawn "
        "order within each, medians of the rounds and 95 % bootstrap intervals; "
        f"{PEER_HEADS} clients with a socket or connection each, all in one C program that does "
        "the least each protocol allows (experiments/load), on one core; every server may use "
        "both, and the gateway's engine has one to itself. One process runs the stage in each: the "
        "gateway's engine, or the peer itself, as its documentation shows "
        "(experiments/load/peers.py). Peers that compute in their event loop save a request two "
        "switches between processes, some 0.1 ms, and receive nothing meanwhile: ahead while "
        "they are idle, behind when requests queue, so that they are bounded at the highest "
        "load only. A round trip begins when the "
        "request came, also if the client was still busy. TensorFlow Serving is in neither "
        "registry (PyPI has its client only), and has no exact kernels.",
    ]
    return part


def slope(times_s: Sequence[float], values: Sequence[float]) -> float:
    """Theil-Sen: the median of the slopes of all pairs."""
    pairs = [
        (values[j] - values[i]) / (times_s[j] - times_s[i])
        for i in range(len(values))
        for j in range(i + 1, len(values))
    ]
    return statistics.median(pairs)


def soak(setting: Setting, minutes: float, heads_count: int) -> Part:
    """Memory at saturation."""
    part = Part(f"Memory at saturation, {minutes:g} minutes")
    port = free_port()
    every_s = max(min(minutes, 30) * 60 / 60, 1.0)
    times, sizes, links = [], [], []
    with (
        gateway(setting, port) as server,
        Heads(setting.program, "udp", (HOST, port), setting.examples, count=heads_count) as heads,
    ):
        heads.begin_closed(minutes * 60, warm_s=minutes * 6)
        began = time.monotonic()
        time.sleep(minutes * 6)  # Buffers grow to their sizes.
        end = began + minutes * 66
        while time.monotonic() < end:
            every = children(server.pid)
            times.append(time.monotonic() - began)
            sizes.append(rss_bytes(every))
            links.append(rss_bytes([server.pid]))
            time.sleep(every_s)
        report = heads.report()
        lived = server.poll() is None
    judged(part, report, f"{heads_count} heads")
    thinned = max(len(times) // 120, 1)
    at, values = times[::thinned], sizes[::thinned]
    rng = random.Random(4)
    found = slope(at, values) * 3600 / MB
    block = max(len(at) // 12, 1)  # Neighbours are alike: whole blocks are drawn.
    draws = []
    for _ in range(400):
        chosen: list[int] = []
        while len(chosen) < len(at):
            first = rng.randrange(max(len(at) - block, 1))
            chosen += range(first, min(first + block, len(at)))
        kept = sorted(set(chosen))
        draws.append(slope([at[i] for i in kept], [values[i] for i in kept]) * 3600 / MB)
    draws.sort()
    low, high = draws[round(0.025 * len(draws))], draws[round(0.975 * len(draws)) - 1]
    grown = (statistics.median(values[-6:]) - statistics.median(values[:6])) / MB
    bound = FLAT_MB_PER_HOUR if minutes >= 30 else FLAT_MB_PER_HOUR * 60 / minutes
    part.lines += [
        "| what | figure | bound |",
        "|---|---|---|",
        f"| requests answered, all exact and none lost | {report['exact']:,} "
        f"({report['wrong']} wrong, {report['lost']} lost) | 0 |",
        f"| RSS of link process and engine, start and end | {values[0] / MB:.1f} MB, "
        f"{values[-1] / MB:.1f} MB (link process alone {links[0] / MB:.1f} MB, "
        f"{links[-1] / MB:.1f} MB) | |",
        f"| slope (Theil-Sen) | {found:+.2f} MB/h ({low:+.2f} to {high:+.2f}, 95 %) | "
        f"<= {bound:g} MB/h |",
        f"| last samples less first | {grown:+.2f} MB | |",
        "",
        f"Measured: {heads_count} heads over UDP, each with one request under way, "
        f"{report['per_second']:,.0f} requests/s; sampled every {every_s:g} s after "
        f"{minutes * 0.1:g} minutes of warm-up.",
    ]
    if high > bound:
        part.failed.append(f"memory grows by {found:+.2f} MB/h (up to {high:+.2f})")
    if not lived:
        part.failed.append("the gateway ended")
    return part


def prepared(folder: Path) -> Path:
    """The bundle of the benchmark; made if it is not there."""
    if not (folder / "manifest.json").exists():
        print(f"making {folder}", flush=True)
        command = Path(sys.executable).parent / "partition"
        words = [command, "--model", MODEL, "--layer", LAYER, "--output", folder]
        subprocess.run([str(word) for word in words], check=True, stdout=subprocess.DEVNULL)
    return folder


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(f"build/{MODEL}_0.35_96_digits-{LAYER}")
    parser.add_argument("--parts", default="1,2")
    parser.add_argument("--peers", default=",".join(PEERS), help="of part 2, such as grpc,fastapi")
    parser.add_argument("--pairs", type=int, default=5, help="of blocks, in part 1")
    parser.add_argument("--rounds", type=int, default=4, help="of part 2")
    parser.add_argument("--seconds", type=float, default=2.0, help="of a block")
    parser.add_argument("--quick", action="store_true", help="see that it works; writes nothing")
    parser.add_argument("--soak", type=float, metavar="MINUTES", help="memory at saturation only")
    parser.add_argument("--soak-heads", type=int, default=50)
    parser.add_argument("--bundle", type=Path, default=default)
    parser.add_argument("--triton-python", type=Path, help="the Python that has pytriton")
    parser.add_argument("--output", type=Path)
    chosen = parser.parse_args()
    if not set(chosen.parts.split(",")) <= {"1", "2"}:
        parser.error(f"--parts takes 1 and 2, not {chosen.parts!r}")
    if not set(chosen.peers.split(",")) <= {*PEERS, ""}:
        parser.error(f"--peers takes {', '.join(PEERS)}, not {chosen.peers!r}")
    if chosen.soak is not None and not 0 < chosen.soak <= 24 * 60:
        parser.error("--soak takes minutes, at most a day")
    if chosen.quick:
        chosen.pairs, chosen.rounds, chosen.seconds = 2, 2, 0.5
    if chosen.output is None and not chosen.quick:
        name = "bench_gateway.md" if chosen.soak is None else "gateway_soak.md"
        chosen.output = HERE / name
    return chosen


def measure(chosen: argparse.Namespace, folder: Path) -> list[Part]:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("two cores are needed: one for the engine, one for link and heads")
    opened = bundles.read(prepared(chosen.bundle))
    examples = folder / "examples"
    write_examples(opened, examples)
    setting = Setting(
        build(folder),
        chosen.bundle,
        examples,
        cores[0],
        cores[1],
        chosen.seconds,
        chosen.triton_python,
    )
    if chosen.soak is not None:
        return [soak(setting, chosen.soak, chosen.soak_heads)]
    parts = []
    if "1" in chosen.parts:
        parts.append(throughput(setting, chosen.pairs))
    if "2" in chosen.parts:
        kinds = [kind for kind in chosen.peers.split(",") if kind]
        parts.append(compare(setting, kinds, chosen.rounds))
    return parts


def leave(number: int, _frame: Any) -> None:
    """SIGTERM ends what was started, too."""
    raise SystemExit(128 + number)


def main() -> None:
    chosen = arguments()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)
    load = os.getloadavg()[0]
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        try:
            parts = measure(chosen, Path(folder))
        except LoadError as error:
            raise SystemExit(str(error)) from error
    machine = environment.machine()
    words = ".venv/bin/python experiments/bench_gateway.py"
    if chosen.soak is not None:
        words += f" --soak {chosen.soak:g} --soak-heads {chosen.soak_heads}"
    head = [
        "# What the gateway costs",
        "",
        f"`{words}`, {datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d}: MobileNetV2 (0.35, "
        f"96x96) cut at {LAYER}, exact kernels (TensorFlow Lite Micro). {machine['processor']}, "
        f"{machine['cores']} cores, load {load:.1f} at the start; "
        f"{(time.monotonic() - began) / 60:.1f} minutes.",
        "",
        "",
    ]
    text = "\n".join(head) + "\n".join(part.text() for part in parts)
    print(text)
    if chosen.output is not None:
        with whole_file(chosen.output) as temporary:
            temporary.write_text(text, "utf-8")
    failed = [line for part in parts for line in part.failed]
    if failed:
        raise SystemExit("does not hold: " + "; ".join(failed))


if __name__ == "__main__":
    main()
