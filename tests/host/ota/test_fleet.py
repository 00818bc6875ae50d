"""Updates that go wrong: who runs what afterwards, what is said, what the same command mends."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from host.boards.address import Address, parse
from host.boards.virtual.process import VirtualBoard
from host.cli import main
from host.ota import courier as courier_module
from host.ota import shipment
from host.ota.courier import Courier
from host.ota.fleet import Outcome
from host.ota.shipment import packed_already
from host.packing import keys
from host.packing.pack import Packed, pack, write
from partitioner.output import OutputError
from tests.ports import free_port

from .conftest import Cuts
from .pairs import LABELS, Inferring, Pair, updated

Invoke = Callable[..., Result]
# Says when boards are asked; SIGINT arrives although a parent may have it ignored.
INTERRUPTIBLE = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from host.cli import main
from host.ota.courier import Courier
survey = Courier.survey
def told(self):
    if self.node.stage == 0:
        print("asking", file=sys.stderr, flush=True)
    survey(self)
Courier.survey = told
main()
"""


# Before the tail is told to restart it waits for a line on standard input.
INTERRUPTIBLE_RESTART = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from host.cli import main
from host.ota.courier import Courier
restart = Courier.restart
def told(self):
    if self.node.stage == 1:
        print("restarting", file=sys.stderr, flush=True)
        sys.stdin.readline()
    restart(self)
