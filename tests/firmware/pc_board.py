"""The firmware's application as a program of this machine (board_main.c), seen as a board."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from host.boards import control
from host.boards.board import BoardError
from host.boards.wired import WiredBoard
from partitioner import image

# As in fake_flash.h and board_main.c.
SLOT_BYTES = 256 * 1024
STATE_BYTES = 8192
APP_BYTES = 128 * 1024
_FLASH_BYTES = 2 * SLOT_BYTES + STATE_BYTES + 2 * APP_BYTES
_END_TIMEOUT_S = 10.0


def factory_flash(path: Path, images: Mapping[int, bytes]) -> Path:
    """A flash file with these images in its slots, as esptool writes them."""
    flash = bytearray(b"\xff" * _FLASH_BYTES + bytes(64))
    for slot, data in images.items():
        flash[slot * SLOT_BYTES : slot * SLOT_BYTES + len(data)] = data
    path.write_bytes(flash)
    return path


class PcBoard(WiredBoard):
    """Whatever looks like JSON and does not follow the schema is a failure."""

    def __init__(self, program: Path, flash: Path, engine: str = "0", watchdog_ms: int = 0) -> None:
        super().__init__("board")
        self.port = "the PC"
        self.events: list[dict[str, Any]] = []
        self._event_lines = control.Lines()
        self.printed = bytearray()
        self._process = subprocess.Popen(
            [program, flash],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env={
                **os.environ,
                "BOARD_ENGINE": engine,
                "BOARD_WATCHDOG_MS": str(watchdog_ms),
                "ASAN_OPTIONS": "detect_leaks=0",
            },
        )
        self._selector = selectors.DefaultSelector()
        assert self._process.stdout is not None
        self._selector.register(self._process.stdout, selectors.EVENT_READ)

    def write(self, data: bytes) -> None:
        self._send(data)

    def replies_to(self, line: bytes, wait_s: float = 5.0) -> dict[str, Any]:
        """The reply to a line whose id is not known."""
        before = dict(self._answers)
        self.write(line + b"\n")
        end = time.monotonic() + wait_s
        while time.monotonic() < end:
            self._listen(end, 0.1)
            for key, answer in self._answers.items():
                if key not in before or before[key] is not answer:
                    del self._answers[key]
                    return answer
        raise AssertionError(f"no answer to {line[:80]!r}")

    def wait_event(self, name: str, timeout_s: float = 20.0) -> dict[str, Any]:
        end = time.monotonic() + timeout_s
        while True:
            for event in self.events:
                if event["event"] == name:
                    self.events.remove(event)
                    return event
            self._listen(end, 0.1)

    def kill(self) -> None:
        """As a power cut."""
        self._process.kill()
        self._process.wait()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Its clock goes on, and nothing else."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stderr is not None
        if self._process.stderr.closed:
            return
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(_END_TIMEOUT_S)
        finally:
            self._process.kill()
            self._process.wait()
        errors = self._process.stderr.read().decode("utf-8", "replace")
        self._process.stderr.close()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._selector.close()
        assert not errors, errors[-3000:]
        assert self._process.returncode in (0, -9)

    def update(self, data: bytes, *, step: int = 3072, start: bool = True) -> str:
        """Send an image by commands and verify it; its digest."""
        digest = image.digest_of(data)
        at = 0
        if start:
            at = self.ask("update_begin", data=encoded(data[:64]), digest=digest.hex())["offset"]
        while at < len(data):
            piece = data[at : at + step]
            at = self.ask("update_data", offset=at, data=encoded(piece))["offset"]
        self.ask("update_finish")
        return digest.hex()

    def _send(self, line: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line)
        except BrokenPipeError as error:
            raise self._gone() from error

    def _receive(self, timeout_s: float) -> bytes:
        assert self._process.stdout is not None
        if not self._selector.select(timeout_s):
            return b""
        data = os.read(self._process.stdout.fileno(), 65536)
        if not data:
            raise self._gone()
        self.printed += data
        return data

    def _gone(self) -> BoardError:
        self._process.kill()
        assert self._process.stderr is not None
        errors = self._process.stderr.read().decode("utf-8", "replace")
        return BoardError("gone", f"the board ended: {errors[:2000]}")

    def _take(self, data: bytes) -> None:
        for line in self._event_lines.feed(data):
            with contextlib.suppress(control.ControlError):
                answer = control.parse_answer(line)
                if "event" in answer:
                    self.events.append(answer)
        super()._take(data)

    def _text(self, line: str) -> None:
        assert not line.startswith("{"), f"no answer by the schema: {line}"
        super()._text(line)


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def line_of(content: object) -> bytes:
    return json.dumps(content).encode()
