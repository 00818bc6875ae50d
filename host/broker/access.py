"""Who may publish and subscribe to what.

A node reads its own commands and publishes its own reply, telemetry and status, nothing else, and
its client id is its name. Operators (people, scripts, gateways) read everything and publish below
tinysplit/. Without users everybody is an operator, on this machine only.
"""

from __future__ import annotations

from host.mqtt.topics import CMD, REPLY, ROOT, STATUS, TELEMETRY, topic

NODE, OPERATOR = "node", "operator"
ROLES = (NODE, OPERATOR)


def may_publish(role: str, name: str, wanted: str) -> bool:
    """Whether the user `name` may send to the topic `wanted`, as a last will, too."""
    if role == OPERATOR:
        return wanted.startswith(f"{ROOT}/")
    return wanted in {topic(name, what) for what in (REPLY, TELEMETRY, STATUS)}


def may_subscribe(role: str, name: str, wanted: str) -> bool:
    """Whether the user `name` may subscribe to the filter `wanted`, which has wildcards or not."""
    return role == OPERATOR or wanted == topic(name, CMD)


def is_filter(text: str) -> bool:
    """Whether wildcards stand where they may: section 4.7.1."""
    levels = text.split("/")
    return (
        all(level in ("+", "#") or not ("+" in level or "#" in level) for level in levels)
        and "#" not in levels[:-1]
    )


def matches(text: str, wanted: str) -> bool:
    """Whether the filter `text` takes the topic `wanted`: section 4.7."""
    if wanted.startswith("$") and text[0] in "+#":
        return False
    levels, parts = text.split("/"), wanted.split("/")
    for number, level in enumerate(levels):
        if level == "#":
            return True
        if number == len(parts) or level not in ("+", parts[number]):
            return False
    return len(levels) == len(parts)
