"""Virtual boards that start from an image in their flash, as real boards do."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from host.boards import address, control
from host.boards.address import Address
from host.boards.virtual.board import Board
from host.boards.virtual.holding import SlotHolding, from_image
from host.boards.virtual.process import VirtualBoard
from host.boards.virtual.settings import Flash
from host.boards.virtual.slots import SlotFlash
from host.cli import main
from host.packing import keys
from host.packing.pack import pack, write
from partitioner import image, kernels
from partitioner.bundle import Bundle
from partitioner.chain import StageError
from partitioner.image import ImageError

LOOPBACK = Address("udp", "127.0.0.1", 0)


@pytest.fixture
def key(tmp_path: Path) -> keys.PrivateKey:
    return keys.new(tmp_path / "key")


@pytest.fixture
def folder(stranger_bundle: Bundle, tmp_path: Path, key: keys.PrivateKey) -> Path:
    """Signed images of all three stages."""
    write(pack(stranger_bundle, range(3), key, version=1), tmp_path / "images")
    return tmp_path / "images"


@contextmanager
def started(
    file: Path, flash: Path, key: keys.PublicKey | None, stage: int = 2
) -> Iterator[tuple[Board, SlotHolding, list[dict[str, Any]]]]:
    """A board in this process, and what it said."""
    said: list[dict[str, Any]] = []
    slots = SlotFlash(flash)
    try:
        holding = from_image(file, slots, key, stage, kernels.exact())
        defaults = {"name": "b", "stage": stage, "listen": "udp://127.0.0.1:0"}
        board = Board(
            holding, Flash(flash), defaults, lambda line: said.append(control.parse_answer(line))
        )
        try:
            yield board, holding, said
        finally:
            board.close()
    finally:
        slots.close()


def update(holding: SlotHolding, data: bytes) -> None:
    digest = image.digest_of(data)
    at = holding.slots.begin(data[:64], digest)
    holding.slots.write(at, data[at:])
    holding.slots.finish()
    holding.slots.activate(digest)


def test_a_chain_of_three_from_images(
    stranger_bundle: Bundle, folder: Path, tmp_path: Path, key: keys.PrivateKey
) -> None:
    arrays = stranger_bundle.selftest()
    boards: list[VirtualBoard] = []
    try:
        following = None
        for stage in (2, 1, 0):
            board = VirtualBoard(
                f"b{stage}",
                folder / f"stage{stage}.tsim",
                stage,
                LOOPBACK,
                following,
                flash=tmp_path / f"flash{stage}",
                settings={"public-key": str(tmp_path / "key.pub")},
            )
            boards.append(board)
            info = board.wait_ready()
            assert info["bundle"] == stranger_bundle.manifest.id
            assert info["image_version"] == 1
            assert info["selftest"]["first_wrong"] is None
            following = address.parse(info["listen"])
        answer = boards[-1].ask("run", input="selftest")
        expected = [
            arrays[f"output_{i}"][0].tobytes() for i in range(len(stranger_bundle.manifest.outputs))
        ]
        assert [base64.b64decode(t) for t in answer["tensors"]] == expected
    finally:
        for board in boards:
            board.close()


def test_it_runs_what_the_slots_hold_not_the_file(
    stranger_bundle: Bundle, folder: Path, tmp_path: Path, key: keys.PrivateKey
) -> None:
    file, flash = folder / "stage2.tsim", tmp_path / "flash"
    (newer,) = pack(stranger_bundle, [2], key, version=2)
    with started(file, flash, key.public) as (board, holding, _):
        update(holding, newer.data)
        assert board.info()["image_version"] == 1
        board.handle(control.command(1, "reboot", {}))
        assert board.info()["image_version"] == 2
        assert board.info()["image"] == newer.digest
    with started(file, flash, key.public) as (board, _, _):
        assert board.info()["image_version"] == 2


def test_a_model_that_computes_something_else_is_rolled_back(
    stranger_bundle: Bundle, folder: Path, tmp_path: Path, key: keys.PrivateKey
) -> None:
    made = image.of_stage(stranger_bundle, 2, version=2)
    wrong = replace(made, output=bytes([made.output[0] ^ 1]) + made.output[1:])
    with started(folder / "stage2.tsim", tmp_path / "flash", key.public) as (board, holding, said):
        update(holding, image.encode(wrong, key.sign))
        board.handle(control.command(1, "reboot", {}))
        assert board.info()["image_version"] == 1
        assert "version 2 was refused or rolled back: self_test" in board.info()["problem"]
        assert said[-1]["event"] == "ready"


def test_a_model_that_does_not_load_is_rolled_back(
    stranger_bundle: Bundle, folder: Path, tmp_path: Path, key: keys.PrivateKey
) -> None:
    made = replace(image.of_stage(stranger_bundle, 2, version=2), model=b"no flatbuffer at all")
    with started(folder / "stage2.tsim", tmp_path / "flash", key.public) as (board, holding, _):
        update(holding, image.encode(made, key.sign))
        board.handle(control.command(1, "reboot", {}))
        assert board.info()["image_version"] == 1
        assert "invoke_failed" in board.info()["problem"]


def test_a_decayed_flash_ends_the_board_in_one_line(
    folder: Path, tmp_path: Path, key: keys.PrivateKey
) -> None:
    with started(folder / "stage2.tsim", tmp_path / "flash", key.public) as (board, holding, _):
        holding.slots.flash.program(0, 4096, bytes(64))
        with pytest.raises(StageError, match=r"no image that can run .*image_digest"):
            board.handle(control.command(1, "reboot", {}))


@pytest.mark.parametrize("stage", [0, 1])
def test_another_stage_is_not_run(
    folder: Path, tmp_path: Path, key: keys.PrivateKey, stage: int
) -> None:
    with (
        pytest.raises(ImageError, match=f"not of stage {stage}"),
        started(folder / "stage2.tsim", tmp_path / "flash", key.public, stage),
    ):
        pass
    with started(folder / "stage2.tsim", tmp_path / "flash", key.public):
        pass
    with (
        pytest.raises(StageError, match=r"no image that can run .*image_stage"),
        started(folder / "stage2.tsim", tmp_path / "flash", key.public, stage),
    ):
        pass


def test_without_a_key_it_is_a_development_board(
    stranger_bundle: Bundle, folder: Path, tmp_path: Path, key: keys.PrivateKey
) -> None:
    write(pack(stranger_bundle, [2], None, version=1), tmp_path / "unsigned")
    with started(tmp_path / "unsigned" / "stage2.tsim", tmp_path / "a", None) as (board, _, _):
        assert board.info()["image_version"] == 1
    with (
        pytest.raises(ImageError, match="no key"),
        started(folder / "stage2.tsim", tmp_path / "b", None),
    ):
        pass
    with (
        pytest.raises(ImageError, match="not signed"),
        started(tmp_path / "unsigned" / "stage2.tsim", tmp_path / "c", key.public),
    ):
        pass


def test_the_command_line(invoke: Callable[..., Result], folder: Path, tmp_path: Path) -> None:
    image_file = folder / "stage2.tsim"
    done = invoke(main, "board", image_file, "--stage", 2)
    assert done.exit_code == 2
    assert "an image needs --flash" in done.stderr
    for arguments, why in (
        (("--flash", tmp_path / "f"), "no key to check it; give --public-key FILE"),
        (("--flash", tmp_path / "f", "--public-key", tmp_path / "key"), "holds no public key"),
    ):
        done = invoke(main, "board", image_file, "--stage", 2, *arguments)
        assert done.exit_code == 1
        assert why in done.stderr
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "f").exists()


def call(board: Board, said: list[dict[str, Any]], name: str, **fields: Any) -> dict[str, Any]:
    """The answer to a control command."""
    board.handle(control.command(7, name, fields))
    return said[-1]


def test_an_update_by_commands(
    stranger_bundle: Bundle, folder: Path, tmp_path: Path, key: keys.PrivateKey
) -> None:
    (newer,) = pack(stranger_bundle, [2], key, version=2)
    data = newer.data
    header = base64.b64encode(data[:64]).decode()
    with started(folder / "stage2.tsim", tmp_path / "flash", key.public) as (board, _, said):
        begun = call(board, said, "update_begin", data=header, digest=newer.digest)
        assert begun["result"] == {"offset": 0, "bytes": len(data)}
        for at in range(0, len(data), 3072):
            piece = data[at : at + 3072]
            answer = call(
                board, said, "update_data", offset=at, data=base64.b64encode(piece).decode()
            )
            assert answer["result"]["offset"] == at + len(piece)
        assert call(board, said, "update_finish")["ok"]
        assert board.info()["image_version"] == 1
        assert call(board, said, "update_activate", digest=newer.digest)["ok"]
        board.handle(control.command(8, "reboot", {}))
        assert said[-1]["info"]["image_version"] == 2
        again = call(board, said, "update_begin", data=header, digest=newer.digest)
        assert again["error"]["code"] == "duplicate"


@pytest.mark.parametrize(
    ("name", "fields", "code"),
    [
        ("update_begin", {"data": "AAAA", "digest": "0" * 64}, "image_malformed"),
        ("update_begin", {"data": "no base64", "digest": "0" * 64}, "bad_command"),
        ("update_begin", {"data": "\u00e9", "digest": "0" * 64}, "bad_command"),
        ("update_begin", {"data": "AAAA"}, "bad_command"),
        ("update_begin", {"data": "AAAA", "digest": "0"}, "bad_command"),
        ("update_data", {"offset": 0, "data": "AAAA"}, "slot_order"),
        ("update_data", {"offset": 2**40, "data": "AAAA"}, "bad_command"),
        ("update_data", {"offset": 0, "data": "A" * 5000}, "bad_command"),
        ("update_finish", {}, "slot_order"),
        ("update_activate", {"digest": "0" * 64}, "slot_not_ready"),
        ("update_fetch", {"digest": "0" * 64, "url": "ftp://127.0.0.1/"}, "invalid"),
    ],
    ids=str,
)
def test_commands_out_of_place_are_refused(
    folder: Path,
    tmp_path: Path,
    key: keys.PrivateKey,
    name: str,
    fields: dict[str, Any],
    code: str,
) -> None:
    with started(folder / "stage2.tsim", tmp_path / "flash", key.public) as (board, holding, said):
        assert call(board, said, name, **fields)["error"]["code"] == code
        assert call(board, said, "update_abort")["ok"]
        assert holding.slots.state().slots[0].state == "confirmed"
        assert call(board, said, "selftest")["result"]["first_wrong"] is None


def test_an_older_image_replayed_is_refused(
    stranger_bundle: Bundle, folder: Path, tmp_path: Path, key: keys.PrivateKey
) -> None:
    (older,) = pack(stranger_bundle, [2], key, version=1, firmware=1)
    (newer,) = pack(stranger_bundle, [2], key, version=2)
    with started(folder / "stage2.tsim", tmp_path / "flash", key.public) as (board, holding, said):
        update(holding, newer.data)
        board.handle(control.command(1, "reboot", {}))
        header = base64.b64encode(older.data[:64]).decode()
        answer = call(board, said, "update_begin", data=header, digest=older.digest)
        assert answer["error"]["code"] == "image_version"
        assert board.info()["image_version"] == 2
