"""Which Keras layer is which tensor: by structure and values, never by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from partitioner import layers, quantize
from partitioner.catalogue import Catalogue, LayerNameError
from partitioner.graph import Graph
from partitioner.layers import Layer, LayerError
from partitioner.source import Source


def convert(model: Any, seed: int = 0, count: int = 40) -> tuple[Graph, dict[str, Layer]]:
    rng = np.random.default_rng(seed)
    data = [
        rng.uniform(-1, 1, (count, *shape[1:])).astype(np.float32)
        for shape in quantize.input_shapes(model)
    ]
    graph = Graph(quantize.to_int8(model, data))
    found = layers.match(model, graph, [d[:4] for d in data])
    return graph, {layer.name: layer for layer in found}


def producer(graph: Graph, layer: Layer) -> tuple[int, str]:
    assert layer.tensor is not None
    operator = graph.operators[graph.producer[layer.tensor]]
    return operator.index, operator.kind


def test_mobilenet_layers_with_tensors_are_the_expected_ones(digits_source: Source) -> None:
    assert digits_source.layers is not None
    with_tensor = [layer.name for layer in digits_source.layers if layer.tensor is not None]
    fused = [layer.name for layer in digits_source.layers if layer.tensor is None]
    assert len(with_tensor) == 65  # Input, 35 ReLU6, 17 projections, 10 Adds, pooling, predictions.
    assert all(
        name.endswith(("_relu", "_project_BN", "_add"))
        or name in ("input_layer", "global_average_pooling2d", "predictions")
        for name in with_tensor
    )
    assert {"Conv1", "bn_Conv1", "block_1_pad", "block_16_project", "Conv_1_bn"} <= set(fused)


def test_each_mobilenet_layer_is_in_place_by_shape_and_order(digits_source: Source) -> None:
    graph, found = digits_source.graph, digits_source.layers
    assert found is not None
    positions = []
    for layer in found[1:]:
        if layer.tensor is not None:
            assert graph.tensors[layer.tensor].shape[1:] == layer.output_shape[1:]
            positions.append(graph.producer[layer.tensor])
    assert positions == sorted(positions)
    kinds = {layer.name: producer(graph, layer)[1] for layer in found[1:] if layer.tensor}
    assert kinds["block_2_add"] == "ADD"
    assert kinds["block_2_depthwise_relu"] == "DEPTHWISE_CONV_2D"
    assert kinds["block_16_project_BN"] == "CONV_2D"


def test_fused_layers_name_the_layer_that_stands_for_them(digits_source: Source) -> None:
    by_name = {layer.name: layer for layer in digits_source.layers or ()}
    assert by_name["block_16_project"].stand_in == "block_16_project_BN"
    assert by_name["block_1_pad"].stand_in == "block_1_depthwise_relu"
    assert by_name["Conv1"].stand_in == "Conv1_relu"


def test_auto_named_branches_and_two_outputs(keras: Any) -> None:
    keras.utils.set_random_seed(1)
    k = keras.layers
    inputs = keras.Input((12, 12, 3))
    x = k.Conv2D(8, 3, padding="same", activation="relu")(inputs)
    left_layer, right_layer = (k.Conv2D(8, 1, activation="relu") for _ in range(2))
    left, right = left_layer(x), right_layer(x)  # Of the same shape.
    joined = k.Concatenate()([right, left])
    pooled = k.GlobalAveragePooling2D()(joined)
    model = keras.Model(inputs, [k.Dense(5)(pooled), k.Dense(3)(k.Flatten()(left))])
    graph, found = convert(model)
    left_index = producer(graph, found[left_layer.name])[0]
    right_index = producer(graph, found[right_layer.name])[0]
    join = next(op for op in graph.operators if op.kind == "CONCATENATION")
    assert join.inputs == (
        graph.operators[right_index].outputs[0],
        graph.operators[left_index].outputs[0],
    )
    outputs = [found[layer.name].tensor for layer in model.layers if isinstance(layer, k.Dense)]
    assert set(outputs) == set(graph.outputs)
    assert [graph.tensors[i].shape[-1] for i in graph.outputs] == [5, 3]


def test_nested_shared_and_identity_layers(keras: Any) -> None:
    keras.utils.set_random_seed(2)
    k = keras.layers
    inner_in = keras.Input((6, 6, 4))
    inner = keras.Model(
        inner_in, k.Conv2D(4, 3, padding="same", activation="relu", name="conv")(inner_in)
    )
    inner.name = "block"
    shared = k.Conv2D(4, 1, activation="relu", name="shared")
    inputs = keras.Input((6, 6, 4))
    x = inner(inputs)
    x = k.Dropout(0.5, name="drop")(x)
    x = shared(x)
    x = shared(x)
    x = k.Conv2D(4, 1, name="linear")(x)
    x = k.BatchNormalization(name="identity_norm")(x)  # Freshly made: does nothing.
    model = keras.Model(inputs, k.Dense(2, name="out")(k.Flatten(name="flat")(x)))
    graph, found = convert(model)
    assert producer(graph, found["block/conv"])[0] == 0
    assert found["drop"].tensor == found["block/conv"].tensor
    assert producer(graph, found["shared"])[0] == 1
    assert producer(graph, found["shared@2"])[0] == 2
    assert found["linear"].tensor is None
    assert found["linear"].stand_in == "identity_norm"
    assert found["identity_norm"].tensor is not None


@pytest.mark.parametrize("names", [("zebra", "apple"), ("b", "a"), ("x", "x_y"), ("i_9", "i_10")])
def test_inputs_and_outputs_keep_their_order(keras: Any, names: tuple[str, str]) -> None:
    """Whatever they are called: the converter's own order is that of a hash table."""
    keras.utils.set_random_seed(3)
    k = keras.layers
    first, second = keras.Input((5,), name=names[0]), keras.Input((7,), name=names[1])
    joined = k.Concatenate()([k.Dense(4, activation="relu")(first), k.Dense(3)(second)])
    outputs = [k.Dense(n)(joined) for n in (4, 2, 3)]
    graph, found = convert(keras.Model([first, second], outputs))
    assert [graph.tensors[i].shape for i in graph.inputs] == [(1, 5), (1, 7)]
    assert [graph.tensors[i].shape for i in graph.outputs] == [(1, 4), (1, 2), (1, 3)]
    assert [found[name].tensor for name in names] == list(graph.inputs)


