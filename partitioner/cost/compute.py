"""How long operators take on an ESP32-S3.

Theory of operation. Two sources, which agree where they meet:

* instructions per operator, counted on an emulated ESP32-S3 (data/esp32s3_instructions.csv): the
  work, without what the memories make the CPU wait;
* ticks of single kernels, published by Espressif (data/esp32s3_kernels.csv): with all that.

For every path through the kernels the number of instructions is a sum of a few counts that the
code's loops have (groups of eight pixels, output channels in them, ...), each with a weight from
the counted operators. The ticks of the published kernels over the instructions predicted for the
same shapes are cycles per instruction. They come out between 1.0 and 1.4, and with their
geometric mean the published 54 ms of the person-detection network (esp-tflite-micro's README,
internal memory) is met to a per cent. What those small kernels do not show is added: weights that
come from flash for the first time, and tensors in PSRAM that the 64 KB data cache does not hold,
both at the memories' peak rates. The band's lower end is one cycle per instruction and no waiting,
its upper end the worst ratio seen and twice the waiting.

Four published kernels do not give a ratio. The convolution of 3 channels takes 1.55 cycles for each
instruction predicted from the only such operator counted, the network's first; it is predicted, and
widens the band of its path. Of FULLY_CONNECTED, SOFTMAX and RELU6 sizes were published (813
multiplications, 256 and 1,615 values) at which the interpreter's share, which is in the counts and
not in the ticks, is most of the work.

Paths without a counted operator take the published ticks of their kernel, scaled by the work,
within a factor of 1.5; paths without either are priced by the path that comes nearest, within a
factor of 3. `Band.basis` says which it was.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path as FilePath
from typing import Literal

import numpy as np

from models.errors import TinysplitError
from partitioner.cost.operators import Path, Shape, same_padding

CLOCK_HZ = 240e6
_DATA = FilePath(__file__).with_name("data")
_CACHE_BYTES = 64 * 1024  # CONFIG_ESP32S3_DATA_CACHE_64KB, as in the published kernels' set-up.
_FLASH_BYTES_S = 40e6  # Quad, 80 MHz: 4 bits a clock.
_PSRAM_BYTES_S = 160e6  # Octal, 80 MHz, both edges: 16 bits a clock.
_ANSI_PER_MAC = 17.2  # FACTS: 160.8 and 881 M instructions, 9.4 and 51 M MACs, ANSI C kernels.

Memory = Literal["internal", "psram"]
Kernels = Literal["esp-nn", "ansi"]
Basis = Literal["counted", "published", "by analogy", "profile"]


class CostError(TinysplitError):
    """Calibration data that cannot be used."""


@dataclass(frozen=True)
class Band:
    """Cycles: the best guess, and between what limits it should lie."""

    low: float
    middle: float
    high: float
    basis: Basis

    @property
    def us(self) -> float:
        """The best guess in microseconds at 240 MHz."""
        return self.middle / CLOCK_HZ * 1e6


def total(bands: Iterable[Band]) -> Band:
    """The sum; its basis is the weakest of the parts'."""
    order: tuple[Basis, ...] = ("profile", "counted", "published", "by analogy")
    low = middle = high = 0.0
    weakest = 0
    for band in bands:
        low, middle, high = low + band.low, middle + band.middle, high + band.high
        weakest = max(weakest, order.index(band.basis))
    return Band(low, middle, high, order[weakest])


def _features(shape: Shape) -> tuple[float, ...]:
    """Counts that the path's loops have; all that instructions of a path are a sum of."""
    channels, made = shape.input[2], shape.output[2]
    if shape.path is Path.CONV_1X1:
        groups, rest = divmod(shape.pixels, 8)  # Eight pixels at once, the rest singly.
        group = (groups * channels, groups * made, groups * made * channels)
        return (1.0, *group, rest * made, rest * made * channels)
    if shape.path is Path.DEPTHWISE_3X3:
        rows = shape.input[0] + 2 * shape.padding[0]
        return 1.0, shape.pixels * made / 16, shape.inputs / 16, rows
    if shape.path in (Path.CONV_WINDOW, Path.CONV_1X1_ODD, Path.CONV_ROWS, Path.DEPTHWISE):
        return (float(shape.macs),)
    if shape.path is Path.ADD:
        return 1.0, float(shape.outputs)
    if shape.path in (Path.FULLY_CONNECTED,):
        return (float(shape.macs),)
    if shape.path in (Path.MAX_POOL, Path.AVERAGE_POOL):
        return (float(shape.outputs * shape.filter[0] * shape.filter[1]),)
    if shape.path is Path.MEAN:
        return (float(shape.inputs),)
    return (float(max(shape.outputs, shape.inputs)),)


def feature_count(path: Path) -> int:
    """How many weights a path has."""
    return {Path.CONV_1X1: 6, Path.DEPTHWISE_3X3: 4, Path.ADD: 2}.get(path, 1)


_Rows = Sequence[tuple[Shape, float]]


