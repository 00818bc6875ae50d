"""What a build says is to be flashed: idf.py's folder, PlatformIO's, archives of them."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from host.flash.build import MAX_FILE_BYTES, BuildError, read_build
from host.flash.contents import _TYPES, contents
from host.flash.fit import check_build
from tests.host.flash.builds import (
    archived,
    change_arguments,
    idf_build,
    partitions,
    platformio_build,
)


def flashed(place: Path) -> dict[int, bytes]:
    """Every byte that would be written, by offset."""
    return {piece.offset: piece.data for piece in contents(read_build(place), None, None).pieces}


def test_every_layout_says_the_same(tmp_path: Path) -> None:
    idf = idf_build(tmp_path / "idf")
    expected = flashed(idf)
    assert sorted(expected) == [0, 0x8000, 0xF000, 0x20000]
    whole = platformio_build(tmp_path / "pio")
    bare = platformio_build(tmp_path / "bare", cmake=False)
    places = [whole, bare]
    for number, inside in enumerate(("", "tinysplit-0.1.0", "a/b")):
        for build in (idf, whole, bare):
            for suffix in (".zip", ".tar.gz"):
                name = f"{build.name}{number}{suffix}"
                places.append(archived(build, tmp_path / name, inside))
    for place in places:
        assert flashed(place) == expected, place
        assert read_build(place).flash_size == "8MB"


def test_what_a_build_says_of_itself(tmp_path: Path) -> None:
    build = read_build(idf_build(tmp_path / "a"))
    assert (build.chip, build.psram, build.unsigned, build.ethernet) == (
        "esp32s3",
        "octal",
        True,
        False,
    )
    assert build.pieces[0].file == tmp_path / "a/bootloader/bootloader.bin"
    none = read_build(idf_build(tmp_path / "b", SPIRAM=False, TINYSPLIT_ALLOW_UNSIGNED=False))
    assert (none.psram, none.unsigned) == ("none", False)
    silent = read_build(platformio_build(tmp_path / "c", cmake=False))
    assert (silent.psram, silent.unsigned, silent.ethernet) == (None, None, None)
    packed = read_build(archived(tmp_path / "c", tmp_path / "c.zip"))
    assert {piece.file for piece in packed.pieces} == {None}


def test_the_firmwares_own_table_is_what_is_looked_for() -> None:
    by_name = {label: (kind, subtype) for label, kind, subtype, _, _ in partitions()}
    assert {label: by_name[label] for label in _TYPES} == _TYPES


def test_without_its_initial_contents_otadata_is_erased(tmp_path: Path) -> None:
    folder = platformio_build(tmp_path / "pio")
    (folder / "ota_data_initial.bin").unlink()
    plan = contents(read_build(folder), None, None)
    assert [(r.offset, r.size, r.name) for r in plan.erased] == [
        (0, 0x1000, "bootloader"),
        (0xF000, 0x2000, "otadata"),
    ]


def test_the_bootloader_goes_first_and_comes_last(tmp_path: Path) -> None:
    build = read_build(idf_build(tmp_path / "idf"))
    plan = contents(build, bytes(5000), bytes(0x6000))
    assert plan.erased[0].offset == plan.pieces[-1].offset == 0
    assert [p.offset for p in plan.pieces[:-1]] == [0x8000, 0x9000, 0xF000, 0x20000, 0x3E0000]
    assert [r.name for r in plan.erased[1:]] == ["slot_state", "model_1"]


def broken(tmp_path: Path, how: str) -> Path:
    """A build, or what should be one, that is wrong in one way."""
    if how == "missing file":
        build = idf_build(tmp_path / "b")
        (build / "tinysplit.bin").unlink()
        return build
    if how == "incomplete archive":
        build = idf_build(tmp_path / "b")
        (build / "tinysplit.bin").unlink()
        return archived(build, tmp_path / "b.zip")
    if how == "pio without application":
        build = platformio_build(tmp_path / "b")
        (build / "firmware.bin").unlink()
        return build
    if how == "no place for an application":
        rows = tuple(row for row in partitions() if row[1] == 1)
        return platformio_build(tmp_path / "b", cmake=False, partitions=rows)
    if how == "other chip":
        return change_arguments(idf_build(tmp_path / "b"), extra_esptool_args={"chip": "esp32c6"})
    if how == "other chip, by its bootloader":
        build = platformio_build(tmp_path / "b", cmake=False)
        data = bytearray((build / "bootloader.bin").read_bytes())
        data[12:14] = struct.pack("<H", 5)
        (build / "bootloader.bin").write_bytes(data)
        return build
    if how == "bootloader elsewhere":
        return change_arguments(
            idf_build(tmp_path / "b"),
            flash_files={"0x1000": "bootloader/bootloader.bin", "0x20000": "tinysplit.bin"},
        )
    if how == "table beyond the flash":
        return change_arguments(idf_build(tmp_path / "b"), flash_settings={"flash_size": "4MB"})
    if how == "overlap":
        return change_arguments(
            idf_build(tmp_path / "b"),
            flash_files={
                "0x0": "bootloader/bootloader.bin",
                "0x10": "tinysplit.bin",
            },
        )
    if how == "emulator":
        return idf_build(tmp_path / "b", ETH_USE_OPENETH=True)
    if how == "no archive":
        (tmp_path / "b.zip").write_bytes(b"PK nonsense")
        return tmp_path / "b.zip"
    if how == "cut archive":
        data = archived(idf_build(tmp_path / "b"), tmp_path / "b.tar.gz").read_bytes()
        (tmp_path / "b.tar.gz").write_bytes(data[: len(data) // 2])
        return tmp_path / "b.tar.gz"
    if how == "foreign archive":
        with zipfile.ZipFile(tmp_path / "b.zip", "w") as packed:
            packed.writestr("README.md", "hello")
        return tmp_path / "b.zip"
    if how == "bomb":
        with tarfile.open(tmp_path / "b.tar.gz", "w:gz", compresslevel=1) as packed_tar:
            for number in range(2):
                info = tarfile.TarInfo(f"{number}.bin")
                info.size = MAX_FILE_BYTES
                packed_tar.addfile(info, io.BytesIO(bytes(MAX_FILE_BYTES)))
        return tmp_path / "b.tar.gz"
    if how == "plain file":
        (tmp_path / "b.bin").write_bytes(b"x")
        return tmp_path / "b.bin"
    assert how == "nothing"
    return tmp_path / "b"


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing file", r"tinysplit\.bin is missing: finish the build"),
        ("incomplete archive", r"has no tinysplit\.bin in it: it is incomplete"),
        ("pio without application", "bootloader.bin is missing: finish the build"),
        ("no place for an application", "no place for an application"),
        ("other chip", "is a build for esp32c6, not for esp32s3"),
        ("other chip, by its bootloader", "is a build for esp32c3, not for esp32s3"),
        ("bootloader elsewhere", "no bootloader for offset 0"),
        ("table beyond the flash", "the partition coredump ends behind the 4MB of flash"),
        ("overlap", "bootloader.bin and tinysplit.bin overlap at 0x10"),
        ("emulator", "a build for the emulator"),
        ("no archive", "cannot be read as an archive"),
        ("cut archive", "cannot be read as an archive"),
        ("foreign archive", "holds no build"),
        ("bomb", "larger than any flash"),
        ("plain file", "is neither a folder nor an archive"),
        ("nothing", "does not exist"),
    ],
)
def test_builds_that_will_not_do(tmp_path: Path, how: str, message: str) -> None:
    place = broken(tmp_path, how)
    with pytest.raises(BuildError, match=message) as refused:
        check_build(read_build(place))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"slot_state": (1, 0x50)}, "slot_state has type 1 and subtype 0x50, not 1 and 0x40"),
        ({"model_0": (0, 0x41)}, "model_0 has type 0 and subtype 0x41"),
        ({"model_1": None}, "has no model_1"),
        ({"nvs": None}, "has no nvs"),
    ],
)
def test_a_table_that_is_not_the_firmwares(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    rows = []
    for label, kind, subtype, at, size in partitions():
        chosen = changes.get(label, (kind, subtype))
        if chosen is not None:
            rows.append((label, *chosen, at, size))
    build = read_build(idf_build(tmp_path / "b", partitions=tuple(rows)))
    with pytest.raises(BuildError, match=message):
        contents(build, bytes(100), bytes(0x6000))
