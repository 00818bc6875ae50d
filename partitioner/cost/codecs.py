"""How small a codec makes boundaries, and how long a board codes them.

Theory of operation. How long the code of a tensor becomes depends on its values. So the network
runs on sample inputs, and for every tensor that crosses a cut the length is computed from the very
probabilities that the coder of `partitioner.codec` has at each bit. Contexts follow from the values
alone, so each context's bits are known beforehand, and its probability is a running mean: the
coder's integers are taken as real numbers, and all bits of a context at once. The coder itself
takes several times as long; its code differs by less than a per cent
(tests/partitioner/cost/test_codecs.py).

What a board computes for it grows with the code, not with the tensor: instructions were counted for
the firmware's own coder on an emulated core, and take the cycles that kernels take.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partitioner import codec
from partitioner.cost.compute import CLOCK_HZ, esp32s3
from partitioner.graph import Graph
from partitioner.kernels import Array, Kernels

SAMPLES = 2
"""How many inputs to measure on: a boundary's size changes by some per cent with the image."""

_DATA = Path(__file__).with_name("data") / "codec_instructions.csv"
_SHIFTS = [(count + 1).bit_length() for count in range(31)]
_RATE = 1 / 64  # What a bit teaches a context that has seen 31 and more.
_BLOCK = 512
_LEAST = 63  # Where p >> 6 is 0: a probability that is never left.

_Bits = NDArray[np.bool_]
_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class CodedSizes:
    """Bytes of the boundaries of a network, by position of the cut and codec; mean over samples.

    Args:
        samples: how many inputs they are the mean of; 0: only what needs no coding is known.
    """

    samples: int = 0
    coded: Mapping[int, Mapping[int, float]] = field(default_factory=dict)

    def known(self, codec_id: int) -> bool:
        """Whether sizes under this codec are known."""
        return codec_id == codec.RAW or any(codec_id in sizes for sizes in self.coded.values())

    def bytes(self, position: int, raw_bytes: int, codec_id: int) -> int:
        """The payload of a boundary under a codec.

        Raises:
            KeyError: it was not measured.
        """
        return raw_bytes if codec_id == codec.RAW else round(self.coded[position][codec_id])


@dataclass(frozen=True)
class CodingTimes:
    """Instructions of coding, by byte of code, and how far off that is."""

    encode: float
    decode: float
    mean_error: float
    worst_error: float


@cache
def times() -> CodingTimes:
    """Fitted to data/codec_instructions.csv, each tensor's error as predicted from the others."""
    with _DATA.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    ratios = np.array(
        [
            [float(row[way]) / float(row["coded_bytes"]) for way in ("encode", "decode")]
            for row in rows
        ]
    )
    fitted = _least_relative(ratios)
    errors = [
        np.abs(_least_relative(np.delete(ratios, number, axis=0)) / ratio - 1)
        for number, ratio in enumerate(ratios)
    ]
    return CodingTimes(
        float(fitted[0]), float(fitted[1]), float(np.mean(errors)), float(np.max(errors))
    )


def _least_relative(ratios: _Floats) -> _Floats:
    """The factor that makes the squared relative error least."""
    found: _Floats = (1 / ratios).sum(axis=0) / (1 / ratios**2).sum(axis=0)
    return found


def encode_us(coded_bytes: float, codec_id: int) -> float:
    """How long an ESP32-S3 at 240 MHz makes so many bytes of code."""
    return 0.0 if codec_id == codec.RAW else _us(coded_bytes * times().encode)


def decode_us(coded_bytes: float, codec_id: int) -> float:
    """How long an ESP32-S3 at 240 MHz reads so many bytes of code."""
    return 0.0 if codec_id == codec.RAW else _us(coded_bytes * times().decode)


def _us(instructions: float) -> float:
    return instructions * esp32s3().cycles_per_instruction / CLOCK_HZ * 1e6


def measure(
    graph: Graph,
    kernels: Kernels,
    inputs: Sequence[Sequence[Array]],
    positions: Container[int] | None = None,
) -> CodedSizes:
    """What boundaries of a network come to under every codec.

    Args:
        inputs: sets of input tensors, in the network's order.
        positions: of the cuts that are asked for; None: all.

    Raises:
        KernelError: the network does not run.
    """
    if not inputs:
        return CodedSizes()
    cuts = [cut for cut in graph.cuts if positions is None or cut.position in positions]
    wanted = sorted({tensor for cut in cuts for tensor in cut.tensors})
    lengths = dict.fromkeys(wanted, 0.0)
    interpreter = kernels.load(graph.data, keep_tensors=True)
    for one in inputs:
        interpreter.reset()
        interpreter.run(one)
        for tensor in wanted:
            values = interpreter.tensor(tensor).reshape(graph.tensors[tensor].shape)
            lengths[tensor] += coded_length(values) / len(inputs)
    coded = {
        cut.position: {codec.RANGE: sum(lengths[tensor] for tensor in cut.tensors)} for cut in cuts
    }
    return CodedSizes(len(inputs), coded)


