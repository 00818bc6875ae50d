"""A board on a serial port: USB, a USB-to-UART bridge, or a pseudo-terminal.

A port carries three things at once: lines of JSON, log text, and frames of the link (SPEC.md
section 9).
"""

from __future__ import annotations

import contextlib
import select
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

import serial

from host.boards.address import Address
from host.boards.board import ANSWER_TIMEOUT_S, BoardError
from host.boards.wired import WiredBoard
from host.serial_port import why_unusable

BAUD = 115_200
_REOPEN_S = 0.1
_CHUNK_BYTES = 256  # Written at once; what comes back meanwhile is read between them.
_SEND_TIMEOUT_S = 5.0  # For one of them.
_POLL_S = 0.02


class SerialBoard(WiredBoard):
    """The board on a serial port, which is opened at once.

    Raises:
        BoardError: `no_port`, `not_allowed`, `busy`, `not_a_port`: the port cannot be had.
    """

    def __init__(
        self,
        port: str,
        *,
        name: str | None = None,
        baud: int = BAUD,
        on_text: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__(name or f"the board on {port}", on_text)
        self.port = port
        self._baud = baud
        self._unread = b""
        self._serial = self._open()

    def _open(self) -> serial.Serial:
        # DTR and RTS stay both asserted, as opening leaves them: boards are wired so that only
        # one without the other resets them.
        try:
            return serial.Serial(
                self.port, self._baud, timeout=0, write_timeout=_SEND_TIMEOUT_S, exclusive=True
            )
        except (OSError, ValueError) as error:
            code, why = why_unusable(error)
            raise BoardError(code, f"cannot use {self.port}: {why}") from error

    def _lost(self) -> BoardError:
        return BoardError("gone", f"{self.name} is gone: {self.port} was unplugged or reset")

    def _read(self) -> bytes:
        """What has come, without waiting."""
        try:
            data: bytes = self._serial.read(65536)
        except (OSError, TypeError, AttributeError) as error:  # pyserial, on a port that vanishes.
            raise self._lost() from error
        return data

    def _wait(self, timeout_s: float) -> None:
        """Until something has come, at most so long."""
        if sys.platform == "win32":
            time.sleep(min(timeout_s, _POLL_S))
        else:
            select.select([self._serial.fileno()], [], [], timeout_s)

    def _send(self, line: bytes) -> None:
        try:
            for start in range(0, len(line), _CHUNK_BYTES):
                self._serial.write(line[start : start + _CHUNK_BYTES])
                self._unread += self._read()  # A board that cannot print does not listen.
        except serial.SerialTimeoutException as error:
            text = f"{self.name} takes no commands{self._printed()}"
            raise BoardError("no_answer", text) from error
        except (OSError, TypeError, AttributeError) as error:
            raise self._lost() from error

    def _receive(self, timeout_s: float) -> bytes:
        deadline = time.monotonic() + timeout_s
        data, self._unread = self._unread, b""
        while not data:
            data = self._read()
            left = deadline - time.monotonic()
            if data or left <= 0:
                break
            self._wait(left)
        return data

    def reboot(self, timeout_s: float = ANSWER_TIMEOUT_S) -> dict[str, Any]:
        """As Board's. A port that vanishes meanwhile, as USB ports of boards do, is reopened."""
        deadline = time.monotonic() + timeout_s
        try:
            return super().reboot(timeout_s)
        except BoardError as error:
            if error.code != "gone":
                raise
        while True:
            self._serial.close()
            try:
                self._serial = self._open()
                return self.greet(max(deadline - time.monotonic(), 1.0))
            except BoardError as error:
                self._check_stop()
                if error.code not in ("gone", "no_port", "busy") or time.monotonic() > deadline:
                    raise
            time.sleep(_REOPEN_S)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._serial.close()


def facing(there: Address) -> str:
    """The address of this machine from which `there` is reached.

    Raises:
        BoardError: `unreachable`.
    """
    family = socket.AF_INET6 if ":" in there.host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((there.host, there.port or 1))  # Sends nothing.
            address: str = probe.getsockname()[0]
            return address
    except OSError as error:
        raise BoardError(
            "unreachable", f"this machine has no way to {there}: {error.strerror}"
        ) from error
