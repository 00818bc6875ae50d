"""A virtual board as a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from host.boards.address import Address
from host.boards.process import ProcessBoard

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
        environment: Mapping[str, str] | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> None:
        """Start the process.

        Args:
            settings: further options of `tinysplit board`, by their names without the dashes.
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
        super().__init__(name, arguments, environment=environment, on_text=on_text)
