"""`tinysplit boards`: which are there."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click

from host.boards.discovery import bluetooth, network, usb
from host.boards.discovery import broker as brokers
from host.boards.discovery.found import Search
from host.mqtt import access
from host.mqtt.options import broker_options
from host.report import boards_table
from partitioner.command import Command, FiniteRange, verbose_option, wide_console


@click.command(cls=Command)
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
