"""Plans as a table, as JSON and as a picture. All figures in them are modelled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.table import Table

from partitioner.command import size
from partitioner.output import whole_file
from partitioner.plan.exact import Solution
from partitioner.plan.model import NodeCost, SplitModel
from partitioner.plan.problem import Criterion, Plan, Problem, Violation, cost_of

_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#999999")
# Head, coding, link, tail, result; told apart by people who see few colours, too.
_PHASES = ("#0072B2", "#F0E442", "#E69F00", "#009E73", "#D55E00")
_GROUND = "#999999"


def describe(
    model: SplitModel, plan: Plan, names: Mapping[int, str], per_day: float | None = None
) -> dict[str, Any]:
    """A plan as data: times in microseconds, energies above rest in millijoules, sizes in bytes."""
    stages, hops, nodes = model.stages(plan), model.hops(plan), model.node_costs(plan)
    middle = sum(s.us for s in stages) + sum(h.us for h in hops)
    busy = [stage.us for stage in stages]
    for number, hop in enumerate(hops):
        busy[number] += hop.encode_us
        busy[number + 1] += hop.decode_us
    return {
        "layers": [names[hop.position] for hop in hops],
        "latency_us": middle,
        "latency_low_us": middle - sum(s.us - s.low_us for s in stages),
        "latency_high_us": middle + sum(s.high_us - s.us for s in stages),
        "period_us": max(busy + [h.crossing.us for h in hops]),
        "energy_mj": sum(node.inference_mj for node in nodes),
        "stages": [
            {
                "node": s.node,
                "operators": [s.first, s.last],
                "compute_us": s.us,
                "compute_low_us": s.low_us,
                "compute_high_us": s.high_us,
                "basis": s.cycles.basis,
                "arena_bytes": s.arena_bytes,
                "memory": s.memory,
                "flash_bytes": s.flash_bytes,
                "compute_mj": s.compute_mj,
            }
            for s in stages
        ],
        "hops": [
            {
                "layer": names[h.position],
                "link": str(h.link),
                "transport": h.link.transport,
                "codec": h.link.codec,
                "raw_bytes": h.raw_bytes,
                "payload_bytes": h.payload_bytes,
                "encode_us": h.encode_us,
                "link_us": h.crossing.us,
                "decode_us": h.decode_us,
                "airtime_us": h.crossing.airtime_us,
                "frames": h.crossing.frames,
                "result_us": h.result.us,
            }
            for h in hops
        ],
        "nodes": [_node(node, per_day) for node in nodes],
        "provenance": "modelled",
    }


def _node(node: NodeCost, per_day: float | None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "node": node.node,
        "inference_mj": node.inference_mj,
        "busy_us": node.busy_us,
    }
    if per_day is not None:
        day = node.resting_mw * 24 + node.inference_mj * per_day / 3600
        found["day_mwh"] = day
        found["battery_days"] = node.battery_mwh / day if node.battery_mwh and day else None
    return found


def table(plans: Sequence[Mapping[str, Any]]) -> Table:
    """The best plan and its runners-up."""
    out = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("", "cut after", "by", "payload\nbytes", "compute\nms", "link\nms",
                    "latency\nms", "between\nms", "period\nms", "energy\nmJ", "arena"):  # fmt: skip
        left = heading in ("", "cut after", "by", "arena")
        out.add_column(heading, justify="left" if left else "right")
    for rank, plan in enumerate(plans, 1):
        out.add_row(
            str(rank),
            "\n".join(plan["layers"]) or "(not cut)",
            "\n".join(hop["link"] for hop in plan["hops"]),
            "\n".join(f"{hop['payload_bytes']:,}" for hop in plan["hops"]),
            "\n".join(_ms(stage["compute_us"]) for stage in plan["stages"]),
            "\n".join(_ms(h["encode_us"] + h["link_us"] + h["decode_us"]) for h in plan["hops"]),
            _ms(plan["latency_us"]),
            f"{_ms(plan['latency_low_us'])} .. {_ms(plan['latency_high_us'])}",
            _ms(plan["period_us"]),
            f"{plan['energy_mj']:,.1f}",
            "\n".join(f"{size(s['arena_bytes'])} {s['memory']}" for s in plan["stages"]),
        )
    return out


def node_table(plan: Mapping[str, Any]) -> Table:
    """What the plan takes of each node's energy, in a day if it was described for one."""
    out = Table(box=None, pad_edge=False, header_style="bold")
    daily = "day_mwh" in plan["nodes"][0]
    out.add_column("node")
    for heading in ("energy\nmJ", "at work\nms", *(("a day\nmWh", "battery\ndays") * daily)):
        out.add_column(heading, justify="right")
    for node in plan["nodes"]:
        cells = [node["node"], f"{node['inference_mj']:,.1f}", _ms(node["busy_us"])]
        if daily:
            days = node["battery_days"]
            cells += [f"{node['day_mwh']:,.1f}", "-" if days is None else f"{days:,.1f}"]
        out.add_row(*cells)
    return out


