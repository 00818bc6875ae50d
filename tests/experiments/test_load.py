"""The load generator: it finds what is wrong and what is lost, and says how long the rest took."""

import asyncio
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from experiments.load.generator import Heads, build, write_examples
from experiments.load.peers import GRPC_PATH
from host.background import Background
from host.link.driver import LinkServer, Request
from host.link.session import Node
from host.link.tcp import TcpServer
from host.link.udp import UdpServer
from partitioner.bundle import Bundle

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
HERE = "127.0.0.1"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("load"))


@pytest.fixture(scope="module")
def answers(stranger_bundle: Bundle) -> dict[bytes, bytes]:
    """Results by boundary."""
    golden = stranger_bundle.selftest()
    last = len(stranger_bundle.manifest.boundaries) - 1
    count = len(stranger_bundle.manifest.boundaries[last].tensors)
    sent = [golden[f"boundary_{last}_{i}"] for i in range(count)]
    return {
        b"".join(tensor[i].tobytes() for tensor in sent): golden["output_0"][i].tobytes()
        for i in range(len(sent[0]))
    }


@pytest.fixture(scope="module")
def examples(stranger_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("load") / "examples"
    write_examples(stranger_bundle, path)
    return path


class Tail:
    """Right but for every `bad`th answer: one bit is wrong, or the stage fails."""

    def __init__(self, answers: dict[bytes, bytes], bad: int = 0, fails: bool = False) -> None:
        self.answers, self.bad, self.fails, self.asked = answers, bad, fails, 0

    def __call__(self, boundary: bytes) -> bytes:
        self.asked += 1
        right = self.answers[boundary]
        if not self.bad or self.asked % self.bad:
            return right
        if self.fails:
            raise RuntimeError("the stage fails")
        return bytes([right[0] ^ 1]) + right[1:]


@contextmanager
def serving(bundle: Bundle, kind: str, tail: Tail) -> Iterator[tuple[str, int]]:
    """A tail for 16 heads."""

    async def handle(request: Request) -> list[bytes]:
        await asyncio.sleep(0)
        return [tail(b"".join(request.tensors))]

    node = Node.tail(bytes.fromhex(bundle.manifest.id), len(bundle.manifest.stages))
    transport = {"udp": UdpServer, "tcp": TcpServer}[kind](HERE, 0)
    with Background() as background:
        server = background.enter(LinkServer(transport, node, handle))
        yield server.address


@pytest.mark.parametrize("kind", ["udp", "tcp"])
def test_every_result_is_compared(
    program: Path, examples: Path, stranger_bundle: Bundle, answers: dict[bytes, bytes], kind: str
) -> None:
    with (
        serving(stranger_bundle, kind, Tail(answers)) as address,
        Heads(program, kind, address, examples, count=8) as heads,
    ):
        closed = heads.closed(0.4, outstanding=2, warm_s=0.1)
        opened = heads.open(0.4, 200, warm_s=0.1)
        assert heads.opened["up"] == 8
        assert not heads.failed
    for report in (closed, opened):
        assert report["exact"] == report["sent"] > 20
        assert report["counted"] == sum(count for _, count in report["histogram_us"])
        times = report["latency_us"]
        assert 0 < times["min"] <= times["p50"] <= times["p99"] <= times["max"]
    assert 0 < closed["per_head"]["min"] <= closed["per_head"]["max"]
    assert 50 < opened["sent"] < 150


def test_the_same_seed_is_the_same_load(
    program: Path, examples: Path, stranger_bundle: Bundle, answers: dict[bytes, bytes]
) -> None:
    with (
        serving(stranger_bundle, "udp", Tail(answers)) as address,
        Heads(program, "udp", address, examples, count=4) as heads,
    ):
        sent = [heads.open(0.3, 300, seed=seed, warm_s=0)["sent"] for seed in (1, 1, 2, 3)]
    assert sent[0] == sent[1]
    assert len(set(sent)) > 1


def test_a_wrong_bit_and_a_lost_request_are_found(
    program: Path, examples: Path, stranger_bundle: Bundle, answers: dict[bytes, bytes]
) -> None:
    for tail, wrong, errors in (
        (Tail(answers, bad=10), True, set()),
        (Tail(answers, bad=10, fails=True), False, {"invoke_failed"}),
    ):
        with (
            serving(stranger_bundle, "udp", tail) as address,
            Heads(program, "udp", address, examples, count=2) as heads,
        ):
            report = heads.closed(0.3, warm_s=0)
            assert (report["wrong"] > 0) == wrong
            assert set(report["errors"]) == errors
            assert report["exact"] > 0
            assert heads.failed


def test_a_server_that_goes_away_is_noticed(
    program: Path, examples: Path, stranger_bundle: Bundle, answers: dict[bytes, bytes]
) -> None:
    with serving(stranger_bundle, "tcp", Tail(answers)) as address:
        heads = Heads(program, "tcp", address, examples, count=2, timeout_ms=500)
        heads.__enter__()
    report = heads.closed(0.2, warm_s=0)
    heads.__exit__(None, None, None)
    assert report["exact"] == 0
    assert report["up"] == 0 or report["lost"] > 0
    assert report["session_ends"]


def test_http(program: Path, examples: Path, answers: dict[bytes, bytes]) -> None:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = answers[self.rfile.read(int(self.headers["Content-Length"]))]
            assert (self.path, self.headers["X-One"]) == ("/infer", "1")
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer((HERE, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        extra = ("--path", "/infer", "--header", "X-One: 1")
        with Heads(program, "http", server.server_address, examples, count=3, extra=extra) as heads:
            report = heads.closed(0.3, warm_s=0)
            assert not heads.failed
        server.shutdown()
        thread.join()
    assert report["exact"] == report["sent"] > 5


def test_grpc(program: Path, examples: Path, answers: dict[bytes, bytes]) -> None:
    grpc = pytest.importorskip("grpc")
    from concurrent.futures import ThreadPoolExecutor

    _, service, method = GRPC_PATH.split("/")
    handler = grpc.unary_unary_rpc_method_handler(lambda body, _: answers[body], bytes, bytes)
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {method: handler}),)
    )
    address = (HERE, server.add_insecure_port(f"{HERE}:0"))
    server.start()
    extra = ("--path", GRPC_PATH)
    with Heads(program, "grpc", address, examples, count=3, extra=extra) as heads:
        report = heads.closed(0.3, warm_s=0)
        assert not heads.failed
    server.stop(None)
    assert report["exact"] == report["sent"] > 5
