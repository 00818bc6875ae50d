"""Nordic's Power Profiler Kit II: 100,000 samples of current a second, eight logic inputs.

The package ppk2-api speaks its commands. What comes back is read here, because that package
decodes sample by sample and looks at no counter: a sample is four bytes, little-endian: bits 0-13
the ADC's value, 14-16 the range, 18-23 a counter, 24-31 the logic inputs. Conversion to amperes and
the filter for the samples after a change of range are those of Nordic's own application
(pc-nrfconnect-ppk, src/device/serialDevice.ts), as is taking nominal values for calibration
constants that a unit does not have; `source` says how many.

The counter tells every loss but multiples of 64 samples; those show as samples that fall behind
this machine's clock for good (`host.meters.streaming`), and are told from 0.1 s on.
"""

from __future__ import annotations

import importlib
import math
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from host.meters.energy import Floats, Samples
from host.meters.meter import MEASURED, MeterError, Source
from host.meters.sampled import Sampling
from host.meters.streaming import SILENT_S, Streaming
from host.serial_port import why_unusable

PERIOD_S = 10e-6
RANGES = 5
SOURCE_MODE, AMPERE_MODE = "source", "ampere"
# Typical, by range: share of the reading, and resolution in amperes. Nordic's PPK2 User Guide, as
# ppk2lab 0.5 quotes it.
ACCURACY = np.array([0.10, 0.10, 0.10, 0.10, 0.15])
RESOLUTION_A = np.array([0.2e-6, 0.5e-6, 5e-6, 50e-6, 1e-3])
# Nominal values, and volts per count, as in Nordic's application.
_NOMINAL = {
    "R": (1031.64, 101.65, 10.15, 0.94, 0.043),
    "GS": (1.0,) * RANGES, "GI": (1.0,) * RANGES, "UG": (1.0,) * RANGES,
    "O": (0.0,) * RANGES, "S": (0.0,) * RANGES, "I": (0.0,) * RANGES,
}  # fmt: skip
VOLTS_PER_COUNT = 1.8 / 163840
_ALPHA, _ALPHA_TOP = 0.18, 0.06  # Of the averages that stand in after a change of range.
_FILTERED = 3  # Samples.
_SETTLED = 400  # Samples after which an average has forgotten where it began: 0.94**400 = 2e-11.

_METADATA_S = 3.0
_READ_S = 0.05
_LATENCY_S = 2e-3  # Of USB and this machine, in which a sample's time is uncertain.

Words = npt.NDArray[np.uint32]


@dataclass(frozen=True)
class Calibration:
    """One unit's constants, each of shape (5,), by range. `nominal`: how many are not its own."""

    r: Floats
    gs: Floats
    gi: Floats
    o: Floats
    s: Floats
    i: Floats
    ug: Floats
    nominal: int


def calibration(text: str) -> Calibration:
    """From the answer to GET_META_DATA: lines such as `R0: 1031.64`, then END."""
    given: dict[str, float] = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            try:
                given[name.strip()] = float(value)
            except ValueError:
                continue
    nominal = 0
    found: dict[str, Floats] = {}
    for name, standard in _NOMINAL.items():
        values = np.array(standard)
        for k in range(RANGES):
            own = given.get(f"{name}{k}", math.nan)
            if math.isfinite(own) and (own != 0 or name not in ("R", "GI", "UG")):
                values[k] = own
            else:
                nominal += 1
        found[name.lower()] = values
    return Calibration(**found, nominal=nominal)


def amperes(words: Words, constants: Calibration, voltage_v: float) -> Floats:
    """The current at each sample, (n,) amperes, filtered after changes of range."""
    ranges = np.minimum((words >> 14) & 7, RANGES - 1).astype(np.intp)
    counts = (words & 0x3FFF).astype(np.float64) * 4
    c = constants
    raw = (counts - c.o[ranges]) * (VOLTS_PER_COUNT / c.r[ranges])
    offset = c.s[ranges] * voltage_v + c.i[ranges]
    current: Floats = c.ug[ranges] * (raw * (c.gs[ranges] * raw + c.gi[ranges]) + offset)
    return _filtered(current, ranges)


def _filtered(current: Floats, ranges: npt.NDArray[np.intp]) -> Floats:
    """Averages in place of the three samples from each change of range on."""
    switches = np.flatnonzero(np.diff(ranges)) + 1
    found: Floats = current.copy()
    at = 0  # Up to where averages are known.
    while len(switches):
        start = max(int(switches[0]) - _SETTLED, at, 0)
        # Changes that are near each other share their averages.
        apart = np.flatnonzero(np.diff(switches) > _SETTLED + _FILTERED)
        last = int(apart[0]) if len(apart) else len(switches) - 1
        at = min(int(switches[last]) + _FILTERED, len(current))
        found[start:at] = _averaged(current[start:at].tolist(), ranges[start:at].tolist())
        switches = switches[last + 1 :]
    return found


def _averaged(values: list[float], ranges: list[int]) -> list[float]:
    average = top = values[0]
    before, left, since = ranges[0], 0, 0
    found = []
    for value, now in zip(values, ranges, strict=True):
        old, old_top = average, top
        average = _ALPHA * value + (1 - _ALPHA) * average
        top = _ALPHA_TOP * value + (1 - _ALPHA_TOP) * top
        if now != before or left > 0:
            if now != before:
                since, left = 0, _FILTERED
            else:
                since += 1
            if now == RANGES - 1:
                if since < 2:
                    average, top = old, old_top
                value = top
            else:
                value = average
            left -= 1
        before = now
        found.append(value)
    return found


