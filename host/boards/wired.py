"""A board at the end of a wire: it resets when it likes, and prints what it likes.

What was sent to a board that resets is lost; so an exchange begins by asking until it answers,
and a board that starts in the middle of a command is an error of its own. Frames of the link may
come between the text (SPEC.md section 9.1); they are somebody else's and left out here.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Any

from host.boards.board import ANSWER_TIMEOUT_S, BoardError, ForeignBoard
from host.link.streams import On, WireDecoder

_ASK_AGAIN_S = 1.0
_SILENCE_S = 0.1  # SPEC.md section 9.1: after that a frame that began is none.
_LONGEST_FRAME = 2048


class WiredBoard(ForeignBoard):
    """A board at the end of a wire."""

    def __init__(self, name: str, on_text: Callable[[str], None] | None = None) -> None:
        super().__init__(name, on_text)
        self._last_id = secrets.randbelow(1 << 30)  # Late answers to another program are not ours.
        self._wire = WireDecoder(_LONGEST_FRAME)
        self._heard_at = time.monotonic()

    def _take(self, data: bytes) -> None:
        now = time.monotonic()
        pieces = self._wire.flush() if now - self._heard_at > _SILENCE_S else []
        pieces += self._wire.feed(data)
        if data:
            self._heard_at = now
        super()._take(b"".join(piece.data for piece in pieces if piece.kind is On.TEXT))

    def _listen(self, deadline: float, longest_s: float = _SILENCE_S) -> None:
        super()._listen(deadline, min(longest_s, _SILENCE_S))

    def greet(self, timeout_s: float = ANSWER_TIMEOUT_S) -> dict[str, Any]:
        """What the board says of itself, asked again and again: it may be starting.

        Raises:
            BoardError: `no_answer`: whatever is on that port is no board of ours; `gone`.
        """
        deadline = time.monotonic() + timeout_s
        self._send(b"\n")  # Ends what another program may have left half-written.
        while (left := deadline - time.monotonic()) > 0:
            self._ready = None
            try:
                found = self.ask("info", min(left, _ASK_AGAIN_S))
            except BoardError as error:
                if error.code not in ("no_answer", "restarted"):
                    raise
            else:
                self._ready = None  # If it came, then before the answer.
                return found
        raise BoardError(
            "no_answer",
            f"no board answers on {self.port} (waited {timeout_s:g} s){self._printed()}; is it the "
            "right port, and does the board run tinysplit's firmware?",
        )
