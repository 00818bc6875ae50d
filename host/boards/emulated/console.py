"""Runs an emulated board: QEMU with its console on a socket, and whoever controls it behind.

The emulator's serial port is a socket of ours from the start: nothing of a boot is missed. The
board gets its settings over it as any other attached board; then commands and answers pass.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from host.boards import address, control
from host.boards.address import Address
from host.boards.attached import PORT, AttachedBoard
from host.boards.board import BoardError
from host.boards.control import SECRETS
from host.boards.emulated import flash
from host.boards.emulated.process import HOST, seen_by_guest
from host.boards.wired import WiredBoard
from host.flash.build import CHIP, Build
from models.errors import TinysplitError
from partitioner import bundle as bundles
from partitioner import child, image

QEMU = "qemu-system-xtensa"
PSRAM_SIZE = "8M"
BOOT_TIMEOUT_S = 120.0
_END_TIMEOUT_S = 5.0
_CONNECT_TIMEOUT_S = 20.0
MAX_UNREAD_BYTES = 65536
_LOOPBACK_URL = re.compile(r"^(\w+://)(?:127\.0\.0\.1|localhost|\[::1\])(?=[:/]|$)")
_GET_IT = (
    "get Espressif's QEMU by `python $IDF_PATH/tools/idf_tools.py install qemu-xtensa` or from "
    "github.com/espressif/qemu/releases, and put it on PATH or name it by --qemu-bin (or "
    "TINYSPLIT_QEMU)"
)


class EmulatorError(TinysplitError):
    """The emulator is missing, is another one, or ended."""


def write(fd: int, data: bytes) -> None:
    """All of it."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


