"""`tinysplit flash`."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from serial.tools import list_ports

from host.boards import control
from host.boards.discovery.usb import candidates
from host.flash import board, fit, nvs, secrets
from host.flash.board import Found, UnfinishedError
from host.flash.build import CHIP, BuildError, read_build
from host.flash.contents import NVS, Contents, commands, contents, whole_chip
from host.packing.keys import PublicKey, load, load_public
from partitioner import bundle as bundles
from partitioner import image as images
from partitioner.command import Command, existing, verbose_option, wide_console
from partitioner.entry import INTERRUPTED
from partitioner.image import Image, ImageError
from partitioner.output import whole_folder

_ROLES = ("head", "tail", "relay", "bridge")
_MAX_U32 = 0xFFFFFFFF


@dataclass(frozen=True)
class _Stage:
    """The stage that goes into the first model slot."""

    image: Image
    data: bytes
    signed: bool

    def described(self) -> dict[str, Any]:
        assert self.image.manifest is not None
        return {
            "stage": self.image.stage,
            "stages": self.image.stage_count,
            "bundle": self.image.manifest.bundle.hex(),
            "version": self.image.version,
            "signed": self.signed,
            "digest": images.digest_of(self.data).hex(),
        }


class _Setting(click.ParamType):  # type: ignore[type-arg]  # Generic from click 8.4 on.
    """`NAME=VALUE`, a setting of control.schema.json that is no secret."""

    name = "setting"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Any]:
        if isinstance(value, tuple):
            return value
        name, equals, text = str(value).partition("=")
        if name in control.SECRETS:
            self.fail(
                f"{name} is a secret, and command lines are not: set {secrets.variable(name)}, or "
                "use --secrets FILE",
                param,
                ctx,
            )
        if not equals:
            self.fail(f"{value!r} is not NAME=VALUE", param, ctx)
        try:
            parsed = nvs.parse(name, text)
            nvs.check_one(name, parsed)
        except nvs.SettingsError as error:
            self.fail(str(error), param, ctx)
        return name, parsed


@click.command(cls=Command)
@click.argument("bundle", type=existing(), required=False)
@click.option(
    "--port",
    default="auto",
    show_default=True,
    metavar="auto|PORT|socket://HOST:PORT",
    help="Where the board is; auto: the only one that is plugged in.",
)
@click.option(
    "--build",
    "place",
    type=existing(),
    metavar="DIR|ARCHIVE",
    help="What idf.py or PlatformIO built: its folder, or a .zip or .tar.gz of it. Otherwise it is "
    "looked for where both put it.",
)
@click.option(
    "--env", "environment", default=CHIP, show_default=True, help="PlatformIO's environment."
)
@click.option("--stage", type=click.IntRange(0, 253), help="Which stage of BUNDLE.")
@click.option("--role", type=click.Choice(_ROLES), help="The same by its place in the chain.")
@click.option("--node", help="The board's name.  [default: its role]")
@click.option("--wifi-ssid", help="The Wi-Fi network it joins.")
@click.option(
    "--set",
    "given",
    type=_Setting(),
    multiple=True,
    metavar="NAME=VALUE",
    help="Another setting, as in control.schema.json; may be repeated.",
)
@click.option(
    "--secrets",
    "secret_file",
    type=existing(),
    help="Lines wifi_password=... and so on, of mode 600; or TINYSPLIT_WIFI_PASSWORD and so on.",
)
@click.option("--key", type=existing(), help="Private key to sign BUNDLE with.")
@click.option(
    "--public-key",
    type=existing(),
    help="Key of images that the board takes; that of --key unless given.",
)
@click.option(
    "--version",
    type=click.IntRange(1, _MAX_U32),
    help="Of the image; seconds since 1970 unless given.",
)
@click.option("--keep-settings", is_flag=True, help="Leave the board's settings as they are.")
@click.option("--erase", is_flag=True, help="Erase the whole flash before.")
@click.option("--no-stub", is_flag=True, help="Use the boot loader in ROM only; slow.")
@click.option(
    "--baud", type=click.IntRange(9600, 4_000_000), default=board.FAST_BAUD, show_default=True
)
@click.option("--dry-run", is_flag=True, help="Print esptool's command lines instead.")
@click.option(
    "--save",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="With --dry-run: write the files that those need to a new folder; the settings, with "
    "their secrets, for your eyes only.",
)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@verbose_option()
def flash(
    bundle: Path | None,
    port: str,
    place: Path | None,
    environment: str,
    stage: int | None,
    role: str | None,
    node: str | None,
    wifi_ssid: str | None,
    given: tuple[tuple[str, Any], ...],
    secret_file: Path | None,
    key: Path | None,
    public_key: Path | None,
    version: int | None,
    keep_settings: bool,
    erase: bool,
    no_stub: bool,
    baud: int,
    dry_run: bool,
    save: Path | None,
    as_json: bool,
    verbose: bool,
) -> None:
    """Write firmware, settings and a stage to a board on a wire, and verify all of it.

    BUNDLE is a bundle, or images of `tinysplit pack` (the folder or one file); without it the
    board's model slots stay as they are. Nothing is built: that is for `idf.py -C . build` or
    `pio run`.
    """
    _check_usage(bundle, stage, role, key, public_key, save, dry_run=dry_run)
    settings = dict(given)
    named = {"name": node, "wifi_ssid": wifi_ssid, "role": role if role == "bridge" else None}
    settings |= {name: value for name, value in named.items() if value is not None}
    if keep_settings and (settings or secret_file):
        raise click.UsageError(
            "--keep-settings leaves them as they are: leave out --node, --wifi-ssid, --set, "
            "--secrets and --role bridge"
        )
    try:
        nvs.check(settings)
    except nvs.SettingsError as error:
        raise click.UsageError(str(error)) from error
    build = read_build(place or _find_build(environment))
    fit.check_build(build)
    public = _public_key(key, public_key)
    chosen = None
    if bundle is not None:
        chosen = _stage(bundle, stage, role, key, public, version or int(time.time()))
        fit.check_image(build, chosen.image, signed=chosen.signed)
    data = None
    if not keep_settings:
        settings.setdefault("name", role or (f"stage{stage}" if stage is not None else "tinysplit"))
        settings |= secrets.gather(secret_file, os.environ, settings, _asker(dry_run, save))
        data = nvs.image(
            settings, None if public is None else public.point, build.partition(NVS).size
        )
    plan = contents(build, None if chosen is None else chosen.data, data)
    if erase:
        plan = whole_chip(plan)
    about = {
        "build": str(build.place),
        "image": None if chosen is None else chosen.described(),
        "settings": None if keep_settings else _shown(settings),
        "public_key": None if keep_settings or public is None else public.fingerprint,
        "pieces": [{"offset": p.offset, "bytes": len(p.data), "name": p.name} for p in plan.pieces],
    }
    if dry_run:
        names = _names(plan, save)
        lines = commands(
            plan,
            names,
            chip=CHIP,
            port="PORT" if port == "auto" else port,
            stub=not no_stub,
            baud=baud,
        )
        _print_plan(plan, about, lines, save, as_json=as_json)
        _warn(chosen, None if keep_settings else settings)
        return
    arena = None if chosen is None else fit.arena_bytes(chosen.image)
    place_of_board = _only_board() if port == "auto" else port
    with board.connected(place_of_board, CHIP, stub=not no_stub, baud=baud) as connected:
        fit.check_board(build, connected.found, arena)
        try:
            with _progress(plan, quiet=as_json) as progress:
                connected.write(plan, progress)
        except UnfinishedError as error:
            if isinstance(error.__cause__, KeyboardInterrupt):
                click.echo(f"error: {error}", err=True)
                sys.exit(INTERRUPTED)
            raise
        started = connected.start()
    _print_done(place_of_board, connected.found, plan, about, started=started, as_json=as_json)
    _warn(chosen, None if keep_settings else settings)


def _warn(chosen: _Stage | None, settings: dict[str, Any] | None) -> None:
    """Of settings that are new and leave something to be told."""
    if settings is None:
        return
    stage, stages = (None, 0) if chosen is None else (chosen.image.stage, chosen.image.stage_count)
    for what in fit.lacking(settings, stage, stages):
        click.echo(f"tinysplit flash: warning: {what}", err=True)


def _check_usage(
    bundle: Path | None,
    stage: int | None,
    role: str | None,
    key: Path | None,
    public_key: Path | None,
    save: Path | None,
    *,
    dry_run: bool,
) -> None:
    if save is not None and not dry_run:
        raise click.UsageError("--save goes with --dry-run")
    if role == "bridge" and (bundle is not None or stage is not None):
        raise click.UsageError("a bridge runs no stage: leave out BUNDLE and --stage")
    if bundle is None and (stage is not None or role not in (None, "bridge")):
        raise click.UsageError("a stage needs a BUNDLE to take it from")
    if bundle is None and key is not None:
        raise click.UsageError(
            "--key signs a BUNDLE; without one, --public-key is what a board needs"
        )
    if stage is not None and role is not None:
        raise click.UsageError("give --stage or --role, not both")
    if key is not None and public_key is not None:
        raise click.UsageError("--key has its public half with it: leave out --public-key")


def _find_build(environment: str) -> Path:
    """Where idf.py (firmware/README.md) and PlatformIO (platformio.ini) build an environment."""
    short = environment.removeprefix(CHIP).lstrip("-")
    known = [Path("build/pio") / environment, Path(".pio/build") / environment]
    known.append(Path("build") / short if short else Path("build"))
    marks = ("flasher_args.json", "firmware.bin")
    found = [p for p in known if any((p / mark).is_file() for mark in marks)]
    if not found:
        looked = ", ".join(map(str, known))
        raise BuildError(
            f"there is no build of {environment} here (looked in {looked}): run "
            f"`idf.py -C . build` or `pio run -e {environment}`, or name one by --build"
        )
    if len(found) > 1:
        raise BuildError(
            f"there are several builds: --build {' or --build '.join(map(str, found))}"
        )
    return found[0]


def _public_key(key: Path | None, public_key: Path | None) -> PublicKey | None:
    if key is not None:
        return load(key).public
    return None if public_key is None else load_public(public_key)


def _stage(
    place: Path,
    stage: int | None,
    role: str | None,
    key: Path | None,
    public: PublicKey | None,
    version: int,
) -> _Stage:
    """The stage as an image.

    Raises:
        TinysplitError: there is none, or it is not signed as the board's key demands.
        click.UsageError: which one was not said.
    """
    packed = [place] if place.is_file() else sorted(place.glob("stage*.tsim"))
    if packed and (place.is_file() or not (place / "manifest.json").exists()):
        if key is not None:
            raise click.UsageError("images are signed by `tinysplit pack`: give --public-key")
        return _packed(packed, stage, role, public)
    opened = bundles.read(place)
    number = _number(len(opened.stages), stage, role)
    if key is None and public is not None:
        raise click.UsageError("a board with a public key takes signed stages only: give --key")
    made = images.of_stage(opened, number, version=version, chip=images.CHIPS[CHIP])
    data = images.encode(made, None if key is None else load(key).sign)
    return _Stage(made, data, signed=key is not None)


def _packed(
    files: list[Path], stage: int | None, role: str | None, public: PublicKey | None
) -> _Stage:
    found = {}
    for file in files:
        try:
            data = file.read_bytes()
            one = images.decode(data, None if public is None else public.verify)
        except OSError as error:
            raise ImageError(f"cannot read {file}: {error.strerror}") from error
        except ImageError as error:
            hint = "; give --public-key FILE" if error.code == "image_no_key" else ""
            raise ImageError(f"{file}: {error}{hint}", error.code) from error
        found[one.stage] = _Stage(one, data, signed=public is not None)
    if len(found) == 1 and stage is None and role is None:
        return next(iter(found.values()))
    count = next(iter(found.values())).image.stage_count
    number = _number(count, stage, role)
    if number not in found:
        raise ImageError(f"there is no image of stage {number}, only of {sorted(found)}")
    return found[number]


def _number(stages: int, stage: int | None, role: str | None) -> int:
    if stage is not None:
        if stage >= stages:
            raise click.UsageError(f"there are stages 0 to {stages - 1}, not {stage}")
        return stage
    if role is None:
        raise click.UsageError(
            f"which of the {stages} stages? --role head, --role tail or --stage N"
        )
    if role == "relay" and stages != 3:
        raise click.UsageError(f"{stages} stages have {max(stages - 2, 0)} relays: give --stage N")
    return {"head": 0, "relay": 1, "tail": stages - 1}[role]


def interactive() -> bool:
    """Whether there is a person to ask."""
    return sys.stdin.isatty()


def _asker(dry_run: bool, save: Path | None) -> Callable[[str], str] | None:
    if dry_run and save is None:
        return lambda _: ""  # Settings that are thrown away need no password.
    return _ask if interactive() else None


def _ask(question: str) -> str:
    answer: str = click.prompt(question, default="", hide_input=True, show_default=False, err=True)
    return answer


def _only_board() -> str:
    found = candidates(list_ports.comports())
    if not found:
        raise board.FlashingError(
            "no board found (no port with the USB id of a board or a bridge): plug it in, or name "
            "it by --port"
        )
    if len(found) > 1:
        named = ", ".join(f"{one.port} ({one.what})" for one in found)
        raise board.FlashingError(f"there are several boards: choose by --port: {named}")
    return found[0].port


def _shown(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as they may be shown: of a secret, whether it is set."""
    return {k: bool(v) if k in control.SECRETS else v for k, v in settings.items()}


