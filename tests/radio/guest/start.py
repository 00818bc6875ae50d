"""PID 1 of the guest on the host's root: modules, then pytest; says how it ended, and powers off.

Imports the standard library only: whatever is wrong with the rest is for pytest to report.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

LANE = Path("/run/lane")  # A folder of the host, for settings in and logs out.
PORT_TIMEOUT_S = 10


def report_port() -> Path:
    """The port that the host reads; there is no udev to give it its name."""
    deadline = time.monotonic() + PORT_TIMEOUT_S
    while time.monotonic() < deadline:
        for entry in Path("/sys/class/virtio-ports").glob("*"):
            if (entry / "name").read_text().strip() == "report":
                return Path("/dev") / entry.name
        time.sleep(0.05)
    raise TimeoutError("the port `report` did not appear")


def prepare(modules: Path, wanted: list[str]) -> list[str]:
    """Mount what tests need and load `wanted`; returns what went wrong."""
    for kind, place in (("devpts", "/dev/pts"), ("tmpfs", "/dev/shm")):
        Path(place).mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", kind, kind, place], check=True)
    Path("/run/tmp").mkdir()
    os.environ["TMPDIR"] = "/run/tmp"
    Path("/lib/modules").mkdir(exist_ok=True)
    subprocess.run(["mount", "--bind", str(modules.parent), "/lib/modules"], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    wrong = []
    for module in wanted:
        done = subprocess.run(
            ["busybox", "modprobe", *module.split()], capture_output=True, text=True
        )
        if done.returncode:
            wrong.append(f"modprobe {module}: {done.stderr.strip() or 'failed'}")
    return wrong


def main() -> None:
    settings = json.loads((LANE / "settings.json").read_text())
    with report_port().open("w", buffering=1) as report:
        print(f"# Linux {os.uname().release}, up after {time.monotonic():.1f} s", file=report)
        repository = Path(__file__).parents[3]
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # Imports are what takes time here.
        os.environ["TINYSPLIT_LANE"] = str(LANE)
        os.environ["TINYSPLIT_REPORT"] = str(report.fileno())
        wrong = prepare(Path(settings["modules"]), settings["load"])
        for line in wrong:
            print(f"Bail out! {line}", file=report)
        if not wrong:
            with (LANE / "pytest.log").open("w") as log:
                command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--tb=short"]
                command += ["-p", "pytest_timeout"]
                command += ["--confcutdir", settings["folder"]]
                done = subprocess.run(
                    [*command, *settings["files"]],
                    cwd=repository,
                    stdout=log,
                    stderr=log,
                    pass_fds=[report.fileno()],
                )
            print(f"# exit {done.returncode}", file=report)
    os.sync()
    Path("/proc/sysrq-trigger").write_text("o")
    with contextlib.suppress(KeyboardInterrupt):
        time.sleep(60)


main()
