"""Boards behind pseudo-terminals: real virtual boards, and a cable between that can be harmed."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import subprocess
import threading
import tty
from collections.abc import Callable, Iterator
from pathlib import Path

from host.boards.address import Address
from partitioner import child


@contextlib.contextmanager
def virtual_board(
    folder: Path, stage: int, following: Address | str | None = None, **options: object
) -> Iterator[str]:
    """`tinysplit board --pty`; yields the name of its port."""
    command = [*child.command("host.cli", "main"), "board", str(folder), "--stage", str(stage)]
    command += ["--pty"]
    if following is not None:
        command += ["--next", str(following)]
    for name, value in options.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    board = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert board.stderr is not None
    try:
        yield board.stderr.readline().strip()
    finally:
        board.kill()
        board.wait()
        board.stderr.close()


class Cable:
    """Between a port and a board behind another: both ways, as it is.

    `port` is what a program opens. `say` puts bytes on the line as if the board had sent them,
    `tell` as if the program had; nothing reaches a board while `deaf`; `cut` unplugs it.
    """

    def __init__(self, board: str | None = None) -> None:
        self._own, other = pty.openpty()
        tty.setraw(other)
        self.port = os.ttyname(other)
        self._held: int | None = other
        self._board = None if board is None else os.open(board, os.O_RDWR | os.O_NOCTTY)
        if self._board is not None:
            tty.setraw(self._board)
        self._stop_read, self._stop = os.pipe()
        self.deaf = False
        self.answer: Callable[[bytes], bytes] | None = None
        self._thread = threading.Thread(target=self._carry, daemon=True)
        self._thread.start()

    def say(self, data: bytes) -> None:
        """What nobody takes within a second is lost, as on any wire."""
        while data and select.select([], [self._own], [], 1.0)[1]:
            data = data[os.write(self._own, data[:1024]) :]

    def tell(self, data: bytes) -> None:
        assert self._board is not None
        os.write(self._board, data)

    def _carry(self) -> None:
        ends = [end for end in (self._own, self._board) if end is not None]
        while True:
            ready, _, _ = select.select([*ends, self._stop_read], [], [])
            if self._stop_read in ready:
                return
            for end in ready:
                try:
                    data = os.read(end, 4096)
                except OSError:
                    return
                if end == self._own:
                    if self.answer is not None:
                        self.say(self.answer(data))
                    if self._board is not None and not self.deaf:
                        os.write(self._board, data)
                else:
                    self.say(data)

    def cut(self) -> None:
        os.write(self._stop, b".")
        self._thread.join(10)
        if self._held is not None:
            os.close(self._held)
            self._held = None
        os.close(self._own)

    def __enter__(self) -> Cable:
        return self

    def __exit__(self, *_: object) -> None:
        if self._held is not None:
            self.cut()
        for end in (self._board, self._stop, self._stop_read):
            if end is not None:
                os.close(end)
