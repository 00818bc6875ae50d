"""How tinysplit's commands behave: plain errors, exit codes, progress on standard error."""

from __future__ import annotations

import contextlib
import difflib
import errno
import importlib.util
import io
import math
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from rich.console import Console, ConsoleOptions
from rich.status import Status
from rich.table import Table

from models.errors import ArgumentError, TinysplitError
from models.preprocess import MODES
from partitioner.entry import INTERRUPTED
from partitioner.output import OutputError

ARENA = "arena (x86-64)"  # A column's heading: as tflite-micro reports it here, not on a board.
_HELP = ["-h", "--help"]
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Command(click.Command):
    """A click command: 0 done, 1 failed, 2 wrong usage, 130 Ctrl-C; 1 and 2 say why in one line.

    A traceback is shown with `--verbose` only.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.context_settings.setdefault("help_option_names", _HELP)

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        with _usage_in_one_line():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")  # A table must not fail on an ASCII terminal.
        try:
            with _usage_in_one_line():
                return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)
        except BrokenPipeError:
            # The reader of our output went away: nothing to tell, and nobody to tell it to.
            _drop_output()
            sys.exit(1)
        except Exception as error:
            if ctx.params.get("verbose"):
                traceback.print_exc()
            click.echo(f"{ctx.command_path}: error: {describe(error)}", err=True)
            if _no_room(error):
                _drop_output()
            sys.exit(2 if isinstance(error, ArgumentError) else 1)


class Group(click.Group):
    """Commands under one name, which says wrong usage as they do."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.context_settings.setdefault("help_option_names", _HELP)

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        with _usage_in_one_line():
            return super().make_context(*args, **extra)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            close = difflib.get_close_matches(args[0], self.list_commands(ctx), n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise _UsageError(f"no command {args[0][:40]!r}{hint}", ctx) from error


class _UsageError(click.UsageError):
    """As click's, in one line like all other errors."""

    def show(self, file: Any = None) -> None:
        path = "tinysplit" if self.ctx is None else self.ctx.command_path
        text = " ".join(self.format_message().split()).rstrip(".")
        click.echo(f"{path}: error: {text}; see `{path} --help`", file=file, err=True)


@contextlib.contextmanager
def _usage_in_one_line() -> Iterator[None]:
    try:
        yield
    except (click.exceptions.NoArgsIsHelpError, _UsageError):
        raise
    except click.UsageError as error:
        raise _UsageError(error.format_message(), error.ctx) from error


def existing(*, folder: bool = True) -> click.Path:
    """The type of what a command reads: a file (or a folder) that is not there is wrong usage."""
    return click.Path(exists=True, dir_okay=folder, path_type=Path)


def _no_room(error: BaseException) -> bool:
    """Whether an output of no name could not be written."""
    return isinstance(error, OSError) and error.errno in _NO_ROOM and not error.filename


def _drop_output() -> None:
    """What is still buffered must not fail again when the interpreter ends."""
    with contextlib.suppress(OSError):  # Not a file at all.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def describe(error: BaseException) -> str:
    """An exception as one line: its own words if tinysplit raised it, else what and where.

    Printable whatever it quotes: a board's words, or a peer's, may be meant for the terminal.
    """
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in _words(error))


def _words(error: BaseException) -> str:
    if isinstance(error, TinysplitError):
        return " ".join(str(error).split())
    if isinstance(error, OSError) and _no_room(error):
        return f"cannot write the output: {error.strerror}; make room, or send it elsewhere"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, MemoryError):
        return "out of memory; a smaller input size or model needs less"
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text} (a defect of tinysplit; --verbose shows where)"


