"""The whole application, run on this machine: commands, settings, inferences, updates.

Its engine has no kernels (fake_engine.h), its radios are off; UDP, TCP, HTTP, flash, NVS, JSON and
cryptography are real. run.sh builds it and names it in TINYSPLIT_FIRMWARE_BOARD.
"""

from __future__ import annotations

import base64
import contextlib
import http.server
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from host import reach
from host.boards import control
from host.boards.board import BoardError
from host.ota.courier import Courier, Node
from host.ota.fleet import Outcome, update
from host.ota.server import ImageServer
from host.ota.shipment import shipment
from host.packing import keys
from host.packing.pack import Packed, pack, pack_firmware
from host.reach import Reach
from partitioner import image
from partitioner.bundle import Bundle
from tests.firmware.pc_board import APP_BYTES, SLOT_BYTES, PcBoard, encoded, factory_flash, line_of
from tests.ports import free_port

PROGRAM = os.environ.get("TINYSPLIT_FIRMWARE_BOARD")
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="run by tests/firmware/run.sh")

Start = Callable[..., PcBoard]
DIGEST = "0" * 64
WATCHDOG_MS = 4000  # A real board's has 15 s.
CRAWL_S = 6.0
WRONG = "wrong from 1"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start boards; all are ended, and none may have printed what a sanitizer says."""
    with contextlib.ExitStack() as boards:
        made = 0

        def begin(
            images: dict[int, bytes] | None = None,
            engine: str = "0",
            flash: Path | None = None,
            **settings: Any,
        ) -> PcBoard:
            nonlocal made
            made += 1
            if flash is None:
                flash = factory_flash(tmp_path / f"flash{made}", images or {})
                settings.setdefault("listen", f"udp://0.0.0.0:{free_port()}")
            settings = {name: value for name, value in settings.items() if value is not None}
            assert PROGRAM is not None
            board = boards.enter_context(PcBoard(Path(PROGRAM), flash, engine))
            board.wait_ready(30)
            if settings:
                board.ask("configure", set=settings)
                board.reboot(30)
            return board

        yield begin


@pytest.fixture(scope="module")
def stages(stranger_bundle: Bundle) -> list[bytes]:
    return [p.data for p in pack(stranger_bundle, range(3), None, version=1)]


@pytest.fixture
def key(tmp_path: Path) -> keys.PrivateKey:
    return keys.new(tmp_path / "key")


def refusal(board: PcBoard, name: str, **fields: Any) -> tuple[str, str]:
    with pytest.raises(BoardError) as refused:
        board.ask(name, **fields)
    return refused.value.code, str(refused.value)


# Commands


MINIMAL: dict[str, dict[str, Any]] = {
    "configure": {"set": {}},
    "run": {"input": "selftest"},
    "public_key": {"key": ""},
    "update_begin": {"data": encoded(bytes(64)), "digest": DIGEST},
    "update_data": {"offset": 0, "data": ""},
    "update_activate": {"digest": DIGEST},
    "update_fetch": {"url": "ftp://127.0.0.1/x", "digest": DIGEST},
}
EMPTY_BOARD: dict[str, str | None] = {
    "run": "refused",
    "selftest": "invoke_failed",
    "update_begin": "image_malformed",
    "update_data": "slot_order",
    "update_finish": "slot_order",
    "update_activate": "slot_not_ready",
    "update_fetch": "invalid",
}


def test_every_command_has_one_answer_by_the_schema(start: Start) -> None:
    board = start()
    for name in control.COMMANDS:
        if name == "reboot":
            continue
        wanted = EMPTY_BOARD.get(name)
        if name == "selftest":
            answer = board.ask(name)
            assert (answer["passed"], answer["serves"]) == (0, False)
        elif wanted is None:
            board.ask(name, **MINIMAL.get(name, {}))
        else:
            assert refusal(board, name, **MINIMAL.get(name, {}))[0] == wanted, name
    assert board.reboot()["reset"] == "restart"


def test_a_radio_that_took_all_memory_leaves_a_board_that_takes_settings(
    start: Start, stages: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is made after the driver fails; a board that then reset would do so for ever."""
    monkeypatch.setenv("BOARD_RADIO_TAKES_ALL", "1")
    board = start({0: stages[0]}, next="udp://127.0.0.1:9")
    assert board.ask("info")["problem"] == "no memory for the link task"
    code, message = refusal(board, "run", input="selftest")
    assert code == "refused"
    assert "no memory for the link task" in message
    board.ask("configure", set={"name": "other"})
    assert board.reboot(30)["name"] == "other"


def test_ready_is_said_before_anything_is_answered(tmp_path: Path) -> None:
    """Who asks until an answer comes takes a `ready` after it for another start."""
    assert PROGRAM is not None
    with PcBoard(Path(PROGRAM), factory_flash(tmp_path / "flash", {})) as board:
        board.write(b'{"id":"early","cmd":"info"}\n')
        board.wait_ready(30)
        while b'"id":"early"' not in board.printed:
            board.replies_to(b"")
        assert board.printed.index(b'"event":"ready"') < board.printed.index(b'"id":"early"')


def test_info_of_a_head(start: Start, stages: list[bytes], stranger_bundle: Bundle) -> None:
    info = start({0: stages[0]}, name="kitchen", next="udp://127.0.0.1:4001").ask("info")
    assert info["bundle"] == stranger_bundle.manifest.id
    assert (info["role"], info["stage"], info["stages"]) == ("head", 0, 3)
    assert (info["name"], info["next"]) == ("kitchen", "udp://127.0.0.1:4001")
    assert info["image"] == image.digest_of(stages[0]).hex()
    assert info["selftest"] == {"vectors": 1, "passed": 1, "first_wrong": None}
    assert (info["kernels"], info["problem"]) == ("esp-nn", None)
    assert info["arena"]["memory"] == "internal"
    assert 0 <= info["uptime_ms"] < 600_000
    assert {"link", "engine", "control", "uart", "udp"} <= set(info["memory"]["stack_unused"])