class _Terminal:
    """A pseudo-terminal that perhaps nobody reads: what there is no room for is lost."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._cut = False  # The last line to come was not kept whole.
        self.waiting = bytearray()
        os.set_blocking(fd, False)

    def take(self, data: bytes) -> None:
        if len(self.waiting) + len(data) > MAX_UNREAD_BYTES:
            self._cut = True
            return
        self.waiting += b"\n" + data if self._cut else data
        self._cut = False
        self.write()

    def write(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self.waiting:
                del self.waiting[: os.write(self._fd, self.waiting)]


def find_emulator(given: Path | None) -> str:
    """The emulator to use. Raises EmulatorError, saying how to get it."""
    name = QEMU if given is None else str(given)
    if given is not None and given.is_file():
        name = str(given.absolute())  # A path has lost its `./`, by which `which` would know it.
    found = shutil.which(name)
    if found is None:
        raise EmulatorError(f"there is no emulator {given or QEMU}: {_GET_IT}")
    try:
        machines = subprocess.run(  # noqa: S603
            [found, "-machine", "help"], capture_output=True, text=True, timeout=_CONNECT_TIMEOUT_S
        ).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EmulatorError(f"{found} does not run: {error}") from error
    if CHIP not in (line.partition(" ")[0] for line in machines.splitlines()):
        raise EmulatorError(f"{found} has no machine {CHIP}: {_GET_IT}")
    return found


def command(
    qemu: str, build: Build, flash_file: Path, efuse_file: Path, console: int, port: int
) -> list[str]:
    """QEMU's command line (espressif/esp-toolchain-docs, qemu/esp32s3/README.md).

    `console` is the file descriptor that it inherits as its serial port.
    The names of two drivers depend on the release; the one it does not use it only warns of.
    """

    def quoted(path: Path) -> str:
        return str(path).replace(",", ",,")

    arguments = [qemu, "-M", CHIP]
    if build.psram != "none":
        arguments += ["-m", PSRAM_SIZE]
    if build.psram == "octal":
        arguments += ["-global", "driver=ssi_psram,property=is_octal,value=true"]
    arguments += ["-drive", f"file={quoted(flash_file)},if=mtd,format=raw"]
    arguments += ["-drive", f"file={quoted(efuse_file)},if=none,format=raw,id=efuse"]
    for driver in ("nvram.esp32s3.efuse", "nvram.esp32c3.efuse"):
        arguments += ["-global", f"driver={driver},property=drive,value=efuse"]
    # Emulated time runs on while a busy host lets the emulator wait.
    for driver in ("timer.esp32s3.timg", "timer.esp32c3.timg"):
        arguments += ["-global", f"driver={driver},property=wdt_disable,value=true"]
    forward = ",".join(f"hostfwd={kind}:127.0.0.1:{port}-:{PORT}" for kind in ("udp", "tcp"))
    arguments += ["-nic", f"user,model=open_eth,{forward}"]
    arguments += ["-chardev", f"socket,id=console,fd={console}"]
    return [*arguments, "-serial", "chardev:console", "-display", "none", "-monitor", "none"]


class ConsoleBoard(WiredBoard):
    """A board whose console is a connected socket."""

    provenance = "emulated"
    port = "QEMU"

    def __init__(self, name: str, console: socket.socket, emulator: Emulator) -> None:
        super().__init__(name)
        self._console = console
        self._emulator = emulator

    def _send(self, line: bytes) -> None:
        self._console.settimeout(_END_TIMEOUT_S)
        try:
            self._console.sendall(line)
        except TimeoutError as error:
            raise BoardError("no_answer", f"{self.name} takes no commands") from error
        except OSError as error:
            raise self._emulator.ended() from error

    def _receive(self, timeout_s: float) -> bytes:
        if not select.select([self._console], [], [], timeout_s)[0]:
            return b""
        try:
            data = self._console.recv(65536)
        except OSError:
            data = b""
        if not data:
            raise self._emulator.ended()
        return data

    def close(self) -> None:
        self._console.close()

    def pass_on(self, read_fd: int, write_fd: int) -> None:
        """Bytes both ways, until `read_fd` ends. Raises EmulatorError if the emulator does.

        On a pseudo-terminal (one descriptor for both ways) what nobody reads is lost, as on a real
        board's wire: an emulator that waited for a reader would stand still, and the board with it.
        """
        console = self._console.fileno()
        terminal = _Terminal(write_fd) if read_fd == write_fd else None
        while True:
            full = [write_fd] if terminal is not None and terminal.waiting else []
            ready, writable, _ = select.select([read_fd, console], full, [])
            if terminal is not None and writable:
                terminal.write()
            if console in ready:
                data = self._receive(0)
                if terminal is None:
                    write(write_fd, data)
                else:
                    terminal.take(data)
            if read_fd in ready:
                data = os.read(read_fd, 65536)
                if not data:
                    return
                self._send(data)


@dataclass
class Emulator:
    """A running QEMU."""

    process: subprocess.Popen[bytes]
    errors: Path

    def ended(self) -> EmulatorError:
        """Why it ended, as far as it said."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_END_TIMEOUT_S)
        lines = self.errors.read_text("utf-8", "replace").strip().splitlines()
        said = [line for line in lines if "warning:" not in line]
        crashed = self.process.returncode is not None and self.process.returncode < 0
        why = child.how_ended(self.process.returncode) if crashed or not said else said[-1]
        return EmulatorError(f"the emulator ended: {why}")


