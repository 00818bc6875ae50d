"""Which requests of HTTP are for a gateway, by their Host."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from host.gateway.hosts import is_ours
from host.gateway.http import Http
from host.gateway.metrics import Metrics
from host.gateway.service import Gateway

TOLD = ("gateway.lab", "2001:db8::7")
MACHINE = ("bench3", "bench3.local")


@pytest.mark.parametrize(
    ("listens_on", "ours", "not_ours"),
    [
        (
            "127.0.0.1",
            ["localhost", "LocalHost.:9464", "127.0.0.1:9464", "127.1.2.3", "[::1]:9464"],
            ["bench3", "evil.example", "192.168.1.5", "localhost.evil.example"],
        ),
        ("::1", ["localhost", "[::1]", "127.0.0.1"], ["evil.example", "[::2]", "::1:x"]),
        (
            "192.168.1.5",
            ["192.168.1.5", "192.168.1.5:80"],
            ["localhost", "127.0.0.1", "192.168.1.6", "bench3"],
        ),
        (
            "0.0.0.0",
            ["localhost", "bench3:9464", "bench3.local", "10.0.0.1", "[fe80::1]:80"],
            ["evil.example", "bench3.evil.example"],
        ),
        ("fe80::1%eth0", ["[fe80::1]"], ["evil.example"]),
    ],
)
def test_names_and_addresses(listens_on: str, ours: list[str], not_ours: list[str]) -> None:
    for header in (*ours, "gateway.lab", "GATEWAY.lab.:443", "[2001:db8::7]:9464"):
        assert is_ours(header, listens_on, TOLD, MACHINE), header
    nonsense = [
        "",
        ":80",
        "a b",
        "localhost,evil",
        "localhost:80:80",
        "localhost\n",
        "[]",
        "a" * 300,
    ]
    for header in (*not_ours, *nonsense, "me@localhost", "localhost/"):
        assert not is_ours(header, listens_on, TOLD, MACHINE), header


async def _ask(http: Http, request: str) -> tuple[int, str]:
    reader, writer = await asyncio.open_connection(*http.address)
    writer.write(request.encode())
    answer = (await reader.read()).decode()
    writer.close()
    head, _, body = answer.partition("\r\n\r\n")
    return int(head.split()[1]), body


def test_who_was_led_here_under_a_name_of_theirs_reads_nothing(
    pair_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def go() -> None:
        gateway = Gateway([pair_folder], [])
        async with Http("127.0.0.1", 0, gateway, Metrics(gateway), ["Gateway.Lab"]) as http:
            end = "Connection: close\r\n\r\n"
            for path in ("/healthz", "/readyz", "/metrics", "/heads", "/absent"):
                request = f"GET {path} HTTP/1.1\r\nHost: evil.example:9464\r\n{end}"
                status, body = await _ask(http, request)
                assert (status, json.loads(body)["error"]["code"]) == (421, "wrong_host")
            request = f"GET /healthz HTTP/1.1\r\nHost: gateway.lab\r\n{end}"
            assert await _ask(http, request) == (200, "ok\n")
            assert (await _ask(http, f"GET /healthz HTTP/1.1\r\n{end}"))[0] in (400, 421)
            assert await _ask(http, "GET /healthz HTTP/1.0\r\n\r\n") == (200, "ok\n")
            two = f"GET /heads HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n{end}"
            assert (await _ask(http, two))[0] in (400, 421)
            change = f"POST /heads HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n{end}"
            assert (await _ask(http, change))[0] == 405
            assert (await _ask(http, "no HTTP at all\r\n\r\n"))[0] == 400

    asyncio.run(go())
    assert not caplog.records  # What strangers send fills no log.


def test_everywhere_it_goes_by_the_machines_names(
    pair_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "bench3")

    async def go() -> None:
        gateway = Gateway([pair_folder], [])
        async with Http("0.0.0.0", 0, gateway, Metrics(gateway)) as http:
            for host, status in (("bench3.local", 200), ("10.1.2.3", 200), ("evil.example", 421)):
                request = f"GET /healthz HTTP/1.0\r\nHost: {host}\r\n\r\n"
                assert (await _ask(http, request))[0] == status, host

    asyncio.run(go())