def test_telemetry_and_profile(start: Start, stages: list[bytes]) -> None:
    board = start({0: stages[0]}, next="udp://127.0.0.1:9")
    values = board.ask("telemetry")
    assert {"uptime_ms", "reset", "kernels", "temperature_c", "memory", "errors"} <= set(values)
    assert "commands" not in values  # Of MQTT.
    assert 0 <= values["uptime_ms"] < 600_000  # Since this start, whatever esp_timer says.
    assert values["temperature_c"] == pytest.approx(41.2)
    operators = board.ask("profile", on=True)["operators"]
    assert len(operators) > 1
    assert all(isinstance(kind, str) and us == 0 for kind, us in operators)
    assert "operators" not in values
    code, _ = refusal(board, "profile", on=1)
    assert code == "bad_command"


@pytest.mark.parametrize(
    ("line", "code", "answers"),
    [
        (b"rubbish", "malformed", None),
        (b"{", "malformed", None),
        (b"1", "malformed", None),
        (b'"info"', "malformed", None),
        (b"null", "malformed", None),
        (b"[]", "malformed", None),
        (b"{}", "malformed", None),
        (b'[{"id":1,"cmd":"info"}]', "malformed", None),
        (b'{"cmd":"info"}', "malformed", None),
        (b'{"id":true,"cmd":"info"}', "malformed", None),
        (b'{"id":1.5,"cmd":"info"}', "malformed", None),
        (b'{"id":1e300,"cmd":"info"}', "malformed", None),
        (b'{"id":[1],"cmd":"info"}', "malformed", None),
        (b'{"id":"a"}', "unknown_command", "a"),
        (b'{"id":"a","cmd":7}', "unknown_command", "a"),
        (b'{"id":"a","cmd":"explode"}', "unknown_command", "a"),
        (b'{"id":"a","cmd":"info","x":1}', "bad_command", "a"),
        (b'{"id":"a","cmd":"info","set":{}}', "bad_command", "a"),
        (b'{"id":"a","cmd":"configure"}', "bad_command", "a"),
        (b'{"id":"a","cmd":"configure","set":[]}', "bad_command", "a"),
        (b'{"id":"a","cmd":"configure","set":{"x":1}}', "bad_setting", "a"),
        (b'{"id":"a","cmd":"run"}', "bad_command", "a"),
        (b'{"id":"a","cmd":"run","input":3}', "bad_command", "a"),
        (b'{"id":"a","cmd":"run","input":"selftest","timeout_ms":0}', "bad_command", "a"),
        (b'{"id":"a","cmd":"run","input":"selftest","timeout_ms":"1"}', "bad_command", "a"),
        (b'{"id":"a","cmd":"update_begin"}', "bad_command", "a"),
        (b'{"id":"a","cmd":"update_begin","data":1,"digest":2}', "bad_command", "a"),
        (b'{"id":"a","cmd":"update_data","offset":-1,"data":""}', "bad_command", "a"),
        (b'{"id":"a","cmd":"update_data","offset":0,"data":"###"}', "bad_command", "a"),
        (b'{"id":"a","cmd":"update_activate","digest":"xyz"}', "bad_command", "a"),
        (b'{"id":"a","cmd":"update_fetch","url":7,"digest":"' + b"0" * 64 + b'"}',
         "bad_command", "a"),
        (b'{"id":"a","cmd":"public_key","key":"04"}', "bad_setting", "a"),
        (b'{"id":"a","cmd":"public_key","key":4}', "bad_command", "a"),
        (b"[" * 3000, "malformed", None),
        (b'{"id":"a","cmd":"info"' + b" " * 5000 + b"}", "too_long", "a"),
        (b'{"id":"a","cmd":"info","boot":7}', "bad_command", "a"),
        (b'{"id":"a","cmd":"info","after":-1}', "bad_command", "a"),
        (b'{"id":"a","cmd":"info","boot":"0123456789abcdef"}', "stale", "a"),
        (b"\xff\xfe\x01", "malformed", None),
    ],
)  # fmt: skip
def test_bad_lines_are_answered_by_name(
    one_board: PcBoard, line: bytes, code: str, answers: str | None
) -> None:
    answer = one_board.replies_to(line)
    assert answer["ok"] is False
    assert (answer["error"]["code"], answer["id"]) == (code, answers)
    assert one_board.ask("info")["version"] == 1


@pytest.fixture(scope="module")
def one_board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PcBoard]:
    """An empty board for tests that leave it as it was."""
    assert PROGRAM is not None
    flash = factory_flash(tmp_path_factory.mktemp("board") / "flash", {})
    with PcBoard(Path(PROGRAM), flash) as board:
        board.wait_ready(30)
        yield board


def test_lines_in_pieces_with_any_ends(one_board: PcBoard) -> None:
    for piece in (b'{"id":"h', b'alf","cm', b'd":"abort"', b"}\r", b"\n"):
        one_board.write(piece)
        time.sleep(0.05)
    assert one_board.replies_to(b"")["id"] == "half"
    one_board.write(b'\r\n\n\n{"id":"x","cmd":"abort"}\r\n')
    assert one_board.replies_to(b"")["id"] == "x"
    many = [line_of({"id": f"m{i}", "cmd": "abort"}) for i in range(20)]
    one_board.write(b"\n".join(many) + b"\n")
    one_board.ask("info")
    assert [one_board._answers.pop(f"m{i}")["ok"] for i in range(20)] == [True] * 20


