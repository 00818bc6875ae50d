"""A board that is reached through a broker: `mqtt:NODE`.

Theory of operation. A command is published with QoS 1 and remembered until its reply is here. It is
published again, the same to the byte, when the connection is there anew, when the node comes back,
and every few seconds; the node carries it out once (host/mqtt/once.py). It names the boot it is
meant for, and how many commands the node had taken, so that nothing which lay somewhere is carried
out later. A node that starts anew has not done what it did not answer: `restarted`. No clock but
this process's own is asked.
"""

from __future__ import annotations

import contextlib
import queue
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from host.boards import control
from host.boards.board import ANSWER_TIMEOUT_S, BoardError, CommandId, ForeignBoard
from host.boards.control import MAX_LINE_BYTES, ControlError
from host.mqtt.access import Access
from host.mqtt.connection import Connection, MqttError
from host.mqtt.topics import CMD, REPLY, STATUS, topic

STATUS_TIMEOUT_S = 3.0  # A retained status comes at once.
AGAIN_S = 3.0
GONE_S = 5.0  # Offline for so long is no lost connection of a node that is there.
_LONGEST_LISTEN_S = 0.1
_WAITING = 1000  # Messages.
_UP = ""  # In the inbox instead of a topic: the connection is there anew.


@dataclass
class _Sent:
    """A command without an answer yet, and how often it was sent on which connection."""

    name: str
    fields: dict[str, Any]
    line: bytes
    connection: int
    times: int = 1


