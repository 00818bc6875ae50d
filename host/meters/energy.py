"""From samples of current and voltage to energy, by phase. Bound to no instrument and no clock.

Power is current times voltage at each sample. Between samples it is a straight line (`trapezoid`)
or stays as it was (`rectangle`: sample k holds until sample k+1); its integral over any window
within the samples is exact under that rule, wherever the window's ends lie.

The uncertainty is a bound, not a deviation: an instrument's gain error is the same in all samples
of a range, so its parts add up and never average out; each end of a window may lie off by
`edge_s`, at the larger of the powers around it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from host.link.messages import Phase
from models.errors import TinysplitError

Floats = npt.NDArray[np.float64]
RULES = ("trapezoid", "rectangle")


class EnergyError(TinysplitError):
    """Samples that no energy follows from."""


@dataclass(frozen=True)
class Samples:
    """What an instrument saw; all arrays have shape (n,), n at least 2.

    Attributes:
        time_s: strictly increasing.
        current_a, voltage_v: at each sample.
        marks: uint8, the logic inputs, bit k is input Dk; None: the instrument has none.
        current_error_a: what the current may be off by, by the instrument's data sheet.
    """

    time_s: Floats
    current_a: Floats
    voltage_v: Floats
    marks: npt.NDArray[np.uint8] | None = None
    current_error_a: Floats = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        """Raises EnergyError: shapes that differ, times that go back, values not finite."""
        n = len(self.time_s)
        if n < 2:
            raise EnergyError("fewer than two samples: no energy follows from them")
        if not len(self.current_error_a):
            object.__setattr__(self, "current_error_a", np.zeros(n))
        arrays: list[npt.NDArray[Any]] = [self.current_a, self.voltage_v, self.current_error_a]
        if any(a.shape != (n,) for a in [*arrays, self.time_s]) or (
            self.marks is not None and self.marks.shape != (n,)
        ):
            raise EnergyError("times, currents, voltages and marks are not of one length")
        if not all(np.isfinite(a).all() for a in [*arrays, self.time_s]):
            raise EnergyError("a sample is not a finite number")
        if not (np.diff(self.time_s) > 0).all():
            raise EnergyError("the samples' times do not increase")


@dataclass(frozen=True)
class Window:
    """From `start_s` to `stop_s`, by the samples' clock."""

    start_s: float
    stop_s: float

    @property
    def seconds(self) -> float:
        return self.stop_s - self.start_s


class Integral:
    """The integral of values over time, from the first sample to any time within the samples."""

    def __init__(self, time_s: Floats, values: Floats, rule: str = "trapezoid") -> None:
        if rule not in RULES:
            raise EnergyError(f"{rule!r} is no rule of integration; there are {', '.join(RULES)}")
        self._time_s, self._values, self._rule = time_s, values, rule
        steps = np.diff(time_s)
        heights = values[:-1] if rule == "rectangle" else (values[:-1] + values[1:]) / 2
        self._sums = np.concatenate(([0.0], np.cumsum(steps * heights)))

    def up_to(self, moment_s: float) -> float:
        """Raises EnergyError: outside the samples."""
        time_s = self._time_s
        if not time_s[0] <= moment_s <= time_s[-1]:
            raise EnergyError(
                f"a phase reaches {moment_s:.6f} s, and the samples from {time_s[0]:.6f} s to "
                f"{time_s[-1]:.6f} s only"
            )
        k = min(int(np.searchsorted(time_s, moment_s, "right")) - 1, len(time_s) - 2)
        since = moment_s - float(time_s[k])
        value = float(self._values[k])
        found = float(self._sums[k]) + value * since
        if self._rule == "trapezoid":
            slope = (float(self._values[k + 1]) - value) / float(time_s[k + 1] - time_s[k])
            found += slope * since * since / 2
        return found

    def over(self, window: Window) -> float:
        """Raises EnergyError: the window ends before it starts, or lies outside the samples."""
        if window.stop_s < window.start_s:
            raise EnergyError("a phase ends before it starts")
        return self.up_to(window.stop_s) - self.up_to(window.start_s)

    def around(self, moment_s: float) -> float:
        """The larger absolute value of the two samples around a moment."""
        k = int(np.searchsorted(self._time_s, moment_s, "right"))
        return float(np.abs(self._values[max(k - 1, 0) : k + 1]).max())


