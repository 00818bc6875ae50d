"""A gateway in this process, its engines in theirs, heads on the Python link."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import errno
import os
import shutil
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest

from host.gateway import pool
from host.gateway.http import MOST_CONNECTIONS, Http, not_ready
from host.gateway.http import heads as heads_of
from host.gateway.listener import Share
from host.gateway.metrics import Metrics
from host.gateway.schedule import Job
from host.gateway.service import Outcome
from host.link.driver import now_us
from host.link.errors import (
    BundleMismatchError,
    BusyError,
    ClosedError,
    DeadlineError,
    InvokeFailedError,
    MalformedError,
    NoSlotError,
    RefusedError,
    StageMismatchError,
)
from host.link.frames import Data, Kind, Seal, decode_hello, session_id
from host.link.messages import (
    EVERY_CODEC,
    MessageKind,
    Phase,
    encode_message,
    encode_tensors,
)
from models.errors import TinysplitError
from partitioner.bundle import Bundle
from tests.host.gateway.heads import Examples, ask, connect, serving, stopped, until


@pytest.fixture(scope="module")
def two(pair: Bundle) -> Examples:
    return Examples(pair)


@pytest.fixture(scope="module")
def three(stranger_bundle: Bundle) -> Examples:
    return Examples(stranger_bundle)


@pytest.mark.parametrize(("tcp", "engines"), [(False, 1), (True, 1), (False, 0)])
def test_heads_of_two_bundles_on_one_port_get_their_own_tails(
    pair_folder: Path, folder: Path, two: Examples, three: Examples, tcp: bool, engines: int
) -> None:
    async def go() -> None:
        beside = serving(pair_folder, folder, tcp=tcp, engines=engines)
        async with beside as (gateway, port, _):
            outcomes: list[Outcome] = []
            gateway.watches.append(outcomes.append)
            async with connect(port, two, tcp=tcp) as one, connect(port, three, tcp=tcp) as other:
                for number in range(6):
                    found = await asyncio.gather(ask(one, two, number), ask(other, three, number))
                    assert [result.stage for result in found] == [1, 2]
                phases = {record.phase for record in found[0].phases if record.stage == 1}
                assert {Phase.RECEIVE, Phase.QUEUE, Phase.INVOKE} <= phases
                assert all(0 <= record.duration_us < 60_000_000 for record in found[0].phases)
                assert gateway.requests == {"ok": 12}
                # The link's times and the gateway's are of one clock.
                assert all(0 <= o.queued_us - o.event.complete_us < 5_000_000 for o in outcomes)
                rows = heads_of(gateway)
                assert {row["bundle"] for row in rows} == {two.id.hex(), three.id.hex()}
                assert [row["requests"] for row in rows] == [6, 6]

    asyncio.run(go())


@pytest.mark.parametrize("engines", [1, 0])
def test_codec_1_is_decoded(pair_folder: Path, two: Examples, engines: int) -> None:
    async def go() -> None:
        async with serving(pair_folder, engines=engines) as (_, port, _said):
            async with connect(port, two, codecs=EVERY_CODEC) as one:
                await ask(one, two, 1)

    asyncio.run(go())


def test_who_does_not_fit_is_refused_by_name(
    pair_folder: Path, folder: Path, two: Examples, three: Examples
) -> None:
    async def go() -> None:
        foreign = copy.copy(two)
        foreign.id = bytes(range(32))
        async with serving(pair_folder, heads=1) as (gateway, port, _):
            with pytest.raises(BundleMismatchError):
                await connect(port, foreign).__aenter__()
            with pytest.raises(StageMismatchError):
                await connect(port, three).__aenter__()
            async with connect(port, two) as one:
                await ask(one, two, 1)
                with pytest.raises(BusyError):
                    await connect(port, two).__aenter__()
            assert gateway.requests == {"ok": 1}

    asyncio.run(go())


@pytest.mark.parametrize("engines", [1, 0])
def test_what_is_no_boundary_is_refused_and_the_next_one_is_served(
    pair_folder: Path, two: Examples, engines: int
) -> None:
    async def go() -> None:
        async with serving(pair_folder, engines=engines) as (gateway, port, _):
            async with connect(port, two) as one:
                with pytest.raises(MalformedError, match="takes tensors of"):
                    await one.infer(1, [b"abc"], 5.0)
                await ask(one, two, 2)
            assert gateway.requests == {"malformed": 1, "ok": 1}

    asyncio.run(go())


def test_one_request_too_many_is_told_so(pair_folder: Path, two: Examples) -> None:
    async def go() -> None:
        async with serving(pair_folder, queue=1) as (gateway, port, _):
            async with connect(port, two) as one:
                with stopped(*gateway.pool.pids):
                    tasks = [asyncio.ensure_future(ask(one, two, n)) for n in range(60)]
                    await until(lambda: gateway.requests["no_slot"] > 0)
                    assert len(gateway.schedule) <= 1
                found = await asyncio.gather(*tasks, return_exceptions=True)
            refused = [error for error in found if isinstance(error, NoSlotError)]
            assert refused
            assert "1 requests wait already" in str(refused[0])
            assert len(refused) == gateway.requests["no_slot"]
            assert gateway.requests["ok"] == 60 - len(refused)

    asyncio.run(go())


def test_what_waited_too_long_is_not_run(pair_folder: Path, two: Examples) -> None:
    async def go() -> None:
        async with serving(pair_folder) as (gateway, port, _), connect(port, two) as one:
            with stopped(*gateway.pool.pids):
                tasks = [asyncio.ensure_future(ask(one, two, n, 0.3)) for n in range(50)]
                found = await asyncio.gather(*tasks, return_exceptions=True)
                assert all(isinstance(error, DeadlineError) for error in found)
                await until(lambda: not len(gateway.schedule))
                given = gateway.pool.running
            assert 0 < given < 50
            await until(lambda: gateway.pool.running == 0)
            assert gateway.requests["ok"] == 0
            assert gateway.requests["deadline"] > given
            await ask(one, two, 99)

    asyncio.run(go())


def test_an_engine_that_is_killed_costs_time_but_no_request(
    pair_folder: Path, two: Examples
) -> None:
    async def go() -> None:
        async with serving(pair_folder, engines=2) as (gateway, port, said):
            async with connect(port, two) as one:
                victims = gateway.pool.pids
                with stopped(*victims):
                    tasks = [asyncio.ensure_future(ask(one, two, n)) for n in range(8)]
                    await until(lambda: gateway.pool.running == 8)
                    os.kill(victims[0], signal.SIGKILL)
                    await until(lambda: gateway.pool.deaths == 1)
                await asyncio.gather(*tasks)
                assert any("an engine ended (killed by SIGKILL)" in line for line in said)
                await until(lambda: gateway.pool.ready(gateway.served[0]) == 2)
                assert not set(victims[:1]) & set(gateway.pool.pids)

    asyncio.run(go())


def test_a_request_that_kills_engines_is_given_up_and_the_others_go_on(
    pair_folder: Path, two: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def go() -> None:
        async with serving(pair_folder) as (gateway, port, _):
            pool, submit = gateway.pool, gateway.pool.submit

            def deadly(engine: Any, job: Job, now: int) -> None:
                if job.event.inference_id == 666:
                    os.kill(engine.process.pid, signal.SIGSTOP)
                    asyncio.get_running_loop().call_later(0.2, engine.process.kill)
                submit(engine, job, now)

            monkeypatch.setattr(pool, "submit", deadly)
            async with connect(port, two) as bad, connect(port, two) as good:
                poison = asyncio.ensure_future(ask(bad, two, 666))
                await until(lambda: pool.running == 1)
                await asyncio.gather(*(ask(good, two, n) for n in range(5)))
                with pytest.raises(InvokeFailedError, match="2 engines died of it"):
                    await poison
                await ask(bad, two, 2)
            assert pool.deaths == 2

    asyncio.run(go())


def test_an_engine_that_hangs_is_named_and_replaced(pair_folder: Path, two: Examples) -> None:
    async def go() -> None:
        async with serving(pair_folder, engine_timeout_s=0.5) as (gateway, port, said):
            metrics = Metrics(gateway)
            async with connect(port, two) as one:
                (hung,) = gateway.pool.pids
                os.kill(hung, signal.SIGSTOP)
                await asyncio.gather(*(ask(one, two, n) for n in range(3)))
                assert (gateway.pool.deaths, gateway.pool.hung) == (1, 1)
                assert hung not in gateway.pool.pids
            assert any("an engine ended (it hung for " in line for line in said)
            text = generate_latest(metrics.registry).decode()
            assert "tinysplit_gateway_engine_hangs_total 1.0" in text

    asyncio.run(go())


def test_what_a_hung_engine_has_is_answered_when_its_time_is_over(
    pair_folder: Path, two: Examples
) -> None:
    """Long before the engine is known to hang; what it says when it wakes is dropped."""

    async def go() -> None:
        async with serving(pair_folder) as (gateway, port, _), connect(port, two) as one:
            with stopped(*gateway.pool.pids):
                began = asyncio.get_running_loop().time()
                task = asyncio.ensure_future(ask(one, two, 1, 0.5))
                await until(lambda: gateway.pool.running == 1)
                await until(lambda: gateway.requests["deadline"] == 1)
                assert 0.4 < asyncio.get_running_loop().time() - began < 1.0
                with pytest.raises(DeadlineError):
                    await task
            await until(lambda: gateway.pool.running == 0)
            await ask(one, two, 2)
            assert gateway.requests == {"deadline": 1, "ok": 1}
            assert gateway.pool.deaths == 0

    asyncio.run(go())


def test_a_new_bundle_is_served_beside_the_old_one(
    pair: Bundle, folder: Path, tmp_path: Path, two: Examples, three: Examples
) -> None:
    here = tmp_path / "bundle"
    pair.write(here)

    async def go() -> None:
        async with serving(here, reload_grace_s=0.2) as (gateway, port, _):
            async with connect(port, two) as old:
                assert "the same as before" in (await gateway.reload())[0]
                (here / "stage1.tflite").write_bytes(b"broken")
                (line,) = await gateway.reload()
                assert "refused" in line
                assert "stage1.tflite is not the file the manifest describes" in line
                await ask(old, two, 1)
                shutil.rmtree(here)
                shutil.copytree(folder, here)
                (line,) = await gateway.reload()
                assert f"bundle {three.id.hex()[:12]} from now on" in line
                assert not_ready(gateway) is None
                async with connect(port, three) as new:
                    await asyncio.gather(ask(old, two, 2), ask(new, three, 1))
                    await until(lambda: len(gateway.served) == 1)  # The grace is over.
                    with pytest.raises((ClosedError, StageMismatchError)):
                        await old.infer(3, two.boundaries[0], 5.0)
                    await ask(new, three, 2)

    asyncio.run(go())


def test_a_head_that_comes_too_late_for_its_bundle_never_gets_another_ones_result(
    pair: Bundle, folder: Path, tmp_path: Path, two: Examples
) -> None:
    """Its HELLO is accepted, its bundle goes, and only then does it confirm the session."""
    here = tmp_path / "bundle"
    pair.write(here)

    async def go() -> None:
        async with serving(here, reload_grace_s=0.0) as (gateway, _port, _said):
            endpoint, peer = gateway.listeners[0].endpoint, ("192.0.2.1", 9)
            hello = endpoint.profile.hello(two.node(), 7)
            endpoint.receive(hello.encode(Kind.HELLO), peer, now_us())
            ((_, frame),) = endpoint.poll(now_us()).frames
            ack = decode_hello(frame, Kind.HELLO_ACK)
            assert ack is not None
            shutil.rmtree(here)
            shutil.copytree(folder, here)
            await gateway.reload()
            await until(lambda: len(gateway.served) == 1)
            seal = Seal(session_id(7, ack.acceptor_nonce))
            body = encode_tensors(1, [tensor.tobytes() for tensor in two.boundaries[0]])
            wire = encode_message(seal.sid, MessageKind.TENSOR, 1, body)
            first = Data(1, 0, wire[: endpoint.profile.mtu - 8], last=len(wire) < 1400)
            gateway.listeners[0].frames_received([(first.encode(seal), peer)])
            await until(lambda: endpoint._session(peer) is None)
            assert not gateway.listeners[0].heads
            assert not gateway.requests

    asyncio.run(go())


def test_a_stop_answers_what_was_acknowledged_and_admits_nobody(
    pair_folder: Path, two: Examples
) -> None:
    async def go() -> None:
        async with serving(pair_folder) as (gateway, port, _):
            async with connect(port, two) as one, connect(port, two) as idle:
                await ask(idle, two, 1)
                with stopped(*gateway.pool.pids):
                    tasks = [asyncio.ensure_future(ask(one, two, n)) for n in range(2)]
                    await until(lambda: gateway.pool.running == 2)
                    stop = asyncio.ensure_future(gateway.stop(20.0))
                    await until(lambda: len(gateway.listeners[0].heads) == 1)  # The idle one left.
                    with pytest.raises(RefusedError):
                        await connect(port, two).__aenter__()
                    assert not_ready(gateway) == "stopping\n"
                await asyncio.gather(*tasks)
                assert await stop == 0

    asyncio.run(go())


def test_a_stop_does_not_wait_longer_than_its_grace(pair_folder: Path, two: Examples) -> None:
    async def go() -> None:
        async with serving(pair_folder) as (gateway, port, _), connect(port, two) as one:
            with stopped(*gateway.pool.pids):
                task = asyncio.ensure_future(ask(one, two, 1, 3.0))
                await until(lambda: gateway.pool.running == 1)
                started = now_us()
                assert await gateway.stop(0.3) == 1
                assert now_us() - started < 2_000_000
                task.cancel()

    asyncio.run(go())


def test_a_connection_on_which_nobody_speaks_is_closed(
    pair_folder: Path, two: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("host.link.tcp.OPENING_S", 0.3)

    async def go() -> None:
        async with serving(pair_folder, tcp=True) as (_, port, _said):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            async with connect(port, two, tcp=True) as one:
                with contextlib.suppress(ConnectionError):
                    assert await asyncio.wait_for(reader.read(), 10) == b""
                await ask(one, two, 1)
                await asyncio.sleep(1.2)  # A sweep or two; nobody asks meanwhile.
                await ask(one, two, 2)
                assert one.sessions == 1
            writer.close()

    asyncio.run(go())


def test_a_head_that_takes_no_answers_is_not_told_without_end(
    pair_folder: Path, two: Examples
) -> None:
    """Malformed boundaries by the thousand, and never an ACK for what is said of them."""

    async def go() -> None:
        async with serving(pair_folder) as (gateway, _port, _said):
            endpoint, peer, now = gateway.listeners[0].endpoint, ("192.0.2.1", 9), now_us()
            hello = endpoint.profile.hello(two.node(), 7)
            endpoint.receive(hello.encode(Kind.HELLO), peer, now)
            ((_, frame),) = endpoint.poll(now).frames
            ack = decode_hello(frame, Kind.HELLO_ACK)
            assert ack is not None
            seal = Seal(session_id(7, ack.acceptor_nonce))
            for number in range(1, 1000):
                wire = encode_message(seal.sid, MessageKind.TENSOR, number, b"\0" * 12)
                data = Data(number, 0, wire, last=True)
                endpoint.receive(data.encode(seal), peer, now)
                endpoint.poll(now)
            session = endpoint._session(peer)
            assert session is not None
            assert 8 <= session.sender.count <= endpoint.profile.max_queued

    asyncio.run(go())


def test_half_open_sessions_keep_nobody_out(pair_folder: Path, two: Examples) -> None:
    async def go() -> None:
        async with serving(pair_folder, heads=8) as (gateway, port, _):
            endpoint = gateway.listeners[0].endpoint
            for number in range(1, 200):
                frame = endpoint.profile.hello(two.node(), number).encode(Kind.HELLO)
                endpoint.receive(frame, ("192.0.2.1", number), now_us())
            async with connect(port, two) as one:
                await ask(one, two, 1)

    asyncio.run(go())


def test_a_flood_of_hellos_costs_a_share_of_the_time(pair_folder: Path, two: Examples) -> None:
    async def go() -> None:
        async with serving(pair_folder) as (gateway, port, _):
            listener = gateway.listeners[0]
            async with connect(port, two) as one:
                await ask(one, two, 1)
                listener.strangers = Share(0.0, 1)
                listener.strangers.spend(1)
                dropped = listener.endpoint.receiving.dropped
                frame = listener.endpoint.profile.hello(two.node(), 1).encode(Kind.HELLO)
                listener.frames_received([(frame, ("192.0.2.1", port)) for port in range(65)])
                assert listener.endpoint.receiving.dropped == dropped + 65
                await ask(one, two, 2)
                listener.strangers = Share(1.0, 1_000_000)
                async with connect(port, two) as other:
                    await ask(other, two, 1)

    asyncio.run(go())


def test_a_share_of_time_is_earned_spent_and_saved() -> None:
    share = Share(0.1, 1000)
    assert share.left(5_000_000)
    share.spend(1500)
    assert not share.left(5_000_000)
    assert not share.left(5_004_000)
    assert share.left(5_006_000)
    assert share.left(9_000_000)
    share.spend(1001)
    assert not share.left(9_000_000)


def test_bundles_that_cannot_be_served_are_named(pair_folder: Path, tmp_path: Path) -> None:
    async def start(*folders: Path) -> None:
        async with serving(*folders):
            pass

    for folders, text in (
        ((pair_folder, pair_folder), "are the same bundle"),
        ((tmp_path,), "is not a bundle"),
    ):
        with pytest.raises(TinysplitError, match=text):
            asyncio.run(start(*folders))


def test_memory_bounds_the_sessions(pair_folder: Path) -> None:
    async def go() -> None:
        async with serving(pair_folder, memory_bytes=1 << 20) as (gateway, _, _said):
            profile = gateway.listeners[0].endpoint.profile
            assert 1 <= profile.max_sessions < 44
            assert profile.max_message < 100_000

    asyncio.run(go())


def test_an_engine_comes_when_there_are_files_again(
    pair_folder: Path, two: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "LONGEST_PAUSE_S", 0.2)
    whole = socket.socketpair
    refused = []

    def none_left(*arguments: Any) -> Any:
        if len(refused) < 2:
            refused.append(arguments)
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return whole(*arguments)

    async def go() -> None:
        async with serving(pair_folder) as (gateway, port, _):
            monkeypatch.setattr(socket, "socketpair", none_left)
            os.kill(gateway.pool.pids[0], signal.SIGKILL)
            await until(lambda: not_ready(gateway) is not None)
            await until(lambda: not_ready(gateway) is None)
            async with connect(port, two) as client:
                await ask(client, two, 1)
        assert len(refused) == 2

    asyncio.run(go())


def test_connections_that_ask_nothing_of_http_take_no_files(pair_folder: Path) -> None:
    async def go() -> None:
        async with serving(pair_folder) as (gateway, _, _):
            async with Http("127.0.0.1", 0, gateway, Metrics(gateway)) as http:
                mute = [await asyncio.open_connection(*http.address) for _ in range(300)]
                reader, writer = await asyncio.open_connection(*http.address)
                writer.write(
                    b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
                )
                assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
                ended = [said for said, _ in mute if said.at_eof() or said.exception()]
                assert len(ended) > 300 - 3 * MOST_CONNECTIONS
                for _, one in (*mute, (reader, writer)):
                    one.close()

    asyncio.run(go())
