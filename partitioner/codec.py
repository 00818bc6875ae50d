"""Codec 1 of the link: a boundary tensor without its redundancy, and back, byte for byte.

Written from firmware/core/SPEC.md section 14, which has the bytes; firmware/core/DESIGN.md has the
reasons. An adaptive binary range coder (Martin 1979; Witten, Neal and Cleary 1987) over a value's
distance from the tensor's most frequent one: zero or not, sign, magnitude class, and the
bits below. Where the tensor is an image, the contexts depend on the pixels to the left and above.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.errors import TinysplitError

RAW: Final = 0
RANGE: Final = 1
NAMES: Final = {RAW: "raw", RANGE: "range"}
MAX_BYTES: Final = 0xFF_FFFF
MIN_PIXELS: Final = 100
"""From so many pixels on, neighbours tell more than they cost to learn."""

Buffer = bytes | bytearray | memoryview

_FORM_RAW, _FORM_PLAIN, _FORM_NEAR = 0, 1, 2
_HEADER = 5
_NEAR_HEADER = 9
_CLASSES = 7
_ZERO, _SIGN, _CLASS, _FIRST = 0, 7, 10, 66
_CONTEXTS = 74
_HALF = 0x8000
_TOP = 1 << 24
_SHIFTS = tuple((count + 1).bit_length() for count in range(32))
# The context class of |left| + |above|: 0, then by magnitude.
_NEAR_CLASS = tuple(0 if s == 0 else min(max(s.bit_length() - 2, 1), 6) for s in range(511))


class CodecError(TinysplitError):
    """Bytes that are no coded tensor. `too_large`: they are, but of more than was allowed."""

    def __init__(self, message: str, *, too_large: bool = False) -> None:
        super().__init__(message)
        self.too_large = too_large


@dataclass(frozen=True)
class Near:
    """How many bytes before a value its left and its upper neighbour of the same channel are."""

    pixel: int
    row: int


def near_of(shape: Sequence[int], itemsize: int = 1) -> Near | None:
    """The neighbours worth looking at in a tensor of this shape (NHWC), None: none are."""
    if len(shape) != 4 or shape[0] != 1 or itemsize != 1 or shape[1] * shape[2] < MIN_PIXELS:
        return None
    near = Near(shape[3], shape[2] * shape[3])
    return near if 0 < near.row <= 0xFFFF else None


class _Model:
    """The probabilities, by context: of a 0 in 65536, and how many bits taught it (at most 31)."""

    def __init__(self) -> None:
        self.zero = [_HALF] * _CONTEXTS
        self.count = [0] * _CONTEXTS


class _Encoder:
    def __init__(self, cap: int) -> None:
        self._model = _Model()
        self._low = 0
        self._range = 0xFFFF_FFFF
        self._cap = cap
        self.out = bytearray()

    def bit(self, context: int, bit: int) -> None:
        zero, count = self._model.zero, self._model.count
        p, n = zero[context], count[context]
        shift = _SHIFTS[n]
        if n < 31:
            count[context] = n + 1
        bound = (self._range >> 12) * (p >> 4)
        if bit:
            self._add(bound)
            self._range -= bound
            zero[context] = p - (p >> shift)
        else:
            self._range = bound
            zero[context] = p + ((0xFFFF - p) >> shift)
        self._renormalize()

    def direct(self, value: int, bits: int) -> None:
        self._range >>= bits
        self._add(self._range * value)
        self._renormalize()

    def _add(self, amount: int) -> None:
        self._low += amount
        if self._low >> 32:
            self._low &= 0xFFFF_FFFF
            at = len(self.out) - 1
            while self.out[at] == 0xFF:
                self.out[at] = 0
                at -= 1
            self.out[at] += 1

    def _renormalize(self) -> None:
        while self._range < _TOP:
            self.out.append(self._low >> 24)
            self._low = self._low << 8 & 0xFFFF_FFFF
            self._range <<= 8

    @property
    def full(self) -> bool:
        return len(self.out) > self._cap

    def finish(self) -> None:
        """One byte more is enough: what follows it is read as zeros."""
        self._add(_TOP - 1)
        self.out.append(self._low >> 24)


class _Decoder:
    def __init__(self, data: memoryview) -> None:
        self._model = _Model()
        self._data = data
        self._at = 0
        self._code = 0
        self._range = 0xFFFF_FFFF
        for _ in range(4):
            self._next()

    def _next(self) -> None:
        byte = self._data[self._at] if self._at < len(self._data) else 0
        self._at += 1
        self._code = (self._code << 8 | byte) & 0xFFFF_FFFF

    def bit(self, context: int) -> int:
        zero, count = self._model.zero, self._model.count
        p, n = zero[context], count[context]
        shift = _SHIFTS[n]
        if n < 31:
            count[context] = n + 1
        bound = (self._range >> 12) * (p >> 4)
        if self._code >= bound:
            bit = 1
            self._code -= bound
            self._range -= bound
            zero[context] = p - (p >> shift)
        else:
            bit = 0
            self._range = bound
            zero[context] = p + ((0xFFFF - p) >> shift)
        self._renormalize()
        return bit

    def direct(self, bits: int) -> int:
        self._range >>= bits
        value = self._code // self._range
        if value >> bits:
            raise CodecError("a coded tensor with a number that no encoder writes")
        self._code -= self._range * value
        self._renormalize()
        return value

    def _renormalize(self) -> None:
        while self._range < _TOP:
            self._next()
            self._range <<= 8

    @property
    def starved(self) -> bool:
        """Whether more was read than a whole stream has."""
        return self._at > len(self._data) + 3

    @property
    def exact(self) -> bool:
        return self._at == len(self._data) + 3


def _centre(values: NDArray[np.int8]) -> int:
    """The most frequent value, the lowest of several; counts end at 65535, as on a board."""
    counts = np.minimum(np.bincount(values.astype(np.int16) + 128, minlength=256), 0xFFFF)
    return int(np.argmax(counts)) - 128


def encode(data: Buffer, near: Near | None = None) -> bytes:
    """The coded form of a tensor's bytes, int8 by preference; one byte longer at most."""
    raw = b"\0" + bytes(data)
    n = len(data)
    if not 1 <= n <= MAX_BYTES:
        return raw
    values = np.frombuffer(data, np.int8)
    centre = _centre(values)
    header = bytes([_FORM_PLAIN if near is None else _FORM_NEAR, centre & 0xFF])
    header += n.to_bytes(3, "little")
    if near is not None:
        header += near.pixel.to_bytes(2, "little") + near.row.to_bytes(2, "little")
    coder = _Encoder(n - len(header))
    deltas = (values.astype(np.int16) - centre).tolist()
    left, above = (near.pixel, near.row) if near is not None else (n, n)
    bit = coder.bit
    for i, delta in enumerate(deltas):
        a = deltas[i - left] if i >= left else 0
        b = deltas[i - above] if i >= above else 0
        kind = _NEAR_CLASS[abs(a) + abs(b)]
        bit(_ZERO + kind, delta != 0)
        if delta == 0:
            continue
        magnitude = abs(delta)
        top = magnitude.bit_length() - 1
        node = 1
        for level in (2, 1, 0):
            turn = top >> level & 1
            bit(_CLASS + 8 * kind + node, turn)
            node = 2 * node + turn
        if centre != -128:
            bit(_SIGN + (a + b > 0) + 2 * (a + b < 0), delta < 0)
        if top:
            bit(_FIRST + top, magnitude >> (top - 1) & 1)
        if top > 1:
            coder.direct(magnitude & ((1 << (top - 1)) - 1), top - 1)
        if coder.full:
            return raw
    coder.finish()
    return raw if coder.full else header + bytes(coder.out)


