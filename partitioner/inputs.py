"""From images and float arrays to the integers a quantized network is fed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models import images, preprocess
from models.errors import TinysplitError
from models.images import ImageSet
from partitioner import kernels
from partitioner.kernels import Array
from partitioner.manifest import TensorSpec


class InputError(TinysplitError):
    """The network's inputs cannot be made from what was given."""


@dataclass(frozen=True)
class Samples:
    """Float inputs for a network: a float32 array (n, ...) per input, and where they come from.

    `image_set` is set when the first input was made from images.
    """

    source: str
    seed: int
    arrays: tuple[NDArray[np.float32], ...]
    sha256: str
    image_set: ImageSet | None = None

    def __len__(self) -> int:
        return len(self.arrays[0])

    def record(self) -> dict[str, Any]:
        """As the manifest's `calibration`."""
        source = self.source if self.source == "digits" else Path(self.source).name
        return {"source": source, "images": len(self), "seed": self.seed, "sha256": self.sha256}


def is_image(shape: Sequence[int]) -> bool:
    """Whether (1, h, w, c) is the shape of an image: grey or RGB."""
    return len(shape) == 4 and shape[0] == 1 and shape[3] in (1, 3)


def gather(
    source: str,
    shapes: Sequence[tuple[int, ...]],
    preprocessing: str | None,
    *,
    names: Sequence[str],
    count: int,
    seed: int,
    part: str = "train",
    resize: bool = False,
) -> Samples:
    """`count` sets of float inputs of these shapes (each with a batch of 1).

    Args:
        source: `digits`, a folder of images, or an .npz with one float array (n, ...) per input:
            named after the inputs, or unnamed (`arr_0` ...) and in the network's order.
        names: of the inputs, in order.

    Raises:
        InputError: `source` does not fit the shapes, or no preprocessing is known for images.
        ImageError: as `models.images.load`.
    """
    if source.endswith(".npz"):
        return _from_arrays(Path(source), shapes, names, count, seed)
    if not all(is_image(shape) for shape in shapes):
        bad = next(shape for shape in shapes if not is_image(shape))
        raise InputError(
            f"an input of shape {bad} is no image: give --calibration FILE.npz with one float "
            "array (n, ...) per input"
        )
    if preprocessing is None:
        raise InputError(
            "it is not known how pixels become this network's input: give --preprocess "
            f"{'|'.join(preprocess.MODES)}"
        )
    arrays, first = [], None
    for number, shape in enumerate(shapes):
        drawn = images.load(
            source,
            (shape[1], shape[2], shape[3]),
            part=part,
            resize=resize,
            count=count,
            seed=seed + number,
        )
        first = first or drawn
        arrays.append(preprocess.to_float(drawn.images, preprocessing))
    assert first is not None
    return Samples(source, seed, tuple(arrays), first.sha256, first)


def _from_arrays(
    path: Path, shapes: Sequence[tuple[int, ...]], names: Sequence[str], count: int, seed: int
) -> Samples:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays_by_name = {n: np.asarray(archive[n], np.float32) for n in archive.files}
    except Exception as error:  # zipfile, zlib and numpy each raise their own kinds.
        raise InputError(f"{path} cannot be read as an .npz of arrays: {error}") from error
    unnamed = [f"arr_{i}" for i in range(len(shapes))]
    order = names if set(names) == set(arrays_by_name) else unnamed
    if set(order) != set(arrays_by_name):
        raise InputError(
            f"{path} holds the arrays {', '.join(arrays_by_name) or '(none)'}; name them after the "
            f"network's inputs ({', '.join(names)}), or leave them unnamed and in that order"
        )
    found = [arrays_by_name[name] for name in order]
    wanted = [shape[1:] for shape in shapes]
    if (
        [a.shape[1:] for a in found] != wanted
        or len({len(a) for a in found}) != 1
        or not len(found[0])
    ):
        shown = ", ".join(str(a.shape) for a in found) or "nothing"
        raise InputError(
            f"{path} holds {shown}; this network needs arrays of shape "
            f"{', '.join(str(('n', *s)) for s in wanted)} with the same n"
        )
    chosen = np.random.default_rng(seed).permutation(len(found[0]))[:count]
    arrays = tuple(a[chosen] for a in found)
    digest = hashlib.sha256(b"".join(a.tobytes() for a in arrays)).hexdigest()
    return Samples(str(path), seed, arrays, digest)


def quantized(
    arrays: Sequence[NDArray[np.float32]], specs: Sequence[TensorSpec]
) -> list[list[Array]]:
    """Float inputs, an array (n, ...) per input, as n sets of integers a network takes."""
    columns = []
    for array, spec in zip(arrays, specs, strict=True):
        if spec.scale is None or spec.zero_point is None or spec.dtype == "bool":
            values = array.astype(spec.dtype)
        else:
            values = kernels.quantize(array, spec.scale, spec.zero_point, np.dtype(spec.dtype))
        columns.append(values.reshape(len(array), *spec.shape))
    return [list(row) for row in zip(*columns, strict=True)]


def infer_preprocessing(spec: TensorSpec) -> str | None:
    """Guess a .tflite's preprocessing from the range of its input; None if it fits none.

    A calibrated input covers what the preprocessing makes of 0 and 255: -1 to 1 for `tf`,
    0 to 1 for `unit`, 0 to 255 for `raw`.
    """
    if not is_image(spec.shape) or spec.scale is None or spec.zero_point is None:
        return None
    if np.dtype(spec.dtype).kind not in "iu":
        return None
    limits = np.iinfo(np.dtype(spec.dtype))
    low = spec.scale * (limits.min - spec.zero_point)
    high = spec.scale * (limits.max - spec.zero_point)
    for mode, (bottom, top) in {"tf": (-1, 1), "unit": (0, 1), "raw": (0, 255)}.items():
        slack = 0.05 * (top - bottom)
        if abs(low - bottom) <= slack and abs(high - top) <= slack:
            return mode
    return None
