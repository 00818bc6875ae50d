"""A board that is a process of this machine, controlled over its standard input and output."""

from __future__ import annotations

import contextlib
import os
import select
import selectors
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence

from host.boards.board import Board, BoardError
from partitioner import child

_END_TIMEOUT_S = 10.0
_SEND_TIMEOUT_S = 10.0  # Without a byte taken.


class ProcessBoard(Board):
    """Starts `tinysplit board` and ends it with `close`; it also ends when this process does."""

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> None:
        """Start the process.

        Args:
            arguments: what follows `tinysplit board`.
            environment: what it gets beside this process's environment, such as keys.
        """
        super().__init__(name, on_text)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # Closed by close().
        self._process = subprocess.Popen(  # noqa: S603
            [*child.command("host.cli", "main"), "board", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            bufsize=0,
            env={**os.environ, **(environment or {})},
            start_new_session=True,  # Ctrl-C is for the host; it ends its boards itself.
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdin.fileno(), False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._process.stdout, selectors.EVENT_READ)

    @property
    def pid(self) -> int:
        return self._process.pid

    def _gone(self) -> BoardError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_TIMEOUT_S)
        self._errors.seek(0)
        printed = self._errors.read().decode("utf-8", "replace").strip().splitlines()
        if printed:
            why = printed[-1].split("error: ")[-1]
        else:
            why = child.how_ended(self._process.returncode)
        return BoardError("gone", f"{self.name} ended: {why}")

    def _send(self, line: bytes) -> None:
        assert self._process.stdin is not None
        view = memoryview(line)
        try:
            while view:
                if not select.select([], [self._process.stdin], [], _SEND_TIMEOUT_S)[1]:
                    raise BoardError("no_answer", f"{self.name} takes no commands")
                view = view[self._process.stdin.write(view) or 0 :]
        except (BrokenPipeError, ValueError) as error:
            raise self._gone() from error

    def _receive(self, timeout_s: float) -> bytes:
        assert self._process.stdout is not None
        if not self._selector.select(timeout_s):
            return b""
        data: bytes = os.read(self._process.stdout.fileno(), 65536)
        if not data:
            raise self._gone()
        return data

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        if self._process.stdin is not None and not self._process.stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._selector.close()
        self._errors.close()
