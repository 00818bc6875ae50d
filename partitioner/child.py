"""Python in a process of its own that sees the packages this one sees, and nothing else.

`python -m` would put the current folder first on the path, and run whatever lies there.
"""

from __future__ import annotations

import signal
import sys


def command(module: str, function: str) -> list[str]:
    """The command line that calls `module.function()`; further items become sys.argv[1:]."""
    path = [entry for entry in sys.path if entry]
    code = f"import sys; sys.path[:] = {path!r}; from {module} import {function}; {function}()"
    return [sys.executable, "-I", "-c", code]


def how_ended(code: int | None) -> str:
    """A return code for people: `exit 1`, `killed by SIGSEGV`."""
    return (
        f"killed by {signal.Signals(-code).name}"
        if code is not None and code < 0
        else f"exit {code}"
    )