def test_noise_does_not_end_it(one_board: PcBoard) -> None:
    chance = random.Random(5)
    seeds = [line_of({"id": 1, "cmd": name, **MINIMAL.get(name, {})}) for name in control.COMMANDS]
    for _ in range(150):
        noise = bytearray(chance.choice(seeds))
        for _ in range(chance.randint(1, 6)):
            noise[chance.randrange(len(noise))] = chance.randrange(256)
        if b"reboot" not in noise:
            one_board.write(bytes(noise) + b"\n")
    one_board.write(b"\n" + b"\0" * 3 + b"\n")
    time.sleep(0.2)  # What a frame that began leaves behind (SPEC.md 9.1).
    assert one_board.greet(20)["version"] == 1


# Settings


VALUES: dict[str, Any] = {
    "name": "head-1", "listen": "tcp://[::]:4100", "next": "tcp://127.0.0.1:4101", "mtu": 600,
    "window": 8, "timeout_ms": 4000, "role": "stage", "iterations": 0, "period_ms": 50,
    "input": "pattern", "pipeline": False, "light_sleep": True, "profile": True,
    "wifi_mode": "soft_ap", "wifi_ssid": "K\u00fcche", "wifi_password": "geheim-geheim",
    "power_save": "min", "channel": 11, "espnow_version": 2, "espnow_rate": "24M",
    "espnow_peers": ["espnow://02:00:00:00:00:01", "espnow://02:00:00:00:00:0a"],
    "espnow_pmk": "00112233445566778899aabbccddeeff", "ble_phy": 1, "ble_interval": 24,
    "espnow_lmk": "f0112233445566778899aabbccddeeff", "att_mtu": 185, "ble_passkey": "493017",
    "codec": "auto", "mqtt_url": "", "mqtt_user": "anna", "mqtt_password": "sesam-oeffne",
    "mqtt_ca": "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
    "meter": "none", "meter_address": 65, "meter_mohm": 50,
}  # fmt: skip
SECRETS = ("wifi_password", "espnow_pmk", "espnow_lmk", "mqtt_password", "ble_passkey")


def test_every_setting_is_kept_and_secrets_are_never_shown(start: Start) -> None:
    board = start()
    assert set(VALUES) == set(control.schema()["$defs"]["settings"]["properties"]) - {
        "stage",
        "air",
    }
    shown = board.ask("configure", set=VALUES)
    expected = {**VALUES, **dict.fromkeys(SECRETS, True)}
    assert shown == expected
    board.reboot(30)
    assert board.ask("configure", set={}) == expected
    assert board.ask("info")["name"] == "head-1"
    for name in SECRETS:
        assert VALUES[name].encode() not in board.printed, name
    board.ask("configure", set=dict.fromkeys(SECRETS, ""))
    assert not any(board.ask("configure", set={})[name] for name in SECRETS)


@pytest.mark.parametrize(
    ("setting", "value", "why"),
    [
        ("iterations", -3, "iterations: a whole number from 0 to 4294967295"),
        ("iterations", "3", "iterations: a whole number from 0 to 4294967295"),
        ("channel", 1.5, "channel: a whole number from 1 to 13"),
        ("input", "camera", "input: one of selftest, pattern"),
        ("role", 0, "role: one of stage, bridge"),
        ("pipeline", 1, "pipeline: true or false"),
        ("espnow_peers", "x", "espnow_peers: a list of addresses"),
        ("name", 3, "name: a text"),
    ],
)
def test_what_a_setting_takes_is_said(
    one_board: PcBoard, setting: str, value: Any, why: str
) -> None:
    code, said = refusal(one_board, "configure", set={setting: value})
    assert code == "bad_setting"
    assert said.endswith(f": {why}")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("name", ""), ("name", "x" * 33), ("name", "a b"), ("name", 3), ("name", None),
        ("listen", "udp://10.1.1.1:4000"), ("listen", "udp://0.0.0.0"), ("listen", None),
        ("next", "tcp://127.0.0.1:1"), ("next", "udp://127.0.0.1:0"), ("mtu", 100), ("mtu", -1),
        ("mtu", 16385), ("mtu", 200.5), ("mtu", "200"), ("window", 65), ("timeout_ms", 0),
        ("timeout_ms", 600_001), ("role", "king"), ("role", 0), ("iterations", 1 << 32),
        ("period_ms", 86_400_001), ("input", "camera"), ("pipeline", 1), ("light_sleep", True),
        ("profile", "yes"), ("wifi_mode", ""), ("wifi_ssid", "x" * 33), ("wifi_password", "short"),
        ("wifi_password", "\a" * 9), ("power_save", "most"), ("channel", 0), ("channel", 14),
        ("espnow_version", 3), ("espnow_rate", "1G"), ("espnow_peers", "espnow://02:0:0:0:0:1"),
        ("espnow_peers", ["udp://1.2.3.4:5"]), ("espnow_peers", [1]),
        ("espnow_peers", [f"espnow://02:00:00:00:00:{i:02x}" for i in range(21)]),
        ("espnow_pmk", "xyz"), ("espnow_lmk", "00" * 16), ("ble_phy", 3), ("ble_interval", 5),
        ("ble_passkey", "12345"),
        ("ble_passkey", "12345a"),
        ("ble_passkey", 123456),
        ("att_mtu", 22), ("att_mtu", 518), ("mqtt_url", "http://x"),
        ("mqtt_url", "mqtt://anna:geheim@broker"), ("mqtt_ca", "x" * 2049),
        ("meter", "ina3221"), ("meter_address", 63), ("meter_mohm", 0), ("stage", 1),
        ("air", "tcp-client:x:1"), ("colour", "red"),
    ],
)  # fmt: skip
def test_bad_settings_are_refused_by_name(one_board: PcBoard, setting: str, value: Any) -> None:
    before = one_board.ask("configure", set={})
    code, why = refusal(one_board, "configure", set={"window": 5, setting: value})
    assert code == "bad_setting"
    named = {"espnow_lmk": "espnow_lmk", "next": "next"}.get(setting, setting)
    assert named in why
    if setting in SECRETS and isinstance(value, str):
        assert value not in why
    assert "geheim" not in why
    assert one_board.ask("configure", set={}) == before, "nothing of it was kept"


