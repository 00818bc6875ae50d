"""A board on a serial port: USB, a USB-to-UART bridge, or a pseudo-terminal.

A port carries three things at once: lines of JSON, log text, and frames of the link (SPEC.md
section 9). Boards reset when they like, also when a port is opened, and what was sent to them
then is lost; so an exchange begins by asking until the board answers.
"""

from __future__ import annotations

import contextlib
import errno
import secrets
import select
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

import serial

from host.boards.address import Address
from host.boards.board import ANSWER_TIMEOUT_S, Board, BoardError

BAUD = 115_200
_ASK_AGAIN_S = 1.0
_CHUNK_BYTES = 256  # Written at once; what comes back meanwhile is read between them.
_SEND_TIMEOUT_S = 5.0  # For one of them.
_POLL_S = 0.02
_UNUSABLE = {
    errno.ENOENT: ("no_port", "there is no such port; is the board plugged in?"),
    errno.ENODEV: ("no_port", "there is no such port; is the board plugged in?"),
    errno.ENXIO: ("no_port", "nothing is plugged in there"),
    errno.EACCES: (
        "not_allowed",
        "permission denied; on Linux add yourself to the group dialout and log in again",
    ),
    errno.EPERM: ("not_allowed", "permission denied"),
    errno.EBUSY: ("busy", "another program uses the port; close it"),
    errno.EAGAIN: ("busy", "another program uses the port; close it"),
    errno.ENOTTY: ("not_a_port", "this is no serial port"),
    errno.EISDIR: ("not_a_port", "this is no serial port"),
    errno.EINVAL: ("not_a_port", "this is no serial port, or it does not have that speed"),
}


class SerialBoard(Board):
    """The board on `port`. Opened at once; call `greet` before anything else.

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
        self._last_id = secrets.randbelow(1 << 30)  # Late answers to another program are not ours.
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
            number = getattr(error, "errno", None)
            code, why = _UNUSABLE.get(number or 0, ("no_port", " ".join(str(error).split())))
            if number is None and "lock" in str(error):
                code, why = _UNUSABLE[errno.EBUSY]
            elif number is None and "configure" in str(error):
                code, why = _UNUSABLE[errno.ENOTTY]
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

    def greet(self, timeout_s: float = ANSWER_TIMEOUT_S) -> dict[str, Any]:
        """What the board says of itself, asked again and again: it may be starting.

        Raises:
            BoardError: `no_answer`: whatever is on that port is no board of ours; `gone`.
        """
        deadline = time.monotonic() + timeout_s
        self._send(b"\n")  # Ends what another program may have left half-written.
        while (left := deadline - time.monotonic()) > 0:
            self._ready = None
            try:
                found = self.ask("info", min(left, _ASK_AGAIN_S))
            except BoardError as error:
                if error.code not in ("no_answer", "restarted"):
                    raise
            else:
                self._ready = None  # If it came, then before the answer.
                return found
        raise BoardError(
            "no_answer",
            f"no board answers on {self.port}{self._printed()}; is it the right port, and does "
            "the board run tinysplit's firmware?",
        )

    def finish(
        self,
        command_id: int,
        timeout_s: float = ANSWER_TIMEOUT_S,
        watch: Callable[[], None] | None = None,
    ) -> dict[str, Any]:
        """As Board's; also raises `restarted`: the board was reset, and the command with it."""

        def look() -> None:
            if command_id not in self._answers:
                self.check()
            if watch is not None:
                watch()

        return super().finish(command_id, timeout_s, look)

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
                return self.greet(max(deadline - time.monotonic(), _ASK_AGAIN_S))
            except BoardError as error:
                if error.code not in ("gone", "no_port", "busy") or time.monotonic() > deadline:
                    raise
            time.sleep(_ASK_AGAIN_S / 10)

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
