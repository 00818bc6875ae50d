"""From pixels to what a network was trained on.

The modes are those of `keras.applications.imagenet_utils.preprocess_input`
("tf", "caffe", "torch"), plus "unit" (0 to 1) and "raw" (0 to 255).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MODES = ("tf", "caffe", "torch", "unit", "raw")

# keras.applications.imagenet_utils: ImageNet channel means (BGR) and, for "torch", mean and
# standard deviation of the 0-to-1 channels (RGB).
_CAFFE_MEAN_BGR = np.array([103.939, 116.779, 123.68], np.float32)
_TORCH_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_TORCH_STD = np.array([0.229, 0.224, 0.225], np.float32)


def to_float(images: NDArray[np.uint8], mode: str) -> NDArray[np.float32]:
    """uint8 RGB or grey images (n, h, w, c), 0 to 255, as the float32 input of a network.

    Raises:
        ValueError: an unknown mode, or "caffe" or "torch" on images without three channels.
    """
    x = images.astype(np.float32)
    if mode == "tf":
        return np.asarray(x / 127.5 - 1, np.float32)
    if mode == "unit":
        return np.asarray(x / 255, np.float32)
    if mode == "raw":
        return x
    if mode not in MODES:
        raise ValueError(f"no preprocessing {mode!r}: one of {', '.join(MODES)}")
    if images.shape[-1] != 3:
        raise ValueError(f"preprocessing {mode!r} needs three channels, not {images.shape[-1]}")
    if mode == "caffe":
        return np.asarray(x[..., ::-1] - _CAFFE_MEAN_BGR, np.float32)
    return np.asarray((x / 255 - _TORCH_MEAN) / _TORCH_STD, np.float32)
