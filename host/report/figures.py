"""The figures of a report, by matplotlib: for the page, the notebook and publications.

Each function takes frames of `host.report.analysis` and gives a Drawing, or None where the results
have nothing to show there (`ABSENT` says what would). How a figure came about is in its labels:
hatched bars and dashed lines are not measured, and every cell's own provenance is written out.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from host.report import analysis, paper
from host.report.analysis import Frame
from partitioner.output import whole_file

# Okabe and Ito's colours (Color Universal Design, 2008): told apart by colour-blind people.
TRANSPORTS = {"udp": "#0072b2", "tcp": "#d55e00", "ble": "#cc79a7", "espnow": "#009e73"}
OTHER = "#777777"
PHASES = {
    "head waits": "#bfbfbf",
    "head computes": "#0072b2",
    "head encodes": "#89c4e8",
    "link": "#d55e00",
    "stages between": "#8c6bb1",
    "tail decodes and waits": "#a6d96a",
    "tail computes": "#009e73",
    "tail encodes": "#66c2a4",
    "return": "#e69f00",
}
INK, FAINT, GRID = "#1a1a1a", "#595959", "#d9d9d9"
_MARKERS = "osD^vPX*"


@dataclass(frozen=True)
class Drawing:
    """One figure: `alt` says in words what it shows, `caption` how to read it."""

    key: str
    title: str
    caption: str
    alt: str
    provenance: str
    figure: Any  # matplotlib.figure.Figure

    def _repr_png_(self) -> bytes:
        """As notebooks show it."""
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format="png", dpi=100, facecolor="white")
        return buffer.getvalue()


class Absent(NamedTuple):
    """A figure that these results have no data for."""

    title: str
    why: str


ABSENT = {
    "energy": Absent("Energy per inference", "no meter was used (`meters` in the experiment)"),
    "payload": Absent(
        "Round trip against payload", "only one payload was sent (`cuts` in the experiment)"
    ),
    "retransmissions": Absent(
        "Retransmissions against loss", "only one loss was asked for (`links` in the experiment)"
    ),
    "front": Absent("Latency against energy", "that takes an energy figure for at least two cells"),
    "paper": Absent(
        "Beside the paper", "no cell is of the paper's cut (block_16_project_BN, boards 1 to 1)"
    ),
    "phases": Absent("Latency by phase", "no inference succeeded"),
    "spread": Absent("Distribution of round trips", "no inference succeeded"),
}


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.subplots()
    axes.patch.set_alpha(0)
    axes.spines[["top", "right"]].set_visible(False)
    for spine in axes.spines.values():
        spine.set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=9)
    axes.set_axisbelow(True)
    return figure, axes


def _labels(axes: Any, across: str, up: str = "") -> None:
    axes.set_xlabel(across, color=INK, fontsize=9)
    if up:
        axes.set_ylabel(up, color=INK, fontsize=9)


def _legend(axes: Any, **more: Any) -> None:
    axes.legend(frameon=False, fontsize=8, labelcolor=INK, **more)


def _colour(transport: str) -> str:
    return TRANSPORTS.get(transport, OTHER)


def _line(provenance: str) -> str:
    return "-" if provenance == "measured" else "--"


def _hatch(provenance: str) -> str:
    return "" if provenance == "measured" else "////"


def _name(parts: Iterable[str]) -> str:
    """Provenances of what is in one figure, as one."""
    found = {one for part in parts for one in part.split(" and ")} - {"", "none"}
    return " and ".join(sorted(found)) or "none"


def _wrapped(label: str, provenance: str) -> str:
    return "\n".join(textwrap.wrap(label, 40)) + f"\n({provenance})"


def _per_cell(count: int) -> float:
    return 1.6 + 0.52 * count


def _mark(artist: Any, transport: str, text: str) -> None:
    """What the page shows when the pointer is on it, and whose it is: see page.js."""
    artist.set_gid(f"{transport}|{text}")


def latency_by_phase(frame: Frame) -> Drawing | None:
    """Stacked bars: the round trip of each cell by phase."""
    taken = analysis.phases(frame)
    if taken.empty:
        return None
    figure, axes = _figure(8.5, _per_cell(len(taken)))
    used = [p for p in analysis.PHASES if taken[p[0]].max() > 0]
    left = [0.0] * len(taken)
    for name, _, kind in used:
        values = list(taken[name])
        bars = axes.barh(
            range(len(taken)), values, 0.62, left=left, color=PHASES[name], label=name, linewidth=0
        )
        for bar, value, (_, cell) in zip(bars, values, taken.iterrows(), strict=True):
            bar.set_hatch(_hatch(cell[kind]))
            bar.set_edgecolor("#ffffff")
            _mark(bar, cell["transport"], f"{cell['label']}: {name} {_ms(value)}, {cell[kind]}")
        left = [a + b for a, b in zip(left, values, strict=True)]
    for place, total in enumerate(left):
        axes.annotate(f" {_ms(total)}", (total, place), va="center", fontsize=8, color=INK)
    texts = [_wrapped(c["label"], c["provenance"]) for _, c in taken.iterrows()]
    axes.set_yticks(range(len(taken)), texts, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.14 * max(left))
    axes.xaxis.grid(visible=True, color=GRID)
    _labels(axes, "round trip (ms)")
    _legend(axes, loc="lower left", bbox_to_anchor=(0, 1), ncols=4)
    slow = taken.loc[taken["total_ms"].idxmax()]
    fast = taken.loc[taken["total_ms"].idxmin()]
    return Drawing(
        "phases",
        "Latency by phase",
        "Mean over the middle fifth of each cell's inferences by round trip, so that phases add "
        "up. Each phase is by the clock of the node it belongs to; hatched: not measured.",
        f"Stacked bars of {len(taken)} cells. Fastest {fast['label']} with "
        f"{_ms(fast['total_ms'])}, slowest {slow['label']} with {_ms(slow['total_ms'])}.",
        _name(taken["provenance"]),
        figure,
    )


def spread(frame: Frame) -> Drawing | None:
    """Empirical distribution of round trips, a line for each cell."""
    rows = analysis.counted(frame)
    rows = rows[rows["error"].isna() & rows["round_trip_us"].notna()]
    if rows.empty:
        return None
    names = analysis.varying(analysis.counted(frame))
    figure, axes = _figure(8.5, 4.4)
    groups = list(rows.groupby(list(analysis.COORDINATES), sort=True, dropna=False))
    drawn: dict[str, int] = {}
    lowest, highest = math.inf, 0.0
    for where, group in groups:
        one = dict(zip(analysis.COORDINATES, where, strict=True))
        transport, how = group["transport"].iloc[0], group["provenance"].iloc[0]
        values = group["round_trip_us"].astype(float).sort_values().to_numpy() / 1000
        turn = drawn[transport] = drawn.get(transport, -1) + 1
        share = [(place + 1) / len(values) for place in range(len(values))]
        (line,) = axes.plot(
            [values[0], *values],
            [0.0, *share],
            _line(how),
            drawstyle="steps-post",
            color=_colour(transport),
            alpha=max(1 - 0.2 * turn, 0.3),
            linewidth=1.8,
            label=f"{analysis.label(one, names)} ({how})" if len(groups) <= 12 else None,
        )
        _mark(line, transport, f"{analysis.label(one, names)}: {len(values)} inferences, {how}")
        lowest, highest = min(lowest, values[0]), max(highest, values[-1])
    if lowest > 0 and highest > 20 * lowest:
        axes.set_xscale("log")
    axes.set_ylim(0, 1.02)
    axes.grid(visible=True, color=GRID)
    _labels(axes, "round trip (ms)", "share of inferences")
    if len(groups) > 12:  # Too many to name: whose they are.
        for transport in drawn:
            axes.plot([], [], color=_colour(transport), linewidth=1.8, label=transport)
    _legend(axes, loc="lower right")
    return Drawing(
        "spread",
        "Distribution of round trips",
        "Share of inferences that took no longer; every counted inference is in it. Dashed: not "
        "only measured.",
        f"Cumulative distributions of {len(groups)} cells between {_ms(lowest)} and "
        f"{_ms(highest)}.",
        _name(rows["provenance"]),
        figure,
    )


def energy(cells: Frame) -> Drawing | None:
    """Bars: energy of an inference, with the meter's uncertainty."""
    known = cells.dropna(subset=["energy_mj"])
    if known.empty:
        return None
    figure, axes = _figure(8.5, _per_cell(len(known)))
    for place, (_, cell) in enumerate(known.iterrows()):
        how = cell["energy_provenance"]
        (bar,) = axes.barh(
            place, cell["energy_mj"], 0.6, color=_colour(cell["transport"]), linewidth=0
        )
        bar.set_hatch(_hatch(how))
        bar.set_edgecolor("#ffffff")
        doubt = cell["energy_uncertainty_mj"]
        if doubt == doubt:  # Known.
            axes.errorbar(cell["energy_mj"], place, xerr=doubt, ecolor=INK, capsize=3, elinewidth=1)
        axes.annotate(
            f"  {cell['energy_mj']:,.3g} mJ",
            (cell["energy_mj"] + (doubt if doubt == doubt else 0), place),
            va="center",
            fontsize=8,
            color=INK,
        )
        _mark(bar, cell["transport"], f"{cell['label']}: {cell['energy_mj']:,.3g} mJ, {how}")
    texts = [_wrapped(c["label"], c["energy_provenance"]) for _, c in known.iterrows()]
    axes.set_yticks(range(len(known)), texts, fontsize=8)
    axes.invert_yaxis()
    least, most = (
        1.2 * float(edge) for edge in (known["energy_mj"].min(), known["energy_mj"].max())
    )
    axes.set_xlim(min(least, 0.0), max(most, 0.0) if least or most else 1.0)
    axes.xaxis.grid(visible=True, color=GRID)
    _labels(axes, "energy of an inference, all metered nodes (mJ)")
    return Drawing(
        "energy",
        "Energy per inference",
        f"By {'; '.join(sorted(set(known['energy_source'])))}. Medians; whiskers are the meter's "
        "own uncertainty. Hatched: not measured.",
        f"Bars of {len(known)} cells from {known['energy_mj'].min():,.3g} to "
        f"{known['energy_mj'].max():,.3g} mJ.",
        _name(known["energy_provenance"]),
        figure,
    )


