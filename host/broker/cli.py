"""`tinysplit broker`."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import ipaddress
import json
import re
import signal
import socket
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from cryptography.x509 import Certificate

from host.boards.address import is_node
from host.broker import access, lasting, mosquitto, tls, users
from host.broker.broker import Limits
from host.broker.log import Log
from host.broker.server import ListenError, Server, Settings
from models.errors import TinysplitError
from partitioner.command import Command, existing, verbose_option

_PORT, _TLS_PORT = 1883, 8883
_FOLDER = Path("~/.tinysplit/broker")


class BrokerError(TinysplitError):
    """The broker cannot start."""


class ListenAddress(click.ParamType):  # type: ignore[type-arg]  # Generic from click 8.4 on.
    """HOST, HOST:PORT or :PORT; an IPv6 address in brackets."""

    name = "host:port"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int | None]:
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]*)(?::(\d{1,5}))?", str(value))
        port = int(match[2]) if match is not None and match[2] is not None else None
        if match is None or not str(value) or (port is not None and port > 0xFFFF):
            self.fail(f"{str(value)[:80]!r} is not HOST:PORT", param, ctx)
        return match[1].strip("[]") or "0.0.0.0", port  # noqa: S104  # `:PORT` says so.


@click.command(cls=Command)
@click.option(
    "--listen",
    type=ListenAddress(),
    default="127.0.0.1",
    show_default=True,
    help=f"Where: HOST:PORT; port {_PORT}, or {_TLS_PORT} with TLS, if none is named; 0 is any.",
)
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=_FOLDER,
    show_default=True,
    help="What the broker keeps: users, and retained messages.",
)
@click.option("--tls-cert", type=existing(), help="TLS: the certificate (PEM).")
@click.option("--tls-key", type=existing(), help="TLS: its key (PEM, mode 600).")
@click.option(
    "--max-clients",
    type=click.IntRange(1, 100_000),
    default=Limits.clients,
    show_default=True,
    help="How many may be connected.",
)
@click.option("--add-user", metavar="NAME", help="Add a user, or give one another password.")
@click.option(
    "--role",
    type=click.Choice(access.ROLES),
    help="With --add-user: a node is kept to its own topics; an operator commands.",
)
@click.option("--remove-user", metavar="NAME", help="Remove a user.")
@click.option("--list-users", is_flag=True, help="List users.")
@click.option(
    "--mosquitto",
    "mosquitto_folder",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write Mosquitto's configuration with the same rules instead.",
)
@click.option("--json", "as_json", is_flag=True, help="Log as JSON, an object a line.")
@click.option("--quiet", is_flag=True, help="Log only what is wrong.")
@verbose_option()
def broker(
    listen: tuple[str, int | None],
    folder: Path,
    tls_cert: Path | None,
    tls_key: Path | None,
    max_clients: int,
    add_user: str | None,
    role: str | None,
    remove_user: str | None,
    list_users: bool,
    mosquitto_folder: Path | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Be an MQTT 3.1.1 broker for boards and operators, until interrupted.

    Without users everybody on this machine may do everything, and nobody else can connect. Users
    are added by --add-user, at any time: a node (its name is that of the board) reads its own
    commands and publishes its own reply, telemetry and status; an operator commands and reads all.
    Passwords are asked for, or read from standard input. With TLS, SIGHUP reads the certificate and
    its key again, for who connects from then on.
    """
    if sum((add_user is not None, remove_user is not None, list_users, bool(mosquitto_folder))) > 1:
        raise click.UsageError(
            "--add-user, --remove-user, --list-users and --mosquitto go one at a time"
        )
    if (add_user is None) != (role is None):
        raise click.UsageError("--add-user and --role go together")
    if add_user is not None and not is_node(add_user):
        raise click.BadParameter(
            f"{add_user[:40]!r} is no name for a user: 1 to 32 letters, digits, and any of . _ -",
            param_hint="--add-user",
        )
    if (tls_cert is None) != (tls_key is None):
        raise click.UsageError("--tls-cert and --tls-key go together")
    folder = folder.expanduser()
    pair = None if tls_cert is None or tls_key is None else (tls_cert, tls_key)
    host, port = listen
    if port is None:
        port = _PORT if pair is None else _TLS_PORT
    limits = Limits(clients=max_clients)
    if add_user is not None and role is not None:
        _add(folder, add_user, role)
    elif remove_user is not None:
        _remove(folder, remove_user)
    elif list_users:
        for user in users.read(folder / "users").values():
            click.echo(f"{user.name}\t{user.role}")
    elif mosquitto_folder is not None:
        _write_mosquitto(mosquitto_folder, host, port, pair, limits)
    else:
        _serve(Settings(host, port, folder, limits), pair, as_json, quiet)


def _add(folder: Path, name: str, role: str) -> None:
    if not is_node(name):
        raise click.UsageError(f"{name[:40]!r} is no name: 1 to 32 letters, digits, and . _ -")
    known = users.read(folder / "users")
    others = [user for user in known.values() if user.name != name]
    if sys.stdin.isatty():
        password = click.prompt(
            f"Password of {name}", hide_input=True, confirmation_prompt=True, err=True
        )
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    user = users.made(name, role, password)
    _make(folder)
    users.write(folder / "users", {one.name: one for one in (*others, user)})
    done = "changed" if name in known else "added"
    click.echo(f"{done} {name} ({role}) in {folder / 'users'}")


def _remove(folder: Path, name: str) -> None:
    known = users.read(folder / "users")
    if known.pop(name, None) is None:
        raise BrokerError(f"there is no user {name[:40]!r} in {folder / 'users'}; see --list-users")
    users.write(folder / "users", known)
    click.echo(f"removed {name} from {folder / 'users'}")


