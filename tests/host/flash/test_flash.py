"""`tinysplit flash` against a boot loader on a socket: what the flash holds then, and errors."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import shlex
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import serial
from click.testing import CliRunner, Result
from serial.tools import list_ports
from serial.tools.list_ports_common import ListPortInfo

from host.boards.emulated import flash as emulated
from host.boards.virtual.holding import tried
from host.boards.virtual.settings import SECTOR_BYTES
from host.boards.virtual.slots import Rules, SlotFlash, Slots
from host.cli import main
from host.flash import fit, nvs
from host.flash.board import Found
from host.flash.build import read_build
from host.flash.fit import INTERNAL_BYTES, UnfitError, check_board
from host.packing import keys
from host.packing.pack import pack, write
from partitioner import image, kernels
from partitioner.bundle import Bundle
from tests.host.flash.builds import idf_build
from tests.host.flash.fake_board import ESP32C3, MAC, FakeBoard
from tests.host.flash.nvs_reader import read

Invoke = Callable[..., Result]
NVS, STATE, SLOT_0, SLOT_1 = 0x9000, 0x12000, 0x3E0000, 0x5E0000
SLOT_BYTES = 0x200000
SSID, PASSWORD = "a network", "correct horse battery"


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return idf_build(tmp_path_factory.mktemp("a build") / "of idf.py")


@pytest.fixture
def key(tmp_path: Path) -> Path:
    keys.new(tmp_path / "key")
    return tmp_path / "key"


@pytest.fixture
def board() -> Iterator[FakeBoard]:
    with FakeBoard() as made:
        yield made


@pytest.fixture
def flash(invoke: Invoke, build: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """`tinysplit flash` with the build."""
    monkeypatch.setenv("TINYSPLIT_WIFI_PASSWORD", PASSWORD)

    def call(*arguments: object) -> Result:
        result = invoke(main, "flash", "--build", build, *arguments)
        assert PASSWORD not in result.output
        return result

    return call


def slots(board: FakeBoard, file: Path, key: keys.PublicKey | None) -> Slots:
    """A virtual board's slot manager on what the flash holds."""
    file.write_bytes(
        b"\xff" * (2 * SECTOR_BYTES)
        + board.flash[STATE : STATE + 2 * SECTOR_BYTES]
        + board.flash[SLOT_0 : SLOT_0 + 2 * SLOT_BYTES]
    )
    rules = Rules(key, allow_unsigned=key is None)
    return Slots(SlotFlash(file), rules, tried(kernels.exact()))


def one_line(result: Result, message: str, code: int = 1) -> None:
    assert result.exit_code == code, result.output
    assert re.search(message, result.stderr), result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


@pytest.mark.parametrize("how", [(), ("--no-stub",), ("--erase",), ("--erase", "--no-stub")])
def test_the_flash_is_what_an_emulated_board_boots(
    flash: Invoke,
    folder: Path,
    stranger_bundle: Bundle,
    build: Path,
    board: FakeBoard,
    tmp_path: Path,
    how: tuple[str, ...],
) -> None:
    result = flash(folder, "--role", "head", "--port", board.url, "--version", 7, *how)
    assert result.exit_code == 0, result.output
    packed = image.encode(image.of_stage(stranger_bundle, 0, version=7, chip=9), None)
    emulated.write_flash(read_build(build), packed, {"name": "head"}, tmp_path / "flash.bin")
    assert board.flash == (tmp_path / "flash.bin").read_bytes()
    assert read(bytes(board.flash[NVS : NVS + 0x6000]), nvs.NAMESPACE) == {"name": "head"}
    assert MAC in result.output
    assert "stage 0 of 3" in result.output
    assert "verified by the chip" in result.output
    assert ("--erase" in how) == ((0, 8 << 20) in board.erased)
    assert board.stub == ("--no-stub" not in how)


