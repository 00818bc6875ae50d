"""A control line never waits for whoever is at its end, and loses nothing of theirs."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from host.boards import control
from host.boards.address import Address
from host.boards.virtual.control_line import MAX_WAITING_BYTES, ControlLine, ControlLineError
from host.boards.virtual.process import VirtualBoard
from partitioner import child

LINE = b"x" * 999 + b"\n"
FLOOD = b"".join(control.command(1000 + number, "info", {}) for number in range(6000))


@pytest.fixture
def pipes() -> Iterator[list[int]]:
    """Read end and write end of what goes to the board, then of what comes from it."""
    with contextlib.ExitStack() as closing:
        ends = [*os.pipe(), *os.pipe()]
        for end in ends:
            closing.enter_context(contextlib.suppress(OSError))
            closing.callback(os.close, end)
        yield ends


def pour(process: subprocess.Popen[bytes], data: bytes) -> int:
    """Bytes that a board takes until it has taken none for a second."""
    assert process.stdin is not None
    os.set_blocking(process.stdin.fileno(), False)
    taken = 0
    while taken < len(data) and select.select([], [process.stdin], [], 1)[1]:
        taken += os.write(process.stdin.fileno(), data[taken : taken + 4096])
    return taken


def ready(line: ControlLine) -> bool:
    return bool(select.select([line], [], [], 0)[0])


def test_nothing_waits_for_a_controller_that_does_not_read(pipes: list[int]) -> None:
    into, command, out, answers = pipes[0], pipes[1], pipes[3], pipes[2]
    line = ControlLine(into, out)
    sent = 0
    while sent <= MAX_WAITING_BYTES + 200_000:
        line.send(LINE)
        sent += len(LINE)
    os.write(command, b"a command\n")
    assert not ready(line)
    assert line.exchange() == b""
    got = bytearray()
    commands = b""
    while len(got) < sent:
        got += os.read(answers, 1 << 16)
        commands += line.exchange()
    assert bytes(got) == LINE * (sent // len(LINE))
    assert commands == b"a command\n"
    assert not line.ended
    line.close()
    assert os.get_blocking(into)
    assert os.get_blocking(out)


@pytest.mark.parametrize("unread", [0, MAX_WAITING_BYTES + 200_000])
def test_the_end_is_noticed_whatever_is_unread(pipes: list[int], unread: int) -> None:
    line = ControlLine(pipes[0], pipes[3])
    line.send(b"x" * unread)
    assert not ready(line)
    os.close(pipes[1])
    assert ready(line)
    assert line.exchange() == b""
    assert line.ended


def test_a_reader_that_left_ends_it(pipes: list[int]) -> None:
    line = ControlLine(pipes[0], pipes[3])
    os.close(pipes[2])
    line.send(LINE)
    assert line.ended


def test_one_socket_both_ways() -> None:
    board, controller = socket.socketpair()
    with board, controller:
        line = ControlLine(board.fileno(), board.fileno())
        line.send(LINE)
        assert controller.recv(2000) == LINE
        controller.send(b"command\n")
        assert ready(line)
        assert line.exchange() == b"command\n"
        controller.close()
        assert line.exchange() == b""
        assert line.ended
        line.close()


def test_a_file_is_read_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"one\ntwo\n")
    with (tmp_path / "in").open() as into, (tmp_path / "out").open("wb") as out:
        line = ControlLine(into.fileno(), out.fileno())
        assert ready(line)
        assert line.exchange() == b"one\ntwo\n"
        line.send(LINE)
        assert line.exchange() == b""
        assert line.ended
        line.close()
    assert (tmp_path / "out").read_bytes() == LINE


def test_closed_descriptors_are_named(pipes: list[int]) -> None:
    os.close(pipes[0])
    with pytest.raises(ControlLineError, match="standard input is closed"):
        ControlLine(pipes[0], pipes[3])
    os.close(pipes[3])
    with pytest.raises(ControlLineError, match="standard output is closed"):
        ControlLine(pipes[1], pipes[3])


def arguments(folder: Path, stage: int, *more: str) -> list[str]:
    return [*child.command("host.cli", "main"), "board", str(folder), "--stage", str(stage), *more]


@pytest.mark.parametrize("closed", ["<&-", ">&-"])
def test_a_board_without_a_control_line_says_so(folder: Path, closed: str) -> None:
    words = ["sh", "-c", f'exec "$@" {closed}', "sh", *arguments(folder, 2)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert f"standard {'input' if closed == '<&-' else 'output'} is closed" in line


def test_what_is_under_way_when_the_control_line_ends_is_answered(folder: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as nobody:
        nobody.bind(("127.0.0.1", 0))
        following = f"udp://127.0.0.1:{nobody.getsockname()[1]}"
        done = subprocess.run(
            arguments(folder, 0, "--next", following),
            input=control.command(7, "run", {"input": "pattern"}),
            capture_output=True,
            timeout=60,
        )
    assert done.returncode == 0, done.stderr
    (answer,) = (json.loads(line) for line in done.stdout.splitlines() if b'"id"' in line)
    assert (answer["id"], answer["error"]["code"]) == (7, "cancelled")


def test_a_board_serves_its_link_while_nobody_reads_its_answers(folder: Path) -> None:
    """Three stages; the controller of the middle one asks without end and never listens."""
    following, boards = None, []
    try:
        for stage in (2, 1, 0):
            listen = Address("udp", "127.0.0.1", 0)
            boards.append(VirtualBoard(f"stage{stage}", folder, stage, listen, following))
            address = boards[-1].wait_ready(60)["listen"]
            following = Address("udp", "127.0.0.1", int(address.rsplit(":", 1)[1]))
        _, deaf, head = boards
        asked = [deaf.begin("info") for _ in range(100)]
        assert pour(deaf._process, FLOOD) < len(FLOOD)
        for _ in range(3):
            assert head.ask("run", 20, input="pattern")["code"] == "ok"
        assert [deaf.finish(number)["stage"] for number in asked] == [1] * 100
        deaf.kill()
    finally:
        for board in boards:
            board.close()


def test_a_board_nobody_reads_ends_with_its_input(folder: Path) -> None:
    process = subprocess.Popen(
        arguments(folder, 2), stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert b'"ready"' in process.stdout.readline()
        assert pour(process, FLOOD) < len(FLOOD)
        process.stdin.close()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def ask(path: str, number: int) -> dict[str, Any]:
    """One client of a pseudo-terminal, from opening it to leaving."""
    with Path(path).open("r+b", buffering=0) as client:
        assert not termios.tcgetattr(client.fileno())[3] & termios.ECHO
        client.write(control.command(number, "info", {}))
        lines = control.Lines()
        while True:
            for line in lines.feed(client.read(4096)):
                answer = control.parse_answer(line)
                if answer.get("id") == number:
                    return answer


def test_a_pty_outlives_its_clients(folder: Path) -> None:
    process = subprocess.Popen(
        arguments(folder, 2, "--pty"), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    try:
        path = process.stderr.readline().strip()
        for number in (1, 2):
            assert ask(path, number)["ok"]
        assert process.poll() is None
    finally:
        process.terminate()
        process.wait()
        process.stderr.close()
