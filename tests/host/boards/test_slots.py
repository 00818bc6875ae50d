"""The slot manager of firmware/core on a flash file: updates, kills, verdicts as Python's."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from host.boards.virtual.settings import Flash, FlashError
from host.boards.virtual.slots import SLOTS_OFFSET, Rules, SlotError, SlotFlash, Slots
from host.packing.keys import from_key
from partitioner import image
from partitioner.bundle import Bundle
from partitioner.image import Image, ImageError

KEY = from_key(ec.derive_private_key(1234567, ec.SECP256R1()))
OTHER = from_key(ec.derive_private_key(7654321, ec.SECP256R1()))
SLOT = 64 * 4096


def packed(bundle: Bundle, version: int, stage: int = 0, chip: int = 9) -> bytes:
    return image.encode(image.of_stage(bundle, stage, version=version, chip=chip), KEY.sign)


@pytest.fixture
def flash(tmp_path: Path) -> Iterator[SlotFlash]:
    made = SlotFlash(tmp_path / "flash", SLOT)
    yield made
    made.close()


def board(flash: SlotFlash, **rules: object) -> Slots:
    return Slots(flash, Rules(KEY.public, **rules), lambda _: None)  # type: ignore[arg-type]


def send(slots: Slots, data: bytes, piece: int = 5000) -> bytes:
    """Begin to finish; returns the digest."""
    digest = image.digest_of(data)
    at = slots.begin(data[:64], digest)
    for offset in range(at, len(data), piece):
        slots.write(offset, data[offset : offset + piece])
    slots.finish()
    return digest


def test_an_update(flash: SlotFlash, stranger_bundle: Bundle) -> None:
    slots = board(flash)
    assert slots.boot() is None
    first, second = packed(stranger_bundle, 1), packed(stranger_bundle, 2)
    slots.activate(send(slots, first))
    assert slots.boot() == image.decode(first, KEY.public.verify)
    digest = send(slots, second)
    slots.check(digest)
    assert slots.state().slots[1].state == "ready"
    slots.activate(digest)
    running = board(flash).boot()  # A board started anew on the same flash.
    assert running is not None
    assert running.version == 2
    slots = board(flash)
    slots.boot()
    with pytest.raises(SlotError, match="image_version"):
        send(slots, first)


def test_it_comes_by_wire(flash: SlotFlash, stranger_bundle: Bundle) -> None:
    flash.install(packed(stranger_bundle, 7))
    slots = board(flash)
    running = slots.boot()
    assert running is not None
    assert running.version == 7
    assert slots.state().floor == 7
    assert slots.state().slots[0].state == "confirmed"
    with pytest.raises(FlashError, match="a slot 262,144"):
        flash.install(bytes(SLOT + 1))


def test_a_failed_self_test_rolls_back(flash: SlotFlash, stranger_bundle: Bundle) -> None:
    flash.install(packed(stranger_bundle, 1))
    asked: list[Image] = []

    def wrong(found: Image) -> int | None:
        asked.append(found)
        return 3 if found.version == 2 else None

    slots = Slots(flash, Rules(KEY.public), wrong)
    slots.boot()
    slots.activate(send(slots, packed(stranger_bundle, 2)))
    running = slots.boot()
    assert running is not None
    assert running.version == 1
    state = slots.state()
    assert (state.reason, state.reason_detail, state.reason_version) == ("self_test", 3, 2)
    assert [one.version for one in asked] == [1, 2]


def test_resuming(flash: SlotFlash, stranger_bundle: Bundle) -> None:
    data = packed(stranger_bundle, 1)
    slots = board(flash)
    slots.boot()
    slots.begin(data[:64], image.digest_of(data))
    slots.write(0, data[:5000])
    slots = board(flash)
    slots.boot()
    assert slots.begin(data[:64], image.digest_of(data)) == 4096
    with pytest.raises(SlotError, match="slot_order"):
        slots.write(5000, data[5000:])
    slots.abort()
    assert slots.begin(data[:64], image.digest_of(data)) == 0


@pytest.mark.parametrize(
    ("rules", "change", "code"),
    [
        ({"chip": 5}, {}, "image_chip"),
        ({"stage": 1}, {}, "image_stage"),
        ({"firmware": 0}, {}, "image_firmware"),
        ({"max_arena": 1}, {}, "image_arena"),
        ({}, {"key": OTHER}, "image_signature"),
        ({}, {"key": None}, "image_unsigned"),
        ({"key": None}, {}, "image_no_key"),
        ({"key": None, "allow_unsigned": True}, {}, "image_no_key"),
        ({"key": None}, {"key": None}, "image_no_key"),
    ],
)
def test_refusals_have_names(
    flash: SlotFlash,
    stranger_bundle: Bundle,
    rules: dict[str, object],
    change: dict[str, object],
    code: str,
) -> None:
    made = image.of_stage(stranger_bundle, 0, version=1, chip=9, firmware=1)
    key = change.get("key", KEY)
    data = image.encode(made, None if key is None else key.sign)  # type: ignore[attr-defined]
    slots = Slots(flash, Rules(**{"key": KEY.public, **rules}), lambda _: None)  # type: ignore[arg-type]
    slots.boot()
    with pytest.raises(SlotError) as caught:
        send(slots, data)
    assert caught.value.code == code
    assert slots.boot() is None


def test_a_development_board_takes_unsigned_ones(flash: SlotFlash, stranger_bundle: Bundle) -> None:
    data = image.encode(image.of_stage(stranger_bundle, 0, version=1), None)
    slots = Slots(flash, Rules(None, allow_unsigned=True), lambda _: None)
    slots.boot()
    slots.activate(send(slots, data))
    assert slots.boot() == image.decode(data, None)


def test_python_and_c_judge_alike(flash: SlotFlash, stranger_bundle: Bundle) -> None:
    """300 images with one to three bytes changed, most with CRC and signature made to fit."""
    rng = np.random.default_rng(11)
    data = packed(stranger_bundle, 1)
    manifest_end = 64 + int.from_bytes(data[32:36], "little")
    taken = 0
    for trial in range(300):
        changed = bytearray(data)
        for _ in range(int(rng.integers(1, 4))):
            changed[int(rng.integers(0, manifest_end))] = int(rng.integers(0, 256))
        if trial % 10:
            changed = bytearray(resealed(bytes(changed)))
        flash.install(bytes(changed))
        slots = board(flash)
        runs = slots.boot()
        try:
            found = image.decode(bytes(changed), KEY.public.verify)
            refused = None
        except ImageError as error:
            found, refused = None, error.code
        # What only a board can know: its chip, its firmware, what fits into its memory.
        if found is not None and (
            found.chip not in (9, 0xFFFF) or found.firmware > 0x000100 or found.kind != 1
        ):
            found = None
        assert runs == found, (trial, refused)
        taken += runs is not None
    assert 10 < taken < 290


def resealed(data: bytes) -> bytes:
    import hashlib
    import zlib

    body = data[:60] + zlib.crc32(data[:60]).to_bytes(4, "little") + data[64:-64]
    return body + KEY.sign(hashlib.sha256(body).digest())


def test_settings_and_slots_share_a_file(tmp_path: Path, stranger_bundle: Bundle) -> None:
    path = tmp_path / "flash"
    Flash(path).write({"name": "one"})
    flash = SlotFlash(path, SLOT)
    flash.install(packed(stranger_bundle, 1))
    assert Flash(path).read() == {"name": "one"}
    Flash(path).write({"name": "two"})
    assert board(flash).boot() is not None
    assert Flash(path).read() == {"name": "two"}
    assert path.stat().st_size == SLOTS_OFFSET + 2 * SLOT
    flash.close()


def test_files_that_will_not_do(tmp_path: Path) -> None:
    path = tmp_path / "flash"
    flash = SlotFlash(path, SLOT)
    with pytest.raises(FlashError, match="another board"):
        SlotFlash(path)
    flash.close()
    with pytest.raises(FlashError, match="start with a new file"):
        SlotFlash(path, 2 * SLOT)
    path.write_bytes(bytes(20000))
    with pytest.raises(FlashError, match="start with a new file"):
        SlotFlash(path)
    with pytest.raises(FlashError, match="Is a directory"):
        SlotFlash(tmp_path)
    with pytest.raises(FlashError, match="no regular file"):
        SlotFlash(Path("/dev/zero"))
    with pytest.raises(FlashError, match="no regular file"):
        Flash(Path("/dev/zero"))


def test_a_flash_that_cannot_be_written(
    flash: SlotFlash,
    stranger_bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    flash.install(packed(stranger_bundle, 1))
    slots = board(flash)
    slots.boot()

    def full(area: int, offset: int, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(flash, "program", full)
    with pytest.raises(SlotError, match="flash_failed"):
        send(slots, packed(stranger_bundle, 2))
    assert capfd.readouterr().err == ""
    monkeypatch.undo()
    running = slots.boot()
    assert running is not None
    assert running.version == 1


UPDATER = """
import sys
from pathlib import Path
from host.boards.virtual.slots import Rules, SlotFlash, Slots
from host.packing.keys import PublicKey
from partitioner import image

