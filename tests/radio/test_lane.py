"""The slow lane's own machinery. What boots a guest runs in `make test-radio` only."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.radio import __main__ as lane
from tests.radio import machine
from tests.radio.kernel import Kernel, LaneError, pack_initramfs
from tests.radio.machine import Limits, Tally

REPOSITORY = Path(__file__).parents[2]
unasked = pytest.mark.skipif(
    "TINYSPLIT_RADIO" not in os.environ, reason="boots a guest: make test-radio"
)


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def follow(code: str, folder: Path, **limits: float) -> Tally:
    """Follow a program that stands for a guest."""
    return machine.follow(python(code), folder / "qemu.log", lambda _: None, Limits(**limits))


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0]
    except OSError:
        return False
    return state != "Z"


def gone(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not alive(pid)


# What is missing


def test_missing_tools_are_named_with_the_apt_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lane, "TOOLS", {"no-such-tool": "one", "nor-this": "another", "sh": "dash"})
    assert lane.main([]) == 1
    said = capsys.readouterr().err
    assert said == "radio lane: error: tools are missing: apt-get install another one\n"


def test_a_busybox_that_needs_a_libc_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.copy("/bin/ls", tmp_path / "busybox")
    monkeypatch.setattr(lane, "TOOLS", {})
    monkeypatch.setattr(lane, "BUSYBOX", tmp_path / "busybox")
    with pytest.raises(LaneError, match="apt-get install busybox-static"):
        lane.check_tools()


def test_packages_are_printed_one_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert lane.main(["--packages"]) == 0
    assert "qemu-system-x86" in capsys.readouterr().out.splitlines()


def test_an_unknown_lane_is_wrong_usage() -> None:
    with pytest.raises(SystemExit) as ended:
        lane.main(["--lane", "zigbee"])
    assert ended.value.code == 2


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    modules = tmp_path / "kernel/lib/modules/6.0"
    (modules / "net").mkdir(parents=True)
    for name in ("virtio.ko", "9p.ko", "9pnet.ko", "net/veth.ko.xz"):
        (modules / name).write_text(name)
    (modules / "modules.dep").write_text(
        "virtio.ko:\n9pnet.ko: virtio.ko\n9p.ko: 9pnet.ko virtio.ko\nnet/veth.ko.xz:\n"
    )
    (modules / "modules.builtin").write_text("kernel/net/over-lay.ko\n")
    return Kernel(tmp_path / "kernel")


def test_modules_are_loaded_after_what_they_need(kernel: Kernel) -> None:
    order = [file.name for file in kernel.load_order(["9p", "veth", "9pnet", "over_lay"])]
    assert order == ["virtio.ko", "9pnet.ko", "9p.ko", "veth.ko.xz"]


def test_a_module_the_kernel_lacks_is_named(kernel: Kernel) -> None:
    with pytest.raises(LaneError, match="has no module hci_vhci"):
        kernel.load_order(["9p", "hci_vhci"])


def test_the_initramfs_holds_modules_in_order(
    kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not lane.BUSYBOX.exists():
        pytest.skip("needs busybox")
    monkeypatch.setattr("tests.radio.kernel.BOOT_MODULES", ("9p",))
    pack_initramfs(kernel, lane.BUSYBOX, tmp_path / "initramfs")
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    with (tmp_path / "initramfs").open("rb") as archive:
        command = [lane.BUSYBOX, "cpio", "-i", "-d"]
        subprocess.run(command, cwd=unpacked, stdin=archive, check=True, capture_output=True)
    assert (unpacked / "order").read_text().split() == ["virtio.ko", "9pnet.ko", "9p.ko"]
    assert (unpacked / "modules/9pnet.ko").read_text() == "9pnet.ko"
    assert os.access(unpacked / "init", os.X_OK)
    assert not list(tmp_path.glob("tmp*"))


def test_paths_that_qemu_cannot_take_are_refused(kernel: Kernel, tmp_path: Path) -> None:
    odd = tmp_path / "a, b"
    with pytest.raises(LaneError, match="no guest takes a path"):
        machine.qemu_command(kernel, tmp_path, odd, tmp_path, tmp_path, "tcg")


# What a guest reports


PASSING = "1..2\nok 1 - netem: one # 0.1 s\nok 2 - netem: two # 0.1 s\n# exit 0\n"


def test_a_guest_whose_tests_pass(tmp_path: Path) -> None:
    tally = follow(f"print({PASSING!r})", tmp_path)
    tally.check()
    assert (tally.planned, tally.passed) == (2, 2)


@pytest.mark.parametrize(
    ("report", "why"),
    [
        (PASSING.replace("ok 2", "not ok 2"), "1 of 2 tests failed: netem: two"),
        (PASSING.replace("exit 0", "exit 3"), "2 of 2 tests passed, and pytest ended with 3"),
        (PASSING.replace("1..2", "1..3"), "2 of 3 tests passed"),
        (PASSING.replace("# exit 0\n", ""), "ended before its tests did"),
        ("1..0\n# exit 5\n", "no test ran"),
        ("# exit 1\n", "no test ran"),
        ("", "ended before its tests did"),
        ("Bail out! modprobe uhid: not found\n# exit 0\n", "modprobe uhid: not found"),
    ],
)
def test_a_guest_that_fails_is_a_failure(tmp_path: Path, report: str, why: str) -> None:
    tally = follow(f"print({report!r})", tmp_path)
    with pytest.raises(LaneError, match=why):
        tally.check()


@pytest.mark.parametrize(
    ("before", "limits", "why"),
    [
        ("", {"boot_s": 3.0}, "the guest has not begun after 3 s"),
        ("1..2\nok 1 - a\n", {"silence_s": 0.5}, "the guest said nothing more after 0 s"),
        ("1..2\n", {"total_s": 3.0}, "the guest was not done after 3 s"),
    ],
)
def test_a_guest_that_hangs_is_ended(
    tmp_path: Path, before: str, limits: dict[str, float], why: str
) -> None:
    pid_file = tmp_path / "pid"
    code = (
        f"import os, time; open({str(pid_file)!r}, 'w').write(str(os.getpid())); "
        f"print({before!r}, end='', flush=True); time.sleep(60)"
    )
    with pytest.raises(LaneError, match=why):
        follow(code, tmp_path, **limits)
    assert gone(int(pid_file.read_text()))


def test_a_guest_that_cannot_start_says_why(tmp_path: Path) -> None:
    tally = machine.follow(
        ["no-such-emulator"], tmp_path / "qemu.log", lambda _: None, machine.DEFAULT_LIMITS
    )
    with pytest.raises(LaneError):
        tally.check()
    assert "no-such-emulator" in machine.last_words(tmp_path)


def test_a_panic_is_quoted_and_the_logs_are_kept(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "console.log").write_text("[1.0] Kernel panic - not syncing: no init\n[1.1] rebooting\n")
    (run / "settings.json").write_text("{}")
    assert machine.last_words(run) == "Kernel panic - not syncing: no init"
    kept = machine.keep_logs(run, tmp_path / "failed")
    assert [file.name for file in kept.iterdir()] == ["console.log"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_lane_leaves_no_guest(tmp_path: Path, number: signal.Signals) -> None:
    code = (
        "import signal, sys; from pathlib import Path; from tests.radio import machine; "
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(1)); "
        "machine.follow([sys.executable, '-c', "
        "'import os, time; print(os.getpid(), flush=True); time.sleep(60)'], "
        f"Path({str(tmp_path / 'log')!r}), lambda line: print(line, flush=True), "
        "machine.DEFAULT_LIMITS)"
    )
    runner = subprocess.Popen(
        python(code), cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    with runner:
        assert runner.stdout is not None
        guest = int(runner.stdout.readline())
        runner.send_signal(number)
        assert runner.wait(10) != 0
    assert gone(guest)


# What pytest reports in the guest


def test_every_outcome_of_a_test_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_odd.py").write_text(
        "import pytest\n"
        "def test_that_passes(): pass\n"
        "def test_that_fails(): assert 1 == 2\n"
        "def test_that_is_skipped(): pytest.skip('no radio')\n"
        "@pytest.fixture\n"
        "def broken():\n    yield\n    raise OSError('late')\n"
        "def test_whose_end_fails(broken): pass\n"
    )
    read, write = os.pipe()
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            "--confcutdir",
            tmp_path,
            tmp_path,
        ],
        cwd=REPOSITORY,
        env={**os.environ, "TINYSPLIT_REPORT": str(write)},
        pass_fds=[write],
        stdout=subprocess.DEVNULL,
        timeout=120,
    )
    os.close(write)
    with os.fdopen(read) as report:
        lines = report.read().splitlines()
    verdicts = [line.partition(" # ")[0] for line in lines if not line.startswith("#")]
    assert verdicts == [
        "1..4",
        "ok 1 - odd: that passes",
        "not ok 2 - odd: that fails",
        "not ok 3 - odd: that is skipped",
        "not ok 4 - odd: whose end fails",
    ]
    assert any("no radio" in line for line in lines)


# A guest

CONFTEST = """\
from tests.radio.guest.tap import Report

def pytest_configure(config):
    config.pluginmanager.register(Report())
"""


@unasked
@pytest.mark.boots
def test_a_guest_that_panics_is_a_failure_with_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane, "prepare_bundles", lambda place: None)
    (tmp_path / "conftest.py").write_text(CONFTEST)
    suite = tmp_path / "test_panic.py"
    suite.write_text(
        "from pathlib import Path\n"
        "def test_fine(): pass\n"
        "def test_panic(): Path('/proc/sysrq-trigger').write_text('c')\n"
    )
    with pytest.raises(LaneError) as failed:
        lane.run([suite])
    said = str(failed.value)
    assert "the guest ended before its tests did (Kernel panic" in said
    assert "console.log" in said
    assert "sysrq" in (lane.CACHE / "failed/console.log").read_text()


@unasked
@pytest.mark.boots
def test_a_guest_whose_root_does_not_come_up_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane, "prepare_bundles", lambda place: None)
    monkeypatch.setattr(lane.sys, "executable", "/no/such/python")
    with pytest.raises(LaneError, match=r"ended before its tests did \(Kernel panic"):
        lane.run([tmp_path / "test_nothing.py"])