def test_settings_in_flash_that_contradict_leave_the_board_reachable(start: Start) -> None:
    board = start(name="a", listen="espnow://00:00:00:00:00:00")
    info = board.ask("info")
    assert (info["link"]["transport"], info["link"]["up"]) == ("espnow", False)
    board.ask("configure", set={"listen": "udp://0.0.0.0:4000"})
    assert board.reboot(30)["link"]["transport"] == "udp"


# Inferences


def chain(
    start: Start, stages: list[bytes], transport: str = "udp", engine: str = "0", **of_head: Any
) -> list[PcBoard]:
    """Boards of all stages, the head first."""
    ports = [free_port() for _ in stages]
    boards = []
    for number, data in enumerate(stages):
        settings: dict[str, Any] = {"listen": f"{transport}://0.0.0.0:{ports[number]}"}
        if number + 1 < len(stages):
            settings["next"] = f"{transport}://127.0.0.1:{ports[number + 1]}"
        settings |= of_head if number == 0 else {}
        boards.append(start({0: data}, engine if number == 0 else "0", **settings))
    return boards


def outputs(bundle: Bundle) -> list[bytes]:
    arrays = bundle.selftest()
    return [arrays[f"output_{i}"][0].tobytes() for i in range(len(bundle.manifest.outputs))]


@pytest.mark.parametrize(("transport", "codec"), [("udp", "raw"), ("tcp", "auto")])
def test_a_chain_gives_the_golden_result(
    start: Start, stages: list[bytes], stranger_bundle: Bundle, transport: str, codec: str
) -> None:
    boards = chain(start, stages, transport)
    for board in boards:
        board.ask("configure", set={"codec": codec})
        board.reboot(30)
    head = boards[0]
    arrays = stranger_bundle.selftest()
    golden = [
        encoded(arrays[f"input_{i}"][0].tobytes())
        for i in range(len(stranger_bundle.manifest.inputs))
    ]
    for fields in ({"input": "selftest"}, {"input": "tensors", "tensors": golden}):
        answer = head.ask("run", 20, **fields)
        assert [base64.b64decode(t) for t in answer["tensors"]] == outputs(stranger_bundle)
        assert (answer["code"], answer["kernels"]) == ("ok", "esp-nn")
        assert {p["stage"] for p in answer["phases"]} == {0, 1, 2}
        assert answer["total_us"] > 0
    stats = head.ask("stats")
    assert (stats["next_up"], stats["next_error"]) == (True, "ok")
    assert stats["codec"] == (codec == "auto")
    # The boundary's way by both clocks: within the round trip, but for what the clocks may be off.
    handed, complete = stats["handed"], boards[1].ask("stats")["complete"]
    assert handed["inference"] == complete["inference"]
    way_us = complete["at_us"] - stats["clock_offset_us"] - handed["at_us"]
    doubt_us = stats["clock_uncertainty_us"] + stats["clock_age_us"] * 1e-3
    assert -doubt_us <= way_us <= answer["total_us"] + doubt_us
    assert (stats["complete"], boards[2].ask("stats")["handed"]) == (None, None)
    first = head.ask("run", 20, input="pattern")["tensors"]
    assert head.ask("run", 20, input="pattern")["tensors"] == first
    code, why = refusal(head, "run", input="tensors", tensors=["AAA="])
    assert (code, "tensors" in why) == ("bad_command", True)
    code, _ = refusal(head, "run", input="tensors", tensors=["A*=="])
    assert code == "bad_command"
    code, _ = refusal(head, "run", input="tensors", tensors=[encoded(bytes(100_000))])
    assert code == "bad_command"


def test_operators_are_timed_from_boot_on(start: Start, stages: list[bytes]) -> None:
    head, *_ = chain(start, stages, profile=True)
    assert head.ask("run", 20, input="selftest")["code"] == "ok"
    assert all(us > 0 for _, us in head.ask("profile")["operators"])
    assert head.ask("telemetry")["operators"] == head.ask("profile")["operators"]
    head.ask("profile", on=False)
    assert head.ask("run", 20, input="selftest")["code"] == "ok"
    assert "operators" not in head.ask("telemetry")


def test_a_tail_begins_nothing(start: Start, stages: list[bytes]) -> None:
    assert refusal(start({0: stages[2]}), "run", input="selftest")[0] == "stage_mismatch"


def test_a_head_that_has_no_next_says_so(start: Start, stages: list[bytes]) -> None:
    board = start({0: stages[0]})
    assert board.ask("info")["problem"].startswith("next is not set")
    for kind in ("selftest", "pattern"):
        code, why = refusal(board, "run", input=kind)
        assert code == "refused"
        assert "next is not set" in why


def test_without_a_tail_an_inference_misses_its_deadline(start: Start, stages: list[bytes]) -> None:
    board = start({0: stages[0]}, next=f"udp://127.0.0.1:{free_port()}")
    code, why = refusal(board, "run", input="selftest", timeout_ms=500)
    assert code in ("deadline", "no_peer")
    assert "stage 0" in why


def test_what_is_under_way_can_be_aborted(start: Start, stages: list[bytes]) -> None:
    board = start({0: stages[0]}, next=f"udp://127.0.0.1:{free_port()}")
    running = [board.begin("run", input="pattern", timeout_ms=60_000) for _ in range(2)]
    assert refusal(board, "run", input="pattern")[0] == "no_slot"
    assert board.ask("abort") == {"aborted": 2}
    for command in running:
        with pytest.raises(BoardError) as ended:
            board.finish(command)
        assert ended.value.code == "cancelled"
    assert board.ask("abort") == {"aborted": 0}


