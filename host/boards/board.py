"""A board as the host sees it: commands out, answers in, whatever the wire between."""

from __future__ import annotations

import re
import threading
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any

from host.boards import control
from host.boards.control import ControlError, Lines
from host.closing import Closing
from models.errors import TinysplitError

ANSWER_TIMEOUT_S = 10.0
_WATCH_S = 0.1
_TEXT_LINES = 20
# ECMA-48 section 5.4; ESP-IDF's log colours are such.
_CONTROL_SEQUENCE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")


CommandId = int | str


class BoardError(TinysplitError):
    """A board that does not answer, is gone, or refuses; `code` is the error's name.

    `answered`: the board itself says so.
    """

    def __init__(self, code: str, message: str, *, answered: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.answered = answered


class Board(Closing):
    """A board at the end of a control line. Used by one thread; a context manager.

    Subclasses move bytes: `_send` writes all of a line, `_receive` returns what has arrived,
    waiting at most so long (empty: nothing came), and both raise BoardError `gone` when the board
    is no longer there. What a board prints between its answers is text for people: the last lines
    are kept in `texts`, and each goes to `on_text` as it comes.

    When `stop` is set, what waits for the board ends within a tenth of a second, by `cancelled`.
    """

    provenance = "measured"  # Or `emulated`: how times by this board's clock come about.
    stop: threading.Event | None = None

    def __init__(self, name: str, on_text: Callable[[str], None] | None = None) -> None:
        self.name = name
        self.texts: deque[str] = deque(maxlen=_TEXT_LINES)
        self._on_text = on_text
        self._lines = Lines()
        self._answers: dict[int | str | None, dict[str, Any]] = {}
        self._ready: dict[str, Any] | None = None
        self._last_id = 0
        self._asked_at = time.monotonic()

    @abstractmethod
    def _send(self, line: bytes) -> None: ...

    @abstractmethod
    def _receive(self, timeout_s: float) -> bytes: ...

    @abstractmethod
    def close(self) -> None:
        """Let go of the board; a virtual one ends. May be called twice."""

    def begin(self, name: str, **fields: Any) -> CommandId:
        """Send a command; returns its id, for `finish`."""
        self._last_id += 1
        self._send(control.command(self._last_id, name, fields))
        return self._last_id

    def finish(
        self,
        command_id: CommandId,
        timeout_s: float = ANSWER_TIMEOUT_S,
        watch: Callable[[], None] | None = None,
    ) -> dict[str, Any]:
        """The result of a command sent before. `watch` is called ten times a second meanwhile.

        Raises:
            BoardError: refused, by the name the board gives; `no_answer` in that time; `gone`;
                what `watch` raises.
        """
        deadline = self._wait_from_now(timeout_s)
        while command_id not in self._answers:
            self._listen(deadline, ANSWER_TIMEOUT_S if watch is None else _WATCH_S)
            if watch is not None:
                watch()
        answer = self._answers.pop(command_id)
        if answer["ok"]:
            result: dict[str, Any] = answer.get("result", {})
            return result
        error = answer["error"]
        raise BoardError(error["code"], f"{self.name}: {error['message']}", answered=True)

    def ask(self, name: str, timeout_s: float = ANSWER_TIMEOUT_S, **fields: Any) -> dict[str, Any]:
        """Send a command and wait for its result. Raises as `finish`."""
        return self.finish(self.begin(name, **fields), timeout_s)

    def wait_ready(self, timeout_s: float = ANSWER_TIMEOUT_S) -> dict[str, Any]:
        """What the board says of itself after a boot. Raises BoardError as `finish`."""
        deadline = self._wait_from_now(timeout_s)
        while self._ready is None:
            self._listen(deadline)
        ready, self._ready = self._ready, None
        return ready

    def reboot(self, timeout_s: float = ANSWER_TIMEOUT_S) -> dict[str, Any]:
        """Restart the board and wait until it is ready; what it says of itself then."""
        self._ready = None
        self.ask("reboot", timeout_s)
        return self.wait_ready(timeout_s)

    def check(self) -> None:
        """Look, without waiting, whether the board is still there.

        Raises:
            BoardError: `gone`, with why; `restarted` by itself since it was last ready.
        """
        self._take(self._receive(0))
        if self._ready is not None:
            reason = self._ready.get("reset")
            self._ready = None
            why = f" ({reason})" if reason else ""
            raise BoardError("restarted", f"{self.name} restarted by itself{why}")

    def _check_stop(self) -> None:
        if self.stop is not None and self.stop.is_set():
            raise BoardError("cancelled", f"{self.name}: given up")

    def _listen(self, deadline: float, longest_s: float = ANSWER_TIMEOUT_S) -> None:
        self._check_stop()
        if self.stop is not None:
            longest_s = min(longest_s, _WATCH_S)
        left = deadline - time.monotonic()
        if left <= 0:
            raise BoardError("no_answer", f"{self._silence()}{self._printed()}")
        self._take(self._receive(min(left, longest_s)))

    def _wait_from_now(self, timeout_s: float) -> float:
        """The deadline of what begins to be waited for."""
        self._asked_at = time.monotonic()
        return self._asked_at + timeout_s

    def _silence(self) -> str:
        waited_s = round(time.monotonic() - self._asked_at, 1)
        return f"{self.name} does not answer (waited {waited_s:g} s)"

    def _printed(self) -> str:
        return f"; the last it printed: {control.printable(self.texts[-1])}" if self.texts else ""

    def _take(self, data: bytes) -> None:
        try:
            lines = self._lines.feed(data)
        except ControlError as error:
            self._text(str(error))
            return
        for line in lines:
            try:
                answer = control.parse_answer(line)
            except ControlError:
                self._text(line.decode("utf-8", "replace"))
                continue
            if "event" not in answer:
                self._answers[answer["id"]] = answer
            elif answer["event"] == "ready":
                self._ready = answer.get("info", {})

    def _text(self, line: str) -> None:
        shown = control.printable(_CONTROL_SEQUENCE.sub("", line), len(line))
        self.texts.append(shown)
        if self._on_text is not None:
            self._on_text(shown)


class ForeignBoard(Board):
    """A board that is not this program's own: it was there before and stays, and may restart.

    `port` is where it is, for people.
    """

    port: str

    @abstractmethod
    def greet(self, timeout_s: float = ANSWER_TIMEOUT_S) -> dict[str, Any]:
        """What the board says of itself. Call it before anything else. Raises BoardError."""

    def finish(
        self,
        command_id: CommandId,
        timeout_s: float = ANSWER_TIMEOUT_S,
        watch: Callable[[], None] | None = None,
    ) -> dict[str, Any]:
        """As Board's; also raises `restarted`: the board was, and the command with it."""

        def look() -> None:
            if command_id not in self._answers:
                self._require_there()
            if watch is not None:
                watch()

        return super().finish(command_id, timeout_s, look)

    def _require_there(self) -> None:
        """Raise BoardError if there will be no answer."""
        self.check()
