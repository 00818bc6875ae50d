"""Health, metrics and heads on HTTP: read only, and as open as the address it is given."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Final

from aiohttp import hdrs, web
from aiohttp.http import HttpProcessingError
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from host.gateway import hosts
from host.gateway.bundles import GatewayError
from host.gateway.metrics import Metrics
from host.gateway.service import Gateway
from host.link.driver import now_us

MOST_CONNECTIONS: Final = 64

_log = logging.getLogger(__name__)

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Http:
    """An asynchronous context manager. `address` is (host, port) once it is entered.

    /healthz: the process answers. /readyz: it serves, or 503 and why not. /metrics: for Prometheus.
    /heads: every head as JSON. Nothing here changes anything, so no request needs a token; one
    whose Host is not ours (`host.gateway.hosts`, and `names`) is answered 421. Beyond
    MOST_CONNECTIONS the oldest connection gives way: whoever
    opens many takes no files that heads and engines need.

    Raises (entering):
        GatewayError: the address cannot be had.
    """

    def __init__(
        self,
        host: str,
        port: int,
        gateway: Gateway,
        metrics: Metrics,
        names: Collection[str] = (),
    ) -> None:
        self.address = (host, port)
        self._told = frozenset(hosts.same(name) for name in (host, *names))
        self._machine: frozenset[str] = frozenset()
        self._gateway = gateway
        self._metrics = metrics
        app = web.Application(client_max_size=1024, middlewares=[self._for_us])
        app.router.add_get("/healthz", self._health)
        app.router.add_get("/readyz", self._ready)
        app.router.add_get("/metrics", self._show_metrics)
        app.router.add_get("/heads", self._heads)
        self._runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=1.0, logger=_log.getChild("server")
        )
        _log.getChild("server").addFilter(_is_ours)
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Http:
        host, port = self.address
        self._machine = await asyncio.to_thread(_own_names)
        try:
            await self._runner.setup()
            self._server = await asyncio.get_running_loop().create_server(
                self._connection, host, port, backlog=MOST_CONNECTIONS
            )
        except OSError as error:
            await self._runner.cleanup()
            raise GatewayError(
                f"--http: {host} port {port} cannot be had: {error.strerror or error}"
            ) from error
        self.address = self._server.sockets[0].getsockname()[:2]
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        await self._runner.cleanup()

    def _connection(self) -> asyncio.BaseProtocol:
        server = self._runner.server
        assert server is not None
        oldest_first = [
            one.transport
            for one in server.connections
            if one.transport is not None and not one.transport.is_closing()
        ]
        for transport in oldest_first[: max(len(oldest_first) + 1 - MOST_CONNECTIONS, 0)]:
            transport.abort()
        return server()

    @web.middleware
    async def _for_us(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        found = request.headers.getall(hdrs.HOST, [])
        transport = request.transport
        if transport is None or (not found and request.version < (1, 1)):  # Of a probe, no browser.
            return await handler(request)
        here = transport.get_extra_info("sockname")[0]
        listens_on = self.address[0] if _is_wildcard(self.address[0]) else here
        if len(found) == 1 and hosts.is_ours(found[0], listens_on, self._told, self._machine):
            return await handler(request)
        text = "this gateway goes by another name; --http-host NAME tells it of further ones"
        return web.json_response(
            {"error": {"code": "wrong_host", "message": text}},
            status=421,
            reason="Misdirected Request",
        )

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _ready(self, _: web.Request) -> web.Response:
        why = not_ready(self._gateway)
        return web.Response(text="ready\n") if why is None else web.Response(text=why, status=503)

    async def _show_metrics(self, _: web.Request) -> web.Response:
        body = generate_latest(self._metrics.registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _heads(self, _: web.Request) -> web.Response:
        return web.json_response(heads(self._gateway))


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether it is about this program: whoever sends what is no HTTP is told so and no more."""
    return record.exc_info is None or not isinstance(record.exc_info[1], HttpProcessingError)


def _is_wildcard(address: str) -> bool:
    return address in ("0.0.0.0", "::")  # noqa: S104 - asked, not listened on.


def _own_names() -> frozenset[str]:
    """What this machine calls itself; may ask a name server."""
    name = socket.gethostname()
    return frozenset(hosts.same(one) for one in (name, f"{name}.local", socket.getfqdn()))


def not_ready(gateway: Gateway) -> str | None:
    """Why no head would be served now; None: it would."""
    if gateway.stopping:
        return "stopping\n"
    if not gateway.listeners:
        return "starting\n"
    for served in gateway.served:
        if served.retired_us is None and not gateway.pool.ready(served):
            return f"no engine has bundle {served.label}\n"
    return None


def heads(gateway: Gateway) -> list[dict[str, Any]]:
    """Every head that has a session."""
    now = now_us()
    found = []
    for listener in gateway.listeners:
        for head in listener.heads.values():
            clock = listener.endpoint.clock(head.peer, now)
            found.append(
                {
                    "head": head.name,
                    "transport": listener.kind,
                    "listener": listener.name,
                    "bundle": head.served.id,
                    "session": f"{head.session:08x}",
                    "sessions": head.sessions,
                    "up_s": round((now - head.opened_us) / 1e6, 3),
                    "requests": head.requests,
                    "errors": head.errors,
                    "waiting": len(head.waiting),
                    "working": head.taken,
                    "rtt_us": None if clock is None else round(2 * clock.uncertainty_us),
                    "rssi_dbm": None,
                }
            )
    return found