def test_its_slots_boot_a_virtual_board(
    flash: Invoke, folder: Path, board: FakeBoard, key: Path, tmp_path: Path
) -> None:
    result = flash(folder, "--role", "tail", "--port", board.url, "--key", key, "--version", 9)
    assert result.exit_code == 0, result.output
    public = keys.load(key).public
    found = slots(board, tmp_path / "flash", public)
    running = found.boot()
    assert running is not None
    assert (running.stage, running.version) == (2, 9)
    state = found.state()
    assert (state.active, state.floor, state.slots[0].state) == (0, 9, "confirmed")
    has = read(bytes(board.flash[NVS : NVS + 0x6000]), nvs.NAMESPACE)
    assert has[nvs.KEY_ENTRY] == public.point
    assert public.fingerprint in result.output


def test_what_the_slots_held_before_does_not_come_back(
    flash: Invoke,
    folder: Path,
    stranger_bundle: Bundle,
    board: FakeBoard,
    key: Path,
    tmp_path: Path,
) -> None:
    pair = keys.load(key)
    (old,) = pack(stranger_bundle, [2], pair, version=1000, chip=9)
    board.flash[SLOT_1 : SLOT_1 + len(old.data)] = old.data
    before = slots(board, tmp_path / "before", pair.public)
    before.boot()
    assert before.state().slots[1].state == "confirmed"
    state = (tmp_path / "before").read_bytes()[2 * SECTOR_BYTES : 4 * SECTOR_BYTES]
    board.flash[STATE : STATE + len(state)] = state
    result = flash(folder, "--stage", 1, "--port", board.url, "--key", key, "--version", 5)
    assert result.exit_code == 0, result.output
    running = slots(board, tmp_path / "after", pair.public).boot()
    assert running is not None
    assert (running.stage, running.version) == (1, 5)


def test_without_a_bundle_the_slots_stay(flash: Invoke, board: FakeBoard) -> None:
    board.flash[STATE : STATE + 4] = b"tsSR"
    board.flash[SLOT_0 : SLOT_0 + 4] = b"tsIM"
    result = flash("--port", board.url)
    assert result.exit_code == 0, result.output
    assert board.flash[STATE : STATE + 4] == b"tsSR"
    assert board.flash[SLOT_0 : SLOT_0 + 4] == b"tsIM"


def test_kept_settings_stay(flash: Invoke, board: FakeBoard, folder: Path) -> None:
    before = bytes(range(256)) * 96
    board.flash[NVS : NVS + 0x6000] = before
    result = flash(folder, "--role", "head", "--port", board.url, "--keep-settings")
    assert result.exit_code == 0, result.output
    assert board.flash[NVS : NVS + 0x6000] == before


def test_a_bridge_and_its_settings(flash: Invoke, board: FakeBoard) -> None:
    chosen = (
        "--wifi-ssid",
        SSID,
        "--set",
        "channel=11",
        "--set",
        "listen=espnow://00:00:00:00:00:00",
    )
    result = flash("--role", "bridge", "--node", "b1", "--port", board.url, *chosen)
    assert result.exit_code == 0, result.output
    assert read(bytes(board.flash[NVS : NVS + 0x6000]), nvs.NAMESPACE) == {
        "name": "b1",
        "role": 1,
        "wifi_ssid": SSID,
        "wifi_password": PASSWORD,
        "channel": 11,
        "listen": "espnow://00:00:00:00:00:00",
    }
    assert "wifi_password: set" in result.output


def test_as_json(flash: Invoke, board: FakeBoard, folder: Path) -> None:
    chosen = ("--wifi-ssid", SSID, "--version", 3, "--json")
    result = flash(folder, "--role", "relay", "--port", board.url, *chosen)
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert said["board"] == {
        "port": board.url,
        "chip": "esp32s3",
        "mac": MAC,
        "flash_bytes": 8 << 20,
        "psram_bytes": 8 << 20,
        "psram": "octal",
    }
    assert (said["image"]["stage"], said["image"]["version"]) == (1, 3)
    assert said["settings"] == {"wifi_ssid": SSID, "name": "relay", "wifi_password": True}
    assert [p["offset"] for p in said["pieces"]][-1] == 0


