"""Boards on the network, found in two ways at once.

- A HELLO that nobody can accept, for no version of the protocol, goes to everybody on the port
  where boards listen for UDP. Whoever speaks the protocol refuses it, without keeping anything,
  and says in the refusal who it is (SPEC.md sections 2 and 2.2). A name and a firmware version
  it does not say.
- mDNS (RFC 6762) names services `_tinysplit._udp` and `_tinysplit._tcp`; a TXT record has what a
  refusal has, and those two.
"""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from host.boards.address import Address
from host.boards.discovery.found import FoundBoard, Search, described
from host.link.errors import ErrorCode
from host.link.frames import Hello, Kind, decode_hello
from host.link.messages import HOST_STAGE
from host.link.session import NO_BUNDLE, Role

PORT = 4000
SERVICES = ("_tinysplit._udp.local.", "_tinysplit._tcp.local.")
_ASK_AGAIN_S = 0.3
_RESOLVE_MS = 1000
_NOT_INSTALLED = "pip install 'tinysplit[boards]'"
Place = tuple[str, int]


def refused_hello(nonce: int) -> bytes:
    """A HELLO for version 0, which no node speaks: all refuse it before they keep anything."""
    hello = Hello(version_max=0, version_min=0, initiator_nonce=nonce, role=Role.HOST)
    return hello.encode(Kind.HELLO)


def read_refusal(frame: bytes, nonce: int) -> dict[str, Any] | None:
    """Who refused, as `described` takes it; None for what is no answer to this HELLO."""
    hello = decode_hello(frame, Kind.HELLO_ACK)
    if hello is None or hello.initiator_nonce != nonce or hello.status == ErrorCode.OK:
        return None
    try:
        role = Role(hello.role).name.lower()
    except ValueError:
        return None
    staged = hello.stage != HOST_STAGE
    return {
        "role": role,
        "stage": hello.stage if staged else None,
        "stages": hello.stage_count if staged else None,
        "bundle": "" if hello.bundle == NO_BUNDLE else hello.bundle.hex(),
    }


class _Asker(asyncio.DatagramProtocol):
    """Keeps the refusals that come in."""

    def __init__(self, nonce: int) -> None:
        self._nonce = nonce
        self.answers: dict[Place, dict[str, Any]] = {}

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        said = read_refusal(data, self._nonce)
        if said is not None:
            self.answers[addr[0], addr[1]] = said


def broadcasts(networks: Iterable[str]) -> list[str]:
    """Where a datagram reaches everybody in the networks of interfaces like `192.168.1.7/24`."""
    found = []
    for text in networks:
        interface = ipaddress.IPv4Interface(text)
        if interface.is_loopback:
            found.append(str(interface.ip))  # Who listens there alone hears no broadcast.
        if interface.network.prefixlen < 31:
            found.append(str(interface.network.broadcast_address))
    return found


class _Browser:
    """What mDNS says, by where it is."""

    def __init__(self) -> None:
        self.services: dict[tuple[str, Place], dict[str, Any]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, zeroconf: Any, service_type: str, name: str, state_change: Any) -> None:
        task = asyncio.get_running_loop().create_task(self._resolve(zeroconf, service_type, name))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _resolve(self, zeroconf: Any, service_type: str, name: str) -> None:
        from zeroconf.asyncio import AsyncServiceInfo

        service = AsyncServiceInfo(service_type, name)
        if not await service.async_request(zeroconf, _RESOLVE_MS) or service.port is None:
            return
        transport = "tcp" if "._tcp." in service_type else "udp"
        said = read_text(service.decoded_properties)
        said.setdefault("name", name.removesuffix(f".{service_type}"))
        for host in service.parsed_addresses():
            self.services[transport, (host, service.port)] = said

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def read_text(record: Mapping[str, str | None]) -> dict[str, Any]:
    """A TXT record as `described` takes it."""
    said: dict[str, Any] = dict(record)
    for name in ("stage", "stages"):
        value = said.get(name)
        said[name] = int(value) if isinstance(value, str) and value.isdecimal() else None
    return said


