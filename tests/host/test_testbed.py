"""Chains of virtual boards: real processes, real sockets, the firmware's C core."""

from __future__ import annotations

import base64
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

from host.background import Background
from host.boards import control
from host.boards.address import Address
from host.boards.board import BoardError
from host.boards.control import ControlError
from host.boards.virtual.board import Board as BoardProgram
from host.boards.virtual.holding import BundleHolding
from host.boards.virtual.process import VirtualBoard
from host.boards.virtual.settings import Flash
from host.cli import main
from host.link.driver import LinkServer
from host.link.impairment import Impairment
from host.link.session import Node
from host.link.udp import UdpServer
from host.testbed import Options, StageNode, Testbed, TestbedError
from partitioner.bundle import Bundle, build
from partitioner.catalogue import Catalogue
from partitioner.graph import Graph
from tests.host import exact
from tests.host.exact import samples

Invoke = Callable[..., Result]
BAD = Impairment(loss=0.2, reorder=0.2, corrupt=0.05, duplicate=0.05, delay_ms=1, seed=3)


def assert_exact(bundle: Bundle, folder: Path, options: Options, count: int = 5) -> Testbed:
    with Testbed(bundle, folder, options) as testbed:
        exact.assert_exact(testbed, bundle, count)
    return testbed


@pytest.mark.parametrize("transport", ["udp", "tcp"])
@pytest.mark.parametrize("tail", ["board", "host"])
def test_three_stages_are_exact(
    stranger_bundle: Bundle, folder: Path, transport: str, tail: str
) -> None:
    assert_exact(stranger_bundle, folder, Options(transport=transport, tail=tail))


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_two_tensors_cross_over_ipv6(pair: Bundle, tmp_path: Path, transport: str) -> None:
    pair.write(tmp_path / "pair")
    assert_exact(pair, tmp_path / "pair", Options(transport=transport, family=6))


@pytest.mark.parametrize("tail", ["board", "host"])
def test_a_terrible_network_costs_time_but_no_byte(
    stranger_bundle: Bundle, folder: Path, tail: str
) -> None:
    options = Options(tail=tail, impairment=BAD, mtu=250, timeout_ms=30_000)
    testbed = assert_exact(stranger_bundle, folder, options, count=12)
    tally = testbed.tallies()[0]["forward"]
    assert tally["lost"] > 0
    assert tally["corrupted"] > 0


@pytest.mark.parametrize("tail", ["board", "host"])
def test_boundaries_in_codec_1_are_exact(stranger_bundle: Bundle, folder: Path, tail: str) -> None:
    bad = Impairment(loss=0.1, corrupt=0.02, seed=4)
    options = Options(tail=tail, codec="1", impairment=bad, mtu=250)
    with Testbed(stranger_bundle, folder, options) as testbed:
        exact.assert_exact(testbed, stranger_bundle, 5)
        stats = testbed.stats()
        testbed.require_codec(stats)
    for boundary, found in zip(stranger_bundle.manifest.boundaries, stats, strict=False):
        assert found["codec"] == 1
        assert found["raw_bytes"] == 5 * boundary.payload_bytes
        most = found["raw_bytes"] + 5 * len(boundary.tensors)  # A byte a tensor where none shrinks.
        assert 0 < found["coded_bytes"] <= most


def test_a_board_that_does_not_speak_the_codec_is_named(pair: Bundle, tmp_path: Path) -> None:
    folder, flash = tmp_path / "pair", tmp_path / "flash"
    with two_boards(pair, folder, flash=flash) as (head, _):
        head.ask("configure", set={"codec": "auto"})
        head.reboot()
        assert head.ask("run", 30, input="pattern")["code"] == "ok"
        stats = head.ask("stats")
        assert (stats["codec"], stats["coded_bytes"]) == (0, 0)
    testbed = Testbed(pair, folder, Options(codec="1"))
    testbed.nodes = [StageNode("a virtual board", "measured", "virtual")] * 2
    with pytest.raises(TestbedError, match="stage 0 to stage 1 does not speak codec 1"):
        testbed.require_codec([stats, {}])


