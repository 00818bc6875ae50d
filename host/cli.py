"""The command `tinysplit`."""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import statistics
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import click
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from host import link_run
from host import run as split_run
from host.background import Background
from host.boards import address, control, kinds
from host.boards.address import RADIOS, TRANSPORTS
from host.boards.control import ControlError
from host.boards.discovery.found import Search
from host.boards.virtual.espnow import LMK_VARIABLE, read_key
from host.boards.virtual.radios import create_air
from host.boards.virtual.settings import Flash
from host.link.frames import MAX_MTU, MIN_MTU
from host.link.impairment import Impairment, ImpairmentError
from host.mqtt import access
from host.mqtt.access import AccessError
from host.mqtt.options import broker_options
from host.packing.keys import load_public
from host.report import boards_table, contact_sheet, link_table
from host.run import Inference
from host.testbed import Options, Testbed, TestbedError
from models.errors import TinysplitError
from models.images import ImageSet
from partitioner import bundle as bundles
from partitioner import evaluate, kernels
from partitioner.bundle import Bundle, InexactError
from partitioner.command import (
    Command,
    FiniteRange,
    Group,
    existing,
    require_picture,
    verbose_option,
    wide_console,
)
from partitioner.cost.wifi import DEFAULT_RATE, RATES

if TYPE_CHECKING:
    from host.boards.virtual.holding import Holding

_SEED = 0


_QEMU_HELP = "The emulator, if it is not the qemu-system-xtensa on PATH."


class NodeKind(click.ParamType):  # type: ignore[type-arg]  # Generic from click 8.4 on.
    """What a stage runs on: `host.boards.kinds`."""

    name = "node"

    def __init__(self, *, host: bool = False) -> None:
        self._host = host

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> kinds.Kind:
        if not isinstance(value, str):
            chosen: kinds.Kind = value
            return chosen
        try:
            chosen = kinds.parse(value)
        except kinds.KindError as error:
            self.fail(str(error), param, ctx)
        if isinstance(chosen, kinds.Host) and not self._host:
            self.fail("only the last stage can run on the host", param, ctx)
        return chosen


class LinkAddress(click.ParamType):  # type: ignore[type-arg]
    """An address of a link, as text: `host.boards.address`."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            address.parse(str(value))
        except address.AddressError as error:
            self.fail(str(error), param, ctx)
        return str(value)


class FrameSize(click.ParamType):  # type: ignore[type-arg]
    """The longest frame of a link, or 0 for the transport's own."""

    name = "bytes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            size = int(value)
        except ValueError:
            size = -1
        if size != 0 and not MIN_MTU <= size <= MAX_MTU:
            self.fail(f"{value} is not 0 (the usual) or {MIN_MTU} to {MAX_MTU}", param, ctx)
        return size


def _espnow_options(command: Any) -> Any:
    """The options of `run` and `board` that an ESP-NOW radio has."""
    for option in (
        click.option("--channel", type=click.IntRange(1, 14), help="ESP-NOW's Wi-Fi channel."),
        click.option(
            "--espnow-rate",
            type=click.Choice(list(RATES)),
            help=f"ESP-NOW's PHY rate.  [default: {DEFAULT_RATE}]",
        ),
        click.option(
            "--espnow-version",
            type=click.Choice(["1", "2"]),
            help="ESP-NOW: frames of 250 or of 1,470 bytes.  [default: 1]",
        ),
    ):
        command = option(command)
    return command


