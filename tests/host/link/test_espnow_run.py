"""Split inference over ESP-NOW: virtual boards in processes, a modelled air between them."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from host.boards.address import Address
from host.boards.virtual.process import VirtualBoard
from host.cli import main
from host.link.espnow.frames import KeyLengthError
from host.link.espnow.keys import LMK_VARIABLE, PMK_VARIABLE, read_key
from host.link.impairment import Impairment
from host.testbed import Options, Testbed
from partitioner import child
from partitioner.bundle import Bundle
from tests.host.exact import assert_exact

Invoke = Callable[..., Result]
KEYS = {"pmk": b"primary-key-0123", "lmk": b"local-key-012345"}


def infer(
    bundle: Bundle, folder: Path, count: int = 5, **settings: Any
) -> tuple[list[dict[str, Any]], list[str]]:
    """Inferences over ESP-NOW, each exact; the boards' stats and what the air reports."""
    with Testbed(bundle, folder, Options(transport="espnow", **settings)) as testbed:
        assert_exact(testbed, bundle, count)
        stats = testbed.stats()
        return stats, testbed.air_report(stats)[1]


@pytest.mark.parametrize(("version", "frame"), [(1, 250), (2, 1470)])
def test_two_boards_are_exact_and_say_what_they_negotiated(
    pair: Bundle, pair_folder: Path, version: int, frame: int
) -> None:
    stats, report = infer(pair, pair_folder, radio={"espnow_version": version, "channel": 11})
    assert stats[0]["frame_size"] == frame
    # The last acknowledgement may be on its way.
    assert stats[0]["radio"]["acknowledged"] >= stats[0]["radio"]["sent"] - 1 > 0
    assert f"ESP-NOW version {version}, 1 Mbit/s, channel 11, frames of up to {frame}" in report[0]


def test_three_stages_are_exact(stranger_bundle: Bundle, tmp_path: Path) -> None:
    stranger_bundle.write(tmp_path / "three")
    infer(stranger_bundle, tmp_path / "three", radio={"espnow_rate": "11M"})


def test_an_air_that_loses_and_damages_frames_costs_time_but_no_byte(
    pair: Bundle, pair_folder: Path
) -> None:
    bad = Impairment(loss=0.2, corrupt=0.1, seed=3)
    stats, report = infer(pair, pair_folder, count=10, impairment=bad, timeout_ms=30_000)
    radio = stats[0]["radio"]
    assert radio["attempts"] > radio["sent"]
    assert " 0 lost" not in report[1]


def test_a_link_whose_mac_gives_up_often_is_repaired_by_the_protocol(
    pair: Bundle, pair_folder: Path
) -> None:
    bad = Impairment(loss=0.5, seed=5)
    stats, _ = infer(pair, pair_folder, count=10, impairment=bad, timeout_ms=60_000)
    radio = stats[0]["radio"]
    assert radio["acknowledged"] < radio["sent"], "some frames were lost after seven attempts"
    assert stats[0]["data_resent"] > 0


def test_a_thousand_boundaries_at_10_percent_frame_loss_are_exact(
    pair: Bundle, pair_folder: Path
) -> None:
    # At 24 Mbit/s, so that it takes seconds; test_core_on_air has 1 Mbit/s in simulated time.
    radio = {"espnow_version": 2, "espnow_rate": "24M"}
    bad = Impairment(loss=0.1, seed=11)
    stats, _ = infer(pair, pair_folder, 1000, impairment=bad, radio=radio, timeout_ms=30_000)
    assert stats[0]["radio"]["attempts"] > 1.1 * stats[0]["radio"]["sent"]
    assert stats[0]["next_error"] == "ok"


def test_encrypted_boards_are_exact(pair: Bundle, pair_folder: Path) -> None:
    stats, report = infer(pair, pair_folder, radio=KEYS)
    assert stats[1]["radio"]["encrypted"]
    assert stats[1]["radio"]["no_key"] == 0
    assert "encrypted (CCMP)" in report[0]
    for key in KEYS.values():
        assert key.decode() not in str(stats) + str(report)
        assert key.hex() not in str(stats) + str(report)