def test_images_of_pack(
    flash: Invoke,
    stranger_bundle: Bundle,
    board: FakeBoard,
    key: Path,
    tmp_path: Path,
) -> None:
    made = pack(stranger_bundle, range(3), keys.load(key), version=4)
    write(made, tmp_path / "images")
    public = ("--public-key", tmp_path / "key.pub", "--port", board.url)
    for which in (("images", "--role", "tail"), ("images/stage2.tsim",)):
        board.flash[SLOT_0 : SLOT_0 + SLOT_BYTES] = b"\xff" * SLOT_BYTES
        result = flash(tmp_path / which[0], *which[1:], *public)
        assert result.exit_code == 0, result.output
        assert board.flash[SLOT_0 : SLOT_0 + len(made[2].data)] == made[2].data


# The plan


def test_the_printed_command_lines_do_the_same(
    flash: Invoke, folder: Path, board: FakeBoard, tmp_path: Path
) -> None:
    import esptool

    chosen = (folder, "--role", "head", "--wifi-ssid", SSID, "--version", 7)
    planned = flash(*chosen, "--port", board.url, "--dry-run", "--save", tmp_path / "made")
    assert planned.exit_code == 0, planned.output
    assert board.commands == []
    assert stat.S_IMODE((tmp_path / "made/nvs.bin").stat().st_mode) == 0o600
    lines = [shlex.split(line) for line in planned.stdout.splitlines()]
    assert [line[0] for line in lines] == ["esptool"] * 5
    said = io.StringIO()
    with redirect_stdout(said):
        for line in lines:
            esptool.main(line[1:])
    with FakeBoard() as other:
        assert flash(*chosen, "--port", other.url).exit_code == 0
        assert board.flash == other.flash


