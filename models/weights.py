"""Networks with weights in them: shipped, downloaded, random, or from a file.

Needs TensorFlow (extra `convert`) when called, not when imported.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models import build, digits
from models.errors import ArgumentError, TinysplitError

DIGITS_WEIGHTS = "mobilenet_v2_0.35_96_digits.weights.h5"
DIGITS_RECORD = "mobilenet_v2_0.35_96_digits.json"
DATA = Path(__file__).parent / "data"
NAMES = ("digits", "imagenet", "random")  # Of weights; others are files.

_RANDOM_SEED = 0


class WeightsError(TinysplitError):
    """The weights asked for cannot be had, or do not fit the network."""


class NetworkError(WeightsError, ArgumentError):
    """No network goes by that name, or with those values."""


@dataclass(frozen=True)
class Network:
    """A Keras model and what a bundle says of where it came from.

    `model`: a keras.Model with float32 images (n, h, w, 3) as input.
    `weights_sha256`: over the weight arrays in layer order, so it does not depend on the file.
    """

    name: str
    model: Any
    weights: str
    weights_sha256: str
    preprocessing: str | None
    class_names: tuple[str, ...] | None


def fingerprint(model: Any) -> str:
    """SHA-256 over a Keras model's weights: shape, dtype and bytes of each array in order."""
    digest = hashlib.sha256()
    for array in model.get_weights():
        digest.update(f"{array.shape}{array.dtype.str}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def checked(
    architecture: str,
    weights: str | None,
    alpha: float | None,
    size: int | None,
    classes: int | None,
) -> tuple[str, float, int, int]:
    """`weights`, `alpha`, `size` and `classes` of `network`, defaults filled in.

    Needs no TensorFlow.

    Raises:
        NetworkError: there is no such network.
    """
    chosen = build.ARCHITECTURES.get(architecture)
    if chosen is None:
        known = ", ".join(build.ARCHITECTURES)
        raise NetworkError(f"no network {architecture!r}: one of {known}, or a file")
    if weights is None:
        weights = "digits" if architecture == "mobilenet_v2" else "imagenet"
    if alpha is not None and architecture != "mobilenet_v2":
        raise NetworkError(f"{architecture} has no alpha; leave --alpha out")
    alpha = 0.35 if alpha is None else alpha
    size = chosen.size if size is None else size
    if classes is None:
        classes = build.IMAGENET_CLASSES if weights == "imagenet" else 10
    if not (32 <= size <= 1024 and 1 <= classes <= 100_000 and 0 < alpha <= 10):
        raise NetworkError(
            "size must be 32 to 1024, classes 1 to 100000, alpha above 0 and at most 10"
        )
    if weights not in NAMES and not Path(weights).is_file():
        raise NetworkError(f"no weights file {weights}: digits, imagenet, random or a .weights.h5")
    if weights == "digits" and (architecture, alpha, size, classes) != (
        "mobilenet_v2",
        0.35,
        96,
        10,
    ):
        raise NetworkError(
            "the digits weights belong to mobilenet_v2 with alpha 0.35, size 96 and 10 classes; "
            "for another network give --weights random, imagenet or a file"
        )
    return weights, alpha, size, classes


def network(
    architecture: str,
    *,
    weights: str | None = None,
    alpha: float | None = None,
    size: int | None = None,
    classes: int | None = None,
) -> Network:
    """One of the built-in networks, `mobilenet_v2` or `resnet50`.

    Args:
        weights: `digits`, `imagenet`, `random`, or a file that `keras.Model.load_weights` reads.
            Default: `digits` for mobilenet_v2, `imagenet` for resnet50. With `random`,
            `settle_batch_norm` should follow.
        alpha: width of mobilenet_v2, default 0.35.
        size: height and width of the input in pixels, default 96 or 224.
        classes: default 1000 with `imagenet`, else 10.

    Raises:
        WeightsError: weights unknown, not to be had, or of another shape than the network.
    """
    weights, alpha, size, classes = checked(architecture, weights, alpha, size, classes)

    import keras

    keras.utils.set_random_seed(_RANDOM_SEED)
    if architecture == "mobilenet_v2":
        label = f"mobilenet_v2_{alpha:g}_{size}"
    else:
        label = f"{architecture}_{size}"
    if weights == "imagenet":
        model = _imagenet(architecture, alpha, size, classes)
    else:
        if architecture == "mobilenet_v2":
            model = build.mobilenet_v2(alpha, size, classes)
        else:
            model = build.resnet50(size, classes)
        if weights == "digits":
            model.load_weights(DATA / DIGITS_WEIGHTS)
        elif weights != "random":
            _load_file(model, Path(weights))
    source = weights if weights in NAMES else Path(weights).name
    return Network(
        name=f"{label}_{source.split('.')[0]}",
        model=model,
        weights=source,
        weights_sha256=fingerprint(model),
        preprocessing=build.ARCHITECTURES[architecture].preprocessing,
        class_names=digits.CLASS_NAMES if weights == "digits" else None,
    )


def settle_batch_norm(network: Network, inputs: NDArray[np.float32]) -> Network:
    """Give random weights activations like a trained network's.

    One pass over `inputs`, float32 (n, h, w, 3), sets every batch norm's moving mean and
    variance. Without it the signal fades with depth until int8 scales become absurd and
    TensorFlow Lite Micro aborts in SOFTMAX.
    """
    import keras

    norms = [
        layer
        for layer in network.model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.momentum = 0.0
    network.model(inputs, training=True)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum
    return Network(**{**vars(network), "weights_sha256": fingerprint(network.model)})


def _imagenet(architecture: str, alpha: float, size: int, classes: int) -> Any:
    import keras

    if classes != build.IMAGENET_CLASSES:
        raise NetworkError("the imagenet weights have 1000 classes; leave --classes out")
    if architecture == "mobilenet_v2" and (
        alpha not in build.IMAGENET_ALPHAS or size not in build.IMAGENET_SIZES
    ):
        raise NetworkError(
            f"Keras has imagenet weights for alpha {', '.join(map(str, build.IMAGENET_ALPHAS))} "
            f"and size {', '.join(map(str, build.IMAGENET_SIZES))} only"
        )
    shape = (size, size, 3)
    try:
        if architecture == "mobilenet_v2":
            return keras.applications.MobileNetV2(input_shape=shape, alpha=alpha)
        return keras.applications.ResNet50(input_shape=shape)
    except Exception as error:  # Keras raises a bare Exception when a download fails.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(
            f"the imagenet weights could not be downloaded ({reason}): connect to the internet, "
            "or give --weights random or a file"
        ) from error


def _load_file(model: Any, path: Path) -> None:
    try:
        model.load_weights(path)
    except Exception as error:  # h5py, zip and Keras each raise their own kinds.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"{path} does not hold this network's weights: {reason}") from error
