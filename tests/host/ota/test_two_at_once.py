"""Two updates of the same boards: one at a time, the other reads whose it is; nobody who died, and
nobody else, keeps a board or disturbs it."""

from __future__ import annotations

import random
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result

from host.boards import address
from host.boards.board import BoardError
from host.boards.control import ControlError
from host.boards.linked import LinkedBoard
from host.boards.virtual.holding import LEASE_S, Lease
from host.cli import main
from host.ota.courier import Courier
from host.packing.pack import pack, write
from host.reach import Reach
from partitioner import child

from .conftest import Cuts
from .pairs import Inferring, Pair
from .test_fleet import bundles, large, moved, states

Invoke = Callable[..., Result]


@pytest.fixture
def pair(cuts: Cuts, tmp_path: Path) -> Iterator[Pair]:
    with Pair("udp", cuts.folder / "images-a", tmp_path, cuts.public_key) as made:
        yield made


@pytest.fixture
def newer_a(cuts: Cuts, tmp_path: Path) -> Path:
    """Images of bundle A that are newer than all others."""
    write(pack(cuts.a, range(2), cuts.key, version=9), tmp_path / "newer-a")
    return tmp_path / "newer-a"


def command(folder: Path, pair: Pair, *options: str) -> list[str]:
    words = [*child.command("host.cli", "main"), "ota", str(folder), *pair.arguments, *options]
    return [str(word) for word in words]


def begin(folder: Path, pair: Pair, *options: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(command(folder, pair, *options), stdout=pipe, stderr=pipe, text=True)


@pytest.mark.parametrize("seed", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 3, 4))])
def test_two_processes_race(cuts: Cuts, pair: Pair, newer_a: Path, seed: int) -> None:
    rng = random.Random(seed)
    images = [cuts.folder / "images-b", newer_a]
    with Inferring(pair, cuts.a) as inferring:
        racing = []
        for folder in rng.sample(images, 2):
            racing.append((folder, begin(folder, pair)))
            time.sleep(rng.uniform(0, 0.3))
        ended = {folder: (one, *one.communicate(timeout=60)) for folder, one in racing}
    for folder, (one, told, said) in ended.items():
        assert "Traceback" not in told + said
        named = re.search(r"\[(busy|image_version)\]", said)
        assert one.returncode == (0 if named is None else 1), (folder, told, said)
    # The newer one wins in the end; a first that found the other done is refused by its version.
    assert ended[newer_a][0].returncode == 0
    assert bundles(pair) == [cuts.a.manifest.id] * 2
    assert [pair.info(stage)["image_version"] for stage in (0, 1)] == [9, 9]
    assert inferring.wrong == 0


def test_the_other_one_is_named(cuts: Cuts, pair: Pair, newer_a: Path, invoke: Invoke) -> None:
    said: list[str] = []

    def phase(name: str) -> None:
        if name in ("verifying", "arming", "restarting"):
            done = invoke(main, "ota", newer_a, *pair.arguments, "--patience", "0")
            assert done.exit_code == 1
            said.append(done.stderr)

    outcome, couriers = moved(pair, cuts.folder / "images-b", phase=phase)
    assert outcome.done, outcome.problem
    assert states(couriers) == ["running"] * 2
    assert bundles(pair) == [cuts.b.manifest.id] * 2
    assert len(said) == 3
    for text in said:
        assert re.search(r"another update is under way, by \S+:\d+, heard \d+ s ago", text)
        assert "[busy]" in text
        assert "All boards run what they ran" in text


def test_whoever_is_taken_over_says_so_and_switches_nothing(
    cuts: Cuts, pair: Pair, newer_a: Path, invoke: Invoke
) -> None:
    def phase(name: str) -> None:
        if name == "arming":
            done = invoke(main, "ota", newer_a, *pair.arguments, "--take-over")
            assert done.exit_code == 0, done.stderr

    outcome, couriers = moved(pair, cuts.folder / "images-b", phase=phase)
    assert not outcome.done
    assert outcome.problem is not None
    assert "no board was switched" in outcome.problem
    assert {courier.report.code for courier in couriers} == {"slot_not_ready"}
    assert bundles(pair) == [cuts.a.manifest.id] * 2
    assert [pair.info(stage)["image_version"] for stage in (0, 1)] == [9, 9]


def killed_while_it_sends(folder: Path, pair: Pair) -> None:
    """A command that is killed when the first bytes are there."""
    with begin(folder, pair, "--patience", "30") as dead:
        tail = pair.boards[1]
        assert tail is not None
        end = time.monotonic() + 30
        while time.monotonic() < end:
            try:
                if tail.ask("update_data", offset=0, data="")["offset"] > 4096:
                    break
            except BoardError as error:
                if error.code == "busy":  # Somebody has begun; nobody else sees how far he is.
                    break
        dead.kill()
        dead.communicate()


