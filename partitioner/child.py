"""Python in a process of its own that sees the packages this one sees, and nothing else.

`python -m` would put the current folder first on the path, and run whatever lies there.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def command(module: str, function: str, *, bound: bool = False) -> list[str]:
    """The command line that calls `module.function()`; further items become sys.argv[1:].

    `bound`: it ends with the thread that starts it, see `die_with`.
    """
    path = [entry for entry in sys.path if entry]
    code = f"import sys; sys.path[:] = {path!r}; "
    if bound:
        code += f"from {__name__} import die_with; die_with({os.getpid()}); "
    code += f"from {module} import {function}; {function}()"
    return [sys.executable, "-I", "-c", code]


def end_with_parent() -> None:
    """Let this process end when its parent does, also if it is stopped or hangs.

    On Linux only (prctl(2), PR_SET_PDEATHSIG).
    """
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def die_with(parent: int) -> None:
    """As `end_with_parent`; ends at once if the parent (that process id) is gone already."""
    end_with_parent()
    if os.getppid() != parent:
        sys.exit(1)


def how_ended(code: int | None) -> str:
    """A return code for people: `exit 1`, `killed by SIGSEGV`."""
    return (
        f"killed by {signal.Signals(-code).name}"
        if code is not None and code < 0
        else f"exit {code}"
    )