flash, key, *files = sys.argv[1:]
slots = Slots(SlotFlash(Path(flash)), Rules(PublicKey(bytes.fromhex(key))), lambda _: None)
running = slots.boot()
print(running.version, flush=True)
for file in files:
    data = Path(file).read_bytes()
    if int.from_bytes(data[12:16], "little") <= running.version:
        continue
    digest = image.digest_of(data)
    for at in range(slots.begin(data[:64], digest), len(data), 1000):
        slots.write(at, data[at : at + 1000])
    slots.finish()
    slots.activate(digest)
    running = slots.boot()
    print(running.version, flush=True)
print("done", flush=True)
"""


def test_killed_at_random_it_goes_on(tmp_path: Path, stranger_bundle: Bundle) -> None:
    files = []
    for version in range(1, 201):
        files.append(tmp_path / f"{version}.tsim")
        files[-1].write_bytes(packed(stranger_bundle, version))
    path = tmp_path / "flash"
    flash = SlotFlash(path, SLOT)
    flash.install(files[0].read_bytes())
    flash.close()
    (tmp_path / "updater.py").write_text(UPDATER)
    command = [sys.executable, tmp_path / "updater.py", path, KEY.public.point.hex(), *files]
    rng = np.random.default_rng(5)
    version = kills = 0
    while True:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        first = int(process.stdout.readline())
        assert first >= version
        lines = [str(first)]
        if kills < 12:
            lines += [process.stdout.readline().strip() for _ in range(int(rng.integers(0, 14)))]
            time.sleep(float(rng.uniform(0, 0.005)))  # An update takes about as long.
            process.send_signal(signal.SIGKILL)
            kills += 1
        lines += process.stdout.read().split()
        process.wait()
        process.stdout.close()
        version = int([line for line in lines if line != "done"][-1])
        if lines[-1] == "done":
            break
    assert version == 200
    assert kills == 12
