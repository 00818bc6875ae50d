"""The firmware's build files agree with each other, with the schema, and with ESP-IDF's Kconfig."""

from __future__ import annotations

import ast
import configparser
import csv
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from host.boards import control

ROOT = Path(__file__).resolve().parents[2]
MAIN = ROOT / "firmware" / "main"
OVERLAYS = ("sdkconfig.psram", "sdkconfig.nopsram", "sdkconfig.qemu")
RELEASES = ("defined in ESP-IDF 5.3.1", "defined in ESP-IDF 5.5")
FLASH_BYTES = 8 << 20
SECTOR = 0x1000


def partitions() -> list[dict[str, str]]:
    lines = (ROOT / "firmware" / "partitions.csv").read_text("utf-8").splitlines()
    names = ("name", "type", "subtype", "offset", "size")
    rows = [
        dict(zip(names, (f.strip() for f in line.split(",")), strict=True))
        for line in lines
        if line.strip() and not line.startswith("#")
    ]
    assert rows
    return rows


def span(row: dict[str, str]) -> tuple[int, int]:
    start = int(row["offset"], 0)
    return start, start + int(row["size"], 0)


def settings_of(path: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in path.read_text("utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        match = re.fullmatch(r'CONFIG_([A-Z0-9_]+)=(y|n|-?\d+|".*")', line)
        assert match is not None, f"{path.name}: {line}"
        assert match[1] not in found, f"{path.name}: {match[1]} twice"
        found[match[1]] = match[2]
    return found


def own_symbols() -> set[str]:
    text = (MAIN / "Kconfig.projbuild").read_text("utf-8")
    return set(re.findall(r"^\s*config (TINYSPLIT_\w+)", text, re.MULTILINE))


def sources() -> str:
    files = [p for p in MAIN.iterdir() if p.suffix in (".c", ".cpp", ".h")]
    return "\n".join(p.read_text("utf-8") for p in sorted(files))


def test_partitions_lie_one_behind_the_other_within_the_flash() -> None:
    end = 0x9000  # Behind the bootloader and the table itself, at 0x8000.
    for row in partitions():
        start, stop = span(row)
        assert start >= end, row
        assert start % SECTOR == 0, row
        assert stop % SECTOR == 0, row
        if row["type"] == "app":
            assert start % 0x10000 == 0, row
        end = stop
    assert end <= FLASH_BYTES


def test_partitions_are_those_the_firmware_looks_for() -> None:
    by_name = {row["name"]: row for row in partitions()}
    flash = (MAIN / "flash.c").read_text("utf-8")
    for macro, name in (
        ("SUBTYPE_STATE", "slot_state"),
        ("SUBTYPE_SLOT0", "model_0"),
        ("SUBTYPE_SLOT1", "model_1"),
    ):
        assert f"#define {macro} ((esp_partition_subtype_t){by_name[name]['subtype']})" in flash
    sizes = {name: span(row)[1] - span(row)[0] for name, row in by_name.items()}
    assert sizes["model_0"] == sizes["model_1"] >= 1 << 20
    assert sizes["slot_state"] >= 2 * SECTOR
    assert sizes["ota_0"] == sizes["ota_1"] >= 1_800_000
    assert sizes["otadata"] == 2 * SECTOR
    assert [by_name[n]["subtype"] for n in ("nvs", "otadata", "ota_0")] == ["nvs", "ota", "ota_0"]


def test_every_symbol_is_known_to_both_releases() -> None:
    with (Path(__file__).parent / "kconfig_names.csv").open(encoding="utf-8", newline="") as file:
        known = {row["symbol"]: row for row in csv.DictReader(file)}
    used = {name for o in OVERLAYS for name in settings_of(ROOT / o)}
    used |= set(settings_of(ROOT / "sdkconfig.defaults"))
    used |= set(re.findall(r"\bCONFIG_([A-Z][A-Z0-9_]+)", sources()))
    used.discard("NN_SKIP_NUDGE")  # ESP-NN's own.
    foreign = {name for name in used if not name.startswith("TINYSPLIT_")}
    assert foreign == set(known), "run the check of firmware/README.md and update kconfig_names.csv"
    for name in foreign:
        assert all(known[name][release] for release in RELEASES), name
    assert used - foreign <= own_symbols()


def test_overlays_add_and_never_contradict_the_defaults() -> None:
    defaults = settings_of(ROOT / "sdkconfig.defaults")
    assert defaults["IDF_TARGET"] == '"esp32s3"'
    assert defaults["PARTITION_TABLE_CUSTOM_FILENAME"] == '"firmware/partitions.csv"'
    for overlay in OVERLAYS[:2]:
        assert not set(settings_of(ROOT / overlay)) & set(defaults), overlay
    replaced = set(settings_of(ROOT / "sdkconfig.qemu")) & set(defaults)
    assert replaced == {
        "ESP_TASK_WDT_TIMEOUT_S",
        "ESP_TASK_WDT_PANIC",
        "FREERTOS_WATCHPOINT_END_OF_STACK",
    }


def test_the_emulator_never_meets_what_it_hangs_in() -> None:
    qemu = settings_of(ROOT / "sdkconfig.qemu")
    assert qemu["TINYSPLIT_WIFI"] == qemu["TINYSPLIT_TEMPERATURE"] == "n"
    assert "BT_ENABLED" not in qemu
    assert qemu["ESPTOOLPY_FLASHMODE_DIO"] == qemu["ETH_USE_OPENETH"] == "y"
    kconfig = (MAIN / "Kconfig.projbuild").read_text("utf-8")
    assert re.search(r"config TINYSPLIT_BLE\n.*\n\s+depends on BT_NIMBLE_ENABLED\n", kconfig)


def test_cmake_lists_every_source_once() -> None:
    text = (MAIN / "CMakeLists.txt").read_text("utf-8")
    listed = re.findall(r"\b([a-z_]+\.(?:c|cpp))\b", re.sub(r"#.*", "", text))
    present = sorted(p.name for p in MAIN.iterdir() if p.suffix in (".c", ".cpp"))
    assert sorted(listed) == present
    for radio in ("wifi.c", "espnow.c", "ble.c", "eth.c"):
        block = text[: text.index(radio)].rsplit("if(", 1)[1]
        assert block.startswith("CONFIG_TINYSPLIT_"), f"{radio} is in every build"


def test_what_is_fetched_can_be_put_there_by_hand() -> None:
    manifest = (MAIN / "idf_component.yml").read_text("utf-8")
    fetched = re.findall(r"^  espressif/([\w-]+):", manifest, re.MULTILINE)
    found = re.search(r"foreach\(component (.*?)\)", (MAIN / "CMakeLists.txt").read_text("utf-8"))
    assert found is not None
    assert sorted(found[1].split()) == sorted(fetched)


def test_components_are_pinned() -> None:
    manifest = (MAIN / "idf_component.yml").read_text("utf-8")
    for component in ("espressif/esp-tflite-micro", "espressif/esp-nn", "espressif/mdns"):
        assert re.search(rf'{component}:\n\s+version: "==\d+\.\d+\.\d+"', manifest), component


def test_platformio_environments_use_the_overlays() -> None:
    ini = configparser.ConfigParser()
    ini.read(ROOT / "platformio.ini", encoding="utf-8")
    assert ini["platformio"]["src_dir"] == "firmware/main"
    for env, overlay in (
        ("esp32s3", "psram"),
        ("esp32s3-nopsram", "nopsram"),
        ("esp32s3-qemu", "qemu"),
    ):
        arguments = ini[f"env:{env}"]["board_build.cmake_extra_args"]
        assert f"sdkconfig.defaults;sdkconfig.{overlay}" in arguments
        # PlatformIO writes its own file of this name, which must not be an overlay.
        assert f"sdkconfig.{env}" not in OVERLAYS
    assert re.fullmatch(r"espressif32 @ \d+\.\d+\.\d+", ini["env:esp32s3"]["platform"])
    assert "env:native" in ini


@pytest.mark.skipif(shutil.which("pio") is None, reason="PlatformIO is not installed")
def test_platformio_understands_its_file() -> None:
    done = subprocess.run(
        ["pio", "project", "config", "--lint", "--json-output"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    # It prints Python, not JSON.
    assert ast.literal_eval(done.stdout) == {"errors": [], "warnings": []}


def table() -> dict[str, str]:
    """Setting to its kind, as settings.c has them."""
    text = (MAIN / "settings.c").read_text("utf-8")
    text = text[text.index("static const struct setting table[]") :]
    text = text[: text.index("};")]
    rows = re.findall(r"(NUMBER|FLAG|CHOICE)\((\w+)|OF_TEXT\((\w+), (\w+)", text)
    return {a[1] or a[3]: a[0] or a[2] for a in rows}


def test_settings_are_those_of_the_schema() -> None:
    schema = control.schema()["$defs"]["settings"]["properties"]
    of_virtual_boards = {"stage", "air"}
    assert set(table()) == set(schema) - of_virtual_boards
    for name, kind in table().items():
        assert len(name) <= 15, "NVS takes no longer names"
        if kind == "CHOICE":
            assert "enum" in schema[name], name
        if kind == "FLAG":
            assert schema[name]["type"] == "boolean", name
        if kind == "SETTING_SECRET":
            assert "secret" in schema[name]["description"].lower(), name


def test_choices_are_those_of_the_schema() -> None:
    schema = control.schema()["$defs"]["settings"]["properties"]
    text = (MAIN / "settings.c").read_text("utf-8")
    for name, array in re.findall(r"^    CHOICE\((\w+), (\w+)\)", text, re.MULTILINE):
        found = re.search(rf"{array}\[\] = \{{(.*?)NULL\}}", text, re.DOTALL)
        assert found is not None
        assert re.findall(r'"([^"]+)"', found[1]) == schema[name]["enum"], name


def test_commands_are_those_of_the_schema() -> None:
    text = (MAIN / "control.c").read_text("utf-8")
    found = re.search(r"commands\[\] = \{(.*?)\};", text, re.DOTALL)
    assert found is not None
    assert set(re.findall(r'"(\w+)"', found[1])) == set(control.COMMANDS)
    for name in control.COMMANDS:
        members = set(control.schema()["$defs"][name]["properties"]) - {
            "id",
            "cmd",
            "boot",
            "after",
        }
        row = re.search(rf'\{{"{name}", "([^"]*)"\}}', text)
        assert set(row[1].split() if row else ()) == members, name


def test_no_secret_reaches_a_log() -> None:
    secrets = [name for name, kind in table().items() if kind == "SETTING_SECRET"]
    assert secrets
    for line in sources().splitlines():
        if "ESP_LOG" in line or "control_event" in line:
            assert not any(secret in line for secret in secrets), line
