"""One run of a scenario: `sim.c` behind types.

All times that enter the simulation are whole microseconds and all chances whole millionths, so that
a seed gives the same history everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from host.boards.virtual import _board
from host.link.espnow.frames import MAX_DATA, frame_bytes
from host.sim import _sim
from host.sim.scenario import Scenario, ScenarioError
from partitioner.cost import wifi

_QUEUE = 8  # Frames that a station holds for the air, about as many as the chip's driver.
_KINDS = (
    "sent", "arrived", "lost", "collided", "invoke", "begun", "result", "reboot", "air",
)  # fmt: skip
_FRAMES = {
    1: "HELLO", 2: "HELLO_ACK", 3: "DATA", 4: "ACK", 5: "POLL", 6: "REJECT",
    7: "PING", 8: "PONG", 9: "RESET", 10: "BYE",
}  # fmt: skip


@dataclass(frozen=True)
class Event:
    """What happened at `at_us`, to `node`; `other` and `value` are as in sim.h."""

    at_us: int
    node: int
    kind: str
    other: int
    value: int

    @property
    def frame(self) -> str:
        """The frame's kind, for events about frames."""
        return _FRAMES.get(self.value >> 20, "?")

    @property
    def length(self) -> int:
        """The frame's bytes."""
        return self.value & 0xFFFF


@dataclass(frozen=True)
class Report:
    """What came out of one seed. Times are simulated."""

    seed: int
    counts: dict[str, int]
    failures: dict[str, int]
    digest: str

    @property
    def problems(self) -> list[str]:
        """Which of the properties does not hold."""
        found = []
        if self.counts["wrong"]:
            found.append(f"{self.counts['wrong']} results that are not exact, or came twice")
        if self.counts["mixed"]:
            found.append(f"{self.counts['mixed']} results across two bundles")
        if self.counts["stuck"]:
            found.append(f"{self.counts['stuck']} nodes stuck after everything healed")
        return found


_COUNTS = (
    "begun", "exact", "failed", "wrong", "mixed", "stuck", "refused", "frames", "bytes", "lost",
    "collisions", "reboots", "air_us", "latency_sum_us", "latency_max_us", "events",
)  # fmt: skip


def run(scenario: Scenario, seed: int, *, trace: bool = False) -> tuple[Report, list[Event]]:
    """Simulate a scenario once; with `trace`, what happened in order.

    Raises:
        ScenarioError: the core refuses the settings.
    """
    config = _config(scenario, seed, trace)
    world = _sim.lib.sim_new(config)
    if world == _sim.ffi.NULL:
        raise ScenarioError(f"{scenario.name}: the core refuses these settings")
    try:
        report = _sim.ffi.new("struct sim_report *")
        _sim.lib.sim_run(world, report)
        return _report(seed, report), _events(world) if trace else []
    finally:
        _sim.lib.sim_free(world)


def _report(seed: int, report: Any) -> Report:
    names = [_error_name(code) for code in range(31)] + ["other"]
    failures = {name: int(n) for name, n in zip(names, report.failures, strict=True) if n}
    counts = {name: int(getattr(report, name)) for name in _COUNTS}
    return Report(seed, counts, failures, f"{report.digest:08x}")


def _error_name(code: int) -> str:
    name: bytes = _board.ffi.string(_board.lib.ts_error_name(code))
    return name.decode()


def _events(world: Any) -> list[Event]:
    count = _sim.ffi.new("size_t *")
    events = _sim.lib.sim_trace(world, count)
    return [
        Event(int(e.at_us), int(e.node), _KINDS[e.kind], int(e.other), int(e.value))
        for e in (events[i] for i in range(count[0]))
    ]


def _us(seconds: float) -> int:
    return round(seconds * 1e6)


def _millionths(share: float) -> int:
    return round(share * 1e6)


def _config(scenario: Scenario, seed: int, trace: bool) -> Any:
    config = _sim.ffi.new("struct sim_config *")
    link = scenario["link"]
    config.seed = seed
    config.trace = trace
    config.nodes, config.stages = len(scenario.nodes), len(scenario["stages"])
    config.input_bytes = scenario["input_bytes"]
    for number, size in enumerate(scenario["stages"]):
        config.stage_bytes[number] = size
    config.timeout_ms = scenario["timeout_ms"]
    config.run_us = _us(scenario["seconds"])
    config.settle_us = _us(scenario["settle_seconds"])
    config.loss = _millionths(link["loss"])
    config.duplicate = _millionths(link["duplicate"])
    config.reorder_chance = _millionths(link["reorder"])
    config.corrupt = _millionths(link["corrupt"])
    if link["medium"] == "espnow":
        _espnow(config, link)
    else:
        config.mtu = link["mtu"]
        config.delay_us, config.jitter_us = (
            _us(link["delay_ms"] / 1e3),
            _us(link["jitter_ms"] / 1e3),
        )
        config.rate_bps = link["rate_bps"]
    for number, node in enumerate(scenario.nodes):
        own = config.node[number]
        own.stage, own.next, own.bundle = node["stage"], node["next"], node["bundle"]
        own.drift_ppm = node["drift_ppm"]
        own.clock_offset_us = node["clock_offset_s"] * 1_000_000
        own.invoke_us = _us(node["invoke_ms"] / 1e3)
        own.period_us = _us(node["period_ms"] / 1e3) if node["stage"] == 0 else 0
        own.reboot_every_us = min(_us(node.get("reboot_every_s", 0)), 2**32 - 1)
        own.down_us = _us(node["down_ms"] / 1e3)
    return config


def _espnow(config: Any, link: dict[str, Any]) -> None:
    rate = wifi.rate(link["rate"])
    config.medium = 1
    config.mtu = MAX_DATA[link["version"]]
    config.reorder, config.window, config.rto_min_us = 1, 32, 100_000
    for size in range(1, config.mtu + 1):
        config.air_us[size] = round(rate.airtime_us(frame_bytes(size)))
    config.ack_us = round(rate.ack_us())
    config.sifs_us, config.difs_us = round(wifi.SIFS_US), round(wifi.DIFS_US)
    config.slot_us = round(wifi.SLOT_US)
    config.cw_min, config.cw_max = rate.cw_min, wifi.CW_MAX
    config.tries, config.queue = wifi.SHORT_RETRY_LIMIT, _QUEUE
