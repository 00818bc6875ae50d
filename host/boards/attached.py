"""A board that is there already, made a stage of a chain over its control line.

It is given its neighbours' addresses and restarted, if they are not what it has. Its bundle and
its stage are those of the image it holds; they are checked, before and after.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from host.boards import address
from host.boards.address import RADIOS, Address
from host.boards.board import BoardError
from host.boards.serial import SerialBoard, facing

_ANY = {4: "0.0.0.0", 6: "[::]"}  # noqa: S104  # The board's interfaces, not this machine's.
_LOOPBACK = {4: "127.0.0.1", 6: "[::1]"}
PORT = 4000  # Where boards listen for UDP and TCP.
BOOT_TIMEOUT_S = 60.0
BUNDLE_SHOWN = 12  # Digits of a bundle's id for people.


class AttachedBoard:
    """The board of a stage. `info` is what it last said of itself.

    Raises:
        BoardError: `no_answer`, `bundle_mismatch` and whatever else goes wrong, by name.
    """

    def __init__(self, board: SerialBoard, stage: int, bundle: str) -> None:
        self.board = board
        self._stage = stage
        self._bundle = bundle
        self.info = board.greet()
        self._check_bundle()

    @property
    def what(self) -> str:
        """The board, for people."""
        kind = "a virtual board" if self._virtual else f"a board ({self.info['kind']})"
        return f"{kind} on {self.board.port}"

    @property
    def _virtual(self) -> bool:
        return bool(self.info["kind"] == "virtual")

    def host(self) -> str:
        """This machine's address as the board sees it.

        Raises:
            BoardError: `no_network`: the board has no address; `unreachable`.
        """
        listen = address.parse(self.info["listen"])
        if listen.transport in RADIOS or ipaddress.ip_address(listen.host).is_unspecified:
            raise BoardError(
                "no_network",
                f"{self.board.name} is on no network: give it one by `configure`, or start the "
                "transport's first run when it is",
            )
        return facing(listen)

    def configure(
        self, transport: str, following: Address | None, *, family: int, mtu: int, timeout_ms: int
    ) -> Address:
        """Make it the stage before `following`; returns where it listens.

        Raises:
            BoardError: `stage_mismatch`, `bad_setting`, `no_network`, `gone`, `no_answer` ...
        """
        wanted: dict[str, Any] = {
            "next": None if following is None else str(following),
            "mtu": mtu,
            "timeout_ms": timeout_ms,
        }
        if address.parse(self.info["listen"]).transport != transport:
            wanted["listen"] = self._listen(transport, family)
        if self._virtual:
            wanted["stage"] = self._stage  # A real board has the stage of its image.
        elif self.info["stage"] != self._stage:
            self._wrong_stage()
        now = self.board.ask("configure", set={})
        changes = {name: value for name, value in wanted.items() if now.get(name) != value}
        if changes:
            self.board.ask("configure", set=changes)
            self.info = self.board.reboot(BOOT_TIMEOUT_S)
            self._check_bundle()
        if self.info.get("problem"):
            raise BoardError("bad_setting", f"{self.board.name}: {self.info['problem']}")
        if self.info["stage"] != self._stage:
            self._wrong_stage()
        return address.parse(self.info["listen"])

    def _listen(self, transport: str, family: int) -> str:
        """A place of its own on another transport than it has."""
        if transport == "ble":
            return f"ble://{self.info['name']}"
        if transport == "espnow":
            return "espnow://00:00:00:00:00:00"
        if self._virtual:
            return f"{transport}://{_LOOPBACK[family]}:0"
        return f"{transport}://{_ANY[family]}:{PORT}"

    def _check_bundle(self) -> None:
        found = self.info.get("bundle")
        if found != self._bundle:
            holds = f"bundle {found[:BUNDLE_SHOWN]}" if found else "no bundle"
            raise BoardError(
                "bundle_mismatch",
                f"{self.board.name} holds {holds}, not {self._bundle[:BUNDLE_SHOWN]}: put this "
                "bundle's image on it first",
            )

    def _wrong_stage(self) -> None:
        raise BoardError(
            "stage_mismatch",
            f"{self.board.name} holds stage {self.info['stage']}, not {self._stage}: name the "
            "boards in stage order, or put that stage's image on it",
        )
