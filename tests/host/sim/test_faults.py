"""Every fault that a scenario can ask for happens, and the library gets over it."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from host.sim import scenario as scenarios
from host.sim import world
from host.sim.scenario import Scenario
from host.sim.world import Event, Report


def one(nodes: list[dict[str, Any]] | None = None, **link: Any) -> Scenario:
    return scenarios.parse(
        {
            "name": "a fault",
            "seconds": 10,
            "settle_seconds": 15,
            "stages": [5000, 10],
            "input_bytes": 100,
            "nodes": nodes or [{"stage": 0, "period_ms": 30}, {"stage": 1}],
            "link": {"medium": "wire", **link},
        }
    )


def history(scenario: Scenario) -> tuple[Report, list[Event]]:
    """What came out, and what happened before everything healed."""
    report, events = world.run(scenario, 3, trace=True)
    assert report.problems == []
    assert report.counts["exact"] > 100
    return report, [event for event in events if event.at_us < 11_000_000]


def of(events: list[Event], kind: str, sender: int = 0) -> list[Event]:
    """DATA frames of the head, as sent or as they arrived."""
    at = {"sent": sender, "lost": sender, "arrived": 1 - sender}[kind]
    return [e for e in events if e.kind == kind and e.node == at and e.frame == "DATA"]


def test_without_faults_every_frame_arrives_once_and_in_order() -> None:
    report, events = history(one())
    sent, arrived = of(events, "sent"), of(events, "arrived")
    assert [e.value for e in arrived] == [e.value for e in sent][: len(arrived)]
    assert report.counts["failed"] == report.counts["lost"] == 0


def test_loss() -> None:
    report, events = history(one(loss=0.2))
    share = len(of(events, "lost")) / len(of(events, "sent"))
    assert 0.1 < share < 0.3
    assert report.counts["failed"] == 0


def test_duplication() -> None:
    _, events = history(one(duplicate=0.5))
    assert len(of(events, "arrived")) > 1.1 * len(of(events, "sent"))


def test_reordering() -> None:
    """Messages end in a shorter frame; overtaken ones arrive before others of their message."""

    def swaps(scenario: Scenario) -> int:
        lengths = [e.length for e in of(history(scenario)[1], "arrived")]
        shorter = [n for n, length in enumerate(lengths) if length < 1000]
        return sum(b - a != 4 for a, b in itertools.pairwise(shorter))

    assert swaps(one()) == 0
    assert swaps(one(reorder=0.3)) > 50


def test_corruption_is_found_and_sent_again() -> None:
    quiet, _ = history(one())
    spoilt, _ = history(one(corrupt=0.1))
    again = spoilt.counts["frames"] / spoilt.counts["exact"]
    assert again > 1.05 * quiet.counts["frames"] / quiet.counts["exact"]


def test_contention_on_a_shared_channel() -> None:
    heads = [{"stage": 0, "period_ms": 100, "count": 5}, {"stage": 1}]
    report, events = history(one(heads, medium="espnow"))
    assert report.counts["collisions"] > 20
    assert any(e.kind == "collided" for e in events)


@pytest.mark.parametrize("medium", ["ble", "udp", "tcp"])
def test_transmissions_share_the_air(medium: str) -> None:
    """Over BLE, what the tail's radio takes part in; over Wi-Fi, all."""
    heads = [{"stage": 0, "period_ms": 200, "count": 3}, {"stage": 1}]
    report, events = history(one(heads, medium=medium, loss=0.05))
    free = 0
    for event in (e for e in events if e.kind == "air"):
        assert event.at_us + 2 >= free  # Whole microseconds.
        free = event.at_us + event.value
    assert report.counts["air_us"] > 100_000


def test_clocks_that_drift_apart() -> None:
    nodes = [{"stage": 0, "period_ms": 30, "drift_ppm": 10_000, "clock_offset_s": 4000},
             {"stage": 1, "drift_ppm": -10_000}]  # fmt: skip
    fast, _ = history(one(nodes, loss=0.1))
    assert fast.digest != history(one(loss=0.1))[0].digest
    assert fast.counts["failed"] == 0


@pytest.mark.parametrize("medium", ["wire", "espnow", "ble", "udp", "tcp"])
def test_reboots(medium: str) -> None:
    nodes = [{"stage": 0, "period_ms": 30, "reboot_every_s": 2, "down_ms": 100},
             {"stage": 1, "reboot_every_s": 2, "down_ms": 100}]  # fmt: skip
    report, events = history(one(nodes, medium=medium))
    assert report.counts["reboots"] >= 4
    assert {e.node for e in events if e.kind == "reboot"} == {0, 1}


def test_a_relay_between_heads_and_tails() -> None:
    chain = scenarios.parse(
        {
            "name": "two tails",
            "seconds": 10,
            "stages": [3000, 500, 10],
            "nodes": [
                {"stage": 0, "count": 2, "next": 2},
                {"stage": 0, "next": 3},
                {"stage": 1, "next": 4},
                {"stage": 1, "next": 5},
                {"stage": 2},
                {"stage": 2},
            ],
            "link": {"medium": "udp"},
        }
    )
    _, events = history(chain)
    invoked = {(e.node, e.other) for e in events if e.kind == "invoke"}
    assert invoked == {(0, 0), (1, 0), (2, 0), (3, 1), (4, 1), (5, 2), (6, 2)}
