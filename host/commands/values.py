"""What options of commands take: nodes, addresses of links, sizes of frames."""

from __future__ import annotations

from typing import Any

import click

from host.boards import address, kinds
from host.link.frames import MAX_MTU, MIN_MTU


class NodeKind(click.ParamType):  # type: ignore[type-arg]  # Generic from click 8.4 on.
    """What a stage runs on: `host.boards.kinds`."""

    name = "node"

    def __init__(self, *, host: bool = False) -> None:
        self._host = host

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> kinds.Kind:
        if not isinstance(value, str):
            chosen: kinds.Kind = value
            return chosen
        try:
            chosen = kinds.parse(value)
        except kinds.KindError as error:
            self.fail(str(error), param, ctx)
        if isinstance(chosen, kinds.Host) and not self._host:
            self.fail("only the last stage can run on the host", param, ctx)
        return chosen


class LinkAddress(click.ParamType):  # type: ignore[type-arg]
    """An address of a link, as text: `host.boards.address`."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            address.parse(str(value))
        except address.AddressError as error:
            self.fail(str(error), param, ctx)
        return str(value)


class FrameSize(click.ParamType):  # type: ignore[type-arg]
    """The longest frame of a link, or 0 for the transport's own."""

    name = "bytes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            size = int(value)
        except ValueError:
            size = -1
        if size != 0 and not MIN_MTU <= size <= MAX_MTU:
            self.fail(f"{value} is not 0 (the usual) or {MIN_MTU} to {MAX_MTU}", param, ctx)
        return size
