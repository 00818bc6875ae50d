"""Packing: the stages of a bundle as images in a folder, all of them or none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from host.ota.keys import PrivateKey
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
    packed = []
    for number in stages:
        made = image.of_stage(
            bundle,
            number,
            version=version,
            downgrade_from=downgrade_from,
            firmware=firmware,
            chip=chip,
        )
        data = image.encode(made, None if key is None else key.sign)
        if image.decode(data, None if key is None else key.public.verify) != made:
            raise ImageError(f"stage {number} does not read back as it was packed")
        packed.append(Packed(made, data, f"stage{number}.tsim"))
    return packed


def write(images: Sequence[Packed], folder: Path) -> None:
    """Write them into a new folder.

    Raises:
        OutputError: it exists, or cannot be written.
    """
    with whole_folder(folder, force=False) as temporary:
        for one in images:
            (temporary / one.file).write_bytes(one.data)
