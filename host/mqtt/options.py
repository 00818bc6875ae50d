"""The options of commands that need a broker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from host.mqtt import access
from host.mqtt.access import Access, AccessError
from partitioner.command import existing, together


class BrokerUrl(click.ParamType):  # type: ignore[type-arg]  # Generic from click 8.4 on.
    """A broker's URL, as text: `access.parse`."""

    name = "url"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            access.parse(str(value))
        except AccessError as error:
            self.fail(str(error), param, ctx)
        return str(value)


def named(broker: str | None, login: Path | None, ca: Path | None) -> Access:
    """The broker that options or environment name; none is wrong usage. Raises AccessError."""
    found = access.find(broker, login, ca)
    if found is None:
        raise click.UsageError(
            f"no broker is named: give --broker mqtt://HOST, or set {access.URL_VARIABLE}; "
            "`tinysplit broker` is one"
        )
    return found


# Options `broker`, `login` and `ca` of a command, as `access.find` takes them.
broker_options = together(
    click.option(
        "--broker",
        type=BrokerUrl(),
        metavar="URL",
        help="mqtt://HOST[:PORT] or mqtts://HOST[:PORT], ?version=5 for MQTT 5.  "
        f"[{access.URL_VARIABLE}]",
    ),
    click.option(
        "--mqtt-login",
        "login",
        type=existing(),
        help="File of mode 600 with user=NAME and password=...  "
        f"[{access.LOGIN_VARIABLE}, or {access.USER_VARIABLE} and {access.PASSWORD_VARIABLE}]",
    ),
    click.option(
        "--mqtt-ca",
        "ca",
        type=existing(),
        help=f"Certificate (PEM) that the broker is checked with.  [{access.CA_VARIABLE}]",
    ),
)
