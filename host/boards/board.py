"""A board as the host sees it: commands out, answers in, whatever the wire between."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Any

from host.boards import control
from host.boards.control import Lines
from models.errors import TinysplitError

ANSWER_TIMEOUT_S = 10.0


class BoardError(TinysplitError):
    """A board that does not answer, is gone, or refuses; `code` is the error's name."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Board(ABC):
    """A board at the end of a control line. Used by one thread; a context manager.

    Subclasses move bytes: `_send` writes all of a line, `_receive` returns what has arrived,
    waiting at most so long (empty: nothing came), and both raise BoardError `gone` when the board
    is no longer there.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._lines = Lines()
        self._answers: dict[int | str | None, dict[str, Any]] = {}
        self._ready: dict[str, Any] | None = None
        self._last_id = 0

    @abstractmethod
    def _send(self, line: bytes) -> None: ...

    @abstractmethod
    def _receive(self, timeout_s: float) -> bytes: ...

    @abstractmethod
    def close(self) -> None:
        """Let go of the board; a virtual one ends. May be called twice."""

    def __enter__(self) -> Board:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def begin(self, name: str, **fields: Any) -> int:
        """Send a command; returns its id, for `finish`."""
        self._last_id += 1
        self._send(control.command(self._last_id, name, fields))
        return self._last_id

    def finish(self, command_id: int, timeout_s: float = ANSWER_TIMEOUT_S) -> dict[str, Any]:
        """The result of a command sent before.

        Raises:
            BoardError: refused, by the name the board gives; `no_answer` in that time; `gone`.
        """
        deadline = time.monotonic() + timeout_s
        while command_id not in self._answers:
            self._listen(deadline)
        answer = self._answers.pop(command_id)
        if answer["ok"]:
            result: dict[str, Any] = answer.get("result", {})
            return result
        error = answer["error"]
        raise BoardError(error["code"], f"{self.name}: {error['message']}")

    def ask(self, name: str, timeout_s: float = ANSWER_TIMEOUT_S, **fields: Any) -> dict[str, Any]:
        """Send a command and wait for its result. Raises as `finish`."""
        return self.finish(self.begin(name, **fields), timeout_s)

    def wait_ready(self, timeout_s: float = ANSWER_TIMEOUT_S) -> dict[str, Any]:
        """What the board says of itself after a boot. Raises BoardError as `finish`."""
        deadline = time.monotonic() + timeout_s
        while self._ready is None:
            self._listen(deadline)
        ready, self._ready = self._ready, None
        return ready

    def _listen(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise BoardError("no_answer", f"{self.name} does not answer")
        for line in self._lines.feed(self._receive(left)):
            answer = control.parse_answer(line)
            if "event" in answer:
                self._ready = answer.get("info", {})
            else:
                self._answers[answer["id"]] = answer
