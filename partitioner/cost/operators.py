"""Operators as a kernel sees them, and which of ESP-NN's ways through the code they take.

The choice of path restates the conditions of ESP-NN 1.2.3 (esp_nn_conv_esp32s3.c,
esp_nn_depthwise_conv_s8_esp32s3.c) and of esp-tflite-micro 1.4.0's kernels/esp_nn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Any

from ai_edge_litert import schema_py_generated as schema

from partitioner.graph import Graph


class Path(Enum):
    """A way through the kernels that costs are fitted to."""

    CONV_1X1 = "1x1 convolution, channels a multiple of 8"
    CONV_1X1_ODD = "1x1 convolution, other channel counts"
    CONV_WINDOW = "convolution by windows (few input channels)"
    CONV_ROWS = "convolution by filter rows"
    DEPTHWISE_3X3 = "3x3 depthwise convolution, channels a multiple of 16"
    DEPTHWISE = "other depthwise convolution"
    ADD = "addition"
    MUL = "multiplication"
    MAX_POOL = "max pooling"
    AVERAGE_POOL = "average pooling"
    FULLY_CONNECTED = "fully connected"
    SOFTMAX = "softmax"
    MEAN = "mean over rows and columns (reference kernel)"
    COPY = "data movement"
    OTHER = "reference kernel"


_SIMPLE = {
    "ADD": Path.ADD,
    "MUL": Path.MUL,
    "MAX_POOL_2D": Path.MAX_POOL,
    "AVERAGE_POOL_2D": Path.AVERAGE_POOL,
    "FULLY_CONNECTED": Path.FULLY_CONNECTED,
    "SOFTMAX": Path.SOFTMAX,
    "MEAN": Path.MEAN,
    "PAD": Path.COPY,
    "RESHAPE": Path.COPY,
    "CONCATENATION": Path.COPY,
    "QUANTIZE": Path.COPY,
}


@dataclass(frozen=True)
class Shape:
    """An operator with batch 1. Sizes are (height, width, channels), or (1, 1, values).

    `padding` is what SAME adds before the first row and column; `weights` are bytes of constants.
    """

    kind: str
    input: tuple[int, int, int]
    filter: tuple[int, int]
    output: tuple[int, int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    multiplier: int = 1
    weights: int = 0

    @property
    def pixels(self) -> int:
        """Rows times columns of the output."""
        return self.output[0] * self.output[1]

    @property
    def inputs(self) -> int:
        """Values of the first input."""
        return math.prod(self.input)

    @property
    def outputs(self) -> int:
        """Values of the output."""
        return math.prod(self.output)

    @property
    def macs(self) -> int:
        """Multiply-accumulates; 0 for kinds that do not multiply matrices."""
        window = self.filter[0] * self.filter[1]
        if self.kind == "CONV_2D":
            return self.outputs * window * self.input[2]
        if self.kind == "DEPTHWISE_CONV_2D":
            return self.outputs * window
        if self.kind == "FULLY_CONNECTED":
            return self.inputs * self.outputs
        return 0

    @property
    def path(self) -> Path:
        """Which code ESP-NN runs for it."""
        channels, row = self.input[2], self.filter[1] * self.input[2]
        if self.kind == "CONV_2D":
            if self.filter == (1, 1) and self.stride == (1, 1) and self.padding == (0, 0):
                return Path.CONV_1X1 if channels % 8 == 0 else Path.CONV_1X1_ODD
            return Path.CONV_WINDOW if row < 16 <= row * self.filter[0] else Path.CONV_ROWS
        if self.kind == "DEPTHWISE_CONV_2D":
            padded = self.padding in ((0, 0), (1, 1))
            fits = self.multiplier == 1 and channels % 16 == 0 and self.filter == (3, 3)
            return Path.DEPTHWISE_3X3 if fits and padded else Path.DEPTHWISE
        return _SIMPLE.get(self.kind, Path.OTHER)


def same_padding(size: int, window: int, stride: int, output: int) -> int:
    """What SAME adds before the first of `size` values, as TensorFlow Lite computes it."""
    return max(0, (output - 1) * stride + window - size) // 2


def _hwc(shape: tuple[int, ...]) -> tuple[int, int, int]:
    if len(shape) == 4:
        return shape[1], shape[2], shape[3]
    return 1, 1, math.prod(shape)


def _pair(options: Any, first: str, second: str, default: tuple[int, int]) -> tuple[int, int]:
    found = getattr(options, first, None), getattr(options, second, None)
    return default if None in found else (int(found[0]), int(found[1]))  # type: ignore[arg-type]


def shapes(graph: Graph) -> tuple[Shape, ...]:
    """Every operator of a network, in execution order."""
    found = []
    for operator, raw in zip(graph.operators, graph.model.subgraphs[0].operators, strict=True):
        every = [graph.tensors[i] for i in raw.inputs if i != -1]
        constants = [t for t in every if t.constant]
        data = [t for t in every if not t.constant] or every
        given = _hwc(data[0].shape) if data else (1, 1, 0)
        made = _hwc(graph.tensors[operator.outputs[0]].shape) if operator.outputs else (1, 1, 0)
        options = raw.builtinOptions
        window, multiplier = (1, 1), 1
        if operator.kind in ("CONV_2D", "DEPTHWISE_CONV_2D") and len(every) > 1:
            window = every[1].shape[1], every[1].shape[2]
            multiplier = max(made[2] // max(given[2], 1), 1)
        elif operator.kind.endswith("POOL_2D"):
            window = _pair(options, "filterHeight", "filterWidth", (1, 1))
        stride = _pair(options, "strideH", "strideW", (1, 1))
        padding = (0, 0)
        if getattr(options, "padding", None) == schema.Padding.SAME:
            padding = (
                same_padding(given[0], window[0], stride[0], made[0]),
                same_padding(given[1], window[1], stride[1], made[1]),
            )
        found.append(
            Shape(
                kind=operator.kind,
                input=given,
                filter=window,
                output=made,
                stride=stride,
                padding=padding,
                multiplier=multiplier if operator.kind.startswith("DEPTHWISE") else 1,
                weights=sum(t.bytes for t in constants),
            )
        )
    return tuple(found)
