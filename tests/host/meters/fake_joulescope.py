"""pyjoulescope_driver with instruments that are not there: a `Driver` of the same methods.

It stands in at the driver's own boundary: topics, values and errors as the maker's driver has them
(test_joulescope.py holds both against each other where no instrument is needed), messages of
signals as its binding makes them of jsdrv_stream_signal_s, from a thread of its own, in real time,
from a known profile. `world` is what is plugged in.
"""

from __future__ import annotations

import inspect
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

RATE_HZ = 2_000_000
Publish = Callable[[str, Any], None]


@dataclass
class Instrument:
    """`profile`: (counts of 2 MHz, amperes, volts, inputs) over and over; `skip`: (first, counts)
    that are missing, which a JS220's `sample_id` shows and a JS110's does not; `unknown`: (first,
    counts) that are not a number; `stop_after`, `vanish_after`: counts after which it is silent, or
    is unplugged; `jumbled`: messages end anywhere."""

    path: str
    profile: list[tuple[int, float, float, int]]
    skip: tuple[int, int] = (0, 0)
    unknown: tuple[int, int] = (0, 0)
    stop_after: int = 0
    vanish_after: int = 0
    jumbled: bool = False
    busy: bool = False
    fs: int = 2_000_000
    first_id: int = 7_000_000
    told: dict[str, Any] = field(default_factory=dict)

    @property
    def js110(self) -> bool:
        return "/js110/" in self.path

    def message(self, name: str, start: int, stop: int) -> dict[str, Any] | None:
        """Counts `start` to before `stop` of a signal, as the driver's binding has it."""
        step = RATE_HZ // self.told["h/fs"]
        if not self.js110 and name.startswith("gpi/"):
            step = 1  # Of a JS220, at its full rate whatever the others' is.
        numbers = np.arange(start, stop, step)
        first, lost = self.skip
        kept = (numbers < first) | (numbers >= first + lost)
        numbers = numbers[kept]
        if not len(numbers):
            return None
        starts = np.cumsum([0, *(n for n, *_ in self.profile)])
        at = np.searchsorted(starts, numbers % starts[-1], "right") - 1
        if name.startswith("gpi/"):
            bits = np.array([inputs for *_, inputs in self.profile], np.uint8)[at]
            data: npt.NDArray[Any] = np.packbits((bits >> int(name[4:])) & 1, bitorder="little")
        else:
            column = {"i": 1, "v": 2}[name]
            data = np.array([row[column] for row in self.profile], np.float32)[at]
            first, unknown = self.unknown
            data[(numbers >= first) & (numbers < first + unknown)] = np.nan
        return {
            "sample_id": self._id(int(numbers[0])),
            "utc": 0,
            "field_id": {"i": 1, "v": 2}.get(name, 5),
            "index": int(name[4:]) if name.startswith("gpi/") else 0,
            "sample_rate": RATE_HZ,
            "decimate_factor": step,
            "time_map": {"offset_time": 0, "offset_counter": 0, "counter_rate": float(RATE_HZ)},
            "data": data,
        }

    def _id(self, number: int) -> int:
        if not self.js110:
            return self.first_id + number
        return number - (self.skip[1] if number >= sum(self.skip) else 0)


class Driver:
    """As the real one, for the topics that tinysplit uses."""

    world: tuple[Instrument, ...] = ()

    def __init__(self, timeout: float | None = None) -> None:
        self._subscribers: list[tuple[str, Publish]] = []
        self._open: dict[str, tuple[Instrument, threading.Event, threading.Thread]] = {}
        self.log_level: str | int = "off"

    def device_paths(self, timeout: float | None = None) -> list[str]:
        return [one.path for one in self.world]

    def subscribe(self, topic: str, flags: Any, fn: Publish, timeout: float | None = None) -> None:
        assert flags == "pub"
        self._subscribers.append((topic, fn))

    def unsubscribe(self, topic: str, fn: Publish, timeout: float | None = None) -> None:
        held = [one for one in self._subscribers if one[0] == topic and one[1] is fn]
        if not held:
            raise RuntimeError(f"jsdrv_unsubscribe failed 16 NOT_FOUND | not found | {topic}")
        self._subscribers.remove(held[0])

    def _published(self, topic: str, value: Any) -> None:
        for wanted, fn in list(self._subscribers):
            if wanted == topic:
                fn(topic, value)

    def open(
        self, device_prefix: str, mode: str | None = None, timeout: float | None = None
    ) -> None:
        found = [one for one in self.world if one.path == device_prefix]
        if not found:
            raise TimeoutError(f"jsdrv_open timed out | {device_prefix}")
        if found[0].busy:
            raise RuntimeError(f"jsdrv_open failed 15 IN_USE | Already in use | {device_prefix}")
        stop = threading.Event()
        thread = threading.Thread(target=self._run, args=(found[0], stop), daemon=True)
        found[0].told.clear()
        self._open[device_prefix] = found[0], stop, thread
        thread.start()

    def close(self, device_prefix: str, timeout: float | None = None) -> None:
        _, stop, thread = self._open.pop(device_prefix)
        stop.set()
        thread.join()

    def publish(self, topic: str, value: Any, timeout: float | None = None) -> None:
        path = "/".join(topic.split("/")[:3])
        if path not in self._open:
            self._published(topic, value)
            if timeout != 0:
                raise TimeoutError(f"jsdrv_publish timed out | {topic}")
            return
        self._open[path][0].told[topic.removeprefix(f"{path}/")] = value

    def query(self, topic: str, timeout: float | None = None) -> Any:
        raise TimeoutError(f"jsdrv_query timed out | {topic}")

    def finalize(self, timeout: float | None = None) -> None:
        for path in list(self._open):
            self.close(path)

    def _run(self, one: Instrument, stop: threading.Event) -> None:
        """Twenty messages a second of each signal that is switched on, as the driver does it."""
        started, sent, turn = time.monotonic(), 0, 0
        skipped = False
        while not stop.wait(0.01):
            due = int((time.monotonic() - started) * RATE_HZ)
            if one.stop_after:
                due = min(due, one.stop_after)
            if one.vanish_after and due > one.vanish_after:
                self._published("@/!remove", one.path)
                return
            # Whole bytes of logic inputs at every rate.
            until = due - due % 64
            if one.jumbled:
                until = min(until, sent + (turn * 7919 % 997 + 1) * 64)
            if until - sent < (64 if one.jumbled else RATE_HZ // 20):
                continue
            for topic, value in list(one.told.items()):
                if value == 1 and topic.endswith("/ctrl"):
                    name = topic.removeprefix("s/").removesuffix("/ctrl")
                    message = one.message(name, sent, until)
                    if message is not None:
                        self._published(f"{one.path}/s/{name}/!data", message)
            if one.js110 and one.skip[1] and not skipped and until > one.skip[0]:
                skipped = True
                if self.log_level in ("warning", 4):
                    logging.getLogger("jsdrv").warning("pkt_index skip: expected 5, received 9")
            sent, turn = until, turn + 1


def module(*world: Instrument) -> ModuleType:
    """The package, with these instruments plugged in."""
    found = ModuleType("pyjoulescope_driver")
    found.__dict__["Driver"] = type("Driver", (Driver,), {"world": world})
    return found


def signatures(driver: type) -> dict[str, list[str]]:
    """The public methods' parameters by name."""
    methods = {n: m for n, m in vars(driver).items() if callable(m) and not n.startswith("_")}
    return {name: list(inspect.signature(method).parameters) for name, method in methods.items()}
