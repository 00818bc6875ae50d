"""Two C cores with ESP-NOW radios on the modelled medium, in simulated time.

`python tests/host/link/espnow/core_on_air.py` prints the table in firmware/core/DESIGN.md.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections import deque
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from core_end import MESSAGE, SENT, UP, CoreEnd

from host.boards.virtual.espnow import MAX_OUTSTANDING
from host.link.espnow.medium import Medium, Received
from host.link.espnow.radio import EspNow, profile

TENSOR = bytes(range(256)) * 21 + bytes(124)  # 5,488 bytes and the header of a TENSOR: 5,500.
HEAD, TAIL = b"\x02\0\0\0\0\x01", b"\x02\0\0\0\0\x02"
PACKET_PORT = {1: 4, 2: 2}  # Frames of 250 and 1,470 bytes that the smallest socket buffer holds.
_PRIVATE = 128


class Node:
    """A core, what waits between it and its radio, and the radio."""

    def __init__(
        self, mac: bytes, peer: bytes, version: int, rate: str, seed: int, link: dict[str, int]
    ) -> None:
        self.radio = EspNow(mac, version=version, rate_name=rate)
        self.radio.add_peer(peer)
        self.mac, self.peer = mac, peer
        self.core = CoreEnd(head=mac == HEAD, peer=peer, mtu=self.radio.max_data, seed=seed, now=0)
        self.core.on_link(**link)
        self.outstanding = 0
        self.due = 0.0


class Tried(NamedTuple):
    """How messages went: `data_ratio` is DATA frames sent over those that they consist of."""

    mean_ms: float
    p95_ms: float
    data_ratio: float
    exact: int
    given_up: int  # Frames that the MAC gave up.
    airtime: float  # Share of the time that the medium was busy.


class Air:
    """The two nodes and their medium."""

    def __init__(
        self,
        *,
        loss: float = 0.0,
        version: int = 1,
        rate: str = "1M",
        seed: int = 1,
        window: int = 0,
        reorder: int = 0,
        rto_min_us: int = 0,
    ) -> None:
        own = profile(version)
        link = {
            "window": window or own.window,
            "reorder": reorder or own.reorder,
            "rto_min_us": rto_min_us or own.rto_min_us,
            "room": PACKET_PORT[version],
        }
        self.medium = Medium(loss=loss, seed=seed)
        self.now = 0.0
        self.nodes = {
            mac: Node(mac, peer, version, rate, seed + index, link)
            for index, (mac, peer) in enumerate(((HEAD, TAIL), (TAIL, HEAD)))
        }
        for mac in self.nodes:
            self.medium.join(mac, 1)
        self.events: dict[bytes, deque[Any]] = {mac: deque() for mac in self.nodes}

    def _poll(self, node: Node) -> None:
        due, events = node.core.step(math.ceil(self.now))
        self.events[node.mac] += events
        while node.outstanding < MAX_OUTSTANDING and (data := node.core.take_frame()) is not None:
            frame, rate = node.radio.frame_for(node.peer, data)
            self.medium.submit(node.mac, frame, rate, self.now)
            node.outstanding += 1
        node.due = math.inf if due is None else max(float(due), math.ceil(self.now) + 1.0)

    def step(self) -> None:
        """Go on to what happens next."""
        self.now = min(self.medium.next_us(), *(node.due for node in self.nodes.values()))
        touched = {mac for mac, node in self.nodes.items() if node.due <= self.now}
        for one in self.medium.advance(self.now):
            node = self.nodes[one.station]
            touched.add(one.station)
            if not isinstance(one, Received):
                node.outstanding -= 1
                continue
            found = node.radio.receive(one.frame)
            if found is not None:
                self.events[one.station] += node.core.receive(found[1], found[0], int(self.now))
        for mac in touched:
            self._poll(self.nodes[mac])

    def take(self, mac: bytes, kind: int) -> Any:
        """The next event of that kind at a node; others are passed over."""
        while True:
            while self.events[mac]:
                event = self.events[mac].popleft()
                if event.type == kind:
                    return event
            self.step()

    def try_messages(self, count: int, size: int = 5500) -> Tried:
        """Send one message after the other from head to tail."""
        self.take(HEAD, UP)
        head = self.nodes[HEAD].core
        self.nodes[HEAD].due = self.now
        times = []
        exact = 0
        before, busy, began = head.data_out, self.medium.tally.busy_us, self.now
        for token in range(count):
            body = token.to_bytes(4, "little") + TENSOR[: size - 4]
            start = self.now
            assert head.send(_PRIVATE, body, 60_000, token, math.ceil(self.now)) == 0
            self._poll(self.nodes[HEAD])
            sent = self.take(HEAD, SENT)
            assert sent.code == 0
            times.append((self.now - start) / 1000)
            exact += self.take(TAIL, MESSAGE).body == body
        fragments = -(-(size + 16) // (self.nodes[HEAD].radio.max_data - 8))
        return Tried(
            statistics.mean(times),
            sorted(times)[count * 95 // 100],
            (head.data_out - before) / (count * fragments),
            exact,
            self.medium.tally.given_up,
            (self.medium.tally.busy_us - busy) / (self.now - began),
        )


def main() -> None:
    """Print how the choices of the profile do, with 1,000 tensors each."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    tried = [
        {},
        {"reorder": 3},
        {"rto_min_us": 5_000},
        {"rto_min_us": 30_000},
        {"rto_min_us": 300_000},
        {"window": 8},
    ]
    for version in (1, 2):
        for choice in tried:
            cells = []
            for loss in (0.0, 0.1, 0.3, 0.5):
                one = Air(loss=loss, version=version, **choice).try_messages(count)
                assert one.exact == count
                cells.append(f"{one.mean_ms:7.1f} {one.p95_ms:7.1f} {one.data_ratio:6.3f}")
            sys.stdout.write(f"v{version} {choice!s:24} | " + " | ".join(cells) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
