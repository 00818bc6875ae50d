"""The command `tinysplit plan`."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import click

from partitioner import bundle as bundles
from partitioner import codec, kernels
from partitioner.catalogue import Catalogue
from partitioner.command import (
    Bytes,
    Command,
    Steps,
    existing,
    model_options,
    require_picture,
    verbose_option,
    wide_console,
)
from partitioner.cost import codecs, compute, wifi
from partitioner.cost import profile as profiles
from partitioner.cost.links import TRANSPORTS, Link, LinkError
from partitioner.cost.operators import shapes
from partitioner.cost.wifi import RateError
from partitioner.graph import Graph
from partitioner.output import whole_file
from partitioner.plan import report, spec
from partitioner.plan.exact import Solution, pareto, ranked
from partitioner.plan.model import DAY_S, KNOWN_NODES, NodeError, NodeProfile, SplitModel, named
from partitioner.plan.problem import Criterion, PlanError
from partitioner.plan.spec import SpecError
from partitioner.source import Request, Source, open_source, realistic

OBJECTIVES = ("latency", "energy", "throughput", "lifetime")
RESTS = {"idle": "cpu_idle_clocks_on", "light": "light_sleep", "deep": "deep_sleep"}


@click.command(cls=Command)
@model_options
@click.option("--nodes", type=click.IntRange(1, 64), help="How many esp32s3.  [default: 2]")
@click.option(
    "--node", "kinds", multiple=True, metavar="KIND[:KEY=VALUE...]",
    help=f"A node of the chain, in order, instead of --nodes: {', '.join(KNOWN_NODES)}; with "
    f"{', '.join(spec.NODE_KEYS)}, as in esp32s3:ram=200k:battery=3700.",
)  # fmt: skip
@click.option(
    "--transport", "transports", multiple=True, metavar="NAME",
    help=f"{', '.join(TRANSPORTS)}: once for all hops, or for each in order.  [default: espnow]",
)  # fmt: skip
@click.option(
    "--hop", "hops", multiple=True, metavar="HOP",
    help="Instead of --transport, what a hop may choose from, as in "
    "espnow:rate=1M/24M,ble:interval=15:codec=0; once for all, or for each in order. Settings: "
    f"{', '.join(spec.HOP_KEYS)}.",
)  # fmt: skip
@click.option("--espnow-version", default="1", show_default=True, metavar="1|2|any")
@click.option(
    "--espnow-rate", default=wifi.DEFAULT_RATE, show_default=True, metavar="RATE",
    help=f"{', '.join(wifi.RATES)}; several by /, or any. The model knows no range: a fast rate "
    "is for boards that are near.",
)  # fmt: skip
@click.option("--ble-interval", default="7.5", show_default=True, metavar="MS")
@click.option("--loss", default="0", show_default=True, help="Share of frames lost, each way.")
@click.option(
    "--codec", default=spec.ANY, show_default=True, metavar="raw|1|any",
    help="Boundaries raw, coded (1), or by what is best at each hop.",
)  # fmt: skip
@click.option(
    "--objective", "objectives", multiple=True, type=click.Choice(OBJECTIVES),
    help="latency: input to result. energy: of all nodes, above rest. throughput: the slowest "
    "step. lifetime: the battery that is emptied first. Several: their Pareto front.  "
    "[default: latency]",
)  # fmt: skip
@click.option("--ram", type=Bytes(), metavar="BYTES", help="Internal RAM for an arena, each node.")
@click.option("--psram", type=Bytes(), metavar="BYTES", help="PSRAM for an arena, each node.")
@click.option("--slot", type=Bytes(), metavar="BYTES", help="Flash for an image, each node.")
@click.option("--battery", type=float, metavar="MWH", help="Capacity, each board.")
@click.option("--per-day", type=float, metavar="N", help="Inferences a day: energy and life.")
@click.option(
    "--rest", type=click.Choice(list(RESTS)), default="idle", show_default=True,
    help="What boards do between inferences.",
)  # fmt: skip
@click.option("--max-payload", type=Bytes(), metavar="BYTES", help="Largest boundary, coded.")
@click.option("--leave-out", is_flag=True, help="Nodes may be left out; hops then pass them by.")
@click.option(
    "--input", "inputs", multiple=True, type=int, metavar="N",
    help="A node that may hold the input, from 0; repeat it.  [default: all]",
)  # fmt: skip
@click.option(
    "--output", "outputs", multiple=True, type=int, metavar="N",
    help="A node that may make the result; repeat it.  [default: all]",
)  # fmt: skip
@click.option(
    "--calibration-file", type=existing(), metavar="FILE",
    help="Made by `tinysplit calibrate` from your own board's profile.",
)  # fmt: skip
@click.option("--count", type=click.IntRange(1, 100), default=5, show_default=True)
@click.option("--why", is_flag=True, help="With two nodes: why cuts do not fit.")
@click.option("--sources", is_flag=True, help="What the model is made of, and its errors.")
@click.option("--plot", "plot_path", type=click.Path(path_type=Path), help="A picture.")
@click.option("--dark", is_flag=True, help="With --plot: for a dark page.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="The plans as data.")
@verbose_option()
def main(**options: Any) -> None:
    """Where to cut a network for a chain of nodes: the best plan under the model, and why.

    \b
      tinysplit plan --transport espnow --nodes 2
      tinysplit plan --size 224 --weights random --node esp32s3-psram --node host --transport udp
      tinysplit plan --nodes 3 --hop espnow:rate=any --hop ble,udp --objective throughput
      tinysplit plan --objective latency --objective energy --plot front.png
    """
    if options["plot_path"] is not None:
        require_picture(options["plot_path"])
    if options["kinds"] and options["nodes"] is not None:
        raise click.UsageError("give either --nodes or --node, not both")
    per_day = options["per_day"]
    if per_day is not None and not (math.isfinite(per_day) and per_day > 0):
        raise click.UsageError("--per-day is a number above 0")
    try:
        nodes = _profiles(options)
        links = _links(options, len(nodes) - 1)
    except (NodeError, LinkError, SpecError, RateError) as error:
        raise click.UsageError(str(error)) from error
    if options["why"] and len(nodes) != 2:
        raise click.UsageError("--why looks at the cuts of a chain of two nodes")
    objectives = options["objectives"] or ("latency",)
    if "lifetime" in objectives and not any(profile.battery_mwh for profile in nodes):
        raise click.UsageError("--objective lifetime needs a battery: --battery, or with --node")
    request = Request(**{f.name: options[f.name] for f in fields(Request) if f.name in options})
    with Steps() as steps:
        source = open_source(request, steps)
        coded, notes = _coded(source, request, links, steps)
        if notes and not all(any(coded.known(link.codec) for link in one) for one in links):
            raise PlanError(f"coded sizes cannot be measured: {notes[0]}")
        links = [[link for link in one if coded.known(link.codec)] for one in links]
        steps("plan")
        names = _names(Catalogue(source.graph, source.layers))
        try:
            model = SplitModel(source.graph, nodes, links, coded, **_rules(options, len(nodes)))
            problem = model.problem(max_payload=options["max_payload"])
        except PlanError as error:  # A chain that the network is too short for.
            raise click.UsageError(str(error)) from error
        criteria = [_criterion(model, name, per_day) for name in dict.fromkeys(objectives)]
        failure: PlanError | None = None
        solutions: list[Solution] = []
        try:
            if len(criteria) > 1:
                solutions = pareto(problem, criteria)
            else:
                solutions = ranked(problem, criteria[0], options["count"])
        except PlanError as error:
            failure = error
    for note in notes:
        click.echo(f"boundaries are planned raw, coded sizes cannot be measured: {note}", err=True)
    console = wide_console()
    plans = [report.describe(model, s.plan, names, per_day) for s in solutions]
    if plans:
        _print_plans(console, model, plans, criteria, per_day)
        if source.layers is None:
            console.print("cuts are named after tensors: a .tflite has no layers", soft_wrap=True)
    if options["why"]:
        for name, broken in report.infeasible(model, problem, criteria[0], names):
            console.print(f"{name}: " + "; ".join(str(v) for v in broken), soft_wrap=True)
    if options["sources"]:
        _print_sources(console, coded)
    if options["json_path"] is not None and plans:
        content = {"objective": list(objectives), "plans": plans}
        with whole_file(options["json_path"]) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    path, dark = options["plot_path"], options["dark"]
    if path is not None and len(criteria) == 2 and solutions:
        report.plot_front(plans, [s.costs for s in solutions], criteria, path, dark=dark)
    elif path is not None and len(nodes) == 2 and not options["leave_out"]:
        best = solutions[0] if solutions else None
        report.plot_cuts(model, problem, criteria[0], names, best, path, dark=dark)
    elif path is not None and plans:
        report.plot_plans(plans, path, dark=dark)
    if failure is not None:
        raise failure


def _print_plans(
    console: Any,
    model: SplitModel,
    plans: list[dict[str, Any]],
    criteria: list[Criterion],
    per_day: float | None,
) -> None:
    rows = report.table(plans)
    wide_console(rows).print(rows)
    if len(criteria) > 1:
        among = f"the Pareto front of {' and '.join(one.name for one in criteria)}, whole"
    else:
        among = f"the best {len(plans)} of all plans by {criteria[0].name}, exact"
    console.print(
        f"\n{among} under the model; {len(model.nodes)} nodes. All figures are modelled; `between` "
        "is the band of the compute model (--sources).",
        soft_wrap=True,
    )
    if per_day is not None or any(profile.battery_mwh for profile in model.nodes):
        energy = report.node_table(plans[0])
        console.print()
        wide_console(energy).print(energy)
        console.print("\nof the first plan; energy above rest, modelled", soft_wrap=True)
    if per_day is not None and plans[0]["period_us"] > DAY_S * 1e6 / per_day:
        most = DAY_S * 1e6 / plans[0]["period_us"]
        console.print(f"{per_day:,.0f} a day are more than it can: {most:,.0f}", soft_wrap=True)


@click.command(cls=Command)
@click.argument("profile", type=existing())
@click.argument("bundle", type=existing())
@click.option("--stage", type=click.IntRange(0, 253), default=0, show_default=True)
@click.option(
    "--output", type=click.Path(path_type=Path), default=Path("calibration.json"),
    show_default=True, metavar="FILE",
)  # fmt: skip
@verbose_option()
def calibrate(profile: Path, bundle: Path, stage: int, output: Path, verbose: bool) -> None:
    """Fit the compute model to the per-operator PROFILE of a board that ran a stage of BUNDLE.

    PROFILE is a board's answer to the command `profile`, after an inference that was timed:

    \b
      tinysplit cmd serial:/dev/ttyACM0 profile on=true
      tinysplit cmd serial:/dev/ttyACM0 run input=selftest
      tinysplit cmd serial:/dev/ttyACM0 profile > profile.json

    (`run` is for heads; other stages time whatever their head begins.) The file made of it is for
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
    for text in kinds:
        profile = spec.parse_node(text)
        if fitted is not None:
            profile = replace(profile, model=fitted)
        kind, *settings = text.split(":")
        given = {setting.partition("=")[0] for setting in settings}
        if kind != "host":
            own = {"ram": "internal_bytes", "psram": "psram_bytes", "flash": "slot_bytes",
                   "battery": "battery_mwh"}  # fmt: skip
            all_nodes = {"ram": "ram", "psram": "psram", "flash": "slot", "battery": "battery"}
            changes = {
                own[key]: options[name]
                for key, name in all_nodes.items()
                if options[name] is not None and key not in given
            }
            profile = replace(profile, **changes)
            power = profile.power.resting_in(RESTS[options["rest"]])
            profile = replace(profile, power=power)
        found.append(profile)
    return named(found)


