"""The planner's formulas and the link library in simulated time, over the same links."""

from __future__ import annotations

import statistics
from typing import Any

import pytest

from host.sim import scenario, world
from partitioner.cost.links import Link

# What the formulas leave out: on BLE the rest of an event into which no packet fits, and answers
# of the link library between the frames; on UDP windows that shrink and timeouts that grow.
_TOLERANCE = {"espnow": 0.05, "ble": 0.10, "udp": 0.15, "tcp": 0.10}


def crossing_us(link: dict[str, Any], payload_bytes: int) -> float:
    """Mean time from the end of the head's invoke to the beginning of the tail's."""
    one = scenario.parse(
        {
            "name": "one boundary at a time",
            "seconds": 300,
            "settle_seconds": 5,
            "stages": [payload_bytes, 10],
            "input_bytes": 16,
            "nodes": [
                {"stage": 0, "invoke_ms": 7.3, "period_ms": 703},
                {"stage": 1, "invoke_ms": 3},
            ],
            "link": link,
        }
    )
    report, events = world.run(one, 1, trace=True)
    assert report.problems == []
    times, handed_over = [], None
    for event in events:
        if event.kind == "invoke" and event.node == 0:
            handed_over = event.at_us + event.value
        elif event.kind == "invoke" and handed_over is not None:
            times.append(event.at_us - handed_over)
            handed_over = None
    assert len(times) > 200
    return statistics.mean(times)


@pytest.mark.parametrize("loss", [0.0, 0.02, 0.1])
@pytest.mark.parametrize("payload_bytes", [100, 1008, 5488])
@pytest.mark.parametrize(
    "link",
    [
        {"medium": "espnow"},
        {"medium": "espnow", "version": 2},
        {"medium": "espnow", "version": 2, "rate": "24M"},
        {"medium": "ble"},
        {"medium": "ble", "phy": 1, "interval_ms": 30},
        {"medium": "udp"},
        {"medium": "tcp"},
    ],
    ids=lambda link: "-".join(map(str, link.values())),
)
def test_planner_and_simulator_agree(link: dict[str, Any], payload_bytes: int, loss: float) -> None:
    options = {key: value for key, value in link.items() if key != "medium"}
    planned = Link(link["medium"], loss=loss, **options).crossing(payload_bytes).us
    simulated = crossing_us({**link, "loss": loss}, payload_bytes)
    assert simulated == pytest.approx(planned, rel=_TOLERANCE[link["medium"]])
