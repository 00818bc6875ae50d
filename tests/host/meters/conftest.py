"""Instruments that are processes."""

import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from tests.host.meters import fake_ppk2
from tests.host.meters.fake_ppk2 import Behaviour

Plug = Callable[[], None]
PlugIn = Callable[[Behaviour], tuple[str, Plug]]


@pytest.fixture
def plug_in() -> Iterator[PlugIn]:
    """Plug in a fake PPK2: its port, and what pulls the plug."""
    running: list[subprocess.Popen[str]] = []

    def start(behaviour: Behaviour) -> tuple[str, Plug]:
        words = [sys.executable, fake_ppk2.__file__, behaviour.text()]
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        running.append(process)
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        assert port.startswith("/dev/")

        def pull() -> None:
            process.kill()
            process.wait()

        return port, pull

    yield start
    for process in running:
        process.kill()
        process.communicate()
