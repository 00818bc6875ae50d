"""A board's settings as the firmware keeps them: an image of its NVS partition.

firmware/main/settings_nvs.c reads one entry for each setting of control.schema.json, in one
namespace: texts as strings, lists of addresses as their MACs with commas between, everything else
as u32, choices by their place in the list. The key
that images are signed with lies beside them as 65 bytes (firmware/main/flash.c).
"""

from __future__ import annotations

import importlib.util
import io
from typing import Any

from host.boards import address, control
from host.boards.control import SECRETS, ControlError
from host.document import nearest
from host.flash.build import BuildError
from host.link.frames import MIN_MTU
from models.errors import TinysplitError

NAMESPACE = "tinysplit"
KEY_ENTRY = "public_key"
# Of virtual boards, or said by the image.
_NOT_KEPT = ("stage", "air")
_PAGE_BYTES = 4096
_MIN_PAGES = 3
_MAX_TEXT_BYTES = 64  # An address.
DEFAULT_LISTEN = "udp://0.0.0.0:4000"  # settings_defaults


class SettingsError(TinysplitError):
    """A setting that boards do not keep, or a value they would not take."""


def known() -> dict[str, Any]:
    """The schemas of the settings that a real board keeps, by name."""
    properties: dict[str, Any] = control.schema()["$defs"]["settings"]["properties"]
    return {name: schema for name, schema in properties.items() if name not in _NOT_KEPT}


def check_one(name: str, value: Any) -> None:
    """Raises SettingsError if real boards have no such setting, or do not take the value."""
    if name not in known():
        raise SettingsError(f"boards keep no setting {name[:40]!r}; {nearest(name, list(known()))}")
    try:
        control.check_settings({name: value})
    except ControlError as error:
        # What the schema says quotes the value.
        why = f"{name}: {_SECRETS_MAY_BE[name]}" if name in SECRETS else str(error)
        raise SettingsError(why) from None
    longest = known()[name].get("maxLength", _MAX_TEXT_BYTES)
    if isinstance(value, str) and len(value.encode()) > longest:
        raise SettingsError(f"{name} is longer than {longest} bytes")


def check(settings: dict[str, Any]) -> None:
    """Raises SettingsError for settings that a real board would not take, alone or together."""
    for name, value in settings.items():
        check_one(name, value)
    _check_together(settings)


def _check_together(settings: dict[str, Any]) -> None:
    """settings_check and settings_set_text of firmware/main/settings.c."""

    def demand(holds: bool, what: str) -> None:
        if not holds:
            raise SettingsError(what)

    listen = address.parse(settings.get("listen", DEFAULT_LISTEN))
    inet = listen.transport not in address.RADIOS
    demand(
        not inet or (listen.host in ("0.0.0.0", "::") and listen.port != 0),  # noqa: S104
        f"listen: a board listens on {listen.transport}://0.0.0.0:PORT, not {listen}",
    )
    if following := settings.get("next"):
        there = address.parse(following)
        demand(
            there.transport == listen.transport,
            f"next is {there}, and listen {listen}: a board has one transport",
        )
        demand(not inet or there.port != 0, f"next: {there} has no port")
        demand(settings.get("role") != "bridge", "a bridge has no next stage")
    password = settings.get("wifi_password", "")
    demand(not 0 < len(password) < 8, f"wifi_password: {_SECRETS_MAY_BE['wifi_password']}")
    demand(
        not settings.get("espnow_lmk") or bool(settings.get("espnow_pmk")),
        "espnow_lmk needs espnow_pmk as well",
    )
    demand(not 0 < settings.get("mtu", 0) < MIN_MTU, f"mtu: 0 or at least {MIN_MTU}")
    demand(settings.get("channel", 1) <= 13, "channel: 1 to 13")
    demand(
        not settings.get("light_sleep") or settings.get("period_ms", 0) > 0,
        "light_sleep needs period_ms: it sleeps between inferences",
    )
    for peer in settings.get("espnow_peers", ()):
        demand(
            address.parse(peer).transport == "espnow", f"espnow_peers: {peer} is no ESP-NOW address"
        )
    url = settings.get("mqtt_url", "")
    demand(
        not url or url.startswith(("mqtt://", "mqtts://")),
        "mqtt_url: mqtt://HOST[:PORT] or mqtts://HOST[:PORT]",
    )
    for name, value in settings.items():
        if isinstance(value, str):
            printable = all(c in "\r\n" or (c >= " " and c != "\x7f") for c in value)
            demand(printable, f"{name} has characters that do not print")


_SECRETS_MAY_BE = {
    "wifi_password": "8 to 64 bytes, or nothing for an open network",
    "espnow_pmk": "32 hexadecimal digits",
    "espnow_lmk": "32 hexadecimal digits",
    "ble_passkey": "six digits",
    "mqtt_password": "at most 128 bytes",
}


def parse(name: str, text: str) -> Any:
    """The value of setting `name` that `text` stands for.

    Raises:
        SettingsError: there is no such setting, or it is of another kind.
    """
    if name not in known():
        check_one(name, text)
    schema = known()[name]
    choices = schema.get("enum", [])
    if schema.get("type") == "boolean":
        if text not in ("true", "false"):
            raise SettingsError(f"{name} is true or false, not {text!r}")
        return text == "true"
    if schema.get("type") == "array":
        return text.split(",") if text else []
    if schema.get("type") == "integer" or (choices and isinstance(choices[0], int)):
        try:
            return int(text)
        except ValueError:
            raise SettingsError(f"{name} is a whole number, not {text!r}") from None
    return text


def entries(settings: dict[str, Any]) -> dict[str, str | int]:
    """Settings as their NVS entries: str for strings, int for u32. Raises SettingsError."""
    check(settings)
    return {name: _entry(known()[name], value) for name, value in settings.items()}


def _entry(schema: dict[str, Any], value: Any) -> str | int:
    if value is None:  # `next`, which is no address then.
        return ""
    if isinstance(value, list):
        return ",".join(address.parse(one).host for one in value)
    choices = schema.get("enum", [])
    if choices and isinstance(choices[0], str):
        return int(choices.index(value))
    return value if isinstance(value, str) else int(value)


def image(settings: dict[str, Any], public_key: bytes | None, size: int) -> bytes:
    """An NVS partition of `size` bytes that holds `settings` and the key (65 bytes), and no more.

    It is made in memory: nothing of it is written anywhere.

    Raises:
        SettingsError: a setting that boards would not take.
        BuildError: the partition is too small for NVS, or the generator is not installed.
    """
    if importlib.util.find_spec("esp_idf_nvs_partition_gen") is None:
        raise BuildError("settings need esp-idf-nvs-partition-gen: pip install 'tinysplit[boards]'")
    from esp_idf_nvs_partition_gen import nvs_partition_gen as generator

    if size % _PAGE_BYTES or size < _MIN_PAGES * _PAGE_BYTES:
        raise BuildError(f"the build's nvs partition has {size:,} bytes, which NVS cannot use")
    made = io.BytesIO()
    # The generator adds the page that NVS keeps free; the longest settings take two others.
    with generator.nvs_open(made, size - _PAGE_BYTES, generator.Page.VERSION2) as store:
        store.write_namespace(NAMESPACE)
        for name, value in entries(settings).items():
            store.write_entry(name, value, "string" if isinstance(value, str) else "u32")
        if public_key is not None:
            store.write_entry(KEY_ENTRY, public_key.hex(), "hex2bin")
    return made.getvalue()
