"""Which MQTT broker, and as whom: a URL, a user and a password, an authority.

Passwords come from the environment or from a file that is its owner's alone, never from a command
line, and are shown nowhere.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from host import private_file
from host.private_file import PrivateFileError
from models.errors import TinysplitError

URL_VARIABLE = "TINYSPLIT_BROKER"
USER_VARIABLE = "TINYSPLIT_MQTT_USER"
PASSWORD_VARIABLE = "TINYSPLIT_MQTT_PASSWORD"  # noqa: S105  # A name, no password.
LOGIN_VARIABLE = "TINYSPLIT_MQTT_LOGIN"
CA_VARIABLE = "TINYSPLIT_MQTT_CA"
PORTS = {"mqtt": 1883, "mqtts": 8883}
_MOST_BYTES = 1 << 20
_LONGEST = 128  # The settings mqtt_user and mqtt_password have no more.


class AccessError(TinysplitError):
    """Nothing that a broker can be reached with."""


@dataclass(frozen=True)
class Access:
    """A broker at `host`:`port`, with TLS or without; `version` of MQTT is 3 (3.1.1) or 5.

    `ca` is the certificate (PEM) brokers are checked with; None: the common authorities.
    """

    host: str
    port: int
    tls: bool = False
    version: int = 3
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    ca: str | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """Where it is, for people."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"mqtt{'s' * self.tls}://{host}:{self.port}"


def parse(
    url: str, *, user: str | None = None, password: str | None = None, ca: str | None = None
) -> Access:
    """The broker at mqtt://HOST[:PORT] or mqtts://HOST[:PORT], with ?version=5 for MQTT 5.

    Raises:
        AccessError: says what is wrong.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise AccessError(f"{_shown(url)} is no URL of a broker: {error}") from error
    if "@" in parts.netloc:
        raise AccessError(
            f"no user and no password in a broker's URL: set {USER_VARIABLE} and "
            f"{PASSWORD_VARIABLE}, or name a file by {LOGIN_VARIABLE}"
        )
    if (
        parts.scheme not in PORTS
        or not re.fullmatch(r"[A-Za-z0-9._-]{1,253}|[0-9A-Fa-f:.]+", host)
        or parts.path not in ("", "/")
        or parts.query not in ("", "version=3", "version=5")
        or port == 0
    ):
        raise AccessError(
            f"{_shown(url)} is no URL of a broker: write mqtt://HOST[:PORT] or "
            "mqtts://HOST[:PORT], with ?version=5 for MQTT 5"
        )
    for name, value in (("user", user), ("password", password)):
        if value is not None and len(value.encode()) > _LONGEST:
            raise AccessError(f"the {name} for {_shown(url)} is longer than {_LONGEST} bytes")
    if password is not None and user is None:
        raise AccessError(f"there is a password for {_shown(url)} and no user: set {USER_VARIABLE}")
    return Access(
        host,
        port or PORTS[parts.scheme],
        parts.scheme == "mqtts",
        5 if parts.query == "version=5" else 3,
        user,
        password,
        ca,
    )


def _shown(url: str) -> str:
    return repr(url[:80] if "@" not in url else url.rpartition("@")[2][:80])


def find(
    url: str | None = None,
    login: Path | None = None,
    ca: Path | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Access | None:
    """The broker that a command names, or else the environment; None: neither does.

    Args:
        login: a file with lines `user=` and `password=`, readable by its owner only.
        ca: a file with the certificate that brokers are checked with.

    Raises:
        AccessError: says what is wrong.
    """
    url = url or environment.get(URL_VARIABLE)
    if not url:
        return None
    if login is None and environment.get(LOGIN_VARIABLE):
        login = Path(environment[LOGIN_VARIABLE])
    if ca is None and environment.get(CA_VARIABLE):
        ca = Path(environment[CA_VARIABLE])
    user = environment.get(USER_VARIABLE) or None
    password = environment.get(PASSWORD_VARIABLE)
    if login is not None:
        user, password = _read_login(login)
    return parse(url, user=user, password=password, ca=None if ca is None else read_ca(ca))


def need(
    url: str | None = None,
    login: Path | None = None,
    ca: Path | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Access:
    """As `find`; that none is named is an error, too."""
    found = find(url, login, ca, environment)
    if found is None:
        raise AccessError(
            f"no broker is named: give --broker mqtt://HOST, or set {URL_VARIABLE}; "
            "`tinysplit broker` is one"
        )
    return found


def _read_login(file: Path) -> tuple[str, str | None]:
    otherwise = "neither user=NAME nor password=..."
    try:
        found = private_file.read(file, ("user", "password"), _MOST_BYTES, otherwise)
    except PrivateFileError as error:
        raise AccessError(str(error)) from error
    if not found.get("user"):
        raise AccessError(f"{file} has no line user=NAME")
    return found["user"], found.get("password")


def read_ca(file: Path) -> str:
    """A certificate (PEM) that brokers are checked with.

    Raises:
        AccessError: it is none.
    """
    try:
        with file.open("rb") as opened:
            text = opened.read(_MOST_BYTES).decode("ascii")
        ssl.create_default_context(cadata=text)
    except ssl.SSLError as error:
        raise AccessError(f"{file} is no certificate in PEM") from error
    except OSError as error:
        raise AccessError(f"cannot read {file}: {error.strerror}") from error
    except ValueError:
        raise AccessError(f"{file} is no certificate in PEM") from None
    return text
