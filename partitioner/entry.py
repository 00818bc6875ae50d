"""Where the commands begin: Ctrl-C ends them quietly from the first moment, imports included.

Nothing heavy may be imported here. Once a command's own code runs, KeyboardInterrupt is an
exception again, so that it can clean up (`partitioner.command`).
"""

from __future__ import annotations

import importlib
import os
import signal

INTERRUPTED = 130  # As shells report a program that SIGINT ended: 128 + 2.


def start(module: str) -> None:
    """Import `module` and call its `main()`."""
    # A shell's background jobs ignore SIGINT, and go on doing so.
    guard = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if guard:
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    loaded = importlib.import_module(module)
    if guard:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    loaded.main()


def partition() -> None:
    start("partitioner.cli")


def tinysplit() -> None:
    start("host.cli")