def _ms(us: float) -> str:
    return f"{us / 1000:,.1f}"


def by_cut(model: SplitModel, problem: Problem, criterion: Criterion) -> list[Plan]:
    """For every cut of a chain of two nodes the plan by its best options.

    Where no option keeps the limits, that which costs least all the same.
    """
    found = []
    for index in range(1, problem.positions - 1):
        plans = [
            Plan((0, 1), (index, problem.positions - 1), (option,))
            for option in range(len(model.links[0]))
        ]
        found.append(
            min(plans, key=lambda p: (bool(problem.violations(p)), cost_of(problem, p, criterion)))
        )
    return found


def _end_of(name: str, most: int) -> str:
    """As much of a name as there is room for, and that some of it is missing."""
    return name if len(name) <= most else f"\N{HORIZONTAL ELLIPSIS}{name[1 - most :]}"


def infeasible(
    model: SplitModel, problem: Problem, criterion: Criterion, names: Mapping[int, str]
) -> list[tuple[str, list[Violation]]]:
    """Every cut of a chain of two nodes that breaks a limit, and which."""
    found = []
    for plan in by_cut(model, problem, criterion):
        broken = problem.violations(plan)
        if broken:
            found.append((names[model.positions[plan.cuts[0]]], broken))
    return found


def plot_cuts(
    model: SplitModel,
    problem: Problem,
    criterion: Criterion,
    names: Mapping[int, str],
    best: Solution | None,
    path: Path,
    *,
    dark: bool = False,
) -> None:
    """Latency against the cut of two nodes, stacked by phase.

    The cuts that keep all limits stand on a tinted ground; the others are pale.

    Raises:
        OutputError: `path` cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    count = problem.positions
    cuts = list(range(1, count - 1))
    plans = by_cut(model, problem, criterion)
    fits = [not problem.violations(plan) for plan in plans]
    labels = (
        f"head on {model.nodes[0].name}",
        "coding",
        "link: " + (str(model.links[0][0]) if len(model.links[0]) == 1 else "the best option"),
        f"tail on {model.nodes[1].name}",
        "result's way back",
    )
    parts: list[list[float]] = [[] for _ in labels]
    errors: list[list[float]] = [[], []]
    for plan in plans:
        first, second = model.stages(plan)
        (hop,) = model.hops(plan)
        coding = hop.encode_us + hop.decode_us
        steps = (first.us, coding, hop.crossing.us, second.us, hop.result.us)
        for part, us in zip(parts, steps, strict=True):
            part.append(us / 1000)
        errors[0].append((first.us - first.low_us + second.us - second.low_us) / 1000)
        errors[1].append((first.high_us - first.us + second.high_us - second.us) / 1000)
    with _theme(dark) as ink:
        figure = Figure(figsize=(12, 6.5), layout="constrained")
        axes = figure.subplots()
        bottom = [0.0] * len(cuts)
        handles = []
        for cut, good in zip(cuts, fits, strict=True):
            if good:
                axes.axvspan(cut - 0.5, cut + 0.5, color=_GROUND, alpha=0.18, linewidth=0)
        for colour, values, label in zip(_PHASES, parts, labels, strict=True):
            if not any(values):
                continue
            bars = axes.bar(cuts, values, 0.85, bottom=bottom, color=colour)
            for bar, good in zip(bars, fits, strict=True):
                bar.set_alpha(1.0 if good else 0.3)
            bottom = [a + b for a, b in zip(bottom, values, strict=True)]
            handles.append(Patch(color=colour, label=label))
        axes.errorbar(cuts, bottom, errors, fmt="none", ecolor=ink, elinewidth=0.7)
        if best is not None:
            chosen = best.plan.cuts[0]
            top = bottom[chosen - 1] + errors[1][chosen - 1]
            axes.annotate(
                f"best by {criterion.name}: {names[model.positions[chosen]]}, "
                f"{bottom[chosen - 1]:,.0f} ms",
                (chosen, top),
                xytext=(min(max(chosen / count, 0.25), 0.75), 0.82),
                textcoords="axes fraction",
                ha="center",
                arrowprops={"arrowstyle": "->", "color": ink},
            )
        shown = [_end_of(names[model.positions[c]], 30) for c in cuts]
        axes.set_xticks(cuts, shown, rotation=90, fontsize=6)
        axes.set_xlabel("cut after")
        axes.set_ylabel("latency (ms), modelled")
        axes.set_xlim(0.4, count - 1.4)
        axes.set_ylim(0, 1.3 * max(t + e for t, e in zip(bottom, errors[1], strict=True)))
        if any(fits):
            handles.append(Patch(color=_GROUND, alpha=0.3, label="fits"))
        if not all(fits):
            handles.append(Patch(color=_PHASES[0], alpha=0.3, label="does not fit"))
        axes.legend(handles=handles, frameon=False, ncols=4, loc="upper center", fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        with whole_file(path) as temporary:
            figure.savefig(temporary, dpi=120)


def plot_plans(plans: Sequence[Mapping[str, Any]], path: Path, *, dark: bool = False) -> None:
    """The best plans of a longer chain as stacked bars.

    Raises:
        OutputError: `path` cannot be written.
    """
    from matplotlib.figure import Figure

    with _theme(dark):
        figure = Figure(figsize=(11, 1.2 + 0.5 * len(plans)), layout="constrained")
        axes = figure.subplots()
        for row, plan in enumerate(plans):
            left = 0.0
            for number, stage in enumerate(plan["stages"]):
                steps = [(stage["compute_us"], _COLOURS[number % 6], stage["node"])]
                if number < len(plan["hops"]):
                    hop = plan["hops"][number]
                    us = hop["encode_us"] + hop["link_us"] + hop["decode_us"]
                    steps.append((us, _COLOURS[6], "link"))
                for us, colour, label in steps:
                    shown = label if row == 0 and (label != "link" or number == 0) else None
                    axes.barh(row, us / 1000, left=left, color=colour, label=shown)
                    left += us / 1000
        names = [_end_of(" / ".join(p["layers"]), 60) for p in plans]
        axes.set_yticks(range(len(plans)), names, fontsize=7)
        axes.invert_yaxis()
        axes.set_xlabel("time until the result is made (ms), modelled")
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
        axes.spines[["top", "right"]].set_visible(False)
        with whole_file(path) as temporary:
            figure.savefig(temporary, dpi=120)


def plot_front(
    plans: Sequence[Mapping[str, Any]],
    costs: Sequence[Sequence[float]],
    criteria: Sequence[Criterion],
    path: Path,
    *,
    dark: bool = False,
) -> None:
    """The Pareto front of two criteria, its points named after their cuts.

    Raises:
        OutputError: `path` cannot be written.
    """
    from matplotlib.figure import Figure

    with _theme(dark):
        figure = Figure(figsize=(9, 6), layout="constrained")
        axes = figure.subplots()
        scales = [1000 if one.unit == "us" else 1 for one in criteria]
        across, up = ([cost[part] / scales[part] for cost in costs] for part in (0, 1))
        axes.plot(across, up, "o-", color=_COLOURS[0], drawstyle="steps-post", markersize=5)
        for plan, x, y in zip(plans, across, up, strict=True):
            text = " / ".join(plan["layers"])[-40:]
            axes.annotate(text, (x, y), xytext=(5, 5), textcoords="offset points", fontsize=7)
        for axis, one in ((axes.set_xlabel, criteria[0]), (axes.set_ylabel, criteria[1])):
            axis(f"{one.name} ({'ms' if one.unit == 'us' else one.unit}), modelled")
        axes.margins(x=0.2, y=0.1)
        axes.spines[["top", "right"]].set_visible(False)
        with whole_file(path) as temporary:
            figure.savefig(temporary, dpi=120)


@contextmanager
def _theme(dark: bool) -> Iterator[str]:
    """Colours for a light or a dark page; gives that of thin lines."""
    import matplotlib

    colours: Any = {
        "figure.facecolor": "#0d1117", "savefig.facecolor": "#0d1117", "axes.facecolor": "#0d1117",
        **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color",
                         "ytick.color"), "#c9d1d9"),
    }  # fmt: skip
    with matplotlib.rc_context(colours if dark else {}):
        yield "#c9d1d9" if dark else "#333333"
