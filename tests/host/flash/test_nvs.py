"""Settings as the firmware reads them: the NVS image, held against firmware/main/settings.c."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from host.boards import control
from host.flash import nvs
from host.flash.build import BuildError
from host.flash.nvs import SettingsError
from tests.host.flash.nvs_reader import read

MAIN = Path(__file__).parents[3] / "firmware/main"
PUBLIC_KEY = b"\x04" + bytes(range(64))
EVERYTHING: dict[str, Any] = {
    "name": "head-1",
    "role": "stage",
    "listen": "tcp://0.0.0.0:4001",
    "next": "tcp://192.168.4.1:4000",
    "mtu": 1000,
    "window": 8,
    "timeout_ms": 5000,
    "iterations": 4294967295,
    "period_ms": 1000,
    "input": "pattern",
    "pipeline": False,
    "light_sleep": True,
    "profile": True,
    "wifi_mode": "soft_ap",
    "wifi_ssid": "a network, with \u00e9",
    "wifi_password": "correct horse",
    "power_save": "max",
    "channel": 11,
    "espnow_version": 2,
    "espnow_rate": "54M",
    "espnow_pmk": "0" * 31 + "A",
    "espnow_lmk": "f" * 32,
    "codec": "auto",
    "att_mtu": 23,
    "espnow_peers": [f"espnow://02:00:00:00:00:{n:02x}" for n in range(20)],
    "ble_phy": 1,
    "ble_passkey": "012345",
    "ble_interval": 3200,
    "mqtt_url": "mqtts://broker:8883",
    "mqtt_user": "me",
    "mqtt_password": "x" * 128,
    "mqtt_ca": "-----BEGIN CERTIFICATE-----\n" + "A" * 2020,
    "meter": "ina226",
    "meter_address": 79,
    "meter_mohm": 10,
}
# Takes lines KIND NAME VALUE as settings_nvs.c takes entries; says what the board then has.
PROGRAM = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "settings.h"

int main(void) {
    static struct settings settings;
    static char line[5000];
    char error[SETTINGS_ERROR_BYTES] = "";
    settings_defaults(&settings);
    while (fgets(line, sizeof line, stdin) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        for (char *c = line; *c != '\0'; c++) {
            *c = *c == '\1' ? '\n' : *c;
        }
        char *value = strchr(line + 2, ' ');
        *value++ = '\0';
        const struct setting *which = settings_find(line + 2);
        if (which == NULL || (which->kind >= SETTING_TEXT) != (line[0] == 's')) {
            printf("%s: is not read\n", line + 2);
            continue;
        }
        bool taken = line[0] == 's'
            ? settings_set_text(&settings, which, value, error)
            : settings_set_number(&settings, which, (uint32_t)strtoul(value, NULL, 10), error);
        if (!taken) {
            printf("%s\n", error);
        }
    }
    if (!settings_check(&settings, error)) {
        printf("%s\n", error);
    }
    size_t count;
    const struct setting *table = settings_table(&count);
    for (size_t i = 0; i < count; i++) {
        char text[4096];
        snprintf(text, sizeof text, "%s", settings_text(&settings, &table[i]));
        for (char *c = text; *c != '\0'; c++) {
            *c = *c == '\n' ? '\1' : *c;
        }
        if (table[i].kind == SETTING_NUMBER || table[i].kind == SETTING_FLAG) {
            unsigned long number = settings_number(&settings, &table[i]);
            snprintf(text, sizeof text, "%lu", number);
        }
        printf("= %s %s\n", table[i].name, text);
    }
    return 0;
}
"""


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """settings.c as a program."""
    compiler = shutil.which("cc")
    assert compiler is not None, "a C compiler, as for virtual boards"
    folder = tmp_path_factory.mktemp("settings")
    (folder / "main.c").write_text(PROGRAM)
    program = folder / "settings"
    sources = [str(folder / "main.c"), str(MAIN / "settings.c")]
    command = [compiler, "-std=c11", "-Wall", "-Werror", "-I", str(MAIN), "-o", str(program)]
    subprocess.run([*command, *sources], check=True)
    return program


def on_board(board: Path, entries: dict[str, Any]) -> tuple[list[str], dict[str, str]]:
    """What the firmware says of NVS entries, and the settings it has then."""
    lines = "".join(
        f"{'s' if isinstance(v, str) else 'n'} {k} {str(v).replace(chr(10), chr(1))}\n"
        for k, v in entries.items()
    )
    done = subprocess.run(
        [str(board)], input=lines, capture_output=True, encoding="utf-8", check=True
    )
    said = [line for line in done.stdout.splitlines() if not line.startswith("= ")]
    has = dict(
        line[2:].partition(" ")[::2] for line in done.stdout.splitlines() if line.startswith("= ")
    )
    return said, {name: value.replace("\1", "\n") for name, value in has.items()}


