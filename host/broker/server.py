"""The broker's edge: sockets with or without TLS, deadlines, passwords, and its two files."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from host.broker import access, lasting, packets, users
from host.broker.broker import Broker, Lasting, Limits, Session
from host.broker.log import Log
from host.broker.packets import Connect, Parser, ProtocolError
from host.broker.tls import Channel
from host.broker.users import Checker, UsersError
from models.errors import TinysplitError

_FIRST_PACKET_BYTES = 16 << 10  # Of who has not logged in: CONNECT, with a will.
_LOGIN_S = 5.0  # From the connection to the CONNECT, TLS included.
# A flood ends its own connections, not those of boards: what is too much goes at the cost of the
# address that has most of it.
_PENDING = 1000  # Connections that have not logged in.
_WAITING_LOGINS = 200  # Passwords to be checked, at some 25 a second for each hasher.
_HASHERS = 2
_UNSENT_BYTES = 2 << 20  # From here on a client is not written to until it reads.
_MOST_UNSENT_BYTES = 8 << 20  # From here on it is disconnected.
_LINGER_S = 5.0  # For what was sent before a connection is closed.
_DRAIN_S = 2.0  # For acknowledgements when the broker ends.
_OTHER_FILES = 100  # Open beside connections.
# Half-open connections end after two minutes, whatever keep-alive the client asked for.
_KEEPALIVE = (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))


class ListenError(TinysplitError):
    """The broker cannot listen there."""


@dataclass(frozen=True)
class Settings:
    """`folder` holds the users and what lasts; port 0: any."""

    host: str
    port: int
    folder: Path
    limits: Limits = field(default_factory=Limits)
    tls: ssl.SSLContext | None = None

    @property
    def users_file(self) -> Path:
        return self.folder / "users"

    @property
    def lasting_file(self) -> Path:
        return self.folder / "retained.json"


_NO_TLS = {  # What OpenSSL calls the alerts of clients, for people.
    "TLSV1_ALERT_UNKNOWN_CA": "does not trust this broker's certificate",
    "SSLV3_ALERT_BAD_CERTIFICATE": "does not accept this broker's certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "says that this broker's certificate has expired",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "does not accept this broker's certificate",
}


class _Connection(asyncio.Protocol):
    """A socket; a `Link` once its client has logged in."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._parser = Parser(min(_FIRST_PACKET_BYTES, server.settings.limits.packet_bytes))
        self._session: Session | None = None
        self._waits = False  # For its password to be checked.
        self._held = False
        context = server.settings.tls
        self._tls = None if context is None else Channel(context)
        self.opened_at = time.monotonic()
        self.host = self.address = "?"

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        peer = transport.get_extra_info("peername") or ("?", 0)
        self.host, self.address = str(peer[0]), f"{peer[0]}:{peer[1]}"
        taken: socket.socket = transport.get_extra_info("socket")
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE:
            if hasattr(socket, name):
                taken.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self._server.opened(self)
        transport.set_write_buffer_limits(_UNSENT_BYTES)

    def data_received(self, data: bytes) -> None:
        if self._tls is not None:
            try:
                data = self._tls.receive(data)
            except ssl.SSLError as error:
                what = _NO_TLS.get(error.reason or "", "no TLS")
                self._server.log.warning("no_tls", f"{self.address}: {what} ({error.reason})")
                self._write(self._tls.outgoing())
                self.close()
                return
            self._write(self._tls.outgoing())
        self._parser.feed(data)
        self._take()

    def pause_writing(self) -> None:
        if self._session is not None:
            self._server.broker.writable(self._session, False)

    def resume_writing(self) -> None:
        if self._session is not None and self._session.link is self:
            self._server.broker.writable(self._session, True)
            self._server.keep()

    def connection_lost(self, error: Exception | None) -> None:
        self._server.closed(self)
        self._leave()
        self._parser = Parser(0)

    # What the broker calls.

    def send(self, data: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if self._tls is not None:
            self._tls.send(data)
            data = self._tls.outgoing()
        self._write(data)

    def _write(self, data: bytes) -> None:
        transport = self._transport
        if transport is None or transport.is_closing() or not data:
            return
        transport.write(data)
        if transport.get_write_buffer_size() > _MOST_UNSENT_BYTES:
            self._server.log.warning("lost", f"{self.address}: reads nothing")
            transport.abort()

    def close(self) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        transport.close()
        asyncio.get_running_loop().call_later(_LINGER_S, transport.abort)

    def hold(self, held: bool) -> None:
        self._held = held
        self._read(not held)
        if not held:
            asyncio.get_running_loop().call_soon(self._take)

    # What the server calls.

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def refuse(self, code: int) -> None:
        """Say no to its CONNECT."""
        self.send(packets.connack(code))
        self.close()

    def welcome(self, wanted: Connect, role: str) -> None:
        """Its password is right."""
        self._waits = False
        if self._transport is None or self._transport.is_closing():
            return
        try:
            self._session = self._server.broker.connect(self, wanted, role)
        except ProtocolError as error:
            self._server.log.warning("refused", f"{self.address}: {error}")
            self.refuse(packets.UNAVAILABLE if error.code is None else error.code)
            return
        self._server.log.info(
            "connected",
            f"{self._session.shown} connected from {self.address}",
            user=self._session.user,
            client_id=self._session.client_id,
        )
        self._server.logged_in(self)
        self._parser.limit = self._server.settings.limits.packet_bytes
        self._read(True)
        self._take()

    # Inside.

    def _read(self, wanted: bool) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if wanted:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def _take(self) -> None:
        """Hand on the packets that are there whole."""
        try:
            while not (self._waits or self._held or self._over):
                packet = self._parser.next()
                if packet is None:
                    break
                if self._session is not None:
                    self._server.receive(self._session, packet)
                else:
                    self._log_in(packet)
        except ProtocolError as error:
            who = self.address if self._session is None else self._session.shown
            self._server.log.warning("refused", f"{who}: {error}", address=self.address)
            if self._session is None and error.code is not None:
                self.send(packets.connack(error.code))
            self.close()
            self._leave()
        self._server.keep()

    def _log_in(self, packet: packets.Packet) -> None:
        if not isinstance(packet, Connect):
            raise ProtocolError("it does not begin with CONNECT")
        self._waits = True
        self._read(False)
        self._server.log_in(self, packet)

    @property
    def _over(self) -> bool:
        gone = self._session is not None and self._session.link is not self
        return gone or self._transport is None or self._transport.is_closing()

    def _leave(self) -> None:
        if self._session is not None and self._session.link is self:
            self._server.left(self._session)


class Server:
    """A broker at an address, while `run` runs."""

    def __init__(
        self, settings: Settings, log: Log, known: dict[str, users.User], left: Lasting
    ) -> None:
        self.settings, self.log = settings, log
        self.broker = Broker(settings.limits, log, time.monotonic, left)
        self._checker = Checker(known)
        self._anonymous = not known
        self._users_stamp = _stamp(settings.users_file)
        self._pending: dict[_Connection, None] = {}  # In the order they came.
        self._open: set[_Connection] = set()
        self._checks: dict[_Connection, asyncio.Task[None]] = {}  # Of passwords, in order.
        self._hashers = ThreadPoolExecutor(_HASHERS, "login")
        self._saving: asyncio.Task[None] | None = None
        self._stopping = False

    async def run(self, stop: asyncio.Event, on_ready: Callable[[int], None]) -> None:
        """Serve until `stop` is set; `on_ready` is called with the port.

        Raises:
            ListenError: the address cannot be used.
        """
        loop = asyncio.get_running_loop()
        self._raise_file_limit()
        where = f"port {self.settings.port} of {self.settings.host}"
        try:
            listening = await loop.create_server(
                lambda: _Connection(self), self.settings.host, self.settings.port, backlog=1024
            )
        except (OSError, OverflowError) as error:
            raise ListenError(f"cannot listen on {where}: {_why(error)}") from error
        on_ready(listening.sockets[0].getsockname()[1])
        ended = asyncio.ensure_future(stop.wait())
        try:
            while not ended.done():
                await asyncio.wait([ended], timeout=1.0)
                self._tick()
        finally:
            ended.cancel()
            listening.close()
            await self._end()

    def renew(self, context: ssl.SSLContext) -> None:
        """Use another certificate for connections from now on; those that are there go on."""
        self.settings = replace(self.settings, tls=context)

    # What connections call.

    def opened(self, connection: _Connection) -> None:
        self._open.add(connection)
        self._pending[connection] = None
        if len(self._pending) > _PENDING:
            oldest = _oldest_of_the_busiest(self._pending)
            self.log.warning("too_many", f"{oldest.host}: too many connections that do not log in")
            self.closed(oldest)
            oldest.abort()

    def logged_in(self, connection: _Connection) -> None:
        self._pending.pop(connection, None)

    def closed(self, connection: _Connection) -> None:
        self._open.discard(connection)
        self._pending.pop(connection, None)
        check = self._checks.pop(connection, None)
        if check is not None:
            check.cancel()

    def log_in(self, connection: _Connection, wanted: Connect) -> None:
        """Answer a CONNECT, at once or when its password has been checked."""
        if self._anonymous:
            connection.welcome(replace(wanted, user=None), access.OPERATOR)
            return
        if wanted.user is None or wanted.password is None:
            self.log.warning("no_login", f"{connection.address}: no name or no password")
            connection.refuse(packets.NOT_AUTHORIZED)
            return
        known = self._checker.known(wanted.user, wanted.password)
        if known is not None:
            connection.welcome(wanted, known.role)
        else:
            self._checks[connection] = asyncio.ensure_future(
                self._check(connection, wanted, wanted.user, wanted.password)
            )
            if len(self._checks) > _WAITING_LOGINS:
                oldest = _oldest_of_the_busiest(self._checks)
                self.log.warning("too_many_logins", f"{oldest.host}: too many logins at once")
                self._checks.pop(oldest).cancel()
                oldest.refuse(packets.UNAVAILABLE)

    async def _check(
        self, connection: _Connection, wanted: Connect, name: str, password: bytes
    ) -> None:
        loop = asyncio.get_running_loop()
        user = await loop.run_in_executor(self._hashers, self._checker.check, name, password)
        self._checks.pop(connection, None)
        if self._stopping:
            return
        if user is None or self._checker.users.get(name) is not user:
            # A name that nobody has may be a password in the wrong place: it is not told.
            who = f"wrong password for {name}" if name in self._checker.users else "unknown user"
            self.log.warning("wrong_login", f"{connection.address}: {who}")
            connection.refuse(packets.WRONG_LOGIN)
        else:
            connection.welcome(wanted, user.role)
        self.keep()

    def receive(self, session: Session, packet: packets.Packet) -> None:
        # Not acknowledged, a message is sent again to the next broker.
        if not (self._stopping and isinstance(packet, packets.Publish)):
            self.broker.receive(session, packet)

    def left(self, session: Session) -> None:
        """A connection is over; when all end, nobody's will is meant."""
        if not self._stopping:
            self.broker.leave(session)
            self.keep()

    def keep(self) -> None:
        """Begin to write what must last, if it has changed."""
        if self._saving is None and (self.broker.changed or self.broker.when_saved):
            self._saving = asyncio.ensure_future(self._save())

    # Inside.

    async def _save(self) -> None:
        broker, loop = self.broker, asyncio.get_running_loop()
        try:
            while broker.changed or broker.when_saved:
                broker.changed = False
                waiting, broker.when_saved = broker.when_saved, []
                try:
                    await loop.run_in_executor(None, self._write, broker.lasting)
                except OSError as error:
                    self.log.failure(
                        "not_saved", f"cannot write {self.settings.lasting_file}: {error.strerror}"
                    )
                    broker.changed, broker.when_saved = True, waiting + broker.when_saved
                    if self._stopping:
                        return
                    await asyncio.sleep(1)
                    continue
                for answer in waiting:
                    answer()
        finally:
            self._saving = None

    def _write(self, content: Lasting) -> None:
        lasting.write(self.settings.lasting_file, lasting.encode(content))

    def _tick(self) -> None:
        self.broker.tick()
        self.log.flush()
        late = time.monotonic() - _LOGIN_S
        for connection in [
            one for one in self._pending if one.opened_at < late and one not in self._checks
        ]:
            self.log.warning("no_login", f"{connection.address}: no login in {_LOGIN_S:.0f} s")
            self.closed(connection)
            connection.abort()
        stamp = _stamp(self.settings.users_file)
        if stamp != self._users_stamp:
            self._users_stamp = stamp
            self._read_users()
        self.keep()

    def _read_users(self) -> None:
        try:
            found = users.read(self.settings.users_file)
        except UsersError as error:
            self.log.failure("users", f"{error}; the users stay as they were")
            return
        for name in self._checker.replace(found):
            self.broker.evict(name)
        if found and self._anonymous:
            self._anonymous = False
            self.broker.evict("")
        self.log.info("users", f"{len(found)} users from now on")

    async def _end(self) -> None:
        self._stopping = True
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _DRAIN_S
        while not self.broker.drained and loop.time() < deadline:
            await asyncio.sleep(0.02)
        self.broker.changed = True
        self.keep()
        if self._saving is not None:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._saving), _LINGER_S)
        for connection in list(self._open):
            connection.close()
        await asyncio.sleep(0)
        self._hashers.shutdown(wait=False, cancel_futures=True)

    def _raise_file_limit(self) -> None:
        wanted = self.settings.limits.clients + _PENDING + _OTHER_FILES
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft >= wanted or soft == resource.RLIM_INFINITY:
            return
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        if most < wanted:
            raise ListenError(
                f"only {hard:,} files may be open, and {self.settings.limits.clients:,} clients "
                f"need {wanted:,}: raise the limit (ulimit -n), or lower --max-clients"
            )


def _oldest_of_the_busiest(connections: Iterable[_Connection]) -> _Connection:
    """`connections` are in the order they came."""
    busiest = Counter(one.host for one in connections).most_common(1)[0][0]
    return next(one for one in connections if one.host == busiest)


def _stamp(path: Path) -> Any:
    try:
        seen = path.stat()
    except OSError:
        return None
    return seen.st_mtime_ns, seen.st_ino, seen.st_size


def _why(error: OSError | OverflowError) -> str:
    if isinstance(error, OverflowError):
        return "ports are 0 to 65535"
    if isinstance(error, socket.gaierror):
        return "no such host"
    if error.errno == errno.EADDRINUSE:
        return "it is in use, perhaps by another broker; --listen HOST:PORT takes another"
    if error.errno == errno.EACCES:
        return "ports below 1024 are for the superuser; --listen HOST:PORT takes another"
    if error.errno == errno.EADDRNOTAVAIL:
        return "that is no address of this machine; 0.0.0.0 is all of them"
    return os.strerror(error.errno) if error.errno else str(error)
