"""`tinysplit ota`."""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from host.boards import kinds
from host.mqtt import access
from host.mqtt.options import broker_options
from host.ota import fleet, progress, shipment
from host.ota import nodes as naming
from host.ota.courier import VIAS, Courier, Node
from host.ota.fleet import Outcome
from host.ota.nodes import NodesError
from host.ota.server import ImageServer
from host.ota.shipment import Shipment
from host.packing import keys as key_files
from host.reach import Reach
from models.errors import TinysplitError
from partitioner import bundle as bundles
from partitioner.bundle import Bundle
from partitioner.command import Command, existing, size, verbose_option, wide_console


class ImagesError(TinysplitError):
    """No images for the boards."""


class _Images:
    """The image of each board, chosen when all boards have said what they run."""

    def __init__(
        self,
        source: Path | None,
        firmware: Path | None,
        key: Path | None,
        version: int | None,
    ) -> None:
        self._pair = None if key is None else key_files.load(key)
        self._bundle: Bundle | None = None
        self._packed: list[Shipment] = []
        self._firmware: Shipment | None = None
        self._version = version
        now = int(time.time())
        if firmware is not None:
            try:
                app = firmware.read_bytes()
            except OSError as error:
                raise ImagesError(f"cannot read {firmware}: {error.strerror}") from error
            self._firmware = shipment.of_firmware(app, self._pair, version=version or now)
        elif source is not None and (source / "manifest.json").exists():
            self._bundle = bundles.read(source)
        elif source is not None:
            self._packed = shipment.packed_already(source)
        self.what = (
            f"firmware {self._firmware.runs[1]}"
            if self._firmware is not None
            else f"bundle {self._bundle.manifest.id[:12]}"
            if self._bundle is not None
            else f"images of version {max(one.version for one in self._packed)}"
        )

    def check(self, nodes: Sequence[Node], partial: bool) -> None:
        if self._bundle is not None:
            naming.check(nodes, len(self._bundle.stages), partial)
        elif self._firmware is not None:
            for node in nodes:
                node.stage = max(node.stage, 0)
        else:
            naming.check(nodes, self._packed[0].stage_count, partial)
            there = [one.stage for one in self._packed]
            for node in nodes:
                if node.stage not in there:
                    raise NodesError(f"{node.label}: there is no image of stage {node.stage}")

    def choose(self, couriers: Sequence[Courier]) -> Callable[[Courier], Shipment]:
        if self._firmware is not None:
            app = self._firmware
            return lambda _: app
        if self._bundle is None:
            by_stage = {one.stage: one for one in self._packed}
            return lambda courier: by_stage[courier.node.stage]
        own = self._bundle.manifest.id

        def has(courier: Courier) -> bool:
            info = courier.info
            return bool(info.get("bundle") == own and info.get("stage") == courier.node.stage)

        newest = [
            courier.info.get("image_version") or 0 for courier in couriers if not has(courier)
        ]
        if not newest:
            self._packed = []
        elif self._version is not None and self._version <= max(newest):
            raise ImagesError(
                f"--version {self._version} is not newer than what the boards run, version "
                f"{max(newest)}: give a higher one or none, or make images that may go back with "
                "`tinysplit pack --downgrade-from` and name their folder"
            )
        else:
            signer = "unsigned" if self._pair is None else self._pair.public.fingerprint
            images = shipment.of_bundle(
                self._bundle,
                self._pair,
                newer_than=max(newest),
                version=self._version,
                now=int(time.time()),
                kept=Path("build") / "ota" / f"{own[:16]}-{signer}",
            )
            self._packed = images

        def image_of(courier: Courier) -> Shipment:
            if has(courier):
                # Whatever image brought it there: it is left alone.
                name = str(courier.info.get("image"))
                return Shipment(b"", name, courier.node.stage, 0, 0, False, ("bundle", own))
            return self._packed[courier.node.stage]

        return image_of


