"""A Keras model as a full-int8 .tflite file. Needs TensorFlow (extra `convert`)."""

from __future__ import annotations

import importlib.util
import os
import re
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import TinysplitError
from partitioner import tflite
from partitioner.native_output import captured


class QuantizeError(TinysplitError):
    """The model cannot be read, or TensorFlow cannot convert it to full int8."""


def require_tensorflow() -> None:
    """Import TensorFlow quietly.

    Raises:
        QuantizeError: it is not installed.
    """
    if importlib.util.find_spec("tensorflow") is None:
        raise QuantizeError(
            "converting a Keras model needs TensorFlow: install tinysplit's extra `convert` "
            "(in its checkout: pip install '.[convert]'), or give an int8 .tflite with --model"
        )
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with captured(2):
        import tensorflow as tf

        tf.get_logger().setLevel("ERROR")
        import absl.logging

        absl.logging.set_verbosity(absl.logging.ERROR)


def load_keras(path: Path) -> Any:
    """The model in a .keras file, without running code that the file might carry.

    Raises:
        QuantizeError: unreadable, or with dynamic dimensions other than the batch.
    """
    require_tensorflow()
    import keras

    if not zipfile.is_zipfile(path):
        raise QuantizeError(f"{path} is no .keras file (those are zip archives); save it again")
    try:
        with captured(2):
            model = keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises as many kinds as there are ways to be wrong.
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        vague = ("Exception encountered", "Could not locate", "Could not deserialize")
        telling = (
            [line for line in lines if not line.startswith(vague)] or lines or ["no reason given"]
        )
        raise QuantizeError(
            f"{path} cannot be read as a Keras model: {telling[0][:300]}"
        ) from error
    return model


def input_shapes(model: Any) -> list[tuple[int, ...]]:
    """The shape of each input of a Keras model with a batch of one.

    Raises:
        QuantizeError: a dimension other than the batch is not fixed.
    """
    shapes = []
    for tensor in model.inputs or []:
        shape = tuple(tensor.shape)
        if any(size is None for size in shape[1:]) or shape[0] not in (None, 1):
            raise QuantizeError(
                f"input {tensor.name!r} has the dynamic shape {shape}; fix every dimension but "
                "the batch, and leave that open or 1"
            )
        shapes.append((1, *shape[1:]))
    if not shapes:
        raise QuantizeError("the Keras model has no fixed inputs; build it with an Input layer")
    return shapes


def input_names(model: Any) -> list[str]:
    """The name of each input of a Keras model, as far as letters, digits and _ go."""
    return [re.sub(r"\W", "_", tensor.name) for tensor in model.inputs]


def _refuse_loops(model: Any) -> None:
    """TensorFlow's calibrator crashes on the loops that rolled recurrent layers become."""
    import keras

    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.RNN) and not layer.unroll:
            raise QuantizeError(
                f"layer {layer.name!r} is a recurrent layer with a loop, which cannot be "
                "calibrated; build it with unroll=True"
            )


def to_int8(model: Any, calibration: Sequence[NDArray[np.float32]]) -> bytes:
    """Post-training full-int8 quantization: int8 in and out, weights per channel.

    Args:
        model: a keras.Model with inputs of fixed shape.
        calibration: a float32 array (n, ...) for each input of the model, in its order.

    Raises:
        QuantizeError: TensorFlow cannot convert the model; the message has its reason.
    """
    import keras
    import tensorflow as tf

    shapes = input_shapes(model)
    _refuse_loops(model)
    names = [f"input_{i:03}_{name}" for i, name in enumerate(input_names(model))]
    signature = [
        tf.TensorSpec(shape, tf.float32, name=name)
        for shape, name in zip(shapes, names, strict=True)
    ]

    def serve(*inputs: Any) -> dict[str, Any]:
        structured: Any = inputs[0]
        if not isinstance(model, keras.Sequential):
            structured = keras.tree.pack_sequence_as(model.input, list(inputs))
        outputs = keras.tree.flatten(model(structured, training=False))
        return {f"output_{i:03}": output for i, output in enumerate(outputs)}

    def batches() -> Iterator[dict[str, NDArray[np.float32]]]:
        for row in zip(*calibration, strict=True):
            yield {
                name: value.reshape(shape)
                for name, value, shape in zip(names, row, shapes, strict=True)
            }

    failure: Exception | None = None
    with (
        tempfile.TemporaryDirectory() as folder,
        captured() as printed,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # TensorFlow warns of its own deprecations.
        try:
            archive = keras.export.ExportArchive()
            archive.track(model)
            archive.add_endpoint("serve", serve, input_signature=signature)
            archive.write_out(folder, verbose=False)
            converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["serve"])
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = batches
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = tf.int8
            converter.inference_output_type = tf.int8
            data: bytes = converter.convert()
        except Exception as error:  # The converter raises its C++ failures as several kinds.
            failure = error
    if failure is not None:
        lines = [s for s in f"{failure}\n{printed.text}".splitlines() if "error" in s.lower()]
        reason = (lines or str(failure).splitlines() or [type(failure).__name__])[0].strip()
        raise QuantizeError(f"TensorFlow cannot convert the model to int8: {reason}") from failure
    return _in_order(data)


def _in_order(data: bytes) -> bytes:
    """A converted model with its inputs and outputs in the Keras model's order.

    The converter has them in the order of a hash table; the signature, whose names begin with
    their number, says which is which.
    """
    model = tflite.read(data)
    (signature,) = model.signatureDefs
    graph = model.subgraphs[0]
    inputs, outputs = (
        [t.tensorIndex for t in sorted(side, key=lambda t: tflite.text(t.name))]
        for side in (signature.inputs, signature.outputs)
    )
    if inputs == [*graph.inputs] and outputs == [*graph.outputs]:
        return data
    graph.inputs, graph.outputs = inputs, outputs
    return tflite.rewrite(model)
