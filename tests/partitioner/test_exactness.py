"""tail(head(x)) equals full(x), byte for byte, at every legal cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from models import digits, preprocess
from partitioner import inputs, kernels, quantize
from partitioner.bundle import spec
from partitioner.cut import Stage, split
from partitioner.graph import Graph
from partitioner.kernels import Array, Kernels
from partitioner.source import Request, Source, open_source
from tests.conftest import random_inputs


def run_stages(
    graph: Graph, stages: Sequence[Stage], chosen: Kernels, values: Sequence[Array]
) -> list[Array]:
    """The network's outputs by way of the stages, tensors routed by their index."""
    known = dict(zip(graph.inputs, values, strict=True))
    for stage in stages:
        outputs = chosen.load(stage.data).run([known[i] for i in stage.inputs])
        assert set(stage.inputs) <= set(stage.received)
        assert set(stage.sent) <= {*stage.outputs, *stage.received}
        sent = {i: known[i] for i in stage.sent if i not in stage.outputs}
        known = sent | dict(zip(stage.outputs, outputs, strict=True))
    return [known[i] for i in graph.outputs]


def assert_exact(
    graph: Graph,
    positions: tuple[int, ...],
    chosen: Kernels,
    samples: Sequence[Sequence[Array]],
    expected: Sequence[Sequence[Array]],
) -> None:
    stages = split(graph, positions)
    for values, wanted in zip(samples, expected, strict=True):
        found = run_stages(graph, stages, chosen, values)
        for a, b in zip(wanted, found, strict=True):
            assert a.tobytes() == b.tobytes(), positions


def real_and_noise(graph: Graph, count: int = 2) -> list[list[Array]]:
    shape = graph.tensors[graph.inputs[0]].shape
    images = digits.enlarge(digits.load("test").images[:count], *shape[1:])
    floats = preprocess.to_float(images, "tf")
    real = inputs.quantized([floats], [spec(graph, graph.inputs[0])])
    return real + random_inputs(graph, seed=9, count=count)


@pytest.mark.parametrize("chosen", [kernels.Tflm, kernels.LiteRtReference])
def test_mobilenet_at_every_cut(digits_source: Source, chosen: type[Kernels]) -> None:
    graph = digits_source.graph
    samples = real_and_noise(graph)
    full = chosen().load(graph.data)
    expected = [full.run(values) for values in samples]
    assert len(graph.cuts) == 64
    for cut in graph.cuts:
        assert_exact(graph, (cut.position,), chosen(), samples, expected)


@pytest.mark.parametrize("stages", [3, 4, 8])
def test_mobilenet_in_chains(digits_source: Source, stages: int) -> None:
    graph = digits_source.graph
    samples = real_and_noise(graph)
    full = kernels.exact().load(graph.data)
    expected = [full.run(values) for values in samples]
    every = [cut.position for cut in graph.cuts]
    rng = np.random.default_rng(stages)
    for _ in range(5):
        positions = tuple(sorted(rng.choice(every, stages - 1, replace=False).tolist()))
        assert_exact(graph, positions, kernels.exact(), samples, expected)


def test_resnet50_in_each_residual_stage() -> None:
    source = open_source(
        Request(model="resnet50", weights="random", size=64, calibration_images=20)
    )
    graph = source.graph
    assert source.layers is not None
    by_name = {layer.name: layer for layer in source.layers}
    inside = [f"conv{n}_block{b}_2_relu" for n, b in ((2, 2), (3, 4), (4, 6), (5, 3))]
    between = [f"conv{n}_block{b}_out" for n, b in ((2, 3), (3, 2), (4, 1), (5, 1))]
    samples = random_inputs(graph, seed=1, count=1)
    expected = [kernels.exact().load(graph.data).run(values) for values in samples]
    for name in inside + between:
        tensor = by_name[name].tensor
        assert tensor is not None, name
        position = graph.producer[tensor] + 1
        assert len(graph.crossing(position)) == (2 if name in inside else 1), name
        assert_exact(graph, (position,), kernels.exact(), samples, expected)


def test_branches_two_inputs_and_two_outputs_at_every_cut(keras: Any) -> None:
    keras.utils.set_random_seed(4)
    k = keras.layers
    first, second = keras.Input((10, 10, 2)), keras.Input((10, 10, 1))
    a = k.Conv2D(6, 3, padding="same", activation="relu")(first)
    early = k.Dense(4)(k.GlobalAveragePooling2D()(a))  # An output long before the end.
    b = k.Conv2D(6, 3, padding="same")(second)  # An input that is needed late.
    c = k.Add()([k.DepthwiseConv2D(3, padding="same")(a), b])
    d = k.Concatenate()([k.ReLU()(c), a])
    model = keras.Model([first, second], [early, k.Dense(3)(k.Flatten()(k.MaxPooling2D()(d)))])
    rng = np.random.default_rng(0)
    data = [rng.uniform(-1, 1, (40, 10, 10, n)).astype(np.float32) for n in (2, 1)]
    graph = Graph(quantize.to_int8(model, data))
    samples = random_inputs(graph, seed=2)
    full = kernels.exact().load(graph.data)
    expected = [full.run(values) for values in samples]
    assert any(len(cut.tensors) >= 3 for cut in graph.cuts)
    for cut in graph.cuts:
        assert_exact(graph, (cut.position,), kernels.exact(), samples, expected)
    every = tuple(cut.position for cut in graph.cuts)
    assert_exact(graph, every, kernels.exact(), samples, expected)


def test_a_strangers_network_at_every_cut(stranger: Graph) -> None:
    samples = random_inputs(stranger, seed=3)
    full = kernels.exact().load(stranger.data)
    expected = [full.run(values) for values in samples]
    for cut in stranger.cuts:
        assert_exact(stranger, (cut.position,), kernels.exact(), samples, expected)


def test_a_stage_holds_only_what_it_uses(digits_source: Source) -> None:
    graph = digits_source.graph
    weights = sum(t.bytes for t in graph.tensors if t.constant)
    for position in (1, 30, 61):
        stages = [Graph(stage.data) for stage in split(graph, (position,))]
        for stage in stages:
            used = {i for op in stage.model.subgraphs[0].operators for i in op.inputs}
            assert {t.index for t in stage.tensors if t.constant} <= used
            codes = {op.opcodeIndex for op in stage.model.subgraphs[0].operators}
            assert codes == set(range(len(stage.model.operatorCodes)))
        held = sum(t.bytes for stage in stages for t in stage.tensors if t.constant)
        assert weights <= held <= weights + 64  # A shape constant may be needed on both sides.


def test_fast_kernels_differ_and_it_can_be_measured(digits_source: Source) -> None:
    graph = digits_source.graph
    samples = real_and_noise(graph)
    exact, fast = kernels.exact().load(graph.data), kernels.Xnnpack().load(graph.data)
    pairs = [(exact.run(v)[0], fast.run(v)[0]) for v in samples]
    assert any((a != b).any() for a, b in pairs)
    assert all(np.argmax(a) == np.argmax(b) for a, b in pairs[:2])