def test_sequential_models_are_walked(keras: Any) -> None:
    k = keras.layers
    model = keras.Sequential([keras.Input((8, 8, 1)), k.Conv2D(3, 3), k.ReLU(), k.Flatten()])
    _, found = convert(model)
    assert [layer.kind for layer in found.values() if layer.tensor is not None][1:] == [
        "ReLU",
        "Flatten",
    ]


def test_a_subclassed_model_is_refused_by_name(keras: Any) -> None:
    class Custom(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.dense = keras.layers.Dense(2)

        def call(self, x: Any) -> Any:
            return self.dense(x)

    with pytest.raises(LayerError, match="subclassed"):
        layers.match(Custom(), Graph.__new__(Graph), [])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("block_16_projct_BN", "did you mean block_16_project_BN"),
        (
            "block_16_project",
            "fused into 'block_16_project_BN'.*block_16_depthwise_relu before it, "
            "block_16_project_BN after it",
        ),
        ("Conv1", "fused into 'Conv1_relu'.*nearest legal cuts: Conv1_relu after it"),
        ("input_layer", "is an input.*Conv1_relu after it"),
        ("predictions", "is the output.*#63 before it"),
        ("#64", "is the output"),
        ("#999", "no layer '#999'"),
    ],
)
def test_names_that_cannot_be_cut_at(digits_source: Source, name: str, message: str) -> None:
    catalogue = Catalogue(digits_source.graph, digits_source.layers)
    with pytest.raises(LayerNameError, match=message):
        catalogue.resolve(name)


def test_a_cut_named_twice_is_refused(digits_source: Source) -> None:
    catalogue = Catalogue(digits_source.graph, digits_source.layers)
    with pytest.raises(LayerNameError, match="one and the same cut"):
        catalogue.chain(("block_16_project_BN", "#60"))


def test_cuts_come_in_execution_order_whatever_the_order_given(digits_source: Source) -> None:
    catalogue = Catalogue(digits_source.graph, digits_source.layers)
    names = [name for name, _ in catalogue.chain(("block_13_project_BN", "block_5_add"))]
    assert names == ["block_5_add", "block_13_project_BN"]


def test_a_cut_of_a_tflite_has_a_short_name_that_is_taken(stranger: Graph) -> None:
    """Converters join the names of what they fuse; any one of them will do, if it is the only."""
    catalogue = Catalogue(stranger, None)
    names = {cut.position: catalogue.short_name(cut) for cut in stranger.cuts}
    assert names[1] == "functional_1/conv2d_1/Relu"
    for cut in stranger.cuts:
        assert ";" not in names[cut.position]
        assert catalogue.resolve(names[cut.position])[1] == cut
