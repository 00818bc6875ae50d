"""Mosquitto, started for a test and killed in the middle of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.ports import free_port

START_TIMEOUT_S = 10.0
PROGRAM = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


class Mosquitto:
    """A broker on a port of its own; further lines of its configuration in `lines`."""

    def __init__(self, folder: Path, *lines: str, anonymous: bool = True) -> None:
        if PROGRAM is None:
            if os.environ.get("TINYSPLIT_REQUIRE_ALL") == "1":
                raise AssertionError("mosquitto is missing: apt-get install mosquitto")
            pytest.skip("mosquitto is missing: apt-get install mosquitto")
        self.port = free_port()
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / "mosquitto.conf"
        allowed = "true" if anonymous else "false"
        user = ["user root"] if os.getuid() == 0 else []  # Or it could not read the test's files.
        text = [f"listener {self.port} 127.0.0.1", f"allow_anonymous {allowed}", *user]
        self._file.write_text("\n".join([*text, "set_tcp_nodelay true", *lines, ""]))
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def start(self) -> None:
        log = (self._folder / "mosquitto.log").open("ab")
        with log:
            self._process = subprocess.Popen(
                [str(PROGRAM), "-c", str(self._file)], stdout=log, stderr=log
            )
        end = time.monotonic() + START_TIMEOUT_S
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            assert self._process.poll() is None, (self._folder / "mosquitto.log").read_text()
            assert time.monotonic() < end
            time.sleep(0.02)

    def kill(self) -> None:
        """As kill -9. Safe to call twice."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