class Steps:
    """Names the step under way, and prints each with its duration when it is over.

    On a terminal it moves meanwhile; elsewhere (a file, a pipe) a line says what has begun.
    It writes to a duplicate of standard error, so native output can be captured meanwhile.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        stream = os.fdopen(os.dup(2), "w", encoding="utf-8", errors="replace")
        self._console = Console(file=stream, quiet=quiet, highlight=False)
        self._status: Status | None = None
        self._step = ""
        self._started = 0.0

    def __enter__(self) -> Steps:
        return self

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        self._finish(failed=kind is not None)
        self._console.file.close()

    def __call__(self, step: str) -> None:
        """A step begins, and so the last one is over."""
        self._finish()
        self._step, self._started = step, time.monotonic()
        self._status = self._console.status(step)
        self._status.start()
        if not self._console.is_terminal:
            self._console.print(f"  {step} ...", markup=False, soft_wrap=True)

    def detail(self, done: int, total: int) -> None:
        """How far the step under way has got."""
        if self._status is not None:
            self._status.update(f"{self._step} {done}/{total}")

    def _finish(self, *, failed: bool = False) -> None:
        if self._status is None:
            return
        self._status.stop()
        self._status = None
        mark = "[red]failed[/]" if failed else f"{time.monotonic() - self._started:5.1f} s"
        self._console.print(f"  {self._step:<36} {mark}")


class Bytes(click.ParamType):  # type: ignore[type-arg]  # Generic from click 8.4 on.
    """A number of bytes: `307200`, `300k`, `300KiB`, `8MB`. k and M are powers of 1024."""

    name = "bytes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d{1,12})\s*(?:([km])(?:i?b)?)?", str(value).strip().lower())
        if match is None or int(match[1]) == 0:
            self.fail(f"{value!r} is no number of bytes (such as 307200, 300k or 8M)", param, ctx)
        return int(match[1]) << {None: 0, "k": 10, "m": 20}[match[2]]


class FiniteRange(click.FloatRange):
    """A range of numbers; `nan` is none, although it is neither too small nor too large."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is no number", param, ctx)
        return number


def size(count: int | None) -> str:
    """Bytes for people: 1,008 B, 204.7 KiB; `-` for None."""
    if count is None:
        return "-"
    if count < 10 * 1024:
        return f"{count:,} B"
    return f"{count / 1024:,.1f}".removesuffix(".0") + " KiB"


def wide_console(*tables: Table) -> Console:
    """A console for tables and text as it is: [brackets] are no markup.

    Where no terminal limits it, it is never narrower than the tables need.
    """
    console = Console(highlight=False, soft_wrap=True, markup=False)
    if console.is_terminal:
        return console
    needed = max(
        (console.measure(t, options=_unlimited(console)).maximum for t in tables), default=0
    )
    return Console(highlight=False, soft_wrap=True, markup=False, width=max(needed, console.width))


def _unlimited(console: Console) -> ConsoleOptions:
    return console.options.update(width=10_000)


class PictureError(OutputError, ArgumentError):
    """No name of a picture."""


def require_picture(path: Path) -> None:
    """Refuse early what cannot be drawn.

    Raises:
        PictureError: the name does not end in a format matplotlib writes here.
        OutputError: matplotlib is not installed.
    """
    known = (".png", ".pdf", ".svg")
    if path.suffix.lower() not in known:
        raise PictureError(f"cannot draw {path}: the name must end in {', '.join(known)}")
    if importlib.util.find_spec("matplotlib") is None:
        raise OutputError("pictures need matplotlib: pip install matplotlib")


def verbose_option() -> Callable[[Any], Any]:
    return click.option("--verbose", is_flag=True, help="Show a traceback when something fails.")


def together(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Options as one decorator; the help lists them in this order."""

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


# Which network, quantized on what: the fields of `source.Request`.
model_options = together(
    click.option(
        "--model",
        default="mobilenet_v2",
        show_default=True,
        metavar="NAME|FILE",
        help="mobilenet_v2, resnet50, a .keras file, or a full-int8 .tflite file.",
    ),
    click.option(
        "--weights",
        metavar="NAME|FILE",
        help="digits, imagenet, random, or a weights file.",
    ),
    click.option("--alpha", type=float, help="Width of mobilenet_v2.  [default: 0.35]"),
    click.option("--size", type=int, help="Height and width of the input.  [default: 96 or 224]"),
    click.option("--classes", type=int, help="Classes.  [default: 10, imagenet 1000]"),
    click.option(
        "--calibration",
        default="digits",
        show_default=True,
        metavar="digits|DIR|NPZ",
        help="What int8 ranges are taken from: digits, a folder of images, an .npz.",
    ),
    click.option(
        "--calibration-images",
        default=100,
        show_default=True,
        type=click.IntRange(1),
        metavar="N",
    ),
    click.option(
        "--preprocess",
        "preprocessing",
        type=click.Choice(MODES),
        help="How pixels become the input of a model from a file.",
    ),
    click.option(
        "--resize", is_flag=True, help="Scale images of another size instead of refusing."
    ),
)
