"""Codec 1 in Python: what comes out is what went in, and nothing else is taken."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partitioner import codec
from partitioner.codec import CodecError, Near

distances = st.none() | st.builds(Near, st.integers(1, 65535), st.integers(1, 65535))
near_distances = st.none() | st.builds(Near, st.integers(1, 9), st.integers(1, 40))


def relu_like(seed: int, n: int, scale: float) -> bytes:
    values = np.random.default_rng(seed).normal(0, scale, n)
    return (values.clip(0, 255) - 128).astype(np.int8).tobytes()


@given(st.binary(max_size=400), distances | near_distances)
def test_any_bytes_come_back(data: bytes, near: Near | None) -> None:
    coded = codec.encode(data, near)
    assert len(coded) <= len(data) + 1
    assert codec.decode(coded, len(data)) == data


@given(st.integers(0, 2**32 - 1), st.integers(1, 600), st.floats(0.1, 200), near_distances)
def test_what_shrinks_comes_back(seed: int, n: int, scale: float, near: Near | None) -> None:
    data = relu_like(seed, n, scale)
    assert codec.decode(codec.encode(data, near), n) == data


@settings(max_examples=300)
@given(st.binary(max_size=80), st.integers(0, 300))
def test_any_bytes_are_refused_or_taken(coded: bytes, limit: int) -> None:
    with contextlib.suppress(CodecError):
        assert len(codec.decode(coded, limit)) <= limit


@settings(max_examples=300)
@given(st.sampled_from([1, 2]), st.integers(0, 255), st.integers(1, 200), st.binary(max_size=60))
def test_any_code_is_refused_or_taken(form: int, centre: int, n: int, code: bytes) -> None:
    header = bytes([form, centre]) + n.to_bytes(3, "little") + b"\3\0\7\0" * (form == 2)
    with contextlib.suppress(CodecError):
        assert len(codec.decode(header + code, 200)) == n


@pytest.mark.parametrize("near", [None, Near(8, 80)])
def test_a_code_cut_short_or_continued_is_refused(near: Near | None) -> None:
    data = relu_like(1, 800, 20)
    coded = codec.encode(data, near)
    assert coded[0] == (1 if near is None else 2)
    for other in (*(coded[:cut] for cut in range(len(coded))), coded + b"\0", coded + coded):
        with pytest.raises(CodecError):
            codec.decode(other, len(data))


def test_more_than_the_buffer_holds_is_named() -> None:
    for data in (bytes(100), bytes(range(100))):
        coded = codec.encode(data)
        assert codec.decode(coded, 100) == data
        with pytest.raises(CodecError, match="larger") as caught:
            codec.decode(coded, 99)
        assert caught.value.too_large


def test_noise_stays_raw_and_a_constant_all_but_vanishes() -> None:
    noise = np.random.default_rng(0).integers(0, 256, 5000, np.uint8).tobytes()
    assert codec.encode(noise) == b"\0" + noise
    assert len(codec.encode(b"\x80" * 5000)) < 30


def test_neighbours_are_those_of_large_images() -> None:
    assert codec.near_of((1, 10, 10, 24)) == Near(24, 240)
    assert codec.near_of((1, 9, 11, 24)) is None
    assert codec.near_of((1, 1280)) is None
    assert codec.near_of((1, 10, 10, 24), itemsize=4) is None
    assert codec.near_of((1, 100, 100, 656)) is None  # A row of 65,600 bytes.


def test_coded_bytes_are_those_of_the_message() -> None:
    tensors = [
        np.frombuffer(relu_like(2, 2400, 20), np.int8).reshape(1, 10, 10, 24),
        np.arange(10, dtype=np.int8).reshape(1, 10),
    ]
    assert codec.coded_bytes(tensors, codec.RAW) == 2410
    coded = [codec.encode(tensors[0].tobytes(), Near(24, 240)), codec.encode(tensors[1].tobytes())]
    assert codec.coded_bytes(tensors, codec.RANGE) == sum(map(len, coded)) < 2000
    with pytest.raises(ValueError, match="no codec 2"):
        codec.coded_bytes(tensors, 2)
