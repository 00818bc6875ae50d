"""The program a virtual bridge runs: the C core's bridge between a pseudo-terminal and a radio.

On its wire travel FORWARDs of the link and lines of control at once (SPEC.md sections 8 and 9.1).
It needs no bundle: it runs no stage.
"""

from __future__ import annotations

import os
import select
import stat
import time
from collections.abc import Mapping
from typing import Any, Final

from host.boards import address, control
from host.boards.control import ControlError, Lines
from host.boards.virtual import _board
from host.boards.virtual.board import VERSION
from host.boards.virtual.radio import RadioSetup
from host.boards.virtual.radios import create_radio
from host.link.session import Node, Role
from models.errors import TinysplitError
from partitioner.command import describe

SLOTS: Final = 8  # Frames kept for the radio; those of a window are with it and the host.
_STEP_US: Final = 200_000
_TEXT_BYTES: Final = 65536


class BridgeError(TinysplitError):
    """The bridge cannot run."""


class Bridge:
    """A virtual bridge on an open wire. `settings` as a board's: `listen`, `air`, `name` ..."""

    def __init__(self, settings: Mapping[str, Any], wire_fd: int) -> None:
        own = address.parse(settings["listen"])
        if own.transport not in address.RADIOS or "air" not in settings:
            raise BridgeError("a bridge needs a radio: --listen espnow://... and --air")
        self._name = settings.get("name", "bridge")
        self._booted = time.monotonic()
        self._lines = Lines()
        node = Node(Role.BRIDGE)
        self._radio = create_radio(
            own.transport, RadioSetup(own, None, settings["air"], self._name, settings, node)
        )
        self._radio.start()
        config = _board.ffi.new("struct vbridge_config *")
        config.packet_fd, config.wire_fd = self._radio.fileno(), wire_fd
        config.radio_mtu, config.slots = self._radio.profile.mtu, SLOTS
        self._core = _board.lib.vbridge_new(config)
        if self._core == _board.ffi.NULL:
            self._radio.close()
            raise BridgeError("the core refuses to be a bridge for this radio")
        self._text = _board.ffi.new("uint8_t[]", _TEXT_BYTES)
        self._say(control.event("ready", info=self.info()))

    def info(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "kind": "virtual",
            "name": self._name,
            "role": "bridge",
            "listen": str(self._radio.address),
            "radio": self._radio.describe(),
            "pid": os.getpid(),
            "uptime_ms": round((time.monotonic() - self._booted) * 1000),
        }

    def stats(self) -> dict[str, Any]:
        stats = _board.ffi.new("struct ts_stats *")
        _board.lib.vbridge_get_stats(self._core, stats)
        return {"dropped": stats.dropped, "radio": self._radio.describe()}

    def step(self) -> bool:
        """Serve for a while; False when the wire is gone."""
        flags = _board.lib.vbridge_step(self._core, _STEP_US)
        if flags < 0:
            raise BridgeError("waiting for the wire failed")
        if flags == 1:
            size = _board.lib.vbridge_take_text(self._core, self._text, _TEXT_BYTES)
            self._take(bytes(_board.ffi.buffer(self._text, size)))
        return bool(flags != 2)

    def _take(self, text: bytes) -> None:
        try:
            lines = self._lines.feed(text)
        except ControlError as error:
            self._say(control.refusal(error))
            return
        for line in lines:
            self._say(self._answer(line))

    def _answer(self, line: bytes) -> bytes:
        try:
            command = control.parse_command(line)
            known = {"info": self.info, "stats": self.stats}
            if command.name in known:
                return control.reply(command.id, known[command.name]())
            only = ControlError("refused", "a virtual bridge has info and stats only")
            return control.refusal(only, command.id)
        except ControlError as error:
            return control.refusal(error)
        except Exception as error:  # A defect, but none that a line may end the bridge with.
            return control.refusal(ControlError("refused", describe(error)))

    def _say(self, line: bytes) -> None:
        _board.lib.vbridge_say(self._core, line, len(line))

    def close(self) -> None:
        if self._core != _board.ffi.NULL:
            _board.lib.vbridge_free(self._core)
            self._core = _board.ffi.NULL
        self._radio.close()


def serve(settings: Mapping[str, Any], wire_fd: int) -> None:
    """Be a bridge until the wire ends, or the pipe that is standard input, if it is one.

    Raises:
        TinysplitError: it cannot start.
    """
    os.set_blocking(wire_fd, False)
    owned = stat.S_ISFIFO(os.fstat(0).st_mode)
    bridge = Bridge(settings, wire_fd)
    try:
        while bridge.step():
            if owned and select.select([0], [], [], 0)[0] and not os.read(0, 4096):
                return
    finally:
        bridge.close()
