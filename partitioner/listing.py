"""The network as a table, as JSON and as a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from partitioner.catalogue import Catalogue, Cost, Row
from partitioner.command import size
from partitioner.graph import Tensor
from partitioner.output import whole_file

_UNIT = 1024


_NARROW = 150  # Columns below which the table leaves out what --json has.


def table(
    catalogue: Catalogue, costs: Mapping[int, Cost], ram_bytes: int, width: int | None = None
) -> Table:
    """Every layer, and for every legal cut what crosses and what it costs.

    Args:
        width: of the terminal; a narrow one gets the most important columns. None: no limit.
    """
    columns = list(_COLUMNS)
    if width is not None and width < _NARROW:
        columns = ["#", "layer", "crosses", "payload\nbytes", "head\nMACs", "head\narena", "fits"]
    out = Table(box=None, pad_edge=False, header_style="bold")
    for heading in columns:
        left = heading in ("layer", "op", "output", "crosses", "fits")
        limit = None if width is None or heading not in ("layer", "crosses") else 36
        out.add_column(
            heading if heading != "fits" else f"head in\n{size(ram_bytes)}",
            justify="left" if left else "right",
            no_wrap=True,
            overflow="ellipsis",
            max_width=limit,
        )
    for row in catalogue.rows:
        cells = _cells(row, catalogue, costs, ram_bytes)
        out.add_row(*(cells[c] for c in columns), style="" if row.cut else "dim")
    return out


_COLUMNS = (
    "#",
    "layer",
    "op",
    "output",
    "crosses",
    "payload\nbytes",
    "head\nMACs",
    "tail\nMACs",
    "head\nflash",
    "tail\nflash",
    "head\narena",
    "tail\narena",
    "fits",
)


def _cells(
    row: Row, catalogue: Catalogue, costs: Mapping[int, Cost], ram_bytes: int
) -> dict[str, str]:
    """A cell for each of _COLUMNS."""
    out = dict.fromkeys(_COLUMNS, "")
    out["#"] = "" if row.operator in (None, -1) else f"#{row.operator}"
    out["layer"], out["op"] = row.name, row.kind
    out["output"] = "x".join("?" if n is None else str(n) for n in row.output_shape[1:])
    if row.cut is None:
        if row.operator is None:
            out["crosses"] = f"fused: cut at {row.stand_in}"
        elif row.operator == -1:
            out["crosses"] = "input"
        elif row.operator == len(catalogue.graph.operators) - 1:
            out["crosses"] = "output"
        return out
    cost = costs[row.cut.position]
    crossing = [catalogue.graph.tensors[i] for i in row.cut.tensors]
    out["crosses"] = " + ".join("x".join(map(str, t.shape[1:])) for t in crossing)
    out["payload\nbytes"] = f"{row.cut.payload_bytes:,}"
    out["head\nMACs"], out["tail\nMACs"] = (
        f"{macs / 1e6:.2f} M" for macs in (cost.head_macs, cost.tail_macs)
    )
    out["head\nflash"], out["tail\nflash"] = map(
        size, (cost.head_flash_bytes, cost.tail_flash_bytes)
    )
    out["head\narena"], out["tail\narena"] = map(
        size, (cost.head_arena_bytes, cost.tail_arena_bytes)
    )
    out["fits"] = _fits(cost, ram_bytes)
    return out


def _fits(cost: Cost, ram_bytes: int) -> str:
    if cost.head_arena_bytes is None:
        return "?"
    return "yes" if cost.head_arena_bytes <= ram_bytes else "no"


def as_json(
    catalogue: Catalogue, costs: Mapping[int, Cost], ram_bytes: int, name: str
) -> dict[str, Any]:
    """The same as plain data; README documents the fields."""

    def tensor(t: Tensor) -> dict[str, Any]:
        return {"name": t.name, "shape": t.shape, "dtype": t.dtype.name, "bytes": t.bytes}

    layers = []
    for row in catalogue.rows:
        entry: dict[str, Any] = {
            "name": row.name,
            "op": row.kind,
            "output_shape": row.output_shape,
            "operator": row.operator,
            "stand_in": row.stand_in,
            "cut": None,
        }
        if row.cut is not None:
            cost = costs[row.cut.position]
            arena = cost.head_arena_bytes
            entry["cut"] = {
                "position": row.cut.position,
                "payload_bytes": row.cut.payload_bytes,
                "tensors": [tensor(catalogue.graph.tensors[i]) for i in row.cut.tensors],
                **vars(cost),
                "head_fits": None if arena is None else arena <= ram_bytes,
            }
        layers.append(entry)
    return {
        "model": name,
        "ram_bytes": ram_bytes,
        "operators": len(catalogue.graph.operators),
        "macs": catalogue.graph.macs(),
        "legal_cuts": len(catalogue.graph.cuts),
        "layers": layers,
    }


def write_json(content: dict[str, Any], path: Path) -> None:
    """Raises OutputError if `path` cannot be written."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


