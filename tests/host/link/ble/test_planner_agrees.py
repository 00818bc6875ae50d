"""Two models of BLE, written apart: the planner's estimate and the link layer packet by packet."""

from __future__ import annotations

import random

import pytest

from host.link.ble import gatt
from host.link.ble.link_layer import TO_PERIPHERAL, Delivered, LinkLayer
from partitioner.cost.links import Link

ATT_AND_L2CAP_BYTES = 7
MESSAGES = 150


def mean_us(payload_bytes: int, link: Link) -> float:
    """From a message's hand-over, at any moment of an interval, until all of it has arrived."""
    rng = random.Random(3)
    layer = LinkLayer(link.loss, seed=5)
    interval_us = round(link.interval_ms * 1000)
    connection = layer.connect("central", "peripheral", interval_us, 0)
    connection.phy[:] = link.phy, link.phy
    connection.data_bytes[:] = gatt.DATA_BYTES, gatt.DATA_BYTES
    now_us = total_us = 0
    for _ in range(MESSAGES):
        start_us = now_us + rng.randrange(interval_us)
        for size in link.frames(payload_bytes):
            left = size + ATT_AND_L2CAP_BYTES
            while left > 0:
                packet = min(left, gatt.DATA_BYTES)
                layer.send(connection, TO_PERIPHERAL, packet, "packet", start_us)
                left -= packet
        while (due_us := layer.next_us()) is not None:
            for happening in layer.advance(due_us):
                if isinstance(happening, Delivered):
                    now_us = happening.at_us
        total_us += now_us - start_us
        now_us += 3 * interval_us
    return total_us / MESSAGES


def test_both_have_the_same_frames() -> None:
    assert Link("ble").frame_bytes == gatt.FRAME_BYTES


@pytest.mark.parametrize(("loss", "tolerance"), [(0.0, 0.06), (0.1, 0.12)])
@pytest.mark.parametrize("interval_ms", [7.5, 15.0])
@pytest.mark.parametrize("phy", [1, 2])
@pytest.mark.parametrize("payload_bytes", [1008, 5488])
def test_a_boundary_takes_as_long_in_both(
    payload_bytes: int, phy: int, interval_ms: float, loss: float, tolerance: float
) -> None:
    link = Link("ble", phy=phy, interval_ms=interval_ms, loss=loss)
    estimate_us = link.crossing(payload_bytes).us
    assert estimate_us == pytest.approx(mean_us(payload_bytes, link), rel=tolerance)
