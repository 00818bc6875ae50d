"""Meters that deliver samples: from when to when an inference and its phases were, and how much.

Phases come from marks: the firmware raises one pin for each (firmware/README.md, Power analyser),
and the pins are on the instrument's logic inputs. Where no mark is seen they come from the phase
records instead, counted back from the result; their ends are then as uncertain as this machine's
clock is about the instrument's, and as the time that the result's way here may have taken: the
board's phases are shorter than what passed here, and all of the rest may have come last.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from host.boards.board import Board
from host.meters import energy
from host.meters.energy import EnergyError, Meterage, Samples, Window
from host.meters.meter import (
    GPIO,
    TIMESTAMPS,
    Meter,
    MeterError,
    Phases,
    Reading,
    phase_name,
)

AUTO = "auto"
# Pins of the firmware's default build on the PPK2's logic port: firmware/README.md.
CHANNELS = {"invoke": 0, "send": 1, "receive": 2, "downstream": 3}
_BEFORE_S = 0.05  # Kept before an inference, for filters to settle and marks to be low.


@dataclass(frozen=True)
class Sampling:
    """How samples become energies.

    Attributes:
        stage: whose supply is metered.
        phases: gpio, timestamps, or auto: gpio if a mark is seen in an inference.
        channels: phase to logic input.
        rule: trapezoid or rectangle.
        baseline_s: how long to look at the idle board first, for a baseline that is then
            subtracted; 0: nothing is.
    """

    stage: int = 0
    phases: str = AUTO
    channels: Mapping[str, int] = field(default_factory=lambda: dict(CHANNELS))
    rule: str = "trapezoid"
    baseline_s: float = 0.0


class Sampled(Meter):
    """A meter with samples; subclasses hand over those between two moments of this host's clock."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._baseline_w: float | None = None
        self._began_s = 0.0

    @property
    @abstractmethod
    def clock_s(self) -> float:
        """How far off this host's clock may be about when a sample was taken."""

    @abstractmethod
    def capture(self, start_s: float, stop_s: float) -> Samples:
        """All samples from just before `start_s` to just after `stop_s` (time.monotonic()).

        Waits until they are there. Raises MeterError, `samples_lost` if one is missing.
        """

    def forget(self, before_s: float) -> None:
        """Samples before that moment are not asked for any more."""
        return

    def attach(self, boards: Sequence[Board]) -> None:
        seconds = self._sampling.baseline_s
        if seconds:
            started = time.monotonic()
            time.sleep(seconds)
            try:
                self._baseline_w = energy.mean_power_w(self.capture(started, started + seconds))
            except EnergyError as error:
                raise MeterError("no_samples", f"the baseline has no samples: {error}") from error

    def begin(self) -> None:
        self._began_s = time.monotonic()
        self.forget(self._began_s - _BEFORE_S)

    def end(self, phases: Phases) -> Reading:
        ended_s = time.monotonic()
        margin_s = 2 * self.clock_s
        samples = self.capture(self._began_s - margin_s, ended_s + margin_s)
        try:
            moment_s = self.clock_s + unaccounted_s(phases, ended_s - self._began_s)
            return reading(samples, phases, self._sampling, ended_s, moment_s, self._baseline_w)
        except EnergyError as error:
            raise MeterError("no_samples", str(error)) from error


def unaccounted_s(phases: Phases, passed_s: float) -> float:
    """What of the time between asking for an inference and having it the head does not report."""
    reported_us = sum(us for (stage, _), us in phases.items() if stage == 0)
    return max(passed_s - reported_us / 1e6, 0.0)


def reading(
    samples: Samples,
    phases: Phases,
    sampling: Sampling,
    ended_s: float,
    moment_s: float,
    baseline_w: float | None,
) -> Reading:
    """Energy of one inference that was over at `ended_s`, by the samples' clock.

    The inference is from the first to the end of the last phase that is told apart. By `moment_s`
    at most the result was there before `ended_s`.

    Raises:
        EnergyError: there are no samples for a phase, or no phase.
        MeterError: `no_marks`, where there must be.
    """
    wanted = sampling.phases
    named: dict[str, list[Window]] = {}
    if wanted != TIMESTAMPS:
        found = {name: energy.marked(samples, d) for name, d in sampling.channels.items()}
        named = {name: windows for name, windows in found.items() if windows}
    method = GPIO if named else TIMESTAMPS
    if wanted == GPIO and not named:
        inputs = ", ".join(f"D{d}" for d in sampling.channels.values())
        raise MeterError(
            "no_marks",
            f"no mark was seen on the meter's inputs {inputs}: check wires and common ground "
            "(firmware/README.md), or set phases: timestamps",
        )
    if not named:
        lasted = energy.timeline(phases, sampling.stage, ended_s)
        named = {phase_name(phase): [window] for phase, window in lasted.items()}
    if not named:
        raise EnergyError("neither marks nor phases tell when the inference was")
    edge_s = energy.spacing_s(samples) / 2 if method == GPIO else moment_s
    meterage = Meterage(samples, sampling.rule, edge_s, baseline_w or 0.0)
    windows = [window for phase in named.values() for window in phase]
    whole = Window(min(w.start_s for w in windows), max(w.stop_s for w in windows))
    total = meterage.of([whole])
    return Reading(
        {sampling.stage: total.joules * 1e3},
        method,
        total.uncertainty_j * 1e3,
        {(sampling.stage, n): meterage.of(ws).joules * 1e3 for n, ws in named.items()},
        None if baseline_w is None else baseline_w * 1e3,
    )
