"""What a stage needs of a board's memory: TensorFlow Lite Micro's arena with ESP-NN's scratch.

Theory of operation. The arena has two ends. One holds tensors while they live and the scratch of
the operator that runs, each rounded up to 16 bytes and placed by TFLM's greedy planner. The other
end lives as long as the interpreter: 8 bytes per output channel of every convolution (its
multipliers and shifts) and a few dozen per tensor. The two constants of the latter are from arenas
read on an emulated ESP32-S3 (TFLM with 32-bit pointers): 55,692 B for a head of 61 operators,
5,760 channels and 164 tensors; 11,140 B for a tail of 4 operators, 1,280 channels and 9 tensors.

What internal RAM is left for an arena is what the application found free at its start on the
emulated board (emulated) without what the stacks of its radios take (by ESP-IDF's defaults), and
never more than the largest block.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from partitioner.cost.operators import Path, Shape, shapes
from partitioner.graph import Graph

_ALIGNMENT = 16
_PER_CHANNEL = 8
_PER_TENSOR = (9_612 - 900) / (164 - 9)
_BASE = 900 - 9 * _PER_TENSOR
Radio = Literal["wifi", "ble"]
_HEAP_BYTES = 354 * 1024  # Free at the start of this application, runtime and tasks allocated.
_BLOCK_BYTES = 260 * 1024  # The largest block of it was below 270 KB.
_RADIO_BYTES: dict[Radio, int] = {
    # ESP-IDF 5.3, components/esp_wifi/Kconfig: 10 static receive buffers of 1.6 KB; of the 32
    # dynamic ones each way those of a window of 16 frames; 12 KB for the stacks of its tasks.
    "wifi": (10 + 16) * 1638 + 12 * 1024,
    # components/bt/host/nimble/Kconfig.in: 12 x 256, 24 x 320 and 24 x 255 bytes of buffers, 4 KB
    # of stack; about 36 KB for the controller (documentation of the crate esp-radio).
    "ble": 12 * 256 + 24 * (320 + 255) + (4 + 36) * 1024,
}
_CHANNELWISE = ("CONV_2D", "DEPTHWISE_CONV_2D")
_STRIP_ABOVE = 40 * 1024  # esp_nn_depthwise_conv_s8_esp32s3.c: larger inputs go row by row.


@dataclass(frozen=True)
class Arena:
    """Bytes: `planned` for tensors and scratch over time, `persistent` beside them."""

    planned: int
    persistent: int

    @property
    def total(self) -> int:
        return self.planned + self.persistent


def internal_free(radios: Iterable[Radio]) -> int:
    """Bytes of internal RAM left for an arena on an ESP32-S3 that runs these radios."""
    return min(_BLOCK_BYTES, _HEAP_BYTES - sum(_RADIO_BYTES[radio] for radio in set(radios)))


def conv_scratch(shape: Shape) -> int:
    """Scratch bytes of an ESP-NN convolution: esp_nn_get_conv_scratch_size_esp32s3 of 1.2.3."""
    height, width, channels = shape.input
    made = shape.output[2]
    margin = 64
    if shape.path in (Path.CONV_1X1, Path.CONV_1X1_ODD):
        padded = -(-channels // 8) * 8
        transposed = 0 if height * width < 8 else 2 * 8 * padded
        copied = height * width * padded if channels % 8 else 0
        return copied + padded * made + transposed + margin
    rows, columns = shape.filter
    if shape.path is Path.CONV_WINDOW:
        window = -(-rows * columns * channels // 16) * 16
        return made * 4 + 16 + made * window + 16 + window + margin
    filters = rows * columns * -(-channels // 16) * 16 * made
    aligned = -(-columns * channels // 16) * 16 * rows * made
    padded = 0
    if shape.padding != (0, 0):
        padded = (height + 2 * shape.padding[0]) * (width + 2 * shape.padding[1]) * channels
    right = max(0, shape.output[1] * shape.stride[1] + columns - 1 - width)
    bottom = max(0, shape.output[0] * shape.stride[0] + rows - 1 - height)
    trailing = (height + bottom) * (width + right) * channels if right or bottom else 0
    return padded + filters + aligned + trailing + margin + made * 4


def depthwise_scratch(shape: Shape) -> int:
    """Scratch bytes of an ESP-NN depthwise convolution that is sized right.

    esp_nn_get_depthwise_conv_scratch_size_esp32s3 of 1.2.3, but for one case that it gets wrong
    (esp-nn issue #34): 3x3, no leading and some trailing padding, more than 40 KB. The
    kernel copies the whole input there, and so it is counted.
    """
    height, width, channels = shape.input
    rows, columns = shape.filter
    made = shape.output
    filters = rows * columns * channels * shape.multiplier
    if shape.path is Path.DEPTHWISE_3X3:
        if shape.padding != (0, 0):
            more = 2 * shape.padding[0], 2 * shape.padding[1]
        else:
            more = (
                made[0] * shape.stride[0] + rows - 1 - height,
                made[1] * shape.stride[1] + columns - 1 - width,
            )
        if more == (0, 0):
            return filters + 16
        whole = (height + more[0]) * (width + more[1]) * channels
        if whole > _STRIP_ABOVE and shape.padding != (0, 0):
            whole = (width + more[1]) * rows * channels
        return filters + whole + 16
    if shape.multiplier == 1 and channels % 8 == 0:
        return _depthwise_by_eight(shape, filters)
    if shape.multiplier == 1 and channels > 3:
        padded = -(-channels // 8) * 8
        first = -(-2 * rows * columns * padded // 16) * 16
        second = -(-(first + 2 * height * width * padded) // 16) * 16
        third = -(-(second + made[0] * made[1] * padded) // 16) * 16
        return third + 12 * padded + 16
    if shape.multiplier % 4 == 0:
        return 2 * (filters + shape.inputs) + 32
    return 32


def _depthwise_by_eight(shape: Shape, filters: int) -> int:
    height, width, channels = shape.input
    rows, columns = shape.filter
    if (rows, columns) == (3, 3) and channels >= 12:
        padded = -(-channels // 16) * 16
        wide = width + 2 * shape.padding[1] + max(0, shape.output[1] * shape.stride[1] + 2 - width)
        high = height + 2 * shape.padding[0]
        high += max(0, shape.output[0] * shape.stride[0] + 2 - height)
        return 9 * padded + wide * high * padded + shape.pixels * padded + 64
    if (rows, columns) == (3, 3):
        return 2 * (filters + shape.inputs) + 32
    whole = 2 * (filters + shape.inputs)
    if whole <= 48 * 1024:
        return whole + 32
    return 2 * filters + 2 * width * rows * channels + 32


def scratch(shape: Shape, *, esp_nn: bool = True) -> int:
    """Scratch bytes of one operator, with ESP-NN or with the reference kernels."""
    if shape.kind == "MEAN":
        return 4 * shape.outputs + 32  # reduce_common.cc: sums in 32 bits, an index, the axes.
    if not esp_nn:
        return 0
    if shape.kind == "CONV_2D":
        return conv_scratch(shape)
    if shape.kind == "DEPTHWISE_CONV_2D":
        return depthwise_scratch(shape)
    if shape.kind == "SOFTMAX":
        return 4 * shape.outputs  # esp_nn_get_softmax_scratch_size_opt: 32 bits a column.
    return 0


class StageMemory:
    """The arena of any stage of a network, from its shapes alone."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._shapes = shapes(graph)

    def arena(self, start: int, stop: int, *, esp_nn: bool = True) -> Arena:
        """The arena of operators `start` to `stop` on an ESP32-S3.

        Args:
            esp_nn: with ESP-NN's scratch; otherwise the reference kernels, which need none.
        """
        graph = self._graph
        operators = graph.operators[start:stop]
        born = {t: op.index for op in reversed(operators) for t in op.outputs}
        dies = {t: op.index for op in operators for t in (*op.outputs, *op.inputs)}
        dies |= {t: stop for t in born if graph.last_use.get(t, -1) >= stop}
        born = {t: born.get(t, start) for t in dies}
        buffers = [(_aligned(graph.tensors[t].bytes), born[t], dies[t]) for t in sorted(dies)]
        own = [(scratch(self._shapes[o.index], esp_nn=esp_nn), o.index) for o in operators]
        buffers += [(_aligned(size), at, at) for size, at in own if size]
        planned = _planned(buffers)
        return Arena(planned, self._persistent(start, stop))

    def _persistent(self, start: int, stop: int) -> int:
        raw = self._graph.model.subgraphs[0].operators[start:stop]
        tensors = {int(i) for op in raw for i in (*op.inputs, *op.outputs) if i != -1}
        channels = sum(s.output[2] for s in self._shapes[start:stop] if s.kind in _CHANNELWISE)
        return round(_BASE + _PER_TENSOR * len(tensors) + _PER_CHANNEL * channels)


def _planned(buffers: list[tuple[int, int, int]]) -> int:
    """Bytes that buffers (size, first and last operator in need of it) take, placed as TFLM does.

    The largest is placed first, of equal ones the last, each at the lowest gap between those placed
    whose time overlaps (tensorflow/lite/micro/memory_planner/greedy_memory_planner.cc).
    """
    placed: list[tuple[int, int, int, int]] = []  # Offset, end, first, last.
    in_turn = sorted(range(len(buffers)), key=lambda number: (-buffers[number][0], -number))
    for number in in_turn:
        size, first, last = buffers[number]
        offset = 0
        for start, end, begins, ends in sorted(placed):
            if begins <= last and first <= ends:
                if start - offset >= size:
                    break
                offset = max(offset, end)
        placed.append((offset, offset + size, first, last))
    return max((end for _, end, _, _ in placed), default=0)


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
