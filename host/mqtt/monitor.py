"""`tinysplit monitor`: nodes and their telemetry as a live table."""

from __future__ import annotations

import contextlib
import queue
import time
from pathlib import Path

import click
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from host.boards.address import is_node
from host.boards.board import BoardError
from host.boards.control import ControlError
from host.mqtt import topics
from host.mqtt.access import Access
from host.mqtt.connection import Connection, MqttError
from host.mqtt.options import broker_options, named
from host.mqtt.roster import NodeView, Roster, as_json
from partitioner.command import Command, FiniteRange, verbose_option, wide_console

_STATUS_TIMEOUT_S = 3.0  # A retained status comes at once.
_DRAW_S = 0.5
_MOST_COMPLAINTS = 20
_HEADINGS = ("node", "", "role", "chip °C", "memory", "RSSI", "loop", "inferences", "errors", "age")


def table(roster: Roster, now_s: float, problem: str | None = None) -> Table:
    """A line for each node, by name."""
    out = Table(box=None, pad_edge=False, header_style="bold")
    for number, heading in enumerate(_HEADINGS):
        out.add_column(heading, justify="left" if number < 3 else "right")
    for node in sorted(roster.nodes.values(), key=lambda one: one.name):
        out.add_row(*_row(node, now_s))
    notes = [] if problem is None else [problem]
    if roster.rejected:
        notes.append(f"{roster.rejected} messages were left out")
    out.caption = Text("; ".join(notes), style="red") if notes else None
    return out


def _row(node: NodeView, now_s: float) -> list[Text]:
    values = node.values
    state = {True: Text("online", style="green"), False: Text("offline", style="red")}
    celsius, rssi = values.get("temperature_c"), values.get("rssi_dbm")
    loop, errors = node.loop_us, values.get("errors")
    plain = [
        "-" if celsius is None else f"{celsius:.1f}",
        _memory(node),
        "-" if rssi is None else f"{rssi} dBm",
        "-" if loop is None else f"{loop / 1000:,.1f} ms",
        "-" if node.inferences is None else f"{node.inferences:,}",
        "-" if errors is None else f"{errors:,}",
        "-" if node.heard_s is None else f"{max(now_s - node.heard_s, 0):,.0f} s",
    ]
    return [
        Text(node.name),
        state.get(bool(node.online), Text()) if node.online is not None else Text("?"),
        Text(str(node.status.get("role", "-"))),
        *map(Text, plain),
    ]


def _memory(node: NodeView) -> str:
    """What is left of a board's heap, or what a process takes."""
    memory = node.values.get("memory", {})
    if "internal_free" in memory:
        return f"{memory['internal_free'] / 1024:,.0f} KiB free"
    if "rss" in memory:
        return f"{memory['rss'] / (1 << 20):,.0f} MiB used"
    return "-"


@click.command(cls=Command)
@click.argument("node", required=False)
@click.option(
    "--seconds", type=FiniteRange(0.1, 1e6), metavar="S", help="End after so long.  [Ctrl-C]"
)
@click.option("--json", "as_lines", is_flag=True, help="Each message as a line of JSON.")
@broker_options
@verbose_option()
def monitor(
    node: str | None,
    seconds: float | None,
    as_lines: bool,
    broker: str | None,
    login: Path | None,
    ca: Path | None,
    verbose: bool,
) -> None:
    """Show how the boards at a broker are, or the one called NODE: each tells it every 5 seconds.

    `loop` is the last inference's round trip where inferences begin, elsewhere the last invocation
    of the stage; both by the board's clock. What a board does not measure is `-`.
    """
    name = None if node is None else node.removeprefix("mqtt:")
    if name is not None and not is_node(name):
        raise click.UsageError(f"{name[:40]!r} is no name of a node")
    found = named(broker, login, ca)
    with contextlib.suppress(KeyboardInterrupt):
        _watch(found, name, seconds, as_lines)


def _watch(found: Access, name: str | None, seconds: float | None, as_lines: bool) -> None:
    roster, problem = Roster(), list[MqttError]()
    inbox: queue.Queue[tuple[str, bytes]] = queue.Queue(10_000)

    def hear(where: str, payload: bytes, _retained: bool) -> None:
        with contextlib.suppress(queue.Full):  # A flood: what is shown is the newest in the end.
            inbox.put_nowait((where, payload))

    wanted = [topics.topic(name or "+", what) for what in (topics.STATUS, topics.TELEMETRY)]
    began = time.monotonic()
    end = None if seconds is None else began + seconds
    with Connection(
        found,
        subscriptions=wanted,
        on_message=hear,
        on_up=problem.clear,
        on_problem=lambda error: problem.__setitem__(slice(None), [error]),
    ) as connection:
        connection.open()
        with _Show(roster, as_lines) as show:
            while end is None or time.monotonic() < end:
                show(_next(inbox, end), str(problem[0]) if problem else None)
                late = time.monotonic() - began > _STATUS_TIMEOUT_S
                if name is not None and late and name not in roster.nodes:
                    raise BoardError("no_node", f"the broker at {found.url} knows no node {name!r}")


def _next(inbox: queue.Queue[tuple[str, bytes]], end: float | None) -> list[tuple[str, bytes]]:
    """What has come, waiting a little for the first."""
    longest = _DRAW_S if end is None else min(_DRAW_S, max(end - time.monotonic(), 0.0))
    heard = []
    with contextlib.suppress(queue.Empty):
        heard.append(inbox.get(timeout=longest))
        while len(heard) < inbox.maxsize:
            heard.append(inbox.get_nowait())
    return heard


class _Show:
    """Takes messages into the roster and shows it; complaints go to standard error.

    A context manager. As `lines`, or as a table: a live one on a terminal, else one at the end.
    """

    def __init__(self, roster: Roster, lines: bool) -> None:
        self._roster, self._lines = roster, lines
        self._console = wide_console()
        self._live: Live | None = None
        if not lines and self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False)
        self._complaints = 0
        self._errors = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)

    def __enter__(self) -> _Show:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
        elif not self._lines and self._roster.nodes:
            rows = table(self._roster, time.monotonic())
            wide_console(rows).print(rows)

    def __call__(self, heard: list[tuple[str, bytes]], problem: str | None) -> None:
        for where, payload in heard:
            try:
                record = self._roster.take(where, payload, time.monotonic())
            except ControlError as error:
                self._complaints += 1
                if self._complaints <= _MOST_COMPLAINTS:
                    self._errors.print(str(error))
                continue
            if self._lines and record is not None:
                click.echo(as_json(record))
        if self._live is not None and self._roster.nodes:
            self._live.update(table(self._roster, time.monotonic(), problem), refresh=True)
