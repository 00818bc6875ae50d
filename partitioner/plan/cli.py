"""The command `tinysplit plan`."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import click

from partitioner import bundle as bundles
from partitioner.catalogue import Catalogue
from partitioner.command import (
    Bytes,
    Command,
    FiniteRange,
    Steps,
    model_options,
    require_picture,
    verbose_option,
    wide_console,
)
from partitioner.cost import compute, wifi
from partitioner.cost import profile as profiles
from partitioner.cost.links import TRANSPORTS, Link
from partitioner.cost.operators import shapes
from partitioner.graph import Graph
from partitioner.output import whole_file
from partitioner.plan import report
from partitioner.plan.exact import Solution, ranked
from partitioner.plan.model import KNOWN_NODES, NodeProfile, SplitModel, named, node
from partitioner.plan.problem import Criterion, PlanError, cost_of
from partitioner.source import Request, open_source

OBJECTIVES = ("latency", "energy", "throughput", "lifetime")
_SHARE = FiniteRange(0, 1, max_open=True)


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@model_options
@click.option("--nodes", type=click.IntRange(1, 64), help="How many esp32s3.  [default: 2]")
@click.option(
    "--node",
    "kinds",
    multiple=True,
    metavar="KIND",
    help=f"A node of the chain, in order, instead of --nodes: {', '.join(KNOWN_NODES)}.",
)
@click.option(
    "--transport", type=click.Choice(TRANSPORTS), default="espnow", show_default=True,
    help="Between each node and the next.",
)  # fmt: skip
@click.option("--espnow-version", type=click.Choice(["1", "2"]), default="1", show_default=True)
@click.option(
    "--espnow-rate", type=click.Choice(list(wifi.RATES)), default=wifi.DEFAULT_RATE,
    show_default=True,
)  # fmt: skip
@click.option("--ble-interval", type=float, default=7.5, show_default=True, metavar="MS")
@click.option("--loss", type=_SHARE, default=0.0, help="Share of frames lost, each way.")
@click.option(
    "--objective", type=click.Choice(OBJECTIVES), default="latency", show_default=True,
    help="latency: input to result. energy: of all nodes, above idle. throughput: the slowest "
    "step. lifetime: the battery that is emptied first (--battery).",
)  # fmt: skip
@click.option("--ram", type=Bytes(), metavar="BYTES", help="Internal RAM for an arena, each node.")
@click.option("--psram", type=Bytes(), metavar="BYTES", help="PSRAM for an arena, each node.")
@click.option("--slot", type=Bytes(), metavar="BYTES", help="Flash for an image, each node.")
@click.option("--battery", type=float, metavar="MWH", help="Capacity, each board.")
@click.option("--max-payload", type=Bytes(), metavar="BYTES", help="Largest boundary.")
@click.option(
    "--calibration-file", type=click.Path(path_type=Path), metavar="FILE",
    help="Made by `tinysplit calibrate` from your own board's profile.",
)  # fmt: skip
@click.option("--count", type=click.IntRange(1, 100), default=5, show_default=True)
@click.option("--why", is_flag=True, help="With two nodes: why cuts do not fit.")
@click.option("--sources", is_flag=True, help="What the model is made of, and its errors.")
@click.option("--plot", "plot_path", type=click.Path(path_type=Path), help="A picture.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="The plans as data.")
@verbose_option()
def main(**options: Any) -> None:
    """Where to cut a network for a chain of nodes: the best plan under the model, and why.

    \b
      tinysplit plan --transport espnow --nodes 2
      tinysplit plan --size 224 --weights random --node esp32s3-psram --node host --transport udp
      tinysplit plan --objective throughput --nodes 4 --plot plan.png
    """
    if options["plot_path"] is not None:
        require_picture(options["plot_path"])
    if options["kinds"] and options["nodes"] is not None:
        raise click.UsageError("give either --nodes or --node, not both")
    nodes = _profiles(options)
    if options["why"] and len(nodes) != 2:
        raise click.UsageError("--why looks at the cuts of a chain of two nodes")
    link = Link(
        transport=options["transport"],
        loss=options["loss"],
        version=int(options["espnow_version"]),
        rate=options["espnow_rate"],
        interval_ms=options["ble_interval"],
    )
    request = Request(**{f.name: options[f.name] for f in fields(Request) if f.name in options})
    with Steps() as steps:
        source = open_source(request, steps)
        steps("plan")
        names = _names(Catalogue(source.graph, source.layers))
        model = SplitModel(source.graph, nodes, [link] * (len(nodes) - 1))
    problem = model.problem(max_payload=options["max_payload"])
    criterion = _criterion(model, options)
    console = wide_console()
    failure: PlanError | None = None
    solutions: list[Solution] = []
    try:
        solutions = ranked(problem, criterion, options["count"])
    except PlanError as error:
        failure = error
    energy = model.energy()
    plans = [report.describe(model, s.plan, names, cost_of(s.plan, energy)) for s in solutions]
    if plans:
        rows = report.table(plans)
        wide_console(rows).print(rows)
        console.print(
            f"\nthe best {min(len(plans), options['count'])} of all plans by {criterion.name}, "
            f"exact under the model; {link.transport}, {len(nodes)} nodes. All figures are "
            "modelled; `between` is the band of the compute model (--sources).",
            soft_wrap=True,
        )
    if options["why"]:
        for name, broken in report.infeasible(model, problem, names):
            console.print(f"{name}: " + "; ".join(str(v) for v in broken), soft_wrap=True)
    if options["sources"]:
        _print_sources(console)
    if options["json_path"] is not None and plans:
        content = {"objective": options["objective"], "plans": plans}
        with whole_file(options["json_path"]) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    if failure is not None:
        raise failure
    if options["plot_path"] is not None:
        if len(nodes) == 2:
            report.plot_cuts(model, problem, names, solutions[0], options["plot_path"])
        else:
            report.plot_plans(plans, options["plot_path"])


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("profile", type=click.Path(path_type=Path))
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--stage", type=click.IntRange(0, 253), default=0, show_default=True)
@click.option(
    "--output", type=click.Path(path_type=Path), default=Path("calibration.json"),
    show_default=True, metavar="FILE",
)  # fmt: skip
@verbose_option()
def calibrate(profile: Path, bundle: Path, stage: int, output: Path, verbose: bool) -> None:
    """Fit the compute model to the per-operator PROFILE of a board that ran a stage of BUNDLE.

    PROFILE is a board's answer to the command `profile`. The file made of it is for
    `tinysplit plan --calibration-file`.
    """
    opened = bundles.read(bundle)
    if stage >= len(opened.stages):
        raise click.UsageError(f"--stage: the bundle has stages 0 to {len(opened.stages) - 1}")
    rows = profiles.read_profile(profile, shapes(Graph(opened.stages[stage])))
    before, after = compute.esp32s3(), compute.esp32s3().refitted(rows)
    profiles.write(after, output)
    took = sum(cycles for _, cycles in rows)
    for label, model in (("as published", before), ("fitted", after)):
        guess = compute.total(model.cycles(shape) for shape, _ in rows).middle
        click.echo(f"{label}: {guess / took - 1:+.1%} off the stage's measured time")
    for one in compute.leave_one_out(rows):
        click.echo(
            f"  {one.path.value}: {one.operators} operators, each from the others within "
            f"{one.mean:.1%} on average, {one.worst:.1%} at worst"
        )
    click.echo(f"wrote {output}")


def _profiles(options: dict[str, Any]) -> list[NodeProfile]:
    kinds = options["kinds"] or ("esp32s3",) * (options["nodes"] or 2)
    path = options["calibration_file"]
    fitted = None if path is None else profiles.read(path)
    found = []
    for kind in kinds:
        profile = node(kind)
        if fitted is not None:
            profile = replace(profile, model=fitted)
        if kind != "host":
            changes = {
                "internal_bytes": options["ram"],
                "psram_bytes": options["psram"],
                "slot_bytes": options["slot"],
                "battery_mwh": options["battery"],
            }
            profile = replace(profile, **{k: v for k, v in changes.items() if v is not None})
        found.append(profile)
    return named(found)


def _criterion(model: SplitModel, options: dict[str, Any]) -> Criterion:
    if options["objective"] == "lifetime":
        if not any(profile.battery_mwh for profile in model.nodes):
            raise click.UsageError("--objective lifetime needs --battery")
        return model.drain()
    chosen = {"latency": model.latency, "energy": model.energy, "throughput": model.period}
    return chosen[options["objective"]]()


def _names(catalogue: Catalogue) -> dict[int, str]:
    """Position of a cut to the name a person would cut at."""
    return {cut.position: catalogue.short_name(cut) for cut in catalogue.graph.cuts}


def _print_sources(console: Any) -> None:
    model = compute.esp32s3()
    ratios = ", ".join(f"{ratio:.2f}" for ratio in sorted(model.ratios))
    console.print(
        "\ncompute: instructions per operator counted on an emulated ESP32-S3 (emulated), times "
        f"{model.cycles_per_instruction:.2f} cycles each, which Espressif's published kernel "
        f"ticks give ({ratios}; measured by them); weights from flash and tensors in PSRAM "
        "beyond the cache at the memories' peak rates",
        soft_wrap=True,
    )
    for one in compute.leave_one_out(compute.counted()):
        console.print(
            f"  {one.path.value}: {one.operators} operators, each predicted from the others "
            f"within {one.mean:.1%} on average, {one.worst:.1%} at worst",
            soft_wrap=True,
        )
    console.print(
        "links: ESP-NOW from IEEE 802.11-2016 timing; BLE from the Core Specification 5.4; UDP and "
        "TCP from Espressif's published goodput and the paper's one-way time\n"
        "energy: currents of the ESP32-S3 datasheet at 3.3 V (partitioner/cost/data)",
        soft_wrap=True,
    )
