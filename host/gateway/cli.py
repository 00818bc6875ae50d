"""The command `tinysplit gateway`."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import re
import signal
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
from rich.console import Console

from host.boards.address import is_node
from host.gateway import listen as places
from host.gateway import service
from host.gateway.bundles import GatewayError
from host.gateway.service import Gateway, Options
from host.link.transport import ServerTransport
from host.mqtt import access
from models.errors import TinysplitError
from partitioner.command import Bytes, Command, FiniteRange, existing, verbose_option

FILES_BESIDE_HEADS = 256


class ListenAt(click.ParamType):  # type: ignore[type-arg]  # Generic from click 8.4 on.
    """`host.gateway.listen`."""

    name = "place"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> places.Listen:
        if isinstance(value, places.Listen):
            return value
        try:
            return places.parse(str(value))
        except TinysplitError as error:
            self.fail(str(error), param, ctx)


class HttpAt(click.ParamType):  # type: ignore[type-arg]
    """HOST:PORT of this machine."""

    name = "address"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9.-]+)):(\d{1,5})", str(value))
        if match is None or int(match[3]) > 65535:
            self.fail(f"{value!r} is not HOST:PORT, such as 127.0.0.1:9464", param, ctx)
        return match[1] or match[2], int(match[3])


class HostName(click.ParamType):  # type: ignore[type-arg]
    """A name or an address, without a port."""

    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value).removeprefix("[").removesuffix("]")
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,253}|[0-9A-Fa-f:.]{2,45}", text):
            self.fail(f"{value!r} is no name or address (without a port)", param, ctx)
        return text


class Sink(click.ParamType):  # type: ignore[type-arg]
    """A place for results, as `host.gateway.results` opens it."""

    name = "sink"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        if re.match(r"mqtts?://", text):
            try:
                access.parse(text)
            except access.AccessError as error:
                self.fail(str(error), param, ctx)
        elif not text.startswith("parquet:") and not _is_webhook(text):
            # What was given is not quoted: there may be a password or a token in it.
            self.fail("that is no parquet:DIR, webhook:http://HOST/PATH or mqtt://HOST", param, ctx)
        elif text == "parquet:":
            self.fail("parquet: needs a folder", param, ctx)
        return text


def _is_webhook(text: str) -> bool:
    try:
        url = urlsplit(text.removeprefix("webhook:"))
        whole = bool(url.hostname) and url.port != 0
    except ValueError:  # A port or an address that is none.
        return False
    return text.startswith("webhook:") and url.scheme in ("http", "https") and whole


class Cores(click.ParamType):  # type: ignore[type-arg]
    """Processors by their numbers: `0`, `0,2`, `1-3`."""

    name = "cores"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> frozenset[int]:
        if isinstance(value, frozenset):
            return value
        found: set[int] = set()
        try:
            for part in str(value).split(","):
                first, _, last = part.partition("-")
                found |= set(range(int(first), int(last or first) + 1))
        except ValueError:
            self.fail(f"{value!r} names no processors: write 0, 0,2 or 1-3", param, ctx)
        present = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else found
        if not found or found - present:
            self.fail(f"this process may use processors {sorted(present)}", param, ctx)
        return frozenset(found)


@click.command(cls=Command)
@click.argument("bundles", metavar="BUNDLE...", type=existing(), nargs=-1, required=True)
@click.option(
    "--listen",
    "listen_at",
    type=ListenAt(),
    multiple=True,
    metavar="PLACE",
    help="udp://HOST:PORT, tcp://HOST:PORT, ble, ble://NAME, espnow:PORT (a bridge's serial "
    "port). Repeat it.  [default: udp://127.0.0.1:4000]",
)
@click.option("--name", default="gateway", show_default=True, help="What it calls itself.")
@click.option(
    "--engines",
    type=click.IntRange(0, 256),
    help="Processes that run the tail; 0: the gateway's own, for short tails and few requests.  "
    "[default: one per processor]",
)
@click.option(
    "--engine-cores",
    type=Cores(),
    metavar="CORES",
    help="Processors for them alone: 0, 0,2 or 1-3.",
)
@click.option(
    "--kernels",
    type=click.Choice(["exact", "fast"]),
    default="exact",
    show_default=True,
    help="exact: the device's (TensorFlow Lite Micro). fast: XNNPACK, whose bytes differ.",
)
@click.option(
    "--heads",
    type=click.IntRange(1, 1_000_000),
    default=4096,
    show_default=True,
    help="Sessions at once, at most.",
)
@click.option(
    "--memory", type=Bytes(), default="1024M", show_default=True, help="For sessions, at most."
)
@click.option(
    "--queue",
    type=click.IntRange(1, 1_000_000),
    default=4096,
    show_default=True,
    help="Requests that wait, at most; one more is answered no_slot.",
)
@click.option(
    "--grace",
    type=FiniteRange(0, 3600),
    default=10.0,
    show_default=True,
    metavar="S",
    help="How long a stop waits for answers.",
)
@click.option(
    "--reload-grace",
    type=FiniteRange(0, 1e9),
    default=3600.0,
    show_default=True,
    metavar="S",
    help="How long heads of a bundle that was replaced are served on.",
)
@click.option(
    "--http",
    "http_at",
    type=HttpAt(),
    metavar="HOST:PORT",
    help="/healthz, /readyz, /metrics (Prometheus) and /heads there.",
)
@click.option(
    "--http-host",
    "http_hosts",
    type=HostName(),
    multiple=True,
    metavar="NAME",
    help="A further name or address that requests to it may be for (of a proxy, say). Repeat it.",
)
@click.option(
    "--results",
    "results_to",
    type=Sink(),
    multiple=True,
    metavar="SINK",
    help="A row for every request: parquet:DIR, webhook:URL, or mqtt://HOST[:PORT] (a broker, with "
    "TINYSPLIT_MQTT_USER and the like). Repeat it.",
)
@click.option("--reuse-port", is_flag=True, help="Share the addresses with other gateways (Linux).")
@click.option("--air", help="BLE: the air of virtual boards, instead of this machine's Bluetooth.")
@click.option(
    "--every",
    type=FiniteRange(0.1, 86400),
    default=10.0,
    show_default=True,
    metavar="S",
    help="How often to print a summary.",
)
@click.option("--json", "as_json", is_flag=True, help="What it prints as lines of JSON.")
@click.option("--quiet", is_flag=True, help="Print errors only.")
@verbose_option()
def gateway(
    bundles: tuple[Path, ...],
    listen_at: tuple[places.Listen, ...],
    name: str,
    engines: int | None,
    engine_cores: frozenset[int] | None,
    kernels: str,
    heads: int,
    memory: int,
    queue: int,
    grace: float,
    reload_grace: float,
    http_at: tuple[str, int] | None,
    http_hosts: tuple[str, ...],
    results_to: tuple[str, ...],
    reuse_port: bool,
    air: str | None,
    every: float,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Be the tail of each BUNDLE for many heads, until SIGTERM or Ctrl-C.

    SIGHUP reads the bundles' folders again.
    """
    if sys.platform == "win32":
        raise GatewayError("the gateway needs Linux or macOS; on Windows it runs in WSL")
    if not is_node(name):
        raise click.UsageError(f"--name {name!r}: 1 to 32 letters, digits, dots, _ and -")
    if http_hosts and http_at is None:
        raise click.UsageError("--http-host is of --http HOST:PORT, which was not given")
    if engines == 0 and engine_cores is not None:
        raise click.UsageError("--engine-cores are for engines, and --engines 0 has none")
    if engines is None:
        engines = len(engine_cores or ()) or service.default_engines()
    options = Options(
        name=name,
        engines=engines,
        engine_cores=engine_cores,
        kernels=kernels,
        heads=heads,
        memory_bytes=memory,
        queue=queue,
        grace_s=grace,
        reload_grace_s=reload_grace,
    )
    _raise_file_limit(heads + FILES_BESIDE_HEADS)
    _leave(engine_cores)
    chosen = listen_at or (places.parse("udp://127.0.0.1:4000"),)
    transports = [(place.text, place.transport(reuse_port=reuse_port, air=air)) for place in chosen]
    voice = _Voice(as_json=as_json, quiet=quiet)
    beside = _Beside(http_at, http_hosts, results_to)
    unanswered = asyncio.run(_serve(list(bundles), transports, options, voice, every, beside))
    if unanswered:
        raise GatewayError(f"stopped with {unanswered} requests unanswered")


