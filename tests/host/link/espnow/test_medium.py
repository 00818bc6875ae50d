"""The modelled medium: its times against published ones, and what contention does."""

from __future__ import annotations

import csv
import itertools
import math
import statistics
from pathlib import Path

import pytest

from host.link.espnow import frames
from host.link.espnow.frames import BROADCAST, Packet
from host.link.espnow.medium import Happening, Medium, Received, Sent
from partitioner.cost import wifi
from partitioner.cost.wifi import DIFS_US, RATES, RateError

REFERENCE = Path(__file__).parents[4] / "experiments/reference/links.csv"
SLOW = RATES["1M"]
STATIONS = [bytes([2, 0, 0, 0, 0, n]) for n in range(1, 6)]


def published(quantity: str, condition: str) -> float:
    with REFERENCE.open(newline="") as file:
        (row,) = (
            r for r in csv.DictReader(file)
            if r["quantity"] == quantity and condition in r["condition"]
        )  # fmt: skip
    return float(row["value"])


def frame(source: bytes, to: bytes, number: int = 0, size: int = 250) -> bytes:
    version = 1 if size <= 250 else 2
    return frames.encode(Packet(to, source, bytes(size), version=version, sequence=number))


def medium(stations: int = 2, channel: int = 1, **settings: float) -> Medium:
    made = Medium(**settings)  # type: ignore[arg-type]
    for station in STATIONS[:stations]:
        made.join(station, channel)
    return made


def sent(happened: list[Happening]) -> list[Sent]:
    return [one for one in happened if isinstance(one, Sent)]


def received(happened: list[Happening], station: bytes) -> list[bytes]:
    found = [one for one in happened if isinstance(one, Received)]
    return [one.frame for one in found if one.station == station]


def run(air: Medium) -> list[Happening]:
    return air.advance(math.inf) if air.next_us() < math.inf else []


@pytest.mark.parametrize(("size", "condition"), [(250, "250 B"), (1470, "1470 B")])
def test_frame_times_are_within_5_percent_of_ns_3(size: int, condition: str) -> None:
    modelled_ms = SLOW.airtime_us(frames.frame_bytes(size)) / 1000
    assert modelled_ms == pytest.approx(published("frame_time", condition), rel=0.05)


def test_goodput_of_unicast_at_1_mbit_is_within_15_percent_of_the_published_555_kbit() -> None:
    air = medium()
    for number in range(1000):
        air.submit(STATIONS[0], frame(STATIONS[0], STATIONS[1], number), SLOW, 0.0)
    done = run(air)
    assert len(received(done, STATIONS[1])) == 1000
    goodput_kbps = 1000 * 250 * 8 / (sent(done)[-1].at_us / 1000)
    assert goodput_kbps == pytest.approx(published("one_to_one_goodput", "shielded box"), rel=0.15)


@pytest.mark.parametrize(
    ("name", "size", "wanted_us"),
    [
        ("1M", 293, 192 + 2344),
        ("2M", 293, 192 + 1172),
        ("5.5M", 293, 192 + 427),  # 426.2 us, rounded up (16.2.3.5).
        ("11M", 293, 192 + 214),
        ("6M", 100, 20 + 4 * 35 + 6),  # 822 bits in symbols of 24.
        ("54M", 1500, 20 + 4 * 56 + 6),  # 12,022 bits in symbols of 216.
        ("500K", 293, 192 + 4688),
    ],
)
def test_airtime_by_hand(name: str, size: int, wanted_us: float) -> None:
    assert RATES[name].airtime_us(size) == wanted_us


def test_a_short_preamble_saves_96_us_except_at_1_mbit() -> None:
    assert RATES["11M"].airtime_us(293, short_preamble=True) == 96 + 214
    assert SLOW.airtime_us(293, short_preamble=True) == 192 + 2344


def test_an_acknowledgement_goes_at_a_mandatory_rate_not_above_the_frames() -> None:
    assert SLOW.ack_us() == 192 + 112
    assert RATES["54M"].ack_us() == RATES["24M"].airtime_us(14)
    for one in RATES.values():
        assert RATES[one.ack].bps <= one.bps


