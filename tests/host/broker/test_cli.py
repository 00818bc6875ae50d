"""`tinysplit broker`: users, what it refuses to start with, how it starts, stops and comes back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from host.boards.control import MAX_LINE_BYTES
from host.broker import lasting, mosquitto, server, users
from host.broker.broker import Lasting, Limits
from host.broker.packets import Message
from host.cli import main
from tests.host.broker import brokers, certificates
from tests.host.broker.brokers import LOOPBACK, Running, cheap_user
from tests.host.broker.clients import Client
from tests.host.broker.wire import connect, publish, subscribe

Invoke = Callable[..., Result]
SECRET = "correct horse battery"


def add(folder: Path, name: str, role: str, secret: str = SECRET) -> Result:
    arguments = ["broker", "--folder", str(folder), "--add-user", name, "--role", role]
    return CliRunner().invoke(main, arguments, input=f"{secret}\n")


def test_users_are_added_changed_listed_and_removed(invoke: Invoke, tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    result = add(folder, "head", "node")
    assert (result.exit_code, result.stdout) == (0, f"added head (node) in {folder / 'users'}\n")
    assert SECRET not in result.output
    assert folder.stat().st_mode & 0o777 == 0o700
    assert add(folder, "boss", "operator").exit_code == 0
    assert "changed head (operator)" in add(folder, "head", "operator", "another word").stdout
    listed = invoke(main, "broker", "--folder", folder, "--list-users")
    assert listed.stdout == "boss\toperator\nhead\toperator\n"
    assert users.read(folder / "users")["head"].has(b"another word")
    assert invoke(main, "broker", "--folder", folder, "--remove-user", "head").exit_code == 0
    again = invoke(main, "broker", "--folder", folder, "--remove-user", "head")
    assert again.exit_code == 1
    assert "no user 'head'" in again.stderr
    refused = add(folder, "tail", "node", "short")
    assert refused.exit_code == 1
    assert "at least 8 characters" in refused.stderr
    assert list(users.read(folder / "users")) == ["boss"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--listen", "0.0.0.0"), 1, "listening on 0.0.0.0 needs users"),
        (("--listen", ":1883"), 1, "listening on 0.0.0.0 needs users"),
        (("--listen", "[::]:1883"), 1, "listening on :: needs users"),
        (("--listen", "127.0.0.1:99999"), 2, "is not HOST:PORT"),
        (("--listen", "a b"), 2, "is not HOST:PORT"),
        (("--listen", ""), 2, "is not HOST:PORT"),
        (("--add-user", "x"), 2, "--add-user and --role go together"),
        (("--role", "node"), 2, "--add-user and --role go together"),
        (("--list-users", "--remove-user", "x"), 2, "one at a time"),
        (("--tls-cert", "/dev/null"), 2, "--tls-cert and --tls-key go together"),
        (("--tls-cert", "/dev/null", "--tls-key", "/dev/null"), 1, "no certificate in PEM"),
        (("--tls-cert", "x", "--tls-key", "y"), 2, "Path 'x' does not exist"),
        (("--max-clients", "0"), 2, "--max-clients"),
        (("--folder", "/dev/null/x"), 1, "cannot"),
        (("--mosquitto", "m", "--listen", "localhost"), 2, "needs an address"),
        (("--mosquitto", "m", "--listen", "127.0.0.1:0"), 2, "port 0"),
        (("--add-user", "a/b", "--role", "node"), 2, "is no name"),
        (("--mosquitto", "a blank"), 2, "cannot name one with a blank"),
    ],
)
def test_what_it_does_not_start_with(
    invoke: Invoke, tmp_path: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    folder = () if "--folder" in arguments else ("--folder", tmp_path / "broker")
    result = invoke(main, "broker", *folder, *arguments)
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert result.stdout == ""
    assert code == 2 or result.stderr.count("\n") == 1


def test_a_port_that_cannot_be_had(tmp_path: Path) -> None:
    log = _silent()
    for host, port, why in (
        (LOOPBACK, None, "it is in use"),
        ("192.0.2.1", 1883, "no address of this machine"),
        ("no.such.host.invalid", 1883, "no such host"),
    ):
        with socket.create_server((LOOPBACK, 0)) as taken:
            place = taken.getsockname()[1] if port is None else port
            settings = server.Settings(host, place, tmp_path)
            with pytest.raises(server.ListenError, match=why):
                _run(server.Server(settings, log, {}, Lasting()))
    denied = PermissionError(13, "Permission denied")
    assert "ports below 1024 are for the superuser" in server._why(denied)


def _silent() -> server.Log:
    return server.Log(lambda _: None)


def _run(one: server.Server) -> None:
    async def until_ready() -> None:
        stop = asyncio.Event()
        await one.run(stop, lambda _: stop.set())

    asyncio.run(until_ready())


def test_ready_lines_say_how_boards_are_told(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    add(folder, "head", "node")
    command = brokers.tinysplit("broker", "--folder", folder, "--listen", "0.0.0.0:0")
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        ready, told = process.stdout.readline(), process.stdout.readline()
        port = ready.split("0.0.0.0:")[1].split()[0]
        second = CliRunner().invoke(
            main, ["broker", "--folder", str(folder), "--listen", f"{LOOPBACK}:0"]
        )
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=10)[1]
    assert process.returncode == 0
    assert ready.startswith("broker ready at mqtt://0.0.0.0:")
    assert "1 nodes, 0 operators" in ready
    assert f":{port} --set mqtt_user=NAME --set name=NAME" in told
    assert "mqtt_url=mqtt://0.0.0.0" not in told
    assert "travel in the clear" in said
    assert "the broker has stopped" in said
    assert second.exit_code == 1
    assert "another broker runs on" in second.stderr


def test_without_users_everybody_here_is_an_operator_until_there_are_some(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    with brokers.running(brokers.embedded(folder, roles={})) as broker:
        with Client(broker, None) as anyone:
            assert anyone.subscribe("#") == [True]
            assert anyone.send("tinysplit/head/cmd", b"x")
            assert anyone.take()[1] == b"x"
            users.write(folder / "users", {"boss": cheap_user("boss", "operator")})
            assert anyone.gone.wait(5)
        with Client(broker, None) as anyone:
            assert anyone.accepted is False
        with Client(broker, "boss") as boss:
            assert boss.accepted
            (folder / "users").unlink()
            assert boss.gone.wait(5)
        with Client(broker, None) as anyone:  # Not open again.
            assert anyone.accepted is False


def test_users_change_while_it_runs(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    with brokers.running(brokers.embedded(folder)) as broker:
        with Client(broker, "head") as head, Client(broker, "tail") as tail:
            known = users.read(folder / "users")
            del known["head"]
            users.write(folder / "users", known)
            assert head.gone.wait(5)
            assert not tail.gone.is_set()
            (folder / "users").write_text("nonsense")
            time.sleep(1.2)
            assert not tail.gone.is_set()
        with Client(broker, "head") as head:
            assert head.accepted is False
        assert "the users stay as they were" in broker.log()


def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    with brokers.running(brokers.embedded(tmp_path / "files")) as broker:
        acknowledged: list[bytes] = []
        with Client(broker, "head") as head:
            killer = threading.Timer(0.5, broker.process.kill)
            killer.start()
            for number in range(100_000):
                if not head.send("tinysplit/head/status", b"%d" % number, retain=True):
                    break
                acknowledged.append(b"%d" % number)
            killer.join()
        broker.process.wait()
        assert acknowledged
        broker.restart()
        with Client(broker, "boss") as boss:
            boss.subscribe("tinysplit/+/status")
            kept = int(boss.take()[1])
        assert int(acknowledged[-1]) <= kept <= int(acknowledged[-1]) + 1


def test_a_full_disk_delays_the_acknowledgement_until_there_is_room(tmp_path: Path) -> None:
    """The file's place is taken by a folder, and then is free again."""
    folder = tmp_path / "files"
    with brokers.running(brokers.embedded(folder)) as broker:
        (folder / ".retained.json.new").mkdir()
        with Client(broker, "head") as head, Client(broker, "boss") as boss:
            boss.subscribe("tinysplit/+/status")
            assert not head.send("tinysplit/head/status", b"here", retain=True, wait=False)
            assert boss.take()[1] == b"here"  # It is passed on all the same.
            time.sleep(0.2)
            assert not head.sent[-1].is_published()
            (folder / ".retained.json.new").rmdir()
            deadline = time.monotonic() + 5
            while not head.sent[-1].is_published():
                assert time.monotonic() < deadline
                time.sleep(0.01)
        assert "cannot write" in broker.log()
        assert b"here" in [m.payload for m in lasting.read(folder / "retained.json").retained]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no json",
        "[]",
        '{"version": 1, "retained": [{}], "wills": []}',
        '{"version": 1, "retained": [{"topic": "a", "payload": "*", "qos": 0, "retain": true}], '
        '"wills": []}',
        '{"version": 1, "retained": 5, "wills": []}',
        '{"version": 2}',
    ],
)
def test_a_file_that_is_not_ours(invoke: Invoke, tmp_path: Path, text: str) -> None:
    (tmp_path / "retained.json").write_text(text)
    result = invoke(main, "broker", "--folder", tmp_path, "--listen", f"{LOOPBACK}:0")
    assert result.exit_code == 1
    assert "retained.json" in result.stderr
    assert "remove it" in result.stderr


