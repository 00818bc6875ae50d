"""Handwritten digits as images: scikit-learn's `load_digits` behind one fixed split.

The data set (1,797 grey images of 8x8, values 0 to 16; Alpaydin and Kaynak,
UCI Machine Learning Repository, 1998) ships inside the scikit-learn wheel, so
nothing is downloaded.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.errors import TinysplitError

SPLIT_SEED = 20250716
TEST_FRACTION = 0.2
CLASS_NAMES = tuple("0123456789")


class DigitsUnavailableError(TinysplitError):
    """scikit-learn, which carries the images, is not installed."""


@dataclass(frozen=True)
class Digits:
    """Images and labels of one part of the split.

    `images`: uint8, (n, 8, 8), 0 to 255. `labels`: int64, (n,), 0 to 9.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


def load(part: str) -> Digits:
    """The `train` or `test` part of the digits, always split the same way.

    Raises:
        DigitsUnavailableError: scikit-learn is not installed.
        ValueError: `part` is neither `train` nor `test`.
    """
    if part not in ("train", "test"):
        raise ValueError(f"no part {part!r} of the digits: train or test")
    table = _read()
    images = np.rint(table[:, :64].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    labels = table[:, 64].astype(np.int64)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(labels))
    test_size = round(TEST_FRACTION * len(labels))
    chosen = order[:test_size] if part == "test" else order[test_size:]
    return Digits(images[chosen], labels[chosen])


def _read() -> NDArray[np.float64]:
    """The table behind `load_digits`: 64 pixels and the label in each of 1,797 rows.

    Read from the file in the wheel: importing sklearn.datasets takes a second, which is half of
    what cutting a .tflite takes in all. A test holds it against `load_digits`.
    """
    found = importlib.util.find_spec("sklearn")
    if found is None or found.origin is None:
        raise DigitsUnavailableError(
            "the digits come with scikit-learn, which is not installed: pip install scikit-learn, "
            "or give a folder of images"
        )
    path = Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz"
    try:
        return np.loadtxt(path, delimiter=",")
    except OSError as error:
        raise DigitsUnavailableError(
            f"this scikit-learn has no {path.name}: install 1.4 or newer, or give other images"
        ) from error


def enlarge(images: NDArray[np.uint8], height: int, width: int, channels: int) -> NDArray[np.uint8]:
    """Bilinear enlargement of (n, 8, 8) images to uint8 (n, height, width, channels)."""
    out = np.empty((len(images), height, width, channels), np.uint8)
    for target, image in zip(out, images, strict=True):
        large = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
        target[:] = np.asarray(large)[:, :, None]
    return out
