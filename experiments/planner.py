"""How good and how fast planning is, beside the paper's methods: writes planner.md.

    .venv/bin/python experiments/planner.py [planner.yaml] [--output planner.md]

Costs are modelled, planning times measured: the median of repeated runs in this process, on
whatever machine this is. It fails if any method finds a plan cheaper than the exact one, and, the
tables written, if exact planning took longer than the file allows.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

from host.document import Document, DocumentError, text_of
from models.errors import TinysplitError
from partitioner import kernels
from partitioner.command import Command, Steps, existing, verbose_option
from partitioner.cost import codecs
from partitioner.output import whole_file
from partitioner.plan import comparators, spec
from partitioner.plan.exact import Solution, best
from partitioner.plan.model import SplitModel, named
from partitioner.plan.problem import Criterion, PlanError, Problem
from partitioner.source import Request, Source, open_source, realistic

HERE = Path(__file__).parent
_PAPER_MS = 100

Method = Callable[[Problem, Criterion], Solution | None]


class ComparisonError(TinysplitError):
    """Exact planning was beaten, or was too slow."""


def read(path: Path) -> dict[str, Any]:
    """The comparison in a YAML file, defaults filled in.

    Raises:
        DocumentError: unreadable, or not what planner.schema.json describes; unknown keys are
            named, with the nearest known one.
    """
    schema = json.loads(HERE.joinpath("planner.schema.json").read_text("utf-8"))
    try:
        document = Document(text_of(path), schema)
    except DocumentError as error:
        raise DocumentError(f"{path}: {error}") from error
    content = document.content
    for number, case in enumerate(content["cases"]):
        if case["network"] not in content["networks"]:
            known = ", ".join(content["networks"])
            error = document.error(("cases", number, "network"), f"is none of {known}")
            raise DocumentError(f"{path}: {error}")
    for text in content["bounds_ms"]:
        if not text.isdecimal():
            raise DocumentError(f"{path}: {document.error(('bounds_ms', text), 'devices')}")
    return content


def _request(network: dict[str, Any]) -> Request:
    """Built-in networks have random weights unless the file names others."""
    default = {} if Path(network["model"]).suffix else {"weights": "random"}
    return Request(**{**default, **network})


def methods(content: dict[str, Any]) -> dict[str, Method]:
    """The methods asked for, in their order."""
    known: dict[str, Method] = {
        "exact": best,
        "brute force": comparators.brute_force,
        "beam search": partial(comparators.beam_search, width=content["beam_width"]),
        "greedy": comparators.greedy,
        "first fit": comparators.first_fit,
        "random fit": comparators.random_fit,
    }
    return {name: known[name] for name in content["methods"]}


def measure(
    method: Method, model: SplitModel, objective: str, runs: int
) -> tuple[Solution | None, float]:
    """What a method finds, and the median of its times in ms, the problem set up anew each time."""
    found, times = None, []
    for _ in range(runs):
        problem, criterion = _posed(model, objective)  # Nothing cached between runs.
        started = time.perf_counter()
        try:
            found = method(problem, criterion)
        except PlanError:
            found = None
        times.append((time.perf_counter() - started) * 1e3)
    return found, statistics.median(times)


def _posed(model: SplitModel, objective: str) -> tuple[Problem, Criterion]:
    chosen = {"latency": model.latency, "energy": model.energy, "throughput": model.period}
    return model.problem(), chosen[objective]()


def compare(
    content: dict[str, Any], case: dict[str, Any], source: Source, coded: codecs.CodedSizes
) -> tuple[list[str], list[str]]:
    """One case's table, as lines of Markdown, and where exact planning was slower than allowed.

    Raises:
        ComparisonError: exact planning was beaten.
    """
    slow = []
    links = spec.parse_hop(case["hop"])
    wanted = methods(content)
    lines = [
        "",
        f"## {case['network']}, {case['objective']}, {case['hop']}",
        "",
        "| devices | plans | costs ms | " + " | ".join(wanted) + " |",
        "|---|---|---|" + "---|" * len(wanted),
    ]
    for count in sorted({*content["devices"], *content["larger"]}):
        nodes = named([spec.parse_node(content["node"])] * count)
        model = SplitModel(source.graph, nodes, [links] * (count - 1), coded)
        started = time.perf_counter()
        problem, criterion = _posed(model, case["objective"])
        costs_ms = (time.perf_counter() - started) * 1e3
        plans = comparators.plans_to_try(problem)
        optimum = best(problem, criterion).costs[0]
        cells = []
        for name, method in wanted.items():
            enumerates = name == "brute force"
            if (enumerates and plans > content["brute_force_plans"]) or (
                name != "exact" and count not in content["devices"]
            ):
                cells.append("")
                continue
            runs = 1 if enumerates else content["runs"]
            found, ms = measure(method, model, case["objective"], runs)
            ratio = None if found is None else found.costs[0] / optimum
            cells.append(f"{'none' if ratio is None else f'{ratio:.3f}'} / {ms:,.2f}")
            if ratio is not None and ratio < 1 - 1e-9:
                raise ComparisonError(f"{name} beats exact planning: {case}, {count} devices")
            if enumerates and (ratio is None or ratio > 1 + 1e-9):
                raise ComparisonError(f"brute force misses the plan: {case}, {count} devices")
            bound = content["bounds_ms"].get(str(count))
            if name == "exact" and bound is not None and ms > bound:
                slow.append(
                    f"exact planning for {count} devices took {ms:.1f} ms, allowed are {bound:g}: "
                    f"{case['network']}, {case['objective']}, {case['hop']}"
                )
        shown = f"{plans:,}" if plans < 1e12 else f"{plans:.0e}"
        lines.append(f"| {count} | {shown} | {costs_ms:,.1f} | " + " | ".join(cells) + " |")
    return lines, slow


@click.command(cls=Command)
@click.argument("file", type=existing(folder=False), default=HERE / "planner.yaml")
@click.option("--output", type=click.Path(path_type=Path), default=HERE / "planner.md")
@verbose_option()
def main(file: Path, output: Path, verbose: bool) -> None:
    """Compare planning methods as FILE says, and write the tables."""
    content = read(file)
    for case in content["cases"]:
        spec.parse_hop(case["hop"])
    spec.parse_node(content["node"])
    lines = [
        "# Planning",
        "",
        "`.venv/bin/python experiments/planner.py` from [planner.yaml](planner.yaml): chains of "
        f"equal boards (`{content['node']}`), every one used. Each cell: cost relative to the "
        f"optimum (modelled) / planning time in ms (measured, median of {content['runs']} runs; "
        "brute force one). `costs` is how long it took to fill the matrices that all methods share "
        "(measured). Brute force looks at every plan, where there are no more than "
        f"{content['brute_force_plans']:,.0f}. The paper's beam search takes {_PAPER_MS} ms for 5 "
        "devices (measured by its authors, on their machine).",
    ]
    slow: list[str] = []
    sources: dict[str, tuple[Source, codecs.CodedSizes]] = {}
    with Steps() as steps:
        for case in content["cases"]:
            name = case["network"]
            if name not in sources:
                request = _request(content["networks"][name])
                source = open_source(request, steps)
                steps("coded sizes")
                samples = realistic(source, request, codecs.SAMPLES, [])
                sources[name] = source, codecs.measure(source.graph, kernels.exact(), samples)
            steps(f"{name}, {case['objective']}")
            rows, missed = compare(content, case, *sources[name])
            lines, slow = lines + rows, slow + missed
    with whole_file(output) as temporary:
        temporary.write_text("\n".join(lines) + "\n", "utf-8")
    click.echo(f"wrote {output}")
    if slow:
        raise ComparisonError("; ".join(slow))


if __name__ == "__main__":
    main()
