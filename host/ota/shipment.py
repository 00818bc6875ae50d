"""What is sent to a board: an image's bytes, and what its header says of itself.

Whether an image is to be believed is the board's to judge (firmware/core/IMAGE.md section 5).
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from host.boards.selftest import image_selftest
from host.packing import pack as packing
from host.packing.keys import PrivateKey
from host.packing.pack import Packed
from partitioner import image, kernels
from partitioner.bundle import Bundle
from partitioner.image import ImageError
from partitioner.output import OutputError

KEPT = 6  # Folders of images that were packed for updates.
KEPT_S = 3600.0  # Younger ones stay however many there are: a command may be reading them.
SHORTEST = image.HEADER_BYTES + image.SIGNATURE_BYTES


@dataclass(frozen=True)
class Shipment:
    """An image on its way. `digest` is its name, hex; `runs` says what a board shows that runs it:
    the member of `info` and its value."""

    data: bytes
    digest: str
    stage: int
    stage_count: int
    version: int
    firmware: bool
    runs: tuple[str, str]

    @property
    def header(self) -> bytes:
        return self.data[: image.HEADER_BYTES]


def shipment(data: bytes, where: str = "the image") -> Shipment:
    """The image in `data`, not judged.

    Raises:
        ImageError: it is too short to be one.
    """
    if len(data) < SHORTEST:
        raise ImageError(f"{where} has {len(data)} bytes; the shortest image has {SHORTEST}")
    digest = image.digest_of(data).hex()
    return Shipment(
        data,
        digest,
        stage=data[26],
        stage_count=data[27],
        version=int.from_bytes(data[12:16], "little"),
        firmware=data[6] == image.FIRMWARE,
        runs=("image", digest),
    )


def packed_already(folder: Path) -> list[Shipment]:
    """The images in a folder of `tinysplit pack`, by stage; signatures are not checked.

    Raises:
        ImageError: there are none, one is damaged, or they are not stages of one bundle: boards
            would take each of them, and the chain would give no results.
    """
    found, bundles = [], set()
    try:
        for file in sorted(folder.glob("stage*.tsim")):
            data = file.read_bytes()
            found.append(shipment(data, str(file)))
            bundles.add(_bundle_of(data, file))
    except OSError as error:
        raise ImageError(f"cannot read {error.filename}: {error.strerror}") from error
    if not found:
        raise ImageError(
            f"{folder} holds neither a bundle (manifest.json) nor images (stage0.tsim ...)"
        )
    stages = [one.stage for one in found]
    if len(bundles) > 1:
        raise ImageError(f"{folder} holds images of {len(bundles)} bundles; a chain runs one")
    if len(set(stages)) != len(stages):
        raise ImageError(f"{folder} holds two images of one stage")
    return sorted(found, key=lambda one: one.stage)


def _bundle_of(data: bytes, file: Path) -> bytes:
    """The id of the bundle that an image is of. Raises ImageError: it is damaged, or no stage."""
    try:
        # Whose signature it is, is the board's to judge; an unsigned one ends in its digest.
        read = image.decode(data, (lambda *_: True) if data[7] & image.SIGNED else None)
    except ImageError as error:
        raise ImageError(f"{file}: {error}", error.code) from error
    if read.manifest is None:
        raise ImageError(f"{file} is a firmware, not a stage")
    return read.manifest.bundle


def of_bundle(
    bundle: Bundle,
    key: PrivateKey | None,
    *,
    newer_than: int,
    version: int | None,
    now: int,
    kept: Path,
) -> list[Shipment]:
    """The stages of `bundle` as images of `version`; None: of one newer than `newer_than`.

    Those in a folder `kept`-VERSION, or new ones, which are kept there, so that the same command
    later means the same images.

    New ones pass their self-test here, on the kernels that boards are held against.

    Raises:
        ImageError: a stage does not make its expected bytes, or does not go into an image.
    """
    before = sorted(kept.parent.glob(f"{kept.name}-*"), key=lambda one: one.stat().st_mtime)
    own = bytes.fromhex(bundle.manifest.id)
    verify = None if key is None else key.public.verify
    for folder in reversed(before):
        try:
            found = packed_already(folder)
            read = [image.decode(one.data, verify) for one in found]
        except ImageError:
            continue
        whole = [one.stage for one in read] == list(range(len(bundle.stages)))
        fits = all(one.manifest is not None and one.manifest.bundle == own for one in read)
        versions = {one.version for one in read}
        wanted = min(versions) > newer_than if version is None else versions == {version}
        if whole and fits and wanted:
            with contextlib.suppress(OSError):
                os.utime(folder)  # In use, so not among those that go first.
            return found
    version = version or max(now, newer_than + 1)
    packed = packing.pack(bundle, range(len(bundle.stages)), key, version=version)
    for one in packed:
        _tried(one)
    folder = kept.with_name(f"{kept.name}-{version}")
    try:
        packing.write(packed, folder)
    except OutputError:
        # Another command may have made them meanwhile; signing has no randomness in it.
        if not all(_holds(folder / one.file, one.data) for one in packed):
            raise
    prune(kept.parent)
    return [shipment(one.data) for one in packed]


def prune(parent: Path) -> None:
    """Remove folders that `of_bundle` kept there, but not the KEPT that were used last, nor any
    used within KEPT_S, nor anything else."""
    found = []
    with contextlib.suppress(OSError):
        found = [one for one in parent.iterdir() if _is_kept(one)]
    with contextlib.suppress(OSError):  # Another command prunes, too.
        found.sort(key=lambda one: one.stat().st_mtime, reverse=True)
        for folder in found[KEPT:]:
            if time.time() - folder.stat().st_mtime > KEPT_S:
                shutil.rmtree(folder, ignore_errors=True)


def _is_kept(folder: Path) -> bool:
    named = re.fullmatch(r"[0-9a-f]{16}-(unsigned|[0-9a-f]{16})-\d+", folder.name)
    return (
        named is not None
        and not folder.is_symlink()
        and all(re.fullmatch(r"stage\d+\.tsim", file.name) for file in folder.iterdir())
    )


def _holds(file: Path, data: bytes) -> bool:
    return file.is_file() and file.read_bytes() == data


def _tried(packed: Packed) -> None:
    exact = kernels.exact()
    outcome, _ = image_selftest(packed.image, image.open_stage(packed.image, exact), exact)
    if outcome.first_wrong is not None:
        raise ImageError(f"{packed.file} fails its self-test here: {outcome.first_wrong}")


def of_firmware(app: bytes, key: PrivateKey | None, *, version: int) -> Shipment:
    """ESP-IDF's application as an image.

    Raises:
        ImageError: it is none, or damaged.
    """
    check_firmware(app)
    packed = packing.pack_firmware(app, key, version=version)
    made = shipment(packed.data)
    # esp_app_desc_t (ESP-IDF, esp_app_desc.h) follows the image's header (24 bytes) and that of the
    # first segment (8): magic, secure version, 8 bytes, then version, 32 characters.
    text = app[48:80].split(b"\0")[0].decode("ascii", "replace")
    return Shipment(
        made.data, made.digest, made.stage, 0, made.version, firmware=True, runs=("firmware", text)
    )


def check_firmware(app: bytes) -> None:
    """Hold an application to its own checksums, by esptool.

    Raises:
        ImageError: it is none, or damaged.
    """
    try:
        from esptool.bin_image import LoadFirmwareImage
    except ModuleNotFoundError as error:
        raise ImageError(
            f"firmware is checked by {error.name}: pip install 'tinysplit[boards]'"
        ) from error
    chips = {chip: name for name, chip in image.CHIPS.items()}
    chip = int.from_bytes(app[12:14], "little") if len(app) >= 24 and app[0] == 0xE9 else -1
    if chip not in chips:
        raise ImageError("no application of ESP-IDF for a chip known here (magic 0xE9, chip id)")
    try:
        found = LoadFirmwareImage(chips[chip], app)
    except Exception as error:  # Whatever esptool makes of what is none.
        raise ImageError(f"no whole application of ESP-IDF: {error}") from error
    if found.checksum != found.calculate_checksum():
        raise ImageError("the application is damaged: its checksum is wrong")
    if found.append_digest and found.stored_digest != found.calc_digest:
        raise ImageError("the application is damaged: its SHA-256 is wrong")
    if app[32:36] != b"\x32\x54\xcd\xab":
        raise ImageError("not an application (a bootloader has no application description)")