def test_keys_come_from_files_that_only_the_owner_reads(
    pair_folder: Path, tmp_path: Path, invoke: Invoke
) -> None:
    lmk = tmp_path / "lmk"
    lmk.write_bytes(b"00112233445566778899aabbccddeeff\n")
    lmk.chmod(0o600)
    arguments = ["run", pair_folder, "--transport", "espnow", "--lmk-file", lmk]
    lmk.write_bytes(b"short\n")
    wrong = invoke(main, *arguments)
    assert (wrong.exit_code, "the LMK has 5 bytes, not 16" in wrong.output) == (1, True)
    lmk.chmod(0o644)
    assert f"chmod 600 {lmk}" in invoke(main, *arguments).output
    absent = invoke(main, *arguments[:-1], tmp_path / "none")
    assert (absent.exit_code, "does not exist" in absent.output) == (2, True)


def test_a_key_file_without_end_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "lmk"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # A hole: no bytes on the disk, and more than any memory.
    path.chmod(0o600)
    with pytest.raises(KeyLengthError, match=r"the LMK has \d+ bytes, not 16"):
        read_key(path, "LMK")


def test_a_key_of_the_wrong_length_in_the_environment_is_one_line(
    pair_folder: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, name in ((PMK_VARIABLE, "PMK"), (LMK_VARIABLE, "LMK")):
        with monkeypatch.context() as changed:
            changed.setenv(variable, "seventeen-letters")
            found = invoke(main, "run", pair_folder, "--transport", "espnow")
        assert found.exit_code == 1
        assert f"the {name} has 17 bytes, not 16" in found.output
        assert "seventeen" not in found.output


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (["--transport", "udp", "--espnow-version", "2"], 2, "need --transport espnow"),
        (["--espnow-rate", "1M"], 2, "need --transport espnow"),
        (["--transport", "udp", "--pmk-file", "."], 2, "need --transport espnow"),
        (["--transport", "espnow", "--pmk-file", "."], 2, "add --lmk-file"),
        (["--transport", "espnow", "--espnow-rate", "3M"], 2, "'3M' is not one of"),
        (["--transport", "espnow", "--channel", "15"], 2, "15 is not in the range"),
        (["--transport", "espnow", "--ipv6"], 2, "--ipv6 is for udp and tcp"),
        (["--transport", "espnow", "--delay", "5"], 2, "--delay is for UDP and TCP"),
        (["--transport", "espnow", "--reorder", "0.1"], 2, "--reorder is for UDP and TCP"),
    ],
)
def test_options_that_make_no_sense_are_one_line(
    pair_folder: Path, invoke: Invoke, options: list[str], code: int, text: str
) -> None:
    found = invoke(main, "run", pair_folder, *options)
    assert found.exit_code == code
    assert text in found.output
    assert "Traceback" not in found.output


def test_a_board_needs_an_air_and_says_so(pair_folder: Path, invoke: Invoke) -> None:
    listen = ["--listen", "espnow://02:00:00:00:00:02"]
    found = invoke(main, "board", pair_folder, "--stage", 1, *listen)
    assert (found.exit_code, "needs the setting air" in found.output) == (2, True)
    found = invoke(
        main, "board", pair_folder, "--stage", 1, *listen, "--air", "ether://127.0.0.1:1"
    )
    assert (found.exit_code, "refused the connection" in found.output) == (1, True)


def test_boards_started_by_hand_meet_on_an_air_started_by_hand(pair_folder: Path) -> None:
    places = [Address("espnow", f"02:00:00:00:00:0{n}") for n in (1, 2)]
    command = [*child.command("host.cli", "main"), "air", "espnow", "--loss", "0.1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as air:
        assert air.stdout is not None
        settings = {"air": air.stdout.readline().strip()}
        with (
            VirtualBoard("tail", pair_folder, 1, places[1], None, settings=settings) as tail,
            VirtualBoard("head", pair_folder, 0, places[0], places[1], settings=settings) as head,
        ):
            tail.wait_ready(60)
            head.wait_ready(60)
            assert head.ask("run", 20, input="selftest")["code"] == "ok"
        air.send_signal(signal.SIGINT)
        assert air.wait(10) == 0
