"""Chains with boards on serial ports: virtual boards behind pseudo-terminals."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from host.boards import control, process
from host.boards.address import Address
from host.boards.attached import AttachedBoard
from host.boards.board import BoardError
from host.boards.kinds import Emulated, Host, KindError, OnSerial, Virtual, parse
from host.boards.serial import SerialBoard
from host.boards.virtual.process import VirtualBoard
from host.cli import main
from host.link.messages import Phase
from host.link_run import LinkInference
from host.report.link_table import how, phase_rows
from host.testbed import Options, Round, StageNode, Testbed, TestbedError
from partitioner import kernels
from partitioner.bundle import Bundle, build
from partitioner.catalogue import Catalogue
from partitioner.graph import Graph
from tests.host.boards.ptys import Cable, virtual_board

Invoke = Callable[..., Result]
NOWHERE = "udp://127.0.0.1:9"


def value() -> np.ndarray:
    return np.random.default_rng(7).integers(-128, 128, (1, 24, 24, 3), np.int8)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("board", Virtual()),
        ("host", Host()),
        ("serial:/dev/ttyACM0", OnSerial("/dev/ttyACM0")),
        ("serial:/dev/ttyUSB1@921600", OnSerial("/dev/ttyUSB1", 921_600)),
        ("serial:COM7", OnSerial("COM7")),
        ("qemu:build/q", Emulated(Path("build/q"))),
    ],
)
def test_what_a_stage_runs_on(text: str, kind: object) -> None:
    assert parse(text) == kind


@pytest.mark.parametrize("text", ["", "serial:", "qemu:", "usb:1", "/dev/ttyACM0"])
def test_what_none_runs_on(text: str) -> None:
    with pytest.raises(KindError, match="neither board, host, serial:PORT, mqtt:NODE nor qemu"):
        parse(text)


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_every_stage_on_a_serial_port(
    stranger_bundle: Bundle, folder: Path, transport: str
) -> None:
    """They start with wrong neighbours, and one as another stage; the testbed sets all right."""
    uncut = kernels.exact().load(stranger_bundle.full)
    with (
        virtual_board(folder, 0, NOWHERE) as head,
        virtual_board(folder, 0, NOWHERE) as relay,
        virtual_board(folder, 2) as tail,
    ):
        boards = {stage: OnSerial(port) for stage, port in enumerate((head, relay, tail))}
        options = Options(transport=transport, boards=boards)
        for _ in range(2):  # The second time nothing is left to set.
            with Testbed(stranger_bundle, folder, options) as testbed:
                found = testbed.infer([value()])
                assert found.outputs[0].tobytes() == uncut.run([value()])[0].tobytes()
                assert len(testbed.stats()) == 3
                assert testbed.nodes[1].what == f"a virtual board on {relay}"


def test_serial_virtual_and_host_by_command(invoke: Invoke, folder: Path) -> None:
    with virtual_board(folder, 0, NOWHERE) as head:
        chain = ("--transport", "udp", "--head", f"serial:{head}", "--tail", "host")
        result = invoke(main, "run", folder, "--count", 2, *chain, "--loss", 0.1)
        assert result.exit_code == 0, result.output
        assert "all 2 results equal the uncut model's, byte for byte" in result.output
        assert f"stage 0: a virtual board on {head}" in result.output
        assert "stage 1: a virtual board\n" in result.output
        assert "stage 2: this host" in result.output


def test_what_a_board_prints_is_shown_on_request(invoke: Invoke, folder: Path) -> None:
    with virtual_board(folder, 2) as tail, Cable(tail) as cable:
        stop = threading.Event()

        def chatter() -> None:
            while not stop.wait(0.05):
                cable.say(b"I (77) wifi: beacon\n")

        talker = threading.Thread(target=chatter)
        talker.start()
        try:
            chain = ("--transport", "udp", "--tail", f"serial:{cable.port}")
            quiet = invoke(main, "run", folder, "--count", 1, *chain)
            told = invoke(main, "run", folder, "--count", 1, *chain, "--verbose")
        finally:
            stop.set()
            talker.join()
        assert (quiet.exit_code, told.exit_code) == (0, 0), quiet.output + told.output
        assert "beacon" not in quiet.output
        assert "stage 2: I (77) wifi: beacon" in told.stderr


def test_another_bundle_on_a_board_is_named_and_nothing_changed(
    invoke: Invoke, stranger: Graph, stranger_bundle: Bundle, folder: Path, tmp_path: Path
) -> None:
    cuts = Catalogue(stranger, None).chain(("#1",))
    model = stranger_bundle.manifest.model
    other = build(stranger, cuts, model=model, calibration=None, realistic=[])
    other.write(tmp_path / "other")
    flash = tmp_path / "flash"
    with virtual_board(tmp_path / "other", 1, flash=flash) as port:
        chain = ("--transport", "udp", "--tail", f"serial:{port}")
        result = invoke(main, "run", folder, "--count", 1, *chain)
    assert result.exit_code == 1
    assert f"holds bundle {other.manifest.id[:12]}, not {stranger_bundle.manifest.id[:12]}" in (
        result.stderr
    )
    assert result.stderr.count("\n") == 1
    assert set(flash.read_bytes()) == {0xFF}


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({}, "answers `info` with something else"),
        ({"kind": 1, "name": "x", "listen": "udp://1.2.3.4:1"}, "with something else"),
        ({"kind": "board", "name": "x", "listen": "udp://"}, "is no address"),
        (
            {"kind": "board", "name": "x", "listen": "udp://1.2.3.4:1", "problem": "slot_empty"},
            r"holds no bundle \(slot_empty\), not",
        ),
    ],
)
def test_a_board_that_answers_something_else(
    invoke: Invoke, folder: Path, info: dict[str, object], message: str
) -> None:
    with Cable() as cable:

        def answer(data: bytes) -> bytes:
            ids = [json.loads(line)["id"] for line in data.splitlines() if line]
            return b"".join(control.reply(number, info) for number in ids)

        cable.answer = answer
        chain = ("--transport", "udp", "--tail", f"serial:{cable.port}")
        result = invoke(main, "run", folder, "--count", 1, *chain)
    assert result.exit_code == 1
    assert re.search(message, result.stderr), result.stderr
    assert result.stderr.count("\n") == 1


def test_the_right_bundle_on_the_wrong_board(
    invoke: Invoke, stranger_bundle: Bundle, folder: Path
) -> None:
    said = {"kind": "board", "name": "x", "listen": "udp://127.0.0.1:9", "stage": 1}
    with Cable() as cable:

        def answer(data: bytes) -> bytes:
            ids = [json.loads(line)["id"] for line in data.splitlines() if line]
            info = {**said, "bundle": stranger_bundle.manifest.id}
            return b"".join(control.reply(number, info) for number in ids)

        cable.answer = answer
        chain = ("--transport", "udp", "--tail", f"serial:{cable.port}")
        result = invoke(main, "run", folder, "--count", 1, *chain)
    assert result.exit_code == 1
    assert "holds stage 1, not 2: name the boards in stage order" in result.stderr


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("udp://0.0.0.0:4000", "udp://192.168.1.7:4000"),
        ("tcp://[::]:4000", "tcp://[fe80::1]:4000"),
        ("espnow://00:00:00:00:00:00", "espnow://02:00:00:00:00:01"),
        ("ble://attic", "ble://attic"),
    ],
)
def test_a_board_is_given_time_to_join_its_network(before: str, after: str) -> None:
    """A stand-in that knows its address the second time it is asked."""
    bundle = "ab" * 32
    said = {"kind": "board", "name": "attic", "stage": 1, "bundle": bundle}
    asked = []
    settings = {"next": None, "mtu": 0, "timeout_ms": 9}

    def answer(data: bytes) -> bytes:
        out = b""
        for command in map(json.loads, filter(None, data.splitlines())):
            if command["cmd"] == "info":
                asked.append(command)
            listen = before if len(asked) < 2 else after
            info = settings if command["cmd"] == "configure" else {**said, "listen": listen}
            out += control.reply(command["id"], info)
        return out

    with Cable() as cable, SerialBoard(cable.port) as board:
        cable.answer = answer
        attached = AttachedBoard(board, 1, bundle)
        transport = before.partition(":")[0]
        place = attached.configure(
            transport, None, family=4, mtu=0, timeout_ms=9, needs_address=True
        )
        assert str(place) == after


def test_a_port_without_a_board_is_one_line(invoke: Invoke, folder: Path) -> None:
    chain = ("--transport", "udp", "--head", "serial:/dev/ttyNONE")
    result = invoke(main, "run", folder, "--count", 1, *chain)
    assert result.exit_code == 1
    assert "cannot use /dev/ttyNONE: there is no such port; is the board plugged in?" in (
        result.stderr
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Options(boards={3: OnSerial("x")}), "named for more"),
        (Options(tail="host", boards={2: OnSerial("x")}), "either on the host or on a board"),
        (Options(transport="ble", boards={0: OnSerial("x")}), "do not hear each other"),
        (Options(transport="ble", boards={0: Emulated(Path())}), "udp and tcp over IPv4 only"),
        (Options(family=6, boards={0: Emulated(Path())}), "udp and tcp over IPv4 only"),
    ],
)
def test_chains_that_cannot_be(
    stranger_bundle: Bundle, folder: Path, options: Options, message: str
) -> None:
    with pytest.raises(TestbedError, match=message), Testbed(stranger_bundle, folder, options):
        pass


def test_a_board_that_dies_in_mid_run_is_named_at_once(
    stranger_bundle: Bundle, folder: Path
) -> None:
    options = Options(timeout_ms=60_000)
    with Testbed(stranger_bundle, folder, options) as testbed:
        testbed.infer([value()])
        relay = testbed.boards[1].ask("info")["pid"]
        os.kill(relay, signal.SIGSTOP)
        killer = threading.Timer(0.5, os.kill, (relay, signal.SIGKILL))
        killer.start()
        began = time.monotonic()
        with pytest.raises(BoardError, match=r"stage1 ended: killed by SIGKILL") as ended:
            testbed.infer([value()])
        assert ended.value.code == "gone"
        assert time.monotonic() - began < 10
        killer.join()


def test_a_head_that_hangs_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_SEND_TIMEOUT_S", 0.5)
    with VirtualBoard("stuck", folder, 2, Address("udp", "127.0.0.1", 0), None) as board:
        board.wait_ready(60)
        os.kill(board.pid, signal.SIGSTOP)
        try:
            with pytest.raises(BoardError, match="stuck takes no commands"):
                board.begin("run", input="tensors", tensors=["A" * 300_000])
        finally:
            os.kill(board.pid, signal.SIGCONT)


def test_a_board_that_restarts_in_mid_run_is_named(stranger_bundle: Bundle, folder: Path) -> None:
    with virtual_board(folder, 2) as tail, Cable(tail) as cable:
        options = Options(timeout_ms=60_000, boards={2: OnSerial(cable.port)})
        with Testbed(stranger_bundle, folder, options) as testbed:
            testbed.infer([value()])
            relay = testbed.boards[1].ask("info")["pid"]
            os.kill(relay, signal.SIGSTOP)
            with contextlib.ExitStack() as stack:
                stack.callback(os.kill, relay, signal.SIGCONT)
                cable.say(b'{"event":"ready","info":{"reset":"panic"}}\n')
                with pytest.raises(BoardError, match=r"stage 2 .* restarted by itself \(panic\)"):
                    testbed.infer([value()])


def test_the_table_says_whose_clock_it_was() -> None:
    phases = {(stage, phase): 10 for stage in range(2) for phase in Phase}
    one = LinkInference("x", 0, None, True, 5, Round((), phases, 1000, 1, 0))
    rows = {row.name: row for row in phase_rows([one], 2)}
    real = StageNode("a board", "measured", "real")
    emulated = StageNode("emulated", "emulated", "emulated")
    assert how(rows["invoke (head)"], [emulated, real], "") == "emulated"
    assert how(rows["invoke (tail)"], [emulated, real], "") == "measured"
    assert how(rows["round trip"], [emulated, real], "") == "emulated and measured"
    assert how(rows["preprocess (host)"], [emulated, emulated], "") == "measured"
    assert how(rows["link 0 to 1"], [real, real], "modelled") == "modelled"
    assert how(rows["round trip"], [real, real], "modelled") == "measured and modelled"
