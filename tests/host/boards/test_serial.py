"""Boards on serial ports, behind real pseudo-terminals; whatever happens on the wire has a name."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from host.boards import control
from host.boards.board import BoardError
from host.boards.serial import SerialBoard
from host.link.streams import wire_encode
from partitioner.bundle import Bundle
from tests.host.boards.ptys import Cable, virtual_board

TAIL = 2


@pytest.fixture(scope="module")
def port(folder: Path) -> Iterator[str]:
    with virtual_board(folder, TAIL) as port:
        yield port


def refused(code: str, message: str | None = None) -> contextlib.AbstractContextManager[object]:
    @contextlib.contextmanager
    def check() -> Iterator[None]:
        with pytest.raises(BoardError, match=message) as raised:
            yield
        assert raised.value.code == code
        assert "\n" not in str(raised.value)

    return check()


def test_a_board_behind_a_port_answers(port: str, stranger_bundle: Bundle) -> None:
    with SerialBoard(port) as board:
        info = board.greet()
        assert (info["stage"], info["bundle"]) == (TAIL, stranger_bundle.manifest.id)
        assert board.ask("selftest")["passed"] == 4
        assert board.reboot()["uptime_ms"] < info["uptime_ms"] + 1000
        with refused("unknown_command"):
            board.ask("explode")


def test_log_text_between_answers_is_kept_and_harms_nothing(port: str) -> None:
    told: list[str] = []
    with Cable(port) as cable, SerialBoard(cable.port, on_text=told.append) as board:
        cable.say(b"ESP-ROM:esp32s3-20210327\r\n\xff\xfe\x1b[0;32mI (31) boot: hi\x1b[0m\r\n{\n")
        board.greet()
        cable.say(b"I (2042) wifi: connected\n")
        board.ask("stats")
        board.ask("stats")
    assert told[0] == "ESP-ROM:esp32s3-20210327"
    assert told[1] == "\N{REPLACEMENT CHARACTER}" * 2 + "I (31) boot: hi"
    assert told[2:] == ["{", "I (2042) wifi: connected"]
    assert "\x1b" not in "".join(told)


def test_a_board_that_falls_silent_is_told_of_with_its_last_whole_line(port: str) -> None:
    line = "I (13556) esp_netif_handlers: eth ip: 10.0.2.15, mask: 255.255.255.0, gw: 10.0.2.2"
    with Cable(port) as cable, SerialBoard(cable.port) as board:
        board.greet()
        cable.deaf = True
        cable.say(b"\x1b[0;32m" + line.encode() + b"\x1b[0m\r\nI (13600) half")
        printed = re.escape(f"(waited 0.5 s); the last it printed: {line}")
        with refused("no_answer", f"does not answer {printed}$"):
            board.ask("stats", 0.5)
        with refused("no_answer", f"no board answers on .* {printed}; is it"):
            board.greet(0.5)


def test_frames_between_lines_and_zeros_of_a_reset_harm_nothing(port: str) -> None:
    told: list[str] = []
    with Cable(port) as cable, SerialBoard(cable.port, on_text=told.append) as board:
        board.greet()
        cable.say(b"half of " + wire_encode(bytes(range(250))) + b"a line\n\0")
        began = time.monotonic()
        board.ask("stats")
        assert time.monotonic() - began < 5
    assert told == ["half of a line"]


def test_a_line_that_was_half_written_before_is_ended(port: str) -> None:
    with Cable(port) as cable:
        cable.tell(b'{"id": 1, "cm')
        with SerialBoard(cable.port) as board:
            assert board.greet()["stage"] == TAIL


def test_a_board_that_is_still_starting_is_waited_for(folder: Path) -> None:
    with Cable() as silent, SerialBoard(silent.port) as board:
        began = time.monotonic()
        ready = control.event("ready", info={"stage": 7})
        reply = b'{"id":%d,"ok":true,"result":{"stage":7}}\n'

        def answer(data: bytes) -> bytes:
            if time.monotonic() < began + 1.5:
                return b"garbage of a boot\n" + ready[:5]
            return b"\n" + ready + b"".join(
                reply % control.parse_command(line).id for line in data.splitlines() if line
            )  # fmt: skip

        silent.answer = answer
        assert board.greet(10) == {"stage": 7}


def test_ports_that_cannot_be_had(tmp_path: Path, port: str) -> None:
    plain = tmp_path / "file"
    plain.write_text("")
    with refused("no_port", "cannot use /dev/ttyNONE: there is no such port"):
        SerialBoard("/dev/ttyNONE")
    with refused("not_a_port", "no serial port"):
        SerialBoard(str(plain))
    with refused("not_a_port", "no serial port"):
        SerialBoard(str(tmp_path))
    with SerialBoard(port), refused("busy", "another program uses the port"):
        SerialBoard(port)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a port that belongs to somebody else")
def test_a_port_of_somebody_else(port: str) -> None:
    os.seteuid(65534)
    try:
        with refused("not_allowed", "permission denied; .* group dialout"):
            SerialBoard(port)
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("says", [b"", b"AT+OK\r\n", bytes(range(256)) * 8, b"x" * 70_000])
def test_a_device_that_is_no_board(says: bytes) -> None:
    with Cable() as cable, SerialBoard(cable.port) as board:
        talker = threading.Thread(target=cable.say, args=(says,), daemon=True)
        talker.start()
        began = time.monotonic()
        with refused("no_answer", "no board answers on .* is it the right port"):
            board.greet(1.5)
        assert time.monotonic() - began < 5
        talker.join(5)


def test_a_device_that_takes_nothing() -> None:
    """Its buffer fills and stays full: writing has a deadline too."""
    own, other = os.openpty()
    try:
        import tty

        tty.setraw(other)
        with SerialBoard(os.ttyname(other)) as board, refused("no_answer", "takes no commands"):
            board.begin("run", input="tensors", tensors=["A" * 300_000])
    finally:
        os.close(own)
        os.close(other)


def test_a_reset_while_a_command_is_under_way(port: str) -> None:
    with Cable(port) as cable, SerialBoard(cable.port, name="kitchen") as board:
        board.greet()
        board.ask("stats")
        cable.deaf = True
        command = board.begin("stats")
        cable.say(control.event("ready", info={"reset": "brownout"}))
        with refused("restarted", r"kitchen restarted by itself \(brownout\)"):
            board.finish(command)


def test_a_port_that_vanishes(port: str) -> None:
    with Cable(port) as cable, SerialBoard(cable.port, name="kitchen") as board:
        board.greet()
        command = board.begin("selftest")
        cable.cut()
        with refused("gone", "kitchen is gone: .* was unplugged or reset"):
            board.finish(command)
        with refused("gone"):
            board.ask("info")


def test_a_port_that_vanishes_during_a_reboot_comes_back(port: str, tmp_path: Path) -> None:
    """USB ports of boards do: here a name that leads to another cable the second time."""
    name = tmp_path / "ttyACM0"
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(Cable(port))
        name.symlink_to(first.port)
        board = stack.enter_context(SerialBoard(str(name)))
        board.greet()
        first.deaf = True

        def replug() -> None:
            time.sleep(0.3)
            name.unlink()
            first.cut()
            time.sleep(0.5)
            name.symlink_to(stack.enter_context(Cable(port)).port)

        plugging = threading.Thread(target=replug)
        plugging.start()
        assert board.reboot(20)["stage"] == TAIL
        plugging.join()


def test_two_programs_take_turns(port: str) -> None:
    code = f"from host.boards.serial import SerialBoard; SerialBoard({port!r}).greet()"
    for _ in range(2):
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    with SerialBoard(port) as board:
        board.greet()