@dataclass(frozen=True)
class _Beside:
    """What there is beside heads: HTTP, and where results go."""

    http: tuple[str, int] | None
    http_hosts: tuple[str, ...]
    results: tuple[str, ...]

    async def enter(self, stack: AsyncExitStack, served: Gateway, voice: _Voice) -> str | None:
        """Where HTTP answers. Results are open before the gateway and close after it; HTTP closes
        last, so that it tells what became of them."""
        if self.http is None and not self.results:
            return None
        try:
            from host.gateway import results
            from host.gateway.http import Http
            from host.gateway.metrics import Metrics
        except ModuleNotFoundError as error:
            raise GatewayError(
                f"--http and --results need {error.name}: pip install 'tinysplit[gateway]' (in its "
                "checkout: pip install '.[gateway]')"
            ) from error
        sinks = [results.parse(text, served.options.name, voice.say) for text in self.results]
        kept = results.Results(served, sinks)
        http = None
        if self.http is not None:
            http = Http(*self.http, served, Metrics(served, kept), self.http_hosts)
            await stack.enter_async_context(http)
        await stack.enter_async_context(kept)
        if http is None:
            return None
        host, port = http.address
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class _Voice:
    """What the command prints: for people, or lines of JSON, or nothing."""

    def __init__(self, *, as_json: bool, quiet: bool) -> None:
        self._json = as_json
        self._console = Console(quiet=quiet, highlight=False, markup=False, soft_wrap=True)
        self._quiet = quiet

    def say(self, text: str) -> None:
        self.tell({"event": "note", "text": text}, text)

    def tell(self, content: dict[str, Any], text: str) -> None:
        """One happening, in both forms."""
        if self._quiet:
            return
        if self._json:
            click.echo(json.dumps({"time": round(time.time(), 3), **content}))
            sys.stdout.flush()
        else:
            self._console.print(text)