def test_tcp_with_flipped_bits(stranger_bundle: Bundle, folder: Path) -> None:
    noisy = Impairment(corrupt=0.05, delay_ms=1, seed=5)
    options = Options(transport="tcp", impairment=noisy, timeout_ms=60_000)
    assert_exact(stranger_bundle, folder, options, count=6)


@contextlib.contextmanager
def two_boards(
    pair: Bundle, path: Path, **head_options: Any
) -> Iterator[tuple[VirtualBoard, VirtualBoard]]:
    if not path.exists():
        pair.write(path)
    any_port = Address("udp", "127.0.0.1", 0)
    with VirtualBoard("tail", path, 1, any_port, None) as tail:
        listen = tail.wait_ready(60)["listen"]
        port = int(listen.rsplit(":", 1)[1])
        following = Address("udp", "127.0.0.1", port)
        with VirtualBoard("head", path, 0, any_port, following, **head_options) as head:
            head.wait_ready(60)
            yield head, tail


def run(board: VirtualBoard, value: np.ndarray, **fields: Any) -> dict[str, Any]:
    tensors = [base64.b64encode(value.tobytes()).decode()]
    return board.ask("run", 40, input="tensors", tensors=tensors, **fields)


def test_commands_and_their_answers(pair: Bundle, tmp_path: Path) -> None:
    with two_boards(pair, tmp_path / "pair") as (head, tail):
        info = head.ask("info")
        assert (info["role"], info["stage"], info["bundle"]) == ("head", 0, pair.manifest.id)
        assert tail.ask("info")["role"] == "tail"
        golden = head.ask("run", input="selftest")
        output = base64.b64decode(golden["tensors"][0])
        assert output == pair.selftest()["output_0"][0].tobytes()
        assert {p["stage"] for p in golden["phases"]} == {0, 1}
        assert head.ask("run", input="pattern")["code"] == "ok"
        stats = head.ask("stats")
        assert stats["next_up"]
        assert stats["frame_size"] == 1452
        assert stats["clock_uncertainty_us"] > 0
        selftest = tail.ask("selftest")
        assert selftest["passed"] == selftest["vectors"] == 4


def test_bad_commands_are_refused_by_name_and_end_nothing(pair: Bundle, tmp_path: Path) -> None:
    with two_boards(pair, tmp_path / "pair") as (head, tail):
        for name, fields, code in [
            ("explode", {}, "unknown_command"),
            ("run", {"input": "tensors", "tensors": ["AAAA"]}, "bad_command"),
            ("run", {"input": "tensors", "tensors": ["not base64!"]}, "bad_command"),
            ("configure", {"set": {"listen": "udp://999.1.1.1:1"}}, "bad_setting"),
            ("configure", {"set": {"stage": 9}}, "stage_mismatch"),
        ]:
            with pytest.raises(BoardError) as refused:
                head.ask(name, **fields)
            assert refused.value.code == code, name
        with pytest.raises(BoardError, match="only a head begins inferences"):
            tail.ask("run", input="pattern")
        head._send(b"\x00\xff garbage \n{}\n")
        assert head.ask("run", input="pattern")["code"] == "ok"


