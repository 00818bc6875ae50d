"""`tinysplit pack`: signed images in a new folder, all of them or none."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from host.cli import main
from host.packing import keys
from partitioner import image
from partitioner.bundle import Bundle


@pytest.fixture
def folder(stranger_bundle: Bundle, tmp_path: Path) -> Path:
    stranger_bundle.write(tmp_path / "bundle")
    keys.new(tmp_path / "key")
    return tmp_path


def test_every_stage_signed(invoke: Callable[..., Result], folder: Path) -> None:
    target = folder / "images"
    done = invoke(
        main, "pack", folder / "bundle", "--key", folder / "key", "--version", 5, "-o", target
    )
    assert done.exit_code == 0, done.output
    public = keys.load_public(folder / "key.pub")
    assert public.fingerprint in done.stdout
    assert "arena (x86-64)" in done.stdout
    assert sorted(p.name for p in target.iterdir()) == [f"stage{n}.tsim" for n in range(3)]
    for number in range(3):
        data = (target / f"stage{number}.tsim").read_bytes()
        found = image.decode(data, public.verify)
        assert (found.stage, found.stage_count, found.version) == (number, 3, 5)
        assert image.digest_of(data).hex() in done.stdout


def test_one_stage_unsigned_with_every_option(invoke: Callable[..., Result], folder: Path) -> None:
    before = int(time.time())
    done = invoke(
        main,
        *("pack", folder / "bundle", "--stage", 1, "--unsigned", "--chip", "esp32s3"),
        *("--min-firmware", "0.2.3", "--downgrade-from", 9),
    )
    assert done.exit_code == 0, done.output
    (target,) = Path("build").iterdir()
    assert target.name.startswith("bundle-images-")
    (file,) = target.iterdir()
    found = image.decode(file.read_bytes(), None)
    assert file.name == "stage1.tsim"
    assert found.stage == 1
    assert found.chip == 9
    assert found.firmware == 0x000203
    assert found.downgrade_from == 9
    assert before <= found.version <= int(time.time())


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        ([], 2, "give --key FILE, or --unsigned"),
        (["--key", ".", "--unsigned"], 2, "give --key FILE, or --unsigned"),
        (["--unsigned", "--stage", "x"], 2, "is no stage"),
        (["--unsigned", "--version", "0"], 2, "--version"),
        (["--unsigned", "--version", 2**32], 2, "--version"),
        (["--unsigned", "--min-firmware", "1.256.0"], 2, "is no version"),
        (["--unsigned", "--min-firmware", "1"], 2, "is no version"),
        (["--unsigned", "--stage", "3"], 2, "stages 0 to 2, not 3"),
        (["--key", "nowhere"], 2, "'nowhere' does not exist"),
        (["--key", "."], 1, "cannot read ."),
        (["--unsigned", "-o", "."], 1, ". exists already; give another --output"),
    ],
    ids=str,
)
def test_what_cannot_be_leaves_nothing(
    invoke: Callable[..., Result], folder: Path, arguments: list[str], code: int, why: str
) -> None:
    done = invoke(main, "pack", folder / "bundle", *arguments)
    assert done.exit_code == code
    assert why in done.stderr
    assert "Traceback" not in done.stderr
    assert not Path("build").exists()


def test_a_firmware(invoke: Callable[..., Result], folder: Path) -> None:
    app = bytes([0xE9]) + bytes(11) + b"\x09\x00" + bytes(1000)
    (folder / "app.bin").write_bytes(app)
    arguments = "pack", folder / "app.bin", "--key", folder / "key", "-o", folder / "out"
    done = invoke(main, *arguments)
    assert done.exit_code == 0, done.output
    data = (folder / "out" / "firmware.tsim").read_bytes()
    found = image.decode(data, keys.load_public(folder / "key.pub").verify)
    assert (found.kind, found.chip, found.model) == (image.FIRMWARE, 9, app)
    done = invoke(main, *arguments[:-1], folder / "again", "--stage", 1)
    assert done.exit_code == 2
    (folder / "app.bin").write_bytes(app[1:])
    done = invoke(main, *arguments[:-1], folder / "again")
    assert done.exit_code == 1
    assert "not an application of ESP-IDF" in done.stderr
    assert not (folder / "again").exists()


def test_no_bundle_no_images(invoke: Callable[..., Result], folder: Path) -> None:
    done = invoke(main, "pack", folder, "--unsigned")
    assert done.exit_code == 1
    assert "is not a bundle" in done.stderr