@click.command(cls=Command)
@click.argument("bundle", type=existing(), required=False)
@click.option(
    "--node",
    "pairs",
    multiple=True,
    metavar="STAGE=NAME",
    help="A board: head, tail or a stage's number, and its serial port, mqtt:NODE or link address. "
    "Repeat it.",
)
@click.option(
    "--fleet",
    "fleet_file",
    type=existing(),
    help="Many chains: a YAML list of mappings like `{head: NAME, tail: NAME}`.",
)
@click.option("--key", type=existing(), help="Private key to sign with.")
@click.option("--unsigned", is_flag=True, help="Do not sign: for development boards.")
@click.option(
    "--firmware",
    type=existing(),
    help="Update the firmware instead: app.bin of an ESP-IDF build.",
)
@click.option(
    "--via",
    type=click.Choice(VIAS),
    help="How images travel: in commands, over the link, or fetched by the board over HTTP.  "
    "[link where NAME is an address of one, else control]",
)
@click.option("--version", type=click.IntRange(1, 0xFFFFFFFF), help="Of the images made.")
@click.option("--partial", is_flag=True, help="Some stages of a chain only.")
@click.option(
    "--bridge",
    metavar="serial:PORT",
    help="The board that lends its radio for espnow:// names.",
)
@click.option("--air", help="For ble:// names of virtual boards: where their air is.")
@click.option(
    "--serve",
    metavar="HOST[:PORT]",
    help="--via http: this machine's address for the boards.  [all of them, any port]",
)
@click.option(
    "--certificate",
    type=existing(),
    help="--via http: serve over TLS with this certificate (PEM).",
)
@click.option("--certificate-key", type=existing(), help="Its key, a file of mode 600.")
@click.option(
    "--take-over",
    is_flag=True,
    help="Update boards that say that somebody else's update is under way.",
)
@click.option(
    "--patience",
    type=click.FloatRange(0, 3600),
    default=30.0,
    show_default=True,
    metavar="S",
    help="How long a board may be gone.",
)
@click.option("--json", "as_json", is_flag=True, help="What became of each board, as JSON.")
@broker_options
@verbose_option()
def ota(
    bundle: Path | None,
    pairs: tuple[str, ...],
    fleet_file: Path | None,
    key: Path | None,
    unsigned: bool,
    firmware: Path | None,
    via: str | None,
    version: int | None,
    partial: bool,
    bridge: str | None,
    air: str | None,
    serve: str | None,
    certificate: Path | None,
    certificate_key: Path | None,
    take_over: bool,
    patience: float,
    as_json: bool,
    broker: str | None,
    login: Path | None,
    ca: Path | None,
    verbose: bool,
) -> None:
    """Move running boards to BUNDLE (or a folder of `tinysplit pack`), all of them or none.

    The image is brought to every board and verified by it before any is restarted. Boards that run
    it already are left alone, and the same command again finishes what was interrupted.
    """
    if (bundle is None) == (firmware is None):
        raise click.UsageError("give a BUNDLE, or --firmware app.bin")
    if bool(pairs) == (fleet_file is not None):
        raise click.UsageError("name the boards by --node STAGE=NAME, or by --fleet FILE")
    makes = firmware is not None or (bundle is not None and (bundle / "manifest.json").exists())
    if makes and (key is None) != unsigned:
        packed = " (for the image that app.bin is packed into)" if firmware is not None else ""
        raise click.UsageError(
            f"give --key FILE, or --unsigned{packed}; `tinysplit keys new` makes a key"
        )
    if not makes and (key is not None or unsigned or version is not None):
        raise click.UsageError("--key, --unsigned and --version are for what is packed here")
    if via != "http" and (serve or certificate):
        raise click.UsageError("--serve and --certificate go with --via http")
    if (certificate is None) != (certificate_key is None):
        raise click.UsageError("--certificate and --certificate-key go together")
    try:
        nodes = [_named(p) for p in pairs] if fleet_file is None else naming.read(fleet_file)
        images = _Images(bundle, firmware, key, version)
        images.check(nodes, partial)
    except NodesError as error:
        if fleet_file is None:
            raise click.UsageError(str(error)) from error
        raise NodesError(f"{fleet_file}: {error}") from error
    lender = None if bridge is None else kinds.parse(bridge)
    if lender is not None and not isinstance(lender, kinds.OnSerial):
        raise click.UsageError("--bridge is serial:PORT")
    by_commands = any(isinstance(node.place, kinds.OnSerial | kinds.OnMqtt) for node in nodes)
    if firmware is not None and via in (None, "control") and by_commands and not as_json:
        click.echo(
            "the firmware goes in commands of 3 KB; --via http is faster for boards with a network",
            err=True,
        )
    stop = threading.Event()
    with ExitStack() as stack:
        show, phase = stack.enter_context(progress.shown(as_json))
        way = stack.enter_context(
            Reach(
                bridge=lender,
                air=air,
                timeout_s=min(max(patience, 1.0), 5.0),
                broker=lambda: access.need(broker, login, ca),
            )
        )
        server = None
        if via == "http":
            server = stack.enter_context(_server(serve, certificate, certificate_key))
        couriers = [
            Courier(
                node,
                way,
                via=via,
                patience_s=patience,
                server=server,
                stop=stop,
                watch=show,
                take_over=take_over,
            )
            for node in nodes
        ]
        for courier in couriers:
            stack.callback(courier.close)
        try:
            outcome = fleet.update(couriers, images.choose, stop, phase)
        except KeyboardInterrupt:
            click.echo("interrupted; the same command again goes on from here", err=True)
            for courier in couriers:
                if courier.report.state != "unknown":
                    click.echo(f"{courier.label}: {_STATES[courier.report.state]}", err=True)
            raise
    if as_json:
        click.echo(json.dumps(_as_json(couriers, outcome), indent=1))
    else:
        _print(couriers, outcome, images.what)
    if not outcome.done:
        sys.exit(1)


