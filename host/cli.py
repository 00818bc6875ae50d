"""The command `tinysplit`."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.progress import track
from rich.table import Table

from host import run as split_run
from host.report import contact_sheet
from host.run import Inference
from partitioner import bundle as bundles
from partitioner import evaluate, kernels
from partitioner.bundle import Bundle, InexactError
from partitioner.command import Command, require_picture_suffix, verbose_option

_SEED = 0


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tinysplit")
def main() -> None:
    """Run and measure split inference."""


@main.command(cls=Command)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--images",
    "image_source",
    default="digits",
    show_default=True,
    metavar="digits|DIR",
    help="Images to classify; a subfolder's name is the class of the images in it.",
)
@click.option(
    "--count", default=10, show_default=True, type=click.IntRange(1), help="How many of them."
)
@click.option("--resize", is_flag=True, help="Scale images of another size instead of refusing.")
@click.option(
    "--kernels",
    "kernel_choice",
    type=click.Choice(["exact", "fast"]),
    default="exact",
    show_default=True,
    help="exact: the device's (TensorFlow Lite Micro). fast: XNNPACK, whose bytes differ.",
)
@click.option("--save-figure", type=click.Path(path_type=Path), help="Draw the run as a picture.")
@verbose_option()
def run(
    bundle: Path,
    image_source: str,
    count: int,
    resize: bool,
    kernel_choice: str,
    save_figure: Path | None,
    verbose: bool,
) -> None:
    """Classify real images with the stages of BUNDLE, and compare with the uncut model."""
    if save_figure is not None:
        require_picture_suffix(save_figure)
    opened = bundles.read(bundle)
    image_set = evaluate.held_out(image_source, opened.manifest, resize=resize)
    image_set = image_set.sample(count, _SEED)
    chosen = kernels.by_name(kernel_choice)
    console = Console(highlight=False, soft_wrap=True)
    progress = Console(stderr=True)
    inferences = list(
        track(
            split_run.run(opened, image_set, chosen),
            description="inference",
            total=len(image_set),
            console=progress,
            transient=True,
            disable=not progress.is_terminal,
        )
    )
    names = evaluate.class_names(image_set, opened.manifest)
    if names is None:
        names = tuple(str(i) for i in range(opened.manifest.outputs[0].shape[-1]))
    console.print(_table(opened, inferences, names))
    summary = _summary(opened, inferences, chosen)
    for line in summary:
        console.print(line)
    if save_figure is not None:
        contact_sheet.save(save_figure, opened.manifest, image_set, inferences, names, summary[-1])
        console.print(f"wrote {save_figure}")
    differing = sum(i.differing_values for i in inferences)
    if differing and kernel_choice == "exact":
        raise InexactError(
            f"{differing} values differ from the uncut model on the same kernels; "
            "make the bundle again on this machine, and report it if that does not help"
        )


def _table(opened: Bundle, inferences: list[Inference], names: Sequence[str]) -> Table:
    manifest = opened.manifest
    out = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("image", "true", "predicted"):
        out.add_column(heading)
    for boundary in manifest.boundaries:
        out.add_column(f"bytes at {boundary.layer.split(';')[-1]}", justify="right")
    for number in range(len(manifest.stages)):
        out.add_column(f"stage {number} (ms)", justify="right")
    out.add_column("equals uncut")
    for one in inferences:
        right = one.truth is None or one.truth == one.predicted
        out.add_row(
            one.name,
            "?" if one.truth is None else names[one.truth],
            f"[{'green' if right else 'red'}]{names[one.predicted]}[/]",
            *(f"{sum(t.nbytes for t in message):,}" for message in one.boundaries),
            *(f"{us / 1000:.2f}" for us in one.stage_us),
            "yes" if one.differing_values == 0 else f"{one.differing_values} differ",
        )
    return out


def _summary(opened: Bundle, inferences: list[Inference], chosen: kernels.Kernels) -> list[str]:
    known = [i for i in inferences if i.truth is not None]
    lines = []
    if known:
        right = sum(i.truth == i.predicted for i in known)
        lines.append(f"{right} of {len(known)} images right")
    medians = [
        statistics.median(i.stage_us[n] for i in inferences) / 1000
        for n in range(len(opened.manifest.stages))
    ]
    times = ", ".join(f"stage {n} {ms:.2f} ms" for n, ms in enumerate(medians))
    lines.append(f"median time, measured on this host with {chosen.name}: {times}")
    compared = sum(i.compared_values for i in inferences)
    differing = sum(i.differing_values for i in inferences)
    if differing == 0:
        lines.append(
            f"all bytes agree: {compared:,} boundary and output values equal the uncut model's"
        )
    else:
        changed = sum(i.predicted != i.exact_predicted for i in inferences)
        lines.append(
            f"{differing:,} of {compared:,} boundary and output values "
            f"({differing / compared:.2%}) differ from the uncut model on exact kernels, "
            f"and {changed} of {len(inferences)} predictions"
        )
    return lines


if __name__ == "__main__":
    main()
