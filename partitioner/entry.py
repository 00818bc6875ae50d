"""Where the commands begin: Ctrl-C ends them quietly from the first moment, imports included.

Nothing heavy may be imported here. Once a command's own code runs, KeyboardInterrupt is an
exception again, so that it can clean up (`partitioner.command`).
"""

from __future__ import annotations

import importlib
import os
import signal
import threading
from types import ModuleType

INTERRUPTED = 130  # As shells report a program that SIGINT ended: 128 + 2.


def load(module: str) -> ModuleType:
    """The module, imported; Ctrl-C meanwhile ends this process quietly."""
    # A shell's background jobs ignore SIGINT, and go on doing so; only the main thread may say so.
    guard = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if guard:
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    try:
        return importlib.import_module(module)
    finally:
        if guard:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def start(module: str) -> None:
    """Import `module` and call its `main()`."""
    load(module).main()


def partition() -> None:
    start("partitioner.cli")


def tinysplit() -> None:
    start("host.cli")