def test_a_stage_that_fails_its_self_test_does_not_serve(start: Start, stages: list[bytes]) -> None:
    head = start({0: stages[0]}, WRONG, listen=None)
    info = head.ask("info")
    assert info["selftest"]["passed"] == 0
    assert "CONV_2D" in info["selftest"]["first_wrong"]
    assert "self_test" in info["problem"]
    assert refusal(head, "run", input="selftest")[0] == "refused"
    assert head.ask("selftest")["serves"] is False
    port = free_port()
    start({0: stages[2]}, WRONG, listen=f"udp://0.0.0.0:{port}")
    relay = start({0: stages[1]}, next=f"udp://127.0.0.1:{port}")
    end = time.monotonic() + 8
    while (error := relay.ask("stats")["next_error"]) != "refused" and time.monotonic() < end:
        time.sleep(0.1)
    assert error == "refused"


def test_an_engine_that_fails_is_named(start: Start, stages: list[bytes]) -> None:
    head, *_ = chain(start, stages, engine="fails")
    code, why = refusal(head, "run", input="selftest")
    assert (code, "stage 0" in why) == ("invoke_failed", True)


def test_a_tail_that_restarts_is_found_again(
    start: Start, stages: list[bytes], stranger_bundle: Bundle
) -> None:
    head, relay, tail = chain(start, stages, "tcp")
    assert head.ask("run", 20, input="selftest")["code"] == "ok"
    tail.reboot(30)
    answer = head.ask("run", 60, input="selftest", timeout_ms=60_000)
    assert [base64.b64decode(t) for t in answer["tensors"]] == outputs(stranger_bundle)
    assert relay.ask("info")["link"]["reconnects"] >= 1


def events(head: PcBoard, count: int) -> list[dict[str, Any]]:
    return [head.wait_event("inference")["result"] for _ in range(count)]


def test_iterations_follow_a_boot(
    start: Start, stages: list[bytes], stranger_bundle: Bundle
) -> None:
    head, *_ = chain(start, stages)
    head.ask("configure", set={"iterations": 5, "period_ms": 40})
    head.reboot(30)
    done = events(head, 5)
    assert [one["inference"] for one in done] == [1, 2, 3, 4, 5]
    for one in done:
        assert [base64.b64decode(t) for t in one["tensors"]] == outputs(stranger_bundle)
    time.sleep(0.3)
    assert head.ask("stats")["iterations_left"] == 0
    assert not [e for e in head.events if e["event"] == "inference"]


@pytest.mark.parametrize(("pipeline", "ahead"), [(False, 1), (True, 2)])
def test_a_pipeline_computes_while_the_boundary_travels(
    start: Start, stages: list[bytes], pipeline: bool, ahead: int
) -> None:
    """The relay is held: how far ahead of the results the head's engine gets."""
    ports = [free_port() for _ in stages]
    at = [f"udp://0.0.0.0:{port}" for port in ports]
    to = [f"udp://127.0.0.1:{port}" for port in ports]
    start({0: stages[2]}, listen=at[2])
    relay = start({0: stages[1]}, listen=at[1], next=to[2])
    head = start({0: stages[0]}, listen=at[0], next=to[1], pipeline=pipeline, timeout_ms=60_000)
    head.ask("configure", set={"iterations": 100, "period_ms": 20})
    head.reboot(30)
    done = len(events(head, 3))

    def lead() -> int:
        runs = head.ask("info")["runs"]  # Its answer is behind the results that there are.
        return runs - done - sum(one["event"] == "inference" for one in head.events)

    with relay.held():
        end = time.monotonic() + 20
        while lead() < ahead and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(0.2)
        assert lead() == ahead


# Updates


def newer(bundle: Bundle, stage: int, key: keys.PrivateKey | None, version: int = 2) -> Packed:
    (packed,) = pack(bundle, [stage], key, version=version)
    return packed


def test_an_update_in_odd_pieces(
    start: Start, stages: list[bytes], stranger_bundle: Bundle
) -> None:
    packed = newer(stranger_bundle, 0, None)
    for step in (1021, 3072):
        board = start({0: stages[0]}, next="udp://127.0.0.1:9")
        digest = board.update(packed.data, step=step)
        assert board.ask("info")["image_version"] == 1
        board.ask("update_activate", digest=digest)
        info = board.reboot(30)
        assert (info["image_version"], info["image"]) == (2, digest)
        assert board.reboot(30)["image_version"] == 2  # It was kept.


def test_an_update_goes_on_after_a_power_cut(
    start: Start, stages: list[bytes], stranger_bundle: Bundle, tmp_path: Path
) -> None:
    flash = factory_flash(tmp_path / "flash", {0: stages[0]})
    data = newer(stranger_bundle, 0, None).data
    digest = image.digest_of(data).hex()
    at, starts = 0, 0
    while at < len(data):
        board = start(flash=flash)
        starts += 1
        before = at
        at = board.ask("update_begin", data=encoded(data[:64]), digest=digest)["offset"]
        assert at >= before // 4096 * 4096 or starts == 1, "what was written is not asked for again"
        for _ in range(3):
            if at < len(data):
                piece = encoded(data[at : at + 2000])
                at = board.ask("update_data", offset=at, data=piece)["offset"]
        if at < len(data):
            board.kill()
    assert starts >= 2
    board.ask("update_finish")
    board.ask("update_activate", digest=digest)
    board.kill()
    again = start(flash=flash)
    assert again.ask("info")["image_version"] == 2


