"""The model of Bluetooth's link layer: air times, events, acknowledgement, loss as delay."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from host.link.ble.link_layer import (
    LE_1M,
    LE_2M,
    T_IFS_US,
    TO_CENTRAL,
    TO_PERIPHERAL,
    Acknowledged,
    Connection,
    Delivered,
    Happening,
    LinkLayer,
    air_time_us,
)

INTERVAL_US = 7500


def connected(layer: LinkLayer, phy: int = LE_2M, interval_us: int = INTERVAL_US) -> Connection:
    link = layer.connect("central", "peripheral", interval_us, 0)
    link.phy[:] = phy, phy
    link.data_bytes[:] = 251, 251
    return link


def run(layer: LinkLayer, until_us: int = 10**9) -> list[Happening]:
    found: list[Happening] = []
    while (due := layer.next_us()) is not None and due < until_us:
        found += layer.advance(due)
    return found


@pytest.mark.parametrize(
    ("data_bytes", "phy", "wanted_us"),
    [
        # Vol 6 Part B 4.5.10: the longest packets with a MIC (4 bytes), and of 27 bytes.
        (255, LE_1M, 2120),
        (255, LE_2M, 1064),
        (31, LE_1M, 328),
        # Vol 6 Part B 2.1: an empty PDU.
        (0, LE_1M, 80),
        (0, LE_2M, 44),
    ],
)
def test_air_times_are_the_specifications(data_bytes: int, phy: int, wanted_us: int) -> None:
    assert air_time_us(data_bytes, phy) == wanted_us


@pytest.mark.parametrize("phy", [LE_1M, LE_2M])
def test_one_way_goodput_is_what_the_packet_times_allow(phy: int) -> None:
    layer = LinkLayer()
    link = connected(layer, phy, interval_us=400_000)
    for number in range(2000):
        layer.send(link, TO_PERIPHERAL, 251, number, 0)
    ends = [h.at_us for h in run(layer) if isinstance(h, Delivered)]
    turn_us = air_time_us(251, phy) + T_IFS_US + air_time_us(0, phy) + T_IFS_US
    found = (len(ends) - 1) * 251 * 8e3 / (ends[-1] - ends[0])
    assert found == pytest.approx(251 * 8e3 / turn_us, rel=0.01)  # 2M: 1,442 kbit/s.


@pytest.mark.parametrize(("interval_us", "packets"), [(7500, 5), (15000, 10), (30000, 21)])
def test_packets_of_an_event_end_before_the_next_anchor(interval_us: int, packets: int) -> None:
    layer = LinkLayer()
    link = connected(layer, LE_2M, interval_us)
    for number in range(60):
        layer.send(link, TO_PERIPHERAL, 251, number, 0)
    ends = [h.at_us for h in run(layer) if isinstance(h, Delivered)]
    first_event = [e for e in ends if e < link.anchor_us + interval_us]
    assert len(first_event) == packets
    assert first_event[-1] + T_IFS_US + 44 + T_IFS_US <= link.anchor_us + interval_us


def test_nothing_moves_before_the_anchor_point() -> None:
    layer = LinkLayer()
    link = connected(layer)
    layer.send(link, TO_CENTRAL, 20, "a", link.anchor_us + 1)
    assert layer.next_us() == link.anchor_us + INTERVAL_US
    assert layer.advance(link.anchor_us + INTERVAL_US - 1) == []


def test_data_of_both_ways_share_an_event() -> None:
    layer = LinkLayer()
    link = connected(layer)
    layer.send(link, TO_PERIPHERAL, 100, "down", 0)
    layer.send(link, TO_CENTRAL, 100, "up", 0)
    (down, up) = [h for h in run(layer) if isinstance(h, Delivered)]
    assert down.at_us == link.anchor_us + air_time_us(100, LE_2M)
    assert up.at_us == down.at_us + T_IFS_US + air_time_us(100, LE_2M)


def test_the_peripherals_buffer_is_free_when_the_central_speaks_again() -> None:
    layer = LinkLayer()
    link = connected(layer)
    layer.send(link, TO_CENTRAL, 100, "up", 0)
    (acknowledged,) = [h for h in run(layer) if isinstance(h, Acknowledged)]
    assert acknowledged.at_us == link.anchor_us + INTERVAL_US + air_time_us(0, LE_2M)


Sends = st.lists(
    st.tuples(
        st.sampled_from([TO_PERIPHERAL, TO_CENTRAL]), st.integers(0, 251), st.integers(0, 9000)
    ),
    max_size=60,
)


@settings(deadline=None, max_examples=60)
@given(sends=Sends, loss=st.floats(0, 0.8), seed=st.integers(0, 1000))
def test_loss_delays_and_neither_loses_nor_doubles_nor_reorders(
    sends: list[tuple[int, int, int]], loss: float, seed: int
) -> None:
    layer = LinkLayer(loss, seed)
    link = connected(layer)
    found: list[Happening] = []
    now_us = 0
    for number, (direction, size, pause_us) in enumerate(sends):
        now_us += pause_us
        found += layer.advance(now_us)
        layer.send(link, direction, size, number, now_us)
    found += run(layer, 10**12)
    for direction in (TO_PERIPHERAL, TO_CENTRAL):
        wanted = [number for number, send in enumerate(sends) if send[0] == direction]
        for kind in (Delivered, Acknowledged):
            mine = [h for h in found if isinstance(h, kind) and h.direction == direction]
            assert [h.token for h in mine] == wanted
            assert [h.at_us for h in mine] == sorted(h.at_us for h in mine)
    arrived = {h.token: h.at_us for h in found if isinstance(h, Delivered)}
    assert all(h.at_us > arrived[h.token] for h in found if isinstance(h, Acknowledged))


def test_the_share_of_lost_packets_is_the_one_asked_for_and_repeats_by_its_seed() -> None:
    def trial(seed: int) -> tuple[list[int], list[int], list[int]]:
        layer = LinkLayer(0.1, seed)
        link = connected(layer)
        for number in range(3000):
            layer.send(link, TO_PERIPHERAL, 251, number, 0)
        ends = [h.at_us for h in run(layer) if isinstance(h, Delivered)]
        return ends, link.tally.sent, link.tally.lost

    ends, sent, lost = trial(1)
    assert lost[0] / sent[0] == pytest.approx(0.1, abs=0.02)
    # Sent again if the packet or the one that acknowledges it is lost.
    assert sent[0] == pytest.approx(3000 / 0.9**2, rel=0.03)
    assert trial(1) == (ends, sent, lost)
    assert trial(2)[0] != ends


class Recorded(LinkLayer):
    """Keeps when each radio is on the air."""

    def __init__(self, loss: float, seed: int) -> None:
        super().__init__(loss, seed)
        self.spans: list[tuple[int, int, Connection]] = []

    def _packet(
        self, link: Connection, direction: int, start_us: int, found: list[Happening]
    ) -> tuple[int, bool]:
        end_us, more = super()._packet(link, direction, start_us, found)
        self.spans.append((start_us, end_us, link))
        return end_us, more


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 100),
    loss=st.sampled_from([0.0, 0.2]),
    intervals=st.lists(st.sampled_from([6, 8, 12, 24]), min_size=2, max_size=3),
)
def test_a_radio_with_several_connections_does_one_thing_at_a_time(
    seed: int, loss: float, intervals: list[int]
) -> None:
    layer = Recorded(loss, seed)
    links = [
        layer.connect("hub", f"leaf{i}", interval * 1250, 0) for i, interval in enumerate(intervals)
    ]
    for link in links:
        for number in range(80):
            layer.send(link, number % 2, 27, (link, number), 0)
    delivered = [h.token for h in run(layer, 10**9) if isinstance(h, Delivered)]
    assert len(delivered) == 80 * len(links)
    spans = sorted(layer.spans, key=lambda span: span[0])
    for (_, end_us, one), (start_us, _, other) in itertools.pairwise(spans):
        assert start_us >= end_us + T_IFS_US or (one is other and start_us >= end_us)


def test_a_lost_packet_is_repeated_in_the_same_event_and_a_lost_answer_in_the_next() -> None:
    class Loses(LinkLayer):
        def lost(self) -> bool:
            return next(outcomes)

    outcomes = iter([True] + [False] * 9)
    layer = Loses()
    link = connected(layer)
    layer.send(link, TO_PERIPHERAL, 100, "a", 0)
    (down,) = [h for h in run(layer) if isinstance(h, Delivered)]
    again_us = air_time_us(100, LE_2M) + T_IFS_US + air_time_us(0, LE_2M) + T_IFS_US
    assert down.at_us == link.anchor_us + again_us + air_time_us(100, LE_2M)

    outcomes = iter([False, True] + [False] * 9)
    layer = Loses()
    link = connected(layer)
    layer.send(link, TO_CENTRAL, 100, "b", 0)
    (up,) = [h for h in run(layer) if isinstance(h, Delivered)]
    assert up.at_us > link.anchor_us + INTERVAL_US


def test_another_interval_holds_from_the_next_anchor_on() -> None:
    layer = LinkLayer()
    link = connected(layer, interval_us=50_000)
    layer.update(link, 7500, link.anchor_us + 10)
    first_us = link.anchor_us
    layer.send(link, TO_PERIPHERAL, 10, "a", first_us + 1)
    assert layer.next_us() == first_us + 7500


def test_what_waits_in_a_connection_ends_with_it() -> None:
    layer = LinkLayer()
    link = connected(layer)
    layer.send(link, TO_PERIPHERAL, 10, "a", 0)
    layer.disconnect(link)
    assert layer.next_us() is None
    assert run(layer) == []
