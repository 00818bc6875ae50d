"""The options of commands that need a broker."""

from __future__ import annotations

from typing import Any

import click

from host.mqtt import access
from partitioner.command import existing


def broker_options(command: Any) -> Any:
    """Options `broker`, `login` and `ca` of a command, as `access.find` takes them."""
    for option in (
        click.option(
            "--mqtt-ca",
            "ca",
            type=existing(),
            help=f"Certificate (PEM) that the broker is checked with.  [{access.CA_VARIABLE}]",
        ),
        click.option(
            "--mqtt-login",
            "login",
            type=existing(),
            help="File of mode 600 with user=NAME and password=...  "
            f"[{access.LOGIN_VARIABLE}, or {access.USER_VARIABLE} and {access.PASSWORD_VARIABLE}]",
        ),
        click.option(
            "--broker",
            metavar="URL",
            help="mqtt://HOST[:PORT] or mqtts://HOST[:PORT], ?version=5 for MQTT 5.  "
            f"[{access.URL_VARIABLE}]",
        ),
    ):
        command = option(command)
    return command