def plot(content: dict[str, Any], path: Path) -> None:
    """Payload, MACs and arena against depth, every legal cut marked. `content` is `as_json`'s.

    Raises:
        OutputError: `path` cannot be written.
        ValueError: matplotlib does not know its suffix.
    """
    from matplotlib.figure import Figure

    seen: dict[int, dict[str, Any]] = {}
    for layer in content["layers"]:
        if layer["cut"] is not None:
            seen.setdefault(layer["cut"]["position"], layer)
    layers = [seen[position] for position in sorted(seen)]
    cuts = [layer["cut"] for layer in layers]
    depth = [cut["position"] for cut in cuts]
    single = [len(cut["tensors"]) == 1 for cut in cuts]

    figure = Figure(figsize=(11, 9), layout="constrained")
    payload, macs, arena = figure.subplots(3, 1, sharex=True)
    for wanted, label, colour in ((True, "one tensor", "#0072B2"), (False, "several", "#E69F00")):
        chosen = [i for i, one in enumerate(single) if one == wanted]
        payload.bar(
            [depth[i] for i in chosen],
            [cuts[i]["payload_bytes"] / _UNIT for i in chosen],
            color=colour,
            label=f"{label} ({len(chosen)} cuts)",
        )
    payload.set_yscale("log")
    payload.set_ylabel("payload (KiB)")
    payload.set_title(
        f"{content['model']}: {len(cuts)} legal cuts in {content['operators']} operators"
    )

    macs.plot(
        depth, [c["head_macs"] / 1e6 for c in cuts], "o-", ms=3, color="#0072B2", label="head"
    )
    macs.plot(
        depth, [c["tail_macs"] / 1e6 for c in cuts], "s-", ms=3, color="#D55E00", label="tail"
    )
    macs.set_ylabel("cumulative MACs (million)")

    if cuts and cuts[0]["head_arena_bytes"] is not None:
        for side, marker, colour in (("head", "o-", "#0072B2"), ("tail", "s-", "#D55E00")):
            kib = [c[f"{side}_arena_bytes"] / _UNIT for c in cuts]
            arena.plot(depth, kib, marker, ms=3, color=colour, label=side)
        limit = content["ram_bytes"] / _UNIT
        arena.axhline(limit, ls="--", color="#555555", label=f"--ram {limit:,.0f} KiB")
    arena.set_ylabel("arena (KiB), TFLM on x86-64")
    arena.set_ylim(bottom=0)
    named = layers[:: max(1, len(layers) // 64)]
    arena.set_xticks(
        [layer["cut"]["position"] for layer in named],
        [layer["name"].split(";")[-1][-28:] for layer in named],
        rotation=90,
        fontsize=6,
    )
    arena.set_xlabel("cut after this layer (depth in operators)")
    for axes in (payload, macs, arena):
        axes.grid(axis="y", alpha=0.3)
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
        axes.spines[["top", "right"]].set_visible(False)
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=120)