class Commands(Group):
    """Those of this file, and some that are imported when they are called: boards start sooner."""

    elsewhere: ClassVar = {
        "bench": "host.bench.cli:bench",
        "broker": "host.broker.cli:broker",
        "calibrate": "partitioner.plan.cli:calibrate",
        "cmd": "host.mqtt.cli:cmd",
        "flash": "host.flash.cli:flash",
        "gateway": "host.gateway.cli:gateway",
        "monitor": "host.mqtt.monitor:monitor",
        "live": "host.bench.cli:follow",
        "keys": "host.packing.cli:keys",
        "ota": "host.ota.cli:ota",
        "pack": "host.packing.cli:pack",
        "plan": "partitioner.plan.cli:main",
        "report": "host.report.cli:main",
        "sim": "host.sim.cli:main",
    }

    # For the list of commands, which needs none of them imported then.
    briefly: ClassVar = {
        "bench": "Run an experiment; run again, it goes on.",
        "broker": "The MQTT broker of a fleet.",
        "calibrate": "Fit the compute model to a board's profile.",
        "cmd": "Have a board carry out a command.",
        "flash": "Write firmware, settings and a stage by wire.",
        "gateway": "The tail as a service for many heads.",
        "keys": "The key pair that images are signed with.",
        "live": "Follow a sweep in this terminal.",
        "monitor": "How the boards at a broker are, live.",
        "ota": "Move running boards to another bundle.",
        "pack": "Pack a bundle's stages as images for boards.",
        "plan": "Where to cut a network for a chain of nodes.",
        "report": "One HTML page of what `bench` has left.",
        "sim": "Simulate scenarios, and check what must hold.",
    }

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = []
        for name in self.list_commands(ctx):
            command = None if name in self.briefly else self.get_command(ctx, name)
            brief = self.briefly[name] if command is None else command.get_short_help_str(60)
            rows.append((name, brief))
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *self.elsewhere])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.elsewhere:
            return super().get_command(ctx, cmd_name)
        module, name = self.elsewhere[cmd_name].split(":")
        found: click.Command = getattr(importlib.import_module(module), name)
        return found


@click.group(cls=Commands)
@click.version_option(package_name="tinysplit")
def main() -> None:
    """Run and measure split inference."""


