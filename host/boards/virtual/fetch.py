"""A virtual board's downloads, as firmware/main/fetch.c does them: range requests, from where it
stopped.

A thread reads the network and never touches the slots: it hands pieces to the board's own thread,
which asks `step` for them between two rounds of its link. A server is not believed in anything:
the image's header says how long it is, its digest what it is.
"""

from __future__ import annotations

import contextlib
import http.client
import queue
import re
import ssl
import threading
import urllib.parse
from collections.abc import Callable
from typing import Protocol

from partitioner import image

TIMEOUT_S = 10.0  # Without a byte.
TRIES = 5  # In a row without a byte of progress.
PAUSE_S = 0.5
PIECE_BYTES = 4096
_WAITING = 8
_STEP_S = 0.05
LOST = "peer_lost"  # SPEC.md section 11: the server does not answer, or not as servers do.
CHANGED = "image_digest"  # IMAGE.md section 9: what it has is not what was announced.
BUSY, OK = "busy", "ok"


class Target(Protocol):
    """Who takes the bytes; each raises an error with a `code`."""

    def begin(self, header: bytes, digest: bytes) -> int: ...
    def write(self, offset: int, data: bytes) -> None: ...
    def finish(self) -> None: ...


class _LostError(Exception):
    """A connection that may be tried again."""


class _ChangedError(Exception):
    """What the server has is something else than before."""


class Fetch:
    """A download that has begun. `state` is `busy`, then `ok` or the name of an error.

    Args:
        url: http:// or https://; not shown to anybody, for whoever knows it can read the image.
        ca: the certificate (PEM) that the server is checked with; None: the common authorities.
    """

    def __init__(self, url: str, digest: bytes, ca: str | None = None) -> None:
        self.state = BUSY
        self.offset = 0
        self._url = urllib.parse.urlsplit(url)
        self._digest = digest
        self._ca = ca
        self._etag: str | None = None
        self._work: queue.Queue[Callable[[Target], None]] = queue.Queue(_WAITING)
        self._offsets: queue.Queue[int] = queue.Queue()
        self._over = threading.Event()
        threading.Thread(target=self._run, name="fetch", daemon=True).start()

    def step(self, target: Target) -> None:
        """Give `target` what has come."""
        with contextlib.suppress(queue.Empty):
            for _ in range(_WAITING):
                if self._over.is_set():
                    return
                work = self._work.get_nowait()
                try:
                    work(target)
                except Exception as error:  # A refusal, or a defect that must not end the board.
                    self.cancel(getattr(error, "code", "refused"))

    def cancel(self, state: str) -> None:
        """End it."""
        self.state = state
        self._over.set()

    def _hand(self, work: Callable[[Target], None]) -> None:
        while not self._over.is_set():
            with contextlib.suppress(queue.Full):
                self._work.put(work, timeout=_STEP_S)
                return

    def _run(self) -> None:
        code = LOST
        try:
            total = self._retried(self._begin)
            if total is not None:
                code = self._rest(total)
        except _ChangedError:
            code = CHANGED
        except Exception:  # Whatever a server can make the libraries raise.
            code = LOST
        if code != OK:
            self._hand(lambda _: self.cancel(code))

    def _retried(self, attempt: Callable[[], int | None]) -> int | None:
        for number in range(TRIES):
            if number and self._over.wait(PAUSE_S):
                return None
            with contextlib.suppress(_LostError, OSError, http.client.HTTPException):
                return attempt()
        return None

    def _begin(self) -> int | None:
        """Read the header and begin the update; the image's length. None: it was refused."""
        with contextlib.closing(self._connect()) as connection:
            response = self._request(connection, 0, image.HEADER_BYTES)
            header = response.read(image.HEADER_BYTES)
        if len(header) != image.HEADER_BYTES:
            raise _LostError
        self._hand(lambda target: self._offsets.put(target.begin(header, self._digest)))
        while not self._over.is_set():
            with contextlib.suppress(queue.Empty):
                self.offset = self._offsets.get(timeout=_STEP_S)
                return int.from_bytes(header[8:12], "little")
        return None

    def _rest(self, total: int) -> str:
        tries = 0
        while self.offset < total and not self._over.is_set():
            if tries == TRIES:
                return LOST
            if tries and self._over.wait(PAUSE_S):
                break
            before = self.offset
            with contextlib.suppress(_LostError, OSError, http.client.HTTPException):
                self._take(total)
            tries = 0 if self.offset > before else tries + 1

        def finish(target: Target) -> None:
            target.finish()
            self.cancel(OK)

        self._hand(finish)
        return OK

    def _take(self, total: int) -> None:
        """What one connection gives."""
        with contextlib.closing(self._connect()) as connection:
            response = self._request(connection, self.offset, None, total)
            while self.offset < total and not self._over.is_set():
                data = response.read1(min(PIECE_BYTES, total - self.offset))
                if not data:
                    return
                at = self.offset
                self._hand(lambda target, at=at, data=data: target.write(at, data))  # type: ignore[misc]
                self.offset += len(data)

    def _connect(self) -> http.client.HTTPConnection:
        host = self._url.hostname or ""
        if self._url.scheme == "https":
            context = ssl.create_default_context(cadata=self._ca)
            return http.client.HTTPSConnection(
                host, self._url.port, timeout=TIMEOUT_S, context=context
            )
        return http.client.HTTPConnection(host, self._url.port, timeout=TIMEOUT_S)

    def _request(
        self,
        connection: http.client.HTTPConnection,
        start: int,
        end: int | None,
        total: int | None = None,
    ) -> http.client.HTTPResponse:
        wanted = {"Range": f"bytes={start}-{'' if end is None else end - 1}"}
        if self._etag is not None:
            wanted["If-Range"] = self._etag
        query = f"?{self._url.query}" if self._url.query else ""
        connection.request("GET", (self._url.path or "/") + query, headers=wanted)
        response = connection.getresponse()
        if response.status == 200 and start > 0:
            raise _ChangedError
        if response.status not in (200, 206):
            raise _LostError
        if response.status == 206:
            said = re.fullmatch(
                r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "")
            )
            if said is None or int(said[1]) != start:
                raise _LostError
            if total is not None and said[2] not in ("*", str(total)):
                raise _ChangedError
        etag = response.headers.get("ETag")
        if self._etag is not None and etag != self._etag:
            raise _ChangedError
        # RFC 9110 13.1.5: only a strong validator goes with If-Range.
        if self._etag is None and etag is not None and not etag.startswith("W/"):
            self._etag = etag
        return response
