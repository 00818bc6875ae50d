"""Plans as a table, as JSON and as a picture. All figures in them are modelled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from partitioner.command import size
from partitioner.output import whole_file
from partitioner.plan.exact import Solution
from partitioner.plan.model import SplitModel
from partitioner.plan.problem import Plan, Problem, Violation

_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#999999")


def describe(
    model: SplitModel, plan: Plan, names: Mapping[int, str], energy_mj: float
) -> dict[str, Any]:
    """A plan as data: times in microseconds, energies above idle in millijoules, sizes in bytes."""
    stages, hops = model.stages(plan), model.hops(plan)
    middle = sum(s.us for s in stages) + sum(h.crossing.us + h.result.us for h in hops)
    return {
        "layers": [names[hop.position] for hop in hops],
        "latency_us": middle,
        "latency_low_us": middle - sum(s.us - s.low_us for s in stages),
        "latency_high_us": middle + sum(s.high_us - s.us for s in stages),
        "period_us": max([s.us for s in stages] + [h.crossing.us for h in hops]),
        "energy_mj": energy_mj,
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
                "payload_bytes": h.payload_bytes,
                "link_us": h.crossing.us,
                "airtime_us": h.crossing.airtime_us,
                "frames": h.crossing.frames,
                "result_us": h.result.us,
            }
            for h in hops
        ],
        "provenance": "modelled",
    }


def table(plans: Sequence[Mapping[str, Any]]) -> Table:
    """The best plan and its runners-up."""
    out = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("", "cut after", "payload\nbytes", "compute\nms", "link\nms", "latency\nms",
                    "between\nms", "period\nms", "energy\nmJ", "arena"):  # fmt: skip
        left = heading in ("", "cut after", "arena")
        out.add_column(heading, justify="left" if left else "right")
    for rank, plan in enumerate(plans, 1):
        out.add_row(
            str(rank),
            "\n".join(plan["layers"]) or "(not cut)",
            "\n".join(f"{hop['payload_bytes']:,}" for hop in plan["hops"]),
            "\n".join(_ms(stage["compute_us"]) for stage in plan["stages"]),
            "\n".join(_ms(hop["link_us"]) for hop in plan["hops"]),
            _ms(plan["latency_us"]),
            f"{_ms(plan['latency_low_us'])} .. {_ms(plan['latency_high_us'])}",
            _ms(plan["period_us"]),
            f"{plan['energy_mj']:,.1f}",
            "\n".join(f"{size(s['arena_bytes'])} {s['memory']}" for s in plan["stages"]),
        )
    return out


def _ms(us: float) -> str:
    return f"{us / 1000:,.1f}"


def infeasible(
    model: SplitModel, problem: Problem, names: Mapping[int, str]
) -> list[tuple[str, list[Violation]]]:
    """Every cut of a chain of two nodes that breaks a limit, and which."""
    found = []
    for index, position in enumerate(model.positions[1:-1], 1):
        broken = problem.violations(Plan((0, 1), (index, problem.positions - 1)))
        if broken:
            found.append((names[position], broken))
    return found


def plot_cuts(
    model: SplitModel, problem: Problem, names: Mapping[int, str], best: Solution, path: Path
) -> None:
    """Latency against the cut of two nodes, stacked by phase; what keeps no limit is grey.

    Raises:
        OutputError: `path` cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    count = problem.positions
    cuts = list(range(1, count - 1))
    plans = [Plan((0, 1), (index, count - 1)) for index in cuts]
    fits = [not problem.violations(plan) for plan in plans]
    parts: dict[str, list[float]] = {"compute 0": [], "link": [], "compute 1": [], "result": []}
    errors: list[list[float]] = [[], []]
    for plan in plans:
        first, second = model.stages(plan)
        (hop,) = model.hops(plan)
        steps = (first.us, hop.crossing.us, second.us, hop.result.us)
        for part, us in zip(parts.values(), steps, strict=True):
            part.append(us / 1000)
        errors[0].append((first.us - first.low_us + second.us - second.low_us) / 1000)
        errors[1].append((first.high_us - first.us + second.high_us - second.us) / 1000)
    figure = Figure(figsize=(12, 6.5), layout="constrained")
    axes = figure.subplots()
    bottom = [0.0] * len(cuts)
    labels = (
        f"head on {model.nodes[0].name}",
        f"link ({model.links[0].transport})",
        f"tail on {model.nodes[1].name}",
        "result's way back",
    )
    for colour, values in zip(_COLOURS, parts.values(), strict=False):
        bars = axes.bar(cuts, values, 0.85, bottom=bottom, color=colour)
        for bar, good in zip(bars, fits, strict=True):
            bar.set_alpha(1.0 if good else 0.25)
        bottom = [a + b for a, b in zip(bottom, values, strict=True)]
    axes.errorbar(cuts, bottom, errors, fmt="none", ecolor="#333333", elinewidth=0.8)
    chosen = best.plan.cuts[0]
    axes.annotate(
        f"best: {names[model.positions[chosen]]}\n{bottom[chosen - 1]:,.0f} ms",
        (chosen, bottom[chosen - 1]),
        xytext=(0.5, 0.82),
        textcoords="axes fraction",
        ha="center",
        arrowprops={"arrowstyle": "->"},
    )
    axes.set_xticks(cuts, [names[model.positions[c]][-26:] for c in cuts], rotation=90, fontsize=6)
    axes.set_xlabel("cut after")
    axes.set_ylabel("latency (ms), modelled")
    axes.set_xlim(0, count - 1)
    axes.set_ylim(0, 1.2 * max(t + e for t, e in zip(bottom, errors[1], strict=True)))
    handles = [Patch(color=c, label=text) for c, text in zip(_COLOURS, labels, strict=False)]
    handles.append(Patch(color="#999999", alpha=0.3, label="does not fit"))
    axes.legend(handles=handles, frameon=False, ncols=5, loc="upper center")
    axes.spines[["top", "right"]].set_visible(False)
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=120)


def plot_plans(plans: Sequence[Mapping[str, Any]], path: Path) -> None:
    """The best plans of a longer chain as stacked bars.

    Raises:
        OutputError: `path` cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 1.2 + 0.5 * len(plans)), layout="constrained")
    axes = figure.subplots()
    for row, plan in enumerate(plans):
        left = 0.0
        for number, stage in enumerate(plan["stages"]):
            steps = [(stage["compute_us"], _COLOURS[number % 6], stage["node"])]
            if number < len(plan["hops"]):
                steps.append((plan["hops"][number]["link_us"], "#999999", "link"))
            for us, colour, label in steps:
                shown = label if row == 0 and (label != "link" or number == 0) else None
                axes.barh(row, us / 1000, left=left, color=colour, label=shown)
                left += us / 1000
    axes.set_yticks(range(len(plans)), [" / ".join(p["layers"])[-60:] for p in plans], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("time until the result is made (ms), modelled")
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    axes.spines[["top", "right"]].set_visible(False)
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=120)
