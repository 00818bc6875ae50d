"""Starts a guest, follows the TAP that it reports, and sees to its end."""

from __future__ import annotations

import os
import re
import selectors
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.radio.kernel import Kernel, LaneError

MEMORY_MB = 2048
PROCESSORS = 2
END_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Limits:
    """How long to wait: for the plan, for the next line, and for all of it."""

    boot_s: float = 120.0
    silence_s: float = 150.0
    total_s: float = 600.0


DEFAULT_LIMITS = Limits()


@dataclass
class Tally:
    """What the guest reported so far."""

    planned: int | None = None
    passed: int = 0
    failed: list[str] = field(default_factory=list)
    bailed: str | None = None
    exit_code: int | None = None

    def read(self, line: str) -> None:
        """Take one line of TAP into account."""
        if plan := re.fullmatch(r"1\.\.(\d+)", line):
            self.planned = int(plan[1])
        elif result := re.match(r"(not )?ok \d+ - (.*?)( # .*)?$", line):
            if result[1]:
                self.failed.append(result[2])
            else:
                self.passed += 1
        elif line.startswith("Bail out!") and self.bailed is None:
            self.bailed = line.removeprefix("Bail out!").strip()
        elif end := re.fullmatch(r"# exit (\d+)", line):
            self.exit_code = int(end[1])

    def check(self) -> None:
        """Raise LaneError unless every planned test passed and pytest says so too."""
        if self.bailed is not None:
            raise LaneError(self.bailed)
        if self.failed:
            names = "; ".join(self.failed)
            raise LaneError(f"{len(self.failed)} of {self.planned} tests failed: {names}")
        if self.exit_code is None:
            raise LaneError("the guest ended before its tests did")
        if not self.planned:
            raise LaneError(
                f"no test ran (pytest.log says why), pytest ended with {self.exit_code}"
            )
        if self.exit_code != 0 or self.passed != self.planned:
            raise LaneError(
                f"{self.passed} of {self.planned} tests passed, "
                f"and pytest ended with {self.exit_code}"
            )


def qemu_command(
    kernel: Kernel, initramfs: Path, lane: Path, python: Path, repository: Path, accel: str
) -> list[str]:
    """The machine: the host's root read-only, `lane` writable, no network, no disk.

    The guest reports on standard output; its console goes to `lane`/console.log.

    Raises:
        LaneError: a path that qemu or the kernel's command line cannot take.
    """
    for path in (initramfs, lane, python, repository, kernel.root):
        if re.search(r'[",\s]', str(path)):
            raise LaneError(f"{path}: no guest takes a path with a comma, quote or space")
    options = "readonly=on,multidevs=remap"
    parameters = f"console=ttyS0 loglevel=4 panic=-1 TINYSPLIT_PYTHON={python}"
    return [
        *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot"),
        *("-display", "none", "-machine", "q35", "-m", str(MEMORY_MB), "-smp", str(PROCESSORS)),
        *("-accel", "kvm" if accel == "kvm" else "tcg,thread=multi", "-cpu", "max"),
        *("-kernel", str(kernel.image), "-initrd", str(initramfs)),
        *("-append", f"{parameters} TINYSPLIT_REPOSITORY={repository}"),
        *("-chardev", f"file,id=console,path={lane / 'console.log'}"),
        *("-serial", "chardev:console"),
        *("-device", "virtio-serial", "-chardev", "file,id=report,path=/dev/stdout"),
        *("-device", "virtserialport,chardev=report,name=report"),
        *("-fsdev", f"local,id=host,path=/,security_model=none,{options}"),
        *("-device", "virtio-9p-pci,fsdev=host,mount_tag=host"),
        *("-fsdev", f"local,id=lane,path={lane},security_model=none"),
        *("-device", "virtio-9p-pci,fsdev=lane,mount_tag=lane"),
    ]


def follow(
    command: Sequence[str], errors: Path, show: Callable[[str], None], limits: Limits
) -> Tally:
    """Run a guest, whose standard output is TAP, to its end; it never outlives this call.

    Raises:
        LaneError: a deadline passed, or the guest could not be started.
    """
    tally, pending = Tally(), b""
    started = time.monotonic()
    heard = started
    # Should this process be killed, the kernel kills the guest.
    orphanless = ["setpriv", "--pdeathsig", "KILL", *command]
    with errors.open("wb") as log, selectors.DefaultSelector() as selector:
        try:
            process = subprocess.Popen(
                orphanless,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for this process, which ends the guest.
            )
        except OSError as error:
            raise LaneError(f"cannot start {orphanless[0]}: {error.strerror}") from error
        assert process.stdout is not None
        try:
            selector.register(process.stdout, selectors.EVENT_READ)
            while True:
                now = time.monotonic()
                wait_s = limits.boot_s if tally.planned is None else limits.silence_s
                if now - started > limits.total_s:
                    raise LaneError(f"the guest was not done after {limits.total_s:.0f} s")
                if now - heard > wait_s:
                    what = "has not begun" if tally.planned is None else "said nothing more"
                    raise LaneError(f"the guest {what} after {wait_s:.0f} s")
                left_s = min(started + limits.total_s, heard + wait_s) - now
                if not selector.select(max(left_s, 0) + 0.01):
                    continue
                data = os.read(process.stdout.fileno(), 65536)
                if not data:
                    break
                heard = time.monotonic()
                *lines, pending = (pending + data).split(b"\n")
                for line in lines:
                    text = line.decode("utf-8", "replace").rstrip()
                    tally.read(text)
                    show(text)
            process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired as late:
            raise LaneError("the guest reported its end and did not power off") from late
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
    return tally


def last_words(lane: Path) -> str:
    """What the console and qemu say about an end that came too early; may be empty."""
    for name, pattern in (("console.log", "Kernel panic.*"), ("qemu.log", ".+")):
        file = lane / name
        text = file.read_text("utf-8", "replace") if file.exists() else ""
        if found := re.findall(pattern, text):
            return found[-1].strip()
    return ""


def keep_logs(lane: Path, target: Path) -> Path:
    """Copy the logs to `target`, which is emptied first; returns it."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for log in lane.glob("*.log"):
        shutil.copy(log, target)
    return target
