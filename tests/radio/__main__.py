"""The slow lane: tests on real network and radio stacks, in a virtual machine of their own.

    python -m tests.radio [--lane NAME]... [--accel tcg|kvm]
    python -m tests.radio --packages     (the Debian packages it needs, one per line)

Exit codes: 0 all tests passed; 1 one failed, or the lane cannot run (one line says why); 2 usage.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from models.errors import TinysplitError
from partitioner import child
from tests.radio import kernel, machine
from tests.radio.kernel import LaneError

REPOSITORY = Path(__file__).parents[2]
CACHE = REPOSITORY / "build/radio"
LANES = {
    path.stem.removeprefix("test_"): path
    for path in sorted((Path(__file__).parent / "guest").glob("test_*.py"))
}
BUSYBOX = Path("/bin/busybox")
PREPARE_TIMEOUT_S = 600
CUT = "block_16_project_BN"

# What must be there, and the Debian package that brings it.
TOOLS = {
    "qemu-system-x86_64": "qemu-system-x86",
    str(BUSYBOX): "busybox-static",
    "setpriv": "util-linux",
    "ip": "iproute2",
    "tc": "iproute2",
    "iw": "iw",
    "dbus-daemon": "dbus",
    "/usr/libexec/bluetooth/bluetoothd": "bluez",
}
# Loaded in the guest before the tests, with parameters.
MODULES = ("veth", "sch_netem", "bluetooth", "hci_vhci", "uhid", "mac80211_hwsim radios=2")


def check_tools() -> None:
    """Raise LaneError, with the apt line, unless everything is there."""
    if os.uname().machine != "x86_64" or shutil.which("apt-get") is None:
        raise LaneError("this lane runs on Debian, x86-64: it boots Debian's kernel")
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = {package for tool, package in TOOLS.items() if shutil.which(tool, path=path) is None}
    if BUSYBOX.exists() and b"ld-linux" in BUSYBOX.read_bytes()[:4096]:
        missing.add("busybox-static")  # The other package's busybox names its loader up there.
    if missing:
        raise LaneError(f"tools are missing: apt-get install {' '.join(sorted(missing))}")


def partition(arguments: list[str | Path], target: Path) -> None:
    """Make a bundle in `target`; raises LaneError if that fails."""
    command = [*child.command("partitioner.cli", "main"), *arguments, "--output", target]
    try:
        subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=PREPARE_TIMEOUT_S
        )
    except subprocess.CalledProcessError as failed:
        raise LaneError(failed.stderr.strip().splitlines()[-1]) from failed
    except subprocess.TimeoutExpired as late:
        raise LaneError(f"no bundle after {PREPARE_TIMEOUT_S} s") from late


def prepare_bundles(lane: Path) -> None:
    """Put `small` and `digits` into `lane`; digits, which takes TensorFlow, comes from the cache
    if neither partitioner nor models changed since."""
    stranger = REPOSITORY / "tests/data/stranger.tflite"
    partition(["--model", stranger, "--layer", "#1"], lane / "small")
    sources = [p for room in ("partitioner", "models") for p in (REPOSITORY / room).rglob("*")]
    digest = hashlib.sha256()
    for path in sorted(p for p in sources if p.is_file() and p.suffix != ".pyc"):
        digest.update(path.read_bytes())
    cached = CACHE / "bundles" / digest.hexdigest()[:16]
    if not cached.exists():
        shutil.rmtree(cached.parent, ignore_errors=True)
        cached.parent.mkdir(parents=True)
        partition(["--layer", CUT], cached)
    shutil.copytree(cached, lane / "digits")


def run(
    suite: list[Path], accel: str = "tcg", limits: machine.Limits = machine.DEFAULT_LIMITS
) -> str:
    """Run these test files, which share a folder, in a guest; returns a line that says how it went.

    Raises:
        LaneError: a test failed, the guest did, or something is missing.
    """
    check_tools()
    shutil.rmtree(CACHE / "failed", ignore_errors=True)
    started = time.monotonic()
    found = kernel.fetch(CACHE / "kernel")
    with tempfile.TemporaryDirectory(prefix="tinysplit-radio-") as temporary:
        lane = Path(temporary)
        found.load_order([module.split()[0] for module in MODULES])  # All there, or an error now.
        prepare_bundles(lane)
        kernel.pack_initramfs(found, BUSYBOX, lane / "initramfs")
        settings = {
            "modules": str(found.modules),
            "load": MODULES,
            "folder": str(suite[0].parent),
            "files": [str(file) for file in suite],
        }
        (lane / "settings.json").write_text(json.dumps(settings))
        command = machine.qemu_command(
            found, lane / "initramfs", lane, Path(sys.executable), REPOSITORY, accel
        )
        prepared = time.monotonic()
        try:
            tally = machine.follow(command, lane / "qemu.log", print_line, limits)
            tally.check()
        except LaneError as error:
            kept = machine.keep_logs(lane, CACHE / "failed")
            words = machine.last_words(lane)
            raise LaneError(
                f"{error}{f' ({words})' if words else ''}; the guest's logs are in {kept}: "
                "console.log is its kernel's"
            ) from error
    ended = time.monotonic()
    return (
        f"{tally.passed} tests passed on Linux {found.modules.name} in {ended - started:.0f} s, "
        f"{ended - prepared:.0f} s of them in the guest"
    )


def print_line(line: str) -> None:
    print(line, flush=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make test-radio", description=__doc__.splitlines()[0])
    parser.add_argument("--lane", action="append", choices=sorted(LANES), help="default: all")
    parser.add_argument(
        "--accel", choices=["tcg", "kvm"], default="tcg", help="kvm is faster where it works"
    )
    parser.add_argument(
        "--packages", action="store_true", help="print the Debian packages that this needs"
    )
    chosen = parser.parse_args(arguments)
    if chosen.packages:
        print("\n".join(sorted(set(TOOLS.values()))))
        return 0

    def stop(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        print(f"radio lane: {run([LANES[n] for n in chosen.lane or LANES], chosen.accel)}")
    except KeyboardInterrupt:
        print("radio lane: interrupted", file=sys.stderr)
        return 1
    except TinysplitError as error:
        print(f"radio lane: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
