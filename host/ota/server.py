"""The server that boards download images from: GET with a range, under names nobody can guess.

An image is there for as long as the server runs. The way to it carries 128 random bits, is told
to the board alone and is never logged; what is served is signed and no secret, so plain HTTP
gives away a model, but never changes one. Boards may call this machine by any name or address: a
page in a browser that gets here under its own name (DNS rebinding) lacks the way as anybody does.
"""

from __future__ import annotations

import ipaddress
import re
import secrets
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

from host.ota.shipment import Shipment
from models.errors import TinysplitError

_TOKEN_BYTES = 16
_TIMEOUT_S = 30.0
_CHUNK_BYTES = 16384


class ServerError(TinysplitError):
    """The server cannot start."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "tinysplit"
    sys_version = ""
    timeout = _TIMEOUT_S

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # As the base has it.
        """Ways are not logged."""

    def do_GET(self) -> None:
        found: tuple[bytes, str] | None = self.server.served.get(self.path)  # type: ignore[attr-defined]
        if found is None:
            self.send_error(404)
            return
        data, etag = found
        start, end = self._range(len(data), etag)
        if start >= end:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(data)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        partial = (start, end) != (0, len(data))
        self.send_response(206 if partial else 200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", etag)
        self.send_header("Content-Length", str(end - start))
        if partial:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
        self.end_headers()
        for at in range(start, end, _CHUNK_BYTES):
            self.wfile.write(data[at : min(at + _CHUNK_BYTES, end)])

    def _range(self, length: int, etag: str) -> tuple[int, int]:
        """Which bytes are wanted, RFC 9110 section 14: one range from an offset, or all."""
        match = re.fullmatch(r"bytes=(\d{1,12})-(\d{0,12})", self.headers.get("Range", ""))
        if match is None or self.headers.get("If-Range", etag) != etag:
            return 0, length
        return int(match[1]), min(int(match[2]) + 1 if match[2] else length, length)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, place: tuple[str, int]) -> None:
        self.served: dict[str, tuple[bytes, str]] = {}
        self.context: ssl.SSLContext | None = None
        if ":" in place[0]:
            import socket

            self.address_family = socket.AF_INET6
        super().__init__(place, _Handler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """In the request's own thread, so that a slow handshake keeps nobody waiting."""
        request.settimeout(_TIMEOUT_S)
        if self.context is None:
            super().finish_request(request, client_address)
            return
        with self.context.wrap_socket(request, server_side=True) as secure:
            super().finish_request(secure, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A board that left, or does not trust us: it says so itself."""


class ImageServer:
    """Serves images while entered.

    Args:
        host: the address of this machine that boards reach; port 0: any.
        certificate, key: files in PEM for HTTPS; None: HTTP.

    Raises (entering):
        ServerError: the address or the certificate cannot be used.
    """

    def __init__(
        self,
        host: str = "0.0.0.0",  # noqa: S104  # Boards are on the network.
        port: int = 0,
        certificate: Path | None = None,
        key: Path | None = None,
    ) -> None:
        self._place = host, port
        self._certificate, self._key = certificate, key
        self._server: _Server | None = None

    def __enter__(self) -> ImageServer:
        context = None
        try:
            if self._certificate is not None:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.minimum_version = ssl.TLSVersion.TLSv1_2
                context.load_cert_chain(self._certificate, self._key)
            self._server = _Server(self._place)
        except (OSError, OverflowError) as error:
            where = f"{self._place[0]} port {self._place[1]}"
            why = getattr(error, "strerror", None) or error
            raise ServerError(f"cannot serve images at {where}: {why}") from error
        self._server.context = context
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    @property
    def everywhere(self) -> bool:
        """It listens on all of this machine's addresses."""
        return ipaddress.ip_address(self._place[0]).is_unspecified

    @property
    def host(self) -> str:
        return self._place[0]

    def url(self, image: Shipment, host: str) -> str:
        """Where `image` is from now on, for who reaches this machine at `host`. A secret."""
        assert self._server is not None
        way = f"/{secrets.token_hex(_TOKEN_BYTES)}"
        self._server.served[way] = image.data, f'"{image.digest}"'
        scheme = "http" if self._server.context is None else "https"
        shown = f"[{host}]" if ":" in host else host
        return f"{scheme}://{shown}:{self._server.server_address[1]}{way}"