@dataclass(frozen=True)
class Energy:
    """Of some windows together, joules; off by at most `uncertainty_j`. `seconds`: how long."""

    joules: float
    uncertainty_j: float
    seconds: float


class Meterage:
    """Energies of windows of one run of samples.

    Args:
        edge_s: how far off each end of a window may lie.
        baseline_w: subtracted from the power before integration.
    """

    def __init__(
        self,
        samples: Samples,
        rule: str = "trapezoid",
        edge_s: float = 0.0,
        baseline_w: float = 0.0,
    ) -> None:
        time_s = samples.time_s
        power_w = samples.current_a * samples.voltage_v - baseline_w
        self._power = Integral(time_s, power_w, rule)
        error_w = samples.current_error_a * np.abs(samples.voltage_v)
        self._error = Integral(time_s, error_w, rule)
        self._edge_s = edge_s

    def of(self, windows: Sequence[Window]) -> Energy:
        """Raises EnergyError: a window is not within the samples."""
        joules = uncertain = seconds = 0.0
        for window in windows:
            joules += self._power.over(window)
            uncertain += self._error.over(window)
            for end in (window.start_s, window.stop_s):
                uncertain += self._edge_s * self._power.around(end)
            seconds += window.seconds
        return Energy(joules, uncertain, seconds)


def mean_power_w(samples: Samples) -> float:
    """Over all of the samples, by trapezoids."""
    span = Window(float(samples.time_s[0]), float(samples.time_s[-1]))
    return Meterage(samples).of([span]).joules / span.seconds


def marked(samples: Samples, channel: int) -> list[Window]:
    """When a logic input was high. Edges are halfway between the samples that show them.

    A mark that is high at the first or last sample is taken to begin or end there.
    """
    if samples.marks is None:
        return []
    high = ((samples.marks >> channel) & 1).astype(np.int8)
    steps = np.diff(high)
    middles = (samples.time_s[:-1] + samples.time_s[1:]) / 2
    starts = [float(t) for t in middles[steps == 1]]
    stops = [float(t) for t in middles[steps == -1]]
    if high[0]:
        starts.insert(0, float(samples.time_s[0]))
    if high[-1]:
        stops.append(float(samples.time_s[-1]))
    return [Window(a, b) for a, b in zip(starts, stops, strict=True)]


def spacing_s(samples: Samples) -> float:
    """The longest time between two samples."""
    return float(np.diff(samples.time_s).max())


# By SPEC.md 6.2, one after the other by a stage's own clock.
_IN_TURN = (Phase.DECODE, Phase.QUEUE, Phase.INVOKE, Phase.ENCODE, Phase.SEND)


def timeline(phases: Mapping[tuple[int, int], int], stage: int, end_s: float) -> dict[int, Window]:
    """When each phase of a stage was, from how long the phases lasted, and from when the result
    was back at the head (`end_s`).

    Everything is counted back from the result: the way of the input to the head may be long, the
    result is short. The head's phases follow each other without a gap; a boundary is complete at
    the next stage when its acknowledgement ends the sending before.
    """

    def seconds(at: int, phase: Phase) -> float:
        return phases.get((at, phase), 0) / 1e6

    moment = end_s - seconds(0, Phase.DOWNSTREAM)
    moment -= sum(seconds(0, phase) for phase in _IN_TURN)
    found: dict[int, Window] = {}
    for at in range(stage + 1):
        found = {}
        received = seconds(at, Phase.RECEIVE)
        if received:
            found[Phase.RECEIVE] = Window(moment - received, moment)
        for phase in (*_IN_TURN, Phase.DOWNSTREAM):
            if phase == Phase.DOWNSTREAM:
                sent = moment
            lasted = seconds(at, phase)
            if lasted:
                found[phase] = Window(moment, moment + lasted)
            moment += lasted
        moment = sent
    return found
