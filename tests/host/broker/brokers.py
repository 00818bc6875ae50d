"""Brokers under test, each a process: the embedded one, and Mosquitto with the rules that ship."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

from host.background import Background
from host.broker import users
from host.broker.broker import Limits
from host.broker.mosquitto import write
from host.broker.server import Server
from partitioner import child
from tests.ports import free_port

LOOPBACK = "127.0.0.1"
USERS = {"head": "node", "tail": "node", "boss": "operator"}
_START_S = 20.0


def password(name: str) -> str:
    return f"password of {name}"


def cheap_user(name: str, role: str) -> users.User:
    """A user whose password costs little to check, so that tests wait for other things."""
    cost, salt = (1 << 10, 8, 1), secrets.token_bytes(16)
    n, r, p = cost
    digest = hashlib.scrypt(password(name).encode(), salt=salt, n=n, r=r, p=p, dklen=32)
    return users.User(name, role, cost, salt, digest)


def free_ports() -> int:
    """A port that is free, and the next one, too."""
    while True:
        port = free_port()
        with contextlib.suppress(OSError), socket.create_server((LOOPBACK, port + 1)):
            return port


def tinysplit(*arguments: object) -> list[str]:
    return [*child.command("host.cli", "main"), *map(str, arguments)]


@dataclass
class Running:
    """`kind` is embedded or mosquitto; `version` of MQTT is what clients speak."""

    kind: str
    version: int
    folder: Path
    port: int
    command: list[str]
    certificate: Path | None = None
    process: subprocess.Popen[str] = field(init=False)

    def port_of(self, role: str) -> int:
        """Mosquitto has a listener for each role."""
        return self.port + (self.kind == "mosquitto" and role == "operator")

    def start(self) -> None:
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(
                self.command, stdout=subprocess.PIPE, stderr=log, text=True
            )
        if self.kind == "embedded":
            assert self.process.stdout is not None
            line = self.process.stdout.readline()
            assert line, self.log()
            said = json.loads(line)
            assert said["event"] == "ready"
            self.port = said["port"]
            return
        deadline = time.monotonic() + _START_S
        while not all(_listens(self.port_of(role)) for role in ("node", "operator")):
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        with self.process:
            return self.process.wait(10)

    def restart(self) -> None:
        """With the same files, at the same port."""
        self.stop()
        self.start()

    @property
    def peak_bytes(self) -> int:
        """The most memory that it had so far."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(status.split("VmHWM:")[1].split()[0])


def _listens(port: int) -> bool:
    with socket.socket() as asking:
        return asking.connect_ex((LOOPBACK, port)) == 0


def embedded(
    folder: Path, *, roles: dict[str, str] = USERS, tls: tuple[Path, Path] | None = None
) -> Running:
    """The embedded broker; without users if there are no roles."""
    folder.mkdir(parents=True)
    if roles:
        users.write(folder / "users", {name: cheap_user(name, roles[name]) for name in roles})
    port = free_ports()
    options = [] if tls is None else ["--tls-cert", tls[0], "--tls-key", tls[1]]
    listen = ("--listen", f"{LOOPBACK}:{port}")
    command = tinysplit("broker", "--folder", folder, *listen, "--json", *options)
    return Running("embedded", 3, folder, port, command)


def mosquitto(
    folder: Path,
    version: int,
    *,
    roles: dict[str, str] = USERS,
    tls: tuple[Path, Path] | None = None,
) -> Running:
    """Mosquitto with the very files that `tinysplit broker --mosquitto` writes."""
    port = free_ports()
    write(folder, LOOPBACK, port, tls, Limits())
    for name, role in roles.items():
        file = folder / f"{role}s.users"
        subprocess.run(["mosquitto_passwd", "-b", file, name, password(name)], check=True)
    program = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    assert program is not None
    command = [program, "-c", str(folder / "mosquitto.conf")]
    return Running("mosquitto", version, folder, port, command)


@contextlib.contextmanager
def in_process(server: Server) -> Iterator[int]:
    """The server in a thread of this process; its port."""
    stop, port = asyncio.Event(), Future[int]()

    async def begin() -> asyncio.Task[None]:
        return asyncio.ensure_future(server.run(stop, port.set_result))

    async def end(work: asyncio.Task[None]) -> None:
        stop.set()
        await work

    with Background() as background:
        work = background.run(begin())
        try:
            yield port.result(_START_S)
        finally:
            background.run(end(work))


@contextlib.contextmanager
def running(broker: Running) -> Iterator[Running]:
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()
