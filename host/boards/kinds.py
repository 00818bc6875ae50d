"""What a stage may run on, as it is written on a command line.

board               a virtual board, started for the run
host                this process; the last stage only
serial:PORT[@BAUD]  the board on a serial port
mqtt:NODE           the board of that name at the broker that TINYSPLIT_BROKER names
qemu:BUILD_DIR      an emulated board, started for the run
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from host.boards.address import is_node
from host.boards.serial import BAUD
from models.errors import ArgumentError


class KindError(ArgumentError):
    """Nothing that a stage may run on."""


@dataclass(frozen=True)
class Virtual:
    """A virtual board."""


@dataclass(frozen=True)
class Host:
    """This process."""


@dataclass(frozen=True)
class OnSerial:
    """A board that is there already."""

    port: str
    baud: int = BAUD


@dataclass(frozen=True)
class OnMqtt:
    """A board that is there already, reached through a broker."""

    node: str


@dataclass(frozen=True)
class Emulated:
    """The real firmware in an ESP32-S3 emulator. `qemu`: the emulator, None: the one on PATH."""

    build: Path
    qemu: Path | None = None


Attached = OnSerial | OnMqtt
Kind = Virtual | Host | OnSerial | OnMqtt | Emulated


def parse(text: str, qemu: Path | None = None) -> Kind:
    """What `text` names. Raises KindError."""
    if text == "board":
        return Virtual()
    if text == "host":
        return Host()
    scheme, _, rest = text.partition(":")
    if scheme == "serial" and (match := re.fullmatch(r"(.+?)(?:@(\d{3,7}))?", rest)):
        return OnSerial(match[1], int(match[2] or BAUD))
    if scheme == "mqtt" and is_node(rest):
        return OnMqtt(rest)
    if scheme == "qemu" and rest:
        return Emulated(Path(rest), qemu)
    raise KindError(f"{text!r} is neither board, host, serial:PORT, mqtt:NODE nor qemu:BUILD_DIR")
