"""Commands that come twice are carried out once: what a node remembers of those it has taken.

Pure. MQTT's QoS 1 delivers at least once, and whoever waits for a reply sends the command again, so
a node sees ids more than once. It remembers the ids of the last IDS commands and the answers of the
last ANSWERS. That memory is bounded; a command says how many the node had taken (`after`) when it
was made, so that one which may have been forgotten is told from one that is new: there are more
than IDS between.

Two people who choose ids by hand may choose the same one, so beside an id stands the CRC-32 of the
command that had it, byte for byte, as hosts send it again. It guards against mistakes, of which it
overlooks one in 4 billion, not against attackers: who may command a node needs no other's id.

firmware/main/once.c is the same in C, with FNV-1a, which needs no table.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from enum import Enum

IDS = 32
ANSWERS = 4
ANSWER_BYTES = 1 << 20  # All kept answers together.


class Verdict(Enum):
    """What a command is to the node."""

    NEW = "to be carried out; it counts as taken now"
    PENDING = "being carried out; its answer is still to come"
    DONE = "carried out; its answer is kept or gone"
    REUSED = "another than the one that had its id before"
    FORGOTTEN = "perhaps carried out: so much has come since that nobody knows"


class Once:
    """The memory of one boot. `count` is how many commands it has taken."""

    def __init__(self) -> None:
        self.count = 0
        self._over: OrderedDict[int | str, bool] = OrderedDict()  # By id, oldest first.
        self._crcs: dict[int | str, int] = {}  # Of the same.
        self._answers: OrderedDict[int | str, bytes] = OrderedDict()  # The same, newest last.

    def admit(self, command_id: int | str, line: bytes, after: int | None = None) -> Verdict:
        """What to do with a command; one that is NEW is remembered from here on.

        Args:
            line: the whole command, as whoever sent it wrote it.
            after: `count` as whoever sent it knew it; None: they did not say.
        """
        crc = zlib.crc32(line)
        if command_id in self._over:
            if self._crcs[command_id] != crc:
                return Verdict.REUSED
            return Verdict.DONE if self._over[command_id] else Verdict.PENDING
        if after is not None and not self.count - IDS <= after <= self.count:
            return Verdict.FORGOTTEN
        self.count += 1
        self._over[command_id] = False
        self._crcs[command_id] = crc
        if len(self._over) > IDS:
            # What is being carried out stays: as many as the board can do at once.
            oldest = next((known for known, over in self._over.items() if over), None)
            if oldest is not None:
                del self._over[oldest], self._crcs[oldest]
        return Verdict.NEW

    def answer(self, command_id: int | str) -> bytes | None:
        """The kept answer of a command that is DONE; None: it is kept no longer."""
        return self._answers.get(command_id)

    def keep(self, command_id: int | str, answer: bytes) -> None:
        """A command that was being carried out was answered so; older answers give way."""
        if self._over.get(command_id, True):
            return
        self._over[command_id] = True
        self._answers[command_id] = answer
        while len(self._answers) > ANSWERS or (
            sum(map(len, self._answers.values())) > ANSWER_BYTES and self._answers
        ):
            self._answers.popitem(last=False)