def _leave(engine_cores: frozenset[int] | None) -> None:
    """The engines have their processors to themselves, where there are others."""
    if engine_cores is not None and hasattr(os, "sched_setaffinity"):
        rest = os.sched_getaffinity(0) - engine_cores
        if rest:
            os.sched_setaffinity(0, rest)


def _raise_file_limit(wanted: int) -> None:
    """Each TCP head is an open file."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


async def _serve(
    folders: list[Path],
    transports: list[tuple[str, ServerTransport]],
    options: Options,
    voice: _Voice,
    every_s: float,
    beside: _Beside,
) -> int:
    loop = asyncio.get_running_loop()
    stops = 0
    stopping, at_once = asyncio.Event(), asyncio.Event()

    def stop() -> None:
        nonlocal stops
        stops += 1
        (stopping if stops == 1 else at_once).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    again = asyncio.Event()
    loop.add_signal_handler(signal.SIGHUP, again.set)  # While it starts, too, which is no end.
    async with AsyncExitStack() as stack:
        served = Gateway(folders, transports, options, say=voice.say)
        address = await beside.enter(stack, served, voice)
        await stack.enter_async_context(served)
        reloads = loop.create_task(_reloads(served, voice, again))
        gc.collect()
        gc.freeze()  # What is there now stays: not to be looked through while heads wait.
        listening = [one.place for one in served.listeners]
        voice.tell(
            {"event": "ready", "listen": listening, "http": address, "pid": os.getpid()},
            "ready: "
            + (
                f"{options.engines} engine{'s' * (options.engines != 1)}"
                if options.engines
                else "no engines, this process computes"
            )
            + (f", http://{address}" if address else ""),
        )
        summary = loop.create_task(_summaries(served, voice, every_s))
        await stopping.wait()
        summary.cancel()
        reloads.cancel()
        voice.say("stopping: heads get the answers they wait for")
        done = loop.create_task(served.stop())
        hurried = loop.create_task(at_once.wait())
        await asyncio.wait((done, hurried), return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        if not done.done():
            done.cancel()
            return served.unanswered
        return await done


async def _reloads(served: Gateway, voice: _Voice, again: asyncio.Event) -> None:
    """Signals that come while folders are read are one more reading together."""
    while True:
        await again.wait()
        again.clear()
        try:
            for line in await served.reload():
                voice.say(line)
        except Exception:
            logging.getLogger(__name__).exception("the bundles were not read again")


async def _summaries(served: Gateway, voice: _Voice, every_s: float) -> None:
    before, then = 0, time.monotonic()
    while True:
        await asyncio.sleep(every_s)
        now, total = time.monotonic(), served.requests["ok"]
        rate = (total - before) / (now - then)
        failed = {name: n for name, n in served.requests.items() if name != "ok"}
        content = {
            "event": "summary",
            "heads": sum(len(one.heads) for one in served.listeners),
            "waiting": len(served.schedule),
            "answered": total,
            "per_second": round(rate, 1),
            "errors": failed,
        }
        errors = ", ".join(f"{n} {name}" for name, n in sorted(failed.items())) or "no errors"
        voice.tell(
            content,
            f"{content['heads']} heads, {rate:.0f}/s, {total} answered, "
            f"{content['waiting']} waiting, {errors}",
        )
        before, then = total, now