@main.command(cls=Command)
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
@click.option("--qemu-bin", type=existing(), help=_QEMU_HELP)
@click.option("--ipv6", is_flag=True, help="With a transport: over ::1 instead of 127.0.0.1.")
@click.option("--loss", type=float, default=0.0, help="Share of datagrams lost, each way.")
@click.option("--delay", type=float, default=0.0, metavar="MS", help="Delay of each way.")
@click.option("--jitter", type=float, default=0.0, metavar="MS", help="Added at random, at most.")
@click.option("--reorder", type=float, default=0.0, help="Share of datagrams overtaken by others.")
@click.option("--corrupt", type=float, default=0.0, help="Share of packets with bits flipped.")
@click.option("--duplicate", type=float, default=0.0, help="Share of datagrams that come twice.")
@click.option("--rate", type=int, default=0, metavar="BPS", help="Bottleneck in bits per second.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the bad network.")
@_espnow_options
@click.option("--pmk-file", type=existing(), help="ESP-NOW's primary master key.")
@click.option(
    "--lmk-file",
    type=existing(),
    help="ESP-NOW's local master key; encrypts. Or TINYSPLIT_ESPNOW_LMK and _PMK.",
)
@click.option("--att-mtu", type=click.IntRange(23, 517), help="BLE: largest ATT_MTU.  [517]")
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
    radio = _espnow_chosen(transport, espnow_version, espnow_rate, channel, pmk_file, lmk_file)
    if ipv6 and transport in RADIOS:
        raise click.UsageError(f"--ipv6 is for udp and tcp, not for {transport}")
    if att_mtu is not None:
        if transport != "ble":
            raise click.UsageError("--att-mtu needs --transport ble")
        radio["att_mtu"] = att_mtu
    impairment = _impairment(transport, network)
    opened = bundles.read(bundle)
    image_set = evaluate.held_out(
        image_source, opened.manifest, resize=resize, count=count, seed=_SEED
    )
    chosen = kernels.by_name(kernel_choice)
    if transport != "none":
        between = len(opened.stages) - 2
        if relays and len(relays) != between:
            raise click.UsageError(f"--relay is given {len(relays)} times for {between} stages")
        if bridge is not None and not isinstance(bridge, kinds.OnSerial):
            raise click.UsageError("a bridge is on a serial port: --bridge serial:PORT")
        nodes = [head, *(relays or [kinds.Virtual()] * between), tail]
        options = Options(
            transport=transport,
            tail="host" if isinstance(tail, kinds.Host) else "board",
            family=6 if ipv6 else 4,
            impairment=impairment,
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


def _impairment(transport: str, network: dict[str, Any]) -> Impairment:
    """What the options say; what makes no sense is wrong usage."""
    try:
        chosen = Impairment(
            loss=network["loss"],
            delay_ms=network["delay"],
            jitter_ms=network["jitter"],
            reorder=network["reorder"],
            corrupt=network["corrupt"],
            duplicate=network["duplicate"],
            rate_bps=network["rate"],
            seed=network["seed"],
        )
        if transport == "tcp":
            chosen.check_stream()
        chosen.check_air(transport)
    except ImpairmentError as error:
        raise click.UsageError(str(error)) from error
    return chosen


def _print_text(board: str, line: str) -> None:
    click.echo(f"{board}: {line}", err=True)


def _espnow_chosen(
    transport: str,
    version: str | None,
    rate: str | None,
    channel: int | None,
    pmk_file: Path | None,
    lmk_file: Path | None,
) -> dict[str, Any]:
    """What the command line says of ESP-NOW, as its air takes it."""
    options = (version, rate, channel, pmk_file, lmk_file)
    if transport != "espnow" and any(option is not None for option in options):
        raise click.UsageError(
            "--espnow-version, --espnow-rate, --channel, --pmk-file and --lmk-file need "
            "--transport espnow"
        )
    if pmk_file is not None and lmk_file is None and LMK_VARIABLE not in os.environ:
        raise click.UsageError("--pmk-file encrypts nothing without an LMK: add --lmk-file")
    given = {
        "espnow_version": None if version is None else int(version),
        "espnow_rate": rate,
        "channel": channel,
        "pmk": None if pmk_file is None else read_key(pmk_file, "PMK"),
        "lmk": None if lmk_file is None else read_key(lmk_file, "LMK"),
    }
    return {name: value for name, value in given.items() if value is not None}


def _run_over_link(opened: Bundle, folder: Path, image_set: ImageSet, options: Options) -> None:
    console = wide_console()
    progress = Console(stderr=True)
    with Testbed(opened, folder, options) as testbed:
        before = testbed.stats()
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
        testbed.require_codec(stats)
    coded = link_table.coded_bytes(opened, before, stats)
    for line in link_table.lines(
        opened, inferences, options, stats, tallies, air, testbed.nodes, coded
    ):
        console.print(line)
    wrong = [i.name for i in inferences if not i.exact]
    if wrong:
        raise InexactError(f"results differ from the uncut model: {', '.join(wrong[:5])}")


class BoardCommand(Command):
    """Its help ends with the commands that a board takes."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        described = [
            (name, control.schema()["$defs"][name]["description"].partition(". ")[0].rstrip("."))
            for name in control.COMMANDS
        ]
        with formatter.section('Control commands, as {"id": 1, "cmd": "info"}'):
            formatter.write_dl(described)


@main.command(cls=BoardCommand)
@click.argument("bundle", type=existing(), required=False)
@click.option("--virtual", is_flag=True, help="The C core on this machine's sockets (default).")
@click.option(
    "--qemu",
    "build",
    type=existing(),
    metavar="BUILD_DIR",
    help="The firmware of an ESP-IDF build in an ESP32-S3 emulator; --listen is forwarded to it.",
)
@click.option("--qemu-bin", type=existing(), help=_QEMU_HELP)
@click.option(
    "--role",
    type=click.Choice(["stage", "bridge"]),
    default="stage",
    show_default=True,
    help="bridge: no stage, but a radio for a host, on a pseudo-terminal.",
)
@click.option("--stage", type=click.IntRange(0, 253), help="Which stage it runs.")
@click.option(
    "--listen",
    type=LinkAddress(),
    default="udp://127.0.0.1:0",
    show_default=True,
    metavar="ADDRESS",
    help="Where the stage before it connects: udp:// or tcp://, port 0 for any; or its radio's "
    "address, espnow:// or ble://, with --air.",
)
@click.option(
    "--next",
    "following",
    type=LinkAddress(),
    metavar="ADDRESS",
    help="Where the next stage listens.",
)
@click.option("--air", help="With a radio: where the air is, as its host says.")
@_espnow_options
@click.option(
    "--espnow-peers", metavar="ADDRESS,...", help="Who may call, where packets are encrypted."
)
@click.option("--att-mtu", type=click.IntRange(23, 517), help="BLE: largest ATT_MTU.  [517]")
@click.option("--name", default="board", show_default=True, help="What it calls itself.")
@click.option("--mtu", type=FrameSize(), default=0, help="Longest frame in bytes; 0: the usual.")
@click.option("--window", type=click.IntRange(0, 64), default=0, help="Fragments in flight.")
@click.option("--timeout-ms", type=click.IntRange(1, 600_000), default=10_000, show_default=True)
@click.option(
    "--codec",
    type=click.Choice(["raw", "auto"]),
    default="raw",
    show_default=True,
    help="auto: boundaries travel compressed, without loss, where the neighbour can, too.",
)
@click.option(
    "--flash",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File that stands for the flash; keeps what `configure` sets, and an image's slots. With "
    "--qemu all of the flash: made new from the build and BUNDLE, else started as it is.",
)
@click.option(
    "--public-key",
    type=existing(folder=False),
    help="With an image: only images signed with its private half are taken.",
)
@click.option("--mqtt", metavar="URL", help="Take commands from a broker, too; needs --name.")
@click.option(
    "--mqtt-login",
    type=existing(),
    help="File of mode 600 with user=NAME and password=...  [TINYSPLIT_MQTT_LOGIN, or "
    "TINYSPLIT_MQTT_USER and TINYSPLIT_MQTT_PASSWORD]",
)
@click.option(
    "--mqtt-ca",
    type=existing(),
    help="Certificate (PEM) that the broker is checked with.  [TINYSPLIT_MQTT_CA]",
)
@click.option("--announce", is_flag=True, help="Be found by mDNS, as real boards are.")
@click.option(
    "--pty",
    is_flag=True,
    help="Be controlled over a pseudo-terminal, named at start, by one client after the other.",
)
@verbose_option()
def board(
    bundle: Path | None,
    virtual: bool,
    build: Path | None,
    qemu_bin: Path | None,
    role: str,
    stage: int | None,
    listen: str,
    following: str | None,
    flash: Path | None,
    public_key: Path | None,
    mqtt: str | None,
    mqtt_login: Path | None,
    mqtt_ca: Path | None,
    announce: bool,
    pty: bool,
    verbose: bool,
    **settings: Any,
) -> None:
    """Be a virtual board: the firmware's C core on real sockets, controlled by lines of JSON.
    Or, with --qemu, an emulated one: the firmware itself.

    BUNDLE may be an image of `tinysplit pack` instead: it is written to a new --flash, and from
    then on the board runs what its slots hold.

    Commands come on standard input, answers go to standard output; the board ends with its
    input. With --pty it stays when a client leaves, as a real board does when a terminal is
    closed: Ctrl-C ends it. host/boards/control.schema.json documents the commands.
    """
    if virtual and build is not None:
        raise click.UsageError("a board is either --virtual or --qemu")
    if build is None and qemu_bin is not None:
        raise click.UsageError("--qemu-bin goes with --qemu")
    place = address.parse(listen)
    target = None if following is None else address.parse(following)
    given = {name: value for name, value in settings.items() if value is not None}
    if "espnow_version" in given:
        given["espnow_version"] = int(given["espnow_version"])
    if "espnow_peers" in given:
        given["espnow_peers"] = given["espnow_peers"].split(",")
    defaults = {"listen": listen, **given, **_broker_settings(mqtt, mqtt_login, mqtt_ca)}
    if mqtt is not None and given["name"] == "board":
        raise click.UsageError("--mqtt needs --name: it is in the board's topics")
    try:
        control.check_settings(defaults)
    except ControlError as error:
        raise click.UsageError(str(error)) from error
    if role == "bridge":
        if any(given is not None for given in (bundle, stage, following, build, flash)):
            raise click.UsageError("a bridge has no bundle, no stage, no flash and no next stage")
        if place.transport not in RADIOS or "air" not in given:
            raise click.UsageError("a bridge needs a radio: --listen espnow://... and --air")
        from host.boards.virtual import bridge

        bridge.serve(defaults, open_pty())
        return
    if bundle is None or stage is None:
        raise click.UsageError("a stage needs a BUNDLE and --stage; a bridge --role bridge")
    defaults["stage"] = stage
    if following is not None:
        defaults["next"] = following
    read_fd, write_fd = 0, 1
    if build is None:
        held = _holding(bundle, stage, flash, public_key)
        from host.boards.virtual import board as program  # Needs the compiled core.

        if pty:
            read_fd = write_fd = open_pty()
        try:
            program.serve(
                held,
                Flash(flash),
                defaults,
                read_fd,
                write_fd,
                announce=announce,
                log=lambda line: click.echo(line, err=True),
            )
        except program.SettingsError as error:
            raise click.UsageError(str(error)) from error
        return
    from host.boards.emulated import console
    from host.boards.emulated.process import LOOPBACK, free_port

    if public_key is not None or settings["air"] is not None or settings["window"] or announce:
        raise click.UsageError(
            "--public-key, --air, --window and --announce go with virtual boards"
        )
    if place.transport in RADIOS or place.host != LOOPBACK:
        raise click.UsageError(f"an emulated board listens on udp or tcp at {LOOPBACK}")
    if place.port == 0:
        place = replace(place, port=free_port())
    if pty:
        read_fd = write_fd = open_pty()
    console.serve(
        bundle,
        stage,
        build,
        qemu_bin,
        name=settings["name"],
        listen=place,
        following=target,
        mtu=settings["mtu"],
        timeout_ms=settings["timeout_ms"],
        codec=settings["codec"],
        flash_file=flash,
        read_fd=read_fd,
        write_fd=write_fd,
    )


def _broker_settings(url: str | None, login: Path | None, ca: Path | None) -> dict[str, str]:
    """The settings of a board that is to be at a broker."""
    if url is None:
        if login is not None or ca is not None:
            raise click.UsageError("--mqtt-login and --mqtt-ca go with --mqtt")
        return {}
    try:
        found = access.need(url, login, ca)
    except AccessError as error:
        raise click.UsageError(str(error)) from error
    settings = {
        "mqtt_url": url,
        "mqtt_user": found.user,
        "mqtt_password": found.password,
        "mqtt_ca": found.ca,
    }
    return {name: value for name, value in settings.items() if value is not None}


def _holding(path: Path, stage: int, flash: Path | None, public_key: Path | None) -> Holding:
    """What a virtual board runs: a bundle's stage, or what its slots hold."""
    from host.boards.virtual import holding  # Needs the compiled core.
    from host.boards.virtual.slots import SlotFlash

    if not path.is_file():
        if public_key is not None and path.exists():
            raise click.UsageError("--public-key goes with an image")
        return holding.BundleHolding(path)
    if flash is None:
        raise click.UsageError("an image needs --flash FILE to be written to")
    key = None if public_key is None else load_public(public_key)
    new = not flash.exists()
    slots = SlotFlash(flash)
    try:
        return holding.from_image(path, slots, key, stage, kernels.exact())
    except TinysplitError:
        if new:  # Nothing half-made stays behind.
            flash.unlink(missing_ok=True)
        raise


@main.command(cls=Command)
@click.option("--port", "ports", multiple=True, help="A serial port to ask besides; repeat it.")
@click.option(
    "--seconds",
    type=FiniteRange(0.5, 60),
    default=3.0,
    show_default=True,
    help="How long to listen on the network and by Bluetooth.",
)
@click.option(
    "--udp-port",
    type=click.IntRange(1, 65535),
    default=4000,
    show_default=True,
    help="Where boards listen that no name service tells of.",
)
@click.option(
    "--way",
    "ways",
    type=click.Choice(("mqtt", "serial", "network", "bluetooth")),
    multiple=True,
    help="Search there only; repeat it.  [everywhere; mqtt if a broker is named]",
)
@broker_options
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@verbose_option()
def boards(
    ports: tuple[str, ...],
    seconds: float,
    udp_port: int,
    ways: tuple[str, ...],
    broker: str | None,
    login: Path | None,
    ca: Path | None,
    as_json: bool,
    verbose: bool,
) -> None:
    """List boards at a broker, on serial ports, on the network and in reach of Bluetooth."""
    from host.boards.discovery import bluetooth, network, usb
    from host.boards.discovery import broker as brokers

    found = (access.need if "mqtt" in ways else access.find)(broker, login, ca)
    tasks: dict[str, Callable[[], Search]] = {
        "serial": lambda: usb.search(ports),
        "network": lambda: network.search(seconds, udp_port),
        "bluetooth": lambda: bluetooth.search(seconds),
    }
    if found is not None:
        asked_for = "mqtt" in ways or broker is not None
        tasks = {"mqtt": lambda: brokers.search(found, seconds, insist=asked_for), **tasks}
    tasks = {way: task for way, task in tasks.items() if not ways or way in ways}
    with ThreadPoolExecutor(len(tasks)) as pool:
        started = {way: pool.submit(task) for way, task in tasks.items() if way != "bluetooth"}
        # macOS wants the main thread for it.
        advertised = [tasks["bluetooth"]()] if "bluetooth" in tasks else []
        searches = [*(one.result() for one in started.values()), *advertised]
    if as_json:
        click.echo(boards_table.as_json(searches))
        return
    rows = boards_table.table(searches)
    console = wide_console(*([] if rows is None else [rows]))
    console.print("no board found" if rows is None else rows)
    for note in boards_table.notes(searches):
        console.print(note)


@main.command(cls=Command)
@click.argument("transport", type=click.Choice(RADIOS))
@click.option("--loss", type=float, default=0.0, help="Share of receptions lost.")
@click.option("--corrupt", type=float, default=0.0, help="ESP-NOW: share with bits flipped.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--controller",
    "controllers",
    multiple=True,
    metavar="NAME",
    help="BLE: be a controller of a host outside, by Bumble's name for it; vhci: of this "
    "machine's kernel. May be repeated.",
)
@verbose_option()
def air(
    transport: str,
    loss: float,
    corrupt: float,
    seed: int,
    controllers: tuple[str, ...],
    verbose: bool,
) -> None:
    """Be the air for virtual boards that are started by hand, until interrupted.

    Prints its place, which boards get as --air.
    """
    try:
        spoilt = Impairment(loss=loss, corrupt=corrupt, seed=seed)
    except ImpairmentError as error:
        raise click.UsageError(str(error)) from error
    if controllers and transport != "ble":
        raise click.UsageError("--controller is for ble")
    with Background(precise=True) as background:
        options = {"stages": 0, "controllers": controllers}
        hosted = background.enter(create_air(transport, spoilt, options))
        click.echo(hosted.place)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
        for line in hosted.report([]):
            click.echo(line)


def open_pty() -> int:
    """A pseudo-terminal in raw mode; its name is printed. Returns the board's end.

    The other end stays open here too, so that the board does not end with a client.
    """
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