def _links(options: dict[str, Any], hops: int) -> list[list[Link]]:
    given = options["hops"] or options["transports"] or ("espnow",)
    if options["hops"] and options["transports"]:
        raise click.UsageError("give either --transport or --hop, not both")
    if len(given) not in (1, hops):
        what = "--hop" if options["hops"] else "--transport"
        raise click.UsageError(f"{what} is given {len(given)} times, and there are {hops} hops")
    defaults = {
        "version": options["espnow_version"],
        "rate": options["espnow_rate"],
        "interval": options["ble_interval"],
        "loss": options["loss"],
        "codec": options["codec"],
    }
    texts = given * hops if len(given) == 1 else given
    return [list(spec.parse_hop(text, defaults)) for text in texts]


def _rules(options: dict[str, Any], nodes: int) -> dict[str, Any]:
    """Who may hold the input and make the output, and whether nodes may be left out."""
    found: dict[str, Any] = {"every_node": not options["leave_out"]}
    for option, rule in (("inputs", "may_begin"), ("outputs", "may_end")):
        given = options[option]
        if not all(0 <= node < nodes for node in given):
            raise click.UsageError(f"--{option[:-1]}: nodes are 0 to {nodes - 1}")
        if given:
            found[rule] = [node in given for node in range(nodes)]
    return found