def _fit(rows: _Rows) -> tuple[float, ...]:
    """Weights of the features that make the squared relative error least; none if undetermined."""
    matrix = np.array([_features(shape) for shape, _ in rows])
    values = np.array([value for _, value in rows])
    if len(rows) < matrix.shape[1]:
        raise CostError(f"{len(rows)} operators are too few to fit {matrix.shape[1]} weights")
    solved = np.linalg.lstsq(matrix / values[:, None], np.ones(len(rows)), rcond=None)[0]
    return tuple(float(weight) for weight in solved)


def _apply(weights: Sequence[float], shape: Shape) -> float:
    return max(sum(w * f for w, f in zip(weights, _features(shape), strict=True)), 0.0)


@dataclass(frozen=True)
class LeftOut:
    """How well a path's operators are predicted from the others: relative errors."""

    path: Path
    operators: int
    mean: float
    worst: float


def leave_one_out(rows: _Rows) -> list[LeftOut]:
    """For every path, each operator predicted from a fit without its shape."""
    found = []
    for path, own in _by_path(rows).items():
        errors = []
        for shape, value in own:
            others = [row for row in own if row[0] != shape]
            if len({s for s, _ in others}) < len(_features(shape)):
                continue
            errors.append(abs(_apply(_fit(others), shape) / value - 1))
        if errors:
            found.append(LeftOut(path, len(errors), sum(errors) / len(errors), max(errors)))
    return found


def _by_path(rows: _Rows) -> dict[Path, list[tuple[Shape, float]]]:
    found: dict[Path, list[tuple[Shape, float]]] = {}
    for shape, value in rows:
        found.setdefault(shape.path, []).append((shape, value))
    return found


@dataclass(frozen=True)
class ComputeModel:
    """Cycles of operators. `weights` count instructions of a path, `ticks` whole cycles."""

    weights: Mapping[Path, tuple[float, ...]]
    ticks: Mapping[Path, float]
    ratios: tuple[float, ...]
    profiled: Mapping[Path, tuple[float, ...]]
    worst: Mapping[Path, float] = field(default_factory=dict)

    @property
    def cycles_per_instruction(self) -> float:
        return math.exp(sum(math.log(r) for r in self.ratios) / len(self.ratios))

    def instructions(self, shape: Shape) -> float | None:
        """As counted on emulated hardware; None for paths without a counted operator."""
        weights = self.weights.get(shape.path)
        return None if weights is None else _apply(weights, shape)

    def cycles(
        self, shape: Shape, memory: Memory = "internal", kernels: Kernels = "esp-nn"
    ) -> Band:
        """One operator, its tensors in `memory`, its weights in flash."""
        if kernels == "ansi" and shape.macs:
            return self._band(shape.macs * _ANSI_PER_MAC, shape, memory)
        if shape.path in self.profiled:
            middle = _apply(self.profiled[shape.path], shape)
            return Band(0.9 * middle, middle, 1.1 * middle, "profile")
        instructions = self.instructions(shape)
        if instructions is not None:
            return self._band(instructions, shape, memory)
        if shape.path in self.ticks:
            middle = self.ticks[shape.path] * _features(shape)[0] + self._waiting(shape, memory)
            return Band(middle / 1.5, middle, middle * 1.5, "published")
        middle = self._analogous(shape) * self.cycles_per_instruction
        middle += self._waiting(shape, memory)
        return Band(middle / 3, middle, middle * 3, "by analogy")

    def _analogous(self, shape: Shape) -> float:
        """Instructions of a path that nobody counted, from what comes nearest to it."""
        if shape.path is Path.CONV_ROWS:
            # Vector code, one output at a time: between 1x1 code for eight pixels and for one.
            _, _, group_output, group_mac, output, mac = self.weights[Path.CONV_1X1]
            per_mac = math.sqrt(group_mac / 8 * mac)
            return shape.macs * per_mac + shape.outputs * math.sqrt(group_output / 8 * output)
        if shape.macs:
            return shape.macs * self.weights[Path.CONV_WINDOW][0]
        return self.weights[Path.ADD][1] * _features(shape)[0]

    def _band(self, instructions: float, shape: Shape, memory: Memory) -> Band:
        waiting = self._waiting(shape, memory)
        return Band(
            instructions,
            instructions * self.cycles_per_instruction + waiting,
            instructions * max(*self.ratios, self.worst.get(shape.path, 1.0)) + 2 * waiting,
            "counted",
        )

    @staticmethod
    def _waiting(shape: Shape, memory: Memory) -> float:
        """Cycles for weights out of flash, and for tensors in PSRAM beyond the cache."""
        seconds = shape.weights / _FLASH_BYTES_S
        moved = shape.inputs + shape.outputs
        if memory == "psram" and moved > _CACHE_BYTES:
            seconds += moved / _PSRAM_BYTES_S
        return seconds * CLOCK_HZ

    def refitted(self, profile: _Rows) -> ComputeModel:
        """The same with paths fitted to cycles measured on a board.

        Args:
            profile: operators and their cycles. Paths with too few operators for a fit of
                their own have their counted instructions scaled by the profile's own ratio.
        """
        fitted = dict(self.profiled)
        for path, rows in _by_path(profile).items():
            if len({shape for shape, _ in rows}) >= len(_features(rows[0][0])):
                fitted[path] = _fit(rows)
            else:
                known = [(self.cycles(shape).middle, value) for shape, value in rows]
                ratio = sum(value for _, value in known) / sum(guess for guess, _ in known)
                weights = self.weights.get(path)
                if weights is not None:
                    scale = ratio * self.cycles_per_instruction
                    fitted[path] = tuple(scale * weight for weight in weights)
                else:
                    fitted[path] = (ratio * self.ticks.get(path, 0.0) or _fit(rows[:1])[0],)
        return replace(self, profiled=fitted)