def _named(pair: str) -> Node:
    label, equals, name = pair.partition("=")
    if not equals or not name:
        raise click.UsageError("--node is STAGE=NAME, such as head=serial:/dev/ttyACM0")
    return naming.parse(label, name)


def _server(
    serve: str | None, certificate: Path | None, certificate_key: Path | None
) -> ImageServer:
    if serve is None:
        return ImageServer(certificate=certificate, key=certificate_key)
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::(\d{1,5}))?", serve)
    if match is None or int(match[3] or 0) > 65535:
        raise click.UsageError(
            "--serve is 192.168.1.7:8080 or [fd00::7]:8080; the port may be left"
        )
    return ImageServer(match[1] or match[2], int(match[3] or 0), certificate, certificate_key)


def _as_json(couriers: Sequence[Courier], outcome: Outcome) -> dict[str, Any]:
    return {
        "done": outcome.done,
        "problem": outcome.problem,
        "advice": outcome.advice,
        "gap_ms": {str(chain): round(ms, 1) for chain, ms in outcome.gaps_ms.items()},
        "gap_provenance": "measured",
        "boards": [
            {
                "chain": courier.node.chain,
                "stage": courier.node.stage,
                "name": courier.node.name,
                "image": None if courier.image is None else courier.image.digest,
                "image_version": None if courier.image is None else courier.image.version,
                **asdict(courier.report),
            }
            for courier in couriers
        ],
    }


def _print(couriers: Sequence[Courier], outcome: Outcome, what: str) -> None:
    rows = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("board", "", "image", "sent", "resumed at", "rate"):
        right = heading in ("sent", "resumed at", "rate")
        rows.add_column(heading, justify="right" if right else "left")
    for courier in couriers:
        report, image = courier.report, courier.image
        rate = report.sent_bytes / report.seconds if report.seconds else 0
        rows.add_row(
            courier.label,
            _STATES[report.state],
            f"version {image.version}, {image.digest[:12]}" if image is not None else "-",
            size(report.sent_bytes) if report.sent_bytes else "-",
            size(report.resumed_at) if report.resumed_at else "-",
            f"{rate / 1000:,.1f} kB/s" if report.sent_bytes else "-",
        )
    console = wide_console(rows)
    console.print(rows)
    for chain, ms in outcome.gaps_ms.items():
        which = f"chain {chain + 1}: " if len({c.node.chain for c in couriers}) > 1 else ""
        console.print(
            f"{which}gap in service {ms:,.0f} ms (measured by this machine's clock, from the first "
            "restart until every board serves)"
        )
    if outcome.done and not outcome.problem:
        left = sum(courier.report.state == "current" for courier in couriers)
        kept = f", {left} of them already" if left else ""
        console.print(f"all {len(couriers)} boards run {what}{kept}")
    if outcome.advice and outcome.done:
        click.echo(f"tinysplit ota: {outcome.advice}", err=True)
    if outcome.problem:
        advice = f". {outcome.advice[0].upper()}{outcome.advice[1:]}" if outcome.advice else ""
        click.echo(f"tinysplit ota: error: {outcome.problem}{advice}", err=True)


_STATES = {
    "unknown": "does not answer",
    "current": "runs it already",
    "old": "runs what it ran",
    "staged": "has it ready; runs what it ran",
    "armed": "starts it when it restarts, which it may have been told",
    "running": "runs it",
    "rolled_back": "tried it and went back",
}
