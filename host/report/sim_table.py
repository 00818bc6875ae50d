"""Experiments in simulated time, as a table beside the paper's figures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from host.bench.simulated import Modelled
from host.bench.spec import Cell, Experiment
from host.report import paper

HEADER = (
    "transport", "kernels", "payload B", "head ms", "link ms", "tail ms", "round trip ms",
    "between ms", "paper: round trip", "paper: one way",
)  # fmt: skip
PROVENANCE = ("", "", *["modelled"] * 6, *["measured by its authors"] * 2)

WHAT = (
    "all times are modelled: stages by instructions counted on an emulated ESP32-S3 and published "
    "cycles (two boards with PSRAM, 240 MHz), the link by the firmware's link library on modelled "
    "radios; `between` is the compute model's error band"
)


def table(experiment: Experiment, found: Iterable[Modelled]) -> Iterator[tuple[str, ...]]:
    """Rows under HEADER, with the paper's own figures (`host.report.paper`) beside its cells."""
    several = {axis: len({cell.coordinates[axis] for cell in experiment.cells}) > 1
               for axis in ("model", "cut", "link", "heads")}  # fmt: skip
    for one in found:
        at = one.cell.coordinates
        also = [str(at[axis]) for axis, many in several.items() if many]
        yield (
            " / ".join([str(at["transport"]), *also]),
            "ESP-NN" if one.kernels == "esp-nn" else "ANSI C",
            f"{one.payload_bytes:,}",
            f"{one.stages[0].us / 1e3:,.1f}",
            f"{one.link_us / 1e3:,.1f}",
            f"{one.stages[-1].us / 1e3:,.1f}",
            f"{one.round_trip_us / 1e3:,.1f}",
            f"{one.low_us / 1e3:,.0f} to {one.high_us / 1e3:,.0f}",
            published(one.cell, "steady_state_rtt"),
            published(one.cell, "one_way_transmission"),
        )


def published(cell: Cell, quantity: str) -> str:
    """What the paper says of a cell that asks what it asked, in all versions."""
    if cell.cut != (paper.LAYER,) or cell.heads != 1 or cell.link.impairment.loss:
        return ""
    transport = cell.transport.transport
    return " / ".join(
        f"{'>' if figure.at_least else ''}{figure.value:g} {figure.unit}"
        for figure in paper.figures()
        if (figure.quantity, figure.transport) == (quantity, transport)
    )