def shown(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(one.removeprefix("espnow://") for one in value)
    return str(int(value)) if isinstance(value, int) else value or ""


def test_the_firmware_reads_every_setting(board: Path) -> None:
    assert EVERYTHING.keys() == nvs.known().keys()
    found = read(nvs.image(EVERYTHING, PUBLIC_KEY, 0x6000), nvs.NAMESPACE)
    assert found.pop(nvs.KEY_ENTRY) == PUBLIC_KEY
    said, has = on_board(board, found)
    assert said == []
    assert has == {name: shown(value) for name, value in EVERYTHING.items()}


def test_every_choice_is_where_the_firmware_has_it(board: Path) -> None:
    for name, schema in nvs.known().items():
        for value in schema.get("enum", []):
            more = {"next": None, "name": "x"} if name != "name" else {}
            said, has = on_board(board, nvs.entries({**more, name: value}))
            assert said == []
            assert has[name] == shown(value)


def test_namespace_and_key_are_the_firmwares() -> None:
    sources = (MAIN / "settings_nvs.c").read_text() + (MAIN / "flash.c").read_text()
    assert f'#define NAMESPACE "{nvs.NAMESPACE}"' in sources
    assert f'#define KEY_ENTRY "{nvs.KEY_ENTRY}"' in sources
    assert f'nvs_open("{nvs.NAMESPACE}", NVS_READONLY' in sources


def test_secrets_are_those_of_the_firmware() -> None:
    table = (MAIN / "settings.c").read_text()
    assert set(re.findall(r"OF_TEXT\(SETTING_SECRET, (\w+),", table)) == set(control.SECRETS)


def test_nothing_given_leaves_the_defaults(board: Path) -> None:
    made = nvs.image({}, None, 0x6000)
    assert len(made) == 0x6000
    assert read(made, nvs.NAMESPACE) == {}
    assert on_board(board, {})[1]["listen"] == nvs.DEFAULT_LISTEN


REFUSED: list[dict[str, Any]] = [
    {"name": "with a blank"},
    {"channel": 14},
    {"mtu": 100},
    {"listen": "udp://192.168.1.2:4000"},
    {"listen": "udp://0.0.0.0:0"},
    {"next": "tcp://192.168.1.2:4000"},
    {"next": "udp://192.168.1.2:0"},
    {"role": "bridge", "next": "udp://192.168.1.2:4000"},
    {"wifi_password": "short"},
    {"wifi_password": "x" * 65},
    {"wifi_ssid": "\u00e9" * 17},
    {"wifi_ssid": "bell\x07"},
    {"espnow_lmk": "0" * 32},
    {"espnow_pmk": "0" * 31},
    {"espnow_pmk": "g" * 32},
    {"espnow_peers": ["udp://127.0.0.1:1"]},
    {"att_mtu": 22},
    {"ble_passkey": "12345"},
    {"ble_passkey": "abcdef"},
    {"light_sleep": True},
    {"mqtt_url": "http://broker"},
    {"mqtt_password": "x" * 129},
    {"ble_interval": 5},
    {"meter_address": 0x50},
    {"timeout_ms": 0},
]


@pytest.mark.parametrize("settings", REFUSED, ids=str)
def test_what_the_firmware_refuses_is_refused_here(board: Path, settings: dict[str, Any]) -> None:
    raw = {name: nvs._entry(nvs.known()[name], value) for name, value in settings.items()}
    assert on_board(board, raw)[0] != []
    with pytest.raises(SettingsError) as refused:
        nvs.entries(settings)
    assert "\n" not in str(refused.value)
    for name in control.SECRETS:
        assert settings.get(name, "-----") not in str(refused.value)


def test_settings_of_virtual_boards_are_none_here() -> None:
    for name, value in (("air", "x"), ("stage", 1), ("nonsense", 1)):
        with pytest.raises(SettingsError, match=f"no setting '{name}'"):
            nvs.check({name: value})
    assert set(nvs._NOT_KEPT) < control.schema()["$defs"]["settings"]["properties"].keys()


def test_the_smallest_partition_that_will_do() -> None:
    for size in (0x2000, 0x3001):
        with pytest.raises(BuildError, match="which NVS cannot use"):
            nvs.image({}, None, size)
    smallest = nvs.image(EVERYTHING, PUBLIC_KEY, 0x3000)
    assert len(smallest) == 0x3000
    assert read(smallest, nvs.NAMESPACE)["mqtt_ca"] == EVERYTHING["mqtt_ca"]


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("pipeline", "false", False),
        ("channel", "6", 6),
        ("ble_phy", "1", 1),
        ("meter", "ina219", "ina219"),
        ("espnow_peers", "espnow://02:00:00:00:00:01", ["espnow://02:00:00:00:00:01"]),
        ("next", "udp://1.2.3.4:5", "udp://1.2.3.4:5"),
    ],
)
def test_values_as_text(name: str, text: str, value: Any) -> None:
    assert nvs.parse(name, text) == value
    nvs.check_one(name, value)


@pytest.mark.parametrize(
    ("name", "text"), [("pipeline", "yes"), ("channel", "six"), ("ble_phy", "1.0"), ("air", "x")]
)
def test_texts_that_are_no_values(name: str, text: str) -> None:
    with pytest.raises(SettingsError):
        nvs.parse(name, text)
