"""Emulated boards: real esptool, the flash and the command line of a stand-in for QEMU."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
import tty
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from host.bench import store
from host.boards.address import Address
from host.boards.board import BoardError
from host.boards.emulated import flash
from host.boards.emulated.console import (
    MAX_UNREAD_BYTES,
    ConsoleBoard,
    Emulator,
    EmulatorError,
    find_emulator,
    wire,
)
from host.boards.emulated.process import EmulatedBoard, free_port, seen_by_guest
from host.boards.kinds import Emulated
from host.cli import main
from host.flash import nvs
from host.flash.build import BuildError
from host.testbed import Options, Testbed
from partitioner.bundle import Bundle
from tests.host.flash.nvs_reader import read

Invoke = Callable[..., Result]
PARTITIONS = (
    ("nvs", 1, 2, 0x9000, 0x6000),
    ("otadata", 1, 0, 0xF000, 0x2000),
    ("slot_state", 1, 0x40, 0x12000, 0x2000),
    ("ota_0", 0, 0x10, 0x20000, 0x1E0000),
    ("model_0", 1, 0x41, 0x3E0000, 0x200000),
    ("model_1", 1, 0x42, 0x5E0000, 0x200000),
)


def esp_image(mode: int) -> bytes:
    """A little image as the boot ROM takes it (ESP-IDF, "App Image Format")."""
    data = bytes(range(8))
    image = struct.pack("<BBBBI", 0xE9, 1, mode, 0x3F, 0x40374000)
    image += struct.pack("<B3xHBHH4xB", 0xEE, 9, 0, 0, 99, 1)
    image += struct.pack("<II", 0x3FC88000, len(data)) + data
    checksum = 0xEF
    for value in data:
        checksum ^= value
    image += bytes(15 - len(image) % 16) + bytes([checksum])
    return image + hashlib.sha256(image).digest()


def make_build(folder: Path, **changes: Any) -> Path:
    """What `idf.py build` leaves for the flasher: the files, and the two descriptions of them."""
    table = b"".join(
        struct.pack("<2sBBII16sI", b"\xaa\x50", kind, sub, at, size, label.encode(), 0)
        for label, kind, sub, at, size in changes.pop("partitions", PARTITIONS)
    )
    table += b"\xeb\xeb" + b"\xff" * 14 + hashlib.md5(table).digest()
    files = {
        "bootloader/bootloader.bin": esp_image(mode=0),
        "partition_table/partition-table.bin": table.ljust(0xC00, b"\xff"),
        "ota_data_initial.bin": b"\xff" * 0x2000,
        "tinysplit.bin": b"\xe9APP" + bytes(1000),
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    arguments = {
        "write_flash_args": ["--flash_mode", "dio", "--flash_size", "8MB", "--flash_freq", "80m"],
        "flash_settings": {"flash_mode": "dio", "flash_size": "8MB", "flash_freq": "80m"},
        "flash_files": {
            "0x0": "bootloader/bootloader.bin",
            "0x20000": "tinysplit.bin",
            "0x8000": "partition_table/partition-table.bin",
            "0xf000": "ota_data_initial.bin",
        },
        "partition-table": {"offset": "0x8000", "file": "partition_table/partition-table.bin"},
        "extra_esptool_args": {"after": "hard_reset", "stub": True, "chip": "esp32s3"},
    }
    config = {"ETH_USE_OPENETH": True, "SPIRAM": True, "SPIRAM_MODE_OCT": True}
    arguments.update({k: v for k, v in changes.items() if k in arguments})
    config.update({k: v for k, v in changes.items() if k not in arguments})
    (folder / "config").mkdir()
    (folder / "flasher_args.json").write_text(json.dumps(arguments))
    (folder / "config/sdkconfig.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def build(tmp_path: Path) -> Path:
    return make_build(tmp_path / "a build, of idf.py")


@pytest.fixture
def qemu(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The stand-in as an executable; its report is `report.json` beside it."""
    script = Path(__file__).with_name("fake_qemu.py")
    program = tmp_path / "qemu-system-xtensa"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}" "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("FAKE_QEMU_REPORT", str(tmp_path / "report.json"))
    monkeypatch.setenv("FAKE_QEMU_BUNDLE", str(folder))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    return program