def _make(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise BrokerError(f"cannot make {folder}: {error.strerror}") from error


def _write_mosquitto(
    folder: Path, host: str, port: int, pair: tuple[Path, Path] | None, limits: Limits
) -> None:
    if not _is_address(host):
        raise click.UsageError("--mosquitto needs an address in --listen, not a name")
    if not 0 < port < 0xFFFF:
        raise click.UsageError(f"port {port}: nodes take it, operators the next one")
    if any(c.isspace() for c in str(folder.resolve())):
        raise click.UsageError("--mosquitto DIR: Mosquitto's files cannot name one with a blank")
    resolved = None if pair is None else (pair[0].resolve(), pair[1].resolve())
    if pair is not None:
        tls.context(*pair)
    mosquitto.write(folder, host, port, resolved, limits)
    where = folder.resolve()
    click.echo(f"wrote {where}: nodes connect to port {port}, operators to {port + 1}")
    for role in ("nodes", "operators"):
        click.echo(f"add {role} with: mosquitto_passwd {where / role}.users NAME")
    click.echo(f"then: mosquitto -c {where / 'mosquitto.conf'}")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _local(host: str) -> bool:
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """No other broker keeps its files there."""
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context((folder / "lock").open("w"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BrokerError(
                f"another broker runs on {folder}; stop it, or give --folder another"
            ) from None
        except OSError as error:
            raise BrokerError(f"cannot write to {folder}: {error.strerror}") from error
        yield


def _serve(settings: Settings, pair: tuple[Path, Path] | None, as_json: bool, quiet: bool) -> None:
    known = users.read(settings.users_file)
    if not known and settings.users_file.exists():
        # Cut off by a full disk, say: that must not open the broker to everybody.
        raise BrokerError(
            f"{settings.users_file} has no users; add one (--add-user), or remove the file for a "
            "broker that everybody on this machine may use"
        )
    if not known and not _local(settings.host):
        raise ListenError(
            f"listening on {settings.host} needs users, or everybody who reaches this machine "
            f"commands boards: `tinysplit broker --folder {settings.folder} --add-user NAME --role "
            "operator`"
        )
    log = Log(lambda line: click.echo(line, err=True), as_json=as_json, quiet=quiet)
    if pair is not None:
        context, own = tls.context(*pair)
        settings = replace(settings, tls=context)
        _look_at(own, pair, log)
    elif not _local(settings.host):
        log.warning(
            "in_the_clear",
            "passwords and messages travel in the clear: --tls-cert and --tls-key help",
        )
    _make(settings.folder)
    with _alone(settings.folder):
        server = Server(settings, log, known, lasting.read(settings.lasting_file))
        asyncio.run(_run(server, log, known, pair, as_json))
    log.info("stopped", "the broker has stopped")


def _look_at(certificate: Certificate, pair: tuple[Path, Path], log: Log) -> None:
    left = tls.days_left(certificate)
    if left < tls.SOON_DAYS:
        log.warning("certificate", f"{pair[0]} expires in {left} days")


def _renew(server: Server, log: Log, pair: tuple[Path, Path]) -> None:
    """Read the certificate again; one that will not do changes nothing."""
    try:
        context, own = tls.context(*pair)
    except tls.CertificateError as error:
        log.failure("certificate", f"the certificate before stays in use: {error}")
        return
    server.renew(context)
    until = f"{own.not_valid_after_utc:%Y-%m-%d}"
    log.info("certificate", f"{pair[0]} is used from now on, until {until}")
    _look_at(own, pair, log)


async def _run(
    server: Server,
    log: Log,
    known: dict[str, users.User],
    pair: tuple[Path, Path] | None,
    as_json: bool,
) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    if pair is not None:
        loop.add_signal_handler(signal.SIGHUP, _renew, server, log, pair)

    def defect(_: asyncio.AbstractEventLoop, said: dict[str, Any]) -> None:
        log.failure("defect", f"{said.get('message')}: {said.get('exception')!r}")

    loop.set_exception_handler(defect)
    settings = server.settings

    def ready(port: int) -> None:
        scheme = "mqtt" if settings.tls is None else "mqtts"
        url = f"{scheme}://{_shown(settings.host)}:{port}"
        roles = [user.role for user in known.values()]
        if as_json:
            counts = {role: roles.count(role) for role in access.ROLES} if known else None
            click.echo(json.dumps({"event": "ready", "url": url, "port": port, "users": counts}))
            return
        who = ", ".join(f"{roles.count(role)} {role}s" for role in access.ROLES)
        click.echo(f"broker ready at {url} ({who if known else 'no users'})")
        click.echo(_advice(settings.host, scheme, port, bool(known)))

    await server.run(stop, ready)


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _advice(host: str, scheme: str, port: int, named: bool) -> str:
    """How boards are told of the broker."""
    if _local(host) and not named:
        return (
            "everybody on this machine may do everything; boards on the network need users "
            "(--add-user) and --listen 0.0.0.0"
        )
    if _is_address(host) and ipaddress.ip_address(host).is_unspecified:
        host = _own_address(host)
    told = f"--set mqtt_url={scheme}://{_shown(host)}:{port}"
    return (
        f"a board is told by: tinysplit flash ... {told} --set mqtt_user=NAME --set name=NAME, "
        "and its password by TINYSPLIT_MQTT_PASSWORD"
    )


def _own_address(unspecified: str) -> str:
    """The address that this machine has on the network of its default route; nothing is sent."""
    family, far = (
        (socket.AF_INET6, "2001:db8::1") if ":" in unspecified else (socket.AF_INET, "192.0.2.1")
    )
    with socket.socket(family, socket.SOCK_DGRAM) as asked:
        try:
            asked.connect((far, 9))
        except OSError:
            return "THIS_MACHINE"
        return str(asked.getsockname()[0])