def test_what_lasts_is_written_whole(tmp_path: Path) -> None:
    file = tmp_path / "retained.json"
    left = Lasting(
        (Message("tinysplit/é/status", bytes(range(256)), 1, True),),
        ((("boss", "id\n"), Message("a", b"", 2, False), 65535),),
    )
    lasting.write(file, lasting.encode(left))
    assert lasting.read(file) == left
    assert file.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["retained.json"]
    assert lasting.read(tmp_path / "missing") == Lasting()


def test_messages_under_way_are_delivered_before_it_stops(tmp_path: Path) -> None:
    """And what is sent later is not acknowledged, so that it is sent again to the next broker."""
    with brokers.running(brokers.embedded(tmp_path / "files")) as broker:
        with Client(broker, "boss") as boss, Client(broker, "head") as head:
            head.subscribe("tinysplit/head/cmd")
            sent = 0
            stopper = threading.Timer(0.2, broker.process.terminate)
            stopper.start()
            while boss.send("tinysplit/head/cmd", b"%d" % sent):
                sent += 1
            assert head.gone.wait(10)
            got = [head.messages.get_nowait()[1] for _ in range(head.messages.qsize())]
        assert sent
        assert got[:sent] == [b"%d" % number for number in range(sent)]
        assert broker.process.wait(10) == 0


