"""A node's end of the control plane, for virtual boards: firmware/main/mqtt.c in Python.

Commands are handed to the board's own thread, one after the other; a byte in `wake` tells it that
one waits. Telemetry is dropped while there is no connection; answers wait for the next.
"""

from __future__ import annotations

import contextlib
import os
import queue
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from host.boards import control
from host.mqtt.access import Access
from host.mqtt.connection import Connection, MqttError
from host.mqtt.once import Once
from host.mqtt.topics import CMD, REPLY, STATUS, TELEMETRY, topic

TELEMETRY_PERIOD_S = 5.0
_WAITING = 64  # Commands that were not looked at yet.


@dataclass
class Counts:
    """Commands that were not carried out, since boot, by why."""

    duplicates: int = 0
    reused: int = 0
    stale: int = 0
    retained: int = 0
    malformed: int = 0


class Node:
    """The node `name` at a broker.

    Args:
        about: what its status says, from paho's thread: who it is, `boot` with it.
        wake: a descriptor; a byte is written there for each command that waits.
        log: takes a line for people.
    """

    def __init__(
        self,
        access: Access,
        name: str,
        about: Callable[[], dict[str, Any]],
        wake: int,
        log: Callable[[str], None],
    ) -> None:
        self.once = Once()
        self.counts = Counts()
        self._name = name
        self._about, self._wake, self._print = about, wake, log
        self._commands: queue.Queue[bytes] = queue.Queue(_WAITING)
        self._next_telemetry = 0.0
        self._connection = Connection(
            access,
            client_id=name,
            subscriptions=[topic(name, CMD)],
            on_message=self._heard,
            on_up=self._say_online,
            on_problem=self._tell,
            will=(topic(name, STATUS), control.status(None).strip()),
        )

    def start(self) -> None:
        """Connect, in the background."""
        self._connection.start()

    def close(self) -> None:
        """Say that the node is offline, and disconnect."""
        self._connection.close((topic(self._name, STATUS), control.status(None).strip()))

    @property
    def up(self) -> bool:
        return self._connection.up

    @property
    def problem(self) -> MqttError | None:
        """Why there is no connection."""
        return self._connection.problem

    def take(self) -> bytes | None:
        """The next command; None: none waits."""
        with contextlib.suppress(queue.Empty):
            return self._commands.get_nowait()
        return None

    def reply(self, line: bytes) -> None:
        """Send an answer, and remember it for when the command comes again."""
        command_id = control.parse_answer(line)["id"]
        told = self.turn_away(line)
        if command_id is not None:
            self.once.keep(command_id, told)

    def turn_away(self, line: bytes) -> bytes:
        """Send the answer to what was not taken, whose id may be another's; what was sent."""
        content = control.parse_answer(line)
        told = control.with_count(line, self.once.count)
        if not content["ok"]:
            error = content["error"]
            self._log(f"refused: {error['code']}: {error['message']}")
        self.say(told)
        return told

    def say(self, line: bytes) -> None:
        """Send an answer as it is."""
        if not self._connection.publish(topic(self._name, REPLY), line.strip()):
            self._log("an answer is lost: too many wait for a connection")

    def telemetry_due(self) -> bool:
        """Whether it is time for telemetry, and there is a connection for it; once each time."""
        now = time.monotonic()
        if now < self._next_telemetry or not self.up:
            return False
        self._next_telemetry = now + TELEMETRY_PERIOD_S
        return True

    def telemetry(self, line: bytes) -> None:
        """Send an event."""
        self._connection.publish(topic(self._name, TELEMETRY), line.strip(), qos=0)

    def _log(self, line: str) -> None:
        self._print(control.printable(line))

    # By paho's thread.

    def _say_online(self) -> None:
        status = control.status(self._about()).strip()
        self._connection.publish(topic(self._name, STATUS), status, retain=True)

    def _heard(self, where: str, payload: bytes, retained: bool) -> None:
        if where != topic(self._name, CMD):
            return
        if retained:
            # Of the past: whoever set it does not wait for it.
            self.counts.retained += 1
            self._log("a retained command is ignored")
            return
        try:
            self._commands.put_nowait(payload)
        except queue.Full:
            self._log("a command is ignored: too many wait")  # It comes again.
            return
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake, b".")

    def _tell(self, problem: MqttError) -> None:
        self._log(str(problem))
