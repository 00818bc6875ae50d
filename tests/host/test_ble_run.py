"""`tinysplit run --transport ble`: virtual boards in processes of their own, one air."""

from __future__ import annotations

import base64
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from host.boards.address import Address
from host.boards.board import BoardError
from host.boards.virtual.process import BOOT_TIMEOUT_S, VirtualBoard
from host.cli import main
from host.link.impairment import Impairment
from host.testbed import Options, Testbed
from partitioner import child
from partitioner.bundle import Bundle
from tests.host.exact import assert_exact

Invoke = Callable[..., Result]


@pytest.mark.parametrize("tail", ["board", "host"])
@pytest.mark.parametrize("att_mtu", [517, 23])
def test_three_stages_are_exact(
    stranger_bundle: Bundle, folder: Path, tail: str, att_mtu: int
) -> None:
    options = Options(transport="ble", tail=tail, radio={"att_mtu": att_mtu})
    with Testbed(stranger_bundle, folder, options) as testbed:
        assert_exact(testbed, stranger_bundle, 3)
        provenance, lines = testbed.air_report(testbed.stats())
    assert provenance.startswith("modelled as ")
    how = "one frame a value" if att_mtu == 517 else "frames as a stream"
    granted = (
        f"granted: 7.5 ms interval, latency 0, LE 2M, LL payload 251 B, ATT_MTU {att_mtu} ({how})"
    )
    second = "stage 1 to host" if tail == "host" else "stage 1 to 2"
    assert lines[:2] == [f"stage 0 to 1, {granted}", f"{second}, {granted}"]
    assert re.search(r"link layer: \d+ data packets in \d+ connection events, 0 lost", lines[2])


@pytest.mark.slow
def test_a_thousand_boundaries_at_ten_percent_loss_are_exact(
    pair: Bundle, pair_folder: Path
) -> None:
    options = Options(transport="ble", impairment=Impairment(loss=0.1, seed=11))
    with Testbed(pair, pair_folder, options) as testbed:
        assert_exact(testbed, pair, 1000)
        _, lines = testbed.air_report(testbed.stats())
    lost = re.search(r"(\d+) data packets in \d+ connection events, (\d+) lost", lines[-1])
    assert lost is not None
    assert int(lost[2]) / int(lost[1]) == pytest.approx(0.1, abs=0.02)


def test_a_tail_that_vanishes_and_comes_back(pair: Bundle, pair_folder: Path) -> None:
    with Testbed(pair, pair_folder, Options(transport="ble", timeout_ms=2500)) as testbed:
        assert_exact(testbed, pair, 2)
        head, tail = testbed.boards
        tail.kill()
        command = head.begin("run", input="selftest")
        with pytest.raises(BoardError) as failed:
            head.finish(command, 10)
        assert failed.value.code in ("deadline", "send_failed", "peer_lost", "no_peer")
        air = testbed._air
        assert air is not None
        own = Address("ble", "c0:54:53:00:00:01")
        with VirtualBoard("again", pair_folder, 1, own, None, settings={"air": air.place}) as back:
            back.wait_ready(BOOT_TIMEOUT_S)
            answer = head.finish(head.begin("run", input="selftest", timeout_ms=10_000), 15)
            assert answer["code"] == "ok"


def test_the_command_prints_what_was_granted(
    invoke: Invoke, folder: Path, tmp_path: Path, stranger_bundle: Bundle
) -> None:
    from PIL import Image

    images = tmp_path / "images" / "any"
    images.mkdir(parents=True)
    rng = np.random.default_rng(3)
    for number in range(3):
        Image.fromarray(rng.integers(0, 256, (24, 24, 3), np.uint8)).save(images / f"{number}.png")
    arguments = ("--images", tmp_path / "images", "--count", 3, "--transport", "ble")
    result = invoke(main, "run", folder, *arguments, "--loss", 0.05)
    assert result.exit_code == 0, result.output
    assert re.search(r"link 0 to 1 .* modelled", result.output)
    assert "LE 2M, LL payload 251 B, ATT_MTU 517" in result.output
    assert "all 3 results equal the uncut model's, byte for byte" in result.output


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("--transport", "udp", "--att-mtu", 23), 2, "--att-mtu needs --transport ble"),
        (("--transport", "ble", "--att-mtu", 22), 2, "22 is not in the range"),
        (("--transport", "ble", "--delay", 5), 2, "only --loss and --seed"),
        (("--transport", "ble", "--ipv6"), 2, "--ipv6"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    invoke: Invoke, folder: Path, arguments: tuple[object, ...], code: int, text: str
) -> None:
    result = invoke(main, "run", folder, "--resize", *arguments)
    assert result.exit_code == code
    assert text in result.output


def test_boards_on_an_air_that_is_hosted_apart(pair: Bundle, pair_folder: Path) -> None:
    places = [Address("ble", f"c0:54:53:00:00:0{stage}") for stage in (0, 1)]
    with subprocess.Popen(
        [*child.command("host.cli", "main"), "air", "ble"],
        stdout=subprocess.PIPE,
        text=True,
    ) as air:
        assert air.stdout is not None
        settings = {"air": air.stdout.readline().strip()}
        with (
            VirtualBoard("tail", pair_folder, 1, places[1], None, settings=settings) as tail,
            VirtualBoard("head", pair_folder, 0, places[0], places[1], settings=settings) as head,
        ):
            tail.wait_ready(BOOT_TIMEOUT_S)
            head.wait_ready(BOOT_TIMEOUT_S)
            answer = head.ask("run", 15, input="selftest")
        wanted = pair.selftest()["output_0"][0].tobytes()
        assert base64.b64decode(answer["tensors"][0]) == wanted
        air.send_signal(signal.SIGINT)
        assert "link layer: " in air.stdout.read()
        assert air.wait(10) == 0


def test_an_air_for_a_host_that_is_not_there(invoke: Invoke) -> None:
    result = invoke(main, "air", "ble", "--controller", "vhci:/nonexistent/vhci")
    assert result.exit_code == 1
    assert "cannot be the controller of a host at vhci:/nonexistent/vhci" in result.output


def test_a_board_without_its_air_ends_with_a_line(pair_folder: Path) -> None:
    own = Address("ble", "c0:54:53:00:00:01")
    air = "tcp-client:127.0.0.1:1"
    with (
        VirtualBoard("lonely", pair_folder, 1, own, None, settings={"air": air}) as board,
        pytest.raises(BoardError, match=f"no Bluetooth controller at {air}"),
    ):
        board.wait_ready(BOOT_TIMEOUT_S)


def test_an_outright_bad_air_name_ends_with_a_line(pair_folder: Path) -> None:
    own = Address("ble", "c0:54:53:00:00:01")
    with (
        VirtualBoard("lost", pair_folder, 1, own, None, settings={"air": "nonsense"}) as board,
        pytest.raises(BoardError, match="no Bluetooth controller at nonsense"),
    ):
        board.wait_ready(BOOT_TIMEOUT_S)
