"""Images and servers that lie: the board keeps running what it ran, and the operator of
`tinysplit ota` reads a named refusal. (tests/core has the same at the C, byte by byte.)"""

from __future__ import annotations

import base64
import http.client
import json
import os
import random
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from host import reach
from host.boards import control
from host.boards.board import Board, BoardError
from host.boards.virtual import fetch as fetching
from host.boards.virtual.fetch import BUSY, Fetch
from host.boards.virtual.slots import Rules, SlotError, SlotFlash, Slots
from host.cli import main
from host.ota import courier as courier_module
from host.ota.courier import Courier, Node
from host.ota.fleet import update
from host.ota.server import ImageServer
from host.ota.shipment import shipment
from host.packing import keys
from host.packing.pack import pack
from host.reach import Reach
from partitioner import image
from tests.ports import free_port

from .conftest import Cuts
from .pairs import Pair

Invoke = Callable[..., Result]


@pytest.fixture(scope="module")
def pair(cuts: Cuts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """One for all attacks: none may leave a trace."""
    flashes = tmp_path_factory.mktemp("flashes")
    with Pair("udp", cuts.folder / "images-a", flashes, cuts.public_key) as made:
        yield made


def resealed(data: bytes, key: keys.PrivateKey) -> bytes:
    """Header checksum and signature made to fit."""
    body = data[:60] + zlib.crc32(data[:60]).to_bytes(4, "little") + data[64:-64]
    return body + key.sign(image.digest_of(body + bytes(64)))


def put(data: bytes, at: int, value: int, length: int = 4) -> bytes:
    return data[:at] + value.to_bytes(length, "little") + data[at + length :]


def good(cuts: Cuts, version: int = 5, stage: int = 1) -> bytes:
    return pack(cuts.b, [stage], cuts.key, version=version)[0].data


def bloated(cuts: Cuts) -> bytes:
    made = image.of_stage(cuts.b, 1, version=5)
    return image.encode(replace(made, model=made.model + bytes(2 << 20)), cuts.key.sign)


Attack = Callable[[Cuts, Path], bytes]
ATTACKS: dict[str, tuple[Attack, str]] = {
    "unsigned": (lambda c, _: pack(c.b, [1], None, version=5)[0].data, "image_unsigned"),
    "other key": (
        lambda c, t: pack(c.b, [1], keys.new(t / "other"), version=5)[0].data,
        "image_signature",
    ),
    "older": (
        lambda c, _: image.encode(
            replace(image.of_stage(c.b, 1, version=1), downgrade_from=0), c.key.sign
        ),
        "image_version",
    ),
    "other chip": (
        lambda c, _: pack(c.b, [1], c.key, version=5, chip=image.CHIPS["esp32c3"])[0].data,
        "image_chip",
    ),
    "newer firmware": (
        lambda c, _: pack(c.b, [1], c.key, version=5, firmware=9 << 16)[0].data,
        "image_firmware",
    ),
    "other stage": (lambda c, _: good(c, stage=0), "image_stage"),
    "longer than the slot": (lambda c, _: bloated(c), "image_too_large"),
    "lengths beyond the slot": (
        lambda c, _: resealed(put(put(good(c), 8, 64 << 20), 36, (64 << 20) - 800), c.key),
        "image_malformed",
    ),
    "lengths that do not add up": (
        lambda c, _: resealed(put(good(c), 40, 5), c.key),
        "image_malformed",
    ),
    "lengths that overflow": (
        lambda c, _: resealed(put(good(c), 36, 0xFFFFFFFF), c.key),
        "image_malformed",
    ),
    "a manifest that lies": (
        lambda c, _: resealed(good(c)[:65] + b"\xff" + good(c)[66:], c.key),
        "image_malformed",
    ),
    "a signature cut off": (lambda c, _: good(c)[:-64] + bytes(64), "image_signature"),
    "no image": (lambda _, __: bytes(4096), "image_malformed"),
    "another format": (
        lambda c, _: resealed(put(good(c), 4, 7, 2), c.key),
        "image_format",
    ),
    "firmware": (
        lambda c, _: image.encode(
            image.of_firmware(b"\xe9" + bytes(11) + b"\x09" + bytes(100), version=5), c.key.sign
        ),
        "unsupported",
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_the_operator_reads_why(cuts: Cuts, pair: Pair, tmp_path: Path, name: str) -> None:
    attack, code = ATTACKS[name]
    sent = shipment(attack(cuts, tmp_path))
    stop = threading.Event()
    with Reach(timeout_s=2) as way:
        node = Node(0, "tail", 1, pair.names[1], reach.parse(pair.names[1]))
        courier = Courier(node, way, stop=stop)
        try:
            outcome = update([courier], lambda _: lambda _: sent, stop)
        finally:
            courier.close()
    assert not outcome.done
    assert courier.report.code == code
    assert outcome.problem is not None
    assert code in outcome.problem
    info = pair.info(1)
    assert info["image_version"] == 1
    assert info["selftest"]["first_wrong"] is None
    head = pair.boards[0]
    assert head is not None
    assert head.ask("run", input="selftest")["code"] == "ok"


def test_replayed_commands_change_nothing(cuts: Cuts, pair: Pair) -> None:
    """The commands of a whole update in any order, many times."""
    tail = pair.boards[1]
    assert tail is not None
    data = good(cuts, version=7)
    digest = image.digest_of(data).hex()
    begin = {"data": base64.b64encode(data[:64]).decode(), "digest": digest}
    rng = random.Random(3)
    commands: list[tuple[str, dict[str, Any]]] = [
        ("update_begin", begin),
        *(
            (
                "update_data",
                {"offset": at, "data": base64.b64encode(data[at : at + 1000]).decode()},
            )
            for at in range(0, len(data), 1000)
        ),
        ("update_finish", {}),
        ("update_abort", {}),
    ]
    refused = 0
    for _ in range(120):
        name, fields = rng.choice(commands)
        command = tail.begin(name, **fields)
        try:
            tail.finish(command)
        except BoardError as error:
            assert error.code == "slot_order"  # noqa: PT017
            refused += 1
    assert refused > 20
    tail.ask("update_abort")
    assert tail.reboot()["image_version"] == 1


def flashed(cuts: Cuts, path: Path) -> tuple[SlotFlash, Slots]:
    flash = SlotFlash(path, 8 * 4096)
    flash.install((cuts.folder / "images-a" / "stage1.tsim").read_bytes())
    slots = Slots(flash, Rules(cuts.key.public, stage=1), lambda _: None)
    assert slots.boot() is not None
    return flash, slots


def refused(slots: Slots, data: bytes, digest: bytes) -> str:
    """Why the update was refused, by name; ok if it was not."""
    try:
        at = slots.begin(data[:64], digest)
        slots.write(at, data[at:])
        slots.finish()
    except SlotError as error:
        slots.abort()
        return error.code
    return "ok"


def test_one_flipped_bit_anywhere_is_refused(cuts: Cuts, tmp_path: Path) -> None:
    """A bit of every byte, announced under the right digest and under its own."""
    data = good(cuts)
    flash, slots = flashed(cuts, tmp_path / "flash")
    try:
        right = image.digest_of(data)
        for at in range(len(data)):
            bad = put(data, at, data[at] ^ 1 << at % 8, 1)
            if at % 7 == 0:
                assert refused(slots, bad, right) != "ok", at
            else:
                assert refused(slots, bad, image.digest_of(bad)) != "ok", at
        assert slots.running is not None
        assert slots.running.version == 1
        assert refused(slots, data, right) == "ok"
    finally:
        flash.close()


def test_an_image_without_its_end_is_never_ready(cuts: Cuts, tmp_path: Path) -> None:
    data = good(cuts)
    flash, slots = flashed(cuts, tmp_path / "flash")
    try:
        for end in range(64, len(data), 512):
            at = slots.begin(data[:64], image.digest_of(data))
            assert at == 0
            slots.write(0, data[:end])
            with pytest.raises(SlotError, match="slot_order"):
                slots.finish()
            with pytest.raises(SlotError, match="slot_not_ready"):
                slots.activate(image.digest_of(data))
            slots.abort()
            short = resealed(put(data[:end], 8, end), cuts.key)
            assert refused(slots, short, image.digest_of(short)) == "image_malformed"
    finally:
        flash.close()


# Servers.


class Liar(BaseHTTPRequestHandler):
    """Serves `server.data` as `server.way` says."""

    protocol_version = "HTTP/1.1"
    server: Any

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        data, way = self.server.data, self.server.way
        self.server.asked += 1
        bounds = self.headers["Range"].removeprefix("bytes=").split("-")
        start = int(bounds[0])
        end = int(bounds[1]) + 1 if bounds[1] else len(data)
        etag, total, told = '"one"', len(data), end - start
        if start or bounds[1] == "":
            if way == "longer":
                total = told = len(data) + 5000
            elif way == "changed" and start:
                etag = '"two"'
                data = bytes(len(data))
            elif (way == "whole again" and start) or way == "elsewhere":
                start = 0
        body = data[start:end]
        status = 200 if way == "whole again" and self.server.asked > 2 else 206
        self.send_response(status if way != "error" else 500)
        self.send_header("Content-Range", f"bytes {start}-{end - 1}/{total}")
        if way != "no etag":
            self.send_header("ETag", etag)
        self.send_header("Content-Length", str(told))
        self.end_headers()
        if bounds[1]:
            self.wfile.write(body)
        elif way in ("stalls", "silent"):
            self.wfile.write(body[: 3000 if way == "stalls" else 0])
            self.server.over.wait(20)
        elif way in ("breaks", "changed", "whole again", "no etag"):
            self.wfile.write(body[:3000])
        elif way == "rubbish":
            self.wfile.write(bytes(len(body)))
        else:
            self.wfile.write(body)
        self.close_connection = True


@pytest.fixture
def liar() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Liar)
    server.daemon_threads = True
    server.over = threading.Event()  # type: ignore[attr-defined]
    server.asked = 0  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.over.set()  # type: ignore[attr-defined]
    server.shutdown()
    server.server_close()
    thread.join()


def test_the_whole_address_is_asked_for(cuts: Cuts, tmp_path: Path) -> None:
    """With what follows the question mark: servers that sign addresses put it there."""
    asked: list[str] = []

    class Noted(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

    with ThreadingHTTPServer(("127.0.0.1", 0), Noted) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        Fetch(f"http://127.0.0.1:{server.server_address[1]}/a/b.tsim?token=x&n=1", bytes(32))
        end = time.monotonic() + 20
        while not asked and time.monotonic() < end:
            time.sleep(0.01)
        server.shutdown()
        thread.join()
    assert asked[0] == "/a/b.tsim?token=x&n=1"


def fetched(slots: Slots, url: str, digest: bytes) -> str:
    fetch = Fetch(url, digest)
    end = time.monotonic() + 20
    while fetch.state == BUSY:
        assert time.monotonic() < end
        fetch.step(slots)
        time.sleep(0.001)
    return fetch.state


@pytest.mark.parametrize(
    ("way", "state"),
    [
        ("honest", "ok"),
        ("breaks", "ok"),  # And goes on: 3,000 bytes each time.
        ("no etag", "ok"),
        ("stalls", "ok"),  # Likewise, after a while.
        ("silent", "peer_lost"),
        ("longer", "image_digest"),
        ("changed", "image_digest"),
        ("whole again", "image_digest"),
        ("rubbish", "image_malformed"),
        ("elsewhere", "ok"),
        ("error", "peer_lost"),
    ],
)
def test_servers_are_not_believed(
    cuts: Cuts,
    tmp_path: Path,
    liar: Any,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
    state: str,
) -> None:
    monkeypatch.setattr(fetching, "TIMEOUT_S", 0.1)
    monkeypatch.setattr(fetching, "PAUSE_S", 0.01)
    monkeypatch.setattr(fetching, "TRIES", 2)
    liar.data, liar.way = good(cuts), way
    flash, slots = flashed(cuts, tmp_path / "flash")
    try:
        url = f"http://127.0.0.1:{liar.server_address[1]}/x"
        found = fetched(slots, url, image.digest_of(liar.data))
        ready = slots.state().slots[1].state == "ready"
        assert found == state
        assert ready == (found == "ok")
        assert slots.boot() is not None
        assert slots.running is not None
        assert slots.running.version == 1
    finally:
        flash.close()


def test_nobody_there(cuts: Cuts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "PAUSE_S", 0.01)
    flash, slots = flashed(cuts, tmp_path / "flash")
    try:
        assert fetched(slots, f"http://127.0.0.1:{free_port()}/", bytes(32)) == "peer_lost"
    finally:
        flash.close()


def test_the_own_server_is_guessed_by_nobody(cuts: Cuts) -> None:
    with ImageServer("127.0.0.1") as server:
        one, two = (server.url(shipment(good(cuts)), "127.0.0.1") for _ in range(2))
        port = int(one.split(":")[2].split("/")[0])
        assert one != two
        assert len(one.rsplit("/", 1)[1]) == 32

        def get(way: str, **headers: str) -> tuple[int, bytes, Any]:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", way, headers=headers)
            response = connection.getresponse()
            body = response.read()
            connection.close()
            return response.status, body, response.headers

        way = "/" + one.rsplit("/", 1)[1]
        data = good(cuts)
        status, body, headers = get(way, Range="bytes=100-")
        assert (status, body) == (206, data[100:])
        assert headers["Content-Range"] == f"bytes 100-{len(data) - 1}/{len(data)}"
        status, body, _ = get(way, Range="bytes=0-63", **{"If-Range": headers["ETag"]})
        assert (status, body) == (206, data[:64])
        assert get(way, Range="bytes=9-", **{"If-Range": '"another"'})[:2] == (200, data)
        assert get(way, Range=f"bytes={len(data)}-")[0] == 416
        assert get("/")[0] == 404
        assert get("/stage1.tsim")[0] == 404
        assert get("/" + "0" * 32)[0] == 404


def certificate(folder: Path) -> tuple[Path, Path]:
    """For 127.0.0.1, signed by itself."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tinysplit test")])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(True, None), True)
        .sign(key, hashes.SHA256())
    )
    files = folder / "cert.pem", folder / "cert.key"
    files[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return files


def test_https_is_checked(cuts: Cuts, tmp_path: Path, invoke: Invoke) -> None:
    cert, key = certificate(tmp_path)
    with Pair("tcp", cuts.folder / "images-a", tmp_path, cuts.public_key) as pair:
        command = (
            *("ota", cuts.folder / "images-b", *pair.arguments, "--via", "http", "--json"),
            *("--certificate", cert, "--certificate-key", key),
        )
        distrusted = invoke(main, *command)
        assert distrusted.exit_code == 1
        assert {b["code"] for b in json.loads(distrusted.stdout)["boards"]} & {"peer_lost"}
        for board in pair.boards:
            assert board is not None
            board.ask("configure", set={"mqtt_ca": cert.read_text()})
            board.reboot()
        done = invoke(main, *command)
        assert done.exit_code == 0, done.output
        assert pair.info(0)["bundle"] == cuts.b.manifest.id


# Disks, and boards that lie.


def test_a_disk_without_room_leaves_nothing(cuts: Cuts, tmp_path: Path) -> None:
    """A new board's flash does not fit: one line, and no file that is half a flash."""
    script = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20));"
        "from host.cli import main; main()"
    )
    arguments = ["board", cuts.folder / "images-a" / "stage1.tsim", "--stage", "1"]
    arguments += ["--flash", tmp_path / "flash", "--public-key", cuts.public_key]
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "flash" in done.stderr
    assert "too large" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_flash_that_takes_nothing_is_named_and_forgiven(cuts: Cuts, tmp_path: Path) -> None:
    """As a disk that fails under a virtual board: the update goes on when it works again."""
    data = good(cuts)
    flash, slots = flashed(cuts, tmp_path / "flash")
    works = flash._fd
    try:
        slots.begin(data[:64], image.digest_of(data))
        slots.write(0, data[:4096])
        flash._fd = os.open(tmp_path / "flash", os.O_RDONLY)
        try:
            with pytest.raises(SlotError, match="flash_failed"):
                slots.write(4096, data[4096:])
            with pytest.raises(SlotError, match="slot_order"):
                slots.finish()
            assert slots.running is not None
            assert slots.image_in(slots.state().running or 0).version == 1
        finally:
            os.close(flash._fd)
            flash._fd = works
        assert slots.boot() is not None
        at = slots.begin(data[:64], image.digest_of(data))
        assert at == 4096
        slots.write(at, data[at:])
        slots.finish()
        slots.activate(image.digest_of(data))
        running = slots.boot()
        assert running is not None
        assert running.version == 5
    finally:
        flash.close()


