"""Ten heads over mixed transports for ten minutes, on links that lose frames: `make gateway-hold`.

    python -m tests.host.gateway.hold BUNDLE [MINUTES]

Every result is compared with the uncut model, byte for byte. The gateway's memory and its engines'
are taken every five seconds; flat means that the last third's median is within 3 % or 2 MiB of the
middle third's.
"""

from __future__ import annotations

import os
import statistics
import sys
import threading
import time
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from partitioner import bundle
from tests.host.gateway.mixed import Head, Inputs, Shelf

COUNTS = {"udp": 3, "tcp": 3, "espnow": 2, "ble": 2}
LOSS = 0.05
LOOK_S = 5.0
MIB = 1 << 20


def resident(pid: int) -> int:
    """Bytes (Linux)."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def flat(samples: list[int]) -> bool:
    third = len(samples) // 3
    before = statistics.median(samples[third : 2 * third])
    after = statistics.median(samples[2 * third :])
    return after - before <= max(0.03 * before, 2 * MIB)


def hold(folder: Path, seconds: float) -> bool:
    """Whether everything held."""
    inputs = Inputs(bundle.read(folder))
    with Shelf(folder, COUNTS, LOSS) as shelf:
        end = time.monotonic() + seconds
        done: Counter[str] = Counter()
        times: dict[str, list[int]] = {}
        lock = threading.Lock()

        def work(head: Head) -> None:
            number = 0
            while time.monotonic() < end:
                took_us = inputs.ask(head.board, number)
                number += 1
                with lock:
                    done[head.transport] += 1
                    times.setdefault(head.transport, []).append(took_us)

        pid = shelf.gateway.process.pid
        link: list[int] = []
        engines: list[int] = []
        with ThreadPoolExecutor(len(shelf.heads)) as pool:
            tasks = [pool.submit(work, head) for head in shelf.heads]
            while time.monotonic() < end and not any(task.done() for task in tasks):
                time.sleep(min(LOOK_S, max(end - time.monotonic(), 0)))
                link.append(resident(pid))
                engines.append(sum(resident(child) for child in children(pid)))
            for task in tasks:
                task.result()  # Raises what was not exact, or lost.
        with urllib.request.urlopen(f"http://{shelf.gateway.http}/metrics", timeout=10) as answer:
            metrics = answer.read().decode()
        code, errors = shelf.gateway.stop()
    for line in metrics.splitlines():
        if line.startswith(("tinysplit_gateway_requests_total", "tinysplit_gateway_retransmitted")):
            print(line)
    for transport, count in sorted(done.items()):
        median_ms = statistics.median(times[transport]) / 1000
        how = "modelled air" if transport in ("ble", "espnow") else "measured"
        print(f"{transport}: {count} inferences exact, median {median_ms:.1f} ms ({how})")
    tcp = "TCP's packets, too" if shelf.tcp_loss else "but TCP's packets: nftables needs root"
    print(f"{sum(done.values())} results, all exact, none lost; {LOSS:.0%} of frames lost, {tcp}")
    held = code == 0 and not errors
    for name, samples in (("the gateway", link), ("its engines", engines)):
        steady = flat(samples)
        held = held and steady
        first, last = samples[len(samples) // 3] / MIB, samples[-1] / MIB
        print(
            f"memory of {name}: {first:.1f} MiB after a third, {last:.1f} MiB in the end, "
            f"{max(samples) / MIB:.1f} MiB at most: {'flat' if steady else 'NOT FLAT'}"
        )
    print(f"stopped by SIGTERM with exit code {code}")
    return held


if __name__ == "__main__":
    minutes = float(sys.argv[2]) if len(sys.argv) > 2 else 10.0
    sys.exit(0 if hold(Path(sys.argv[1]), minutes * 60) else 1)