Courier.restart = told
main()
"""


@pytest.fixture
def pair(cuts: Cuts, tmp_path: Path) -> Iterator[Pair]:
    with Pair("udp", cuts.folder / "images-a", tmp_path, cuts.public_key) as made:
        yield made


def moved(
    pair: Pair,
    images: Path,
    watch: Callable[[Courier], None] = lambda _: None,
    patience_s: float = 1.0,
    phase: Callable[[str], None] = lambda _: None,
    via: str | None = None,
) -> tuple[Outcome, list[Courier]]:
    """The update to the images in a folder, with something to do on the way."""
    shipments = packed_already(images)
    return updated(pair, shipments, watch=watch, patience_s=patience_s, phase=phase, via=via)


def states(couriers: list[Courier]) -> list[str]:
    return [courier.report.state for courier in couriers]


def bundles(pair: Pair) -> list[str]:
    return [pair.info(stage)["bundle"] for stage in (0, 1)]


def test_boards_that_run_it_are_left_alone(cuts: Cuts, pair: Pair, invoke: Invoke) -> None:
    command = ("ota", cuts.folder / "b", "--key", cuts.key_file, *pair.arguments)
    first = invoke(main, *command)
    assert first.exit_code == 0, first.output
    assert "gap in service" in first.output
    assert "measured" in first.output
    uptimes = [pair.info(stage)["uptime_ms"] for stage in (0, 1)]
    again = invoke(main, *command, "--json")
    assert again.exit_code == 0
    assert [board["state"] for board in json.loads(again.stdout)["boards"]] == ["current"] * 2
    assert all(pair.info(s)["uptime_ms"] > before for s, before in enumerate(uptimes))
    # There and back: what was packed before is older than what runs now, and is packed anew.
    for folder, bundle in (("a", cuts.a), ("b", cuts.b)):
        done = invoke(main, "ota", cuts.folder / folder, "--key", cuts.key_file, *pair.arguments)
        assert done.exit_code == 0, done.output
        assert bundles(pair) == [bundle.manifest.id] * 2


def test_a_version_is_kept_to_or_refused(cuts: Cuts, pair: Pair, invoke: Invoke) -> None:
    command = ("ota", cuts.folder / "b", "--key", cuts.key_file, *pair.arguments)
    refused = invoke(main, *command, "--version", "1")
    assert refused.exit_code == 1
    assert "--version 1 is not newer" in refused.stderr
    assert bundles(pair) == [cuts.a.manifest.id] * 2
    done = invoke(main, *command, "--version", "7")
    assert done.exit_code == 0, done.output
    assert [pair.info(stage)["image_version"] for stage in (0, 1)] == [7, 7]


def test_two_commands_make_the_same_images(
    cuts: Cuts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make() -> list[str]:
        made = shipment.of_bundle(
            cuts.b, cuts.key, newer_than=1, version=None, now=9, kept=tmp_path / "kept"
        )
        return [one.digest for one in made]

    first: list[str] = []
    tried = shipment._tried

    def other_is_first(packed: Packed) -> None:
        monkeypatch.setattr(shipment, "_tried", tried)
        first.extend(make())

    monkeypatch.setattr(shipment, "_tried", other_is_first)
    assert make() == first
    assert [folder.name for folder in tmp_path.iterdir()] == ["kept-9"]
    (tmp_path / "kept-9" / "stage1.tsim").write_bytes(b"damaged")
    with pytest.raises(OutputError, match="exists already"):
        make()


def test_images_kept_for_updates_do_not_pile_up(cuts: Cuts, tmp_path: Path) -> None:
    """What was used last stays, what is young stays, and what is not ours stays."""
    signer = cuts.key.public.fingerprint

    def make(version: int, age_s: float) -> Path:
        folder = tmp_path / f"{cuts.b.manifest.id[:16]}-{signer}-{version}"
        write(pack(cuts.b, range(2), cuts.key, version=version), folder)
        os.utime(folder, (time.time() - age_s,) * 2)
        return folder

    old = [make(n, 2 * shipment.KEPT_S + 100 - n) for n in range(1, shipment.KEPT + 3)]
    mine = tmp_path / f"{'0' * 16}-unsigned-1"
    mine.mkdir()
    (mine / "notes.txt").write_text("not packed here")
    os.utime(mine, (0, 0))

    def bring(newer_than: int, version: int | None = None) -> int:
        kept = tmp_path / f"{cuts.b.manifest.id[:16]}-{signer}"
        made = shipment.of_bundle(
            cuts.b, cuts.key, newer_than=newer_than, version=version, now=50, kept=kept
        )
        return made[0].version

    assert bring(0, version=1) == 1  # Used, so the youngest now.
    assert all(folder.exists() for folder in old)
    assert bring(40) == 50
    left = sorted(int(f.name.rpartition("-")[2]) for f in tmp_path.iterdir() if f != mine)
    assert left == [1, *range(len(old) - shipment.KEPT + 3, len(old) + 1), 50]
    assert (mine / "notes.txt").exists()
    for version in range(51, 60):  # All of them young.
        assert bring(version - 1) == version
    assert len(list(tmp_path.iterdir())) == 1 + 10 + 1
    shipment.prune(tmp_path / "none")


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda data, other: other, "2 bundles"),
        (lambda data, other: data[:-1], "bytes long"),
        (lambda data, other: data[:20] + b"\1" + data[21:], "header is damaged"),
        (lambda data, other: bytes(2000), "not an image"),
        (lambda data, other: data[:40], "shortest image"),
    ],
    ids=["mixed", "truncated", "damaged", "garbage", "short"],
)
def test_a_folder_that_is_no_chain_is_sent_to_nobody(
    cuts: Cuts,
    tmp_path: Path,
    invoke: Invoke,
    spoil: Callable[[bytes, bytes], bytes],
    why: str,
) -> None:
    folder = tmp_path / "images"
    write(pack(cuts.b, range(2), cuts.key, version=3), folder)
    tail = folder / "stage1.tsim"
    other = pack(cuts.a, [1], cuts.key, version=3)[0].data
    tail.write_bytes(spoil(tail.read_bytes(), other))
    nobody = ("--node", "head=udp://127.0.0.1:9", "--node", "tail=udp://127.0.0.1:10")
    done = invoke(main, "ota", folder, *nobody, "--patience", "0")
    assert done.exit_code == 1
    assert why in done.stderr
    assert "nothing was sent" not in done.stderr  # No board was asked.


def test_ctrl_c_does_not_wait_for_boards_that_are_gone(cuts: Cuts, tmp_path: Path) -> None:
    command = [sys.executable, "-c", INTERRUPTIBLE, "ota", cuts.folder / "b", "--unsigned"]
    command += ["--node", "head=udp://127.0.0.1:9", "--node", "tail=udp://127.0.0.1:10"]
    command += ["--patience", "600", "--verbose"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    assert process.stderr is not None
    try:
        assert process.stderr.readline().strip() == "asking"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert said.strip() == "interrupted; the same command again goes on from here"


def test_ctrl_c_while_boards_restart_ends_at_once_and_says_where_each_is(
    cuts: Cuts, pair: Pair, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", INTERRUPTIBLE_RESTART, "ota", str(cuts.folder / "images-b")]
    process = subprocess.Popen(
        [*command, *pair.arguments, "--patience", "600"],
        stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert process.stderr is not None
    assert process.stdin is not None
    try:
        said = ""
        while "restarting" not in said:
            said += process.stderr.readline()
        pair.kill(1)
        process.stdin.write("\n")
        process.stdin.flush()
        while not re.search("head.*: running", said):
            said += process.stderr.readline()
        time.sleep(0.3)
        sent = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=20)
        took_s = time.monotonic() - sent
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert took_s < 5.0  # A tenth of a second, and the end of an interpreter on a busy machine.
    assert rest.splitlines()[0] == "interrupted; the same command again goes on from here"
    assert re.search(r"head \(.*\): runs it", rest)
    assert re.search(r"tail \(.*\): starts it when it restarts", rest)
    assert "Traceback" not in rest
    pair.start(1)
    assert bundles(pair) == [cuts.b.manifest.id] * 2


def test_boards_without_slots_are_told_of_and_how_they_get_them(cuts: Cuts, invoke: Invoke) -> None:
    here = Address("udp", "127.0.0.1", 0)
    with VirtualBoard("tail", cuts.folder / "a", 1, here, None) as tail:
        place = tail.wait_ready(60)["listen"]
        with VirtualBoard("head", cuts.folder / "a", 0, here, parse(place)) as head:
            nodes = (f"head={head.wait_ready(60)['listen']}", f"tail={place}")
            given = [word for node in nodes for word in ("--node", node)]
            result = invoke(main, "ota", cuts.folder / "b", "--key", cuts.key_file, *given)
    said = " ".join(result.output.split())
    assert result.exit_code == 1, said
    assert "start it from an image" in said
    assert "told to forget" not in said


def test_boards_that_do_not_meet_are_an_error(
    cuts: Cuts, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(courier_module, "LEAST_MEETING_S", 0.5)

    head = pair.boards[0]
    assert head is not None
    head.ask("configure", set={"next": f"udp://127.0.0.1:{free_port()}"})
    head.reboot()
    outcome, couriers = moved(pair, cuts.folder / "images-b", patience_s=0.2)
    assert not outcome.done
    assert couriers[0].report.code == "no_session"
    assert outcome.problem is not None
    assert "has no session to its next stage after" in outcome.problem
    assert outcome.advice is not None
    assert "all boards run the new image" in outcome.advice
    assert not outcome.gaps_ms
    assert states(couriers) == ["running"] * 2
    assert bundles(pair) == [cuts.b.manifest.id] * 2


def test_a_part_of_a_chain_waits_for_nobody(cuts: Cuts, pair: Pair, invoke: Invoke) -> None:
    head, tail = (
        ("--node", f"{label}={name}") for label, name in zip(LABELS, pair.names, strict=True)
    )
    done = invoke(main, "ota", cuts.folder / "images-b", *head, "--partial")
    assert done.exit_code == 0, done.output
    assert "no results until the boards not named here run it, too" in done.stderr
    assert bundles(pair) == [cuts.b.manifest.id, cuts.a.manifest.id]
    done = invoke(main, "ota", cuts.folder / "images-b", *head, *tail)
    assert done.exit_code == 0, done.output
    assert bundles(pair) == [cuts.b.manifest.id] * 2


@pytest.mark.slow
def test_packed_images_that_run_are_left_alone(cuts: Cuts, pair: Pair, invoke: Invoke) -> None:
    for expected in ("running", "current"):
        done = invoke(main, "ota", cuts.folder / "images-b", *pair.arguments, "--json")
        assert done.exit_code == 0, done.output
        assert {board["state"] for board in json.loads(done.stdout)["boards"]} == {expected}


def test_one_refuses_and_none_is_switched(
    cuts: Cuts, pair: Pair, tmp_path: Path, invoke: Invoke
) -> None:
    mixed = tmp_path / "mixed"
    write(pack(cuts.b, range(2), cuts.key, version=2), mixed)
    foreign = pack(cuts.b, [1], keys.new(tmp_path / "foreign"), version=2)
    (mixed / "stage1.tsim").write_bytes(foreign[0].data)
    with Inferring(pair, cuts.a) as inferring:
        done = invoke(main, "ota", mixed, *pair.arguments)
        inferring.wait(10)
    assert done.exit_code == 1
    assert "no board was switched" in done.stderr
    assert "tail" in done.stderr
    assert "image_signature" in done.stderr
    assert "not signed with the key of this board" in done.stderr
    assert "What had been sent was dropped" in done.stderr
    assert "Traceback" not in done.output
    assert bundles(pair) == [cuts.a.manifest.id] * 2
    assert inferring.wrong == 0
    assert not inferring.errors
    # Nothing is left in the way of the right one.
    assert invoke(main, "ota", cuts.folder / "images-b", *pair.arguments).exit_code == 0
    assert bundles(pair) == [cuts.b.manifest.id] * 2


def test_one_is_not_there_and_nothing_is_sent(cuts: Cuts, pair: Pair, invoke: Invoke) -> None:
    pair.kill(1)
    done = invoke(main, "ota", cuts.folder / "images-b", *pair.arguments, "--patience", 0, "--json")
    assert done.exit_code == 1
    said = json.loads(done.stdout)
    assert said["problem"].startswith("nothing was sent: tail")
    assert [board["sent_bytes"] for board in said["boards"]] == [0, 0]
    assert said["boards"][1]["state"] == "unknown"
    assert said["boards"][1]["code"] == "gone"


def large(cuts: Cuts, folder: Path, version: int = 3) -> Path:
    """Images of 300 KB and more: the model followed by bytes that belong to nothing."""
    from dataclasses import replace

    from partitioner import image

    folder.mkdir()
    for stage in (0, 1):
        made = image.of_stage(cuts.b, stage, version=version)
        padded = replace(made, model=made.model + bytes(range(256)) * 1200)
        (folder / f"stage{stage}.tsim").write_bytes(image.encode(padded, cuts.key.sign))
    return folder


@pytest.mark.parametrize("via", ["link", pytest.param("control", marks=pytest.mark.slow)])
def test_it_vanishes_while_it_is_sent_to_and_comes_back(
    cuts: Cuts, pair: Pair, tmp_path: Path, via: str
) -> None:
    killed = threading.Event()

    def watch(courier: Courier) -> None:
        if courier.node.stage == 1 and courier.offset > 100_000 and not killed.is_set():
            killed.set()
            pair.kill(1)
            pair.start(1)

    images = large(cuts, tmp_path / "large")
    outcome, couriers = moved(pair, images, watch, patience_s=20, via=via)
    assert outcome.done, outcome.problem
    assert killed.is_set()
    report = couriers[1].report
    assert report.state == "running"
    assert report.interruptions > 0
    assert report.resumed_at >= 8192  # It went on, and did not start over.
    assert report.sent_bytes < 1.9 * len((images / "stage1.tsim").read_bytes())
    assert bundles(pair) == [cuts.b.manifest.id] * 2


@pytest.mark.slow
def test_it_vanishes_before_activation_and_none_is_switched(
    cuts: Cuts, pair: Pair, tmp_path: Path
) -> None:
    images = large(cuts, tmp_path / "large")
    killed = threading.Event()

    def watch(courier: Courier) -> None:
        if courier.node.stage == 1 and courier.offset > 100_000 and not killed.is_set():
            killed.set()
            pair.kill(1)

    outcome, couriers = moved(pair, images, watch, patience_s=0.5)
    assert not outcome.done
    assert outcome.problem is not None
    assert "no board was switched: tail" in outcome.problem
    assert outcome.advice is not None
    assert "the same command again goes on" in outcome.advice
    assert "running" not in states(couriers)
    assert pair.info(0)["bundle"] == cuts.a.manifest.id
    assert pair.start(1)["bundle"] == cuts.a.manifest.id
    again, couriers = moved(pair, images)
    assert again.done
    assert couriers[1].report.resumed_at > 0
    assert bundles(pair) == [cuts.b.manifest.id] * 2


@pytest.mark.parametrize("stage", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_it_vanishes_while_it_is_armed_and_none_is_switched(
    cuts: Cuts, pair: Pair, stage: int
) -> None:
    def phase(name: str) -> None:
        if name == "arming":
            pair.kill(stage)

    outcome, _ = moved(pair, cuts.folder / "images-b", patience_s=0.5, phase=phase)
    assert not outcome.done
    assert outcome.problem is not None
    assert f"no board was switched: {LABELS[stage]}" in outcome.problem
    assert outcome.advice is not None
    assert "may start it when it is back" in outcome.advice
    assert pair.info(1 - stage)["bundle"] == cuts.a.manifest.id
    assert pair.start(stage)["bundle"] == cuts.a.manifest.id  # It had not been told.
    assert moved(pair, cuts.folder / "images-b")[0].done
    assert bundles(pair) == [cuts.b.manifest.id] * 2


@pytest.mark.parametrize("stage", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_it_vanishes_during_the_switch_and_the_same_command_finishes(
    cuts: Cuts, pair: Pair, stage: int
) -> None:
    def phase(name: str) -> None:
        if name == "restarting":
            pair.kill(stage)

    outcome, couriers = moved(pair, cuts.folder / "images-b", patience_s=0.5, phase=phase)
    assert not outcome.done
    assert states(couriers)[1 - stage] == "running"
    assert outcome.problem is not None
    assert f"{couriers[1 - stage].label}: runs the new image" in outcome.problem
    assert f"{couriers[stage].label}: was told to restart" in outcome.problem
    assert outcome.advice is not None
    assert "give the same command again" in outcome.advice
    pair.start(stage)
    again, couriers = moved(pair, cuts.folder / "images-b")
    assert again.done
    assert set(states(couriers)) == {"current"}  # It had been armed: its start was the switch.
    assert bundles(pair) == [cuts.b.manifest.id] * 2


def test_an_image_that_was_armed_and_never_started_is_finished(cuts: Cuts, pair: Pair) -> None:
    class EndedError(Exception):
        pass

    def phase(name: str) -> None:
        if name == "restarting":
            raise EndedError  # This machine ends here.

    with pytest.raises(EndedError):
        moved(pair, cuts.folder / "images-b", phase=phase)
    assert bundles(pair) == [cuts.a.manifest.id] * 2
    outcome, couriers = moved(pair, cuts.folder / "images-b")
    assert outcome.done
    assert [courier.report.sent_bytes for courier in couriers] == [0, 0]
    assert bundles(pair) == [cuts.b.manifest.id] * 2


@pytest.mark.slow
def test_another_image_that_was_armed_gives_way(cuts: Cuts, pair: Pair, tmp_path: Path) -> None:
    class EndedError(Exception):
        pass

    def phase(name: str) -> None:
        if name == "restarting":
            raise EndedError

    with pytest.raises(EndedError):
        moved(pair, cuts.folder / "images-b", phase=phase)
    write(pack(cuts.b, range(2), cuts.key, version=9), tmp_path / "nine")
    assert moved(pair, tmp_path / "nine")[0].done
    assert [pair.info(stage)["image_version"] for stage in (0, 1)] == [9, 9]


def test_an_image_that_fails_on_the_board_is_rolled_back_and_said(
    cuts: Cuts, pair: Pair, tmp_path: Path
) -> None:
    from dataclasses import replace

    from partitioner import image

    made = image.of_stage(cuts.b, 1, version=5)
    wrong = replace(made, output=bytes([made.output[0] ^ 1]) + made.output[1:])
    write(pack(cuts.b, range(2), cuts.key, version=5), tmp_path / "images")
    (tmp_path / "images" / "stage1.tsim").write_bytes(image.encode(wrong, cuts.key.sign))
    with Inferring(pair, cuts.a) as inferring:
        outcome, couriers = moved(pair, tmp_path / "images")
        time.sleep(0.2)
    assert states(couriers) == ["running", "rolled_back"]
    assert outcome.problem is not None
    assert "self_test" in outcome.problem
    assert "runs the old image, after the new one failed" in outcome.problem
    assert inferring.wrong == 0
    # A newer bundle that works brings both together again.
    write(pack(cuts.b, range(2), cuts.key, version=6), tmp_path / "six")
    assert moved(pair, tmp_path / "six")[0].done


def test_a_fleet_file_moves_several_chains(cuts: Cuts, tmp_path: Path, invoke: Invoke) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    images = cuts.folder / "images-a"
    with (
        Pair("udp", images, tmp_path / "one", cuts.public_key) as one,
        Pair("tcp", images, tmp_path / "two", cuts.public_key) as two,
    ):
        file = tmp_path / "fleet.yaml"
        file.write_text(
            "".join(f"- head: {p.names[0]}\n  tail: {p.names[1]}\n" for p in (one, two))
        )
        done = invoke(main, "ota", cuts.folder / "images-b", "--fleet", file)
        assert done.exit_code == 0, done.output
        assert "chain 2: gap in service" in done.output
        assert bundles(one) == bundles(two) == [cuts.b.manifest.id] * 2


HEAD, PAIR = "--node head=/dev/none", "--node head=/dev/none --node tail=/dev/nil"


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        ("{b}", 2, "name the boards"),
        (f"{{b}} {HEAD}", 2, "give --key FILE, or --unsigned"),
        (f"--firmware {{k}} {HEAD}", 2, "--unsigned (for the image that app.bin is packed into)"),
        (f"{{b}} --key {{k}} {HEAD}", 2, "stage 1 is not named"),
        ("{b} --key {k} --node head=nobody", 2, "names no board"),
        ("{b} --key {k} --node head=udp://127.0.0.1:0", 2, "can be called at"),
        ("{b} --key {k} --node front=/dev/none", 2, "is no stage"),
        ("{b} --key {k} --node 9=/dev/none --partial", 2, "there are 2 stages"),
        ("{b} --key {k} --node head=/dev/none --node tail=/dev/none", 2, "twice"),
        ("{b} --key {k} --node head", 2, "STAGE=NAME"),
        ("{b} --key {k} --fleet none.yaml", 2, "'none.yaml' does not exist"),
        (f"{{b}} --key {{k}} {PAIR} --serve 1.2.3.4", 2, "--via http"),
        (f"nowhere {HEAD}", 2, "'nowhere' does not exist"),
        (f". {HEAD}", 1, "holds neither a bundle"),
        (f"{{i}} --key {{k}} {HEAD}", 2, "packed here"),
        (f"{{i}} {PAIR} --patience 0", 1, "plugged"),
        ("{i} --node head=espnow://02:00:00:00:00:01 --partial --patience 0", 1, "--bridge"),
    ],
    ids=str,
)
def test_what_a_user_can_get_wrong(
    cuts: Cuts, invoke: Invoke, arguments: str, code: int, why: str
) -> None:
    names: dict[str, Any] = {
        "b": cuts.folder / "b", "i": cuts.folder / "images-b", "k": cuts.key_file
    }  # fmt: skip
    done = invoke(main, "ota", *arguments.format(**names).split())
    assert done.exit_code == code, done.output
    assert why in done.stderr
    assert "Traceback" not in done.output


BOMB = "- &a [1, 2]\n" + "".join(
    f"- &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in itertools.pairwise("abcdefgh")
)
FLEETS = {
    "": "is not a list",
    "[]": "must be a list of 1 to 256 entries",
    "head: udp://127.0.0.1:9": "is not a list",
    "- head": "must be a mapping of names",
    "- {}": "must be a mapping of names to values that is not empty",
    "- {haed: udp://127.0.0.1:9}": "unknown key 'haed'; the nearest known is 'head'",
    "- {head: 7}": "line 1: 0/head: must be text of 1 to 128",
    "- {head: udp://127.0.0.1:9,\n   tail: nobody}": "line 2: 0/tail: 'nobody' names no board",
    "- {head: udp://127.0.0.1:9, head: udp://127.0.0.1:10}": "line 1: 0/head: is given twice",
    "- {0: udp://127.0.0.1:9, head: udp://127.0.0.1:10}": "a stage of one chain is named twice",
    "- {head: udp://127.0.0.1:9, 1000: udp://127.0.0.1:10}": "unknown key '1000'",
    "- {head: !!python/object/apply:os.system [true]}": "must be text",
    "- !!int ''": "line 1: 0: is no int",
    "- &a [*a]": "nested too deeply",
    "- {head: 'x": "no YAML",
    "\x00": "no YAML",
    "\ufffe": "no YAML",
    BOMB: "more than 100,000 values",
    "- {head: udp://127.0.0.1:9}\n" * 257: "(257 entries)",
    "#" * (5 << 20): "longer than",
}  # fmt: skip


@pytest.mark.parametrize("text", FLEETS, ids=lambda text: text[:30])
def test_fleet_files_that_are_none(cuts: Cuts, tmp_path: Path, invoke: Invoke, text: str) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_text(text)
    done = invoke(main, "ota", cuts.folder / "images-b", "--fleet", file)
    assert done.exit_code == 1
    assert FLEETS[text] in done.stderr
    assert done.stderr.startswith(f"main ota: error: {file}: ")
    assert done.stderr.count("\n") == 1
    assert len(done.stderr) < 600


def test_a_fleet_file_that_is_no_text(cuts: Cuts, tmp_path: Path, invoke: Invoke) -> None:
    (tmp_path / "fleet.yaml").write_bytes(b"\xff\xfe\x00")
    done = invoke(main, "ota", cuts.folder / "images-b", "--fleet", tmp_path / "fleet.yaml")
    assert done.exit_code == 1
    assert "is not UTF-8 text" in done.stderr
