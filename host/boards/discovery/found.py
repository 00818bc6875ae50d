"""What a search finds, in one form wherever it was found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class FoundBoard:
    """A board, or a port that may lead to one. What is not known is None.

    `way` is `serial`, `network`, `bluetooth` or `mqtt`; `address` is as other commands take it.
    `bundle` is the id in hex or how it begins, empty if the board holds none. `note` is for people.
    """

    way: str
    address: str
    name: str | None = None
    role: str | None = None
    stage: int | None = None
    stages: int | None = None
    bundle: str | None = None
    firmware: str | None = None
    note: str = ""


@dataclass(frozen=True)
class Search:
    """What one way of searching brought; `note` says what there is to say beside the boards."""

    way: str
    boards: tuple[FoundBoard, ...] = ()
    note: str = ""


def described(way: str, address: str, said: Mapping[str, Any], note: str = "") -> FoundBoard:
    """A board by what it says of itself, as in the answer to `info`; nothing of it is trusted."""

    def text(name: str) -> str | None:
        value = said.get(name)
        if not isinstance(value, str):
            return None
        return "".join(c if c.isprintable() else "?" for c in value[:64])

    def number(name: str) -> int | None:
        value = said.get(name)
        return value if isinstance(value, int) and 0 <= value <= 254 else None

    return FoundBoard(
        way,
        address,
        text("name"),
        text("role"),
        number("stage"),
        number("stages"),
        text("bundle"),
        text("firmware"),
        note,
    )