def _names(plan: Contents, save: Path | None) -> list[str]:
    """The files of the pieces; those that are none yet go to `save`."""
    made = [piece for piece in plan.pieces if piece.file is None]
    names = []
    for piece in plan.pieces:
        if piece.file is not None:
            names.append(str(piece.file))
        else:
            name = Path(piece.name).name
            names.append(str(save / name) if save is not None else name)
    if save is not None:
        with whole_folder(save, force=None) as folder:
            for piece in made:
                handle = os.open(
                    folder / Path(piece.name).name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600
                )
                with os.fdopen(handle, "wb") as file:
                    file.write(piece.data)
    return names


def _print_plan(
    plan: Contents, about: dict[str, Any], lines: list[str], save: Path | None, *, as_json: bool
) -> None:
    if as_json:
        click.echo(json.dumps({"dry_run": True, **about, "commands": lines}, indent=2))
        return
    made = [Path(piece.name).name for piece in plan.pieces if piece.file is None]
    if made and save is None:
        click.echo(f"# made by tinysplit, to a folder with --save DIR: {', '.join(made)}")
    for line in lines:
        click.echo(line)


@contextmanager
def _progress(plan: Contents, *, quiet: bool) -> Iterator[Callable[[str, int], None]]:
    """A bar over all pieces, where somebody sees it."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=quiet or not console.is_terminal,
    )
    sizes = {piece.name: len(piece.data) for piece in plan.pieces}
    done = dict.fromkeys(sizes, 0)
    with bar:
        task = bar.add_task("erasing", total=plan.total_bytes)

        def told(name: str, count: int) -> None:
            done[name] = count
            bar.update(task, description=f"writing {name}", completed=sum(done.values()))

        yield told


def _print_done(
    port: str,
    found: Found,
    plan: Contents,
    about: dict[str, Any],
    *,
    started: bool,
    as_json: bool,
) -> None:
    if as_json:
        flash = {"port": port, **vars(found)}
        click.echo(
            json.dumps({"dry_run": False, "board": flash, **about, "started": started}, indent=2)
        )
        return
    console = wide_console()
    memory = f"{found.psram_bytes >> 20} MB of PSRAM" if found.psram != "none" else "no PSRAM"
    console.print(
        f"{found.chip} {found.mac} on {port}, {found.flash_bytes >> 20} MB of flash, {memory}"
    )
    for piece in plan.pieces:
        console.print(f"  {piece.offset:#010x}  {len(piece.data):>9,} B  {piece.name}")
    console.print(f"all {plan.total_bytes:,} bytes verified by the chip (MD5)")
    image = about["image"]
    if image is not None:
        signed = f"signed with key {about['public_key']}" if image["signed"] else "unsigned"
        console.print(
            f"stage {image['stage']} of {image['stages']}, bundle {image['bundle'][:16]}, version "
            f"{image['version']}, {signed}"
        )
    for name, value in (about["settings"] or {}).items():
        shown = ("set" if value else "none") if name in control.SECRETS else value
        console.print(f"  {name}: {shown}")
    console.print("the board starts" if started else "press RESET: the board starts then")