def test_a_tail_killed_and_restarted_is_found_again(pair: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "pair"
    with two_boards(pair, path) as (head, tail):
        (value,) = samples(1)
        first = run(head, value)
        listen = tail.ask("info")["listen"]
        tail.kill()
        with pytest.raises(BoardError) as failed:
            run(head, value, timeout_ms=1500)
        assert failed.value.code in ("deadline", "peer_lost", "no_peer")
        port = int(listen.rsplit(":", 1)[1])
        with VirtualBoard("tail2", path, 1, Address("udp", "127.0.0.1", port), None) as again:
            again.wait_ready(60)
            assert run(head, value, timeout_ms=20_000)["tensors"] == first["tensors"]


def test_a_tail_killed_while_an_inference_is_under_way(pair: Bundle, tmp_path: Path) -> None:
    """The head keeps the boundary and sends it again in the next session."""
    path = tmp_path / "pair"
    with two_boards(pair, path) as (head, tail):
        (value,) = samples(1)
        first = run(head, value)
        port = int(tail.ask("info")["listen"].rsplit(":", 1)[1])
        os.kill(tail.pid, signal.SIGSTOP)
        tensors = [base64.b64encode(value.tobytes()).decode()]
        command = head.begin("run", input="tensors", tensors=tensors, timeout_ms=30_000)
        time.sleep(0.3)
        os.kill(tail.pid, signal.SIGKILL)
        os.kill(tail.pid, signal.SIGCONT)
        with VirtualBoard("tail2", path, 1, Address("udp", "127.0.0.1", port), None) as again:
            again.wait_ready(60)
            assert head.finish(command, 40)["tensors"] == first["tensors"]


def test_another_bundle_is_a_named_error(
    pair: Bundle, stranger: Graph, stranger_bundle: Bundle, tmp_path: Path
) -> None:
    other = build(
        stranger,
        Catalogue(stranger, None).chain(("#2",)),
        model=stranger_bundle.manifest.model,
        calibration=None,
        realistic=[],
    )
    other.write(tmp_path / "other")
    pair.write(tmp_path / "pair")
    any_port = Address("udp", "127.0.0.1", 0)
    with VirtualBoard("tail", tmp_path / "other", 1, any_port, None) as tail:
        port = int(tail.wait_ready(60)["listen"].rsplit(":", 1)[1])
        following = Address("udp", "127.0.0.1", port)
        with VirtualBoard("head", tmp_path / "pair", 0, any_port, following) as head:
            head.wait_ready(60)
            with pytest.raises(BoardError):
                run(head, samples(1)[0], timeout_ms=1000)
            assert head.ask("stats")["next_error"] == "bundle_mismatch"


def test_abort_ends_what_waits(pair: Bundle, tmp_path: Path) -> None:
    with two_boards(pair, tmp_path / "pair") as (head, tail):
        os.kill(tail.pid, signal.SIGSTOP)
        try:
            command = head.begin("run", input="pattern", timeout_ms=60_000)
            assert head.ask("abort") == {"aborted": 1}
            with pytest.raises(BoardError) as ended:
                head.finish(command)
            assert ended.value.code == "cancelled"
        finally:
            os.kill(tail.pid, signal.SIGCONT)
        assert head.ask("run", 30, input="pattern")["code"] == "ok"


def test_abort_makes_room_at_once(pair: Bundle, tmp_path: Path) -> None:
    """Not only the control plane forgets what was aborted: the core's jobs are free again."""
    with two_boards(pair, tmp_path / "pair") as (head, tail):
        jobs = 4
        os.kill(tail.pid, signal.SIGSTOP)
        try:
            for _ in range(2):
                commands = [head.begin("run", input="pattern") for _ in range(jobs)]
                with pytest.raises(BoardError, match="no_slot"):
                    head.ask("run", input="pattern")
                assert head.ask("abort") == {"aborted": jobs}
                for command in commands:
                    with pytest.raises(BoardError) as ended:
                        head.finish(command)
                    assert ended.value.code == "cancelled"
            commands = [head.begin("run", input="pattern") for _ in range(jobs)]
        finally:
            os.kill(tail.pid, signal.SIGCONT)
        assert [head.finish(command, 30)["code"] for command in commands] == ["ok"] * jobs
        assert head.ask("abort") == {"aborted": 0}


def test_silent_connections_shut_nobody_out(pair: Bundle, tmp_path: Path) -> None:
    """More of them than a board has places; the one with a session is never given up for them."""
    pair.write(tmp_path / "pair")
    with (
        contextlib.ExitStack() as sockets,
        VirtualBoard("tail", tmp_path / "pair", 1, Address("tcp", "127.0.0.1", 0), None) as tail,
    ):
        port = int(tail.wait_ready(60)["listen"].rsplit(":", 1)[1])

        def crowd() -> None:
            for _ in range(100):
                sockets.enter_context(socket.create_connection(("127.0.0.1", port), 5))
            time.sleep(0.3)

        crowd()
        listen, following = Address("tcp", "127.0.0.1", 0), Address("tcp", "127.0.0.1", port)
        with VirtualBoard("head", tmp_path / "pair", 0, listen, following) as head:
            head.wait_ready(60)
            assert head.ask("run", 20, input="pattern", timeout_ms=4000)["code"] == "ok"
            before = head.ask("stats")
            crowd()
            assert head.ask("run", 20, input="pattern", timeout_ms=4000)["code"] == "ok"
            assert head.ask("stats")["data_resent"] == before["data_resent"]


def test_a_broken_connection_is_noticed_at_once(pair: Bundle, tmp_path: Path) -> None:
    """Not by the idle timeout of 15 s; and an inference under way goes on in the next session."""
    pair.write(tmp_path / "pair")

    def tail_at(port: int) -> VirtualBoard:
        return VirtualBoard("tail", tmp_path / "pair", 1, Address("tcp", "127.0.0.1", port), None)

    with tail_at(0) as tail:
        port = int(tail.wait_ready(60)["listen"].rsplit(":", 1)[1])
        listen, following = Address("tcp", "127.0.0.1", 0), Address("tcp", "127.0.0.1", port)
        head = VirtualBoard("head", tmp_path / "pair", 0, listen, following)
        with head:
            head.wait_ready(60)
            assert head.ask("run", 20, input="pattern")["code"] == "ok"
            os.kill(tail.pid, signal.SIGKILL)
            ends = time.monotonic() + 5
            while (stats := head.ask("stats"))["next_up"] and time.monotonic() < ends:
                time.sleep(0.05)
            assert (stats["next_up"], stats["next_error"]) == (False, "send_failed")
            command = head.begin("run", input="pattern", timeout_ms=60_000)
            with tail_at(port) as second:
                second.wait_ready(60)
                assert head.finish(command, 60)["code"] == "ok"


def test_settings_hold_after_a_reboot(pair: Bundle, tmp_path: Path) -> None:
    with two_boards(pair, tmp_path / "pair", flash=tmp_path / "flash") as (head, _):
        head.ask("configure", set={"name": "kitchen", "mtu": 300})
        assert head.ask("info")["name"] == "head"  # Not before the next reboot.
        head.ask("reboot")
        assert head.wait_ready()["name"] == "kitchen"
        assert head.ask("run", 30, input="pattern")["code"] == "ok"
        assert head.ask("stats")["frame_size"] == 300


@pytest.mark.parametrize(
    "settings",
    [
        {"mtu": 1},
        {"stage": 1},
        {"next": None},
        {"next": "tcp://127.0.0.1:4000"},
        {"next": "udp://[::1]:4000"},
        {"next": "udp://127.0.0.1:0"},
        {"mtu": 1000.0},
        {"name": [[[[[[]]]]]]},
    ],
)
def test_settings_that_cannot_work_are_refused(
    pair: Bundle, tmp_path: Path, settings: dict[str, Any]
) -> None:
    board, written_lines = _board_in_process(pair, tmp_path)
    try:
        with pytest.raises(ControlError):
            board._execute(control.Command(1, "configure", {"set": settings}), written_lines.append)
        board.handle(control.command(1, "configure", {"set": settings}))
        assert control.parse_answer(written_lines[-1])["ok"] is False
        assert board.info()["problem"] is None
    finally:
        board.close()


def _board_in_process(pair: Bundle, tmp_path: Path) -> tuple[BoardProgram, list[bytes]]:
    if not (tmp_path / "pair").exists():
        pair.write(tmp_path / "pair")
    lines: list[bytes] = []
    defaults = {
        "name": "b",
        "stage": 0,
        "listen": "udp://127.0.0.1:0",
        "next": "udp://127.0.0.1:9",
    }
    flash = Flash(tmp_path / "flash")
    return BoardProgram(BundleHolding(tmp_path / "pair"), flash, defaults, lines.append), lines


def test_an_address_that_is_taken_does_not_brick_a_board(pair: Bundle, tmp_path: Path) -> None:
    """Only the reboot shows it; the board then comes up as it was started, and says so."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        listen = f"udp://127.0.0.1:{taken.getsockname()[1]}"
        board, lines = _board_in_process(pair, tmp_path)
        board.handle(control.command(1, "configure", {"set": {"listen": listen}}))
        board.handle(control.command(2, "reboot", {}))
        answers = [control.parse_answer(line) for line in lines]
        assert [a["id"] for a in answers if "id" in a] == [1, 2]
        assert "Address already in use" in answers[-1]["info"]["problem"]
        board.close()
        again, lines = _board_in_process(pair, tmp_path)
        assert "left aside" in control.parse_answer(lines[0])["info"]["problem"]
        again.close()


@pytest.mark.parametrize(
    "line",
    [
        '{"id":1,"cmd":"run","input":"tensors","tensors":["\u00e9"]}'.encode(),
        b'{"id":1,"cmd":"run","input":"tensors","tensors":["\\ud800"]}',
        b'{"id":1,"cmd":"run","input":"pattern","timeout_ms":1.0}',
        b'{"id":1,"cmd":"configure","set":{"name":' + b"[" * 980 + b"]" * 980 + b"}}",
    ],
)
def test_no_line_ends_a_board(pair: Bundle, tmp_path: Path, line: bytes) -> None:
    board, lines = _board_in_process(pair, tmp_path)
    board.handle(line)
    assert control.parse_answer(lines[-1])["ok"] is False
    board.close()


def test_a_result_of_another_size_is_malformed(pair: Bundle, tmp_path: Path) -> None:
    """A tail of the right bundle that answers more than the bundle's outputs leaks nothing."""
    pair.write(tmp_path / "pair")
    for size in (20_000, 6, 0):
        node = Node.tail(bytes.fromhex(pair.manifest.id))
        with Background() as background:
            server = LinkServer(UdpServer("127.0.0.1", 0), node, _answer(size))
            background.enter(server)
            following = Address("udp", *server.address[:2])
            listen = Address("udp", "127.0.0.1", 0)
            with VirtualBoard("head", tmp_path / "pair", 0, listen, following) as head:
                head.wait_ready(60)
                with pytest.raises(BoardError) as refused:
                    head.ask("run", 20, input="pattern", timeout_ms=4000)
                assert refused.value.code in ("malformed", "deadline", "too_large"), size


def _answer(size: int) -> Callable[[Any], list[bytes]]:
    return lambda _: [bytes(size)]


def test_several_inferences_may_wait_at_once(pair: Bundle, tmp_path: Path) -> None:
    with two_boards(pair, tmp_path / "pair") as (head, _):
        commands = [head.begin("run", input="pattern") for _ in range(4)]
        answers = [head.finish(command)["tensors"] for command in commands]
        assert answers == [answers[0]] * 4


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_a_port_in_use_is_named(folder: Path, transport: str) -> None:
    kind = socket.SOCK_DGRAM if transport == "udp" else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind(("127.0.0.1", 0))
        if transport == "tcp":
            taken.listen()
        listen = Address(transport, "127.0.0.1", taken.getsockname()[1])
        with (
            VirtualBoard("tail", folder, 2, listen, None) as board,
            pytest.raises(BoardError, match=r"cannot listen on .*: Address already in use"),
        ):
            board.wait_ready(60)


def test_boards_end_with_the_process_that_started_them(folder: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path\n"
        "from host.boards.address import parse\n"
        "from host.boards.virtual.process import VirtualBoard\n"
        "b = VirtualBoard('b', Path(sys.argv[1]), 2, parse('udp://127.0.0.1:0'), None)\n"
        "print(b.wait_ready(60)['pid'], flush=True); time.sleep(60)"
    )
    owner = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE)
    assert owner.stdout is not None
    pid = int(owner.stdout.readline())
    owner.kill()
    owner.wait()
    owner.stdout.close()
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        stat = Path(f"/proc/{pid}/stat")
        if stat.exists() and stat.read_text().split()[2] == "Z":
            return
        time.sleep(0.1)
    pytest.fail("the board outlived its owner by ten seconds")


