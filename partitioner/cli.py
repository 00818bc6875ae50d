"""The command `partition`."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from partitioner import bundle, evaluate, kernels, listing
from partitioner.bundle import Bundle
from partitioner.catalogue import DEFAULT_RAM_BYTES, Catalogue
from partitioner.codec import NAMES as CODECS
from partitioner.command import (
    ARENA,
    Bytes,
    Command,
    Steps,
    model_options,
    require_picture,
    size,
    verbose_option,
    wide_console,
)
from partitioner.cost import codecs
from partitioner.cost.links import Link
from partitioner.output import refuse_existing
from partitioner.plan import exact, model
from partitioner.source import SEED, Request, Source, open_source, realistic

AUTOMATIC = "auto"
_REAL_INPUTS = bundle.VERIFY_INPUTS // 2


@click.command(cls=Command)
@click.option("--list", "list_layers", is_flag=True, help="List every layer and every legal cut.")
@click.option(
    "--layer",
    "layer_names",
    multiple=True,
    metavar="NAME",
    help="Cut after this layer and write a bundle; repeat it for a chain of stages. auto: what "
    "`tinysplit plan` finds best for two boards.",
)
@model_options
@click.option(
    "--evaluate",
    "evaluate_on",
    metavar="digits|DIR|none",
    help="Held-out images to report accuracy on.  [default: digits with --weights digits]",
)
@click.option(
    "--evaluate-images", default=200, show_default=True, type=click.IntRange(1), metavar="N"
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="DIR", help="The bundle's folder."
)
@click.option("--force", is_flag=True, help="Replace an existing bundle.")
@click.option(
    "--ram",
    "ram_bytes",
    type=Bytes(),
    metavar="BYTES",
    help="With --list: what the head's arena should fit in; with --layer auto: each board's.  "
    "[default: 300k; auto: as tinysplit plan]",
)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="With --list: as JSON.")
@click.option(
    "--plot", "plot_path", type=click.Path(path_type=Path), help="With --list: a picture."
)
@verbose_option()
def main(list_layers: bool, layer_names: tuple[str, ...], verbose: bool, **options: Any) -> None:
    """Quantize a network to int8, list where it can be cut, or cut it.

    A cut network is written as a bundle, and only if its stages equal the uncut model byte
    for byte on TensorFlow Lite Micro's kernels.

    \b
      partition --list
      partition --layer block_16_project_BN
      partition --layer block_5_add --layer block_13_project_BN
    """
    if list_layers == bool(layer_names):
        raise click.UsageError("give either --list or --layer NAME")
    for name in ("json_path", "plot_path"):
        if options[name] is not None and not list_layers:
            raise click.UsageError(f"--{name[:4]} goes with --list")
    wanted = {field.name for field in fields(Request)}
    chosen = {key: value for key, value in options.items() if key in wanted}
    checked = () if layer_names == (AUTOMATIC,) else layer_names
    request = Request(**chosen, layer_names=checked)
    if list_layers:
        _list(
            request,
            options["ram_bytes"] or DEFAULT_RAM_BYTES,
            options["json_path"],
            options["plot_path"],
        )
    else:
        _cut(request, layer_names, options)


def _list(request: Request, ram_bytes: int, json_path: Path | None, plot_path: Path | None) -> None:
    if plot_path is not None:
        require_picture(plot_path)
    with Steps() as steps:
        source = open_source(request, steps)
        catalogue = Catalogue(source.graph, source.layers)
        steps("arena of every head and tail")
        costs = catalogue.costs(steps.detail)
        content = listing.as_json(catalogue, costs, ram_bytes, source.name)
        if json_path is not None:
            listing.write_json(content, json_path)
        if plot_path is not None:
            steps("plot")
            listing.plot(content, plot_path)
    terminal = wide_console()
    width = terminal.width if terminal.is_terminal else None
    rows = listing.table(catalogue, costs, ram_bytes, width)
    console = wide_console(rows)
    console.print(rows)
    single = sum(len(cut.tensors) == 1 for cut in source.graph.cuts)
    console.print(
        f"\n{source.name}: {len(source.graph.operators)} operators, "
        f"{source.graph.macs() / 1e6:.2f} M MACs, {len(source.graph.cuts)} legal cuts "
        f"({single} with one tensor, {len(source.graph.cuts) - single} with more)"
    )
    if kernels.available():
        console.print(
            f"arena: as {kernels.exact().name} reports on x86-64; pointers are half as wide on a "
            "board, and ESP-NN adds scratch"
        )
    else:
        console.print("arena: not known, tflite-micro has no wheel for this machine")
    for path in filter(None, (json_path, plot_path)):
        console.print(f"wrote {path}")


def _cut(request: Request, layer_names: tuple[str, ...], options: dict[str, Any]) -> None:
    output: Path | None = options["output"]
    if output is not None:
        refuse_existing(output, force=options["force"])
    with Steps() as steps:
        source = open_source(request, steps)
        steps("cuts")
        catalogue = Catalogue(source.graph, source.layers)
        notes: list[str] = []
        if layer_names == (AUTOMATIC,):
            layer_names = _automatic(source, request, catalogue, options["ram_bytes"], notes)
        cuts = catalogue.chain(layer_names)
        reasons: list[str] = []
        if output is None:
            output = Path("build") / _folder_name(source.name, [name for name, _ in cuts])
            refuse_existing(output, force=options["force"])
        built = bundle.build(
            source.graph,
            cuts,
            model=source.identity,
            calibration=source.calibration.record() if source.calibration else None,
            realistic=realistic(source, request, _REAL_INPUTS, reasons),
            report=steps,
        )
        held_out_source = options["evaluate_on"]
        if held_out_source is None:
            held_out_source = "digits" if source.identity["weights"] == "digits" else "none"
        if held_out_source != "none":
            steps("accuracy")
            calibrated = source.calibration.image_set if source.calibration else None
            wanted = options["evaluate_images"]
            held_out = evaluate.held_out(
                held_out_source,
                built.manifest,
                resize=request.resize,
                count=wanted + (len(calibrated) if calibrated else 0),
                seed=SEED,
            )
            if calibrated is not None:
                held_out = held_out.without(calibrated)
            if len(held_out) == 0:
                raise evaluate.EvaluateError(
                    f"every image of {held_out_source} was used for calibration; accuracy needs "
                    "others: give another folder or fewer --calibration-images"
                )
            scores = evaluate.accuracy(
                built, held_out.first(wanted), source.keras_model, steps.detail
            )
            built = replace(built, manifest=replace(built.manifest, accuracy=scores))
        steps("write")
        built.write(output, force=options["force"])
    notes += [f"verified on noise only, {reason}" for reason in reasons]
    for note in notes:
        click.echo(note, err=True)
    _report(built, output)


def _automatic(
    source: Source, request: Request, catalogue: Catalogue, ram_bytes: int | None, notes: list[str]
) -> tuple[str, ...]:
    """The cut with the least latency on two ESP32-S3 boards over ESP-NOW, by the cost model."""
    board = model.KNOWN_NODES["esp32s3"]
    boards = [replace(board, internal_bytes=ram_bytes or board.internal_bytes)] * 2
    coded = codecs.measure(
        source.graph, kernels.exact(), realistic(source, request, codecs.SAMPLES, [])
    )
    links = [Link(codec=codec) for codec in CODECS if coded.known(codec)]
    split = model.SplitModel(source.graph, model.named(boards), [links], coded)
    solution = exact.best(split.problem(), split.latency())
    position = split.positions[solution.plan.cuts[0]]
    named = [row.name for row in catalogue.rows if row.cut and row.cut.position == position]
    name = named[0] if named else f"#{position - 1}"
    notes.append(
        f"--layer auto is {name}: {solution.costs[0] / 1e3:,.0f} ms (modelled) on two ESP32-S3 "
        "over ESP-NOW; tinysplit plan knows more"
    )
    return (name,)


def _report(built: Bundle, output: Path) -> None:
    manifest = built.manifest
    rows = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("stage", "operators", "MACs", "flash", ARENA, "sends"):
        rows.add_column(heading, justify="left" if heading in ("stage", "sends") else "right")
    for number, stage in enumerate(manifest.stages):
        sends = "the result"
        if number < len(manifest.boundaries):
            boundary = manifest.boundaries[number]
            shapes = " + ".join("x".join(map(str, t.shape[1:])) for t in boundary.tensors)
            sends = f"{boundary.payload_bytes:,} bytes ({shapes}) after {boundary.layer}"
        rows.add_row(
            f"{number}",
            str(len(stage.operators)),
            f"{stage.macs / 1e6:.2f} M",
            size(stage.flash_bytes),
            size(stage.arena_bytes),
            sends,
        )
    console = wide_console(rows)
    console.print(rows)
    if manifest.accuracy is not None:
        scores = manifest.accuracy
        in_float = "" if scores["float"] is None else f"float {scores['float']:.2%}, "
        console.print(
            f"accuracy on {scores['images']} held-out images ({scores['source']}): {in_float}"
            f"int8 {scores['int8']:.2%}, split {scores['split']:.2%}"
            + (" (random weights)" if manifest.model["weights"] == "random" else "")
        )
    checked = manifest.verification
    console.print(
        f"verified: {checked['images']} images and {checked['noise']} noise inputs, "
        f"{checked['compared_bytes']:,} bytes compared on {checked['kernels']}, none differs"
    )
    console.print(f"bundle {manifest.id[:16]} in {output}")


def _folder_name(model: str, layers: list[str]) -> str:
    short = "+".join(name.split(";")[-1] for name in layers)
    return re.sub(r"[^A-Za-z0-9._+#-]", "_", f"{model}-{short}")[:200]


if __name__ == "__main__":
    main()
