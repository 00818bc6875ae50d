"""A board at the end of a link: commands as CONTROL messages, pieces of updates as BLOBs.

The board sees a host (SPEC.md section 2.2), whatever bundle it runs. A session that ends is not
opened again by itself: what was under way is over, and whoever asked begins anew.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import queue
import secrets
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from host.background import Background
from host.boards.board import ANSWER_TIMEOUT_S, Board, BoardError
from host.link.driver import LinkClient
from host.link.errors import LinkError
from host.link.messages import BLOB_HEADER_BYTES
from host.link.session import Node
from host.link.transport import ClientTransport, TransportError

SEND_TIMEOUT_S = 10.0
LONGEST_BLOB = 4096  # A sector of the board's flash.
_LOOK_S = 0.1
_GRACE_S = 5.0
_LAST_WORDS_S = 0.35  # How long firmware goes on after it has answered `reboot`.
_PAUSE_S = 0.02  # Before a board that restarts is called, and called again.
_RESTARTING_TIMEOUT_S = 2.0  # For its answer: the one that restarts may still have said HELLO.


class LinkedBoard(Board):
    """A board reached by sessions over the transports that `connect` makes, in `background`.

    `alone` is held while one is opened, where opening several at once does not go;
    `timeout_s` is how long that may take, and half as long as a message may; None: as the
    transport has it, and SEND_TIMEOUT_S; `stop`: as Board's.

    Raises:
        BoardError: by the name of the link's error (`no_peer` ...), or `unreachable`.
    """

    def __init__(
        self,
        name: str,
        background: Background,
        connect: Callable[[], ClientTransport],
        alone: AbstractContextManager[Any] | None = None,
        timeout_s: float | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        super().__init__(name)
        self.stop = stop
        self._last_id = secrets.randbelow(1 << 30)  # Late answers to another host are not ours.
        self._background = background
        self._connect = connect
        self._timeout_s = timeout_s
        self._alone = alone or contextlib.nullcontext()
        self._heard: queue.Queue[bytes] = queue.Queue()
        self._client: LinkClient | None = None
        self._longest_send_s = SEND_TIMEOUT_S if timeout_s is None else 2 * timeout_s
        self._send_timeout_s = self._longest_send_s
        self._open()
        try:
            self.kind = str(self.ask("info").get("kind"))
        except BaseException:
            self.close()  # Nobody else has it yet.
            raise

    def _open(self) -> None:
        transport = self._connect()
        profile = transport.profile
        if self._timeout_s is not None:
            profile = replace(profile, connect_deadline_us=int(self._timeout_s * 1e6))
        deadline_s = profile.connect_deadline_us / 1e6
        client = LinkClient(
            transport, Node.host(), profile=profile, on_control=self._hear, reconnect=False
        )
        with self._alone:
            self._run(client.__aenter__(), deadline_s)
        self._client = client

    def _hear(self, value: Any) -> None:
        self._heard.put(json.dumps(value).encode() + b"\n")

    def _run(self, work: Coroutine[Any, Any, Any], timeout_s: float) -> Any:
        try:
            return self._background.run(work, timeout_s + _GRACE_S, self.stop)
        except concurrent.futures.CancelledError as error:
            raise BoardError("cancelled", f"{self.name}: given up") from error
        except concurrent.futures.TimeoutError as error:
            raise BoardError("deadline", f"{self.name}: nothing comes of it") from error
        except LinkError as error:
            raise BoardError(error.name, f"{self.name}: {error}") from error
        except TransportError as error:
            raise BoardError("unreachable", f"{self.name}: {error}") from error

    def _session(self) -> LinkClient:
        if self._client is None or not self._client.largest_message:
            raise BoardError("gone", f"{self.name} is gone: the session with it ended")
        return self._client

    @property
    def largest_message(self) -> int:
        """The longest message that the board takes, bytes. Raises BoardError `gone`."""
        return self._session().largest_message

    @property
    def largest_blob(self) -> int:
        """The longest piece for `send_blob`, bytes. Raises BoardError `gone`."""
        return min(LONGEST_BLOB, self.largest_message - BLOB_HEADER_BYTES)

    def send_blob(self, owner: int, offset: int, total: int, piece: bytes) -> None:
        """A piece of an update of `owner`; returns when the board has it, not yet in flash.

        Raises:
            BoardError: it did not arrive.
        """
        sent = self._session().blob(owner, offset, total, piece, self._send_timeout_s)
        self._run(sent, self._send_timeout_s)

    def _send(self, line: bytes) -> None:
        sent = self._session().control(json.loads(line), self._send_timeout_s)
        self._run(sent, self._send_timeout_s)

    def _receive(self, timeout_s: float) -> bytes:
        end = time.monotonic() + timeout_s
        while True:
            left = max(end - time.monotonic(), 0)
            with contextlib.suppress(queue.Empty):
                return (
                    self._heard.get(timeout=min(left, _LOOK_S)) if left else self._heard.get(False)
                )
            self._session()
            if not left:
                return b""

    def reboot(self, timeout_s: float = ANSWER_TIMEOUT_S) -> dict[str, Any]:
        """As Board's; what it says of itself in a new session."""
        started = time.monotonic()
        try:
            self.ask("reboot", min(timeout_s, ANSWER_TIMEOUT_S))
        except BoardError as error:
            # The answer may be lost with the session; what the board says afterwards counts.
            if error.code not in ("gone", "no_answer", "reset", "deadline", "peer_lost"):
                raise
        try:
            self._send_timeout_s = _RESTARTING_TIMEOUT_S
            return self._meet_again(started, timeout_s)
        finally:
            self._send_timeout_s = self._longest_send_s

    def _meet_again(self, started: float, timeout_s: float) -> dict[str, Any]:
        self.close()
        time.sleep(_PAUSE_S if self.kind == "virtual" else _LAST_WORDS_S)
        while True:
            self.close()
            time.sleep(_PAUSE_S)
            since_s = time.monotonic() - started
            try:
                self._open()
                info = self.ask("info", _RESTARTING_TIMEOUT_S)
            except BoardError:
                self._check_stop()
                if since_s > timeout_s:
                    raise
                continue
            since_s = time.monotonic() - started
            uptime_ms = info.get("uptime_ms", 0)
            if isinstance(uptime_ms, int | float) and uptime_ms <= since_s * 1000:
                return info
            if since_s > timeout_s:
                raise BoardError("no_answer", f"{self.name} does not restart")

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(concurrent.futures.TimeoutError):
                self._background.run(client.close())
