"""`tinysplit pack` and `tinysplit keys`."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from host.packing import keys as key_files
from host.packing import pack as packing
from partitioner import bundle as bundles
from partitioner import image
from partitioner.command import ARENA, Command, Group, existing, size, verbose_option, wide_console
from partitioner.output import refuse_existing

_MAX_U32 = 0xFFFFFFFF


class _FirmwareVersion(click.ParamType):  # type: ignore[type-arg]  # Generic from click 8.4 on.
    """`1.2.3` as major << 16 | minor << 8 | patch."""

    name = "version"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d{1,5})\.(\d{1,3})\.(\d{1,3})", str(value))
        numbers = [int(n) for n in match.groups()] if match else [0xFFFF + 1]
        if numbers[0] > 0xFFFF or max(numbers[1:], default=0) > 0xFF:
            self.fail(f"{value!r} is no version of a firmware (such as 0.1.0)", param, ctx)
        return numbers[0] << 16 | numbers[1] << 8 | numbers[2]


class _Stage(click.ParamType):  # type: ignore[type-arg]
    """A stage's number, or -1 for `all`."""

    name = "stage"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if value in ("all", -1):
            return -1
        if not re.fullmatch(r"\d{1,3}", str(value)):
            self.fail(f"{value!r} is no stage: a number from 0 on, or all", param, ctx)
        return int(value)


@click.command(cls=Command)
@click.argument("bundle", type=existing())
@click.option("--stage", type=_Stage(), default="all", show_default=True, metavar="N|all")
@click.option(
    "--key",
    type=existing(),
    help="Private key to sign with, of `tinysplit keys new`.",
)
@click.option(
    "--unsigned",
    is_flag=True,
    help="Do not sign: for development boards, whose firmware was built to take such images.",
)
@click.option(
    "--version",
    type=click.IntRange(1, _MAX_U32),
    help="Higher than that of any image before; seconds since 1970 unless given.",
)
@click.option(
    "--downgrade-from",
    type=click.IntRange(0, _MAX_U32),
    default=0,
    help="Allow it to replace images up to this version although they are newer.",
)
@click.option("--chip", type=click.Choice(list(image.CHIPS)), default="any", show_default=True)
@click.option(
    "--min-firmware",
    type=_FirmwareVersion(),
    default="0.0.0",
    show_default=True,
    metavar="X.Y.Z",
    help="The oldest firmware that may run it.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="A folder that does not exist yet; build/<bundle>-images-<version> unless given.",
)
@verbose_option()
def pack(
    bundle: Path,
    stage: int,
    key: Path | None,
    unsigned: bool,
    version: int | None,
    downgrade_from: int,
    chip: str,
    min_firmware: int,
    output: Path | None,
    verbose: bool,
) -> None:
    """Pack the stages of BUNDLE as images for boards' flash slots.

    BUNDLE may also be a firmware's application (app.bin of an ESP-IDF build).
    firmware/core/IMAGE.md has the format, byte by byte.
    """
    if (key is None) != unsigned:
        raise click.UsageError("give --key FILE, or --unsigned; `tinysplit keys new` makes a key")
    version = version or int(time.time())
    target = output or Path("build") / f"{bundle.resolve().name}-images-{version}"
    refuse_existing(target, force=None)
    pair = None if key is None else key_files.load(key)
    if bundle.is_file():
        if stage >= 0 or min_firmware or chip != "any":
            raise click.UsageError("--stage, --chip and --min-firmware are for bundles")
        app = bundle.read_bytes()
        one = packing.pack_firmware(app, pair, version=version, downgrade_from=downgrade_from)
        packed, name = [one], "firmware"
    else:
        opened = bundles.read(bundle)
        if stage >= len(opened.stages):
            raise click.UsageError(
                f"--stage: the bundle has stages 0 to {len(opened.stages) - 1}, not {stage}"
            )
        packed = packing.pack(
            opened,
            range(len(opened.stages)) if stage < 0 else [stage],
            pair,
            version=version,
            downgrade_from=downgrade_from,
            firmware=min_firmware,
            chip=image.CHIPS[chip],
        )
        name = f"bundle {opened.manifest.id[:16]}"
    packing.write(packed, target)
    rows = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("image", "stage", "size", ARENA, "digest"):
        rows.add_column(heading, justify="right" if heading in ("size", ARENA) else "left")
    for one in packed:
        made = one.image
        rows.add_row(
            one.file,
            f"{made.stage} of {made.stage_count}" if made.stage_count else "-",
            size(len(one.data)),
            size(made.arena_bytes or None),
            one.digest,
        )
    console = wide_console(rows)
    console.print(rows)
    signer = "unsigned" if pair is None else f"signed with key {pair.public.fingerprint}"
    console.print(f"version {version}, {signer}, {name}, in {target}")


@click.group(cls=Group)
def keys() -> None:
    """The key pair that images are signed with."""


@keys.command(cls=Command)
@click.argument("path", type=click.Path(path_type=Path))
@verbose_option()
def new(path: Path, verbose: bool) -> None:
    """Make a key pair. PATH is for you alone, PATH.pub is for the boards."""
    made = key_files.new(path)
    click.echo(f"private key in {path}: keep it, and keep it to yourself")
    click.echo(f"public key in {key_files.public_path(path)}, {made.public.fingerprint}")
