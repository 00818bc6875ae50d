"""Packing: the stages of a bundle as images in a folder, all of them or none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from host.packing.keys import PrivateKey
from partitioner import image
from partitioner.bundle import Bundle
from partitioner.image import Image, ImageError
from partitioner.output import whole_folder


@dataclass(frozen=True)
class Packed:
    """An image, its bytes, its name (the digest, hex) and the file it is written to."""

    image: Image
    data: bytes
    file: str

    @property
    def digest(self) -> str:
        return image.digest_of(self.data).hex()


def pack(
    bundle: Bundle,
    stages: Sequence[int],
    key: PrivateKey | None,
    *,
    version: int,
    downgrade_from: int = 0,
    firmware: int = 0,
    chip: int = image.CHIPS["any"],
) -> list[Packed]:
    """The stages as images, signed with `key` (None: unsigned), each read back and compared.

    Raises:
        ImageError: a stage that is not in the bundle, or does not go into an image.
    """
    made = (
        image.of_stage(
            bundle,
            number,
            version=version,
            downgrade_from=downgrade_from,
            firmware=firmware,
            chip=chip,
        )
        for number in stages
    )
    return [_packed(one, key, f"stage{one.stage}.tsim") for one in made]


def pack_firmware(
    app: bytes, key: PrivateKey | None, *, version: int, downgrade_from: int = 0
) -> Packed:
    """An application of ESP-IDF likewise.

    Raises:
        ImageError: it is none.
    """
    made = image.of_firmware(app, version=version, downgrade_from=downgrade_from)
    return _packed(made, key, "firmware.tsim")


def _packed(made: Image, key: PrivateKey | None, file: str) -> Packed:
    data = image.encode(made, None if key is None else key.sign)
    if image.decode(data, None if key is None else key.public.verify) != made:
        raise ImageError(f"{file} does not read back as it was packed")
    return Packed(made, data, file)


def write(images: Sequence[Packed], folder: Path) -> None:
    """Write them into a new folder.

    Raises:
        OutputError: it exists, or cannot be written.
    """
    with whole_folder(folder, force=None) as temporary:
        for one in images:
            (temporary / one.file).write_bytes(one.data)
