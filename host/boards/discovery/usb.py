"""Boards on serial ports: those whose USB id is Espressif's, or that of a bridge boards have."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from serial.tools import list_ports
from serial.tools.list_ports_common import ListPortInfo

from host.boards.board import BoardError
from host.boards.discovery.found import FoundBoard, Search, described
from host.boards.serial import SerialBoard

ANSWER_TIMEOUT_S = 2.0
ESPRESSIF_VID = 0x303A  # The chip's own USB: Serial/JTAG, or TinyUSB.
# USB-to-UART bridges on ESP32-S3 boards: (vendor, product or None for any).
BRIDGES = {
    (0x10C4, 0xEA60): "CP210x",
    (0x1A86, 0x7523): "CH340",
    (0x1A86, 0x55D3): "CH343",
    (0x1A86, 0x55D4): "CH9102",
    (0x0403, 0x6001): "FT232R",
    (0x0403, 0x6010): "FT2232H",
    (0x0403, 0x6015): "FT231X",
}


@dataclass(frozen=True)
class Candidate:
    """A port that a board may be on; `what` says why."""

    port: str
    what: str


def candidates(ports: Iterable[ListPortInfo]) -> list[Candidate]:
    """The ports whose USB id speaks for a board, by name."""
    found = []
    for port in ports:
        if port.vid == ESPRESSIF_VID:
            found.append(Candidate(port.device, "Espressif USB"))
        elif (port.vid, port.pid) in BRIDGES:
            name = BRIDGES[port.vid, port.pid]
            found.append(Candidate(port.device, f"{name} bridge: possibly a board"))
    return sorted(found, key=lambda c: c.port)


def search(also: Sequence[str] = (), timeout_s: float = ANSWER_TIMEOUT_S) -> Search:
    """Ask every candidate, and the ports in `also`, who they are; all at once."""
    asked = candidates(list_ports.comports())
    known = {candidate.port for candidate in asked}
    asked += [Candidate(port, "") for port in also if port not in known]
    if not asked:
        return Search("serial", note="no port with the USB id of a board or a bridge")
    with ThreadPoolExecutor(len(asked)) as pool:
        boards = tuple(pool.map(lambda candidate: _ask(candidate, timeout_s), asked))
    return Search("serial", boards)


def _ask(candidate: Candidate, timeout_s: float) -> FoundBoard:
    address = f"serial:{candidate.port}"
    try:
        with SerialBoard(candidate.port) as board:
            return described("serial", address, board.greet(timeout_s), candidate.what)
    except BoardError as error:
        silent = error.code == "no_answer"
        why = "no answer" if silent else str(error).partition(": ")[2]
        return FoundBoard("serial", address, note=", ".join(filter(None, (candidate.what, why))))
