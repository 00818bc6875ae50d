"""The INA219 or INA226 on a board: its energy counter, by telemetry (firmware/main/meter.c).

The counter is asked before and after an inference, so what lies between is longer than the
inference: the rest is taken at the idle board's power, which is looked at first. Phases are not
told apart.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from host.boards.board import Board, BoardError
from host.link.messages import Phase
from host.meters.meter import MEASURED, NONE, Meter, MeterError, Phases, Reading, Source

IDLE_S = 1.0
_SHUNT = 0.01  # The usual resistor's tolerance.
# Largest gain error of the current, and offset of the shunt's voltage, at 25 degC: electrical
# characteristics in SBOS448G (INA219A, its widest range) and SBOS547B (INA226).
_ACCURACY = {"ina219": (0.005, 200e-6), "ina226": (0.001, 10e-6)}
_STEP_S = 2e-3 + 1e-3  # Between two samples of the meter, and of the clock that goes with them.
# What lasts while a stage is at work, by its own clock (SPEC.md 6.2).
_BUSY = (Phase.DECODE, Phase.QUEUE, Phase.INVOKE, Phase.ENCODE, Phase.SEND, Phase.DOWNSTREAM)


@dataclass(frozen=True)
class Counter:
    """What a board's telemetry says: since start."""

    energy_uj: float
    uptime_ms: float
    voltage_v: float
    current_a: float
    samples: int


@dataclass(frozen=True)
class Metered:
    """A board with a meter: which stage, what it idles at, its error: share and offset."""

    stage: int
    board: Board
    idle_w: float
    share: float
    offset_w: float


def counter(values: dict[str, Any], board: str) -> Counter:
    """Raises MeterError: `no_meter`."""
    wanted = ("energy_uj", "uptime_ms", "voltage_mv", "current_ua", "power_samples")
    if not all(isinstance(values.get(name), int | float) for name in wanted):
        raise MeterError(
            "no_meter",
            f"{board} has no power meter; set its `meter`, `meter_address` and `meter_mohm` "
            "(firmware/README.md)",
        )
    return Counter(
        float(values["energy_uj"]),
        float(values["uptime_ms"]),
        values["voltage_mv"] / 1e3,
        values["current_ua"] / 1e6,
        int(values["power_samples"]),
    )


def spent(before: Counter, after: Counter, busy_s: float, idle_w: float) -> tuple[float, float]:
    """Joules of the `busy_s` of an inference between two counts; how long the rest was, seconds."""
    rest_s = max((after.uptime_ms - before.uptime_ms) / 1e3 - busy_s, 0.0)
    return (after.energy_uj - before.energy_uj) / 1e6 - idle_w * rest_s, rest_s


class OnBoard(Meter):
    """The meters of all boards in the chain that have one."""

    def __init__(self, *, subtract: bool = False, idle_s: float = IDLE_S) -> None:
        """`subtract`: the idle board's power is subtracted from the inference's, too."""
        self._subtract, self._idle_s = subtract, idle_s
        self._metered: list[Metered] = []
        self._before: list[Counter] = []

    def source(self) -> Source:
        return Source("INA219/INA226 on the board", MEASURED)

    def attach(self, boards: Sequence[Board]) -> None:
        first = [self._count(board) for board in boards]
        if not any(isinstance(count, Counter) for count in first):
            raise next(count for count in first if isinstance(count, MeterError))
        time.sleep(self._idle_s)
        for stage, (board, old) in enumerate(zip(boards, first, strict=True)):
            if isinstance(old, MeterError):
                continue
            now = self._count(board)
            if isinstance(now, MeterError):
                raise now
            if now.samples == old.samples or now.uptime_ms <= old.uptime_ms:
                raise MeterError("stopped", f"the power meter of {board.name} has stopped")
            idle_w = (now.energy_uj - old.energy_uj) / (now.uptime_ms - old.uptime_ms) / 1e3
            settings = board.ask("configure", set={})
            kind, mohm = settings.get("meter"), settings.get("meter_mohm")
            if kind not in _ACCURACY or not isinstance(mohm, int) or mohm < 1:
                raise MeterError("no_meter", f"{board.name} does not say which meter it has")
            share, offset_v = _ACCURACY[kind]
            offset_w = offset_v / (mohm / 1e3) * now.voltage_v
            self._metered.append(Metered(stage, board, idle_w, share + _SHUNT, offset_w))

    def _count(self, board: Board) -> Counter | MeterError:
        try:
            return counter(board.ask("telemetry"), board.name)
        except MeterError as error:
            return error
        except BoardError as error:
            if error.code not in ("unknown_command", "unsupported"):
                raise
            return MeterError("no_meter", f"{board.name} has no telemetry, so no power meter")

    def _counts(self) -> list[Counter]:
        found = []
        for metered in self._metered:
            count = self._count(metered.board)
            if isinstance(count, MeterError):
                raise count
            found.append(count)
        return found

    def begin(self) -> None:
        self._before = self._counts()

    def end(self, phases: Phases) -> Reading:
        joules: dict[int, float] = {}
        uncertain = baseline_w = 0.0
        for metered, old, now in zip(self._metered, self._before, self._counts(), strict=True):
            if now.samples == old.samples:
                raise MeterError("stopped", f"the power meter of {metered.board.name} has stopped")
            busy_s = sum(phases.get((metered.stage, phase), 0) for phase in _BUSY) / 1e6
            found, rest_s = spent(old, now, busy_s, metered.idle_w)
            uncertain += metered.share * abs(found) + metered.offset_w * busy_s
            uncertain += 2 * _STEP_S * max(metered.idle_w, abs(now.current_a * now.voltage_v))
            uncertain += metered.share * metered.idle_w * rest_s
            if self._subtract:
                found -= metered.idle_w * busy_s
                baseline_w += metered.idle_w
            joules[metered.stage] = found * 1e3
        baseline_mw = baseline_w * 1e3 if self._subtract else None
        return Reading(joules, NONE, uncertain * 1e3, baseline_mw=baseline_mw)