def payload(cells: Frame) -> Drawing | None:
    """Round trip against the boundary's bytes, a line for each transport and condition."""
    known = cells.dropna(subset=["round_trip_ms"])
    if known["payload_bytes"].nunique() < 2:
        return None
    return _against(
        known,
        "payload_bytes",
        "round_trip_ms",
        ("payload", "Round trip against payload"),
        ("boundary (bytes, uncoded)", "median round trip (ms)"),
    )


def retransmissions(cells: Frame) -> Drawing | None:
    """Share of data frames that were repetitions, against the loss asked for."""
    known = cells.dropna(subset=["retransmission_share"]).copy()
    if known["loss"].nunique() < 2:
        return None
    known["loss"] *= 100
    known["retransmission_share"] *= 100
    return _against(
        known,
        "loss",
        "retransmission_share",
        ("retransmissions", "Retransmissions against loss"),
        ("loss asked for (% of packets)", "data frames sent again (%)"),
    )


def _against(
    known: Frame, across: str, up: str, names: tuple[str, str], axis: tuple[str, str]
) -> Drawing:
    along = "link" if across == "loss" else "cut"
    apart = [name for name in analysis.varying(known) if name != along]
    lines = list(known.groupby(apart, sort=True))
    figure, axes = _figure(8.5, 4.0 + 0.2 * len(lines))
    drawn: dict[str, int] = {}
    for where, group in lines:
        ordered = group.sort_values(across)
        one = dict(zip(apart, where, strict=True))
        transport, how = ordered["transport"].iloc[0], ordered["provenance"].iloc[0]
        turn = drawn[transport] = drawn.get(transport, -1) + 1
        (line,) = axes.plot(
            ordered[across],
            ordered[up],
            _line(how),
            marker=_MARKERS[turn % len(_MARKERS)],
            color=_colour(transport),
            alpha=max(1 - 0.2 * turn, 0.3),
            label=f"{analysis.label(one, apart)} ({how})",
        )
        _mark(line, transport, f"{analysis.label(one, apart)}, {how}")
        if up == "round_trip_ms":
            low = (ordered[up] - ordered["round_trip_low_ms"]).fillna(0).clip(lower=0)
            high = (ordered["round_trip_high_ms"] - ordered[up]).fillna(0).clip(lower=0)
            axes.errorbar(
                ordered[across],
                ordered[up],
                [low, high],
                fmt="none",
                ecolor=_colour(transport),
                elinewidth=1,
                capsize=2,
            )
    axes.set_ylim(bottom=0)
    axes.grid(visible=True, color=GRID)
    _labels(axes, *axis)
    _legend(axes, loc="lower left", bbox_to_anchor=(0, 1))
    key, title = names
    note = (
        " Whiskers: 95 % interval of the median."
        if up == "round_trip_ms"
        else " What a radio's own MAC repeats is not in it."
    )
    return Drawing(
        key,
        title,
        f"A point for each cell.{note} Dashed: not only measured.",
        f"{len(lines)} lines over {known[across].nunique()} values of {axis[0]}; "
        f"{axis[1]} from {known[up].min():,.3g} to {known[up].max():,.3g}.",
        _name(known["provenance"]),
        figure,
    )


