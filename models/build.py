"""The networks tinysplit builds itself. Needs TensorFlow (extra `convert`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Architecture:
    """What is particular to one of the networks: its preprocessing and its usual input size."""

    name: str
    preprocessing: str
    size: int


ARCHITECTURES = {
    "mobilenet_v2": Architecture("mobilenet_v2", "tf", 96),
    "resnet50": Architecture("resnet50", "caffe", 224),
}

IMAGENET_CLASSES = 1000
IMAGENET_ALPHAS = (0.35, 0.5, 0.75, 1.0, 1.3, 1.4)  # What Keras offers weights for.
IMAGENET_SIZES = (96, 128, 160, 192, 224)


def mobilenet_v2(alpha: float, size: int, classes: int) -> Any:
    """MobileNetV2 (keras.applications), randomly initialised; input float32 (1, size, size, 3)."""
    import keras

    return keras.applications.MobileNetV2(
        input_shape=(size, size, 3), alpha=alpha, weights=None, classes=classes
    )


def resnet50(size: int, classes: int) -> Any:
    """ResNet50 (keras.applications), randomly initialised; input float32 (1, size, size, 3)."""
    import keras

    return keras.applications.ResNet50(input_shape=(size, size, 3), weights=None, classes=classes)
