"""`tinysplit gateway` as a process: what it prints, serves beside heads, and how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import signal
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from host.cli import main
from host.link.messages import EVERY_CODEC
from host.mqtt import access
from host.mqtt.connection import Connection
from partitioner.bundle import Bundle
from tests.host.gateway.heads import (
    LOOPBACK,
    Examples,
    GatewayProcess,
    ask,
    connect,
    stopped,
    until,
)
from tests.host.mqtt.mosquitto import Mosquitto
from tests.ports import free_port

UDP = ("--listen", "udp://127.0.0.1:0")


@pytest.fixture(scope="module")
def two(pair: Bundle) -> Examples:
    return Examples(pair)


def get(gateway: GatewayProcess, path: str) -> str:
    with urllib.request.urlopen(f"http://{gateway.http}{path}", timeout=10) as answer:
        text: str = answer.read().decode()
        return text


def inferences(port: int, examples: Examples, numbers: range, **options: Any) -> None:
    async def go() -> None:
        async with connect(port, examples, **options) as head:
            await asyncio.gather(*(ask(head, examples, n) for n in numbers))

    asyncio.run(go())


def test_metrics_heads_and_results(pair_folder: Path, two: Examples, tmp_path: Path) -> None:
    results = tmp_path / "results"
    beside = ("--http", "127.0.0.1:0", "--results", f"parquet:{results}", "--name", "lab")
    with GatewayProcess(pair_folder, *UDP, "--listen", "tcp://[::1]:0", *beside) as gateway:
        assert len(gateway.ports) == 2
        assert get(gateway, "/healthz") == "ok\n"
        assert get(gateway, "/readyz") == "ready\n"

        async def go() -> None:
            async with connect(gateway.ports[0], two) as head:
                await asyncio.gather(*(ask(head, two, n) for n in range(10)))
                (row,) = json.loads(await asyncio.to_thread(get, gateway, "/heads"))
                assert row["requests"] == 10
                assert row["bundle"] == two.id.hex()
                assert row["head"].startswith("udp://127.0.0.1:")
                text = await asyncio.to_thread(get, gateway, "/metrics")
                assert 'tinysplit_gateway_sessions{transport="udp"} 1.0' in text
                assert 'exact="yes",outcome="ok",transport="udp"} 10.0' in text
                assert row["head"] not in text

        asyncio.run(go())
        assert gateway.stop() == (0, "")
    (file,) = results.iterdir()
    rows = pq.read_table(file).to_pylist()
    assert file.name.startswith("lab-")
    assert [row["outcome"] for row in rows] == ["ok"] * 10
    assert {row["inference_id"] for row in rows} == set(range(10))
    assert all(row["exact"] and row["class_index"] is not None for row in rows)
    assert all(0 <= row["invoke_us"] <= row["latency_us"] for row in rows)


def test_a_stop_in_the_middle_of_work_loses_nothing(pair_folder: Path, two: Examples) -> None:
    with GatewayProcess(pair_folder, *UDP) as gateway:

        async def go() -> None:
            async with connect(gateway.ports[0], two) as head:
                tasks = [asyncio.ensure_future(ask(head, two, n)) for n in range(2)]
                await until(lambda: head.endpoint.queued == 0 and head.endpoint.sending.data_frames)
                gateway.process.terminate()
                await asyncio.gather(*tasks)

        asyncio.run(go())
        assert gateway.process.wait(20) == 0


def test_a_second_signal_ends_it_at_once(pair_folder: Path, two: Examples) -> None:
    with GatewayProcess(pair_folder, *UDP, "--grace", "60") as gateway:

        async def go() -> None:
            async with connect(gateway.ports[0], two) as head:
                engines = children(gateway.process.pid)
                for pid in engines:
                    os.kill(pid, signal.SIGSTOP)
                task = asyncio.ensure_future(ask(head, two, 1, 5.0))
                await until(lambda: head.endpoint.queued == 0 and head._by_id)
                gateway.process.terminate()
                await asyncio.to_thread(gateway.wait_for, "note", "stopping")
                gateway.process.terminate()
                assert await asyncio.to_thread(gateway.process.wait, 20) == 1
                task.cancel()

        asyncio.run(go())
        assert gateway.process.stderr is not None
        assert "stopped with 1 requests unanswered" in gateway.process.stderr.read()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="PR_SET_PDEATHSIG is Linux's")
def test_engines_end_with_the_gateway_even_if_they_hang(pair_folder: Path) -> None:
    with GatewayProcess(pair_folder, *UDP, "--engines", "2") as gateway:
        engines = children(gateway.process.pid)
        assert len(engines) == 2
        os.kill(engines[0], signal.SIGSTOP)
        gateway.process.kill()
        gateway.process.wait()
        end = time.monotonic() + 10
        while left := [pid for pid in engines if alive(pid)]:
            assert time.monotonic() < end, left
            time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether a process is more than an entry that nobody has read yet (Linux)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children(pid: int) -> list[int]:
    """The processes that a process started (Linux)."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_sighup_reads_the_bundle_again(pair_folder: Path) -> None:
    with GatewayProcess(pair_folder, *UDP) as gateway:
        gateway.process.send_signal(signal.SIGHUP)
        assert "the same as before" in gateway.wait_for("note", str(pair_folder))["text"]
        assert gateway.stop()[0] == 0


