"""The command `tinysplit`."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from host import link_run
from host import run as split_run
from host.boards import address, control
from host.boards.address import TRANSPORTS
from host.boards.virtual.settings import Flash
from host.link.impairment import Impairment
from host.report import contact_sheet, link_table
from host.run import Inference
from host.testbed import Options, Testbed
from models.images import ImageSet
from partitioner import bundle as bundles
from partitioner import evaluate, kernels
from partitioner.bundle import Bundle, InexactError
from partitioner.command import Command, require_picture, verbose_option, wide_console

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
@click.option(
    "--transport",
    type=click.Choice(["none", *TRANSPORTS]),
    default="none",
    show_default=True,
    help="none: in this process. Others: on virtual boards, each a process of its own.",
)
@click.option(
    "--tail",
    type=click.Choice(["board", "host"]),
    default="board",
    show_default=True,
    help="With a transport: where the last stage runs.",
)
@click.option("--ipv6", is_flag=True, help="With a transport: over ::1 instead of 127.0.0.1.")
@click.option("--loss", type=float, default=0.0, help="Share of datagrams lost, each way.")
@click.option("--delay", type=float, default=0.0, metavar="MS", help="Delay of each way.")
@click.option("--jitter", type=float, default=0.0, metavar="MS", help="Added at random, at most.")
@click.option("--reorder", type=float, default=0.0, help="Share of datagrams overtaken by others.")
@click.option("--corrupt", type=float, default=0.0, help="Share of packets with bits flipped.")
@click.option("--duplicate", type=float, default=0.0, help="Share of datagrams that come twice.")
@click.option("--rate", type=int, default=0, metavar="BPS", help="Bottleneck in bits per second.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the bad network.")
@click.option("--att-mtu", type=click.IntRange(23, 517), help="BLE: largest ATT_MTU.  [517]")
@click.option(
    "--timeout",
    type=click.FloatRange(0.001, 600),
    default=10.0,
    show_default=True,
    metavar="S",
    help="With a transport: how long an inference may take.",
)
@verbose_option()
def run(
    bundle: Path,
    image_source: str,
    count: int,
    resize: bool,
    kernel_choice: str,
    save_figure: Path | None,
    transport: str,
    tail: str,
    ipv6: bool,
    timeout: float,
    att_mtu: int | None,
    verbose: bool,
    **network: Any,
) -> None:
    """Classify real images with the stages of BUNDLE, and compare with the uncut model."""
    if save_figure is not None:
        require_picture(save_figure)
    if transport == "none" and (tail != "board" or ipv6 or any(network.values())):
        raise click.UsageError("--tail, --ipv6 and what spoils the network need --transport")
    if transport != "none" and save_figure is not None:
        raise click.UsageError("--save-figure draws runs in this process: leave out --transport")
    if transport != "none" and kernel_choice == "fast":
        raise click.UsageError("virtual boards run the device's kernels: leave out --kernels fast")
    if att_mtu is not None and transport != "ble":
        raise click.UsageError("--att-mtu needs --transport ble")
    opened = bundles.read(bundle)
    image_set = evaluate.held_out(
        image_source, opened.manifest, resize=resize, count=count, seed=_SEED
    )
    chosen = kernels.by_name(kernel_choice)
    if transport != "none":
        options = Options(
            transport=transport,
            tail=tail,
            family=6 if ipv6 else 4,
            impairment=Impairment(
                loss=network["loss"],
                delay_ms=network["delay"],
                jitter_ms=network["jitter"],
                reorder=network["reorder"],
                corrupt=network["corrupt"],
                duplicate=network["duplicate"],
                rate_bps=network["rate"],
                seed=network["seed"],
            ),
            timeout_ms=round(timeout * 1000),
            radio={} if att_mtu is None else {"att_mtu": att_mtu},
        )
        _run_over_link(opened, bundle, image_set, options)
        return
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
        names = tuple(str(i) for i in range(math.prod(opened.manifest.outputs[0].shape)))
    rows = _table(opened, inferences, names, image_set.labels)
    console = wide_console(rows)
    for number, boundary in enumerate(opened.manifest.boundaries):
        console.print(f"boundary {number}: after {boundary.layer}")
    console.print(rows)
    summary = _summary(opened, inferences, chosen, image_set.labels)
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


def _run_over_link(opened: Bundle, folder: Path, image_set: ImageSet, options: Options) -> None:
    console = wide_console()
    progress = Console(stderr=True)
    if options.transport == "tcp":
        options.impairment.check_stream()
    with Testbed(opened, folder, options) as testbed:
        inferences = list(
            track(
                link_run.run(testbed, opened, image_set),
                description=f"inference over {options.transport}",
                total=len(image_set),
                console=progress,
                transient=True,
                disable=not progress.is_terminal,
            )
        )
        stats, tallies = testbed.stats(), testbed.tallies()
        air = testbed.air_report(stats)
    for line in link_table.lines(opened, inferences, options, stats, tallies, air):
        console.print(line)
    wrong = [i.name for i in inferences if not i.exact]
    if wrong:
        raise InexactError(f"results differ from the uncut model: {', '.join(wrong[:5])}")


@main.command(cls=Command)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--stage", type=click.IntRange(0, 253), required=True, help="Which stage it runs.")
@click.option(
    "--listen",
    default="udp://127.0.0.1:0",
    show_default=True,
    metavar="ADDRESS",
    help="Where the stage before it connects: udp:// or tcp://, port 0 for any; or its radio's "
    "address, espnow:// or ble://, with --air.",
)
@click.option("--next", "following", metavar="ADDRESS", help="Where the next stage listens.")
@click.option("--air", help="With a radio: where the air is, as its host says.")
@click.option("--att-mtu", type=click.IntRange(23, 517), help="BLE: largest ATT_MTU.  [517]")
@click.option("--name", default="board", show_default=True)
@click.option("--mtu", type=click.IntRange(0, 16384), default=0, help="Longest frame; 0: usual.")
@click.option("--window", type=click.IntRange(0, 64), default=0, help="Fragments in flight.")
@click.option("--timeout-ms", type=click.IntRange(1, 600_000), default=10_000, show_default=True)
@click.option(
    "--flash",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File that stands for the flash; keeps what `configure` sets.",
)
@click.option("--pty", is_flag=True, help="Be controlled over a pseudo-terminal, named at start.")
@verbose_option()
def board(
    bundle: Path,
    stage: int,
    listen: str,
    following: str | None,
    flash: Path | None,
    pty: bool,
    verbose: bool,
    **settings: Any,
) -> None:
    """Be a virtual board: the firmware's C core on real sockets, controlled by lines of JSON.

    Commands come on standard input, answers go to standard output; the board ends with its
    input. host/boards/control.schema.json documents them.
    """
    from host.boards.virtual import board as virtual  # Needs the compiled core.

    address.parse(listen)
    if following is not None:
        address.parse(following)
    given = {name: value for name, value in settings.items() if value is not None}
    defaults = {"stage": stage, "listen": listen, **given}
    if following is not None:
        defaults["next"] = following
    control.check_settings(defaults)
    read_fd, write_fd = 0, 1
    if pty:
        read_fd = write_fd = open_pty()
    virtual.serve(bundle, Flash(flash), defaults, read_fd, write_fd)


def open_pty() -> int:
    """A pseudo-terminal in raw mode; its name is printed. Returns the board's end."""
    import pty
    import tty

    own, other = pty.openpty()
    tty.setraw(other)
    click.echo(os.ttyname(other), err=True)
    return own