def _table(name: str) -> list[dict[str, str]]:
    with (_DATA / name).open(encoding="utf-8") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


def _hwc(text: str) -> tuple[int, int, int]:
    sizes = [int(size) for size in text.split("x")]
    return (sizes[1], sizes[2], sizes[3]) if len(sizes) == 4 else (1, 1, sizes[-1])


def counted() -> list[tuple[Shape, float]]:
    """Operators and their instructions, from data/esp32s3_instructions.csv."""
    found = []
    for row in _table("esp32s3_instructions.csv"):
        given, made = _hwc(row["input"]), _hwc(row["output"])
        stride = int(row["stride"] or 1)
        window = (1, 1)
        if row["op"] in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            _, high, wide, _ = (int(size) for size in row["filter"].split("x"))
            window = high, wide
        padding = (
            same_padding(given[0], window[0], stride, made[0]),
            same_padding(given[1], window[1], stride, made[1]),
        )
        shape = Shape(row["op"], given, window, made, (stride, stride), padding)
        found.append((shape, float(row["instructions"])))
    return found


# Shapes of the published kernels, whose columns name them loosely; ticks are read from the file by
# position. Convolutions give (width, height), filters (number x height x width x channels).
_PUBLISHED: tuple[tuple[int, Shape], ...] = (
    (0, Shape("ADD", (1, 1, 1615), (1, 1), (1, 1, 1615))),
    (1, Shape("MUL", (1, 1, 1615), (1, 1), (1, 1, 1615))),
    (2, Shape("CONV_2D", (10, 10, 64), (1, 1), (10, 10, 64))),
    (3, Shape("CONV_2D", (8, 8, 16), (1, 1), (8, 8, 16))),
    (4, Shape("CONV_2D", (8, 8, 3), (3, 3), (6, 6, 64))),
    (5, Shape("DEPTHWISE_CONV_2D", (18, 18, 16), (3, 3), (16, 16, 16))),
    (6, Shape("DEPTHWISE_CONV_2D", (12, 12, 8), (5, 5), (10, 10, 32), (1, 1), (1, 1), 4)),
    (7, Shape("MAX_POOL_2D", (16, 16, 16), (3, 3), (14, 14, 16))),
    (8, Shape("AVERAGE_POOL_2D", (16, 16, 16), (3, 3), (14, 14, 16))),
    (10, Shape("SOFTMAX", (8, 1, 32), (1, 1), (8, 1, 32))),
)


def published() -> list[tuple[Shape, float]]:
    """Shapes and ticks of Espressif's kernels, from data/esp32s3_kernels.csv."""
    rows = _table("esp32s3_kernels.csv")
    return [(shape, float(rows[index]["optimized_ticks"])) for index, shape in _PUBLISHED]


@cache
def esp32s3() -> ComputeModel:
    """The model as calibrated by what is published and counted; see the module's text."""
    weights = {path: _fit(rows) for path, rows in _by_path(counted()).items()}
    bare = ComputeModel(weights, {}, (1.0, 1.0), {})
    ratios: list[float] = []
    ticks: dict[Path, float] = {}
    worst: dict[Path, float] = {}
    for shape, value in published():
        expected = bare.instructions(shape)
        if expected is None:
            ticks[shape.path] = value / _features(shape)[0]
        elif shape.path is Path.CONV_WINDOW:
            worst[shape.path] = value / expected
        elif shape.path is not Path.SOFTMAX:
            ratios.append(value / expected)
    return ComputeModel(weights, ticks, tuple(ratios), {}, worst)


def kernel_errors() -> list[tuple[Shape, float]]:
    """Published kernels whose path was counted, and how far off each is as predicted without it.

    Instructions are those predicted for the shape, times the cycles that the other kernels take.
    """
    model, found = esp32s3(), []
    for shape, value in published():
        instructions = model.instructions(shape)
        if instructions is not None and shape.path is not Path.SOFTMAX:
            ratio = value / instructions
            others = [r for r in model.ratios if r != ratio]
            middle = math.exp(sum(map(math.log, others)) / len(others))
            found.append((shape, middle / ratio - 1))
    return found