def coded_length(tensor: NDArray[Any]) -> float:
    """About how many bytes codec 1 makes of a tensor, as `codec.encode` would; see the module."""
    data = np.frombuffer(tensor.tobytes(), np.int8).astype(np.int16)
    count = len(data)
    if not 1 <= count <= codec.MAX_BYTES:
        return count + 1
    near = codec.near_of(tensor.shape, tensor.itemsize)
    values, counts = np.unique(data, return_counts=True)
    centre = int(values[np.argmax(np.minimum(counts, 0xFFFF))])
    delta = data - centre
    left, above = np.zeros_like(delta), np.zeros_like(delta)
    if near is not None:
        left[near.pixel :], above[near.row :] = delta[: -near.pixel], delta[: -near.row]
    bits = _zero_or_not(delta, left, above) + _others(delta, left, above, centre)
    whole = (5 if near is None else 9) + int(bits / 8) + 1
    return float(min(whole, count + 1))


def _kind(left: NDArray[np.int16], above: NDArray[np.int16]) -> NDArray[np.int64]:
    """The class of the neighbours: SPEC.md 14.1's k."""
    both = np.abs(left) + np.abs(above)
    found: NDArray[np.int64] = np.where(both == 0, 0, np.clip(_bit_length(both) - 2, 1, 6))
    return found


def _bit_length(values: NDArray[Any]) -> NDArray[np.int64]:
    return np.frexp(values.astype(np.float64))[1].astype(np.int64)


def _zero_or_not(
    delta: NDArray[np.int16], left: NDArray[np.int16], above: NDArray[np.int16]
) -> float:
    return _by_context(_kind(left, above), delta != 0)


def _others(
    delta: NDArray[np.int16], left: NDArray[np.int16], above: NDArray[np.int16], centre: int
) -> float:
    """Bits for magnitudes and signs of what is not zero."""
    there = np.flatnonzero(delta)
    delta, left, above = delta[there], left[there], above[there]
    kind, magnitude = _kind(left, above), np.abs(delta)
    top = _bit_length(magnitude) - 1
    total = float(np.maximum(top - 1, 0).sum())  # Coded directly.
    node = np.ones_like(top)
    for level in (2, 1, 0):
        turn = (top >> level) & 1
        total += _by_context(8 * kind + node, turn.astype(bool))
        node = 2 * node + turn
    if centre != -128:
        total += _by_context(np.sign(left + above), delta < 0)
    large = top > 0
    first = (magnitude[large].astype(np.int64) >> (top[large] - 1)) & 1
    return total + _by_context(top[large], first.astype(bool))


def _by_context(contexts: NDArray[Any], bits: _Bits) -> float:
    """Bits of code for a stream of bits, each in a context of its own adaptive probability."""
    return sum(_code_bits(bits[contexts == one]) for one in np.unique(contexts))


def _code_bits(bits: _Bits) -> float:
    total, p = 0.0, 32768
    for bit, shift in zip(bits[: len(_SHIFTS)].tolist(), _SHIFTS, strict=False):
        share = (p >> 4) / 4096
        total -= math.log2(1 - share if bit else share)
        p = p - (p >> shift) if bit else p + ((0xFFFF - p) >> shift)
    rest = bits[len(_SHIFTS) :]
    if len(rest) == 0:
        return total
    probabilities = np.clip(_running(rest, p), _LEAST, 0xFFFF - _LEAST) / 65536
    return total - float(np.log2(np.where(rest, 1 - probabilities, probabilities)).sum())


def _running(bits: _Bits, p: float) -> _Floats:
    """The probability of a 0 before each bit: p moves by a 64th of the way to 65535 or to 0.

    p after k bits x is d^k (p + r / d * sum x_j d^-j) with d = 1 - r, block by block.
    """
    keep = 1 - _RATE
    rows = -(-len(bits) // _BLOCK)
    target = np.zeros(rows * _BLOCK)
    target[: len(bits)] = np.where(bits, 0.0, 65535.0)
    powers = keep ** np.arange(_BLOCK)
    weighted = target.reshape(rows, _BLOCK) / powers * (_RATE / keep)
    sums = np.cumsum(weighted, axis=1)
    starts = np.empty(rows)
    for row, whole in enumerate(sums[:, -1].tolist()):
        starts[row] = p
        p = keep**_BLOCK * (p + whole)
    found: _Floats = (powers * (starts[:, None] + sums - weighted)).reshape(-1)[: len(bits)]
    return found
