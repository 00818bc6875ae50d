"""Wrong usage is exit code 2 and says so before anything is started; wording of what is printed."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from host.boards import control
from host.boards.control import ControlError
from host.cli import main
from host.report.link_table import counted
from partitioner import child
from partitioner.cost.wifi import RATES

Invoke = Callable[..., Result]
ETHER = ("--listen", "espnow://02:00:00:00:00:01")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "BUNDLE", "--transport", "espnow", "--delay", "5"), "--delay is for UDP and TCP"),
        (("run", "BUNDLE", "--transport", "espnow", "--rate", "9"), "--rate is for UDP and TCP"),
        (("run", "BUNDLE", "--transport", "ble", "--corrupt", "0.1"), "only --loss and --seed"),
        (("run", "BUNDLE", "--transport", "udp", "--loss", "nan"), "not between 0 and 1"),
        (("run", "BUNDLE", "--transport", "udp", "--delay", "nan"), "not 0 or more"),
        (("run", "BUNDLE", "--transport", "udp", "--timeout", "nan"), "no number"),
        (
            ("run", "BUNDLE", "--transport", "udp", "--head", "qemu:x", "--ipv6"),
            "emulated boards have udp and tcp over IPv4 only",
        ),
        (
            ("run", "BUNDLE", "--transport", "udp", "--relay", "board", "--relay", "board"),
            "--relay is given 2 times for 1 stage between head and tail",
        ),
        (
            ("run", "BUNDLE", "--transport", "udp", "--bridge", "serial:x"),
            "--bridge is for --tail host",
        ),
        (("air", "espnow", "--loss", "nan"), "not between 0 and 1"),
        (("boards", "--seconds", "nan"), "no number"),
        (("plan", "--loss", "nan"), "nan"),
        (("board", "BUNDLE", "--stage", "0"), "needs the address of the next stage"),
        (("board", "BUNDLE", "--stage", "2", "--next", "udp://127.0.0.1:1"), "has no next stage"),
        (("board", "BUNDLE", "--stage", "2", "--listen", "nonsense"), "is no address"),
        (("board", "BUNDLE", "--stage", "0", "--next", "nonsense"), "is no address"),
        (("board", "BUNDLE", "--stage", "0", "--next", "tcp://127.0.0.1:1"), "do not fit"),
        (("board", "BUNDLE", "--stage", "2", *ETHER), "needs the setting air"),
        (("board", "BUNDLE", "--stage", "2", "--name", "a blank"), "name: "),
        (("board", "BUNDLE", "--stage", "2", "--name", "x" * 5000), "(5000 characters)"),
        (("board", "--role", "bridge"), "a bridge needs a radio"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, tuple) else "",
)
def test_wrong_usage(
    invoke: Invoke, folder: Path, arguments: tuple[str, ...], message: str
) -> None:
    result = invoke(main, *(folder if a == "BUNDLE" else a for a in arguments))
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert result.stdout == ""
    assert len(result.stderr) < 1000
    assert "/dev/" not in result.stderr


def test_long_values_are_not_echoed_whole() -> None:
    for settings in ({"name": "x" * 5000}, {"listen": "'" * 5000}):
        with pytest.raises(ControlError, match="5000 characters") as refused:
            control.check_settings(settings)
        assert len(str(refused.value)) < 200


def test_a_full_disk_behind_the_output_is_named(folder: Path) -> None:
    command = [*child.command("host.cli", "main"), "run", str(folder), "--count", "1"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "cannot write the output: No space left on device" in done.stderr


def test_one_and_many() -> None:
    assert [counted(n, "boundary") for n in (0, 1, 2000)] == [
        "0 boundaries",
        "1 boundary",
        "2,000 boundaries",
    ]
    assert counted(1, "data frame") == "1 data frame"
    assert counted(3, "data frame") == "3 data frames"


def test_rates_are_written_as_everywhere() -> None:
    assert RATES["1M"].text == "1 Mbit/s"
    assert RATES["250K"].text == "250 kbit/s"
    assert RATES["5.5M"].text == "5.5 Mbit/s"


def test_one_inference_over_a_link_in_good_grammar(invoke: Invoke, folder: Path) -> None:
    result = invoke(main, "run", folder, "--count", 1, "--transport", "udp", "--tail", "host")
    assert result.exit_code == 0, result.output
    assert "for 1 boundary, 0 of them retransmitted" in result.output
    assert "the result equals the uncut model's, byte for byte" in result.output
    assert "return: what the others leave of the round trip" in result.output


def test_secrets_are_not_echoed_at_all() -> None:
    with pytest.raises(ControlError, match=r"espnow_pmk: .*does not fit pattern") as refused:
        control.check_settings({"espnow_pmk": "0123456789abcdef-secret"})
    assert "0123" not in str(refused.value)


def test_no_command_is_cut_in_the_list(invoke: Invoke) -> None:
    for group in ((), ("keys",)):
        assert "..." not in invoke(main, *group, "--help").stdout.partition("Commands")[2]