def test_the_plan_touches_nothing_and_says_no_secret(
    flash: Invoke, folder: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(list_ports, "comports", list)
    chosen = (folder, "--role", "head", "--key", key, "--wifi-ssid", SSID, "--dry-run")
    text = flash(*chosen)
    assert text.exit_code == 0, text.output
    assert "# made by tinysplit, to a folder with --save DIR: nvs.bin, stage.tsim" in text.stdout
    first, *_, last = text.stdout.splitlines()[1:]
    assert first.endswith("--port PORT --baud 460800 --after no-reset erase-region 0x0 0x1000")
    assert last.endswith("bootloader/bootloader.bin'")
    assert "--after" not in last
    data = json.loads(flash(*chosen, "--json").stdout)
    assert [line.split()[0] for line in data["commands"]] == ["esptool"] * 5
    assert data["dry_run"]
    erased = flash(*chosen, "--erase", "--no-stub").stdout.splitlines()[1:]
    assert erased[0].endswith("--no-stub --after no-reset erase-flash")
    assert len(erased) == 3


# Boards that will not do


def test_another_chip(flash: Invoke) -> None:
    with FakeBoard(chip=ESP32C3) as board:
        one_line(flash("--port", board.url), "is an ESP32-C3, and the build is for esp32s3")
        assert board.erased == []


def test_a_flash_that_is_too_small(flash: Invoke) -> None:
    with FakeBoard(flash_bytes=4 << 20) as board:
        one_line(flash("--port", board.url), "has 4 MB of flash, and the build needs 8 MB")
        assert board.erased == []


def test_no_psram(flash: Invoke, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "INTERNAL_BYTES", 1000)
    with FakeBoard(psram=0) as board:
        result = flash(folder, "--role", "head", "--port", board.url)
        one_line(result, r"an arena of about .* \(modelled\), more than .* the board has no PSRAM")
        assert board.erased == []
    with FakeBoard(psram=2) as board:
        result = flash(folder, "--role", "head", "--port", board.url)
        one_line(result, "the board's PSRAM is quad, the build's octal")


def test_which_psram_a_stage_needs(tmp_path: Path) -> None:
    octal = read_build(idf_build(tmp_path / "a"))
    without = read_build(idf_build(tmp_path / "b", SPIRAM=False))

    def found(psram: str | None) -> Found:
        return Found("esp32s3", MAC, 8 << 20, 0 if psram == "none" else 8 << 20, psram)

    check_board(octal, found("none"), None)
    check_board(octal, found("none"), INTERNAL_BYTES)
    check_board(octal, found("octal"), INTERNAL_BYTES + 1)
    check_board(octal, found(None), INTERNAL_BYTES + 1)
    with pytest.raises(UnfitError, match="the board has no PSRAM"):
        check_board(octal, found("none"), INTERNAL_BYTES + 1)
    with pytest.raises(UnfitError, match="the build uses no PSRAM"):
        check_board(without, found("octal"), INTERNAL_BYTES + 1)


@pytest.mark.parametrize("flags", [1, 4])
def test_secured_chips_are_left_alone(flash: Invoke, flags: int) -> None:
    with FakeBoard(flags=flags) as board:
        board._registers[0x60007038] = 1 << 20 if flags == 1 else 0  # eFuse SECURE_BOOT_EN
        one_line(flash("--port", board.url), "has secure boot or flash encryption enabled")
        assert board.erased == []


def test_nobody_answers(flash: Invoke) -> None:
    with FakeBoard(deaf=True) as board:
        result = flash("--port", board.url)
        one_line(result, "no boot loader answers on socket://.*: hold BOOT, press RESET")


def test_a_flash_chip_that_is_not_there(flash: Invoke) -> None:
    with FakeBoard(flash_bytes=1 << 8) as board:
        one_line(flash("--port", board.url), "does not say its size .* is it connected")


# Failures in mid-write

NOTHING_BOOTS = r"holds nothing that boots now; run the same command again, .* hold BOOT"


def test_a_bit_that_does_not_stick(flash: Invoke, board: FakeBoard, folder: Path) -> None:
    board.sticky = SLOT_0 + 5000
    result = flash(folder, "--role", "head", "--port", board.url)
    one_line(
        result, rf"does not hold what was written \(stage\.tsim, by .* MD5\): .*{NOTHING_BOOTS}"
    )
    assert board.flash[:SECTOR_BYTES] == b"\xff" * SECTOR_BYTES


def test_a_cable_that_is_unplugged(flash: Invoke, board: FakeBoard, folder: Path) -> None:
    board.flash[0] = 0xE9
    board.unplug_at = SLOT_0 + 5000
    result = flash(folder, "--role", "head", "--port", board.url)
    one_line(
        result, rf"is gone \(unplugged, or reset\) while writing stage\.tsim: .*{NOTHING_BOOTS}"
    )
    assert board.flash[:SECTOR_BYTES] == b"\xff" * SECTOR_BYTES


def test_a_board_that_falls_silent(
    flash: Invoke, board: FakeBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("esptool.loader.WRITE_BLOCK_ATTEMPTS", 1)
    board.silent_at = 0x20000
    one_line(
        flash("--port", board.url),
        rf"the board stopped answering while writing tinysplit\.bin: .*{NOTHING_BOOTS}",
    )


def test_a_command_that_is_interrupted(flash: Invoke, board: FakeBoard) -> None:
    import signal

    def stop(at: int) -> None:
        if at >= 0x20000:
            os.kill(os.getpid(), signal.SIGINT)

    board.on_program = stop
    result = flash("--port", board.url)
    assert result.exit_code == 130
    assert re.search(rf"interrupted while writing .*{NOTHING_BOOTS}", result.stderr)
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("at", [0x8000, NVS, 0x20000, SLOT_0, 0])
def test_wherever_it_ends_nothing_boots_and_the_next_one_mends_it(
    flash: Invoke, folder: Path, at: int
) -> None:
    """The old bootloader is gone before anything else changes; the new one comes last."""
    with FakeBoard() as board, FakeBoard() as good:
        chosen = (folder, "--role", "head", "--version", 7, "--port")
        assert flash(*chosen, good.url).exit_code == 0
        board.flash[0] = 0xE9
        board.unplug_at = at
        assert flash(*chosen, board.url).exit_code == 1
        assert board.flash[0] == 0xFF
        with FakeBoard() as again:
            again.flash[:] = board.flash
            assert flash(*chosen, again.url).exit_code == 0
            assert again.flash == good.flash


# Ports


def test_ports_that_cannot_be_had(flash: Invoke) -> None:
    one_line(flash("--port", "/dev/ttyNONE"), "cannot use /dev/ttyNONE: there is no such port")
    one_line(flash("--port", "/dev/null"), "cannot use /dev/null: this is no serial port")
    with FakeBoard() as gone:
        url = gone.url
    one_line(flash("--port", url), "nobody listens there")
    own, other = pty.openpty()
    try:
        with serial.Serial(os.ttyname(other), exclusive=True):
            result = flash("--port", os.ttyname(other))
        one_line(result, "another program uses the port; close it")
    finally:
        os.close(own)
        os.close(other)


def test_the_only_board(flash: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    def plugged(*ports: str) -> None:
        found = []
        for port in ports:
            info = ListPortInfo(port)
            info.vid, info.pid = 0x303A, 0x1001
            found.append(info)
        monkeypatch.setattr(list_ports, "comports", lambda: found)

    plugged()
    one_line(flash(), "no board found .* plug it in, or name it by --port")
    plugged("/dev/ttyACM0", "/dev/ttyACM1")
    one_line(flash(), r"several boards: .*/dev/ttyACM0 \(Espressif USB\), /dev/ttyACM1")
    with FakeBoard() as board:
        plugged(board.url)
        assert flash().exit_code == 0
        assert board.flash[0] == 0xE9


# Images that will not do


def test_images_a_board_would_refuse(
    flash: Invoke,
    invoke: Invoke,
    folder: Path,
    stranger_bundle: Bundle,
    key: Path,
    tmp_path: Path,
) -> None:
    def packed(name: str, pair: keys.PrivateKey | None, **how: Any) -> Path:
        write(pack(stranger_bundle, [0], pair, version=1, **how), tmp_path / name)
        return tmp_path / name / "stage0.tsim"

    one_line(
        flash(packed("c3", None, chip=5), "--dry-run"), "the image is for esp32c3, not for esp32s3"
    )
    signed = packed("signed", keys.load(key))
    one_line(
        flash(signed, "--dry-run"), "signed, and there is no key to check it; give --public-key"
    )
    keys.new(tmp_path / "other")
    result = flash(signed, "--dry-run", "--public-key", tmp_path / "other.pub")
    one_line(result, "not signed with this key")
    unsigned = packed("unsigned", None)
    result = flash(unsigned, "--dry-run", "--public-key", tmp_path / "key.pub")
    one_line(result, "the image is not signed")
    one_line(flash(folder, "--stage", 3, "--dry-run"), "there are stages 0 to 2, not 3", 2)
    one_line(flash(tmp_path / "unsigned", "--role", "tail", "--dry-run"), "no image of stage 2")
    one_line(flash(tmp_path / "none", "--stage", 0, "--dry-run"), "none' does not exist", 2)
    strict = idf_build(tmp_path / "strict", TINYSPLIT_ALLOW_UNSIGNED=False)
    chosen = ("--build", strict, "--role", "head", "--dry-run")
    one_line(invoke(main, "flash", folder, *chosen), "takes signed images only; sign with --key")
    assert invoke(main, "flash", folder, *chosen, "--key", key).exit_code == 0
    app = tmp_path / "app.tsim"
    firmware = image.of_firmware(b"\xe9" + bytes(99), version=1)
    app.write_bytes(image.encode(firmware, None))
    one_line(flash(app, "--dry-run"), "the image is a firmware, not a stage")


def test_an_image_longer_than_the_slot(invoke: Invoke, folder: Path, tmp_path: Path) -> None:
    from tests.host.flash.builds import partitions

    rows = tuple(
        (label, kind, sub, at, 0x1000 if label.startswith("model") else size)
        for label, kind, sub, at, size in partitions()
    )
    small = idf_build(tmp_path / "small", partitions=rows)
    result = invoke(main, "flash", folder, "--role", "head", "--build", small, "--dry-run")
    one_line(result, r"the stage's image has [\d,]+ bytes, the slot model_0 4,096")


# Builds that are found, or not


def test_where_builds_are_looked_for(invoke: Invoke, build: Path) -> None:
    one_line(
        invoke(main, "flash", "--dry-run"), r"no build of esp32s3 here .* `idf.py -C \. build`"
    )
    shutil.copytree(build, "build")
    assert invoke(main, "flash", "--dry-run").exit_code == 0
    shutil.copytree(build, ".pio/build/esp32s3")
    one_line(invoke(main, "flash", "--dry-run"), "--build .pio/build/esp32s3 or --build build$")
    shutil.copytree(build, "build/nopsram")
    assert invoke(main, "flash", "--dry-run", "--env", "esp32s3-nopsram").exit_code == 0


# Secrets


def test_the_wifi_password_has_to_come_from_somewhere(
    flash: Invoke, board: FakeBoard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TINYSPLIT_WIFI_PASSWORD")
    chosen = ("--wifi-ssid", SSID, "--port", board.url)
    one_line(flash(*chosen), "password is missing: set TINYSPLIT_WIFI_PASSWORD")
    file = tmp_path / "secrets"
    file.write_text(f"# mine\n\nwifi_password={PASSWORD}\nespnow_pmk={'a' * 32}\n")
    file.chmod(0o644)
    one_line(flash(*chosen, "--secrets", file), "can be read by others; .* chmod 600")
    file.chmod(0o600)
    result = flash(*chosen, "--secrets", file)
    assert result.exit_code == 0, result.output
    has = read(bytes(board.flash[NVS : NVS + 0x6000]), nvs.NAMESPACE)
    assert (has["wifi_password"], has["espnow_pmk"]) == (PASSWORD, "a" * 32)
    assert "a" * 32 not in result.output
    one_line(flash(*chosen, "--secrets", tmp_path / "none"), "none' does not exist", 2)
    file.write_text(f"{PASSWORD}\n")
    one_line(flash(*chosen, "--secrets", file), "line 1: not NAME=VALUE")
    file.write_bytes(b"\xff\xfe")
    one_line(flash(*chosen, "--secrets", file), "no text in UTF-8")


def test_a_bad_secret_is_not_repeated(
    flash: Invoke, board: FakeBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    for setting, variable, value in (
        ("wifi_ssid=x", "WIFI_PASSWORD", "hunter2"),
        ("wifi_ssid=x", "WIFI_PASSWORD", "hunter2" * 20),
        ("listen=espnow://00:00:00:00:00:00", "ESPNOW_PMK", "hunter2"),
        ("listen=ble://x", "BLE_PASSKEY", "hunter2"),
        ("mqtt_url=mqtt://x", "MQTT_PASSWORD", "hunter2" * 30),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(f"TINYSPLIT_{variable}", value)
            for more in ((), ("--verbose",)):
                result = flash("--port", board.url, "--set", setting, *more)
                assert result.exit_code == 1
                assert variable.lower() in result.stderr
                assert "hunter2" not in result.output
    assert board.commands == []


def test_a_person_is_asked(build: Path, board: FakeBoard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("host.flash.cli.interactive", lambda: True)
    arguments = ["flash", "--build", str(build), "--port", board.url, "--wifi-ssid", SSID]
    result = CliRunner().invoke(main, arguments, input=f"{PASSWORD}\n")
    assert result.exit_code == 0, result.output
    assert PASSWORD not in result.output
    has = read(bytes(board.flash[NVS : NVS + 0x6000]), nvs.NAMESPACE)
    assert has["wifi_password"] == PASSWORD


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("BUNDLE",), "which of the 3 stages"),
        (("BUNDLE", "--role", "bridge"), "a bridge runs no stage"),
        (("--role", "bridge", "--stage", "1"), "a bridge runs no stage"),
        (("--role", "head"), "a stage needs a BUNDLE"),
        (("--stage", "0"), "a stage needs a BUNDLE"),
        (("--key", "."), "--key signs a BUNDLE"),
        (("BUNDLE", "--stage", "0", "--role", "head"), "not both"),
        (("BUNDLE", "--role", "head", "--key", ".", "--public-key", "."), "leave out --public-key"),
        (("BUNDLE", "--role", "head", "--public-key", "PUBLIC"), "takes signed stages only"),
        (("--save", "x"), "--save goes with --dry-run"),
        (("--keep-settings", "--node", "x"), "--keep-settings leaves them"),
        (("--set", "wifi_password=hunter2"), "is a secret, and command lines are not"),
        (("--set", "channel"), "is not NAME=VALUE"),
        (("--set", "channel=99"), "channel"),
        (("--set", "nonsense=1"), "boards keep no setting"),
        (("--node", "a blank"), "name: "),
        (("--set", "listen=udp://1.2.3.4:5"), "a board listens on"),
        (("--role", "nobody"), "nobody"),
        (("--baud", "1"), "baud"),
    ],
)
def test_wrong_usage(
    flash: Invoke, folder: Path, key: Path, arguments: tuple[str, ...], message: str
) -> None:
    names = {"BUNDLE": folder, "PUBLIC": f"{key}.pub"}
    result = flash(*(names.get(a, a) for a in arguments))
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert "hunter2" not in result.output


def test_saved_files_do_not_replace_others(flash: Invoke, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made/mine").write_text("x")
    one_line(flash("--dry-run", "--save", tmp_path / "made"), "exists already")


NO_NEXT, NO_NETWORK = "knows no next stage: --set next=", "needs a network, and none is set: --wifi"


@pytest.mark.parametrize(
    ("options", "warnings"),
    [
        (("--role", "head"), (f"stage 0 of 3 {NO_NEXT}", f"udp {NO_NETWORK}")),
        (("--stage", "1", "--wifi-ssid", SSID), (f"stage 1 of 3 {NO_NEXT}",)),
        (("--role", "head", "--set", "next=udp://192.168.4.1:4000"), (f"udp {NO_NETWORK}",)),
        (("--role", "tail"), (f"udp {NO_NETWORK}",)),
        (("--role", "tail", "--wifi-ssid", SSID), ()),
        (("--role", "tail", "--set", "listen=ble://tail"), ()),
        (
            ("--role", "tail", "--set", "listen=ble://t", "--set", "mqtt_url=mqtt://10.0.0.1"),
            (f"MQTT {NO_NETWORK}",),
        ),
        (("--role", "head", "--keep-settings"), ()),
    ],
    ids=lambda value: " ".join(value)[:60],
)
def test_what_a_board_is_not_told_is_warned_of(
    flash: Invoke, folder: Path, options: tuple[str, ...], warnings: tuple[str, ...]
) -> None:
    result = flash(folder, "--dry-run", *options)
    assert result.exit_code == 0, result.output
    lines = result.stderr.splitlines()
    assert len(lines) == len(warnings)
    for line, warning in zip(lines, warnings, strict=True):
        assert line.startswith("tinysplit flash: warning: ")
        assert warning in line