def front(cells: Frame) -> Drawing | None:
    """Latency against energy of every cell, and the Pareto front."""
    known = cells.dropna(subset=["round_trip_ms", "energy_mj"])
    if len(known) < 2:
        return None
    best = analysis.front(known, "round_trip_ms", "energy_mj")
    figure, axes = _figure(8.5, 4.4)
    axes.step(
        best["round_trip_ms"], best["energy_mj"], "-", where="post", color=FAINT, linewidth=1.2,
        label="Pareto front",
    )  # fmt: skip
    for transport, group in known.groupby("transport", sort=True):
        axes.plot(
            group["round_trip_ms"],
            group["energy_mj"],
            "o",
            color=_colour(str(transport)),
            markersize=7,
            label=transport,
        )
    for _, cell in known.iterrows():
        how = _name([cell["provenance"], f"energy {cell['energy_provenance']}"])
        (point,) = axes.plot(cell["round_trip_ms"], cell["energy_mj"], "o", alpha=0, markersize=12)
        text = f"{cell['label']}: {_ms(cell['round_trip_ms'])}, {cell['energy_mj']:,.3g} mJ"
        _mark(point, cell["transport"], f"{text}, {how}")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.grid(visible=True, color=GRID)
    _labels(axes, "median round trip (ms)", "energy of an inference (mJ)")
    _legend(axes, loc="best")
    how = f"round trip {_name(known['provenance'])}; energy {_name(known['energy_provenance'])}"
    return Drawing(
        "front",
        "Latency against energy",
        f"No other cell beats those on the line in both: {'; '.join(best['label'])}.",
        f"{len(known)} cells, of which {len(best)} are on the front: {'; '.join(best['label'])}.",
        how,
        figure,
    )


