"""Accuracy on held-out images: of the float model, the int8 model, and its stages in a row."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from models import images, preprocess
from models.errors import TinysplitError
from models.images import ImageSet
from partitioner import inputs, kernels
from partitioner.bundle import Bundle
from partitioner.manifest import Manifest


class EvaluateError(TinysplitError):
    """The network cannot be evaluated on these images."""


def held_out(
    source: str,
    manifest: Manifest,
    *,
    resize: bool = False,
    count: int | None = None,
    seed: int = 0,
) -> ImageSet:
    """The digits' test part, or a folder's images, in the shape of the network's input.

    With `count`, only so many, drawn with `seed`.

    Raises:
        EvaluateError: the network does not take one image, or nothing is known of its pixels.
        ImageError: as `models.images.load`.
    """
    spec = manifest.inputs[0]
    if len(manifest.inputs) != 1 or not inputs.is_image(spec.shape):
        raise EvaluateError(
            f"{manifest.model['name']} does not take one image "
            f"(its inputs: {', '.join(str(s.shape) for s in manifest.inputs)})"
        )
    if manifest.model["preprocessing"] is None:
        raise EvaluateError(
            "it is not known how pixels become this network's input; make the bundle with "
            f"--preprocess {'|'.join(preprocess.MODES)}"
        )
    shape = (spec.shape[1], spec.shape[2], spec.shape[3])
    return images.load(source, shape, part="test", resize=resize, count=count, seed=seed)


def class_names(image_set: ImageSet, manifest: Manifest) -> tuple[str, ...] | None:
    """The name of each value of the first output, None if they are unknown.

    They are those the bundle knows; otherwise the image set's classes in order, if there are as
    many as the output has values.
    """
    shape = manifest.outputs[0].shape
    known = manifest.model["class_names"] or image_set.classes
    classifies = len(shape) > 0 and shape[-1] == math.prod(shape)
    return tuple(known) if classifies and len(known) == shape[-1] else None


def class_indices(image_set: ImageSet, manifest: Manifest) -> list[int | None]:
    """The output index of each image's class, None where it is unknown."""
    index = {name: i for i, name in enumerate(class_names(image_set, manifest) or ())}
    return [None if label is None else index.get(label) for label in image_set.labels]


def require_classes(image_set: ImageSet, manifest: Manifest) -> None:
    """Check that every image has a class the network knows.

    Raises:
        EvaluateError: it has not; says what does not fit.
    """
    names = class_names(image_set, manifest)
    if names is None:
        shown = ", ".join(image_set.classes[:5]) + (", ..." if len(image_set.classes) > 5 else "")
        count = math.prod(manifest.outputs[0].shape)
        raise EvaluateError(
            f"the images of {image_set.source} have {len(image_set.classes)} classes"
            f"{f' ({shown})' if shown else ''}, the network has {count} "
            "outputs; make a subfolder for each class, or give --evaluate none"
        )
    for name, label in zip(image_set.names, image_set.labels, strict=True):
        if label not in names:
            raise EvaluateError(
                f"{name} is of class {label or '(none)'}, the network knows {', '.join(names[:12])}"
            )


def accuracy(
    bundle: Bundle,
    image_set: ImageSet,
    keras_model: Any | None,
    report: Callable[[int, int], None] = lambda _done, _total: None,
) -> dict[str, Any]:
    """The manifest's `accuracy`: share of images whose largest first output is their class.

    Args:
        keras_model: the float model; None leaves `float` None.
        report: told how many of how many images are done.

    Raises:
        EvaluateError: images without a class the network knows.
    """
    manifest = bundle.manifest
    require_classes(image_set, manifest)
    truth = class_indices(image_set, manifest)
    preprocessing = manifest.model["preprocessing"]
    floats = preprocess.to_float(image_set.images, preprocessing)
    exact = kernels.exact()
    full = exact.load(bundle.full, arena_bytes=manifest.full["arena_bytes"])
    chain = bundle.chain(exact)
    int8 = split = 0
    rows = inputs.quantized([floats], manifest.inputs)
    for done, (row, wanted) in enumerate(zip(rows, truth, strict=True)):
        int8 += int(np.argmax(full.run(row)[0])) == wanted
        split += int(np.argmax(chain.run(row).outputs[0])) == wanted
        report(done + 1, len(rows))
    in_float = None
    if keras_model is not None:
        outputs = keras_model.predict(floats, batch_size=64, verbose=0)
        first = outputs[0] if isinstance(outputs, list | tuple) else outputs
        in_float = float(np.mean(np.argmax(first.reshape(len(floats), -1), axis=1) == truth))
    return {
        "source": image_set.source if image_set.source == "digits" else Path(image_set.source).name,
        "images": len(image_set),
        "float": in_float,
        "int8": int8 / len(rows),
        "split": split / len(rows),
    }