def test_the_log_as_json(tmp_path: Path) -> None:
    with brokers.running(brokers.embedded(tmp_path / "files")) as broker:
        with Client(broker, "head", secret="wrong word"), Client(broker, "tail") as tail:
            tail.send("tinysplit/head/cmd", b"x")
        with Client(broker, "what is this"):
            pass
        broker.stop()
        lines = [json.loads(line) for line in broker.log().splitlines()]
    texts = {line["event"]: line["text"] for line in lines}
    assert texts["refused"] == "tail: it may not publish to 'tinysplit/head/cmd'"
    wrong = [line["text"] for line in lines if line["event"] == "wrong_login"]
    assert wrong[0].endswith("wrong password for head")
    assert wrong[1].endswith("unknown user")
    assert "wrong word" not in broker.log()
    assert "what is this" not in broker.log()
    assert {"time", "level", "event", "text"} <= set(lines[0])


def test_who_does_not_log_in_is_shown_the_door(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_LOGIN_S", 0.2)
    one = server.Server(server.Settings(LOOPBACK, 0, tmp_path), _silent(), {}, Lasting())
    with (
        brokers.in_process(one) as port,
        socket.create_connection((LOOPBACK, port), 10) as client,
    ):
        client.sendall(b"\x10")
        assert ended(client)


def test_who_does_not_read_what_is_sent_is_disconnected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_MOST_UNSENT_BYTES", 1 << 20)
    lines: list[str] = []
    log = server.Log(lines.append)
    known = {name: cheap_user(name, role) for name, role in brokers.USERS.items()}
    one = server.Server(server.Settings(LOOPBACK, 0, tmp_path), log, known, Lasting())
    with brokers.in_process(one) as port, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect((LOOPBACK, port))
        client.sendall(connect("tail") + subscribe("tinysplit/tail/cmd"))
        assert client.recv(4) == b"\x20\x02\x00\x00"
        with Client(Running("embedded", 3, tmp_path, port, []), "boss") as boss:
            for _ in range(12):
                assert boss.send("tinysplit/tail/cmd", bytes(1 << 20))
    assert any("reads nothing" in line for line in lines)


def ended(client: socket.socket) -> bool:
    """The other end has closed it."""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def test_a_flood_ends_its_own_connections_and_not_those_of_boards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """127.0.0.2 floods; a board at 127.0.0.1 needs long for its CONNECT."""
    monkeypatch.setattr(server, "_PENDING", 20)
    settings = server.Settings(LOOPBACK, 0, tmp_path)
    one = server.Server(settings, _silent(), {"tail": cheap_user("tail", "node")}, Lasting())
    with (
        brokers.in_process(one) as port,
        socket.create_connection((LOOPBACK, port), 10) as board,
        contextlib.ExitStack() as stack,
    ):
        said = connect("tail")
        board.sendall(said[:5])
        flood = [
            stack.enter_context(
                socket.create_connection((LOOPBACK, port), 10, source_address=("127.0.0.2", 0))
            )
            for _ in range(100)
        ]
        assert all(ended(client) for client in flood[:80])
        board.sendall(said[5:])
        assert board.recv(4) == b"\x20\x02\x00\x00"


def test_guesses_end_their_own_logins_and_not_those_of_boards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passwords are checked one at a time here, slowly; there is room for a few to wait."""
    monkeypatch.setattr(server, "_WAITING_LOGINS", 4)
    monkeypatch.setattr(server, "_HASHERS", 1)
    settings = server.Settings(LOOPBACK, 0, tmp_path)
    slow = users.made("tail", "node", "password of tail")
    one = server.Server(settings, _silent(), {"tail": slow}, Lasting())
    wrong = connect("tail").replace(b"password of", b"passport of")
    with brokers.in_process(one) as port, contextlib.ExitStack() as stack:

        def guess() -> socket.socket:
            place, own = (LOOPBACK, port), ("127.0.0.2", 0)
            client = socket.create_connection(place, 10, source_address=own)
            client.sendall(wrong)
            return stack.enter_context(client)

        guesses = [guess() for _ in range(4)]
        board = stack.enter_context(socket.create_connection((LOOPBACK, port), 10))
        board.sendall(connect("tail"))
        guesses += [guess() for _ in range(20)]
        assert board.recv(4) == b"\x20\x02\x00\x00"
        answers = [client.recv(4)[3] for client in guesses]
        assert set(answers) == {3, 4}  # Unavailable, or wrong.


def test_a_flooding_node_is_slowed_and_nothing_is_lost(tmp_path: Path) -> None:
    """50 MB with QoS 1 to an operator that begins to read late."""
    with brokers.running(brokers.embedded(tmp_path / "files")) as broker:
        before = broker.peak_bytes
        count, size = 100, 500_000
        with (
            Client(broker, "boss") as boss,
            socket.create_connection((LOOPBACK, broker.port)) as node,
        ):
            boss.subscribe("tinysplit/tail/reply")
            gate = threading.Event()
            boss.before_message = gate.wait  # Its thread reads nothing meanwhile.
            node.sendall(connect("tail"))
            assert node.recv(4) == b"\x20\x02\x00\x00"

            def flood() -> None:
                for number in range(1, count + 1):
                    payload = number.to_bytes(4, "big") * (size // 4)
                    node.sendall(publish("tinysplit/tail/reply", payload, qos=1, number=number))

            sender = threading.Thread(target=flood)
            sender.start()
            time.sleep(1.0)
            assert sender.is_alive()  # Held by the broker.
            assert broker.peak_bytes < before + (40 << 20)
            gate.set()
            got = [int.from_bytes(boss.take()[1][:4], "big") for _ in range(count)]
            sender.join()
        assert got == list(range(1, count + 1))


def test_mosquitto_files_keep_their_users(invoke: Invoke, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    authority = certificates.authority(tmp_path)
    pair = certificates.issue(tmp_path, authority)
    arguments = ("--mosquitto", folder, "--listen", LOOPBACK, "--tls-cert", pair[0])
    result = invoke(main, "broker", *arguments, "--tls-key", pair[1])
    assert result.exit_code == 0, result.output
    assert "nodes connect to port 8883, operators to 8884" in result.stdout
    assert sorted(entry.name for entry in folder.iterdir()) == sorted(mosquitto.FILES)
    assert all(entry.stat().st_mode & 0o77 == 0 for entry in folder.iterdir())
    (folder / "nodes.users").write_text("somebody")
    assert invoke(main, "broker", *arguments, "--tls-key", pair[1]).exit_code == 0
    assert (folder / "nodes.users").read_text() == "somebody"
    assert f"certfile {pair[0]}" in (folder / "mosquitto.conf").read_text()


def test_limits_hold_for_commands_of_the_schema() -> None:
    assert Limits().packet_bytes >= MAX_LINE_BYTES + 600


def test_a_file_without_users_opens_the_broker_to_nobody(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "users").touch(mode=0o600)
    done = invoke(main, "broker", "--folder", str(tmp_path), "--listen", "127.0.0.1:0")
    assert done.exit_code == 1
    assert "has no users" in done.stderr
