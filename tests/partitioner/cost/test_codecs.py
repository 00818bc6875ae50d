"""Sizes and times of coded boundaries against the coder itself."""

from __future__ import annotations

import numpy as np
import pytest

from partitioner import codec, kernels
from partitioner.cost import codecs
from partitioner.cost.codecs import CodedSizes, coded_length, measure
from partitioner.graph import Graph
from partitioner.source import Request, Source, realistic


def test_lengths_of_real_boundaries_are_the_coders_within_a_per_cent(
    digits_source: Source,
) -> None:
    graph = digits_source.graph
    (inputs,) = realistic(digits_source, Request(), 1, [])
    interpreter = kernels.exact().load(graph.data, keep_tensors=True)
    interpreter.run(inputs)
    for index in sorted({t for cut in graph.cuts for t in cut.tensors})[::4]:
        tensor = interpreter.tensor(index).reshape(graph.tensors[index].shape)
        expected = codec.coded_bytes([tensor], codec.RANGE)
        assert coded_length(tensor) == pytest.approx(expected, rel=0.01, abs=2)


@pytest.mark.parametrize("spread", [0, 1, 8, 60, 1000])
@pytest.mark.parametrize("shape", [(1, 12, 12, 5), (1, 3, 3, 70), (1, 40)])
def test_lengths_of_any_values_are_the_coders(spread: int, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(spread)
    noise = rng.normal(0, spread, shape) if spread else np.full(shape, -128)
    tensor = np.clip(noise, -128, 127).astype(np.int8)
    expected = codec.coded_bytes([tensor], codec.RANGE)
    assert coded_length(tensor) == pytest.approx(expected, rel=0.01, abs=2)


def test_a_boundary_is_as_long_as_its_tensors_are_on_average(stranger: Graph) -> None:
    rng = np.random.default_rng(1)
    shape = stranger.tensors[stranger.inputs[0]].shape
    inputs = [[rng.integers(-128, 128, shape).astype(np.int8)] for _ in range(2)]
    sizes = measure(stranger, kernels.exact(), inputs)
    assert sizes.samples == 2
    cut = stranger.cuts[3]
    interpreter = kernels.exact().load(stranger.data, keep_tensors=True)
    lengths = []
    for one in inputs:
        interpreter.run(one)
        tensors = [interpreter.tensor(t).reshape(stranger.tensors[t].shape) for t in cut.tensors]
        lengths.append(codec.coded_bytes(tensors, codec.RANGE))
    coded = sizes.bytes(cut.position, cut.payload_bytes, codec.RANGE)
    assert coded == pytest.approx(np.mean(lengths), rel=0.01, abs=2)
    assert sizes.bytes(cut.position, cut.payload_bytes, codec.RAW) == cut.payload_bytes


def test_without_samples_only_raw_sizes_are_known(stranger: Graph) -> None:
    sizes = measure(stranger, kernels.exact(), [])
    assert sizes == CodedSizes()
    assert sizes.known(codec.RAW)
    assert not sizes.known(codec.RANGE)


def test_each_counted_tensor_is_predicted_from_the_others_within_a_third() -> None:
    times = codecs.times()
    assert times.mean_error < 0.13
    assert times.worst_error < 0.32
    assert times.decode < times.encode


def test_coding_takes_time_with_a_codec_only() -> None:
    assert codecs.encode_us(1000, codec.RAW) == codecs.decode_us(1000, codec.RAW) == 0
    # 367 instructions a byte at 1.17 cycles and 240 MHz.
    assert codecs.encode_us(1000, codec.RANGE) == pytest.approx(1781, rel=0.01)
    assert codecs.encode_us(2000, codec.RANGE) == 2 * codecs.encode_us(1000, codec.RANGE)
