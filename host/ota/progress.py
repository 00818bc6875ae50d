"""How an update tells how far it is: bars on a terminal, lines for logs, or not at all."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from host.ota.courier import Courier

EVERY_S = 10.0


class Lines:
    """A line when a board's state changes, and about every EVERY_S while it is sent to.

    Called from several threads, one per board.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._states: dict[str, str] = {}
        self._said: dict[str, tuple[float, int]] = {}

    def __call__(self, courier: Courier) -> None:
        with self._lock:
            state = courier.report.state
            if self._states.get(courier.label) != state:
                self._states[courier.label] = state
                if state != "old":
                    click.echo(f"{courier.label}: {state}", err=True)
            elif state == "old" and courier.image is not None:
                self._sent(courier, len(courier.image.data))

    def _sent(self, courier: Courier, total: int) -> None:
        now, there = self._clock(), courier.offset
        since, before = self._said.setdefault(courier.label, (now, there))
        if now - since < EVERY_S:
            return
        self._said[courier.label] = now, there
        rate = max(there - before, 0) / (now - since)
        click.echo(
            f"{courier.label}: {there:,} of {total:,} bytes ({there / total:.0%}), "
            f"{rate / 1000:,.1f} kB/s",
            err=True,
        )


@contextmanager
def shown(quiet: bool) -> Iterator[tuple[Callable[[Courier], None], Callable[[str], None]]]:
    """Called with couriers that changed, and with what begins."""
    console = Console(stderr=True)
    if quiet:
        yield lambda _: None, lambda _: None
        return
    if not console.is_terminal:
        yield Lines(), lambda _: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TextColumn("{task.fields[state]}"),
    )
    with Progress(*columns, console=console) as progress:
        tasks: dict[str, Any] = {}

        def show(courier: Courier) -> None:
            total = len(courier.image.data) if courier.image is not None else None
            if courier.label not in tasks:
                tasks[courier.label] = progress.add_task(
                    courier.label, total=total, state=courier.report.state
                )
            done = courier.offset
            progress.update(
                tasks[courier.label], total=total, completed=done, state=courier.report.state
            )

        yield show, lambda text: progress.console.print(f"[dim]{text}[/dim]")
