"""One picture of a run: each image, what was predicted, and what travelled for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from host.run import Inference
from models.images import ImageSet
from partitioner.manifest import Manifest
from partitioner.output import whole_file

_COLUMNS = 5
_RIGHT, _WRONG = "#00664B", "#A33B00"


def as_picture(boundary: Sequence[NDArray[np.generic]]) -> NDArray[np.float64]:
    """A boundary's tensors as one picture: a tile per channel, or a strip of values.

    Each value is shown as stored. Returns float (h, w); NaN where there is no value.
    """
    tiles: list[NDArray[np.float64]] = []
    for tensor in boundary:
        if tensor.ndim == 4:
            tiles += [tensor[0, :, :, c].astype(np.float64) for c in range(tensor.shape[3])]
        else:
            tiles.append(tensor.reshape(1, -1).astype(np.float64))
    height = max(t.shape[0] for t in tiles)
    width = max(t.shape[1] for t in tiles)
    across = max(1, round(math.sqrt(len(tiles) * height / width)))
    down = math.ceil(len(tiles) / across)
    gap = 1
    sheet = np.full((down * (height + gap) - gap, across * (width + gap) - gap), np.nan)
    for number, tile in enumerate(tiles):
        y, x = number // across * (height + gap), number % across * (width + gap)
        sheet[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
    return sheet


def save(
    path: Path,
    manifest: Manifest,
    image_set: ImageSet,
    inferences: Sequence[Inference],
    names: Sequence[str],
    caption: str,
) -> None:
    """Draw images with predictions above the first boundary's heat map; a pair for each image.

    Args:
        names: the name of each class, by index of the first output.
        caption: a line under the title: how the figures in it were obtained.

    Raises:
        OutputError: `path` cannot be written.
    """
    from matplotlib.figure import Figure

    columns = min(_COLUMNS, len(inferences))
    rows = math.ceil(len(inferences) / columns)
    figure = Figure(figsize=(2.1 * columns + 0.9, 4.0 * rows + 0.9), layout="constrained")
    cells = figure.subplots(2 * rows, columns, squeeze=False)
    for axes in cells.flat:
        axes.set_axis_off()
    colours = None
    limits = np.iinfo(np.dtype(manifest.boundaries[0].tensors[0].dtype))
    for number, (pixels, inference) in enumerate(zip(image_set.images, inferences, strict=True)):
        above = cells[number // columns * 2, number % columns]
        below = cells[number // columns * 2 + 1, number % columns]
        above.imshow(pixels, cmap="gray", vmin=0, vmax=255)
        label = names[inference.predicted]
        colour = "black"
        if inference.truth is not None:
            right = inference.truth == inference.predicted
            colour = _RIGHT if right else _WRONG
            label += " (right)" if right else f" (true: {names[inference.truth]})"
        above.set_title(label, color=colour, fontsize=11)
        colours = below.imshow(
            as_picture(inference.boundaries[0]), cmap="viridis", vmin=limits.min, vmax=limits.max
        )
    boundary = manifest.boundaries[0]
    shapes = " + ".join("x".join(map(str, t.shape[1:])) for t in boundary.tensors)
    if colours is not None:
        figure.colorbar(colours, ax=cells, label=f"{limits.dtype} value", shrink=0.5, aspect=30)
    figure.suptitle(
        f"{manifest.model['name']} cut at {boundary.layer}\n"
        f"below each image the {boundary.payload_bytes:,} bytes that travel ({shapes}, "
        f"a tile per channel)\n{caption}",
        fontsize=10,
    )
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=110)
