"""Real images for calibration, verification and runs: the digits, or a folder of files."""

from __future__ import annotations

import hashlib
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from models import digits
from models.errors import ArgumentError, TinysplitError

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)


class ImageError(TinysplitError):
    """A folder or a file of images that cannot be used."""


class NoFolderError(ImageError, ArgumentError):
    """Images were to come from what is no folder."""


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

    def first(self, count: int) -> ImageSet:
        """The first `count` images, or all if there are fewer."""
        return self._chosen(list(range(len(self)))[:count])

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
    source: str,
    shape: tuple[int, int, int],
    *,
    part: str = "test",
    resize: bool = False,
    count: int | None = None,
    seed: int = 0,
) -> ImageSet:
    """The digits (`source="digits"`) or every image below a folder, as `shape` (h, w, c).

    A picture with an alpha channel (or a transparent colour) must be opaque: what lies behind
    its transparent pixels is not for us to choose.

    In a folder the name of the subfolder an image lies in is its class, also of an empty one.
    Classes are in the order of their names as text, as Keras has them. Digits are enlarged to
    any shape; files must have the shape already unless `resize` is set (bilinear). With `count`,
    only so many are read, drawn with `seed`.

    Raises:
        ImageError: no such folder, no image in it, a file that is no image , of another shape
            or partly transparent, or a shape that is no image.
        DigitsUnavailableError: the digits are asked for and scikit-learn is missing.
    """
    height, width, channels = shape
    if channels not in (1, 3):
        raise ImageError(f"the network's input has {channels} channels, an image has 1 or 3")
    if source == "digits":
        data = digits.load(part)
        chosen = _draw(len(data), count, seed)
        return ImageSet(
            "digits",
            digits.enlarge(data.images[chosen], height, width, channels),
            tuple(f"{part}-{i}" for i in chosen),
            tuple(digits.CLASS_NAMES[data.labels[i]] for i in chosen),
            digits.CLASS_NAMES,
        )
    folder = Path(source)
    files, empty = _find(folder)
    if not files:
        raise ImageError(f"no images in {folder} (looked for {', '.join(SUFFIXES)})")
    labels = [p.parent.name if p.parent != folder else None for p in files]
    classes = tuple(sorted({label for label in labels if label is not None} | empty))
    chosen = _draw(len(files), count, seed)
    pixels = np.empty((len(chosen), *shape), np.uint8)
    for target, i in zip(pixels, chosen, strict=True):
        target[:] = _read(files[i], shape, resize)
    return ImageSet(
        str(folder),
        pixels,
        tuple(str(files[i].relative_to(folder)) for i in chosen),
        tuple(labels[i] for i in chosen),
        classes,
    )


def _draw(available: int, count: int | None, seed: int) -> list[int]:
    """`count` of so many, without replacement; all in order for None."""
    if count is None:
        return list(range(available))
    drawn: list[int] = np.random.default_rng(seed).permutation(available)[:count].tolist()
    return drawn


def _find(folder: Path) -> tuple[list[Path], set[str]]:
    """Every image file below `folder`, sorted, and the names of empty subfolders."""

    def fail(error: OSError) -> None:
        raise ImageError(f"cannot read the folder {error.filename}: {error.strerror}") from error

    if not folder.is_dir():
        raise NoFolderError(f"no folder of images {folder}: give a folder, or digits")
    files, empty = [], set()
    for place, below, names in os.walk(folder, onerror=fail):
        found = [Path(place, n) for n in names if Path(n).suffix.lower() in SUFFIXES]
        files += [path for path in found if path.is_file()]
        if not names and not below and Path(place) != folder:
            empty.add(Path(place).name)
    return sorted(files), empty


def _read(path: Path, shape: tuple[int, int, int], resize: bool) -> NDArray[np.uint8]:
    height, width, channels = shape
    try:
        with warnings.catch_warnings(), Image.open(path, formats=_FORMATS) as opened:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            wide = opened.mode.startswith("I;16")
            # Pillow clips 16-bit grey to white; 65535 / 257 = 255.
            eight = Image.fromarray((np.asarray(opened) / 257).astype(np.uint8)) if wide else opened
            opaque = not eight.has_transparency_data or _is_opaque(eight)
            image = eight.convert("RGB" if channels == 3 else "L")
    except (UnidentifiedImageError, OSError, ValueError, *_BOMBS) as error:
        raise ImageError(f"{path} cannot be read as an image: {error}") from error
    if not opaque:
        raise ImageError(f"{path} has transparent pixels: flatten it onto a background first")
    if image.size != (width, height):
        if not resize:
            raise ImageError(
                f"{path} is {image.width}x{image.height} pixels, the network takes "
                f"{width}x{height}: scale the images, or add --resize"
            )
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image, np.uint8).reshape(shape)


def _is_opaque(image: Image.Image) -> bool:
    lowest = image.convert("RGBA").getchannel("A").getextrema()[0]
    return lowest == 255
