"""Conversion: full int8, repeatable, and as accurate as the float model."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from models import digits, preprocess, weights
from models.train_digits import accuracy_int8
from partitioner import inputs, kernels, quantize
from partitioner.bundle import spec
from partitioner.graph import Graph
from partitioner.quantize import QuantizeError
from partitioner.source import Request, Source, open_source
from partitioner.tflite import TfliteError
from tests.conftest import DATA

_HASH = """
import hashlib
from partitioner.source import Request, open_source
print(hashlib.sha256(open_source(Request()).graph.data).hexdigest())
"""


def test_two_conversions_give_identical_bytes(digits_source: Source) -> None:
    again = subprocess.run(
        [sys.executable, "-c", _HASH], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert again == hashlib.sha256(digits_source.graph.data).hexdigest()


def test_weights_are_per_channel_and_everything_is_int8(digits_source: Source) -> None:
    graph = digits_source.graph
    for op in graph.operators:
        assert all(graph.tensors[i].dtype == np.int8 for i in (*op.inputs, *op.outputs))
    tensors = graph.model.subgraphs[0].tensors
    first = graph.model.subgraphs[0].operators[0].inputs[1]
    assert len(tensors[first].quantization.scale) == 16


def test_shipped_model_is_accurate_on_all_held_out_digits(digits_source: Source) -> None:
    test_set = digits.load("test")
    floats = preprocess.to_float(digits.enlarge(test_set.images, 96, 96, 3), "tf")
    in_float = np.argmax(digits_source.keras_model.predict(floats, verbose=0), axis=1)
    recorded = json.loads((weights.DATA / weights.DIGITS_RECORD).read_text())
    in_int8 = accuracy_int8(weights.DATA / weights.DIGITS_WEIGHTS)
    for found, name in (
        (np.mean(in_float == test_set.labels), "test_accuracy_float"),
        (in_int8, "test_accuracy_int8"),
    ):
        assert found == pytest.approx(recorded[name], abs=0.003)
        assert found >= 0.98


def test_the_paper_payload_at_224() -> None:
    source = open_source(Request(weights="random", size=224, calibration_images=4))
    layer = next(la for la in source.layers or () if la.name == "block_16_project_BN")
    assert layer.tensor is not None
    assert source.graph.tensors[layer.tensor].bytes == 5488


def test_random_weights_have_live_activations() -> None:
    """Without settled batch norms TensorFlow Lite Micro aborts on the softmax of such a model."""
    source = open_source(Request(weights="random", size=64, calibration_images=16))
    outputs = kernels.exact().load(source.graph.data)
    noise = np.random.default_rng(0).integers(-128, 128, (1, 64, 64, 3), np.int8)
    assert outputs.run([noise])[0].std() > 0


def _with(keras: Any, model: Any, **settings: Any) -> bytes:
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    for name, value in settings.items():
        setattr(converter, name, value)
    if "target_spec" in settings:
        converter.representative_dataset = lambda: iter(
            [
                [np.random.default_rng(i).uniform(-1, 1, (1, 16, 16, 3)).astype(np.float32)]
                for i in range(8)
            ]
        )
    data: bytes = converter.convert()
    return data


def test_a_float_model_is_refused(keras: Any, small_model: Any) -> None:
    with pytest.raises(TfliteError, match="the model is float; quantize it"):
        Graph(_with(keras, small_model))


def test_a_dynamic_range_model_is_refused(keras: Any, small_model: Any) -> None:
    import tensorflow as tf

    wide = keras.Sequential(
        [keras.Input((16, 16, 3)), keras.layers.Flatten(), keras.layers.Dense(64)]
    )
    data = _with(keras, wide, optimizations=[tf.lite.Optimize.DEFAULT])
    with pytest.raises(TfliteError, match="only in part"):
        Graph(data)


def test_a_16x8_model_is_refused(keras: Any, small_model: Any) -> None:
    import tensorflow as tf

    target = tf.lite.TargetSpec()
    target.supported_ops = [
        tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
    ]
    data = _with(
        keras,
        small_model,
        optimizations=[tf.lite.Optimize.DEFAULT],
        target_spec=target,
        inference_input_type=tf.int16,
        inference_output_type=tf.int16,
    )
    with pytest.raises(TfliteError, match="16x8"):
        Graph(data)


def test_a_dynamic_shape_is_refused(keras: Any) -> None:
    inputs_ = keras.Input((None, None, 3))
    model = keras.Model(inputs_, keras.layers.Conv2D(2, 3)(inputs_))
    with pytest.raises(QuantizeError, match="dynamic shape"):
        quantize.input_shapes(model)


def test_an_operator_tflm_lacks_is_named(keras: Any) -> None:
    from partitioner import arena

    inputs_ = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, activation="relu")(inputs_)
    model = keras.Model(inputs_, keras.ops.tile(x, (1, 2, 1, 1)))
    rng = np.random.default_rng(0)
    data = quantize.to_int8(model, [rng.uniform(-1, 1, (8, 8, 8, 3)).astype(np.float32)])
    with pytest.raises(kernels.KernelError, match="no operator TILE"):
        list(arena.measure([data]))


def test_a_model_that_crashes_tflm_is_an_error_not_a_crash(keras: Any) -> None:
    """A softmax over values of no range makes its Prepare call abort()."""
    from partitioner import arena

    inputs_ = keras.Input((16,))
    x = keras.layers.Dense(4, kernel_initializer=keras.initializers.Constant(1e-9))(inputs_)
    model = keras.Model(inputs_, keras.layers.Softmax()(x))
    data = quantize.to_int8(model, [np.ones((4, 16), np.float32)])
    with pytest.raises(kernels.KernelError, match="crashed on the model"):
        list(arena.measure([data]))


def test_quantize_rounds_half_away_from_zero_and_saturates() -> None:
    values = np.array([0.5, 1.5, -0.5, -1.5, 1000, -1000], np.float32)
    found = kernels.quantize(values, 1.0, 0, np.int8)
    assert found.tolist() == [1, 2, -1, -2, 127, -128]


def test_the_strangers_preprocessing_is_inferred() -> None:
    graph = Graph((DATA / "stranger.tflite").read_bytes())
    assert inputs.infer_preprocessing(spec(graph, graph.inputs[0])) == "tf"
