"""`tinysplit air`: what virtual boards with radios share."""

from __future__ import annotations

import contextlib
import threading

import click

from host.background import Background
from host.boards.address import RADIOS
from host.boards.virtual.radios import create_air
from host.link.impairment import Impairment, ImpairmentError
from partitioner.command import Command, verbose_option


@click.command(cls=Command)
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
