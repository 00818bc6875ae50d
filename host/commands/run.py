"""`tinysplit run`: one split inference after another, in this process or over a link."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.progress import track

from host import link_run, local_run
from host.boards import kinds
from host.boards.address import RADIOS, TRANSPORTS
from host.boards.emulated.options import emulator_option
from host.commands.options import (
    att_mtu_option,
    espnow_options,
    espnow_radio,
    impairment,
    spoiling_options,
)
from host.commands.values import NodeKind
from host.mqtt import access
from host.mqtt.options import broker_options
from host.report import contact_sheet, link_table, run_table
from host.testbed import Options, Testbed, TestbedError
from models.images import ImageSet
from partitioner import bundle as bundles
from partitioner import evaluate, kernels
from partitioner.bundle import Bundle, InexactError
from partitioner.command import (
    Command,
    FiniteRange,
    existing,
    require_picture,
    verbose_option,
    wide_console,
)

T = TypeVar("T")

_SEED = 0


@click.command(cls=Command)
@click.argument("bundle", type=existing())
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
    "--head",
    type=NodeKind(),
    default="board",
    metavar="NODE",
    help="With a transport: what stage 0 runs on: board (a virtual one, the default), "
    "serial:PORT[@BAUD] or mqtt:NODE (one that is there), or qemu:BUILD_DIR (an emulated one).",
)
@click.option(
    "--relay",
    "relays",
    type=NodeKind(),
    multiple=True,
    metavar="NODE",
    help="The same for the stages between; once for each, in order.",
)
@click.option(
    "--tail",
    type=NodeKind(host=True),
    default="board",
    metavar="NODE",
    help="The same for the last stage, which may also be: host (this process).",
)
@click.option(
    "--bridge",
    type=NodeKind(),
    metavar="serial:PORT",
    help="The bridge whose ESP-NOW radio --tail host uses; not needed with virtual boards.",
)
@emulator_option
@click.option("--ipv6", is_flag=True, help="With a transport: over ::1 instead of 127.0.0.1.")
@spoiling_options
@espnow_options
@click.option("--pmk-file", type=existing(), help="ESP-NOW's primary master key.")
@click.option(
    "--lmk-file",
    type=existing(),
    help="ESP-NOW's local master key; encrypts. Or TINYSPLIT_ESPNOW_LMK and _PMK.",
)
@att_mtu_option
@click.option(
    "--codec",
    type=click.Choice(["raw", "auto", "1"]),
    default="raw",
    show_default=True,
    help="With a transport: boundaries as they are; compressed, without loss, on each link whose "
    "ends both can; or on every link.",
)
@click.option(
    "--timeout",
    type=FiniteRange(0.001, 600),
    default=10.0,
    show_default=True,
    metavar="S",
    help="With a transport: how long an inference may take.",
)
@broker_options
@verbose_option()
def run(
    bundle: Path,
    image_source: str,
    count: int,
    resize: bool,
    kernel_choice: str,
    save_figure: Path | None,
    transport: str,
    head: kinds.Kind,
    relays: tuple[kinds.Kind, ...],
    tail: kinds.Kind,
    bridge: kinds.Kind | None,
    qemu_bin: Path | None,
    ipv6: bool,
    timeout: float,
    espnow_version: str | None,
    espnow_rate: str | None,
    channel: int | None,
    pmk_file: Path | None,
    lmk_file: Path | None,
    att_mtu: int | None,
    codec: str,
    broker: str | None,
    login: Path | None,
    ca: Path | None,
    verbose: bool,
    **network: Any,
) -> None:
    """Classify real images with the stages of BUNDLE, and compare with the uncut model."""
    if save_figure is not None:
        require_picture(save_figure)
    named = any(kind != kinds.Virtual() for kind in (head, *relays, tail))
    if transport == "none" and (named or relays or bridge or ipv6 or any(network.values())):
        raise click.UsageError(
            "--head, --relay, --tail, --bridge, --ipv6 and what spoils the network need --transport"
        )
    if transport == "none" and codec != "raw":
        raise click.UsageError("--codec needs --transport: in this process nothing travels")
    if transport != "none" and save_figure is not None:
        raise click.UsageError("--save-figure draws runs in this process: leave out --transport")
    if transport != "none" and kernel_choice == "fast":
        raise click.UsageError("boards run the device's kernels: leave out --kernels fast")
    radio = espnow_radio(transport, espnow_version, espnow_rate, channel, pmk_file, lmk_file)
    if ipv6 and transport in RADIOS:
        raise click.UsageError(f"--ipv6 is for udp and tcp, not for {transport}")
    if att_mtu is not None:
        if transport != "ble":
            raise click.UsageError("--att-mtu needs --transport ble")
        radio["att_mtu"] = att_mtu
    spoilt = impairment(transport, network)
    opened = bundles.read(bundle)
    image_set = evaluate.held_out(
        image_source, opened.manifest, resize=resize, count=count, seed=_SEED
    )
    if transport != "none":
        between = len(opened.stages) - 2
        if relays and len(relays) != between:
            raise click.UsageError(
                f"--relay is given {link_table.counted(len(relays), 'time')} for "
                f"{link_table.counted(between, 'stage')} between head and tail"
            )
        if bridge is not None and not isinstance(bridge, kinds.OnSerial):
            raise click.UsageError("a bridge is on a serial port: --bridge serial:PORT")
        nodes = [head, *(relays or [kinds.Virtual()] * between), tail]
        options = Options(
            transport=transport,
            tail="host" if isinstance(tail, kinds.Host) else "board",
            family=6 if ipv6 else 4,
            impairment=spoilt,
            timeout_ms=round(timeout * 1000),
            boards={
                stage: replace(kind, qemu=qemu_bin) if isinstance(kind, kinds.Emulated) else kind
                for stage, kind in enumerate(nodes)
                if isinstance(kind, kinds.OnSerial | kinds.OnMqtt | kinds.Emulated)
            },
            on_text=_print_text if verbose else None,
            radio=radio,
            bridge=bridge,
            codec=codec,
            broker=access.find(broker, login, ca),
        )
        try:
            options.check(len(opened.stages))
        except TestbedError as error:
            raise click.UsageError(str(error)) from error
        _over_link(opened, bundle, image_set, options)
    else:
        _in_process(opened, image_set, kernel_choice, save_figure)


def _print_text(board: str, line: str) -> None:
    click.echo(f"{board}: {line}", err=True)


def _followed(running: Iterator[T], what: str, total: int) -> list[T]:
    """All that comes, with a bar meanwhile where somebody sees it."""
    progress = Console(stderr=True)
    hidden = not progress.is_terminal
    return list(track(running, what, total, console=progress, transient=True, disable=hidden))


def _in_process(
    opened: Bundle, image_set: ImageSet, kernel_choice: str, figure: Path | None
) -> None:
    chosen = kernels.by_name(kernel_choice)
    running = local_run.run(opened, image_set, chosen)
    inferences = _followed(running, "inference", len(image_set))
    names = evaluate.class_names(image_set, opened.manifest)
    if names is None:
        names = tuple(str(i) for i in range(math.prod(opened.manifest.outputs[0].shape)))
    rows = run_table.table(opened, inferences, names, image_set.labels)
    console = wide_console(rows)
    for number, boundary in enumerate(opened.manifest.boundaries):
        console.print(f"boundary {number}: after {boundary.layer}")
    console.print(rows)
    summary = run_table.summary(opened, inferences, chosen, image_set.labels)
    for line in summary:
        console.print(line)
    if figure is not None:
        contact_sheet.save(figure, opened.manifest, image_set, inferences, names, summary[-1])
        console.print(f"wrote {figure}")
    differing = sum(i.differing_values for i in inferences)
    if differing and kernel_choice == "exact":
        raise InexactError(
            f"{differing} values differ from the uncut model on the same kernels; "
            "make the bundle again on this machine, and report it if that does not help"
        )


def _over_link(opened: Bundle, folder: Path, image_set: ImageSet, options: Options) -> None:
    console = wide_console()
    with Testbed(opened, folder, options) as testbed:
        before = testbed.stats()
        running = link_run.run(testbed, opened, image_set)
        inferences = _followed(running, f"inference over {options.transport}", len(image_set))
        stats, tallies = testbed.stats(), testbed.tallies()
        air = testbed.air_report(stats)
        testbed.require_codec(stats)
    coded = link_table.coded_bytes(opened, before, stats)
    for line in link_table.lines(
        opened, inferences, options, stats, tallies, air, testbed.nodes, coded
    ):
        console.print(line)
    wrong = [i.name for i in inferences if not i.exact]
    if wrong:
        raise InexactError(f"results differ from the uncut model: {', '.join(wrong[:5])}")
