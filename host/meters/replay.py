"""A capture from a CSV file in place of an instrument: `time_s,current_a[,voltage_v][,d0..d7]`.

It is played in real time from entering on, over again from its start whenever it ends. What comes
out is no measurement of the inferences at hand, and is called `replayed`.
"""

from __future__ import annotations

import csv
import time
from pathlib import Path

import numpy as np

from host.meters.energy import EnergyError, Samples
from host.meters.meter import REPLAYED, MeterError, Source
from host.meters.sampled import Sampled, Sampling

_LOGIC = tuple(f"d{k}" for k in range(8))
_KNOWN = ("time_s", "current_a", "voltage_v", *_LOGIC)


def read(path: Path, voltage_v: float | None) -> Samples:
    """The samples in a file; `voltage_v` where it has no such column.

    Raises:
        MeterError: `bad_file`; says the line.
    """

    def bad(what: str) -> MeterError:
        return MeterError("bad_file", f"{path}: {what}")

    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = list(csv.reader(file))
    except OSError as error:
        raise bad(f"cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise bad("is no CSV in UTF-8") from error
    names = [name.strip() for name in lines[0]] if lines else []
    if not {"time_s", "current_a"} <= set(names) or len(set(names)) != len(names):
        raise bad("the first line must name time_s and current_a, each column once")
    if unknown := [name for name in names if name not in _KNOWN]:
        raise bad(f"unknown column {unknown[0]!r}; there are {', '.join(_KNOWN)}")
    if "voltage_v" not in names and voltage_v is None:
        raise bad("has no column voltage_v; give the supply's voltage_mv in the experiment")
    values = np.zeros((len(lines) - 1, len(names)))
    number = 0
    try:
        for number, line in enumerate(lines[1:]):
            values[number] = np.array(line, np.float64)
    except ValueError as error:
        raise bad(f"line {number + 2} is not {len(names)} numbers") from error
    column = {name: values[:, k] for k, name in enumerate(names)}
    marks = None
    present = [name for name in _LOGIC if name in column]
    if present:
        marks = np.zeros(len(values), np.uint8)
        for name in present:
            if not np.isin(column[name], (0, 1)).all():
                raise bad(f"column {name} is a logic input, 0 or 1")
            marks |= column[name].astype(np.uint8) << int(name[1])
    volts = column.get("voltage_v")
    if volts is None:
        volts = np.full(len(values), voltage_v)
    try:
        return Samples(column["time_s"], column["current_a"], volts, marks)
    except EnergyError as error:
        raise bad(str(error)) from error


class Replay(Sampled):
    """The capture in a file."""

    def __init__(self, path: Path, voltage_mv: int | None, sampling: Sampling) -> None:
        super().__init__(sampling)
        self._path = path
        self._voltage_v = None if voltage_mv is None else voltage_mv / 1000
        self._clock_s = 0.0

    def __enter__(self) -> Replay:
        self._samples = read(self._path, self._voltage_v)
        self._clock_s = float(np.diff(self._samples.time_s).max())
        self._entered_s = time.monotonic()
        return self

    def source(self) -> Source:
        return Source(f"replay of {self._path.name}", REPLAYED)

    @property
    def clock_s(self) -> float:
        return self._clock_s

    def capture(self, start_s: float, stop_s: float) -> Samples:
        """Raises MeterError."""
        one = self._samples
        step_s = float(np.diff(one.time_s).mean())
        turn_s = float(one.time_s[-1] - one.time_s[0]) + step_s
        first = int((start_s - self._entered_s) // turn_s) - 1
        last = int((stop_s - self._entered_s) // turn_s) + 1
        turns = np.arange(first, last + 1)
        origin_s = self._entered_s - float(one.time_s[0])
        time_s = (origin_s + turns[:, None] * turn_s + one.time_s[None, :]).ravel()
        inside = slice(
            max(int(np.searchsorted(time_s, start_s, "right")) - 1, 0),
            int(np.searchsorted(time_s, stop_s, "left")) + 1,
        )
        many = len(turns)
        return Samples(
            time_s[inside],
            np.tile(one.current_a, many)[inside],
            np.tile(one.voltage_v, many)[inside],
            None if one.marks is None else np.tile(one.marks, many)[inside],
        )