def test_the_command_prints_coded_sizes(invoke: Invoke, folder: Path) -> None:
    result = invoke(main, "run", folder, "--count", 2, "--transport", "udp", "--codec", "auto")
    assert result.exit_code == 0, result.output
    for wanted in ("encode (head)", "decode (tail)", "wait at stage 2", "boundary 1: "):
        assert wanted in result.output, wanted
    assert result.output.count("coded on average") == 2
    assert "all 2 results equal the uncut model's" in result.output


def test_the_command_prints_phases_and_exactness(invoke: Invoke, folder: Path) -> None:
    arguments = ("--count", 3, "--transport", "udp", "--loss", 0.1, "--seed", 1)
    result = invoke(main, "run", folder, *arguments)
    assert result.exit_code == 0, result.output
    for wanted in (
        "invoke (head)",
        "link 0 to 1",
        "link 1 to 2",
        "invoke (tail)",
        "return",
        "round trip",
        "retransmitted",
        "bytes of frames sent",
        "  stage 0: a virtual board",
        "measured",
        "all 3 results equal the uncut model's, byte for byte",
    ):
        assert wanted in result.output, wanted


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--loss", "0.1"), 2, "need --transport"),
        (("--transport", "udp", "--kernels", "fast"), 2, "the device's kernels"),
        (("--transport", "udp", "--loss", "1.5"), 2, "--loss 1.5 is not between 0 and 1"),
        (("--transport", "tcp", "--loss", "0.1"), 2, "cannot be done to a TCP stream"),
        (("--transport", "udp", "--delay", "-1"), 2, "--delay"),
        (("--transport", "udp", "--head", "host"), 2, "only the last stage"),
        (("--transport", "udp", "--tail", "toaster"), 2, "'toaster' is neither board, host"),
        (("--transport", "udp", "--relay", "board", "--relay", "board"), 2, "for 1 stage between"),
        (("--tail", "host"), 2, "need --transport"),
        (("--transport", "pigeon"), 2, "pigeon"),
        (("--codec", "auto"), 2, "--codec needs --transport"),
        (("--transport", "udp", "--loss", "1", "--timeout", "1"), 1, "inference failed at stage"),
    ],
)
def test_bad_requests(
    invoke: Invoke, folder: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    result = invoke(main, "run", folder, "--count", 1, *arguments)
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_the_help_of_a_board_lists_its_commands(invoke: Invoke) -> None:
    shown = invoke(main, "board", "-h").output
    for name in control.COMMANDS:
        assert f"\n  {name} " in shown, name


@pytest.mark.parametrize("mtu", ["1", "127", "16385", "many", "-1"])
def test_frame_sizes_that_the_core_does_not_take(invoke: Invoke, folder: Path, mtu: str) -> None:
    result = invoke(main, "board", folder, "--virtual", "--stage", 2, f"--mtu={mtu}")
    assert result.exit_code == 2
    assert f"{mtu} is not 0 (the usual) or 128 to 16384" in result.stderr