def wire() -> tuple[socket.socket, socket.socket]:
    """Two ends of a TCP connection within this machine.

    QEMU writes its serial port byte by byte, and some releases drop what a full socket does not
    take. A Unix socket is full after some 280 such writes; TCP joins them.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname(), _CONNECT_TIMEOUT_S)
        while True:
            theirs, caller = listener.accept()
            if caller == ours.getsockname():
                break
            theirs.close()  # Somebody else was faster.
    for end in (ours, theirs):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return ours, theirs


@contextlib.contextmanager
def alone(file: Path) -> Iterator[int]:
    """Keep a flash for one board, as long as the file descriptor is open here or in its emulator.

    Raises EmulatorError if another has it, or it cannot be read. QEMU itself would let both write.
    """
    try:
        flash_file = file.open("rb")
    except OSError as error:
        raise EmulatorError(f"cannot read {file}: {error.strerror}") from error
    with flash_file:
        try:
            fcntl.flock(flash_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise EmulatorError(
                f"{file} is the flash of a board that runs: end it, or give another name"
            ) from error
        yield flash_file.fileno()


@contextlib.contextmanager
def running(
    arguments: list[str],
    ours: socket.socket,
    theirs: socket.socket,
    folder: Path,
    held: int,
) -> Iterator[ConsoleBoard]:
    """Start QEMU, whose console is `theirs`, and control it by `ours`; ends it in the end.

    `held` is the descriptor that keeps its flash for it, also from who comes after us.
    """
    errors = folder / "errors"
    with ours:
        with theirs, errors.open("wb") as log:
            process = subprocess.Popen(  # noqa: S603
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[theirs.fileno(), held],
                preexec_fn=child.end_with_parent,
            )
        try:
            yield ConsoleBoard("the emulated board", ours, Emulator(process, errors))
        finally:
            process.terminate()
            try:
                process.wait(_END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def serve(
    folder: Path,
    stage: int,
    build_folder: Path,
    qemu: Path | None,
    *,
    settings: dict[str, Any],
    listen: Address,
    following: Address | None,
    flash_file: Path | None,
    read_fd: int,
    write_fd: int,
) -> None:
    """Run stage `stage` of the bundle in `folder` on an emulated board until `read_fd` ends.

    `settings` are the board's, `name`, `mtu`, `timeout_ms` and `codec` among them; `listen` is
    where this machine forwards to its port, `following` the next stage; in both, this machine's
    loopback is this machine. Says `ready` as every board does, then hands bytes through. A
    `flash_file` that exists is the board's flash as it is: it runs what that holds, with the
    neighbour it knows unless `following` is another. One that does not is made, and stays.

    Raises:
        UsageError: a stage that is not the last has no next one.
        TinysplitError: no emulator, no build, no such stage; the board does not start.
    """
    bundle = bundles.read(folder)
    emulator = find_emulator(qemu)
    build = flash.read_build(build_folder)
    chip = image.CHIPS[CHIP]
    packed = image.encode(image.of_stage(bundle, stage, version=1, chip=chip), None)
    kept = flash_file is not None and flash_file.exists()
    last = len(bundle.manifest.stages) - 1
    if following is None and stage < last and not kept:
        raise click.UsageError(
            f"stage {stage} of {last + 1} needs the address of the stage after it: --next"
        )
    if following is not None:
        following = seen_by_guest(following)
    settings = dict(settings)
    if "mqtt_url" in settings:
        settings["mqtt_url"] = _LOOPBACK_URL.sub(rf"\g<1>{HOST}", settings["mqtt_url"])
    new = {"listen": f"{listen.transport}://0.0.0.0:{PORT}", **settings}
    if following is not None:
        new["next"] = str(following)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # The emulator must end with us.
    with tempfile.TemporaryDirectory(prefix="tinysplit-") as temporary:
        place = Path(temporary)
        chip_flash = place / "flash.bin" if flash_file is None else flash_file
        if kept:
            flash.check_flash(build, chip_flash)
        else:
            flash.write_flash(build, packed, new, chip_flash)
        (place / "efuse.bin").write_bytes(flash.efuse(_mac(settings["name"])))
        with contextlib.ExitStack() as stack:
            lock = stack.enter_context(alone(chip_flash))
            ours, theirs = wire()
            arguments = command(
                emulator, build, chip_flash, place / "efuse.bin", theirs.fileno(), listen.port
            )
            board = stack.enter_context(running(arguments, ours, theirs, place, lock))
            held: str | None = bundle.manifest.id
            info = board.greet(BOOT_TIMEOUT_S)
            if kept:
                stage, held = info.get("stage", stage), info.get("bundle")
                if following is None and info.get("next"):
                    following = address.parse(info["next"])
            # A flash that is kept has its name; what boards do not show a new one has.
            known = {"name"} if kept else SECRETS
            settings = {key: value for key, value in settings.items() if key not in known}
            if held is not None:  # A board without a stage waits for an update.
                attached = AttachedBoard(board, stage, held, BOOT_TIMEOUT_S)
                attached.configure(
                    listen.transport,
                    following,
                    family=4,
                    needs_address=False,
                    **settings,
                )
                info = attached.info
            ready = control.event("ready", info={**info, "listen": str(listen)})
            write(write_fd, ready)
            board.pass_on(read_fd, write_fd)


def _mac(name: str) -> bytes:
    """A locally administered address that another name hardly shares."""
    return b"\x02\x00" + zlib.crc32(name.encode()).to_bytes(4, "big")