def search(timeout_s: float, port: int = PORT) -> Search:
    """Ask and listen for so long."""
    try:
        import ifaddr
        import zeroconf  # noqa: F401
    except ModuleNotFoundError as error:
        return Search("network", note=f"not looked for: {error.name} is missing ({_NOT_INSTALLED})")
    networks = [
        f"{ip.ip}/{ip.network_prefix}"
        for adapter in ifaddr.get_adapters()
        for ip in adapter.ips
        if ip.is_IPv4
    ]
    try:
        boards = asyncio.run(_search(timeout_s, port, networks))
    except OSError as error:
        return Search("network", note=f"not looked for: {error.strerror}")
    return Search("network", boards, "" if boards else "no board answers or is announced")


async def _search(timeout_s: float, port: int, networks: list[str]) -> tuple[FoundBoard, ...]:
    from zeroconf.asyncio import AsyncServiceBrowser, AsyncZeroconf

    loop = asyncio.get_running_loop()
    nonce = secrets.randbelow(0xFFFFFFFF) + 1
    transport, asker = await loop.create_datagram_endpoint(
        lambda: _Asker(nonce), family=socket.AF_INET, allow_broadcast=True
    )
    browser = _Browser()
    try:
        async with AsyncZeroconf() as mdns:
            listening = AsyncServiceBrowser(mdns.zeroconf, list(SERVICES), handlers=[browser])
            everybody = [(host, port) for host in broadcasts(networks)]
            end = loop.time() + timeout_s
            while (left := end - loop.time()) > 0:
                named = [place for kind, place in browser.services if kind == "udp"]
                for place in {*everybody, *named}:
                    if ":" not in place[0]:
                        transport.sendto(refused_hello(nonce), place)
                await asyncio.sleep(min(left, _ASK_AGAIN_S))
            await listening.async_cancel()
            await browser.close()
    finally:
        transport.close()
    own = {text.partition("/")[0] for text in networks}
    return merged(asker.answers, browser.services, own)


def merged(
    answers: Mapping[Place, Mapping[str, Any]],
    services: Mapping[tuple[str, Place], Mapping[str, Any]],
    own: set[str],
) -> tuple[FoundBoard, ...]:
    """One board for each place that answered or was named, with all that is known of it.

    A board of this machine (one of the addresses `own`) may have answered by several of them.
    """
    known: dict[tuple[str, Place], dict[str, Any]] = {}
    for place, said in answers.items():
        known["udp", place] = dict(said)
    for key, said in services.items():
        filled = {name: value for name, value in said.items() if value is not None}
        known[key] = {**known.get(key, {}), **filled}
    boards: dict[tuple[Any, ...], FoundBoard] = {}
    for (transport, (host, port)), said in sorted(known.items(), key=lambda item: str(item[0])):
        found = described("network", str(Address(transport, host, port)), said)
        who = (found.stage, found.bundle) if host in own else host
        boards.setdefault((transport, port, who), found)
    return tuple(boards.values())


@contextmanager
def announced(place: Address, said: Mapping[str, Any]) -> Iterator[None]:
    """mDNS tells of a board meanwhile. It answers on `place`; `said` is as in its `info`."""
    import zeroconf

    service = SERVICES[place.transport == "tcp"]
    wanted = ("name", "role", "stage", "stages", "bundle", "firmware")
    anywhere = ipaddress.ip_address(place.host).is_unspecified
    about = zeroconf.ServiceInfo(
        service,
        f"{said['name']}.{service}",
        port=place.port,
        properties={name: str(said[name]) for name in wanted if said.get(name) is not None},
        server=f"{said['name']}.local.",
        parsed_addresses=_own_hosts() if anywhere else [place.host],
    )
    everywhere = zeroconf.InterfaceChoice.All
    mdns = zeroconf.Zeroconf(interfaces=everywhere if anywhere else [place.host])
    try:
        mdns.register_service(about, allow_name_change=True)
        yield
    finally:
        mdns.close()


def _own_hosts() -> list[str]:
    import ifaddr

    addresses = [ip.ip for a in ifaddr.get_adapters() for ip in a.ips if isinstance(ip.ip, str)]
    return [ip for ip in addresses if not ip.startswith("127.")] or addresses
