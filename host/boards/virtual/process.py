"""A virtual board as a process of its own, controlled over its standard input and output."""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from host.boards.address import Address
from host.boards.board import Board, BoardError
from partitioner import child

BOOT_TIMEOUT_S = 60.0
_END_TIMEOUT_S = 5.0


class VirtualBoard(Board):
    """Starts `tinysplit board` and ends it with `close`; it also ends when this process does."""

    def __init__(
        self,
        name: str,
        folder: Path,
        stage: int,
        listen: Address,
        following: Address | None,
        *,
        mtu: int = 0,
        window: int = 0,
        timeout_ms: int = 10_000,
        flash: Path | None = None,
        settings: Mapping[str, str | int] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start the process.

        Args:
            settings: further options of `tinysplit board`, by their names without the dashes.
            environment: what it gets beside this process's environment, such as keys.
        """
        super().__init__(name)
        command = [*child.command("host.cli", "main"), "board", str(folder), "--stage", str(stage)]
        command += ["--listen", str(listen), "--name", name, "--timeout-ms", str(timeout_ms)]
        command += ["--mtu", str(mtu), "--window", str(window)]
        if following is not None:
            command += ["--next", str(following)]
        if flash is not None:
            command += ["--flash", str(flash)]
        for option, value in (settings or {}).items():
            command += [f"--{option}", str(value)]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # Closed by close().
        self._process = subprocess.Popen(  # noqa: S603
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            bufsize=0,
            env={**os.environ, **(environment or {})},
            start_new_session=True,  # Ctrl-C is for the host; it ends its boards itself.
        )
        assert self._process.stdout is not None
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
        why = printed[-1].split("error: ")[-1] if printed else f"exit {self._process.returncode}"
        return BoardError("gone", f"{self.name} ended: {why}")

    def _send(self, line: bytes) -> None:
        assert self._process.stdin is not None
        view = memoryview(line)
        try:
            while view:
                view = view[self._process.stdin.write(view) :]
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
