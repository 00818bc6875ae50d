"""Updates of a pair whose boards are killed (kill -9) at random moments.

    python -m tests.host.ota.kills [UPDATES] [SEED]

After each kill the board is started again, and must run a verified image: one of the two bundles,
with its self-test passed. After each update both boards run the same bundle, the new one, and an
inference through both gives the model's bytes.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from host.boards.board import BoardError
from host.ota.shipment import Shipment, shipment
from host.packing import keys
from host.packing.pack import pack, write
from partitioner.bundle import Bundle

from .pairs import Pair, updated


@dataclass
class Tally:
    """What happened; `found` counts, by what the board was doing when it was killed, its starts on
    the old and on the new bundle."""

    updates: int = 0
    commands: int = 0
    kills: int = 0
    found: dict[str, list[int]] = field(default_factory=dict)


class Killer:
    """Kills one board of a pair at a moment and starts it again, `kills` times."""

    def __init__(
        self, pair: Pair, bundles: tuple[str, str], rng: random.Random, span_s: float
    ) -> None:
        self._pair = pair
        self._bundles = bundles  # Old, new.
        self._rng = rng
        self._span_s = span_s
        self.phase = "asking"
        self.kills: list[tuple[str, bool]] = []
        self.failures: list[str] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        for _ in range(self._rng.choice((1, 1, 2))):
            if self._over.wait(self._rng.uniform(0, self._span_s)):
                return
            stage = self._rng.randrange(2)
            phase = self.phase
            self._pair.kill(stage)
            try:
                info: dict[str, Any] = self._pair.start(stage)
            except BoardError as error:
                self.failures.append(f"stage {stage}, killed while {phase}: {error}")
                return
            self.kills.append((phase, info["bundle"] == self._bundles[1]))
            if info["bundle"] not in self._bundles or info["selftest"]["first_wrong"] is not None:
                self.failures.append(f"stage {stage}, killed while {phase}, runs {info}")

    def __enter__(self) -> Killer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def _command(pair: Pair, images: dict[int, Shipment], killer: Killer | None) -> bool:
    """One `tinysplit ota`."""

    def phase(name: str) -> None:
        if killer is not None:
            killer.phase = name

    outcome, _ = updated(pair, images, patience_s=4.0, phase=phase)
    return outcome.done and not outcome.problem


def run(a: Bundle, b: Bundle, key: keys.PrivateKey, folder: Path, updates: int, seed: int) -> Tally:
    """Move a pair back and forth between two bundles, `updates` times.

    Raises:
        AssertionError: a board did not start on a verified image, or the two did not meet.
    """
    rng = random.Random(seed)
    tally = Tally()
    version = 1
    write(pack(a, range(2), key, version=version), folder / "images")
    (folder / "flash").mkdir()
    with Pair("udp", folder / "images", folder / "flash", folder / "key.pub") as pair:
        expected = [
            a.selftest()[f"output_{i}"][0].tobytes() for i in range(len(a.manifest.outputs))
        ]
        old, new = a, b
        for _ in range(updates):
            version += 1
            made = [shipment(one.data) for one in pack(new, range(2), key, version=version)]
            images = {one.stage: one for one in made}
            killer = Killer(pair, (old.manifest.id, new.manifest.id), rng, rng.choice((0.1, 0.4)))
            with killer:
                finished = _command(pair, images, killer)
                tally.commands += 1
            assert not killer.failures, killer.failures
            for phase, on_new in killer.kills:
                tally.found.setdefault(phase, [0, 0])[on_new] += 1
            tally.kills += len(killer.kills)
            for _ in range(3):
                # Again: the board may have been killed after the command had ended.
                if finished and all(_runs(pair, stage, new) for stage in (0, 1)):
                    break
                finished = _command(pair, images, None)
                tally.commands += 1
            assert all(_runs(pair, stage, new) for stage in (0, 1)), "they did not meet"
            assert _infers(pair, expected), "no right result through both"
            tally.updates += 1
            old, new = new, old
    return tally


def _runs(pair: Pair, stage: int, bundle: Bundle) -> bool:
    return bool(pair.info(stage)["bundle"] == bundle.manifest.id)


def _infers(pair: Pair, expected: list[bytes]) -> bool:
    import base64

    head = pair.boards[0]
    assert head is not None
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            answer = head.ask("run", 10, input="selftest", timeout_ms=3000)
        except BoardError:
            time.sleep(0.05)
            continue
        return [base64.b64decode(tensor) for tensor in answer["tensors"]] == expected
    return False


def _main(updates: int, seed: int) -> None:
    from partitioner.bundle import build
    from partitioner.catalogue import Catalogue
    from partitioner.graph import Graph

    data = Path(__file__).parents[2] / "data"
    graph = Graph((data / "stranger.tflite").read_bytes())
    model: dict[str, Any] = {
        "name": "stranger",
        "source": "tflite",
        "weights": None,
        "weights_sha256": "0" * 64,
        "preprocessing": "tf",
        "class_names": None,
    }
    a, b = (
        build(
            graph,
            Catalogue(graph, None).chain((cut,)),
            model=model,
            calibration=None,
            realistic=[],
        )
        for cut in ("#1", "#6")
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        tally = run(a, b, keys.new(folder / "key"), folder, updates, seed)
    print(
        f"{tally.updates} updates by {tally.commands} commands, {tally.kills} kills: every start "
        "ran a verified bundle, and both boards ended on the same one each time"
    )
    for phase, (on_old, on_new) in sorted(tally.found.items()):
        print(f"  killed while {phase}: {on_old} starts on the old, {on_new} on the new")


if __name__ == "__main__":
    try:
        _main(*(int(text) for text in [*sys.argv[1:], *("200", "1")[len(sys.argv) - 1 :]]))
    except (subprocess.SubprocessError, AssertionError) as error:
        sys.exit(f"failed: {error}")
