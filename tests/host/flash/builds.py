"""Builds for tests: the firmware's own partition table around little images, in every layout."""

from __future__ import annotations

import csv
import json
import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import Any

from tests.host.boards.test_emulated import make_build

PARTITIONS_CSV = Path(__file__).parents[3] / "firmware/partitions.csv"
_TYPES = {"app": 0, "data": 1}
_SUBTYPES = {"nvs": 2, "ota": 0, "phy": 1, "coredump": 3, "ota_0": 0x10, "ota_1": 0x11}


def partitions() -> tuple[tuple[str, int, int, int, int], ...]:
    """firmware/partitions.csv as (label, type, subtype, offset, size)."""
    lines = PARTITIONS_CSV.read_text("utf-8").splitlines()
    rows = csv.reader(line for line in lines if line.strip() and not line.startswith("#"))
    found = []
    for row in rows:
        label, kind, sub, at, size = (field.strip() for field in row)
        subtype = _SUBTYPES[sub] if sub in _SUBTYPES else int(sub, 0)
        found.append((label, _TYPES[kind], subtype, int(at, 0), int(size, 0)))
    return tuple(found)


def idf_build(folder: Path, **changes: Any) -> Path:
    """As `idf.py build` leaves it, for a board. `changes` are make_build's."""
    chosen = {
        "partitions": partitions(),
        "ETH_USE_OPENETH": False,
        "TINYSPLIT_ALLOW_UNSIGNED": True,
        **changes,
    }
    made = make_build(folder, **chosen)
    bootloader = bytearray((made / "bootloader/bootloader.bin").read_bytes())
    bootloader[2] = 2  # DIO, as ESP-IDF writes it even for boards that go on with QIO.
    (made / "bootloader/bootloader.bin").write_bytes(resealed(bytes(bootloader)))
    return made


def resealed(image: bytes) -> bytes:
    """An application image with its SHA-256 made right again."""
    import hashlib

    return image[:-32] + hashlib.sha256(image[:-32]).digest()


def platformio_build(folder: Path, *, cmake: bool = True, **changes: Any) -> Path:
    """As `pio run` leaves it; `cmake`: with the files that CMake makes there, too."""
    made = idf_build(folder.with_name(f"{folder.name}-idf"), **changes)
    folder.mkdir(parents=True)
    for source, name in (
        ("bootloader/bootloader.bin", "bootloader.bin"),
        ("partition_table/partition-table.bin", "partitions.bin"),
        ("tinysplit.bin", "firmware.bin"),
        ("ota_data_initial.bin", "ota_data_initial.bin"),
    ):
        shutil.copy(made / source, folder / name)
    if cmake:
        shutil.copytree(made / "config", folder / "config")
        shutil.copy(made / "flasher_args.json", folder)
    shutil.rmtree(made)
    return folder


def archived(build: Path, archive: Path, inside: str = "") -> Path:
    """The build's files in a .zip or .tar.gz, in the folder `inside` of it."""
    files = [path for path in sorted(build.rglob("*")) if path.is_file()]
    names = [str(Path(inside) / path.relative_to(build)) for path in files]
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as packed:
            for path, name in zip(files, names, strict=True):
                packed.write(path, name)
    else:
        with tarfile.open(archive, "w:gz") as packed_tar:
            for path, name in zip(files, names, strict=True):
                packed_tar.add(path, f"./{name}")
    return archive


def change_arguments(build: Path, **changes: Any) -> Path:
    """Overwrite fields of the build's flasher_args.json."""
    path = build / "flasher_args.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return build