def test_updates_out_of_order_are_refused(
    start: Start, stages: list[bytes], stranger_bundle: Bundle
) -> None:
    board = start({0: stages[0]})
    data = newer(stranger_bundle, 0, None).data
    other = newer(stranger_bundle, 0, None, version=3).data
    digest, header = image.digest_of(data).hex(), encoded(data[:64])
    assert board.ask("update_begin", data=header, digest=digest)["offset"] == 0
    first = encoded(data[:3000])
    assert refusal(board, "update_data", offset=10, data=first)[0] == "slot_order"
    assert board.ask("update_data", offset=0, data=first)["offset"] == 3000
    # Twice the same is once; a second begin goes on, one of another image begins anew.
    assert board.ask("update_data", offset=0, data=first)["offset"] == 3000
    assert board.ask("update_begin", data=header, digest=digest)["offset"] <= 3000
    assert refusal(board, "update_finish")[0] == "slot_order"
    assert refusal(board, "update_activate", digest=digest)[0].startswith("slot_")
    theirs = image.digest_of(other).hex()
    assert board.ask("update_begin", data=encoded(other[:64]), digest=theirs)["offset"] == 0
    board.ask("update_abort")
    assert refusal(board, "update_data", offset=0, data=first)[0] == "slot_order"
    assert board.reboot(30)["image_version"] == 1
    long = encoded(bytes(3073))
    assert refusal(board, "update_data", offset=0, data=long)[0] == "bad_command"


