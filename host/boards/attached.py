"""A board that is there already, made a stage of a chain over its control line.

It is given its neighbours' addresses and restarted, if they are not what it has. Its bundle and
its stage are those of the image it holds; they are checked, before and after.
"""

from __future__ import annotations

import ipaddress
import time
from typing import Any

from host.boards import address
from host.boards.address import RADIOS, Address
from host.boards.board import ANSWER_TIMEOUT_S, BoardError, ForeignBoard
from host.boards.serial import facing

_ANY = {4: "0.0.0.0", 6: "[::]"}  # noqa: S104  # The board's interfaces, not this machine's.
_LOOPBACK = {4: "127.0.0.1", 6: "[::1]"}
_UNSAID = {"codec": "raw"}  # What a board does whose firmware does not know the setting.
_NETWORK_TIMEOUT_S = 30.0
_ASK_AGAIN_S = 0.5
PORT = 4000  # Where boards listen for UDP and TCP.
BOOT_TIMEOUT_S = 60.0
BUNDLE_SHOWN = 12  # Digits of a bundle's id for people.


class AttachedBoard:
    """The board of a stage. `info` is what it last said of itself.

    Raises:
        BoardError: `no_answer`, `bundle_mismatch` and whatever else goes wrong, by name.
    """

    def __init__(
        self,
        board: ForeignBoard,
        stage: int,
        bundle: str,
        timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> None:
        self.board = board
        self._stage = stage
        self._bundle = bundle
        self._learn(board.greet(timeout_s))

    @property
    def what(self) -> str:
        """The board, for people."""
        kinds = {"virtual": "a virtual board", "emulated": "an emulated board"}
        return f"{kinds.get(self.info['kind'], 'a board')} on {self.board.port}"

    @property
    def provenance(self) -> str:
        """How times by the board's clock come about."""
        return "emulated" if self.info["kind"] == "emulated" else self.board.provenance

    @property
    def _virtual(self) -> bool:
        return bool(self.info["kind"] == "virtual")

    def join(self, transport: str, family: int) -> None:
        """Bring it onto the network of `transport`, if it was on another."""
        if transport in RADIOS:
            return
        nowhere = f"{transport}://{_LOOPBACK[family]}:9"  # The port of `discard`.
        wanted = self._listen(transport, family)
        if "listen" in wanted:
            now = self.board.ask("configure", set={})
            self._set({**wanted, **({"next": nowhere} if now.get("next") else {})})

    def _set(self, wanted: dict[str, Any]) -> None:
        """Change what is not so already, and restart it then."""
        now = self.board.ask("configure", set={})
        now = {**_UNSAID, **now}
        changes = {name: value for name, value in wanted.items() if now.get(name) != value}
        if changes:
            self.board.ask("configure", set=changes)
            self._learn(self.board.reboot(BOOT_TIMEOUT_S))
        if self.info.get("problem"):
            raise BoardError("bad_setting", f"{self.board.name}: {self.info['problem']}")

    def host(self) -> str:
        """This machine's address as the board sees it.

        Raises:
            BoardError: `no_network`: the board has no address; `unreachable`.
        """
        return facing(self._wait_for_address())

    def _wait_for_address(self) -> Address:
        """Where it listens, once it has joined its network. Raises BoardError `no_network`."""
        deadline = time.monotonic() + _NETWORK_TIMEOUT_S
        while True:
            listen = address.parse(self.info["listen"])
            if not _is_anywhere(listen):
                return listen
            if time.monotonic() > deadline:
                raise BoardError(
                    "no_network",
                    f"{self.board.name} has no address after {_NETWORK_TIMEOUT_S:.0f} s: is its "
                    "network configured and in range?",
                )
            time.sleep(_ASK_AGAIN_S)
            self._learn(self.board.ask("info"))

    def configure(
        self,
        transport: str,
        following: Address | None,
        *,
        family: int,
        mtu: int,
        timeout_ms: int,
        codec: str = "raw",
        needs_address: bool,
        **others: Any,
    ) -> Address:
        """Make it the stage before `following`; returns where it listens.

        With `needs_address` not before it has joined its network. `others` are further settings.

        Raises:
            BoardError: `stage_mismatch`, `bad_setting`, `no_network`, `gone`, `no_answer` ...
        """
        wanted: dict[str, Any] = {
            "next": None if following is None else str(following),
            "mtu": mtu,
            "timeout_ms": timeout_ms,
            "codec": codec,
            **self._listen(transport, family),
            **others,
        }
        if self._virtual:
            wanted["stage"] = self._stage  # A real board has the stage of its image.
        elif self.info.get("stage") != self._stage:
            self._wrong_stage()
        self._set(wanted)
        if self.info.get("stage") != self._stage:
            self._wrong_stage()
        return self._wait_for_address() if needs_address else address.parse(self.info["listen"])

    def _listen(self, transport: str, family: int) -> dict[str, str]:
        """The setting `listen`, if it is on another transport now."""
        if address.parse(self.info["listen"]).transport == transport:
            return {}
        if transport == "ble":
            return {"listen": f"ble://{self.info['name']}"}
        if transport == "espnow":
            return {"listen": "espnow://00:00:00:00:00:00"}
        if self._virtual:
            return {"listen": f"{transport}://{_LOOPBACK[family]}:0"}
        return {"listen": f"{transport}://{_ANY[family]}:{PORT}"}

    def _learn(self, info: dict[str, Any]) -> None:
        """What the board says of itself, looked at: what answers may be anything."""
        text = ("kind", "name", "listen")
        whole = all(isinstance(info.get(name), str) for name in text) and isinstance(
            info.get("bundle"), str | None
        )
        if not whole:
            raise BoardError(
                "malformed",
                f"{self.board.name} answers `info` with something else; other firmware?",
            )
        address.parse(info["listen"])
        self.info = info
        found = self.info.get("bundle")
        if found != self._bundle:
            holds = f"bundle {found[:BUNDLE_SHOWN]}" if found else "no bundle"
            if not found and self.info.get("problem"):
                holds += f" ({self.info['problem']})"
            raise BoardError(
                "bundle_mismatch",
                f"{self.board.name} holds {holds}, not {self._bundle[:BUNDLE_SHOWN]}: put this "
                "bundle's image on it first",
            )

    def _wrong_stage(self) -> None:
        raise BoardError(
            "stage_mismatch",
            f"{self.board.name} holds stage {self.info.get('stage')}, not {self._stage}: name the "
            "boards in stage order, or put that stage's image on it",
        )


def _is_anywhere(listen: Address) -> bool:
    """Whether it is no address that others could use, but any of its own."""
    if listen.transport in RADIOS:
        return listen.mac is not None and not any(listen.mac)
    return ipaddress.ip_address(listen.host).is_unspecified
