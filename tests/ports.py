"""Ports for those that listen later, or never."""

from __future__ import annotations

import itertools
import os
import random
import socket

_SHARES = 6
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _SHARES
_FIRST = 20_000  # Below those that connect and port 0 get.
_EACH = 2_000
_ports = itertools.cycle(
    random.sample(range(_FIRST + _WORKER * _EACH, _FIRST + (_WORKER + 1) * _EACH), _EACH)
)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody has, for UDP and TCP, and that no other test is given."""
    for port in _ports:
        with (
            socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        ):
            try:
                tcp.bind(("127.0.0.1", port))
                udp.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError
