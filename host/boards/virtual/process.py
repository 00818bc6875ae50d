"""A virtual board as a process of its own."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from host.boards.address import Address
from host.boards.board import BoardError
from host.boards.process import ProcessBoard
from host.closing import Closing
from partitioner import child

BOOT_TIMEOUT_S = 60.0


class VirtualBoard(ProcessBoard):
    """Starts `tinysplit board`, the firmware's C core on this machine's sockets."""

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
        flags: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> None:
        """Start the process.

        Args:
            settings: further options of `tinysplit board`, by their names without the dashes.
            flags: more of them, as they are written.
            environment: what it gets beside this process's environment, such as keys.
        """
        arguments = [str(folder), "--stage", str(stage), "--listen", str(listen), "--name", name]
        arguments += ["--mtu", str(mtu), "--window", str(window), "--timeout-ms", str(timeout_ms)]
        if following is not None:
            arguments += ["--next", str(following)]
        if flash is not None:
            arguments += ["--flash", str(flash)]
        for option, value in (settings or {}).items():
            arguments += [f"--{option}", str(value)]
        arguments += flags
        super().__init__(name, arguments, environment=environment, on_text=on_text)


class VirtualBridge(Closing):
    """Starts `tinysplit board --role bridge`; `port` is its wire, a pseudo-terminal.

    Ends with `close`, and when this process does. Raises BoardError `gone` if it does not start.
    """

    def __init__(
        self,
        listen: Address,
        *,
        settings: Mapping[str, str | int],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        arguments = ["--role", "bridge", "--listen", str(listen)]
        for option, value in settings.items():
            arguments += [f"--{option}", str(value)]
        self._process = subprocess.Popen(  # noqa: S603
            [*child.command("host.cli", "main"), "board", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            bufsize=0,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
        assert self._process.stderr is not None
        printed = self._process.stderr.readline().decode("utf-8", "replace").strip()
        if not printed.startswith("/dev/"):
            self.kill()
            why = printed.split("error: ")[-1] or f"exit {self._process.returncode}"
            raise BoardError("gone", f"the virtual bridge ended: {why}")
        self.port = printed

    def kill(self) -> None:
        """End it at once, as pulling its plug would."""
        self._process.kill()
        self.close()

    def close(self) -> None:
        """End it. Safe to call twice."""
        assert self._process.stdin is not None
        assert self._process.stderr is not None
        self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(BOOT_TIMEOUT_S)
        self._process.stderr.close()
