"""Which request is next: heads take turns, and who waited too long is told so. Pure.

Theory of operation. Each head has a queue of its own; heads with something in it stand in a ring,
and each turn takes one request of the first, which then goes to the end. So a head that asks a
hundred times as often as another waits for itself, not the other for it. What has no engine yet
holds its slot of the link (SPEC.md section 3.3), so a head cannot queue more than it has slots;
`limit` bounds what all of them queue together. A head that does not take its answers is passed
over until it does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from host.gateway.bundles import Served
from host.link.events import Address, TensorReceived

MOST_TAKEN: Final = 8  # Of one head, without an answer that arrived: SPEC's MAX_LIVE.


@dataclass(eq=False, slots=True)
class Head:
    """A session of a head: where it came in, what it is served, and what it has asked so far.

    `listener` is whoever answers it.
    """

    listener: Any
    peer: Address
    session: int
    served: Served
    opened_us: int
    waiting: deque[Job] = field(default_factory=deque)
    in_ring: bool = False
    taken: int = 0  # By an engine, and without an answer that arrived.
    requests: int = 0
    errors: int = 0
    sessions: int = 1  # That this address has had.
    gone: bool = False

    @property
    def name(self) -> str:
        """The head's address, for people: `udp://127.0.0.1:4001`, `espnow://02:00:00:00:00:01`."""
        return self.listener.name_of(self.peer)  # type: ignore[no-any-return]

    @property
    def idle(self) -> bool:
        """Whether all it asked is answered, and the answers have arrived."""
        return not self.waiting and not self.taken


@dataclass(eq=False, slots=True)
class Job:
    """An inference to do. `kills`: engines that died while it ran."""

    head: Head
    event: TensorReceived
    queued_us: int
    kills: int = 0


class Schedule:
    """The requests that wait for an engine; at most `limit`."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._ring: deque[Head] = deque()
        self._passed_over: set[Head] = set()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, job: Job) -> bool:
        """Whether there was room for it."""
        if self._count >= self.limit:
            return False
        self._put(job, first=False)
        return True

    def again(self, job: Job) -> None:
        """Put back one that was taken; it is next, whatever the limit."""
        job.head.taken -= 1
        self._put(job, first=True)

    def _put(self, job: Job, *, first: bool) -> None:
        head = job.head
        self._count += 1
        if first:
            head.waiting.appendleft(job)
            self._passed_over.discard(head)
            if head.in_ring:
                self._ring.remove(head)
            self._ring.appendleft(head)
        else:
            head.waiting.append(job)
            if head.in_ring or head in self._passed_over:
                return
            self._ring.append(head)
        head.in_ring = True

    def take(self) -> Job | None:
        """The next request; whether it is still in time is the caller's to judge."""
        while self._ring:
            head = self._ring.popleft()
            if not head.waiting or head.taken >= MOST_TAKEN:
                head.in_ring = False
                if head.waiting:
                    self._passed_over.add(head)
                continue
            job = head.waiting.popleft()
            head.taken += 1
            self._count -= 1
            if head.waiting:
                self._ring.append(head)
            else:
                head.in_ring = False
            return job
        return None

    def settled(self, head: Head) -> None:
        """An answer to one that was taken has arrived, or never will."""
        head.taken -= 1
        if head in self._passed_over:
            self._passed_over.discard(head)
            head.in_ring = True
            self._ring.append(head)

    def forget(self, head: Head) -> int:
        """Its session is over: how many of its requests are dropped."""
        dropped = len(head.waiting)
        head.waiting.clear()
        self._passed_over.discard(head)
        self._count -= dropped
        return dropped

    def late(self, now_us: int) -> Iterator[Job]:
        """Take out what nobody waits for any more."""
        for head in [*self._ring, *self._passed_over]:
            late = [job for job in head.waiting if job.event.deadline_us <= now_us]
            for job in late:
                head.waiting.remove(job)
                self._count -= 1
                yield job