def test_an_unknown_rate_is_named() -> None:
    with pytest.raises(RateError, match="'3M' is no ESP-NOW rate"):
        wifi.rate("3M")


def test_a_lone_frame_on_an_idle_medium_goes_at_once_and_is_acknowledged() -> None:
    air = medium()
    air.submit(STATIONS[0], frame(STATIONS[0], STATIONS[1]), SLOW, 1000.0, token="a")
    (arrival, end) = run(air)
    assert isinstance(arrival, Received)
    assert arrival.at_us == 1000 + 2536
    assert end == Sent(1000 + 2536 + 10 + 304, STATIONS[0], "a", True, 1, 2850)


def test_frames_follow_each_other_with_difs_and_a_mean_backoff_of_15_and_a_half_slots() -> None:
    air = medium()
    for number in range(2000):
        air.submit(STATIONS[0], frame(STATIONS[0], STATIONS[1], number), SLOW, 0.0)
    ends = [one.at_us for one in sent(run(air))]
    gaps = [b - a - 2850 - DIFS_US for a, b in itertools.pairwise(ends)]
    assert min(gaps) == 0
    assert max(gaps) == 31 * 20
    assert statistics.mean(gaps) == pytest.approx(15.5 * 20, rel=0.05)


def test_two_senders_collide_about_once_in_32_times_and_lose_nothing() -> None:
    air = medium(3)
    for number in range(2000):
        for source in STATIONS[:2]:
            air.submit(source, frame(source, STATIONS[2], number), SLOW, 0.0)
    done = run(air)
    assert len(received(done, STATIONS[2])) == 4000
    assert all(one.acknowledged for one in sent(done))
    # Both draw from 32 slots anew or count down what is left: between 1/32 and 2/32 of exchanges.
    assert 1 / 40 < air.tally.collided / 2 / 4000 < 2 / 32
    assert air.tally.repeated == 0


def test_two_senders_share_the_medium_evenly() -> None:
    air = medium(3)
    for number in range(1000):
        for source in STATIONS[:2]:
            air.submit(source, frame(source, STATIONS[2], number), SLOW, 0.0)
    half = sent(air.advance(3_000_000.0))
    counts = [sum(one.station == source for one in half) for source in STATIONS[:2]]
    assert abs(counts[0] - counts[1]) < 0.15 * sum(counts)


def test_another_channel_hears_nothing_and_the_sender_is_told() -> None:
    air = medium(1, channel=1)
    air.join(STATIONS[1], 6)
    air.submit(STATIONS[0], frame(STATIONS[0], STATIONS[1]), SLOW, 0.0, token=7)
    (end,) = run(air)
    assert isinstance(end, Sent)
    assert not end.acknowledged
    assert end.attempts == 7
    assert end.token == 7
    assert air.tally.given_up == 1


def test_channels_do_not_slow_each_other_down() -> None:
    air = medium(2, channel=1)
    for station in STATIONS[2:4]:
        air.join(station, 6)
    for number in range(100):
        air.submit(STATIONS[0], frame(STATIONS[0], STATIONS[1], number), SLOW, 0.0)
        air.submit(STATIONS[2], frame(STATIONS[2], STATIONS[3], number), SLOW, 0.0)
    done = run(air)
    assert len(received(done, STATIONS[1])) == len(received(done, STATIONS[3])) == 100
    assert air.tally.collided == 0
    assert done[-1].at_us < 100 * 3500


def test_an_absent_station_costs_all_attempts_with_growing_waits() -> None:
    air = medium(1)
    air.submit(STATIONS[0], frame(STATIONS[0], STATIONS[1]), SLOW, 0.0)
    (end,) = run(air)
    assert isinstance(end, Sent)
    assert not end.acknowledged
    assert end.attempts == wifi.SHORT_RETRY_LIMIT == air.tally.attempts
    assert end.at_us > 7 * 2850 + 6 * DIFS_US


