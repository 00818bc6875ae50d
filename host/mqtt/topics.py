"""tinysplit/<node>/cmd, /reply, /telemetry, /status."""

from __future__ import annotations

import re

from host.boards.address import NODE

ROOT = "tinysplit"
CMD, REPLY, TELEMETRY, STATUS = "cmd", "reply", "telemetry", "status"


def topic(node: str, what: str) -> str:
    """The topic of a node, or with `+` of every node."""
    return f"{ROOT}/{node}/{what}"


def parse(name: str) -> tuple[str, str] | None:
    """The node and what of it a topic is; None for topics that are none of ours."""
    match = re.fullmatch(rf"{ROOT}/({NODE})/({CMD}|{REPLY}|{TELEMETRY}|{STATUS})", name)
    return None if match is None else (match[1], match[2])