def _coded(
    source: Source, request: Request, links: list[list[Link]], steps: Steps
) -> tuple[codecs.CodedSizes, list[str]]:
    """Sizes of coded boundaries if they are needed; notes say why there are none."""
    notes: list[str] = []
    if not any(link.codec for options in links for link in options):
        return codecs.CodedSizes(), notes
    steps("coded sizes")
    samples = realistic(source, request, codecs.SAMPLES, notes)
    return codecs.measure(source.graph, kernels.exact(), samples), notes


def _criterion(model: SplitModel, name: str, per_day: float | None) -> Criterion:
    if name == "lifetime":
        return model.drain(per_day)
    chosen = {"latency": model.latency, "energy": model.energy, "throughput": model.period}
    return chosen[name]()


def _names(catalogue: Catalogue) -> dict[int, str]:
    """Position of a cut to the name a person would cut at."""
    return {cut.position: catalogue.short_name(cut) for cut in catalogue.graph.cuts}


def _print_sources(console: Any, coded: codecs.CodedSizes) -> None:
    model = compute.esp32s3()
    ratios = ", ".join(f"{ratio:.2f}" for ratio in sorted(model.ratios))
    lines = [
        "\ncompute: instructions per operator counted on an emulated ESP32-S3 (emulated), times "
        f"{model.cycles_per_instruction:.2f} cycles each, which Espressif's published kernel "
        f"ticks give ({ratios}; measured by them); weights from flash and tensors in PSRAM "
        "beyond the cache at the memories' peak rates"
    ]
    lines += [
        f"  {one.path.value}: {one.operators} operators, each predicted from the others "
        f"within {one.mean:.1%} on average, {one.worst:.1%} at worst"
        for one in compute.leave_one_out(compute.counted())
    ]
    counts = Counter(shape.path for shape, _ in compute.counted())
    once = ", ".join(path.value for path, count in counts.items() if count == 1)
    lines += [
        f"  counted once, so without such an error: {once}; all others are priced by published "
        "ticks or by analogy, with bands of a factor of 1.5 and 3",
        *(
            f"  published: {shape.path.value}, {'x'.join(map(str, shape.input))} to "
            f"{'x'.join(map(str, shape.output))}: predicted from the other kernels {error:+.0%}"
            for shape, error in compute.kernel_errors()
        ),
    ]
    lines += [
        "memory: TensorFlow Lite Micro's arena with ESP-NN's scratch by formula, within 0.1 % of "
        "four arenas read on the emulated board; internal RAM is what the application found free "
        "there (emulated) without its radios' buffers (ESP-IDF's defaults)",
        "links: ESP-NOW from IEEE 802.11-2016 timing (goodput within 15 % of Espressif's in a "
        "shielded box, frame times within 5 % of ns-3's); BLE from the Core Specification 5.4; UDP "
        "and TCP from Espressif's published goodput and the paper's one-way time, good to a "
        "factor of two at best; hops of a chain do not compete for the air",
    ]
    if coded.samples:
        times = codecs.times()
        lines.append(
            f"codec: sizes are means over {coded.samples} inputs, by the coder's own probabilities "
            "within 1 % of its code; making 1,000 bytes of code takes "
            f"{codecs.encode_us(1000, codec.RANGE) / 1000:.1f} ms and reading them "
            f"{codecs.decode_us(1000, codec.RANGE) / 1000:.1f} ms, from instructions counted on an "
            "emulated core (emulated), each tensor predicted from the others "
            f"within {times.mean_error:.0%} on average, {times.worst_error:.0%} at worst"
        )
    lines.append(
        "energy: currents of the ESP32-S3 datasheet at 3.3 V, the chip without its board "
        "(partitioner/cost/data); Bluetooth transmits at Wi-Fi's current, which is too much"
    )
    for line in lines:
        console.print(line, soft_wrap=True)