def test_only_what_the_key_signed_is_taken(
    start: Start, stranger_bundle: Bundle, key: keys.PrivateKey, tmp_path: Path
) -> None:
    board = start({0: newer(stranger_bundle, 0, key, 1).data})
    assert board.ask("info")["bundle"] is None  # Signed, and no key to check it with.
    board.ask("public_key", key=key.public.point.hex())
    info = board.reboot(30)
    assert (info["public_key"], info["image_version"]) == (True, 1)
    foreign = keys.new(tmp_path / "foreign")
    data = newer(stranger_bundle, 0, foreign).data
    with pytest.raises(BoardError, match="image_signature"):
        board.update(data)
    with pytest.raises(BoardError, match="image_unsigned"):
        board.update(newer(stranger_bundle, 0, None).data)
    good = bytearray(newer(stranger_bundle, 0, key).data)
    good[len(good) // 2] ^= 1
    with pytest.raises(BoardError, match="image_"):
        board.update(bytes(good))
    (older,) = pack(stranger_bundle, [0], key, version=1, chip=image.CHIPS["esp32s3"])
    with pytest.raises(BoardError, match="image_version"):
        board.update(older.data)
    assert board.reboot(30)["image_version"] == 1
    good[len(good) // 2] ^= 1
    board.ask("update_activate", digest=board.update(bytes(good)))
    assert board.reboot(30)["image_version"] == 2


def test_a_stage_that_fails_here_is_rolled_back(
    start: Start, stages: list[bytes], stranger_bundle: Bundle
) -> None:
    board = start({0: stages[0]}, "wrong from 2")
    board.ask("update_activate", digest=board.update(newer(stranger_bundle, 0, None).data))
    info = board.reboot(30)
    assert (info["image_version"], info["selftest"]["passed"]) == (1, 1)
    assert "version 2 was refused or rolled back: self_test" in info["problem"]


def application(size: int, fill: int) -> bytes:
    """What begins as an application for the ESP32-S3 does (esp_image_header_t)."""
    return b"\xe9" + bytes([fill]) * 11 + b"\x09\x00" + bytes([fill]) * (size - 14)


def written_app(flash: Path, app: int, size: int) -> bytes:
    at = 2 * SLOT_BYTES + 8192 + app * APP_BYTES
    return flash.read_bytes()[at : at + size]


@pytest.mark.parametrize("works", [True, False])
def test_a_firmware_is_kept_only_if_the_stage_works_with_it(
    start: Start, stages: list[bytes], tmp_path: Path, works: bool
) -> None:
    flash = factory_flash(tmp_path / "flash", {0: stages[0]})
    board = start(flash=flash)
    app = application(50_001, 7)
    digest = board.update(pack_firmware(app, None, version=5).data, step=2999)
    assert written_app(flash, 1, len(app)) == app
    board.ask("update_activate", digest=digest)
    board.close()
    trial = start(flash=flash, engine="0" if works else WRONG)
    if works:
        assert trial.ask("info")["selftest"]["passed"] == 1
    else:
        while trial.greet(30)["reset"] != "restart":
            time.sleep(0.05)  # It restarts itself.
        said = [event["info"]["reset"] for event in trial.events if event["event"] == "ready"]
        assert said in ([], ["restart"]), "ready, and then not there"
    trial.close()
    record = flash.read_bytes()[2 * SLOT_BYTES + 8192 + 2 * APP_BYTES :]
    assert record[:2] == (b"\x01\x00" if works else b"\x00\x00")


def test_a_firmware_that_is_none_is_refused(
    start: Start, stages: list[bytes], key: keys.PrivateKey
) -> None:
    board = start({0: stages[0]})
    packed = pack_firmware(application(20_000, 1), None, version=2).data
    spoiled = packed[:9000] + bytes([packed[9000] ^ 4]) + packed[9001:]
    with pytest.raises(BoardError, match="image_signature"):
        board.update(spoiled)
    named = image.digest_of(packed).hex()
    assert board.ask("update_begin", data=encoded(packed[:64]), digest=named)["offset"] == 0
    with pytest.raises(BoardError, match="image_digest"):
        board.update(spoiled, start=False)
    foreign = pack_firmware(application(20_000, 1), key, version=2).data
    with pytest.raises(BoardError, match=r"image_no_key|image_signature"):
        board.update(foreign)
    large = pack_firmware(application(APP_BYTES + 16, 1), None, version=2).data
    with pytest.raises(BoardError, match="image_too_large"):
        board.update(large)
    # A firmware that was begun does not stand in the way of a stage, nor the other way round.
    digest = image.digest_of(packed).hex()
    board.ask("update_begin", data=encoded(packed[:64]), digest=digest)
    board.ask("update_data", offset=0, data=encoded(packed[:3000]))
    board.ask("update_abort")
    assert board.update(packed) == digest


# Downloads


class Server(http.server.ThreadingHTTPServer):
    """Serves an image with ranges, and misbehaves as told."""

    daemon_threads = True

    def __init__(self, data: bytes, trouble: str = "") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.data, self.trouble = data, trouble
        self.requests: list[str] = []
        self.over = threading.Event()  # Until then, one that stalls does.

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/stage.tsim"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:  # As the library names it.
        asked = self.headers.get("Range", "")
        self.server.requests.append(asked)
        number = len(self.server.requests)
        trouble, data = self.server.trouble, self.server.data
        first, _, last = asked.removeprefix("bytes=").partition("-")
        begin = int(first)
        end = min(int(last) + 1 if last else len(data), len(data))
        if trouble == "absent":
            self.send_error(404)
            return
        if trouble == "changes" and number > 2:
            data = bytes(b ^ 1 for b in data)
        whole = trouble == "no_ranges"
        body = data if whole else data[begin:end]
        if trouble == "slow_headers" and number == 1:
            for letter in b"HTTP/1.1 206 so\r\nX-A: ":
                self.wfile.write(bytes([letter]))
                self.wfile.flush()
                time.sleep(CRAWL_S / 20)
            self.wfile.write(b"b\r\n")
        else:
            self.send_response(200 if whole else 206)
        said = len(body) + (5000 if trouble == "lies" else 0)
        self.send_header("Content-Length", str(said))
        self.end_headers()
        if trouble in ("breaks", "changes") and number in (2, 3) and len(body) > 64:
            body = body[: len(body) // 3]
        if trouble == "stalls" and number > 1:
            self.wfile.write(body[:1000])
            self.wfile.flush()
            self.server.over.wait(20)
            body = body[1000:]
        if trouble == "slow_body" and number == 2:
            for at in range(20):
                self.wfile.write(body[at : at + 1])
                self.wfile.flush()
                time.sleep(CRAWL_S / 20)
            body = body[20:]
        if trouble == "trickles":
            for at in range(0, len(body), 997):
                self.wfile.write(body[at : at + 997])
                self.wfile.flush()
            return
        self.wfile.write(body)
        self.close_connection = True


@contextlib.contextmanager
def served(data: bytes, trouble: str = "") -> Iterator[Server]:
    with Server(data, trouble) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("trouble", ["", "trickles", "breaks", "lies", "no_ranges"])
def test_an_image_is_downloaded(
    start: Start, stages: list[bytes], stranger_bundle: Bundle, trouble: str
) -> None:
    board = start({0: stages[0]})
    packed = newer(stranger_bundle, 0, None)
    with served(packed.data, trouble) as server:
        board.ask("update_fetch", url=server.url, digest=packed.digest)
        told = board.wait_event("update", 40)
    assert (told["code"], told["offset"]) == ("ok", len(packed.data))
    if trouble == "breaks":
        offsets = [int(r.removeprefix("bytes=").partition("-")[0]) for r in server.requests[1:]]
        assert offsets == sorted(offsets)
        assert offsets[-1] > 0, "it goes on where it was cut"
    board.ask("update_activate", digest=packed.digest)
    assert board.reboot(30)["image_version"] == 2


@pytest.mark.parametrize("trouble", ["slow_headers", "slow_body"])
def test_a_server_that_crawls_does_not_set_off_the_watchdog(
    stages: list[bytes], stranger_bundle: Bundle, tmp_path: Path, trouble: str
) -> None:
    """esp_http_client does not return before it has all it waits for."""
    packed = newer(stranger_bundle, 0, None)
    flash = factory_flash(tmp_path / "flash", {0: stages[0]})
    with (
        PcBoard(Path(str(PROGRAM)), flash, watchdog_ms=WATCHDOG_MS) as board,
        served(packed.data, trouble) as server,
    ):
        board.wait_ready(30)
        began = time.monotonic()
        board.ask("update_fetch", url=server.url, digest=packed.digest)
        assert board.wait_event("update", 40)["code"] == "ok"
        assert time.monotonic() - began > WATCHDOG_MS / 1000


def test_a_firmware_is_downloaded_and_found_there(
    start: Start, stages: list[bytes], tmp_path: Path
) -> None:
    flash = factory_flash(tmp_path / "flash", {0: stages[0]})
    board = start(flash=flash)
    app = application(30_001, 7)
    packed = pack_firmware(app, None, version=5)
    with served(packed.data) as server:
        board.ask("update_fetch", url=server.url, digest=packed.digest)
        assert board.wait_event("update", 40)["code"] == "ok"
    # How `tinysplit ota` asks whether it is all there; nothing is begun anew by that.
    begun = board.ask("update_begin", data=encoded(packed.data[:64]), digest=packed.digest)
    assert begun["offset"] == len(packed.data)
    assert written_app(flash, 1, len(app)) == app
    assert board.update(packed.data) == packed.digest
    board.ask("update_activate", digest=packed.digest)


@pytest.mark.parametrize(("trouble", "code"), [("changes", "image_"), ("absent", "peer_lost")])
def test_a_download_that_cannot_be_ends_by_name(
    start: Start, stages: list[bytes], stranger_bundle: Bundle, trouble: str, code: str
) -> None:
    board = start({0: stages[0]})
    packed = newer(stranger_bundle, 0, None)
    with served(packed.data, trouble) as server:
        board.ask("update_fetch", url=server.url, digest=packed.digest)
        assert refusal(board, "update_fetch", url=server.url, digest=packed.digest)[0] == "busy"
        told = board.wait_event("update", 40)
    assert told["code"].startswith(code)
    assert refusal(board, "update_activate", digest=packed.digest)[0].startswith("slot_")
    assert board.reboot(30)["image_version"] == 1


def test_an_update_under_way_is_kept_from_others(
    start: Start, stages: list[bytes], stranger_bundle: Bundle
) -> None:
    board = start({0: stages[0]})
    data = newer(stranger_bundle, 0, None).data
    header, digest = encoded(data[:64]), image.digest_of(data).hex()
    board.ask("update_begin", data=header, digest=digest, owner=7, by="lab3:12")
    begun = {"data": header, "digest": digest}
    others: list[tuple[str, dict[str, Any]]] = [
        ("update_begin", {**begun, "owner": 8, "by": "x"}),
        ("update_begin", begun),
        ("update_data", {"offset": 0, "data": encoded(data[:3000]), "owner": 8}),
        ("update_finish", {}),
        ("update_activate", {"digest": digest}),
        ("update_abort", {"owner": 8}),
        ("update_release", {}),
    ]
    for name, fields in others:
        code, text = refusal(board, name, **fields)
        assert code == "busy", name
        assert "another update is under way, by lab3:12, heard 0 s ago" in text
    assert refusal(board, "update_fetch", url="http://127.0.0.1:9/", digest=digest)[0] == "busy"
    for name, fields in (
        ("update_begin", {**begun, "owner": -1}),
        ("update_begin", {**begun, "owner": "7"}),
        ("update_release", {"by": "me"}),
    ):
        assert refusal(board, name, **fields)[0] == "bad_command", (name, fields)
    assert board.ask("update_begin", **begun, owner=8, take_over=True)["offset"] == 0
    assert "by number 8" in refusal(board, "update_abort", owner=7)[1]
    board.ask("update_release", owner=8)
    assert board.update(data) == digest
    board.ask("update_begin", **begun, owner=9)
    board.ask("update_activate", digest=digest, owner=9)
    assert refusal(board, "update_abort")[0] == "busy"
    assert board.reboot(30)["image_version"] == 2
    board.ask("update_abort")  # A board that restarts forgets whose update it was.


def test_a_download_ends_when_it_is_taken_over(
    start: Start, stages: list[bytes], stranger_bundle: Bundle
) -> None:
    board = start({0: stages[0]})
    one, two = (newer(stranger_bundle, 0, None, version) for version in (2, 3))
    with served(one.data, "stalls") as server:
        board.ask("update_fetch", url=server.url, digest=one.digest, owner=7)
        end = time.monotonic() + 20
        while not server.requests[1:] and time.monotonic() < end:
            time.sleep(0.01)
        header = encoded(two.data[:64])
        begun = board.ask("update_begin", data=header, digest=two.digest, owner=8, take_over=True)
        assert begun["offset"] == 0
        server.over.set()
        assert board.wait_event("update", 40)["code"] == "busy"
    at = 0
    while at < len(two.data):
        piece = encoded(two.data[at : at + 3000])
        at = board.ask("update_data", offset=at, data=piece, owner=8)["offset"]
    board.ask("update_finish", owner=8)
    board.ask("update_activate", digest=two.digest, owner=8)
    assert board.reboot(30)["image_version"] == 3


# `tinysplit ota` and this board


def brought(
    board: PcBoard, packed: Packed, via: str, server: ImageServer | None = None
) -> tuple[Outcome, Courier]:
    """An update of the board by the address it listens at."""
    name = board.ask("info")["listen"].replace("0.0.0.0", "127.0.0.1")
    stop = threading.Event()
    sent = shipment(packed.data)
    with Reach(timeout_s=3.0) as way:
        node = Node(0, "tail", sent.stage, name, reach.parse(name))
        courier = Courier(node, way, via=via, stop=stop, server=server)
        try:
            return update([courier], lambda _: lambda _: sent, stop), courier
        finally:
            courier.close()


@pytest.mark.parametrize("via", ["link", "control", "http"])
def test_an_update_by_tinysplit_ota(
    start: Start, stages: list[bytes], stranger_bundle: Bundle, via: str
) -> None:
    board = start({0: stages[2]})
    (newer,) = pack(stranger_bundle, [2], None, version=2)
    with ImageServer("127.0.0.1") as server:
        outcome, courier = brought(board, newer, via, server)
        assert outcome.done, outcome.problem
        assert courier.report.state == "running"
        assert board.wait_ready(30)["image"] == newer.digest
        again, courier = brought(board, newer, via, server)
    assert again.done
    assert courier.report.state == "current"


@pytest.mark.parametrize("via", ["link", "control", "http"])
def test_what_it_refuses_reaches_the_operator(
    start: Start, stages: list[bytes], stranger_bundle: Bundle, via: str
) -> None:
    board = start({0: stages[2]})
    (newer,) = pack(stranger_bundle, [2], None, version=2)
    bad = bytearray(newer.data)
    bad[2000] ^= 1
    digest_as_before = bytes(bad[:-64]) + newer.data[-64:]
    with ImageServer("127.0.0.1") as server:
        for data, code in (
            (digest_as_before, "image_signature"),
            (pack(stranger_bundle, [1], None, version=2)[0].data, "image_stage"),
        ):
            outcome, courier = brought(board, replace(newer, data=data), via, server)
            assert not outcome.done
            assert courier.report.code == code
            assert courier.report.state == "old"
    assert board.ask("info")["image_version"] == 1
    assert board.ask("selftest")["passed"] == 1
