"""Which broker, as whom, and what goes wrong there, by name."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from host.boards.discovery.broker import search
from host.mqtt import access
from host.mqtt.access import Access, AccessError
from host.mqtt.board import MqttBoard
from host.mqtt.connection import Connection, MqttError
from tests.host.mqtt.certificates import Authority, Pair
from tests.host.mqtt.mosquitto import Mosquitto
from tests.host.mqtt.nodes import Rough
from tests.ports import free_port


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("mqtt://broker", Access("broker", 1883)),
        ("mqtt://10.0.0.1:7", Access("10.0.0.1", 7)),
        ("mqtts://[fe80::1]", Access("fe80::1", 8883, tls=True)),
        ("mqtts://broker:1/?version=5", Access("broker", 1, tls=True, version=5)),
    ],
)
def test_urls(url: str, found: Access) -> None:
    assert access.parse(url) == found


@pytest.mark.parametrize(
    "url",
    [
        *("", "mqtt", "mqtt://", "http://x", "mqtt://x:0", "mqtt://x:99999", "mqtt://x:a"),
        *("mqtt://x/y", "mqtt://x?a", "mqtt://x?version=4", "mqtt://[::1", "mqtt://x y"),
        *("mqtt://" + "x" * 300, "mqtt://\u00e4"),
    ],
)
def test_no_urls(url: str) -> None:
    with pytest.raises(AccessError, match="no URL of a broker"):
        access.parse(url)


def test_passwords_come_from_nowhere_that_shows_them(tmp_path: Path) -> None:
    with pytest.raises(AccessError, match="TINYSPLIT_MQTT_PASSWORD") as refused:
        access.parse("mqtt://anna:sesam@broker")
    assert "sesam" not in str(refused.value)
    login = tmp_path / "login"
    login.write_text("user=anna\npassword=se=sam \n")
    login.chmod(0o600)
    environment = {"TINYSPLIT_BROKER": "mqtt://x", "TINYSPLIT_MQTT_USER": "bert"}
    found = access.need(None, login, None, environment)
    assert (found.user, found.password) == ("anna", "se=sam ")
    assert "sam" not in repr(found)
    login.chmod(0o640)
    with pytest.raises(AccessError, match="chmod 600"):
        access.need(None, login, None, environment)
    assert access.need(None, None, None, environment).user == "bert"
    with pytest.raises(AccessError, match="no user"):
        access.need(
            None, None, None, {"TINYSPLIT_BROKER": "mqtt://x", "TINYSPLIT_MQTT_PASSWORD": "x"}
        )
    with pytest.raises(AccessError, match="no broker is named"):
        access.need(None, None, None, {})


@pytest.mark.parametrize(
    ("text", "why"),
    [("", "no line user"), ("user", "line 1"), ("name=x", "line 1"), ("\xff", "UTF-8")],
)
def test_bad_logins(tmp_path: Path, text: str, why: str) -> None:
    login = tmp_path / "login"
    login.write_bytes(text.encode("latin-1"))
    login.chmod(0o600)
    with pytest.raises(AccessError, match=why):
        access.need("mqtt://x", login, None, {})


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Mosquitto]:
    """Users; anna may read and write below tinysplit/, bert nothing. With TLS at the next ports:
    good, expired, for another host."""
    folder = tmp_path_factory.mktemp("guarded")
    passwords, rules = folder / "passwords", folder / "rules"
    for name in ("anna", "bert"):
        flag = "-c" if name == "anna" else ""
        command = ["mosquitto_passwd", *filter(None, [flag]), "-b", str(passwords), name, "sesam"]
        subprocess.run(command, check=True)
    rules.write_text("user anna\ntopic readwrite tinysplit/#\n")
    pairs = [
        authority.pair("good"),
        authority.pair("expired", expired=True),
        authority.pair("other", "10.1.2.3"),
    ]
    lines = [f"password_file {passwords}", f"acl_file {rules}"]
    ports = [free_port() for _ in pairs]
    for port, pair in zip(ports, pairs, strict=True):
        lines += [f"listener {port} 127.0.0.1", *_files(pair)]
    broker = Mosquitto(folder / "broker", *lines, anonymous=False)
    broker.tls_ports = dict(zip(("good", "expired", "other"), ports, strict=True))  # type: ignore[attr-defined]
    yield broker
    broker.kill()


def _files(pair: Pair) -> list[str]:
    return [f"certfile {pair.certificate}", f"keyfile {pair.key}"]


def opened(found: Access) -> Connection:
    connection = Connection(found, subscriptions=["tinysplit/+/status"])
    connection.open()
    return connection


@pytest.mark.parametrize("version", [3, 5])
def test_who_is_refused(guarded: Mosquitto, version: int) -> None:
    url = f"{guarded.url}?version={version}"
    opened(access.parse(url, user="anna", password="sesam")).close()
    for user, password in (("anna", "wrong"), ("nobody", "sesam"), (None, None)):
        with pytest.raises(MqttError, match="refuses") as refused:
            opened(access.parse(url, user=user, password=password))
        assert refused.value.code == "login_refused"
        assert "wrong" not in str(refused.value).replace("wrong name", "")


def test_who_may_not_read_is_told(guarded: Mosquitto) -> None:
    """Mosquitto grants any subscription of MQTT 3.1.1 and says nothing; with MQTT 5 it tells of
    what is published."""
    found = access.parse(f"{guarded.url}?version=5", user="bert", password="sesam")
    told: list[MqttError] = []
    connection = Connection(found, on_problem=told.append)
    connection.open()
    assert connection.publish("tinysplit/x/cmd", b"{}")
    deadline = threading.Event()
    for _ in range(50):
        if told:
            break
        deadline.wait(0.1)
    connection.close()
    assert [problem.code for problem in told] == ["not_authorized"]
    assert "'bert'" in str(told[0])


@pytest.mark.parametrize(
    ("which", "trusted", "code"),
    [
        ("good", True, None),
        ("good", False, "certificate_unknown"),
        ("expired", True, "certificate_expired"),
        ("other", True, "certificate_host"),
    ],
)
def test_certificates(
    guarded: Mosquitto, authority: Authority, which: str, trusted: bool, code: str | None
) -> None:
    port = guarded.tls_ports[which]  # type: ignore[attr-defined]
    ca = access.read_ca(authority.ca) if trusted else None
    found = access.parse(f"mqtts://127.0.0.1:{port}", user="anna", password="sesam", ca=ca)
    if code is None:
        opened(found).close()
        return
    with pytest.raises(MqttError) as refused:
        opened(found)
    assert refused.value.code == code
    assert "\n" not in str(refused.value)


def test_tls_and_none_at_the_wrong_ports(guarded: Mosquitto, authority: Authority) -> None:
    tls = guarded.tls_ports["good"]  # type: ignore[attr-defined]
    with pytest.raises(MqttError, match=r"is it a port for TLS"):
        opened(access.parse(f"mqtt://127.0.0.1:{tls}"))
    with pytest.raises(MqttError, match=r"no TLS|no broker"):
        opened(access.parse(f"mqtts://127.0.0.1:{guarded.port}"))


def test_no_broker_there() -> None:
    for url in (f"mqtt://127.0.0.1:{free_port()}", "mqtt://no-such-host.invalid"):
        with pytest.raises(MqttError, match=r"no broker|no host") as refused:
            opened(access.parse(url))
        assert refused.value.code == "no_broker"


def test_a_search_where_no_broker_is() -> None:
    found = access.parse(f"mqtt://127.0.0.1:{free_port()}")
    assert "no broker at" in search(found, 1.0, insist=False).note
    with pytest.raises(MqttError, match=r"no broker at"):
        search(found, 1.0)


def test_somebody_there_who_is_no_broker() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with server.accept()[0] as end:
                end.sendall(b"SSH-2.0-x\r\n")
                end.recv(100)

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(MqttError) as refused:
            opened(access.parse(f"mqtt://127.0.0.1:{server.getsockname()[1]}"))
        assert refused.value.code == "no_broker"


def test_no_such_node_and_one_that_is_offline(mosquitto: Mosquitto) -> None:
    found = access.parse(mosquitto.url)
    with pytest.raises(Exception, match="knows no node 'ghost'"):
        MqttBoard(found, "ghost")
    with Rough(mosquitto.url) as rough:
        rough.publish("tinysplit/ghost/status", {"online": False}, retain=True)
        with pytest.raises(Exception, match="ghost is offline"):
            MqttBoard(found, "ghost")
        rough.publish("tinysplit/ghost/status", b"", retain=True)