class LyingBoard(Board):
    """Answers as `lies` has it, to everything else as a board that takes all it is sent."""

    def __init__(self, lies: dict[str, Any]) -> None:
        super().__init__("liar")
        self._lies = lies
        self._said = b""
        self._offset = 0

    def _send(self, line: bytes) -> None:
        command = json.loads(line)
        name = command["cmd"]
        if name == "update_data":
            self._offset = command["offset"] + len(base64.b64decode(command["data"]))
        result = {"offset": self._offset} if name.startswith("update_") else {"stage": 1}
        result = self._lies.get(name, result)
        self._said += control.reply(command["id"], result)

    def _receive(self, timeout_s: float) -> bytes:
        said, self._said = self._said, b""
        return said

    def close(self) -> None:
        pass


class LyingReach(Reach):
    def __init__(self, lies: dict[str, Any]) -> None:
        super().__init__()
        self._lies = lies

    def open(self, place: Any, name: str, stop: threading.Event | None = None) -> Board:
        return LyingBoard(self._lies)


@pytest.mark.parametrize(
    ("lies", "code"),
    [
        ({"info": {"stage": 1, "image_version": "nine"}}, "bad_reply"),
        ({"info": {"stage": 1, "image_version": -1}}, "bad_reply"),
        ({"info": {"stage": 1, "image_version": True}}, "bad_reply"),
        ({"info": {"stage": "1"}}, "image_stage"),
        ({"update_begin": {}}, "bad_reply"),
        ({"update_begin": {"offset": -1}}, "bad_reply"),
        ({"update_begin": {"offset": 1 << 31}}, "bad_reply"),
        ({"update_begin": {"offset": "0"}}, "bad_reply"),
        ({"update_begin": {"offset": None}}, "bad_reply"),
        ({"update_data": {"offset": -3072}}, "bad_reply"),
        ({"update_data": {"offset": [0]}}, "bad_reply"),
        ({"update_data": {"offset": 0}}, "no_progress"),
        ({"update_data": {"offset": 100}}, "no_progress"),
    ],
    ids=str,
)
def test_boards_are_not_believed(
    cuts: Cuts, monkeypatch: pytest.MonkeyPatch, lies: dict[str, Any], code: str
) -> None:
    monkeypatch.setattr(courier_module, "NO_PROGRESS_S", 0.1)
    stop = threading.Event()
    sent = shipment(good(cuts))
    node = Node(0, "tail", 1, "liar", reach.parse("udp://127.0.0.1:9"))
    courier = Courier(node, LyingReach(lies), via="control", stop=stop)
    outcome = update([courier], lambda _: lambda _: sent, stop)
    assert not outcome.done
    assert courier.report.code == code
    assert outcome.problem is not None
    assert f"[{code}]" in outcome.problem