def test_the_dead_are_taken_over_on_demand(
    cuts: Cuts, pair: Pair, newer_a: Path, tmp_path: Path, invoke: Invoke
) -> None:
    killed_while_it_sends(large(cuts, tmp_path / "large"), pair)
    refused = invoke(main, "ota", newer_a, *pair.arguments, "--patience", "0")
    assert refused.exit_code == 1
    assert "--take-over" in refused.stderr
    done = invoke(main, "ota", newer_a, *pair.arguments, "--patience", "0", "--take-over")
    assert done.exit_code == 0, done.stderr
    assert [pair.info(stage)["image_version"] for stage in (0, 1)] == [9, 9]


@pytest.mark.slow
def test_the_dead_are_waited_for_and_their_update_goes_on(
    cuts: Cuts, pair: Pair, tmp_path: Path, invoke: Invoke
) -> None:
    images = large(cuts, tmp_path / "large")
    killed_while_it_sends(images, pair)
    started = time.monotonic()
    done = invoke(main, "ota", images, *pair.arguments)
    assert done.exit_code == 0, done.stderr
    assert time.monotonic() - started < LEASE_S + 10
    assert bundles(pair) == [cuts.b.manifest.id] * 2


@pytest.mark.slow
def test_a_board_that_is_done_is_kept_while_another_is_slow(
    cuts: Cuts, pair: Pair, newer_a: Path, invoke: Invoke
) -> None:
    """For longer than a board remembers who updates it."""
    waited = threading.Event()

    def watch(courier: Courier) -> None:
        if courier.node.stage == 1 and courier.report.state == "staged" and not waited.is_set():
            waited.set()
            time.sleep(LEASE_S + 5)
            head = ("--node", f"head={pair.names[0]}", "--partial")
            done = invoke(main, "ota", newer_a, *head, "--patience", "0")
            assert done.exit_code == 1
            assert "[busy]" in done.stderr

    outcome, _ = moved(pair, cuts.folder / "images-b", watch, patience_s=30)
    assert outcome.done, outcome.problem
    assert waited.is_set()


def test_pieces_of_others_change_nothing(cuts: Cuts, pair: Pair, tmp_path: Path) -> None:
    """BLOBs and commands of a peer that begins nothing, at the very offset that is due."""
    images = large(cuts, tmp_path / "large")
    tries = 0
    with Reach(timeout_s=2) as way:
        foreign = way.open(address.parse(pair.names[1]), "foreign")
        assert isinstance(foreign, LinkedBoard)

        def watch(courier: Courier) -> None:
            nonlocal tries
            if courier.node.stage != 1 or not 0 < courier.offset < 200_000:
                return
            tries += 1
            foreign.send_blob(tries, courier.offset, 1 << 30, bytes(1000))
            for name, fields in (
                ("update_data", {"offset": courier.offset, "data": ""}),
                ("update_finish", {}),
                ("update_abort", {}),
                ("update_release", {}),
                ("update_activate", {"digest": "0" * 64}),
                ("update_fetch", {"url": "http://127.0.0.1:9/", "digest": "0" * 64}),
            ):
                with pytest.raises(BoardError) as refused:
                    foreign.ask(name, **fields)
                assert refused.value.code == "busy", name

        outcome, couriers = moved(pair, images, watch)
        foreign.close()
    assert outcome.done, outcome.problem
    assert tries > 10
    assert couriers[1].report.sent_bytes < len((images / "stage1.tsim").read_bytes()) + 64
    assert bundles(pair) == [cuts.b.manifest.id] * 2


def test_whose_update_it_is() -> None:
    now = 0.0
    lease = Lease(lambda: now)

    def busy(owner: int) -> bool:
        try:
            lease.check(owner)
        except ControlError as error:
            assert error.code == "busy"  # noqa: PT017
            return True
        return False

    lease.take(0)
    assert not busy(5)  # Nobody in particular keeps nothing.
    lease.take(1, "one")
    assert (busy(1), busy(2), busy(0)) == (False, True, True)
    now += LEASE_S - 1
    with pytest.raises(ControlError, match=r"by one, heard 19 s ago"):
        lease.take(2, "two")
    lease.check(1)  # Heard again.
    now += LEASE_S - 1
    assert busy(2)
    now += 1
    lease.take(2, "two")
    with pytest.raises(ControlError, match=r"by two, heard 0 s ago"):
        lease.check(1)
    lease.take(1, "one", take_over=True)
    assert busy(2)
    lease.release()
    assert not busy(2)
    lease.take(3)
    with pytest.raises(ControlError, match="by number 3"):
        lease.check(1)


@pytest.mark.slow
def test_a_command_lets_go_when_it_is_over(cuts: Cuts, pair: Pair, newer_a: Path) -> None:
    """Although it failed, and what it sent stays."""

    def phase(name: str) -> None:
        if name == "arming":
            pair.kill(1)

    outcome, couriers = moved(pair, cuts.folder / "images-b", patience_s=0.2, phase=phase)
    assert not outcome.done
    assert states(couriers)[0] == "old"
    pair.start(1)
    assert moved(pair, newer_a, patience_s=0)[0].done
