"""A client to test brokers with: paho, which never connects again by itself."""

from __future__ import annotations

import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from tests.host.broker.brokers import LOOPBACK, USERS, Running, password

_WAIT_S = 10.0
Will = tuple[str, bytes, int, bool]


class Client:
    """Entering connects; `accepted` says whether the broker let it in.

    Args:
        name: as which user; None: as nobody.
        secret: another password than the right one.
    """

    def __init__(
        self,
        broker: Running,
        name: str | None,
        *,
        secret: str | None = None,
        client_id: str | None = None,
        will: Will | None = None,
        clean: bool = True,
        tls: ssl.SSLContext | None = None,
        host: str = LOOPBACK,
    ) -> None:
        self.accepted: bool | None = None
        self.reason = ""
        self.messages: queue.Queue[tuple[str, bytes, bool]] = queue.Queue()
        self.gone = threading.Event()
        self._answered = threading.Event()
        self._granted: queue.Queue[list[Any]] = queue.Queue()
        role = USERS.get(name or "", "node")
        self._place = host, broker.port_of(role)
        five = broker.version == 5
        self._paho = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id if client_id is not None else name or "nobody",
            protocol=MQTTProtocolVersion.MQTTv5 if five else MQTTProtocolVersion.MQTTv311,
            clean_session=None if five else clean,
            reconnect_on_failure=False,
        )
        self._options: dict[str, Any] = {"clean_start": clean} if five else {}
        if name is not None:
            self._paho.username_pw_set(name, password(name) if secret is None else secret)
        if will is not None:
            self._paho.will_set(*will)
        if tls is not None:
            self._paho.tls_set_context(tls)
        self._paho.on_connect = self._connected
        self._paho.on_disconnect = lambda *_: (self._answered.set(), self.gone.set())
        self._paho.on_subscribe = lambda _c, _d, _n, reasons, _p: self._granted.put(reasons)
        self._paho.on_message = self._heard
        self.sent: list[paho.MQTTMessageInfo] = []
        self.before_message: Callable[[], object] = lambda: None  # In the thread that reads.

    def _connected(self, _client: Any, _data: Any, _flags: Any, reason: Any, _p: Any) -> None:
        self.accepted, self.reason = not reason.is_failure, str(reason)
        self._answered.set()

    def _heard(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        self.before_message()
        self.messages.put((message.topic, message.payload, message.retain))

    def __enter__(self) -> Client:
        self._paho.connect(*self._place, 30, **self._options)
        self._paho.loop_start()
        assert self._answered.wait(_WAIT_S), "no answer to CONNECT"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._paho.disconnect()
        self._paho.loop_stop()
        del self._paho  # Its sockets are closed now, and not when the collector finds it.

    def subscribe(self, *topics: str, qos: int = 1) -> list[bool]:
        """Which were granted."""
        self._paho.subscribe([(topic, qos) for topic in topics])
        return [not reason.is_failure for reason in self._granted.get(timeout=_WAIT_S)]

    def send(
        self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False, wait: bool = True
    ) -> bool:
        """Publish; True: the broker has acknowledged it."""
        sent = self._paho.publish(topic, payload, qos, retain)
        self.sent.append(sent)
        if sent.rc != paho.MQTT_ERR_SUCCESS:  # The broker was faster in ending the connection.
            return False
        deadline = time.monotonic() + _WAIT_S
        while wait and not (sent.is_published() or self.gone.is_set()):
            assert time.monotonic() < deadline, "neither acknowledged nor disconnected"
            time.sleep(0.001)
        return sent.is_published()

    def take(self, timeout_s: float = _WAIT_S) -> tuple[str, bytes, bool]:
        return self.messages.get(timeout=timeout_s)

    def until(self, payload: bytes) -> list[tuple[str, bytes, bool]]:
        """All messages before the one with this payload, which must come."""
        found = []
        while (message := self.take())[1] != payload:
            found.append(message)
        return found

    def cut(self) -> None:
        """End the connection as a board without power does."""
        held = self._paho.socket()
        assert held is not None
        held.shutdown(socket.SHUT_RDWR)
        assert self.gone.wait(_WAIT_S)
        self._paho.loop_stop()