def test_a_lost_acknowledgement_brings_the_frame_again_but_not_twice_to_the_receiver() -> None:
    air = medium(2, loss=0.5, seed=1)
    for number in range(500):
        air.submit(STATIONS[0], frame(STATIONS[0], STATIONS[1], number % 4096), SLOW, 0.0)
    done = run(air)
    got = received(done, STATIONS[1])
    numbers = [int.from_bytes(f[22:24], "little") >> 4 for f in got]
    assert numbers == sorted(set(numbers)), "each at most once, in order"
    assert air.tally.acks_lost > 50
    assert air.tally.repeated > 50
    given_up = sum(not one.acknowledged for one in sent(done))
    # A transmission succeeds if frame and acknowledgement do: 0.75^7 = 13 % are given up.
    assert given_up / 500 == pytest.approx(0.75**7, abs=0.05)


def test_damaged_frames_fail_the_fcs_and_are_sent_again() -> None:
    air = medium(2, corrupt=0.3, seed=2)
    whole = [frame(STATIONS[0], STATIONS[1], number) for number in range(300)]
    for one in whole:
        air.submit(STATIONS[0], one, SLOW, 0.0)
    got = received(run(air), STATIONS[1])
    assert [frames.decode(f).sequence for f in got] == list(range(300))  # type: ignore[union-attr]
    assert air.tally.corrupted > 60
    assert air.tally.attempts == 300 + air.tally.corrupted


def test_broadcast_reaches_all_once_and_is_not_acknowledged() -> None:
    air = medium(4, loss=0.4, seed=3)
    for number in range(200):
        air.submit(STATIONS[0], frame(STATIONS[0], BROADCAST, number), SLOW, 0.0)
    done = run(air)
    assert all(one.attempts == 1 for one in sent(done))
    for station in STATIONS[1:4]:
        assert len(received(done, station)) / 200 == pytest.approx(0.6, abs=0.12)
    assert received(done, STATIONS[0]) == []


def test_a_frame_to_one_is_not_heard_by_others() -> None:
    air = medium(3)
    air.submit(STATIONS[0], frame(STATIONS[0], STATIONS[1]), SLOW, 0.0)
    assert received(run(air), STATIONS[2]) == []


def test_each_frame_goes_at_its_own_rate() -> None:
    air = medium()
    for name in ("1M", "11M", "54M"):
        air.submit(STATIONS[0], frame(STATIONS[0], STATIONS[1]), RATES[name], 0.0, token=name)
    ends = sent(run(air))
    assert [one.token for one in ends] == ["1M", "11M", "54M"]
    assert ends[2].at_us - ends[1].at_us < 1000 < ends[0].at_us


def test_one_seed_one_fate() -> None:
    def story(seed: int) -> list[Happening]:
        air = medium(3, loss=0.3, corrupt=0.1, seed=seed)
        for number in range(100):
            for source in STATIONS[:2]:
                air.submit(source, frame(source, STATIONS[2], number), SLOW, number * 900.0)
        return run(air)

    assert story(5) == story(5) != story(6)


def test_advancing_in_small_steps_changes_nothing() -> None:
    def story(step: float) -> list[Happening]:
        air = medium(3, loss=0.2, seed=9)
        for number in range(50):
            for source in STATIONS[:2]:
                air.submit(source, frame(source, STATIONS[2], number), SLOW, 0.0)
        happened, now = [], 0.0
        while air.next_us() < math.inf:
            now += step
            happened += air.advance(now)
        return happened

    assert story(37.0) == story(1e9)


def test_a_station_that_leaves_in_the_middle_ends_nothing_else() -> None:
    air = medium(3)
    air.submit(STATIONS[0], frame(STATIONS[0], STATIONS[2]), SLOW, 0.0)
    air.submit(STATIONS[1], frame(STATIONS[1], STATIONS[2]), SLOW, 500.0)
    assert air.advance(1000.0) == []
    air.leave(STATIONS[0])
    (arrival, end) = run(air)
    assert isinstance(end, Sent)
    assert end.station == STATIONS[1]
    assert end.acknowledged
    assert isinstance(arrival, Received)
    assert frames.source(arrival.frame) == STATIONS[1]