def report(qemu: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(qemu.with_name("report.json").read_text())
    return found


def test_the_head_in_an_emulator_and_the_rest_elsewhere(
    invoke: Invoke, stranger_bundle: Bundle, folder: Path, build: Path, qemu: Path
) -> None:
    chain = ("--head", f"qemu:{build}", "--qemu-bin", qemu, "--tail", "host")
    for transport in ("udp", "tcp"):
        result = invoke(main, "run", folder, "--count", 2, "--transport", transport, *chain)
        assert result.exit_code == 0, result.output
        assert "all 2 results equal the uncut model's, byte for byte" in result.output
        assert f"stage 0: an emulated board ({build})" in result.output
        rows = {line[:20].strip(): line.split()[-1] for line in result.output.splitlines()}
        assert rows["invoke (head)"] == "emulated"
        assert rows["invoke (tail)"] == "measured"
    found = report(qemu)
    assert found["stage"] == 0
    assert found["bundle"] == stranger_bundle.manifest.id
    assert found["flash_bytes"] == 8 << 20
    assert found["flash_mode"] == 2  # DIO, although the bootloader was built for QIO.
    assert found["bootloader_hash_holds"]
    assert found["application"] == "\xe9APP"
    assert found["efuse_bytes"] == 1024
    assert found["mac"].startswith("0200")
    assert found["mac"] != "020000000000"
    given = found["options"]
    assert given["-M"] == ["esp32s3"]
    assert given["-m"] == ["8M"]
    assert "driver=ssi_psram,property=is_octal,value=true" in given["-global"]
    assert "driver=timer.esp32s3.timg,property=wdt_disable,value=true" in given["-global"]
    assert "driver=nvram.esp32s3.efuse,property=drive,value=efuse" in given["-global"]
    assert given["-nic"][0].startswith("user,model=open_eth,hostfwd=udp:127.0.0.1:")
    assert given["-nic"][0].count("-:4000") == 2
    assert given["-serial"] == ["chardev:console"]
    assert given["-display"] == given["-monitor"] == ["none"]


SWEEP = """\
version: 1
name: emulated
use: emulated
boards: {{emulated: {{head: "qemu:{build}", tail: host}}}}
models: [{{name: stranger, bundle: "{bundle}"}}]
transports: [udp]
inputs: {{images: selftest, count: 1}}
method: {{runs: 1, run_seconds: 0, run_inferences: 2, warm_up_inferences: 0}}
"""


def test_a_sweep_with_an_emulated_board(
    invoke: Invoke, folder: Path, build: Path, qemu: Path, tmp_path: Path
) -> None:
    (tmp_path / "sweep.yaml").write_text(SWEEP.format(build=build, bundle=folder))
    out = tmp_path / "out"
    done = invoke(main, "bench", tmp_path / "sweep.yaml", "--output", out, "--qemu-bin", qemu)
    assert done.exit_code == 0, done.output
    found = store.read(out).rows.to_pylist()
    assert [row["provenance"] for row in found] == ["emulated and measured"] * 2
    assert all(row["exact"] for row in found)


def test_the_variable_names_the_emulator_and_leaves_virtual_boards_alone(
    invoke: Invoke, folder: Path, build: Path, qemu: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINYSPLIT_QEMU", str(qemu))
    for head in ("board", f"qemu:{build}"):
        chain = ("--transport", "udp", "--head", head, "--tail", "host")
        result = invoke(main, "run", folder, "--count", 1, *chain)
        assert result.exit_code == 0, result.output
    assert report(qemu)["stage"] == 0
    for command in ("run", "board", "bench"):
        assert "TINYSPLIT_QEMU" in invoke(main, command, "--help").stdout


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_every_stage_in_an_emulator(
    stranger_bundle: Bundle, folder: Path, build: Path, qemu: Path, transport: str
) -> None:
    kinds = {stage: Emulated(build, qemu) for stage in range(3)}
    with Testbed(stranger_bundle, folder, Options(transport=transport, boards=kinds)) as testbed:
        golden = stranger_bundle.selftest()
        found = testbed.infer([golden["input_0"][0]])
        assert found.outputs[0].tobytes() == golden["output_0"][0].tobytes()
        assert [node.provenance for node in testbed.nodes] == ["emulated"] * 3
        assert len(testbed.stats()) == 3


def emulated(
    folder: Path, build: Path, qemu: Path, stage: int = 2, flash: Path | None = None
) -> EmulatedBoard:
    listen = Address("udp", "127.0.0.1", free_port())
    return EmulatedBoard(
        "board", folder, stage, build, qemu=qemu, listen=listen, following=None, flash=flash
    )  # fmt: skip


def test_the_emulator_ends_with_its_board(folder: Path, build: Path, qemu: Path) -> None:
    with emulated(folder, build, qemu) as board:
        board.wait_ready(60)
        assert board.ask("info")["kind"] == "emulated"
        first = report(qemu)["pid"]
    with emulated(folder, build, qemu) as board:
        board.wait_ready(60)
        second = report(qemu)["pid"]
        os.kill(board.pid, signal.SIGTERM)
        with pytest.raises(BoardError, match="ended"):
            board.ask("info")
    for pid in (first, second):
        assert_ended(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux ends it")
def test_the_emulator_ends_with_a_board_that_is_killed(
    folder: Path, build: Path, qemu: Path, tmp_path: Path
) -> None:
    for _ in range(2):  # Its flash is free again.
        with emulated(folder, build, qemu, 2, tmp_path / "flash.bin") as board:
            board.wait_ready(60)
            pid = report(qemu)["pid"]
            board.kill()
            assert_ended(pid)


def assert_ended(pid: int) -> None:
    for _ in range(50):
        if not Path(f"/proc/{pid}").exists():
            return
        time.sleep(0.1)
    pytest.fail("an emulator outlived its board")


def test_a_board_that_hangs_while_it_starts_is_ended_too(
    folder: Path, build: Path, qemu: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_QEMU_HANGS", "1")
    with emulated(folder, build, qemu) as board:
        with pytest.raises(BoardError, match="does not answer"):
            board.wait_ready(8)
        pid = report(qemu)["pid"]
        began = time.monotonic()
    assert time.monotonic() - began < 8
    assert_ended(pid)


def test_an_emulator_that_dies_is_named(folder: Path, build: Path, qemu: Path) -> None:
    with emulated(folder, build, qemu) as board:
        board.wait_ready(60)
        os.kill(report(qemu)["pid"], signal.SIGKILL)
        with pytest.raises(BoardError, match="board ended: the emulator ended: killed by SIGKILL"):
            board.ask("info")


def test_an_emulator_that_does_not_start_says_why(
    folder: Path, build: Path, qemu: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_QEMU_DIES", "-drive: Could not open 'x'")
    with (
        emulated(folder, build, qemu) as board,
        pytest.raises(BoardError, match=r"the emulator ended: .*Could not open 'x'"),
    ):
        board.wait_ready(60)


def test_a_flash_that_is_kept(
    stranger_bundle: Bundle, folder: Path, build: Path, qemu: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "flash.bin"
    with emulated(folder, build, qemu, 2, kept) as board:
        assert board.wait_ready(60)["stage"] == 2
        assert report(qemu)["bundle"] == stranger_bundle.manifest.id
    with kept.open("r+b") as file:  # What the board has written meanwhile.
        file.seek(0x9000)
        file.write(b"a setting")
    before = kept.read_bytes()
    # Stage 0 is not what it holds, and is not written.
    with emulated(folder, build, qemu, 0, kept) as board:
        ready = board.wait_ready(60)
        assert ready["stage"] == 2
        assert ready["bundle"] == stranger_bundle.manifest.id
        assert report(qemu)["options"]["-drive"][0].startswith(f"file={kept},if=mtd")
    assert kept.read_bytes() == before


def test_its_settings_are_in_its_flash(
    folder: Path, build: Path, qemu: Path, invoke: Invoke, tmp_path: Path
) -> None:
    kept, login = tmp_path / "flash.bin", tmp_path / "login"
    login.write_text("user=attic\npassword=of no use\n")
    login.chmod(0o600)
    options = ["--qemu", build, "--qemu-bin", qemu, "--stage", 0, "--flash", kept]
    options += ["--name", "attic", "--mqtt", "mqtt://localhost:9", "--mqtt-login", login]
    result = invoke(main, "board", folder, *options)
    assert (result.exit_code, kept.exists()) == (2, False)
    assert "stage 0 of 3 needs the address of the stage after it: --next" in result.stderr
    result = invoke(main, "board", folder, *options, "--next", "udp://127.0.0.1:5000")
    assert result.exit_code == 0, result.output
    assert read(kept.read_bytes()[0x9000 : 0x9000 + 0x6000], nvs.NAMESPACE) == {
        "name": "attic",
        "listen": "udp://0.0.0.0:4000",
        "next": "udp://10.0.2.2:5000",
        "mqtt_url": "mqtt://10.0.2.2:9",
        "mqtt_user": "attic",
        "mqtt_password": "of no use",
        "codec": 0,
        "mtu": 0,
        "timeout_ms": 10_000,
    }


def test_a_flash_that_another_board_runs_on(
    folder: Path, build: Path, qemu: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "flash.bin"
    with emulated(folder, build, qemu, 2, kept) as board:
        board.wait_ready(60)
        with (
            emulated(folder, build, qemu, 2, kept) as other,
            pytest.raises(BoardError, match="is the flash of a board that runs"),
        ):
            other.wait_ready(60)
        assert board.ask("info")["stage"] == 2
    with emulated(folder, build, qemu, 2, kept) as board:
        board.wait_ready(60)


def test_a_flash_of_something_else(
    folder: Path, build: Path, qemu: Path, invoke: Invoke, tmp_path: Path
) -> None:
    other = tmp_path / "flash.bin"
    other.write_bytes(bytes(100))
    options = ("--qemu", build, "--qemu-bin", qemu, "--stage", 0, "--flash", other)
    result = invoke(main, "board", folder, *options)
    assert result.exit_code == 1
    assert "has 100 bytes, the build's flash 8,388,608" in result.stderr
    assert other.read_bytes() == bytes(100)


def test_no_emulator(
    invoke: Invoke, folder: Path, build: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = invoke(main, "board", folder, "--qemu", build, "--stage", 0)
    assert result.exit_code == 1
    assert "idf_tools.py install qemu-xtensa" in result.stderr
    assert result.stderr.count("\n") == 1
    with pytest.raises(EmulatorError, match="there is no emulator /nowhere/qemu"):
        find_emulator(Path("/nowhere/qemu"))


def test_an_emulator_in_this_folder(qemu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(qemu.parent)
    assert find_emulator(Path("./qemu-system-xtensa")) == str(qemu)


def test_an_emulator_of_something_else(qemu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_QEMU_MACHINES", "sim   sim machine (dc232b)\nesp32   Espressif\n")
    with pytest.raises(EmulatorError, match="has no machine esp32s3"):
        find_emulator(qemu)


@pytest.mark.skipif(shutil.which("qemu-system-xtensa") is None, reason="not installed")
def test_debians_emulator_is_not_taken_for_espressifs() -> None:
    real = shutil.which("qemu-system-xtensa")
    listed = subprocess.run([str(real), "-machine", "help"], capture_output=True, text=True).stdout
    if "esp32s3" in listed:
        pytest.skip("this is Espressif's")
    with pytest.raises(EmulatorError, match="has no machine esp32s3"):
        find_emulator(None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"extra_esptool_args": {"chip": "esp32c3"}}, "a build for esp32c3"),
        ({"flash_settings": {"flash_size": "32MB"}}, "has 2MB, 4MB, 8MB, 16MB of flash, not 32MB"),
        ({"flash_settings": {}}, "not what an ESP-IDF build writes"),
        ({"flash_files": {"0x0": "bootloader/gone.bin"}}, "gone.bin is missing: finish the build"),
        ({"ETH_USE_OPENETH": False}, "build the environment esp32s3-qemu"),
        ({"partitions": ()}, "partition table is empty or damaged"),
        ({"partitions": PARTITIONS[:3]}, r"has no model_0 \(it has: nvs, otadata, slot_state\)"),
        (
            {"partitions": (*PARTITIONS[:4], ("model_0", 1, 0x41, 0x3E0000, 0x1000))},
            r"the stage's image has [\d,]+ bytes, the slot model_0 4,096",
        ),
    ],
)
def test_builds_that_will_not_do(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    folder = make_build(tmp_path / "build", **changes)
    with pytest.raises(BuildError, match=message) as refused:
        flash.write_flash(flash.read_build(folder), bytes(5000), {}, tmp_path / "flash.bin")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "flash.bin").exists()


def test_a_folder_that_is_no_build(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="is no build of the firmware"):
        flash.read_build(tmp_path)
    (tmp_path / "flasher_args.json").write_text("{")
    with pytest.raises(BuildError, match="is no JSON"):
        flash.read_build(tmp_path)


def test_files_that_overlap_are_refused(tmp_path: Path) -> None:
    partitions = (*PARTITIONS[:4], ("model_0", 1, 0x41, 0x8000, 0x200000), PARTITIONS[5])
    folder = make_build(tmp_path / "build", partitions=partitions)
    with pytest.raises(BuildError, match=r"partition-table.bin and stage.tsim overlap at 0x8000"):
        flash.write_flash(flash.read_build(folder), bytes(5000), {}, tmp_path / "flash.bin")


def test_psram_as_it_was_built(tmp_path: Path) -> None:
    for number, (config, psram) in enumerate(
        [
            ({"SPIRAM": False}, "none"),
            ({"SPIRAM_MODE_OCT": False}, "quad"),
            ({}, "octal"),
        ]
    ):
        assert flash.read_build(make_build(tmp_path / str(number), **config)).psram == psram


def test_what_the_guest_calls_this_machine() -> None:
    assert str(seen_by_guest(Address("udp", "127.0.0.1", 5))) == "udp://10.0.2.2:5"
    assert str(seen_by_guest(Address("udp", "192.168.1.9", 5))) == "udp://192.168.1.9:5"
    with pytest.raises(BoardError, match="IPv4 only"):
        seen_by_guest(Address("udp", "::1", 5))


def test_nobody_at_the_terminal_does_not_stop_the_board(tmp_path: Path) -> None:
    own, other = os.openpty()
    tty.setraw(other)
    ours, theirs = wire()
    emulator = Emulator(subprocess.Popen([sys.executable, "-c", ""]), tmp_path / "errors")
    emulator.errors.touch()
    board = ConsoleBoard("board", ours, emulator)
    lost: list[EmulatorError] = []

    def serve() -> None:
        try:
            board.pass_on(own, own)
        except EmulatorError as error:
            lost.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    theirs.settimeout(10)
    line = b'{"event":"inference"}' + b" " * 1000 + b"\n"
    for _ in range(20 * MAX_UNREAD_BYTES // len(line)):
        theirs.sendall(line)  # Nobody reads; the board goes on.
    theirs.close()
    thread.join(10)
    assert lost
    assert not thread.is_alive()
    os.close(own)
    os.close(other)
    board.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--virtual", "--qemu", "."), "either --virtual or --qemu"),
        (("--qemu-bin", "."), "--qemu-bin goes with --qemu"),
        (("--qemu", ".", "--public-key", __file__), "go with virtual boards"),
        (("--qemu", ".", "--mqtt", "mqtt://127.0.0.1"), "--mqtt needs --name"),
        (("--qemu", ".", "--listen", "udp://0.0.0.0:1"), "listens on udp or tcp at 127.0.0.1"),
    ],
)
def test_wrong_usage(
    invoke: Invoke, folder: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    present = {name: tmp_path / name for name in ("x", "y")}
    for file in present.values():
        file.touch()
    given = [present.get(argument, argument) for argument in arguments]
    result = invoke(main, "board", folder, "--stage", 2, *given)
    assert result.exit_code == 2
    assert message in result.stderr
