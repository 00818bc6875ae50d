"""Firmware by `tinysplit ota --firmware`: what is sent is an application, whole and for a known
chip. (tests/firmware has the board's side, on the firmware itself.)"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from functools import reduce
from pathlib import Path

import pytest
from click.testing import Result

from host.cli import main
from host.ota.shipment import check_firmware, of_firmware
from partitioner.image import ImageError

from .conftest import Cuts
from .pairs import Pair

pytest.importorskip("esptool")


def application(version: str = "1.2.4", chip: int = 9, description: bool = True) -> bytes:
    """ESP-IDF's application image with one segment: esp_app_format.h, and the description in it."""
    magic = b"\x32\x54\xcd\xab" if description else bytes(4)
    segment = (magic + bytes(12) + version.encode().ljust(32, b"\0")).ljust(512, b"\x5a")
    header = struct.pack("<BBBBI", 0xE9, 1, 2, 0x1F, 0x403752D0)
    header += struct.pack("<BBBBHBHH4sB", 0xEE, 0, 0, 0, chip, 0, 0, 0xFFFF, bytes(4), 1)
    body = header + struct.pack("<II", 0x3C000020, len(segment)) + segment
    body = body.ljust(len(body) + (15 - len(body) % 16), b"\0")
    body += bytes([reduce(lambda a, b: a ^ b, segment, 0xEF)])
    return body + hashlib.sha256(body).digest()


def test_a_whole_application_is_sent() -> None:
    made = of_firmware(application(), None, version=5)
    assert made.firmware
    assert made.runs == ("firmware", "1.2.4")
    assert made.version == 5


@pytest.mark.parametrize(
    "app",
    [
        b"",
        b"no application",
        b"\xe9",
        application()[:-1],
        application()[:300],
        application(chip=77),
        application(description=False),
        b"\xe8" + application()[1:],
    ],
    ids=range(8),
)
def test_what_is_none_is_not(app: bytes) -> None:
    with pytest.raises(ImageError, match="application"):
        check_firmware(app)


def test_no_bit_of_it_can_flip() -> None:
    app = application()
    for at in range(len(app)):
        bad = app[:at] + bytes([app[at] ^ 1 << at % 8]) + app[at + 1 :]
        with pytest.raises(ImageError):
            check_firmware(bad)


def test_virtual_boards_have_no_slot_for_it(
    cuts: Cuts, tmp_path: Path, invoke: Callable[..., Result]
) -> None:
    (tmp_path / "app.bin").write_bytes(application())
    with Pair("udp", cuts.folder / "images-a", tmp_path, cuts.public_key) as pair:
        command = ("ota", "--firmware", tmp_path / "app.bin", *pair.arguments, "--json")
        done = invoke(main, *command, "--key", cuts.key_file)
        assert done.exit_code == 1
        said = json.loads(done.stdout)
        assert "a virtual board has no slot for a firmware" in said["problem"]
        assert {board["code"] for board in said["boards"]} <= {"unsupported", None}
        assert pair.info(0)["image_version"] == 1
