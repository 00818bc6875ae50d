"""One picture of a run: each image, what was predicted, and what travelled for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from host.local_run import Inference
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
    """Draw images with predictions, and below each a heat map of every boundary.

    Args:
        names: the name of each class, by index of the first output.
        caption: a line under the title: how the figures in it were obtained.

    Raises:
        OutputError: `path` cannot be written.
    """
    from matplotlib.figure import Figure

    columns = min(_COLUMNS, len(inferences))
    depth = 1 + len(manifest.boundaries)  # The image, and a heat map for each boundary.
    rows = math.ceil(len(inferences) / columns)
    figure = Figure(figsize=(2.1 * columns + 0.9, 2.0 * depth * rows + 0.9), layout="constrained")
    cells = figure.subplots(depth * rows, columns, squeeze=False)
    for axes in cells.flat:
        axes.set_axis_off()
    values = [t for i in inferences for message in i.boundaries for t in message]
    low, high = min(int(t.min()) for t in values), max(int(t.max()) for t in values)
    colours = None
    for number, (pixels, inference) in enumerate(zip(image_set.images, inferences, strict=True)):
        row, column = number // columns * depth, number % columns
        above = cells[row, column]
        above.imshow(pixels, cmap="gray", vmin=0, vmax=255)
        label = names[inference.predicted]
        colour = "black"
        if inference.truth is not None:
            right = inference.truth == inference.predicted
            colour = _RIGHT if right else _WRONG
            label += " (right)" if right else f" (true: {names[inference.truth]})"
        above.set_title(label, color=colour, fontsize=11)
        for k, message in enumerate(inference.boundaries):
            colours = cells[row + 1 + k, column].imshow(
                as_picture(message), cmap="viridis", vmin=low, vmax=high
            )
    if colours is not None:
        dtype = manifest.boundaries[0].tensors[0].dtype
        figure.colorbar(colours, ax=cells, label=f"{dtype} value", shrink=0.5, aspect=30)
    title = [f"{manifest.model['name']}, below each image what travels (a tile per channel)"]
    for boundary in manifest.boundaries:
        shapes = " + ".join("x".join(map(str, t.shape[1:])) for t in boundary.tensors)
        title.append(f"{boundary.payload_bytes:,} bytes ({shapes}) after {boundary.layer}")
    figure.suptitle("\n".join([*title, caption]), fontsize=10)
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=110)
