"""One run of a scenario: `sim.c` behind types.

All times that enter the simulation are whole microseconds and all chances whole millionths, so that
a seed gives the same history everywhere.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from host.link.espnow.frames import frame_bytes
from host.sim import _sim, images
from host.sim.scenario import Scenario, ScenarioError
from partitioner import image
from partitioner.cost import links, wifi

_QUEUE = 8  # Frames that a station holds for the air, about as many as the chip's driver.
_WIRE_MTU, _WIRE_DELAY_MS = 1452, 1
_MEDIA = {"wire": 0, "espnow": 1, "ble": 2, "udp": 3, "tcp": 4}  # enum sim_medium
_KINDS = (
    "sent", "arrived", "lost", "collided", "invoke", "begun", "result", "reboot", "air", "cut",
    "boot", "flash",
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
        if self.counts["unverified"]:
            found.append(f"{self.counts['unverified']} boots without a whole, verified bundle")
        if self.counts["outdated"]:
            found.append(f"{self.counts['outdated']} nodes that never got the newest bundle")
        if self.counts["stuck"]:
            found.append(f"{self.counts['stuck']} nodes stuck after everything healed")
        return found


_COUNTS = (
    "begun", "exact", "failed", "wrong", "mixed", "lost_heads", "under_way", "stuck", "unverified",
    "outdated", "refused", "frames", "bytes", "lost", "collisions", "reboots", "cuts", "updates",
    "air_us", "latency_sum_us", "latency_max_us", "events",
)  # fmt: skip


def run(scenario: Scenario, seed: int, *, trace: bool = False) -> tuple[Report, list[Event]]:
    """Simulate a scenario once; with `trace`, what happened in order.

    Raises:
        ScenarioError: the core refuses the settings.
    """
    held: list[Any] = []
    config = _config(scenario, seed, trace, held)
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
    name: bytes = _sim.ffi.string(_sim.lib.ts_error_name(code))
    return name.decode()


def _events(world: Any) -> list[Event]:
    count = _sim.ffi.new("size_t *")
    events = _sim.lib.sim_trace(world, count)
    found = [
        Event(int(e.at_us), int(e.node), _KINDS[e.kind], int(e.other), int(e.value))
        for e in (events[i] for i in range(count[0]))
    ]
    found.sort(key=lambda event: event.at_us)
    return found


def _us(seconds: float) -> int:
    return round(seconds * 1e6)


def _millionths(share: float) -> int:
    return round(share * 1e6)


def _config(scenario: Scenario, seed: int, trace: bool, held: list[Any]) -> Any:
    """`held` keeps what the configuration points to."""
    config = _sim.ffi.new("struct sim_config *")
    config.seed = seed
    config.trace = trace
    config.nodes, config.stages = len(scenario.nodes), len(scenario["stages"])
    config.input_bytes = scenario["input_bytes"]
    for number, size in enumerate(scenario["stages"]):
        config.stage_bytes[0][number] = size
    config.timeout_ms = scenario["timeout_ms"]
    config.run_us = _us(scenario["seconds"])
    config.settle_us = _us(scenario["settle_seconds"])
    _link(config, scenario["link"])
    for number, node in enumerate(scenario.nodes):
        own = config.node[number]
        own.stage, own.next, own.bundle = node["stage"], node["next"], node["bundle"]
        own.drift_ppm = node["drift_ppm"]
        own.clock_offset_us = node["clock_offset_s"] * 1_000_000
        own.invoke_us = _us(node["invoke_ms"] / 1e3)
        own.period_us = _us(node["period_ms"] / 1e3) if node["stage"] == 0 else 0
        own.reboot_every_us = min(_us(node.get("reboot_every_s", 0)), 2**32 - 1)
        own.down_us = _us(node["down_ms"] / 1e3)
    if "update" in scenario.content:
        _updates(config, scenario, held)
    return config


def _link(config: Any, link: dict[str, Any]) -> None:
    """The link, timed as partitioner.cost.links has it."""
    config.loss = _millionths(link["loss"])
    config.duplicate = _millionths(link["duplicate"])
    config.reorder_chance = _millionths(link["reorder"])
    config.corrupt = _millionths(link["corrupt"])
    config.jitter_us = _us(link["jitter_ms"] / 1e3)
    medium = link["medium"]
    config.medium = _MEDIA[medium]
    if medium == "wire":
        config.mtu = link.get("mtu", _WIRE_MTU)
        config.delay_us = _us(link.get("delay_ms", _WIRE_DELAY_MS) / 1e3)
        config.rate_bps = link["rate_bps"]
        return
    model = links.Link(
        medium, version=link["version"], rate=link["rate"], phy=link["phy"],
        interval_ms=link["interval_ms"], data_bytes=link["data_bytes"], mtu=link.get("mtu", 0),
    )  # fmt: skip
    config.mtu = model.frame_bytes
    if medium == "espnow":
        _espnow(config, link)
    elif medium == "ble":
        config.reorder, config.window, config.rto_min_us = 1, 32, 100_000
        config.interval_us = _us(model.interval_ms / 1e3)
        config.gap_us = round(links.T_IFS_US)
        for size in range(1, config.mtu + 1):
            config.air_us[size] = round(model.medium_us(size))
            config.packets[size] = model.packets(size)
    else:
        config.delay_us = round(links.IP_LATENCY_US) + _us(link.get("delay_ms", 0) / 1e3)
        own_bps = round(links.GOODPUT_BPS[medium])
        config.rate_bps = min(link["rate_bps"] or own_bps, own_bps)
    if medium == "tcp":
        config.reorder, config.rto_min_us = 1, 1_000_000
        for size in range(1, config.mtu + 1):
            config.packets[size] = model.packets(size)


def _espnow(config: Any, link: dict[str, Any]) -> None:
    rate = wifi.rate(link["rate"])
    config.reorder, config.window, config.rto_min_us = 1, 32, 100_000
    for size in range(1, config.mtu + 1):
        config.air_us[size] = round(rate.airtime_us(frame_bytes(size)))
    config.ack_us = round(rate.ack_us())
    config.sifs_us, config.difs_us = round(wifi.SIFS_US), round(wifi.DIFS_US)
    config.slot_us = round(wifi.SLOT_US)
    config.cw_min, config.cw_max = rate.cw_min, wifi.CW_MAX
    config.tries, config.queue = wifi.SHORT_RETRY_LIMIT, _QUEUE


def _updates(config: Any, scenario: Scenario, held: list[Any]) -> None:
    update = scenario["update"]
    for number, size in enumerate(update["stages"]):
        config.stage_bytes[1][number] = size
    packed = images.pack(
        (tuple(scenario["stages"]), tuple(update["stages"])),
        scenario["input_bytes"],
        update["model_bytes"],
        update["versions"],
    )
    array = _sim.ffi.new("struct sim_image[]", len(packed))
    for entry, one in zip(array, packed, strict=True):
        content = _sim.ffi.from_buffer("uint8_t[]", one.data)
        entry.bytes, entry.len, entry.word = content, len(one.data), one.word
        entry.digest = list(one.digest)
        held.append(content)
    hashing = _sim.ffi.new_handle(_Hashing())
    held += [array, hashing]
    config.image, config.versions = array, update["versions"]
    config.power_cut = _millionths(update["power_cut"])
    config.update_pause_us = _us(update["pause_s"])
    config.piece_bytes = update["piece_bytes"]
    crypto = config.crypto
    crypto.ctx = hashing
    crypto.sha256_start, crypto.sha256_update = _sim.lib.sim_sha_start, _sim.lib.sim_sha_update
    crypto.sha256_finish, crypto.verify = _sim.lib.sim_sha_finish, _sim.lib.sim_verify


class _Hashing:
    """The SHA-256 that runs, and signatures: what a port has from mbedTLS."""

    def __init__(self) -> None:
        self.sha = hashlib.sha256()


@_sim.ffi.def_extern()  # type: ignore[untyped-decorator]
def sim_sha_start(ctx: Any) -> bool:
    _sim.ffi.from_handle(ctx).sha = hashlib.sha256()
    return True


@_sim.ffi.def_extern()  # type: ignore[untyped-decorator]
def sim_sha_update(ctx: Any, data: Any, length: int) -> bool:
    _sim.ffi.from_handle(ctx).sha.update(_sim.ffi.buffer(data, length))
    return True


@_sim.ffi.def_extern()  # type: ignore[untyped-decorator]
def sim_sha_finish(ctx: Any, digest: Any) -> bool:
    _sim.ffi.memmove(digest, _sim.ffi.from_handle(ctx).sha.digest(), image.DIGEST_BYTES)
    return True


@_sim.ffi.def_extern()  # type: ignore[untyped-decorator]
def sim_verify(_ctx: Any, digest: Any, signature: Any) -> bool:
    return images.verify(
        bytes(_sim.ffi.buffer(digest, image.DIGEST_BYTES)),
        bytes(_sim.ffi.buffer(signature, image.SIGNATURE_BYTES)),
    )