class MqttBoard(ForeignBoard):
    """The board `node` at a broker.

    Raises:
        MqttError: as Connection.open.
        BoardError: `no_node`: the broker knows none of that name; `offline`.
    """

    def __init__(
        self,
        access: Access,
        node: str,
        *,
        name: str | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__(name or node, on_text)
        self.port = f"mqtt:{node}"
        self._node = node
        self._nonce = secrets.token_hex(6)
        self._boot: str | None = None
        self._count: int | None = None
        self._offline_since: float | None = None
        self._restarted = False
        self._unanswered: dict[str, _Sent] = {}
        self._connections = 0  # How often there was one anew.
        self._again_at = 0.0
        self._inbox: queue.Queue[tuple[str, bytes]] = queue.Queue(_WAITING)
        self._connection = Connection(
            access,
            subscriptions=[topic(node, REPLY), topic(node, STATUS)],
            on_message=lambda where, payload, _: self._hear(where, payload),
            on_up=lambda: self._hear(_UP, b""),
            on_problem=self._note,
        )
        self._problem: MqttError | None = None
        self._connection.open()
        try:
            self._find()
        except BaseException:
            self.close()
            raise

    def _hear(self, where: str, payload: bytes) -> None:
        """By paho's thread. What a flood crowds out comes again, or is asked for again."""
        if len(payload) <= MAX_LINE_BYTES:
            with contextlib.suppress(queue.Full):
                self._inbox.put_nowait((where, payload))

    def _note(self, problem: MqttError) -> None:
        self._problem = problem

    def _find(self) -> None:
        """Wait for the node's status."""
        end = time.monotonic() + STATUS_TIMEOUT_S
        while self._boot is None and self._offline_since is None:
            if time.monotonic() > end:
                raise BoardError(
                    "no_node",
                    f"the broker at {self._connection.access.url} knows no node {self._node!r}, "
                    "or does not let you read of it; `tinysplit boards` lists those it knows",
                )
            self._take(self._receive(_LONGEST_LISTEN_S))
        if self._boot is None:
            raise BoardError("offline", f"{self.name} is offline")

    # Commands.

    def begin(self, name: str, **fields: Any) -> CommandId:
        """As Board's; a command that no board would take is not sent.

        Raises:
            BoardError: `bad_command`, `unknown_command`, `too_long`, `offline`.
        """
        try:
            control.check_command(name, fields)
        except ControlError as error:
            raise BoardError(error.code, f"{self.name}: {error}") from error
        self._take(self._receive(0))
        self._last_id += 1
        command_id = f"{self._nonce}-{self._last_id}"
        aimed: dict[str, Any] = {} if self._boot is None else {"boot": self._boot}
        if self._count is not None:
            aimed["after"] = self._count
        line = control.command(command_id, name, {**fields, **aimed})
        self._unanswered[command_id] = _Sent(name, fields, line, self._connections)
        self._again_at = time.monotonic() + AGAIN_S
        self._send(line)
        return command_id

    def finish(
        self,
        command_id: CommandId,
        timeout_s: float = ANSWER_TIMEOUT_S,
        watch: Callable[[], None] | None = None,
    ) -> dict[str, Any]:
        """As Board's; also raises `restarted`: the board was, and has not done the command."""

        deadline = time.monotonic() + timeout_s
        while True:
            sent = self._unanswered.get(str(command_id))
            try:
                return super().finish(command_id, deadline - time.monotonic(), watch)
            except BoardError as error:
                if error.code == "stale":
                    raise BoardError("restarted", str(error)) from error
                # Sent once, on a connection that still is: that was it, and it was not done.
                once = sent is not None and (sent.connection, sent.times) == (self._connections, 1)
                if error.code != "forgotten" or not once:
                    raise
            finally:
                self._unanswered.pop(str(command_id), None)
            assert sent is not None
            command_id = self.begin(sent.name, **sent.fields)

    def greet(self, timeout_s: float = ANSWER_TIMEOUT_S) -> dict[str, Any]:
        """What the board says of itself. Raises BoardError as `finish`."""
        found = self.ask("info", timeout_s)
        self._restarted = False
        return found

    def reboot(self, timeout_s: float = ANSWER_TIMEOUT_S) -> dict[str, Any]:
        """As Board's. It is over when the board tells of another boot, whatever it answered."""
        deadline = self._wait_from_now(timeout_s)
        before = self._boot
        command = self.begin("reboot")
        try:
            while self._boot == before or self._offline_since is not None:
                self._listen(deadline)
                answer = self._answers.get(command)
                if answer is not None and not answer["ok"] and self._boot == before:
                    error = answer["error"]
                    raise BoardError(
                        error["code"], f"{self.name}: {error['message']}", answered=True
                    )
        finally:
            self._unanswered.pop(str(command), None)
            self._answers.pop(command, None)
        return self.greet(max(deadline - time.monotonic(), 1.0))

    def wait_ready(self, timeout_s: float = ANSWER_TIMEOUT_S) -> dict[str, Any]:
        """As Board's, of a board that is there."""
        return self.greet(timeout_s)

    def check(self) -> None:
        """As Board's. A board that is offline for long is gone."""
        self._take(self._receive(0))
        self._require_there()
        if self._restarted:
            self._restarted = False
            raise BoardError("restarted", f"{self.name} restarted by itself")

    def _require_there(self) -> None:
        since = self._offline_since
        if since is not None and time.monotonic() - since > GONE_S:
            raise BoardError("gone", f"{self.name} is gone: it is offline")

    def close(self) -> None:
        self._connection.close()

    # Messages.

    def _send(self, line: bytes) -> None:
        if not self._connection.publish(topic(self._node, CMD), line.strip()):
            raise BoardError("busy", f"{self.name}: too many commands wait for the broker")

    def _receive(self, timeout_s: float) -> bytes:
        """Replies to what was asked here, a line each; what else comes is dealt with."""
        deadline = time.monotonic() + timeout_s
        found = b""
        while True:
            left = deadline - time.monotonic()
            try:
                where, payload = self._inbox.get(left > 0, max(left, 0))
            except queue.Empty:
                break
            if where == _UP:
                self._connections += 1
                self._say_again()
            elif where == topic(self._node, STATUS):
                self._learn(payload)
            elif where == topic(self._node, REPLY):
                found += self._heard(payload)
                if found:
                    deadline = 0.0  # What is there already is taken along.
        if self._unanswered and time.monotonic() > self._again_at:
            self._say_again()
        return found

    def _listen(self, deadline: float, longest_s: float = _LONGEST_LISTEN_S) -> None:
        try:
            super()._listen(deadline, min(longest_s, _LONGEST_LISTEN_S))
        except BoardError as error:
            if error.code == "no_answer":
                raise self._silent() from error
            raise

    def _silent(self) -> BoardError:
        if not self._connection.up and self._problem is not None:
            return MqttError(self._problem.code, f"{self.name} does not answer: {self._problem}")
        if self._problem is not None and self._problem.code == "not_authorized":
            return MqttError("not_authorized", f"{self.name} does not answer: {self._problem}")
        if self._offline_since is not None:
            return BoardError("offline", f"{self.name} is offline")
        return BoardError("no_answer", f"{self._silence()}; may this user send it commands?")

    def _say_again(self) -> None:
        self._again_at = time.monotonic() + AGAIN_S
        if self._connection.up and self._offline_since is None:
            for sent in self._unanswered.values():
                sent.times += 1
                self._send(sent.line)

    def _heard(self, payload: bytes) -> bytes:
        """The reply as a line, if it is to one of ours."""
        try:
            answer = control.parse_answer(payload)
        except ControlError as error:
            self._text(str(error))
            return b""
        if "count" in answer and "event" not in answer:
            # Also from answers to others: it is what the node has taken.
            self._count = max(self._count or 0, answer["count"])
        if answer.get("id") not in self._unanswered:
            return b""
        return payload.replace(b"\n", b" ") + b"\n"

    def _learn(self, payload: bytes) -> None:
        """What the node's status says."""
        try:
            status = control.parse_status(payload)
        except ControlError as error:
            self._text(str(error))
            return
        if not status["online"]:
            self._offline_since = self._offline_since or time.monotonic()
            return
        self._offline_since = None
        if self._boot not in (None, status["boot"]):
            self._restarted = True
            self._count = None
            for command_id in self._unanswered:
                told = {"code": "restarted", "message": "it was restarted, and the command with it"}
                self._answers.setdefault(command_id, {"id": command_id, "ok": False, "error": told})
            self._unanswered.clear()
        self._boot = status["boot"]
        self._say_again()
