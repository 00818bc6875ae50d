"""A connection to a broker that is opened again whenever it is lost.

paho's thread reads and writes the socket and calls what is given here; nothing that is called may
take long. Sessions are clean: what a broker would keep for somebody who is away is of the past when
they come back, and who waits for it says it again (host/mqtt/board.py).
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from host.boards.board import BoardError
from host.closing import Closing
from host.mqtt.access import Access

KEEPALIVE_S = 15  # As the firmware's.
OPEN_TIMEOUT_S = 10.0
CONNECT_TIMEOUT_S = 5.0
LARGEST_BYTES = 2 << 20  # Of what is taken in, where the broker can be told (MQTT 5).
_AGAIN_S = (1, 3)  # Least and most until a lost connection is tried again.
_WAITING = 256  # Messages kept while there is no connection.
_FAREWELL_S = 1.0
_LOGIN = (4, 5, 134, 135)  # CONNACK: bad user name or password; not authorized.
_CLIENT_ID = 133  # CONNACK: client identifier not valid; what keeps a board to its own name.
_EXPIRED, _NOT_YET, _OTHER_HOST = 10, 9, (62, 64)  # X509_V_ERR_... of OpenSSL.

Message = Callable[[str, bytes, bool], None]


class MqttError(BoardError):
    """A broker that is not there, or refuses; `code` says which."""


def connect_problem(access: Access, error: BaseException) -> MqttError:
    """What went wrong when the connection was made, by name."""
    where = access.url
    if isinstance(error, MqttError):
        return error
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code == _EXPIRED:
            return MqttError("certificate_expired", f"the certificate of {where} has expired")
        if error.verify_code == _NOT_YET:
            return MqttError(
                "certificate_not_yet_valid",
                f"the certificate of {where} is not valid yet; is this machine's clock right?",
            )
        if error.verify_code in _OTHER_HOST:
            return MqttError(
                "certificate_host", f"the certificate of {where} is for another host: {_why(error)}"
            )
        return MqttError(
            "certificate_unknown",
            f"the certificate of {where} is not to be trusted ({_why(error)}): name the authority "
            "that signed it by --mqtt-ca or TINYSPLIT_MQTT_CA",
        )
    if isinstance(error, ssl.SSLError):
        return MqttError(
            "no_tls",
            f"{where} speaks no TLS ({error.reason}): is it mqtt:// and another port?",
        )
    if isinstance(error, socket.gaierror):
        return MqttError("no_broker", f"no host {access.host!r} is known: {error.strerror}")
    if isinstance(error, TimeoutError):
        return MqttError("no_broker", f"no broker answers at {where}")
    why = getattr(error, "strerror", None) or type(error).__name__
    return MqttError("no_broker", f"no broker at {where}: {why}")


class _TlsSocket(ssl.SSLSocket):
    """paho leaves a socket open whose handshake fails."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise


def _without_delay(_client: Any, _data: Any, sock: Any) -> None:
    """Nagle's algorithm would hold a reply back until the acknowledgement before it is."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _why(error: ssl.SSLCertVerificationError) -> str:
    return str(error.verify_message or "not said").rstrip(".")


class Connection(Closing):
    """A client of the broker.

    Args:
        client_id: the broker ends an older connection of the same; None: one drawn by lot.
        subscriptions: topics, of which all must be granted before the connection is `up`.
        on_message: topic, payload, and whether it was retained.
        on_up: the subscriptions are in force, each time anew. Returning to it is cheap: queue it.
        on_problem: why there is no connection, each time that changes.
        will: topic and payload that the broker publishes, retained, when the connection is lost.
    """

    def __init__(
        self,
        access: Access,
        *,
        client_id: str | None = None,
        subscriptions: Sequence[str] = (),
        on_message: Message = lambda _topic, _payload, _retained: None,
        on_up: Callable[[], None] = lambda: None,
        on_problem: Callable[[MqttError], None] = lambda _error: None,
        will: tuple[str, bytes] | None = None,
    ) -> None:
        self.access = access
        self.problem: MqttError | None = None
        self._subscriptions = list(subscriptions)
        self._on_up, self._on_problem, self._on_message = on_up, on_problem, on_message
        self._changed = threading.Condition()
        self._up = False
        self._granting: int | None = None  # The SUBSCRIBE that is not answered yet.
        self._refused = False
        self._running = False
        self._latest: paho.MQTTMessageInfo | None = None
        five = access.version == 5
        self._paho = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id or f"tinysplit-{secrets.token_hex(6)}",
            protocol=MQTTProtocolVersion.MQTTv5 if five else MQTTProtocolVersion.MQTTv311,
            clean_session=None if five else True,
        )
        self._options: dict[str, Any] = {"clean_start": True} if five else {}
        if five:
            limit = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            limit.MaximumPacketSize = LARGEST_BYTES
            self._options["properties"] = limit
        if access.user is not None:
            self._paho.username_pw_set(access.user, access.password)
        if access.tls:
            context = ssl.create_default_context(cadata=access.ca)
            context.sslsocket_class = _TlsSocket
            self._paho.tls_set_context(context)
        if will is not None:
            self._paho.will_set(will[0], will[1], qos=1, retain=True)
        self._paho.connect_timeout = CONNECT_TIMEOUT_S
        self._paho.reconnect_delay_set(*_AGAIN_S)
        self._paho.max_queued_messages_set(_WAITING)
        self._paho.on_socket_open = _without_delay
        self._paho.on_connect = self._connected
        self._paho.on_connect_fail = self._not_connected
        self._paho.on_disconnect = self._lost
        self._paho.on_subscribe = self._granted
        self._paho.on_message = self._heard
        self._paho.on_publish = self._published

    def open(self, timeout_s: float = OPEN_TIMEOUT_S) -> None:
        """Connect, and wait until the subscriptions are in force.

        Raises:
            MqttError: `no_broker`, `login_refused`, `not_authorized`, `no_tls`,
                `certificate_expired`, `certificate_host`, `certificate_unknown` ...
        """
        try:
            self._paho.connect(self.access.host, self.access.port, KEEPALIVE_S, **self._options)
        except OSError as error:
            raise connect_problem(self.access, error) from error
        self._run()
        with self._changed:
            self._changed.wait_for(lambda: self._up or self.problem is not None, timeout_s)
            if self._up:
                return
        problem = self.problem
        self.close()
        raise problem or MqttError("no_broker", f"{self.access.url} does not answer as a broker")

    def start(self) -> None:
        """Connect in the background, again and again if need be."""
        self._paho.connect_async(self.access.host, self.access.port, KEEPALIVE_S, **self._options)
        self._run()

    def _run(self) -> None:
        self._running = True
        self._paho.loop_start()

    @property
    def up(self) -> bool:
        """There is a connection, and all subscriptions are in force."""
        return self._up

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> bool:
        """Hand over a message; with QoS 1 it is sent until the broker has it. False: no room."""
        self._latest = self._paho.publish(topic, payload, qos, retain)
        return self._latest.rc in (
            paho.MQTT_ERR_SUCCESS,
            paho.MQTT_ERR_NO_CONN,
        )

    def close(self, last: tuple[str, bytes] | None = None, flush_s: float = 0.0) -> bool:
        """Disconnect; whether the broker has what was handed over last, as far as it was waited
        for. Safe to call twice.

        Args:
            last: a topic and what is published there, retained, before; not waited for long.
            flush_s: how long to wait until the broker has all that was handed over.
        """
        if not self._running:
            return True
        self._running = False
        latest, arrived = self._latest, True
        if flush_s and latest is not None:
            arrived = False
            with contextlib.suppress(ValueError, RuntimeError):
                if self._up:
                    latest.wait_for_publish(flush_s)
                arrived = latest.is_published()
        if last is not None and self._up:
            with contextlib.suppress(ValueError, RuntimeError):
                self._paho.publish(*last, qos=1, retain=True).wait_for_publish(_FAREWELL_S)
        self._paho.disconnect()
        self._paho.loop_stop()
        return arrived

    # By paho's thread.

    def _fail(self, problem: MqttError) -> None:
        with self._changed:
            new = self.problem is None or str(self.problem) != str(problem)
            self.problem, self._up = problem, False
            self._changed.notify_all()
        if new and self._running:
            self._on_problem(problem)

    def _connected(
        self, _client: Any, _data: Any, _flags: Any, reason: ReasonCode, _properties: Any
    ) -> None:
        if reason.is_failure:
            self._refused = True
            user = self.access.user
            who = "a client without a login" if user is None else f"the user {user!r}"
            # paho gives codes of MQTT 3 the names and numbers of MQTT 5.
            if reason.value in _LOGIN:
                self._fail(
                    MqttError(
                        "login_refused",
                        f"the broker at {self.access.url} refuses {who}: wrong name or password, "
                        "or not allowed to connect",
                    )
                )
            else:
                why = f"the broker at {self.access.url} says: {reason}"
                if reason.value == _CLIENT_ID and user is not None:
                    why += f"; is {user!r} a board's login? Commands need an operator's"
                self._fail(MqttError("refused", why))
            return
        self._refused = False
        if not self._subscriptions:
            self._is_up()
            return
        wanted = [(topic, 1) for topic in self._subscriptions]
        self._granting = self._paho.subscribe(wanted)[1]

    def _granted(
        self, _client: Any, _data: Any, number: int, reasons: list[ReasonCode], _properties: Any
    ) -> None:
        if number != self._granting:
            return
        for topic, reason in zip(self._subscriptions, reasons, strict=False):
            if reason.is_failure:
                self._fail(
                    MqttError(
                        "not_authorized",
                        f"the broker at {self.access.url} does not let {self._who()} read {topic}",
                    )
                )
                return
        self._is_up()

    def _who(self) -> str:
        return "anonymous users" if self.access.user is None else f"the user {self.access.user!r}"

    def _is_up(self) -> None:
        with self._changed:
            self._up, self.problem = True, None
            self._changed.notify_all()
        self._on_up()

    def _not_connected(self, _client: Any, _data: Any) -> None:
        error = sys.exc_info()[1]
        self._fail(connect_problem(self.access, error or OSError()))

    def _lost(
        self, _client: Any, _data: Any, _flags: Any, reason: ReasonCode, _properties: Any
    ) -> None:
        was = self._up
        if self._refused or not self._running:
            return
        hint = "" if was or self.access.tls else "; is it a port for TLS (mqtts://)?"
        why = f"the broker at {self.access.url} ended the connection ({reason}){hint}"
        self._fail(MqttError("no_broker", why))

    def _heard(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            return
        self._on_message(topic, bytes(message.payload), message.retain)

    def _published(
        self, _client: Any, _data: Any, _number: int, reason: ReasonCode, _properties: Any
    ) -> None:
        if reason.is_failure:  # MQTT 5 only: version 3 has no word for it.
            self._on_problem(
                MqttError(
                    "not_authorized" if reason.value == 135 else "refused",
                    f"the broker at {self.access.url} does not take what {self._who()} sends: "
                    f"{reason}",
                )
            )
