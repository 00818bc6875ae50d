"""ESP-NOW for virtual boards: the radio in the board's process, the ether in its host's."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import asdict
from types import TracebackType
from typing import Any, Final

from host.boards import address
from host.boards.address import Address
from host.boards.bridge import open_bridge
from host.boards.virtual.process import VirtualBridge
from host.boards.virtual.radio import Air, AirCounts, Radio, RadioSetup
from host.link.espnow import monitor
from host.link.espnow.ether import Ether, Station
from host.link.espnow.frames import MAX_DATA
from host.link.espnow.keys import LMK_VARIABLE, PMK_VARIABLE, from_environment
from host.link.espnow.medium import Medium
from host.link.espnow.monitor import MonitorStation
from host.link.espnow.radio import DEFAULT_PMK, MAX_PEERS, EspNow, profile
from host.link.impairment import Impairment
from host.link.transport import ServerTransport, TransportError
from partitioner.cost.wifi import DEFAULT_RATE, RATES

MAX_OUTSTANDING: Final = 2  # Frames at the ether: one on the air, and the next.
_REJOIN_S: Final = 0.5


class EspNowRadio(Radio):
    """ESP-NOW on an ether, or with `air` `monitor://mon0` on a card in monitor mode.

    Settings: `channel`, `espnow_version`, `espnow_rate`, `espnow_peers`. Keys come from the
    environment. With an LMK all peers are encrypted; those that may call first have to be named
    in `espnow_peers`, for a chip opens encrypted packets of known peers only. Others are made
    peers when there is something to send to them; a full table forgets who was sent to longest ago.
    """

    transport = "espnow"

    def __init__(self, setup: RadioSetup) -> None:
        settings = setup.settings
        version = settings.get("espnow_version", 1)
        self._lmk = from_environment(LMK_VARIABLE, "LMK")
        self._now = EspNow(
            _mac(setup.own),
            channel=settings.get("channel", 1),
            version=version,
            rate_name=settings.get("espnow_rate", DEFAULT_RATE),
            pmk=from_environment(PMK_VARIABLE, "PMK") or DEFAULT_PMK,
        )
        if setup.air.startswith(monitor.SCHEME):
            monitor.check_rate(self._now.rate)
        known = [address.parse(text) for text in settings.get("espnow_peers", [])]
        if setup.next is not None:
            known.append(setup.next)
        for mac in dict.fromkeys(_mac(place) for place in known):
            if mac != self._now.mac:
                self._now.add_peer(mac, lmk=self._lmk)
        self.profile = profile(version)
        self._station: Station | MonitorStation | None = None
        self._rejoining: asyncio.Task[None] | None = None
        self._token = 0
        self._sent = self._acknowledged = self._attempts = 0
        super().__init__(setup)

    def peer(self, address: Address) -> bytes:
        return _mac(address)

    def describe(self) -> dict[str, Any]:
        now = self._now
        return {
            "transport": self.transport,
            "version": now.version,
            "rate": now.rate.name,
            "channel": now.channel,
            "frame_bytes": now.max_data,
            "encrypted": self._lmk is not None,
            "peers": len(now.peers),
            "sent": self._sent,
            "acknowledged": self._acknowledged,
            "attempts": self._attempts,
            "dropped": self.dropped,
            "problem": self.problem,
            **asdict(now.counters),
        }

    async def _open(self) -> None:
        self._room = asyncio.Semaphore(MAX_OUTSTANDING)
        self._waiting = 0
        await self._join()

    async def _join(self) -> None:
        on_card = self.setup.air.startswith(monitor.SCHEME)
        kind: type[MonitorStation | Station] = MonitorStation if on_card else Station
        station = kind(self._take, self._done, self._lost)
        await station.join(self.setup.air, self._now.mac, self._now.channel)
        self._station = station

    async def _send(self, to: bytes, frame: bytes) -> None:
        if to not in (peer.mac for peer in self._now.peers):
            if len(self._now.peers) >= MAX_PEERS:
                self._now.delete_peer(self._now.peers[0].mac)
            self._now.add_peer(to, lmk=self._lmk)
        packet, rate = self._now.frame_for(to, frame)
        await self._room.acquire()
        if self._station is None:
            self._room.release()
            raise TransportError(self.problem or "no ether")
        self._token = (self._token + 1) % (1 << 32)
        self._sent += 1
        self._waiting += 1
        try:
            self._station.submit(self._token, rate, packet)
        except TransportError:
            self._done(self._token, False, 0, 0)
            raise

    def _done(self, token: int, acknowledged: bool, attempts: int, us: int) -> None:
        self._acknowledged += acknowledged
        self._attempts += attempts
        self._waiting -= 1
        self._room.release()

    def _take(self, frame: bytes) -> None:
        found = self._now.receive(frame)
        if found is not None:
            self._received(*found)

    def _lost(self, error: TransportError) -> None:
        self.problem = str(error)
        self._station = None
        while self._waiting > 0:
            self._done(0, False, 0, 0)
        self._rejoining = asyncio.get_running_loop().create_task(self._rejoin())

    async def _rejoin(self) -> None:
        while self._station is None:
            await asyncio.sleep(_REJOIN_S)
            with contextlib.suppress(TransportError):
                await self._join()
        self.problem = None

    async def _close(self) -> None:
        if self._rejoining is not None:
            self._rejoining.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._rejoining
        if self._station is not None:
            self._station.close()


def _mac(place: Address) -> bytes:
    found = place.mac
    assert found is not None, "the schema admits nothing else"
    return found


class EspNowAir(Air):
    """An ether for a chain of virtual boards.

    `options`: those of `EspNowRadio` (without `espnow_peers`), `pmk` and `lmk` as bytes, and
    `stages`, how many there are.
    """

    def __init__(self, impairment: Impairment, options: Mapping[str, Any]) -> None:
        impairment.check_air("espnow")
        self._options = options
        self._keys = {
            PMK_VARIABLE: options.get("pmk") or from_environment(PMK_VARIABLE, "PMK"),
            LMK_VARIABLE: options.get("lmk") or from_environment(LMK_VARIABLE, "LMK"),
        }
        self._medium = Medium(
            loss=impairment.loss, corrupt=impairment.corrupt, seed=impairment.seed
        )
        self._ether = Ether(self._medium)
        self._bridge: VirtualBridge | None = None

    @property
    def place(self) -> str:  # type: ignore[override]
        return self._ether.place

    async def __aenter__(self) -> EspNowAir:
        await self._ether.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bridge is not None:
            self._bridge.close()
        await self._ether.__aexit__(kind, error, trace)

    def address(self, stage: int) -> Address:
        """Locally administered addresses (802-2014, 8.4), counted from the head's."""
        return Address("espnow", f"02:00:00:00:00:{stage + 1:02x}")

    def settings(self) -> dict[str, Any]:
        names = ("channel", "espnow_version", "espnow_rate")
        chosen = {n.replace("_", "-"): self._options[n] for n in names if n in self._options}
        if self._keys[LMK_VARIABLE] is not None:
            stages = range(self._options["stages"])
            chosen["espnow-peers"] = ",".join(str(self.address(s)) for s in stages)
        return chosen

    def environment(self) -> dict[str, str]:
        return {name: key.hex() for name, key in self._keys.items() if key is not None}

    def host_tail(self, stage: int) -> ServerTransport:
        """A virtual bridge in a process of its own, which lends its radio to this one."""
        settings = {"air": self.place, **self.settings()}
        self._bridge = VirtualBridge(
            self.address(stage), settings=settings, environment=self.environment()
        )
        return open_bridge(self._bridge.port)[1]

    def provenance(self) -> str:
        rate = RATES[self._options.get("espnow_rate", DEFAULT_RATE)]
        return f"modelled as IEEE 802.11 (airtime, contention, retry) at {rate.text}"

    def counts(self) -> AirCounts:
        tally = self._ether.tally
        lost = tally.lost + tally.corrupted + tally.collided
        return AirCounts(tally.attempts, lost, busy_us=round(tally.busy_us))

    def report(self, radios: list[dict[str, Any]]) -> list[str]:
        tally = self._ether.tally
        lines = [
            f"on the air (modelled): {tally.frames} frames in {tally.attempts} transmissions, "
            f"{tally.lost} lost, {tally.corrupted} damaged, {tally.acks_lost} acknowledgements "
            f"lost, {tally.collided} in collisions, {tally.given_up} given up; "
            f"busy for {tally.busy_us / 1e6:.2f} s"
        ]
        if not radios:  # `tinysplit air`: the boards are somebody else's.
            return lines
        first = radios[0]
        state = "encrypted (CCMP)" if first["encrypted"] else "not encrypted"
        version = min(radio["version"] for radio in radios)
        negotiated = (
            f"negotiated: ESP-NOW version {version}, {RATES[first['rate']].text}, channel "
            f"{first['channel']}, frames of up to {MAX_DATA[version]} bytes, {state}"
        )
        if self._bridge is not None:
            lines.append(
                "the tail's bridge: link and return contain the times of its wire (measured)"
            )
        return [negotiated, *lines]
