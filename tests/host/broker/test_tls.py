"""TLS: certificates that will not do are named, by the broker at start and by clients."""

from __future__ import annotations

import datetime
import gc
import signal
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509

from host.broker import tls
from host.broker.broker import Lasting
from host.broker.log import Log
from host.broker.server import Server, Settings
from host.broker.tls import CertificateError
from host.mqtt.access import Access
from host.mqtt.connection import Connection, MqttError
from tests.host.broker import brokers, certificates
from tests.host.broker.brokers import LOOPBACK, Running
from tests.host.broker.certificates import Authority
from tests.host.broker.clients import Client
from tests.host.broker.conftest import KINDS, make


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    return certificates.authority(folder)


def trusting(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(authority.file))


# paho leaves the socket of a failed handshake to the collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def problem(broker: Running, authority: Authority, host: str = LOOPBACK) -> str:
    """The name of what tinysplit's own client finds wrong, if anything."""
    secret, ca = brokers.password("boss"), authority.file.read_text()
    place = host, broker.port_of("operator")
    try:
        with Connection(Access(*place, True, broker.version, "boss", secret, ca)) as connection:
            connection.open()
    except MqttError as error:
        return error.code
    else:
        return ""
    finally:
        gc.collect()


def plain_answer(connection: socket.socket) -> bytes:
    try:
        return connection.recv(100)
    except ConnectionResetError:
        return b""


@pytest.mark.parametrize("kind", KINDS)
def test_clients_name_what_is_wrong_with_a_certificate(
    tmp_path: Path, folder: Path, authority: Authority, kind: str
) -> None:
    pair = certificates.issue(folder, authority, f"good-{kind}")
    with brokers.running(make(kind, tmp_path / "files", tls=pair)) as broker:
        with (
            Client(broker, "boss", tls=trusting(authority)) as boss,
            Client(broker, "head", tls=trusting(authority)) as head,
        ):
            assert head.subscribe("tinysplit/head/cmd", "tinysplit/tail/cmd")[0]
            large = bytes(1 << 20)
            assert boss.send("tinysplit/head/cmd", large)
            assert head.take()[1] == large
        stranger = certificates.authority(tmp_path, "stranger")
        assert problem(broker, stranger) == "certificate_unknown"
        assert problem(broker, authority, "localhost") == "certificate_host"
        assert problem(broker, authority) == ""
        with socket.create_connection((LOOPBACK, broker.port)) as plain:  # No TLS at all.
            plain.sendall(b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x1e\x00\x00")
            assert plain_answer(plain)[:1] != b"\x20"
        with Client(broker, "head", tls=trusting(authority)) as head:
            assert head.accepted


def test_an_expired_certificate_is_named_by_clients(
    tmp_path: Path, folder: Path, authority: Authority
) -> None:
    """The embedded broker would not start with it; it may expire later."""
    past = certificates.now() - datetime.timedelta(days=2)
    pair = certificates.issue(folder, authority, "expired", begin=past)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pair)
    settings = Settings(LOOPBACK, 0, tmp_path, tls=context)
    server = Server(settings, Log(lambda _: None), {}, Lasting())
    with brokers.in_process(server) as port:
        broker = Running("embedded", 3, tmp_path, port, [])
        assert problem(broker, authority) == "certificate_expired"


def test_an_expired_certificate_of_mosquitto_is_named_by_clients(
    tmp_path: Path, folder: Path, authority: Authority
) -> None:
    past = certificates.now() - datetime.timedelta(days=2)
    pair = certificates.issue(folder, authority, "expired-too", begin=past)
    with brokers.running(make("mosquitto-3.1.1", tmp_path / "files", tls=pair)) as broker:
        assert problem(broker, authority) == "certificate_expired"


def test_the_broker_refuses_what_no_client_would_take(tmp_path: Path, authority: Authority) -> None:
    good = certificates.issue(tmp_path, authority, "good")
    other = certificates.issue(tmp_path, authority, "other")
    past = certificates.now() - datetime.timedelta(days=2)
    old = certificates.issue(tmp_path, authority, "old", begin=past)
    coming = certificates.now() + datetime.timedelta(days=2)
    early = certificates.issue(tmp_path, authority, "early", begin=coming)
    text = tmp_path / "text"
    text.write_text("no certificate")
    text.chmod(0o600)
    open_key = tmp_path / "open.key"
    open_key.write_bytes(good[1].read_bytes())
    open_key.chmod(0o644)
    for pair, why in (
        ((good[0], other[1]), "does not belong to the certificate"),
        (old, rf"old.crt expired on {past:%Y}"),
        (early, "is valid from .* is the clock right"),
        ((text, good[1]), "no certificate in PEM"),
        ((good[0], text), "no private key in PEM"),
        ((good[0], open_key), "chmod 600"),
        ((tmp_path / "missing", good[1]), "cannot read .*missing"),
    ):
        with pytest.raises(CertificateError, match=why):
            tls.context(*pair)
    context, own = tls.context(*good)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert tls.days_left(own) == 0


def serial(broker: Running, authority: Authority) -> int:
    """Of the certificate that a new connection is shown."""
    with (
        socket.create_connection((LOOPBACK, broker.port), 10) as plain,
        trusting(authority).wrap_socket(plain, server_hostname=LOOPBACK) as secure,
    ):
        shown = secure.getpeercert(binary_form=True)
    assert shown is not None
    return x509.load_der_x509_certificate(shown).serial_number


def of(file: Path) -> int:
    return x509.load_pem_x509_certificate(file.read_bytes()).serial_number


def test_a_renewed_certificate_is_read_without_a_restart(
    tmp_path: Path, authority: Authority
) -> None:
    pair = certificates.issue(tmp_path, authority, "renewed")
    with (
        brokers.running(brokers.embedded(tmp_path / "files", tls=pair)) as broker,
        Client(broker, "head", tls=trusting(authority)) as head,
    ):
        assert head.subscribe("tinysplit/head/cmd")[0]
        first = of(pair[0])
        assert serial(broker, authority) == first

        past = certificates.now() - datetime.timedelta(days=2)
        certificates.issue(tmp_path, authority, "renewed", begin=past)
        broker.process.send_signal(signal.SIGHUP)
        until(lambda: "expired on" in broker.log())
        assert "the certificate before stays in use" in broker.log()
        assert serial(broker, authority) == first

        certificates.issue(tmp_path, authority, "renewed")
        broker.process.send_signal(signal.SIGHUP)
        until(lambda: "is used from now on" in broker.log())
        assert serial(broker, authority) == of(pair[0]) != first
        with Client(broker, "boss", tls=trusting(authority)) as boss:
            assert boss.send("tinysplit/head/cmd", b"still there")
        assert head.take()[1] == b"still there"  # By its connection of before.


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_connections_that_never_finish_their_handshake(
    tmp_path: Path, folder: Path, authority: Authority
) -> None:
    pair = certificates.issue(folder, authority, "patient")
    with brokers.running(brokers.embedded(tmp_path / "files", tls=pair)) as broker:
        before = broker.peak_bytes
        waiting = [socket.create_connection((LOOPBACK, broker.port)) for _ in range(400)]
        for number, connection in enumerate(waiting):
            if number % 2:
                try:
                    connection.sendall(b"\x16\x03\x01\x02\x00\x01")
                except OSError:
                    continue  # One of the oldest, which the broker has ended.
        with Client(broker, "head", tls=trusting(authority)) as head:
            assert head.accepted
        for connection in waiting:
            connection.close()
        assert broker.peak_bytes < before + (20 << 20)
        assert broker.stop() == 0
        assert "defect" not in broker.log()
