"""`tinysplit board`: be a board."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from host.boards import address, control
from host.boards.address import RADIOS, Address
from host.boards.control import ControlError
from host.boards.emulated.options import emulator_option
from host.boards.emulated.process import LOOPBACK, free_port
from host.boards.virtual.settings import Flash
from host.commands.options import att_mtu_option, espnow_options
from host.commands.values import FrameSize, LinkAddress
from host.mqtt import access
from host.mqtt.access import AccessError
from host.packing.keys import load_public
from models.errors import TinysplitError
from partitioner import kernels
from partitioner.command import Command, existing, verbose_option

if TYPE_CHECKING:
    from host.boards.virtual.holding import Holding


class BoardCommand(Command):
    """Its help ends with the commands that a board takes."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        described = [
            (name, control.schema()["$defs"][name]["description"].partition(". ")[0].rstrip("."))
            for name in control.COMMANDS
        ]
        with formatter.section('Control commands, as {"id": 1, "cmd": "info"}'):
            formatter.write_dl(described)


@click.command(cls=BoardCommand)
@click.argument("bundle", type=existing(), required=False)
@click.option("--virtual", is_flag=True, help="The C core on this machine's sockets (default).")
@click.option(
    "--qemu",
    "build",
    type=existing(),
    metavar="BUILD_DIR",
    help="The firmware of an ESP-IDF build in an ESP32-S3 emulator; --listen is forwarded to it.",
)
@emulator_option
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
@espnow_options
@click.option(
    "--espnow-peers", metavar="ADDRESS,...", help="Who may call, where packets are encrypted."
)
@att_mtu_option
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
    where = click.get_current_context().get_parameter_source("qemu_bin")
    if build is None and where is ParameterSource.COMMANDLINE:
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
        from host.boards.virtual import bridge  # Needs the compiled core.

        bridge.serve(defaults, _open_pty())
        return
    if bundle is None or stage is None:
        raise click.UsageError("a stage needs a BUNDLE and --stage; a bridge --role bridge")
    defaults["stage"] = stage
    if following is not None:
        defaults["next"] = following
    if build is None:
        held = _holding(bundle, stage, flash, public_key)
        _serve_virtual(held, flash, defaults, pty, announce)
        return
    virtual_only = public_key, settings["air"]
    if any(given is not None for given in virtual_only) or settings["window"] or announce:
        raise click.UsageError("--public-key, --air, --window, --announce go with virtual boards")
    from host.boards.emulated import console

    place = _forwarded(place)
    read_fd, write_fd = _wire(pty)
    console.serve(
        bundle,
        stage,
        build,
        qemu_bin,
        settings={
            **{name: settings[name] for name in ("name", "mtu", "timeout_ms", "codec")},
            **_broker_settings(mqtt, mqtt_login, mqtt_ca),
        },
        listen=place,
        following=target,
        flash_file=flash,
        read_fd=read_fd,
        write_fd=write_fd,
    )


def _serve_virtual(
    held: Holding, flash: Path | None, defaults: dict[str, Any], pty: bool, announce: bool
) -> None:
    from host.boards.virtual import board as program  # Needs the compiled core.

    read_fd, write_fd = _wire(pty)
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


def _forwarded(place: Address) -> Address:
    """Where an emulated board listens; with a port, if none was asked for."""
    if place.transport in RADIOS or place.host != LOOPBACK:
        raise click.UsageError(f"an emulated board listens on udp or tcp at {LOOPBACK}")
    return place if place.port else replace(place, port=free_port())


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


def _wire(pty: bool) -> tuple[int, int]:
    """Where commands come from, and where answers go."""
    if not pty:
        return 0, 1
    end = _open_pty()
    return end, end


def _open_pty() -> int:
    """A pseudo-terminal in raw mode; its name is printed. Returns the board's end.

    The other end stays open here too, so that the board does not end with a client.
    """
    import pty
    import tty

    own, other = pty.openpty()
    tty.setraw(other)
    click.echo(os.ttyname(other), err=True)
    return own