@contextmanager
def webhook(answers: list[int], kept: list[Any]) -> Iterator[int]:
    """A server that gives these answers in turn, the last one for ever."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            rows = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status = answers.pop(0) if len(answers) > 1 else answers[0]
            if status < 300:
                kept.extend(rows)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_webhook_that_fails_at_first_gets_every_row_once(
    pair_folder: Path, two: Examples
) -> None:
    kept: list[Any] = []
    with webhook([503, 500, 200], kept) as port:
        sink = f"webhook:http://127.0.0.1:{port}/results"
        with GatewayProcess(pair_folder, *UDP, "--results", sink) as gateway:
            inferences(gateway.ports[0], two, range(20))
            assert "answers 503" in gateway.wait_for("note", "results to webhook")["text"]
            gateway.wait_for("note", "all is well again")
            assert gateway.stop()[0] == 0
    assert sorted(row["inference_id"] for row in kept) == list(range(20))


def test_results_that_nobody_takes_hold_up_no_head(
    pair_folder: Path, two: Examples, tmp_path: Path
) -> None:
    gone = f"webhook:http://127.0.0.1:{free_port()}/"
    beside = ("--results", gone, "--http", "127.0.0.1:0", "--results", f"parquet:{tmp_path / 'r'}")
    # No file may grow beyond 100 bytes: what a full disk does to one, and the gateway goes on.
    limit = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)); "
    with GatewayProcess(pair_folder, *UDP, *beside, before=limit) as gateway:
        inferences(gateway.ports[0], two, range(50))
        assert "cannot be reached" in gateway.wait_for("note", "results to webhook")["text"]
        text = get(gateway, "/metrics")
        assert 'outcome="ok",transport="udp"} 50.0' in text
        assert 'tinysplit_gateway_results_waiting{sink="parquet"} 50.0' in text
        code, told = gateway.stop()
        assert code == 0
        assert "results to parquet: 50 of 50 rows are lost: cannot write" in told
        assert "results to webhook: 50 of 50 rows are lost: the webhook cannot be reached" in told
    said = [line.get("text", "") for line in gateway.lines]
    assert any("results to parquet: cannot write" in text for text in said)
    assert list((tmp_path / "r").iterdir()) == []


def test_results_come_by_mqtt(pair_folder: Path, two: Examples, tmp_path: Path) -> None:
    broker = Mosquitto(tmp_path)
    heard: queue.Queue[bytes] = queue.Queue()
    topic = "tinysplit/lab/results"
    try:
        with Connection(
            access.parse(broker.url),
            subscriptions=[topic],
            on_message=lambda _topic, payload, _retained: heard.put(payload),
        ) as listener:
            listener.open()
            with GatewayProcess(
                pair_folder, *UDP, "--name", "lab", "--results", broker.url
            ) as gateway:
                inferences(gateway.ports[0], two, range(7))
                assert gateway.stop()[0] == 0
            rows: list[Any] = []
            while len(rows) < 7:
                rows += json.loads(heard.get(timeout=10))
    finally:
        broker.kill()
    assert sorted(row["inference_id"] for row in rows) == list(range(7))
    assert {row["gateway"] for row in rows} == {"lab"}


def test_two_gateways_share_a_port_and_one_dies(pair_folder: Path, two: Examples) -> None:
    port = free_port()
    shared = (pair_folder, "--listen", f"udp://127.0.0.1:{port}", "--reuse-port")
    shared += ("--http", "127.0.0.1:0")
    heads = 100
    with GatewayProcess(*shared) as first, GatewayProcess(*shared) as second:

        async def of(gateway: GatewayProcess) -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = json.loads(
                await asyncio.to_thread(get, gateway, "/heads")
            )
            return found

        async def head(number: int, ready: asyncio.Event, go_on: asyncio.Event) -> int:
            async with connect(port, two) as one:
                await ask(one, two, 0, 60.0)
                ready.set()
                await go_on.wait()
                for inference in range(1, 4):
                    await ask(one, two, inference, 60.0)
                return one.sessions

        async def go() -> tuple[list[int], int]:
            ready, go_on = [asyncio.Event() for _ in range(heads)], asyncio.Event()
            tasks = [asyncio.ensure_future(head(n, one, go_on)) for n, one in enumerate(ready)]
            await asyncio.gather(*(one.wait() for one in ready))
            shares = [len(await of(first)), len(await of(second))]
            assert sum(shares) == heads
            assert min(shares) > heads // 5, "both have a part of the heads"
            engines = children(first.process.pid)
            with stopped(*engines):
                go_on.set()
                acknowledged = 0
                while acknowledged < shares[0]:
                    rows = await of(first)
                    acknowledged = sum(row["working"] + row["waiting"] for row in rows)
                first.process.kill()
            return await asyncio.gather(*tasks), shares[0]

        sessions, lost = asyncio.run(go())
        assert sessions.count(2) == lost, "heads of the one that died came to the other"
        assert sessions.count(1) == heads - lost
        assert second.stop()[0] == 0


def test_usage() -> None:
    run = CliRunner()
    for arguments, text in (
        (["x", "--listen", "udp://nowhere"], "cannot listen at"),
        (["x", "--listen", "espnow://02:00:00:00:00:01"], "a bridge's serial port"),
        (["x", "--engine-cores", "a"], "names no processors"),
        ([".", "--engines", "0", "--engine-cores", "0"], "--engines 0 has none"),
        (["x", "--http", "9464"], "is not HOST:PORT"),
        ([".", "--http-host", "lab"], "--http-host is of --http"),
        (["x", "--http", "127.0.0.1:0", "--http-host", "lab:80"], "is no name or address"),
        (["x", "--results", "nope:x"], "that is no parquet:DIR"),
        (["x", "--results", "mqtt://a:b@c"], "no user and no password"),
        (["x", "--results", "webhook:ftp://x"], "that is no parquet:DIR"),
        ([], "Missing argument"),
    ):
        found = run.invoke(main, ["gateway", *arguments])
        assert found.exit_code == 2
        assert text in found.output
    found = run.invoke(main, ["gateway", "/nonexistent"])
    assert found.exit_code == 2
    assert "'/nonexistent' does not exist" in found.output
    assert "Traceback" not in found.output


def test_a_port_in_use_is_named(pair_folder: Path) -> None:
    with GatewayProcess(pair_folder, *UDP) as gateway:
        place = f"udp://127.0.0.1:{gateway.ports[0]}"
        found = CliRunner().invoke(main, ["gateway", str(pair_folder), "--listen", place])
        assert found.exit_code == 1
        assert "is in use" in found.output


def test_fast_kernels_say_so(pair_folder: Path, two: Examples) -> None:
    arguments = (pair_folder, *UDP, "--kernels", "fast", "--http", "127.0.0.1:0")
    with GatewayProcess(*arguments) as gateway:
        assert "xnnpack" in gateway.lines[0]["text"]
        assert "golden output bytes" in gateway.lines[0]["text"]

        async def go() -> None:
            async with connect(gateway.ports[0], two, codecs=EVERY_CODEC) as head:
                await head.infer(1, two.boundaries[0], 10.0)

        asyncio.run(go())
        assert 'exact="no",outcome="ok"' in get(gateway, "/metrics")


def test_a_webhooks_url_is_told_nowhere(pair_folder: Path, two: Examples) -> None:
    answers = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection = answers.accept()[0]
            except OSError:
                return
            with connection:
                connection.recv(1 << 16)
                connection.sendall(b"\x1b[2J is no HTTP\r\n\r\n")

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        sink = f"webhook:http://127.0.0.1:{answers.getsockname()[1]}/t0ken"
        with GatewayProcess(pair_folder, *UDP, "--results", sink) as gateway:
            inferences(gateway.ports[0], two, range(1))
            said = gateway.wait_for("note", "results to webhook")["text"]
            assert "does not answer as HTTP" in said
            assert "t0ken" not in said
            assert "\x1b" not in said
    finally:
        answers.shutdown(socket.SHUT_RDWR)
        answers.close()
        thread.join()
    for wrong in ("webhook:http://me:t0ken@:99999/", "webhok:http://me:t0ken@there/"):
        done = CliRunner().invoke(main, ["gateway", str(pair_folder), "--results", wrong])
        assert (done.exit_code, "t0ken" in done.output) == (2, False)