def beside_paper(cells: Frame) -> Drawing | None:
    """Our round trips at the paper's cut beside the paper's, on a logarithmic axis."""
    ours = paper.comparable(cells)
    if ours.empty:
        return None
    bars: list[tuple[str, str, float, str, str]] = []
    for transport in TRANSPORTS:
        for one in paper.round_trips(transport):
            told = f"{transport}, the paper{' (at least)' if one.at_least else ''}"
            bars.append((told, transport, one.milliseconds, "measured", one.source))
        for _, cell in ours[ours["transport"] == transport].iterrows():
            bars.append(
                (
                    f"{cell['label']}, {cell['nodes']}",
                    transport,
                    cell["round_trip_ms"],
                    cell["provenance"],
                    "here",
                )
            )
    figure, axes = _figure(8.5, _per_cell(len(bars)))
    for place, (text, transport, value, how, source) in enumerate(bars):
        theirs = source != "here"
        (bar,) = axes.barh(
            place,
            value,
            0.62,
            color=_colour(transport),
            alpha=0.4 if theirs else 1.0,
            linewidth=0,
        )
        bar.set_hatch(_hatch(how))
        bar.set_edgecolor("#ffffff")
        _mark(bar, transport, f"{text}: {_ms(value)}, {how}, {source}")
        axes.annotate(f" {_ms(value)}", (value, place), va="center", fontsize=8, color=INK)
    axes.set_yticks(
        range(len(bars)), [_wrapped(text, how) for text, _, _, how, _ in bars], fontsize=8
    )
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlim(min(b[2] for b in bars) / 2, 6 * max(b[2] for b in bars))
    axes.xaxis.grid(visible=True, color=GRID)
    _labels(axes, "round trip (ms), logarithmic")
    return Drawing(
        "paper",
        "Beside the paper",
        "Pale: as published (arXiv:2507.16594, on ESP32-S3 boards). Ours ran on the nodes named in "
        "the table: where these are not boards, compare shapes and not seconds.",
        "Round trips of the paper's cut, ours and the paper's: "
        + "; ".join(f"{b[0]} {_ms(b[2])}" for b in bars)
        + ".",
        _name(b[3] for b in bars),
        figure,
    )


