"""Instruments that send samples all the time, each one `period_s` after the last.

A thread, theirs or the driver's, hands over what came (`_arrived`); `capture` waits for what it
needs (`_awaited`). When a sample was taken follows from when samples arrived: none arrives before
it was taken, and those of late that came soonest came at once. A stream that falls behind this
machine's clock for good has lost samples, whatever its own counters say.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from host.meters.meter import SAMPLES_LOST, MeterError
from host.meters.sampled import Sampled, Sampling

SILENT_S = 1.0  # Without samples: the instrument has stopped.
_BEHIND_S = 0.1
_DRIFT = 2e-4  # Of two crystals.
_RECENT_S = 2.0


class Range(NamedTuple):
    """Numbers of samples, `first` to before `last`; sample 0 was taken at `origin_s`."""

    origin_s: float
    first: int
    last: int


class Streaming(Sampled):
    """What they share. `name` stands in messages; `_new` guards all that the thread touches."""

    def __init__(self, sampling: Sampling, period_s: float, name: str) -> None:
        super().__init__(sampling)
        self._period_s, self._name = period_s, name
        self._failed: MeterError | None = None
        self._new = threading.Condition()
        self._arrivals: deque[tuple[float, int]] = deque()  # When so many were there.
        self._lost: deque[tuple[int, int]] = deque(maxlen=1000)
        self._count = 0
        self._least_s = math.inf  # Between a sample and its arrival, on an unknown scale.

    @property
    def samples(self) -> int:
        """How many have come since it was entered."""
        return self._count

    @property
    def losses(self) -> int:
        """How often samples were lost since then."""
        return len(self._lost)

    def _fail(self, error: MeterError) -> None:
        """There will be no more samples."""
        with self._new:
            self._failed = self._failed or error
            self._new.notify_all()

    def _silent(self) -> MeterError:
        return MeterError("stopped", f"{self._name} sends no samples any more")

    def _arrived(self, count: int, now_s: float, lost: Iterable[tuple[int, int]] = ()) -> None:
        """So many are there now in all, with `_new` held; `lost`: ranges in which some are not."""
        self._lost.extend(lost)
        fresh, self._count = count - self._count, count
        self._arrivals.append((now_s, count))
        while now_s - self._arrivals[0][0] > _RECENT_S:
            self._arrivals.popleft()
        offset_s = self._offset_s()
        self._least_s = min(self._least_s + _DRIFT * fresh * self._period_s, offset_s)
        if offset_s > self._least_s + _BEHIND_S and now_s - self._arrivals[0][0] > 1.0:
            # Somewhere since the oldest of these arrivals.
            self._lost.append((self._arrivals[0][1], count))
            self._least_s = offset_s
            self._arrivals = deque([self._arrivals[-1]])
        self._new.notify_all()

    def _offset_s(self) -> float:
        """This host's clock at sample 0, by the samples of late that came soonest."""
        return min(at - count * self._period_s for at, count in self._arrivals)

    def _ready(self) -> int:
        """How many samples are whole, with `_new` held."""
        return self._count

    def _awaited(self, start_s: float, stop_s: float) -> Range:
        """The samples around these moments; with `_new` held, waits until they are there.

        Raises MeterError: the instrument failed, is silent, or has lost one of them.
        """
        until = time.monotonic() + SILENT_S + max(stop_s - time.monotonic(), 0.0)
        while True:
            if self._failed is not None:
                raise self._failed
            if self._arrivals:
                origin_s = self._offset_s()
                first = math.floor((start_s - origin_s) / self._period_s)
                last = math.ceil((stop_s - origin_s) / self._period_s) + 1
                if self._ready() >= last:
                    break
            if not self._new.wait(until - time.monotonic()):
                raise MeterError("stopped", f"{self._name} is behind by more than a second")
        if any(a < last and b > first for a, b in self._lost):
            raise MeterError(
                SAMPLES_LOST,
                f"{self._name} lost samples during the inference, so its energy is not known; "
                "plug it into the machine itself, not into a hub",
            )
        return Range(origin_s, first, last)

    def _number(self, moment_s: float) -> int | None:
        """The sample at a moment, with `_new` held; None: none has come yet."""
        if not self._arrivals:
            return None
        return math.floor((moment_s - self._offset_s()) / self._period_s)
