"""Boards at a broker: who has a retained status there."""

from __future__ import annotations

import contextlib
import queue
import time

from host.boards.board import BoardError
from host.boards.control import ControlError, printable
from host.boards.discovery.found import FoundBoard, Search, described
from host.mqtt.access import Access
from host.mqtt.roster import Roster
from host.mqtt.topics import STATUS, topic

SETTLED_S = 0.5  # Retained messages come at once: after so long without one there are no more.


def search(access: Access, seconds: float, *, insist: bool = True) -> Search:
    """The nodes that the broker knows, online or not.

    Raises:
        MqttError: it is not there, or refuses; without `insist` the search's note says so.
    """
    try:
        return _search(access, seconds)
    except BoardError as error:
        if insist:
            raise
        return Search("mqtt", note=str(error))


def _search(access: Access, seconds: float) -> Search:
    from host.mqtt.connection import Connection  # paho: not for those who need none.

    heard: queue.Queue[tuple[str, bytes]] = queue.Queue(10_000)

    def keep(where: str, payload: bytes, _retained: bool) -> None:
        with contextlib.suppress(queue.Full):
            heard.put_nowait((where, payload))

    roster, notes = Roster(), list[str]()
    with Connection(access, subscriptions=[topic("+", STATUS)], on_message=keep) as connection:
        connection.open()
        end = time.monotonic() + seconds
        with contextlib.suppress(queue.Empty):
            while (left := end - time.monotonic()) > 0:
                where, payload = heard.get(timeout=min(left, SETTLED_S))
                try:
                    roster.take(where, payload, time.monotonic())
                except ControlError as error:
                    notes.append(str(error))
    boards = tuple(
        _described(name, dict(node.status)) for name, node in sorted(roster.nodes.items())
    )
    if not boards:
        notes.append(f"no node has said anything at {access.url}")
    return Search("mqtt", boards, printable("; ".join(notes[:3])))


def _described(name: str, status: dict[str, object]) -> FoundBoard:
    said = {**status, "name": name}
    note = str(status.get("listen", "")) if status.get("online") else "offline"
    return described("mqtt", f"mqtt:{name}", said, printable(note))