def comparison(compared: Frame, base: str, other: str) -> Drawing:
    """Ratios of medians, a bar's whisker their interval."""
    figure, axes = _figure(8.5, _per_cell(len(compared)))
    for place, (_, cell) in enumerate(compared.iterrows()):
        low, high = cell["ratio_low"], cell["ratio_high"]
        known = low == low
        error = [[max(cell["ratio"] - low, 0)], [max(high - cell["ratio"], 0)]] if known else None
        line = axes.errorbar(
            cell["ratio"], place, xerr=error, fmt="o", color=_colour(cell["transport"]), capsize=3
        )
        _mark(line.lines[0], cell["transport"], f"{cell['label']}: {cell['ratio']:.3f}")
        axes.annotate(
            f"{cell['ratio']:.2f}",
            (cell["ratio"], place),
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color=INK,
        )
    axes.axvline(1.0, color=FAINT, linewidth=1)
    texts = [_wrapped(c["label"], c["provenance"]) for _, c in compared.iterrows()]
    axes.set_yticks(range(len(compared)), texts, fontsize=8)
    axes.set_ylim(len(compared) - 0.4, -0.6)
    axes.xaxis.grid(visible=True, color=GRID)
    _labels(axes, f"median round trip of {other} / {base}")
    return Drawing(
        "comparison",
        f"{other} against {base}",
        "Left of 1: faster. Whiskers: 95 % interval (bootstrap). Two sweeps at two times: what "
        "else the machines and the air did in between is in the ratio.",
        "; ".join(f"{c['label']}: {c['ratio']:.2f}" for _, c in compared.iterrows()) + ".",
        _name(compared["provenance"]),
        figure,
    )


def _ms(value: float) -> str:
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f} ms"


def drawings(frame: Frame) -> tuple[list[Drawing], list[Absent]]:
    """Every figure that the rows have data for, and what is absent and why."""
    cells = analysis.cells(frame)
    makers: dict[str, Callable[[], Drawing | None]] = {
        "phases": lambda: latency_by_phase(frame),
        "spread": lambda: spread(frame),
        "energy": lambda: energy(cells),
        "payload": lambda: payload(cells),
        "retransmissions": lambda: retransmissions(cells),
        "front": lambda: front(cells),
        "paper": lambda: beside_paper(cells),
    }
    found, absent = [], []
    for key, make in makers.items():
        drawing = make()
        if drawing is None:
            absent.append(ABSENT[key])
        else:
            found.append(drawing)
    return found, absent


def save(drawings: Sequence[Drawing], folder: Path, formats: Sequence[str]) -> list[Path]:
    """Each drawing as a file of its own on white, 300 dpi, text as text in PDF and SVG.

    Raises:
        OutputError: they cannot be written.
    """
    import matplotlib as mpl

    written = []
    with mpl.rc_context({"pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "tinysplit"}):
        for drawing in drawings:
            for suffix in formats:
                path = folder / f"{drawing.key}.{suffix}"
                with whole_file(path) as temporary:
                    drawing.figure.savefig(
                        temporary,
                        format=suffix,
                        dpi=300,
                        facecolor="white",
                        metadata=_dateless(suffix),
                    )
                written.append(path)
    return written


def _dateless(suffix: str) -> dict[str, None]:
    """Metadata that makes equal figures equal files."""
    return {"png": {}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}[suffix]
