"""A gateway without engines: it computes itself."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from host.gateway import inline
from host.gateway.bundles import GatewayError
from host.gateway.engine import Loaded
from host.gateway.http import not_ready
from host.link.errors import InvokeFailedError
from partitioner.bundle import Bundle
from tests.host.gateway.heads import (
    Examples,
    GatewayProcess,
    ask,
    connect,
    serving,
)
from tests.host.gateway.test_gateway_command import children


@pytest.fixture(scope="module")
def two(pair: Bundle) -> Examples:
    return Examples(pair)


def test_many_heads_at_once_get_exact_results(pair_folder: Path, two: Examples) -> None:
    async def go() -> None:
        async with serving(pair_folder, engines=0) as (gateway, port, _):
            assert not_ready(gateway) is None

            async def head() -> None:
                async with connect(port, two) as one:
                    await asyncio.gather(*(ask(one, two, n) for n in range(20)))

            await asyncio.gather(*(head() for _ in range(10)))
            assert gateway.requests == {"ok": 200}
            assert gateway.pool.running == 0

    asyncio.run(go())


def test_frames_are_read_between_two_requests(
    pair_folder: Path, two: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many wait: what the loop has besides comes after each."""
    run = Loaded.run

    def slow(self: Loaded, *arguments: object) -> object:
        time.sleep(0.02)
        return run(self, *arguments)  # type: ignore[arg-type]

    async def go() -> None:
        async with serving(pair_folder, engines=0) as (gateway, port, _):
            async with connect(port, two) as one:
                await ask(one, two, 99)
                monkeypatch.setattr(Loaded, "run", slow)
                work = asyncio.gather(*(ask(one, two, n) for n in range(30)))
                rounds = 0
                while not work.done():
                    await asyncio.sleep(0)
                    rounds += gateway.pool.running
                await work
                assert rounds >= 25

    asyncio.run(go())


def test_what_takes_long_is_refused_by_name(
    pair_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inline, "MOST_US", 0.0)

    async def go() -> None:
        with pytest.raises(GatewayError, match="without engines: an inference takes"):
            async with serving(pair_folder, engines=0):
                pass

    asyncio.run(go())


def test_a_request_that_meets_a_defect_is_answered_and_the_next_one_is_served(
    pair_folder: Path, two: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    async def go() -> None:
        async with serving(pair_folder, engines=0) as (gateway, port, _), connect(port, two) as one:
            with monkeypatch.context() as patched:
                patched.setattr(Loaded, "run", broken)
                with pytest.raises(InvokeFailedError):
                    await ask(one, two, 1)
            await ask(one, two, 2)
            assert gateway.requests == {"invoke_failed": 1, "ok": 1}

    asyncio.run(go())


def test_the_command_starts_no_process(pair_folder: Path, two: Examples) -> None:
    arguments = ("--listen", "udp://127.0.0.1:0", "--engines", "0")
    with GatewayProcess(pair_folder, *arguments) as gateway:
        assert children(gateway.process.pid) == []

        async def go() -> None:
            async with connect(gateway.ports[0], two) as one:
                await asyncio.gather(*(ask(one, two, n) for n in range(10)))

        asyncio.run(go())
        assert gateway.stop() == (0, "")
