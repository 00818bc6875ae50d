"""What the broker tells: lines for people or objects of JSON, and never too many of them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

_MOST = 20  # Lines of one kind ...
_PERIOD_S = 10.0  # ... in so long. What is beyond is counted.


class Log:
    """Writes lines by `write`; `quiet` leaves out what is no trouble.

    Args:
        now: seconds that never go back.
        as_json: objects with `time` (UTC), `level`, `event`, `text` and what belongs to the event.
    """

    def __init__(
        self,
        write: Callable[[str], None],
        now: Callable[[], float] = time.monotonic,
        *,
        as_json: bool = False,
        quiet: bool = False,
    ) -> None:
        self._write, self._now, self._json, self._quiet = write, now, as_json, quiet
        self._told: dict[str, tuple[float, int]] = {}

    def info(self, event: str, text: str, **fields: Any) -> None:
        self._tell("info", event, text, fields)

    def warning(self, event: str, text: str, **fields: Any) -> None:
        self._tell("warning", event, text, fields)

    def failure(self, event: str, text: str, **fields: Any) -> None:
        self._tell("error", event, text, fields)

    def flush(self) -> None:
        """Say how many lines were left out in periods that are over."""
        for event, (began, count) in list(self._told.items()):
            if self._now() - began >= _PERIOD_S:
                del self._told[event]
                if count > _MOST:
                    text = f"{event}: {count - _MOST:,} more in {_PERIOD_S:.0f} s"
                    self._line("warning", event, text, {"left_out": count - _MOST})

    def _tell(self, level: str, event: str, text: str, fields: dict[str, Any]) -> None:
        if self._quiet and level == "info":
            return
        self.flush()
        began, count = self._told.get(event, (self._now(), 0))
        self._told[event] = began, count + 1
        if count < _MOST:
            self._line(level, event, text, fields)

    def _line(self, level: str, event: str, text: str, fields: dict[str, Any]) -> None:
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        if self._json:
            said = {"time": moment, "level": level, "event": event, "text": text, **fields}
            self._write(json.dumps(said))
            return
        # What strangers send is quoted in the text: no line may become two, or move a cursor.
        plain = "".join(c if c.isprintable() else "?" for c in text)
        self._write(f"{moment} {plain}" if level == "info" else f"{moment} {level}: {plain}")