def _table(
    opened: Bundle, inferences: list[Inference], names: Sequence[str], labels: Sequence[str | None]
) -> Table:
    manifest = opened.manifest
    out = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("image", "true", "predicted"):
        out.add_column(heading)
    for number in range(len(manifest.boundaries)):
        out.add_column(f"boundary {number}\nbytes", justify="right")
    for number in range(len(manifest.stages)):
        out.add_column(f"stage {number}\nms", justify="right")
    out.add_column("equals\nuncut")
    for one, label in zip(inferences, labels, strict=True):
        right = one.truth is None or one.truth == one.predicted
        out.add_row(
            one.name,
            label or "?",
            Text(names[one.predicted], style="green" if right else "red"),
            *(f"{sum(t.nbytes for t in message):,}" for message in one.boundaries),
            *(f"{us / 1000:.2f}" for us in one.stage_us),
            "yes" if one.differing_values == 0 else f"{one.differing_values} differ",
        )
    return out


def _summary(
    opened: Bundle,
    inferences: list[Inference],
    chosen: kernels.Kernels,
    labels: Sequence[str | None],
) -> list[str]:
    known = [i for i in inferences if i.truth is not None]
    lines = []
    if known:
        right = sum(i.truth == i.predicted for i in known)
        lines.append(f"{right} of {len(known)} images right")
    elif unknown := sorted({label for label in labels if label is not None}):
        shown = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        lines.append(f"no accuracy: the classes {shown} are not the network's")
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