class Ppk2(Streaming):
    """The instrument on a serial port.

    Args:
        mode: `source`: it supplies the board, with `voltage_mv`, from entering on, and goes on
            doing so when it is let go of; `ampere`: another supply does, of `voltage_mv`.
    """

    def __init__(self, port: str, mode: str, voltage_mv: int, sampling: Sampling) -> None:
        super().__init__(sampling, PERIOD_S, f"the PPK2 on {port}")
        self._port, self._mode, self._voltage_mv = port, mode, voltage_mv
        self._api: Any = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._chunks: deque[tuple[int, Words]] = deque()  # Number of the first sample, samples.

    @property
    def clock_s(self) -> float:
        return _LATENCY_S

    def source(self) -> Source:
        nominal = self._constants.nominal
        own = f", {nominal} of 35 calibration constants nominal" if nominal else ""
        return Source(f"PPK2, {self._mode} mode at {self._voltage_mv} mV{own}", MEASURED)

    def __enter__(self) -> Ppk2:
        try:
            module = importlib.import_module("ppk2_api.ppk2_api")
        except ModuleNotFoundError as error:
            raise MeterError(
                "not_installed",
                "a PPK2 needs ppk2-api: pip install 'tinysplit[meters]' (in its checkout: "
                "pip install '.[meters]')",
            ) from error
        try:
            self._api = module.PPK2_API(
                self._port, timeout=_READ_S, write_timeout=1.0, exclusive=True
            )
            self._start(module.PPK2_Command)
        except MeterError:
            self.close()
            raise
        except (OSError, ValueError) as error:  # pyserial's are OSErrors.
            self.close()
            code, why = why_unusable(error, "the PPK2")
            raise MeterError(code, f"cannot use {self._port}: {why}") from error
        return self

    def _start(self, commands: Any) -> None:
        api = self._api
        # Whoever had it before may have left it measuring.
        api.ser.write(bytes([commands.AVERAGE_STOP]))
        quiet = time.monotonic() + _METADATA_S
        while api.ser.read(65536) and time.monotonic() < quiet:
            pass
        api.ser.write(bytes([commands.GET_META_DATA]))
        answer = b""
        until = time.monotonic() + _METADATA_S
        while b"END" not in answer:
            answer += self._some()
            if time.monotonic() > until:
                raise MeterError(
                    "no_answer",
                    f"nothing on {self._port} answers as a PPK2; of its two ports take the other, "
                    "and switch it on",
                )
        self._constants = calibration(answer.decode("ascii", "replace"))
        if self._mode == SOURCE_MODE:
            api.use_source_meter()
        else:
            api.use_ampere_meter()
        api.set_source_voltage(self._voltage_mv)
        api.toggle_DUT_power("ON")
        api.start_measuring()
        self._thread = threading.Thread(target=self._read, name="ppk2", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            if self._failed is None:
                self._api.stop_measuring()
        if self._api is not None:
            self._api.ser.close()
            self._api = None

    def _some(self) -> bytes:
        """What has come, waiting a moment for the first byte."""
        port = self._api.ser
        try:
            first: bytes = port.read(1)
            rest: bytes = port.read(port.in_waiting) if first else b""
        except (OSError, TypeError, AttributeError) as error:  # pyserial, on a port that vanishes.
            raise MeterError("unplugged", f"{self._name} was unplugged or switched off") from error
        return first + rest

    def _read(self) -> None:
        """In a thread of its own until `close`: samples must never wait for an inference."""
        rest = b""
        last_s = time.monotonic()
        expected: int | None = None
        try:
            while not self._stop.is_set():
                data = rest + self._some()
                now_s = time.monotonic()
                whole = len(data) // 4 * 4
                rest = data[whole:]
                if not whole:
                    if now_s - last_s > SILENT_S:
                        raise self._silent()
                    continue
                last_s = now_s
                words = np.frombuffer(data[:whole], "<u4")
                counters = ((words >> 18) & 63).astype(np.int64)
                steps = np.diff(counters, prepend=counters[0] - 1 if expected is None else expected)
                expected = int(counters[-1])
                self._take(words, np.flatnonzero((steps & 63) != 1), now_s)
        except MeterError as error:
            self._fail(error)

    def _take(self, words: Words, lost: npt.NDArray[np.intp], now_s: float) -> None:
        with self._new:
            before = self._count
            self._chunks.append((before, words))
            gaps = [(before + int(k), before + int(k) + 1) for k in lost]
            self._arrived(before + len(words), now_s, gaps)

    def capture(self, start_s: float, stop_s: float) -> Samples:
        with self._new:
            origin_s, first, last = self._awaited(start_s, stop_s)
            chunks = list(self._chunks)
        if first < chunks[0][0]:
            raise MeterError("no_samples", "the PPK2 had no samples yet when the inference began")
        lead = max(chunks[0][0], first - _SETTLED)  # For the filter.
        words = np.concatenate(
            [w[max(lead - k, 0) : last - k] for k, w in chunks if k < last and k + len(w) > lead]
        )
        current = amperes(words, self._constants, self._voltage_mv / 1000)[first - lead :]
        words = words[first - lead :]
        ranges = np.minimum((words >> 14) & 7, RANGES - 1)
        error_a: Floats = ACCURACY[ranges] * np.abs(current) + RESOLUTION_A[ranges]
        return Samples(
            np.asarray(origin_s + np.arange(first, first + len(words)) * PERIOD_S, np.float64),
            current,
            np.full(len(words), self._voltage_mv / 1000),
            (words >> 24).astype(np.uint8),
            error_a,
        )

    def forget(self, before_s: float) -> None:
        with self._new:
            keep = (self._number(before_s) or 0) - 2 * _SETTLED
            while len(self._chunks) > 1 and self._chunks[1][0] <= keep:
                self._chunks.popleft()
