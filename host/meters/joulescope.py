"""Joulescope JS110 and JS220: current, voltage, logic inputs, by the maker's pyjoulescope_driver.

The driver publishes each signal as messages of its own: `sample_id` counts at `sample_rate` (2 MHz
on both, whatever the signal's rate is), `decimate_factor` of these counts are between two values,
and logic inputs are packed eight to a byte, first in the lowest bit (jsdrv.h,
jsdrv_stream_signal_s; the driver's example of regions by GPI). Signals run at the instrument's full
rate, so that no filter delays the current against the marks, and means over 10 us are kept: current
and voltage are multiplied after that, for a supply hardly moves within 10 us. Marks are high where
most of the 10 us are.

No loss is silent. A message that does not continue the last of its signal, and values that are
no numbers, are lost samples. Of a JS110 the driver counts on when a packet is missing, and only its
log tells (`pkt_index skip`): that log is listened to, and all within 0.1 s of it is taken as lost.
What else falls behind this machine's clock is told from 0.1 s on (`host.meters.streaming`).

The maker's accuracy is not known here: without `accuracy_percent` the uncertainty is that of
sampling and timing, and `source` says so.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import math
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from host.meters.energy import Floats, Samples
from host.meters.meter import MEASURED, MeterError, Source
from host.meters.sampled import CHANNELS, Sampling
from host.meters.streaming import Range, Streaming

PERIOD_S = 10e-6
RATE_HZ = 2_000_000  # Of `sample_id`.
_COUNTS = round(PERIOD_S * RATE_HZ)  # In what is kept as one sample.
_LATENCY_S = 5e-3  # Of USB, the driver's threads and this machine.
_LOG_NAME, _SKIPPED = "jsdrv", "pkt_index skip"
_AROUND_SKIP = round(0.1 / PERIOD_S)
CURRENT, VOLTAGE = "i", "v"
REMOVED = "@/!remove"


@dataclass(frozen=True)
class Model:
    """What an instrument has to be told before it streams: topics below its own, and values.

    `channels`: phase to logic input, unless the experiment says otherwise.
    """

    name: str
    inputs: int
    channels: Mapping[str, int]
    settings: tuple[tuple[str, str | int], ...]


MODELS = {
    "js220": Model(
        "JS220",
        4,
        CHANNELS,
        (
            ("s/i/range/mode", "auto"),
            ("s/v/range/mode", "auto"),
            ("c/gpio/vref", "3v3"),
            ("h/fs", 1_000_000),
        ),
    ),
    # Two inputs, which travel as the lowest bits of current and voltage. These two phases are the
    # first and the last of a head, so that the inference between them is whole.
    "js110": Model(
        "JS110",
        2,
        {"invoke": 0, "downstream": 1},
        (
            ("s/i/range/select", "auto"),
            ("s/v/range/select", "15 V"),
            ("s/extio/voltage", 3300),
            ("s/i/lsb_src", "gpi0"),
            ("s/v/lsb_src", "gpi1"),
            ("h/fs", RATE_HZ),
        ),
    ),
}


@dataclass
class Signal:
    """One signal's messages as means over `_COUNTS` counts; sample k begins at count k * `_COUNTS`.

    `count`: up to where samples are there; `chunks`: number of the first, and means.
    """

    chunks: deque[tuple[int, Floats]] = field(default_factory=deque)
    count: int = 0
    _next_id: int | None = None
    _rest: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    _aligned: bool = False

    def take(self, first_id: int, step: int, values: npt.NDArray[Any]) -> list[tuple[int, int]]:
        """A message: values `step` counts apart. Returns ranges of samples that are lost."""
        lost: list[tuple[int, int]] = []
        if self._next_id is not None and first_id < self._next_id:  # Some of it once more.
            again = min(-(-(self._next_id - first_id) // step), len(values))
            values, first_id = values[again:], first_id + again * step
            if not len(values):
                return lost
        gap = self._next_id is not None and first_id != self._next_id
        self._next_id = first_id + len(values) * step
        if gap or not self._aligned:
            start = -(-first_id // _COUNTS)
            if gap:
                lost.append((self.count, start))
            values = values[-(-(start * _COUNTS - first_id) // step) :]
            self.count, self._rest, self._aligned = start, np.zeros(0), len(values) > 0
        joined = np.concatenate([self._rest, values])
        each = _COUNTS // step
        whole = len(joined) // each
        self._rest = joined[whole * each :]
        if whole:
            means = joined[: whole * each].reshape(whole, each).mean(axis=1)
            unknown = np.flatnonzero(~np.isfinite(means))
            lost.extend((self.count + int(k), self.count + int(k) + 1) for k in unknown)
            self.chunks.append((self.count, means))
            self.count += whole
        return lost

    def between(self, first: int, last: int) -> Floats:
        """Samples `first` to before `last`, which are there."""
        parts = [
            means[max(first - k, 0) : last - k]
            for k, means in self.chunks
            if k < last and k + len(means) > first
        ]
        found: Floats = np.concatenate(parts)
        return found

    def forget(self, before: int) -> None:
        while len(self.chunks) > 1 and self.chunks[1][0] <= before:
            self.chunks.popleft()


class _Listener(logging.Handler):
    """To the driver's log."""

    def __init__(self, meter: Joulescope) -> None:
        super().__init__(logging.WARNING)
        self._meter = meter

    def emit(self, record: logging.LogRecord) -> None:
        if _SKIPPED in record.getMessage():
            self._meter.skipped()


