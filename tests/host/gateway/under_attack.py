"""A gateway under attack while good heads go on: how much longer their answers take.

    .venv/bin/python -m tests.host.gateway.under_attack [--bundle FOLDER] [--rounds 3] [--seconds 3]

For each attack blocks with and without it, in a drawn order, on one gateway with the same heads.
Says 99th percentiles, memory, and what the attackers did; exits 1 if a result is wrong or lost, if
the gateway ends or grows, or if an attack makes the other heads' 99th percentile more than twice
what it was without. About five minutes; wants a quiet machine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments.load.generator import Heads, Report, build, write_examples
from host.closing import Assembly
from partitioner import bundle as bundles
from partitioner.bundle import Bundle
from tests.host.gateway.attacks import ATTACKS
from tests.host.gateway.heads import GatewayProcess
from tests.ports import free_port

ROOT = Path(__file__).parents[3]
HOST = "127.0.0.1"
GROWTH = 2.0  # of the other heads' p99
MEMORY_MB = 64  # that attackers may make the gateway take: its sessions and connections have bounds
SETTLE_S = 0.7
TIMEOUT_MS = 30_000  # Long: what is late is in the percentiles, and is not lost.
BUNDLE = "mobilenet_v2_0.35_96_digits-block_16_project_BN"


class Siege(Assembly):
    """A gateway on UDP and TCP, `count` good heads (half on each), and attackers.

    A context manager.
    """

    def __init__(
        self,
        program: Path,
        opened: Bundle,
        folder: Path,
        scratch: Path,
        count: int,
        *options: object,
    ) -> None:
        super().__init__()
        self._program = program
        self._opened = opened
        self._folder = folder
        self._examples = scratch / "examples"
        self._count = count
        self._options = options

    def _assemble(self) -> None:
        write_examples(self._opened, self._examples)
        places = (f"udp://{HOST}:{free_port()}", f"tcp://{HOST}:{free_port()}")
        listen = [word for place in places for word in ("--listen", place)]
        self.gateway = self._stack.enter_context(
            GatewayProcess(self._folder, *listen, "--every", 3600, *self._options)
        )
        self.good = [self.heads(kind, self._count // 2) for kind in ("udp", "tcp")]
        self.rss_before = self.rss_mb()

    def heads(self, kind: str, count: int) -> Heads:
        """More good heads; they stay until the siege is over."""
        port = self.gateway.ports[kind == "tcp"]
        heads = Heads(
            self._program, kind, (HOST, port), self._examples, count=count, timeout_ms=TIMEOUT_MS
        )
        return self._stack.enter_context(heads)

    def rss_mb(self) -> float:
        """Of the gateway without its engines, which attackers do not reach."""
        text = Path(f"/proc/{self.gateway.process.pid}/statm").read_text()
        return int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)

    @contextlib.contextmanager
    def attack(self, *kinds: str, share: float = 1.0) -> Iterator[dict[str, Any]]:
        """Under these attacks, at a share of their rates; what each did is there in the end."""
        told: dict[str, Any] = {}
        places = [HOST, *map(str, self.gateway.ports), str(self._examples)]
        pipe = subprocess.PIPE
        attackers = {
            kind: subprocess.Popen(
                [sys.executable, "-m", "tests.host.gateway.attacks", kind, *places,
                 str(ATTACKS[kind][1] * share)],
                stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=ROOT,
            )
            for kind in kinds
        }  # fmt: skip
        try:
            for kind, attacker in attackers.items():
                assert attacker.stdout is not None
                if attacker.stdout.readline() != "begun\n":
                    raise AssertionError(f"{kind} failed: {attacker.communicate()[1]}")
            yield told
            for attacker in attackers.values():
                assert attacker.stdin is not None
                attacker.stdin.close()
                attacker.stdin = None
            for kind, attacker in attackers.items():
                out, err = attacker.communicate(timeout=60)
                if attacker.returncode:
                    raise AssertionError(f"{kind} failed: {err}")
                told[kind] = json.loads(out)
        finally:
            for attacker in attackers.values():
                if attacker.poll() is None:
                    attacker.kill()
                    attacker.wait()

    def block(self, seconds: float, rate: float, seed: int) -> list[Report]:
        """Open loop at `rate` in all, by the UDP and the TCP heads at once."""
        for heads in self.good:
            heads.begin_open(seconds, rate / len(self.good), seed=seed, warm_s=0.2)
        return [heads.report() for heads in self.good]


def compare(siege: Siege, attack: str, rounds: int, seconds: float, rate: float) -> dict[str, Any]:
    """p99 of the other heads with the attack over that without, by round."""
    rng = random.Random(attack)
    found: dict[str, list[float]] = {"quiet": [], "attack": []}
    bad: dict[str, int] = {"wrong": 0, "lost": 0}
    told: dict[str, Any] = {}
    for number in range(rounds):
        for kind in rng.sample(["quiet", "attack"], 2):
            with contextlib.ExitStack() as stack:
                if kind == "attack":
                    told = stack.enter_context(siege.attack(attack))
                    time.sleep(SETTLE_S)
                reports = siege.block(seconds, rate, seed=number + 1)
            time.sleep(SETTLE_S)
            found[kind].append(max(one["latency_us"]["p99"] for one in reports))
            for name in bad:
                bad[name] += sum(one[name] for one in reports)
    ratios = [a / q for a, q in zip(found["attack"], found["quiet"], strict=True)]
    return {
        "attack": attack,
        "quiet_ms": statistics.median(found["quiet"]) / 1000,
        "attack_ms": statistics.median(found["attack"]) / 1000,
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "rss_mb": siege.rss_mb(),
        **bad,
        "did": told.get(attack),
    }


def judge(siege: Siege, rows: Sequence[dict[str, Any]]) -> list[str]:
    failed = []
    for row in rows:
        if row["wrong"] or row["lost"]:
            failed.append(f"{row['attack']}: {row['wrong']} results wrong, {row['lost']} lost")
        if row["ratio"] > GROWTH:
            failed.append(f"{row['attack']}: p99 is {row['ratio']:.2f} times that without")
    if siege.gateway.process.poll() is not None:
        failed.append("the gateway ended")
    grown = max(row["rss_mb"] for row in rows) - siege.rss_before
    if grown > MEMORY_MB:
        failed.append(f"the gateway took {grown:.0f} MB more")
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, default=Path("build") / BUNDLE)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rate", type=float, default=200.0, help="requests/s of all good heads")
    parser.add_argument("--attacks", default=",".join(ATTACKS))
    chosen = parser.parse_args()
    if not set(chosen.attacks.split(",")) <= set(ATTACKS):
        parser.error(f"--attacks takes {', '.join(ATTACKS)}")
    if not (chosen.bundle / "manifest.json").exists():
        parser.error(f"{chosen.bundle} is no bundle: run make demo first, or name one")
    opened = bundles.read(chosen.bundle)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        program = build(Path(scratch))
        options = ("--engine-cores", min(os.sched_getaffinity(0)))
        with Siege(program, opened, chosen.bundle, Path(scratch), 20, *options) as siege:
            print(f"load {os.getloadavg()[0]:.1f}; the gateway has {siege.rss_before:.1f} MB\n")
            print("| attack | p99 without | p99 with | ratio, median and all | RSS | it did |")
            print("|---|---|---|---|---|---|")
            for attack in chosen.attacks.split(","):
                row = compare(siege, attack, chosen.rounds, chosen.seconds, chosen.rate)
                rows.append(row)
                every = ", ".join(f"{ratio:.2f}" for ratio in row["ratios"])
                print(
                    f"| {attack} | {row['quiet_ms']:.2f} ms | {row['attack_ms']:.2f} ms | "
                    f"{row['ratio']:.2f} ({every}) | {row['rss_mb']:.1f} MB | {row['did']} |",
                    flush=True,
                )
            failed = judge(siege, rows)
            code, said = siege.gateway.stop()
            if code or said:
                failed.append(f"the gateway ended with {code}: {said}")
    if failed:
        raise SystemExit("does not hold: " + "; ".join(failed))


if __name__ == "__main__":
    main()
