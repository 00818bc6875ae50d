"""The relay: what it decides, and that it says so."""

import asyncio
import contextlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host.link.impairment import (
    QUEUE_BYTES,
    Impairer,
    Impairment,
    ImpairmentError,
    StreamDamage,
    TcpRelay,
    flip_bits,
)

PACKETS = [random.Random(n).randbytes(1 + n % 1452) for n in range(2000)]


def decisions(options: Impairment, direction: str = "forward") -> list[object]:
    impairer = Impairer(options, direction)
    return [impairer.packet(data, index / 1000) for index, data in enumerate(PACKETS)]


ALL = Impairment(0.2, 5, 3, 0.2, 0.01, 0.05, 8_000_000, seed=3)


def test_same_seed_same_decisions() -> None:
    assert decisions(ALL) == decisions(ALL)


def test_directions_and_seeds_differ() -> None:
    other = Impairment(0.2, 5, 3, 0.2, 0.01, 0.05, 8_000_000, seed=4)
    assert len({str(decisions(ALL)), str(decisions(ALL, "back")), str(decisions(other))}) == 3


def test_one_fault_does_not_reshuffle_another() -> None:
    alone = [not copies for copies in decisions(Impairment(loss=0.2, seed=9))]
    among = [not copies for copies in decisions(Impairment(loss=0.2, seed=9, corrupt=0.5))]
    assert alone == among


@pytest.mark.parametrize(
    ("option", "count"),
    [("loss", "lost"), ("reorder", "reordered"), ("corrupt", "corrupted"),
     ("duplicate", "duplicated")],
)  # fmt: skip
def test_shares_and_tallies(option: str, count: str) -> None:
    impairer = Impairer(Impairment(**{option: 0.2}, seed=1), "forward")
    for data in PACKETS:
        impairer.packet(data, 0.0)
    assert impairer.tally.packets == len(PACKETS)
    assert getattr(impairer.tally, count) == pytest.approx(0.2 * len(PACKETS), rel=0.15)


def test_nothing_asked_nothing_done() -> None:
    impairer = Impairer(Impairment(), "forward")
    for data in PACKETS:
        assert [tuple(copy) for copy in impairer.packet(data, 0.0)] == [(data, 0.0, 0)]


def test_delay_and_jitter() -> None:
    impairer = Impairer(Impairment(delay_ms=10, jitter_ms=4), "forward")
    delays = [impairer.packet(data, 0.0)[0].delay_s for data in PACKETS]
    assert 0.010 <= min(delays) < 0.0102
    assert 0.0138 < max(delays) <= 0.014


def test_rate_and_its_queue() -> None:
    impairer = Impairer(Impairment(rate_bps=1_000_000), "forward")
    packet = bytes(1250)  # 10 ms each.
    delays = [impairer.packet(packet, 0.0)[0].delay_s for _ in range(5)]
    assert delays == pytest.approx([0.01, 0.02, 0.03, 0.04, 0.05])
    for _ in range(200):
        impairer.packet(packet, 0.0)
    assert impairer.tally.overflowed == 205 - QUEUE_BYTES // 1250
    assert impairer.packet(packet, 100.0)[0].delay_s == pytest.approx(0.01)


@given(st.binary(min_size=1, max_size=60), st.integers(0, 2**64 - 1))
def test_flipped_bits_always_change_something(data: bytes, choice: int) -> None:
    flipped = flip_bits(data, choice)
    assert len(flipped) == len(data)
    changed = sum((a ^ b).bit_count() for a, b in zip(data, flipped, strict=True))
    assert 1 <= changed <= 3


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=20))
def test_stream_damage_does_not_depend_on_the_reads(cuts: list[int]) -> None:
    options = Impairment(corrupt=0.5, seed=8)
    stream = bytes(sum(cuts))
    whole = StreamDamage(options, "forward").apply(stream)
    damage, at, parts = StreamDamage(options, "forward"), 0, []
    for size in cuts:
        parts.append(damage.apply(stream[at : at + size]))
        at += size
    assert b"".join(parts) == whole


def test_stream_damage_share() -> None:
    damage = StreamDamage(Impairment(corrupt=0.1), "forward")
    out = damage.apply(bytes(1452 * 1000))
    assert sum(byte.bit_count() for byte in out) == damage.damaged == pytest.approx(100, rel=0.3)


@pytest.mark.parametrize("option", ["loss", "reorder", "duplicate"])
def test_a_stream_cannot_suffer_these(option: str) -> None:
    with pytest.raises(ImpairmentError, match=f"--{option} cannot be done to a TCP stream"):
        TcpRelay(("127.0.0.1", 1), Impairment(**{option: 0.1}))


@pytest.mark.parametrize(
    ("option", "value"),
    [("loss", 1.5), ("corrupt", -0.1), ("delay_ms", -1.0), ("jitter_ms", float("inf")),
     ("rate_bps", -1), ("reorder", float("nan"))],
)  # fmt: skip
def test_options_that_make_no_sense(option: str, value: float) -> None:
    with pytest.raises(ImpairmentError, match="--"):
        Impairment(**{option: value})  # type: ignore[arg-type]


def test_tcp_relay_to_nobody_closes() -> None:
    async def work() -> None:
        async with TcpRelay(("127.0.0.1", 1), Impairment()) as relay:
            reader, writer = await asyncio.open_connection(*relay.address)
            with contextlib.suppress(ConnectionResetError):
                assert await asyncio.wait_for(reader.read(), 5) == b""
            writer.close()

    asyncio.run(work())
