"""What an update says where standard error is no terminal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from host.cli import main
from host.ota import progress
from host.ota.courier import Courier, Node
from host.ota.progress import Lines
from host.ota.shipment import shipment
from host.packing.pack import pack
from host.reach import Reach, parse

from .conftest import Cuts
from .pairs import Pair
from .test_firmware import application

Invoke = Callable[..., Result]


def test_a_line_every_ten_seconds(cuts: Cuts, capsys: pytest.CaptureFixture[str]) -> None:
    now = [100.0]
    courier = Courier(Node(0, "head", 0, "mqtt:attic", parse("mqtt:attic")), Reach())
    courier.image = shipment(pack(cuts.a, [0], None, version=1)[0].data)
    courier.report.state = "old"
    say, total = Lines(lambda: now[0]), len(courier.image.data)
    for second in range(26):
        now[0], courier.offset = 100.0 + second, 50 * second
        say(courier)
    said = capsys.readouterr().err.splitlines()
    # The first call is the state, with which sending begins; the clock runs from the second.
    assert said == [
        f"head (mqtt:attic): {at:,} of {total:,} bytes ({at / total:.0%}), 0.1 kB/s"
        for at in (550, 1050)
    ]
    courier.report.state = "staged"
    say(courier)
    assert capsys.readouterr().err == "head (mqtt:attic): staged\n"


def test_an_update_tells_it_of_every_board(
    cuts: Cuts, tmp_path: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "EVERY_S", 1e-9)
    with Pair("udp", cuts.folder / "images-a", tmp_path, cuts.public_key) as pair:
        done = invoke(main, "ota", cuts.folder / "images-b", *pair.arguments)
    assert done.exit_code == 0, done.output
    lines = done.stderr.splitlines()
    for label, name in zip(("head", "tail"), pair.names, strict=True):
        size = (cuts.folder / f"images-b/stage{('head', 'tail').index(label)}.tsim").stat().st_size
        mine = [line for line in lines if line.startswith(f"{label} ({name}): ")]
        assert any(f"{size:,} of {size:,} bytes (100%), " in line for line in mine)
    assert "--via http" not in done.stderr


@pytest.mark.parametrize(
    ("options", "hinted"),
    [
        (("--node", "head=/dev/null"), 1),
        (("--node", "head=/dev/null", "--node", "tail=/dev/null"), 1),
        (("--node", "head=/dev/null", "--json"), 0),
        (("--node", "head=/dev/null", "--via", "http"), 0),
        (("--node", "head=udp://127.0.0.1:9"), 0),
    ],
)
def test_firmware_in_commands_is_said_to_be_slow_once(
    tmp_path: Path, invoke: Invoke, options: tuple[str, ...], hinted: int
) -> None:
    pytest.importorskip("esptool")
    (tmp_path / "app.bin").write_bytes(application())
    app = ("--firmware", tmp_path / "app.bin", "--unsigned", "--patience", "0")
    done = invoke(main, "ota", *app, *options)
    assert done.exit_code == 1
    assert done.stderr.count("--via http is faster") == hinted
