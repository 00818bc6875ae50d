"""Where a board's secrets come from: a file, the environment, or a question. Never the command
line, which other users of the machine see and the shell's history keeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from host import private_file
from host.boards.control import SECRETS
from host.flash.nvs import SettingsError
from host.private_file import PrivateFileError

_MAX_FILE_BYTES = 10_000


def variable(name: str) -> str:
    """The environment variable of a secret."""
    return f"TINYSPLIT_{name.upper()}"


def gather(
    file: Path | None,
    environment: Mapping[str, str],
    settings: Mapping[str, Any],
    ask: Callable[[str], str] | None,
) -> dict[str, str]:
    """The secrets that belong to `settings`, and all that are in `file`.

    Args:
        file: lines `wifi_password=...`, readable by its owner only.
        environment: is looked into for secrets that the settings give a use to.
        ask: asks a person; None: there is nobody.

    Raises:
        SettingsError: the file cannot be used, or the password of a Wi-Fi network is missing.
    """
    radio = str(settings.get("listen", "")).partition(":")[0]
    used = {
        "wifi_password": bool(settings.get("wifi_ssid")),
        "mqtt_password": bool(settings.get("mqtt_url")),
        "espnow_pmk": radio == "espnow",
        "espnow_lmk": radio == "espnow",
        "ble_passkey": radio == "ble",
    }
    found = {
        name: environment[variable(name)]
        for name in SECRETS
        if used[name] and variable(name) in environment
    }
    if file is not None:
        found |= _read(file)
    if used["wifi_password"] and "wifi_password" not in found:
        if ask is None:
            raise SettingsError(
                f"the Wi-Fi password is missing: set {variable('wifi_password')} (empty: an open "
                "network), or give --secrets FILE with a line wifi_password=..."
            )
        found["wifi_password"] = ask("Wi-Fi password (empty: an open network)")
    return found


def _read(file: Path) -> dict[str, str]:
    try:
        return private_file.read(
            file, SECRETS, _MAX_FILE_BYTES, f"not NAME=VALUE with {', '.join(SECRETS)}"
        )
    except PrivateFileError as error:
        raise SettingsError(str(error)) from error
