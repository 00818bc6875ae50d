"""`tinysplit cmd`."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import click

from host import reach
from host.boards import control, kinds
from host.boards.board import Board, BoardError
from host.boards.control import ControlError
from host.boards.kinds import OnMqtt, OnSerial
from host.mqtt.board import MqttBoard
from host.mqtt.options import broker_options, named
from host.reach import Reach
from partitioner.command import Command, FiniteRange, verbose_option


def _fields(given: tuple[str, ...]) -> dict[str, Any]:
    """FIELD=JSON pairs; what is no JSON is text."""
    fields: dict[str, Any] = {}
    for pair in given:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise click.UsageError(f"{pair[:40]!r} is not FIELD=JSON")
        try:
            fields[name] = json.loads(value)
        except (ValueError, RecursionError):
            fields[name] = value
    return fields


@click.command(cls=Command)
@click.argument("node")
@click.argument("name", metavar="COMMAND")
@click.argument("given", metavar="[FIELD=JSON]...", nargs=-1)
@click.option(
    "--timeout",
    type=FiniteRange(0.1, 3600),
    default=10.0,
    show_default=True,
    metavar="S",
    help="How long to wait for the reply.",
)
@broker_options
@click.option("--bridge", metavar="serial:PORT", help="Lends its radio for espnow:// names.")
@click.option("--air", help="For ble:// names of virtual boards: where their air is.")
@verbose_option()
def cmd(
    node: str,
    name: str,
    given: tuple[str, ...],
    timeout: float,
    broker: str | None,
    login: Path | None,
    ca: Path | None,
    bridge: str | None,
    air: str | None,
    verbose: bool,
) -> None:
    """Have the board NODE carry out COMMAND; prints its reply as JSON.

    NODE is a name at the broker (or mqtt:NAME), serial:PORT, or where the board's link listens.
    host/boards/control.schema.json documents the commands; values that are no JSON are text:

    \b
        tinysplit cmd kitchen info
        tinysplit cmd kitchen configure 'set={"window": 4}'
        tinysplit cmd serial:/dev/ttyACM0 run input=selftest
    """
    fields = _fields(given)
    try:
        control.check_command(name, fields)
    except ControlError as error:
        raise click.UsageError(str(error)) from error
    place = reach.parse(f"mqtt:{node}" if re.fullmatch(r"[^:/]+", node) else node)
    lender = None if bridge is None else kinds.parse(bridge)
    if lender is not None and not isinstance(lender, OnSerial):
        raise click.UsageError("--bridge is serial:PORT")
    with (
        Reach(bridge=lender, air=air, broker=lambda: named(broker, login, ca)) as way,
        way.open(place, node) as board,
    ):
        reply = _ask(board, name, timeout, fields)
    click.echo(json.dumps(reply, indent=1, sort_keys=True))
    kept = reply.get("result", {}).get("name") if name == "configure" else None
    if isinstance(place, OnMqtt) and kept not in (None, place.node):
        click.echo(f"after a reboot this board is mqtt:{kept}", err=True)
    if not reply["ok"]:
        why = reply["error"]
        click.echo(f"tinysplit cmd: error: {why['code']}: {why['message']}", err=True)
        sys.exit(1)


def _ask(board: Board, name: str, timeout_s: float, fields: dict[str, Any]) -> dict[str, Any]:
    if name == "reboot":
        try:
            return {"ok": True, "result": board.reboot(timeout_s)}
        except BoardError as error:
            if isinstance(board, MqttBoard) and error.code in ("offline", "no_answer"):
                raise BoardError(
                    error.code,
                    f"{error}; a board that was renamed answers under its new name: "
                    "`tinysplit boards --way mqtt`",
                ) from error
            raise
    command = board.begin(name, **fields)
    try:
        return {"ok": True, "result": board.finish(command, timeout_s)}
    except BoardError as error:
        if not error.answered:
            raise
        return {"ok": False, "error": {"code": error.code, "message": str(error)}}
