"""What every energy meter offers. These docstrings are the contract."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from host.boards.board import Board
from host.closing import Closing
from host.link.messages import Phase
from models.errors import TinysplitError

Phases = Mapping[tuple[int, int], int]  # By stage and phase (SPEC.md 6.2): microseconds.

# How phases were told apart.
GPIO, TIMESTAMPS, MODEL, NONE = "gpio", "timestamps", "model", "none"
MEASURED, REPLAYED, MODELLED = "measured", "replayed", "modelled"
SAMPLES_LOST = "samples_lost"


class MeterError(TinysplitError):
    """A meter that is not to be had, or failed.

    `code`: `no_port`, `not_allowed`, `busy`, `not_a_port` (as host.serial_port), `no_answer`,
    `not_installed`, `no_meter`, `no_stage`, `no_marks`, `bad_file`, `unplugged`, `stopped`; after
    any of these it is not to be used again. `samples_lost` and `no_samples` are about one
    inference's energy only.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code

    @property
    def passes(self) -> bool:
        """Whether the meter can go on."""
        return self.code in (SAMPLES_LOST, "no_samples")


@dataclass(frozen=True)
class Source:
    """Which meter: `name` for people; `provenance`: measured, replayed, modelled."""

    name: str
    provenance: str


@dataclass(frozen=True)
class Reading:
    """Energy of one inference, of the metered stages, millijoules.

    `phases` by stage and phase, empty if the method does not tell. `method`: gpio, timestamps,
    model, none. `baseline_mw` has been subtracted from the power before integration; None: nothing.
    """

    stages: Mapping[int, float]
    method: str
    uncertainty_mj: float | None = None
    phases: Mapping[tuple[int, str], float] = field(default_factory=dict)
    baseline_mw: float | None = None

    @property
    def energy_mj(self) -> float:
        return sum(self.stages.values())


class Meter(Closing):
    """A context manager; entering takes hold of the instrument and starts it.

    Then `attach`, once the nodes are up, and for each inference `begin`, then `end` or `give_up`.
    Raises MeterError (entering, attach, begin, end).
    """

    def close(self) -> None:
        """Let go of the instrument. Safe to call twice, and after it has failed."""
        return

    @abstractmethod
    def source(self) -> Source:
        """Which meter it is; known once it is entered."""

    def attach(self, boards: Sequence[Board]) -> None:
        """The nodes are up and idle; `boards` are those that stages run on, by stage."""
        return

    def begin(self) -> None:
        """An inference begins now."""
        return

    @abstractmethod
    def end(self, phases: Phases) -> Reading:
        """It is over now, and its stages reported these phases."""

    def give_up(self) -> None:
        """It failed."""
        return


def phase_name(phase: int) -> str:
    """Of SPEC.md 6.2's phases, as columns have it."""
    try:
        return Phase(phase).name.lower()
    except ValueError:
        return f"phase {phase}"