class Joulescope(Streaming):
    """The instrument on USB; another supply feeds the board, through it.

    Args:
        serial: its serial number, needed where there are several.
        channels: phase to logic input; None: those of `MODELS`.
        accuracy_percent: of the power, by its certificate or data sheet; None: not known.
    """

    def __init__(
        self,
        serial: str | None,
        sampling: Sampling,
        channels: Mapping[str, int] | None = None,
        accuracy_percent: float | None = None,
    ) -> None:
        super().__init__(sampling, PERIOD_S, "the Joulescope")
        self._serial, self._channels, self._accuracy = serial, channels, accuracy_percent
        self._driver: Any = None
        self._path = ""
        self._open = False
        self._signals: dict[str, Signal] = {}
        self._first: int | None = None  # Sample that `_arrived` counts from.
        self._listener: _Listener | None = None
        # The driver knows a subscriber again by the very same object.
        self._on_data, self._on_removed = self._take, self._gone

    @property
    def clock_s(self) -> float:
        return _LATENCY_S

    def source(self) -> Source:
        known = "instrument's error not counted"
        if self._accuracy is not None:
            known = f"accurate to {self._accuracy:g} %"
        return Source(f"Joulescope {self._model.name}, means over 10 us, {known}", MEASURED)

    def __enter__(self) -> Joulescope:
        try:
            module = importlib.import_module("pyjoulescope_driver")
        except ModuleNotFoundError as error:
            raise MeterError(
                "not_installed",
                "a Joulescope needs pyjoulescope_driver: pip install 'tinysplit[meters]' (in its "
                "checkout: pip install '.[meters]')",
            ) from error
        try:
            self._driver = module.Driver()
            self._path = self._chosen([str(path) for path in self._driver.device_paths()])
            self._start()
        except MeterError:
            self.close()
            raise
        except (RuntimeError, TimeoutError) as error:  # What the driver raises.
            self.close()
            where = f"the Joulescope {self._path}" if self._path else "the Joulescope's driver"
            raise MeterError(
                "busy",
                f"cannot use {where}: {error}; close what else uses it, plug it in again, and on "
                "Linux install the maker's udev rules",
            ) from error
        return self

    def _chosen(self, paths: list[str]) -> str:
        """The instrument that is asked for. Raises MeterError."""
        known = ", ".join(path.rpartition("/")[2] for path in paths)
        if self._serial is not None:
            wanted = self._serial.lower()
            paths = [path for path in paths if path.lower().rpartition("/")[2] == wanted]
        if not paths:
            what = "no Joulescope" if self._serial is None else f"no Joulescope {self._serial}"
            raise MeterError(
                "no_meter",
                f"{what} is connected ({known or 'none is'}); plug it in, and on Linux install the "
                "maker's udev rules",
            )
        if len(paths) > 1:
            raise MeterError(
                "no_meter", f"several Joulescopes are connected: name one by `serial`, of {known}"
            )
        model = paths[0].split("/")[1].lower() if paths[0].count("/") == 2 else ""
        if model not in MODELS:
            raise MeterError(
                "no_meter", f"{paths[0]} is none of the Joulescopes known: {', '.join(MODELS)}"
            )
        self._model = MODELS[model]
        self._name = f"the Joulescope {self._model.name}"
        channels = self._model.channels if self._channels is None else self._channels
        for phase, channel in channels.items():
            if channel >= self._model.inputs:
                raise MeterError(
                    "no_meter",
                    f"{self._name} has the logic inputs 0 to {self._model.inputs - 1}, and "
                    f"`channels` has {phase} on {channel}",
                )
        self._sampling = replace(self._sampling, channels=dict(channels))
        return paths[0]

    def _start(self) -> None:
        driver = self._driver
        driver.log_level = "warning"
        self._listener = _Listener(self)
        log = logging.getLogger(_LOG_NAME)
        log.addHandler(self._listener)
        self._propagated, log.propagate = log.propagate, False
        driver.subscribe(REMOVED, "pub", self._on_removed)
        driver.open(self._path, "defaults")
        self._open = True
        for topic, value in self._model.settings:
            driver.publish(f"{self._path}/{topic}", value)
        inputs = sorted(set(self._sampling.channels.values()))
        names = [CURRENT, VOLTAGE, *(f"gpi/{number}" for number in inputs)]
        self._signals = {name: Signal() for name in names}
        for name in names:
            driver.subscribe(f"{self._path}/s/{name}/!data", "pub", self._on_data)
        for name in names:
            driver.publish(f"{self._path}/s/{name}/ctrl", 1)

    def close(self) -> None:
        driver, self._driver = self._driver, None
        if driver is None:
            return
        try:
            if self._open and self._failed is None:
                with contextlib.suppress(RuntimeError, TimeoutError):  # `finalize` lets go of it.
                    for name in self._signals:
                        driver.publish(f"{self._path}/s/{name}/ctrl", 0)
                    driver.close(self._path)
        finally:
            driver.finalize()
            self._open = False
            if self._listener is not None:
                log = logging.getLogger(_LOG_NAME)
                log.removeHandler(self._listener)
                log.propagate, self._listener = self._propagated, None

    def skipped(self) -> None:
        """The driver missed a packet, about now."""
        with self._new:
            self._lost.append((self._count - _AROUND_SKIP, self._count + _AROUND_SKIP))

    def _gone(self, topic: str, value: Any) -> None:
        if value == self._path:
            self._fail(MeterError("unplugged", f"{self._name} was unplugged"))

    def _take(self, topic: str, message: Mapping[str, Any]) -> None:
        """A message of a signal; in the driver's thread."""
        now_s = time.monotonic()
        name = topic.removeprefix(f"{self._path}/s/").removesuffix("/!data")
        step = int(message["decimate_factor"])
        if message["sample_rate"] != RATE_HZ or not 0 < step <= _COUNTS or _COUNTS % step:
            self._fail(
                MeterError(
                    "stopped",
                    f"{self._name} sends {name} at {message['sample_rate']} Hz in steps of {step}, "
                    "which this tinysplit does not know",
                )
            )
            return
        values: npt.NDArray[Any] = message["data"]
        if name.startswith("gpi/"):
            values = np.unpackbits(values, bitorder="little")
        with self._new:
            signal = self._signals[name]
            lost = signal.take(int(message["sample_id"]), step, values)
            if self._first is None:
                if name != CURRENT or not signal.count:
                    return
                self._first = signal.chunks[0][0]
            lost = [(a - self._first, b - self._first) for a, b in lost]
            if name == CURRENT:
                self._arrived(signal.count - self._first, now_s, lost)
            else:
                self._lost.extend(lost)
                self._new.notify_all()

    def _ready(self) -> int:
        assert self._first is not None
        return min(signal.count for signal in self._signals.values()) - self._first

    def _had(self, wanted: Range) -> None:
        """Raises MeterError: samples from before the first."""
        assert self._first is not None
        starts = [s.chunks[0][0] - self._first for s in self._signals.values() if s.chunks]
        if wanted.first < max(starts):
            raise MeterError("no_samples", f"{self._name} had no samples yet when that began")

    def capture(self, start_s: float, stop_s: float) -> Samples:
        with self._new:
            wanted = self._awaited(start_s, stop_s)
            self._had(wanted)
            assert self._first is not None
            ends = wanted.first + self._first, wanted.last + self._first
            found = {name: signal.between(*ends) for name, signal in self._signals.items()}
        marks = np.zeros(wanted.last - wanted.first, np.uint8)
        for name, means in found.items():
            if name.startswith("gpi/"):
                marks |= (means >= 0.5).astype(np.uint8) << int(name[4:])
        current = found[CURRENT]
        share = math.nan if self._accuracy is None else self._accuracy / 100
        # A sample's time is the middle of the 10 us that it is the mean of.
        numbers = np.arange(wanted.first, wanted.last) + 0.5
        return Samples(
            np.asarray(wanted.origin_s + numbers * PERIOD_S, np.float64),
            current,
            found[VOLTAGE],
            marks,
            np.zeros(len(current)) if math.isnan(share) else share * np.abs(current),
        )

    def forget(self, before_s: float) -> None:
        with self._new:
            number = self._number(before_s)
            if number is not None and self._first is not None:
                for signal in self._signals.values():
                    signal.forget(number + self._first - 1)
