"""Two or more endpoints over a simulated network, in simulated time. Nothing sleeps.

The network keeps frames in a heap by their time of arrival; `fate` decides for each frame
sent when, how often and how damaged it arrives. A whole run is a function of its seed.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from typing import Any

from host.link.endpoint import Acceptor, Endpoint, Initiator
from host.link.events import Event, Received, TensorReceived
from host.link.messages import decode_boundary
from host.link.session import Node, Profile

BUNDLE = bytes(range(32))
MS = 1000
S = 1_000_000

MAX_STEPS = 200_000

Fate = Callable[[random.Random, bytes], list[tuple[int, bytes]]]


def network(
    *,
    loss: float = 0.0,
    delay_us: int = 1 * MS,
    jitter_us: int = 0,
    duplicate: float = 0.0,
    corrupt: float = 0.0,
) -> Fate:
    """Independent faults per frame. Jitter reorders."""

    def fate(rng: random.Random, frame: bytes) -> list[tuple[int, bytes]]:
        if rng.random() < loss:
            return []
        arrivals = []
        for _ in range(2 if rng.random() < duplicate else 1):
            data = frame
            if rng.random() < corrupt:
                damaged = bytearray(frame)
                for _ in range(rng.randint(1, 8)):
                    damaged[rng.randrange(len(frame))] ^= 1 << rng.randrange(8)
                data = bytes(damaged)
            arrivals.append((delay_us + rng.randint(0, jitter_us), data))
        return arrivals

    return fate


class Simulation:
    """Endpoints by name. An initiator's peer is the name of its acceptor and the other way."""

    def __init__(self, seed: int = 0, fate: Fate | None = None) -> None:
        self.rng = random.Random(seed)
        self.fate = fate or network()
        self.now = 5 * S
        self.ends: dict[str, Endpoint] = {}
        self.skew: dict[str, int] = {}  # A clock's difference from the simulation's.
        self.events: dict[str, list[Event]] = {}
        self.sent: list[tuple[str, str, bytes]] = []
        self.on_event: dict[str, Callable[[Any], None]] = {}
        self._air: list[tuple[int, int, str, str, bytes]] = []
        self._count = 0
        self._due: dict[str, int | None] = {}
        self.steps = 0

    def nonce(self) -> int:
        return self.rng.randrange(1, 1 << 32)

    def add(self, name: str, end: Endpoint, skew_us: int = 0) -> Any:
        self.ends[name] = end
        self.skew[name] = skew_us
        self.events.setdefault(name, [])
        self._due[name] = None
        return end

    def head(self, name: str = "head", tail: str = "tail", **kwargs: Any) -> Initiator:
        node = kwargs.pop("node", Node.head(BUNDLE))
        skew = kwargs.pop("skew_us", 0)
        profile = kwargs.pop("profile", Profile())
        end = Initiator(node, profile, peer=tail, nonce=self.nonce, **kwargs)
        self.add(name, end, skew)
        return end

    def tail(self, name: str = "tail", **kwargs: Any) -> Acceptor:
        node = kwargs.pop("node", Node.tail(BUNDLE))
        skew = kwargs.pop("skew_us", 0)
        profile = kwargs.pop("profile", Profile())
        end = Acceptor(node, profile, nonce=self.nonce, **kwargs)
        self.add(name, end, skew)
        return end

    def clock(self, name: str) -> int:
        return self.now + self.skew[name]

    def inject(self, to: str, frame: bytes, source: str, after_us: int = 0) -> None:
        self._count += 1
        heapq.heappush(self._air, (self.now + after_us, self._count, to, source, frame))

    def flush(self, name: str) -> None:
        """Poll one end until it has nothing more to say now."""
        end = self.ends[name]
        output = end.poll(self.clock(name))
        for peer, frame in output.frames:
            self.sent.append((name, peer, frame))
            for after, data in self.fate(self.rng, frame):
                self.inject(peer, data, name, after)
        self._take(name, output.events)
        due = output.deadline_us
        self._due[name] = None if due is None else max(due - self.skew[name], self.now + 1)

    def _take(self, name: str, events: list[Event]) -> None:
        self.events[name] += events
        for event in events:
            if name in self.on_event:
                self.on_event[name](event)
        if events and name in self.on_event:
            self.flush(name)

    def run(self, for_us: int, until: Callable[[], bool] = lambda: False) -> bool:
        """Run until the condition holds or the time is over; whether it held."""
        end_us = self.now + for_us
        for name in self.ends:
            self.flush(name)
        while not until():
            self.steps += 1
            assert self.steps < MAX_STEPS, "the ends keep each other busy"
            times = [due for due in self._due.values() if due is not None]
            if self._air:
                times.append(self._air[0][0])
            following = min(times, default=end_us)
            if following >= end_us:
                self.now = end_us
                return until()
            self.now = max(self.now, following)
            if self._air and self._air[0][0] <= self.now:
                _, _, to, source, frame = heapq.heappop(self._air)
                if to in self.ends:
                    events = self.ends[to].receive(frame, source, self.clock(to))
                    self._take(to, events)
                    self.flush(to)
            for name, due in list(self._due.items()):
                if due is not None and due <= self.now:
                    self.flush(name)
        return True

    def of(self, name: str, kind: type[Any]) -> list[Any]:
        return [event for event in self.events[name] if isinstance(event, kind)]

    def serve(self, name: str = "tail", work_us: int = 0) -> None:
        """Answer every TENSOR with its tensors, each reversed."""

        def answer(event: Event) -> None:
            tail = self.ends[name]
            assert isinstance(tail, Acceptor)
            if isinstance(event, TensorReceived):
                now = self.clock(name)
                tensors = decode_boundary(event.tensors, event.codec, 1 << 20)
                tail.send_result(
                    event,
                    [bytes(tensor)[::-1] for tensor in tensors],
                    [],
                    now,
                )
                tail.release(event, now)
            elif isinstance(event, Received):
                tail.release(event, self.clock(name))

        self.on_event[name] = answer

    def give_back(self, name: str) -> None:
        """Release everything that arrives at once."""

        def back(event: Event) -> None:
            if isinstance(event, Received):
                self.ends[name].release(event, self.clock(name))

        self.on_event[name] = back
