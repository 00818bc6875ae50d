"""Energy of an inference: no meter, or the cost model's figure; instruments are host.meters'."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import TracebackType

from host.bench.rows import Row
from host.bench.spec import Cell
from models.errors import TinysplitError
from partitioner.bundle import Bundle


class MeterError(TinysplitError):
    """A meter that is not to be had, or stopped."""


class CellMeter(ABC):
    """Energy of the inferences of one cell; a context manager.

    For each inference `begin`, then `end` or `give_up`. What they return are columns of a row.
    Raises MeterError (entering, begin, end): no such instrument, unplugged, samples lost.
    """

    def __enter__(self) -> CellMeter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let go of the instrument."""
        self.close()

    def close(self) -> None:
        """Let go of the instrument. Safe to call twice."""
        return

    @abstractmethod
    def source(self) -> Row:
        """`energy_source`, `energy_method` and `energy_provenance`."""

    def begin(self) -> None:
        """An inference begins now."""
        return

    @abstractmethod
    def end(self, phases: Mapping[tuple[int, int], int]) -> Row:
        """It is over, and took these microseconds by stage and phase; its energy columns."""

    def give_up(self) -> None:
        """It failed."""
        return


class NoMeter(CellMeter):
    """Energy is not known."""

    def source(self) -> Row:
        return {}

    def end(self, phases: Mapping[tuple[int, int], int]) -> Row:
        return {}


class ModelledMeter(CellMeter):
    """What the cost model says of ESP32-S3 boards over this transport: the same every time."""

    def __init__(self, columns: Row) -> None:
        self._columns = columns

    def source(self) -> Row:
        names = ("energy_source", "energy_method", "energy_provenance")
        return {name: self._columns[name] for name in names}

    def end(self, phases: Mapping[tuple[int, int], int]) -> Row:
        return self._columns


def open_meter(cell: Cell, bundle: Bundle) -> CellMeter:
    """The meter that a cell asks for, not yet entered."""
    if cell.meter.meter == "none":
        return NoMeter()
    from host.bench import computed

    return ModelledMeter(computed.energy(cell, bundle))
