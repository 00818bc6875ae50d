"""An emulated board as a process of its own."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

from host.boards.address import Address
from host.boards.board import BoardError
from host.boards.process import ProcessBoard

BOOT_TIMEOUT_S = 180.0  # Making the flash image, and a boot at a fraction of the real speed.
HOST = "10.0.2.2"  # This machine, as QEMU's user network shows it to the guest.
LOOPBACK = "127.0.0.1"


class EmulatedBoard(ProcessBoard):
    """Starts `tinysplit board --qemu`; what it listens on is forwarded from `listen`."""

    provenance = "emulated"

    def __init__(
        self,
        name: str,
        folder: Path,
        stage: int,
        build: Path,
        *,
        qemu: Path | None = None,
        listen: Address,
        following: Address | None,
        mtu: int = 0,
        timeout_ms: int = 10_000,
        codec: str = "raw",
        flash: Path | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> None:
        arguments = [str(folder), "--stage", str(stage), "--qemu", str(build), "--name", name]
        arguments += ["--listen", str(listen), "--mtu", str(mtu), "--timeout-ms", str(timeout_ms)]
        arguments += ["--codec", codec]
        if following is not None:
            arguments += ["--next", str(seen_by_guest(following))]
        if flash is not None:
            arguments += ["--flash", str(flash)]
        if qemu is not None:
            arguments += ["--qemu-bin", str(qemu)]
        super().__init__(name, arguments, on_text=on_text)

    def close(self) -> None:
        self._process.terminate()  # While it boots it does not see its input end.
        super().close()


def seen_by_guest(place: Address) -> Address:
    """What an emulated board must call a place that this machine reaches.

    Raises:
        BoardError: `unreachable`: the emulator's network has IPv4 only.
    """
    if ":" in place.host:
        raise BoardError("unreachable", f"an emulated board does not reach {place}: IPv4 only")
    return Address(place.transport, HOST, place.port) if place.host == LOOPBACK else place


def free_port() -> int:
    """A port of this machine that nobody uses for UDP or TCP now."""
    while True:
        with (
            socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        ):
            tcp.bind((LOOPBACK, 0))
            port: int = tcp.getsockname()[1]
            try:
                udp.bind((LOOPBACK, port))
            except OSError:
                continue
            return port