def decode(coded: Buffer, limit: int) -> bytes:
    """The tensor's bytes.

    Args:
        limit: how many there may be.

    Raises:
        CodecError: no coded tensor, or one of more than `limit` bytes.
    """
    view = memoryview(coded)
    if len(view) < 1 or view[0] > _FORM_NEAR:
        raise CodecError("not a coded tensor")
    if view[0] == _FORM_RAW:
        if len(view) - 1 > limit:
            raise CodecError("a tensor larger than the buffer for it", too_large=True)
        return bytes(view[1:])
    header = _HEADER if view[0] == _FORM_PLAIN else _NEAR_HEADER
    if len(view) <= header:
        raise CodecError("a coded tensor that ends in its header")
    centre = view[1] - 256 * (view[1] >> 7)
    n = int.from_bytes(view[2:5], "little")
    left = above = n
    if view[0] == _FORM_NEAR:
        left, above = int.from_bytes(view[5:7], "little"), int.from_bytes(view[7:9], "little")
    if n == 0 or left == 0 or above == 0:
        raise CodecError("a coded tensor without length or distances")
    if n > limit:
        raise CodecError("a tensor larger than the buffer for it", too_large=True)
    coder = _Decoder(view[header:])
    deltas: list[int] = []
    bit = coder.bit
    for i in range(n):
        a = deltas[i - left] if i >= left else 0
        b = deltas[i - above] if i >= above else 0
        kind = _NEAR_CLASS[abs(a) + abs(b)]
        delta = 0
        if bit(_ZERO + kind):
            node = 1
            for _ in range(3):
                node = 2 * node + bit(_CLASS + 8 * kind + node)
            top = node - 8
            negative = centre != -128 and bit(_SIGN + (a + b > 0) + 2 * (a + b < 0))
            delta = 1 << top
            if top:
                delta |= bit(_FIRST + top) << (top - 1)
            if top > 1:
                delta |= coder.direct(top - 1)
            if negative:
                delta = -delta
            if not -128 <= centre + delta <= 127:
                raise CodecError("a coded tensor with a value beyond int8")
        if coder.starved:
            raise CodecError("a coded tensor that ends too early")
        deltas.append(delta)
    if not coder.exact:
        raise CodecError("a coded tensor with something behind its end")
    return (np.array(deltas, np.int16) + centre).astype(np.int8).tobytes()


def encode_tensors(tensors: Iterable[NDArray[Any]]) -> list[bytes]:
    """Each tensor of a boundary in its coded form, neighbours by its shape."""
    return [encode(t.tobytes(), near_of(t.shape, t.itemsize)) for t in tensors]


def coded_bytes(tensors: Sequence[NDArray[Any]], codec: int) -> int:
    """How many bytes of tensors a TENSOR message carries for this boundary under a codec.

    Args:
        tensors: the boundary's values, in their shapes, manifest order.
        codec: RAW or RANGE.

    Raises:
        ValueError: no such codec.
    """
    if codec == RAW:
        return sum(math.prod(t.shape) * t.itemsize for t in tensors)
    if codec == RANGE:
        return sum(len(coded) for coded in encode_tensors(tensors))
    raise ValueError(f"there is no codec {codec}")
