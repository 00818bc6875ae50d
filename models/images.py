"""Real images for calibration, verification and runs: the digits, or a folder of files."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from models import digits
from models.errors import TinysplitError

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


class ImageError(TinysplitError):
    """A folder or a file of images that cannot be used."""


@dataclass(frozen=True)
class ImageSet:
    """Images of one shape, with their names and, where known, their classes.

    `images`: uint8 (n, height, width, channels), 0 to 255. `labels`: class names or None.
    `classes`: every class of the whole set in order, also where this is a sample of it.
    """

    source: str
    images: NDArray[np.uint8]
    names: tuple[str, ...]
    labels: tuple[str | None, ...]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)

    def without(self, other: ImageSet) -> ImageSet:
        """The images whose pixels are not among those of `other`."""
        taken = {image.tobytes() for image in other.images}
        return self._chosen(
            [i for i, image in enumerate(self.images) if image.tobytes() not in taken]
        )

    def sample(self, count: int, seed: int) -> ImageSet:
        """`count` images (or all, if there are fewer), drawn without replacement."""
        return self._chosen(np.random.default_rng(seed).permutation(len(self))[:count].tolist())

    def _chosen(self, chosen: list[int]) -> ImageSet:
        return ImageSet(
            self.source,
            self.images[chosen],
            tuple(self.names[i] for i in chosen),
            tuple(self.labels[i] for i in chosen),
            self.classes,
        )

    @property
    def sha256(self) -> str:
        """Over the shape and the pixels in order."""
        digest = hashlib.sha256(repr(self.images.shape).encode())
        digest.update(np.ascontiguousarray(self.images).tobytes())
        return digest.hexdigest()


def load(
    source: str, shape: tuple[int, int, int], *, part: str = "test", resize: bool = False
) -> ImageSet:
    """The digits (`source="digits"`) or every image below a folder, as `shape` (h, w, c).

    In a folder the name of the subfolder an image lies in is its class, also of an empty one.
    Classes are in the order of their names as text, as Keras has them. Digits are enlarged to
    any shape; files must have the shape already unless `resize` is set (bilinear).

    Raises:
        ImageError: no such folder, no image in it, a file that is no image or of another shape,
            or a shape that is no image.
        DigitsUnavailableError: the digits are asked for and scikit-learn is missing.
    """
    height, width, channels = shape
    if channels not in (1, 3):
        raise ImageError(f"the network's input has {channels} channels, an image has 1 or 3")
    if source == "digits":
        data = digits.load(part)
        return ImageSet(
            "digits",
            digits.enlarge(data.images, height, width, channels),
            tuple(f"{part}-{i}" for i in range(len(data))),
            tuple(digits.CLASS_NAMES[label] for label in data.labels),
            digits.CLASS_NAMES,
        )
    folder = Path(source)
    if not folder.is_dir():
        raise ImageError(f"no folder of images {folder}: give a folder, or digits")
    try:
        files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    except OSError as error:
        raise ImageError(f"cannot read the folder {folder}: {error.strerror}") from error
    if not files:
        raise ImageError(f"no images in {folder} (looked for {', '.join(SUFFIXES)})")
    images = np.empty((len(files), *shape), np.uint8)
    for target, path in zip(images, files, strict=True):
        target[:] = _read(path, shape, resize)
    labels = tuple(p.parent.name if p.parent != folder else None for p in files)
    empty = {p.name for p in folder.rglob("*") if p.is_dir() and not any(p.iterdir())}
    return ImageSet(
        str(folder),
        images,
        tuple(str(p.relative_to(folder)) for p in files),
        labels,
        tuple(sorted({label for label in labels if label is not None} | empty)),
    )


def _read(path: Path, shape: tuple[int, int, int], resize: bool) -> NDArray[np.uint8]:
    height, width, channels = shape
    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB" if channels == 3 else "L")
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        raise ImageError(f"{path} cannot be read as an image: {error}") from error
    if image.size != (width, height):
        if not resize:
            raise ImageError(
                f"{path} is {image.width}x{image.height} pixels, the network takes "
                f"{width}x{height}: scale the images, or add --resize"
            )
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image, np.uint8).reshape(shape)
