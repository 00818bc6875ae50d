"""Ctrl-C, whenever it comes: nothing printed, exit code 130."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from models.errors import TinysplitError
from partitioner.command import describe


@pytest.mark.parametrize("command", ["tinysplit", "partition"])
@pytest.mark.parametrize("module", ["click", "numpy", "rich.table"])
def test_ctrl_c_while_modules_are_imported_is_quiet(command: str, module: str) -> None:
    code = f"from partitioner.entry import {command}; {command}()"
    started = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-c", code, "--version"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert started.stderr is not None
    for line in started.stderr:
        if line.rstrip().endswith(f" {module}"):
            started.send_signal(signal.SIGINT)
            break
    printed, errors = started.communicate(timeout=30)
    assert started.returncode == 130
    assert printed == ""
    assert all(line.startswith("import time:") for line in errors.splitlines()), errors


def test_ctrl_c_in_a_command_is_quiet_and_lets_it_clean_up() -> None:
    code = (
        "import click, sys, time\n"
        "from partitioner.command import Command\n"
        "@click.command(cls=Command)\n"
        "def main():\n"
        "    try:\n"
        "        click.echo('begun'); time.sleep(60)\n"
        "    finally:\n"
        "        click.echo('cleaned up')\n"
        "main()"
    )
    started = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert started.stdout is not None
    assert started.stdout.readline() == "begun\n"
    time.sleep(0.1)
    started.send_signal(signal.SIGINT)
    assert started.communicate(timeout=30) == ("cleaned up\n", "")
    assert started.returncode == 130


def test_a_background_job_goes_on_ignoring_it(tmp_path: Path) -> None:
    (tmp_path / "command.py").write_text(
        "import os, signal\ndef main(): os.kill(os.getpid(), signal.SIGINT); print('goes on')\n"
    )
    code = (
        f"import signal, sys; sys.path.append({str(tmp_path)!r})\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "from partitioner import entry; entry.start('command')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (0, "goes on\n"), done.stderr


def test_what_an_error_quotes_moves_no_cursor() -> None:
    said = "n1: \x1b[2J\x1b]0;title\x07\n\ud800\u202e caf\xe9"
    for error in (TinysplitError(said), ValueError(said), OSError(2, said)):
        assert describe(error).isprintable()
        assert "caf\xe9" in describe(error)
