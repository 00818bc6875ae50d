"""Make stranger.tflite: a small int8 network by another toolchain than TensorFlow's converter.

    pip install tensorflow-cpu && python make_stranger.py float stranger_float.tflite
    pip install ai-edge-quantizer && python make_stranger.py int8 stranger_float.tflite

The second command needs an environment with ai-edge-quantizer 0.10 (which brings its own
LiteRT); it writes stranger.tflite. The network has a residual block, a concatenation of two
branches and a depthwise layer of stride 2; its weights are random with a fixed seed.
"""

import sys
from pathlib import Path

import numpy as np

SHAPE = (24, 24, 3)


def write_float(path: Path) -> None:
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(3)
    inputs = keras.Input(SHAPE)
    x = keras.layers.Conv2D(8, 3, 2, "same", activation="relu")(inputs)
    y = keras.layers.DepthwiseConv2D(3, 1, "same", activation="relu6")(x)
    x = keras.layers.Add()([x, y])
    a = keras.layers.Conv2D(8, 1, activation="relu")(x)
    b = keras.layers.MaxPooling2D(3, 1, "same")(x)
    x = keras.layers.Concatenate()([a, b])
    x = keras.layers.DepthwiseConv2D(3, 2, "same")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dense(5)(x)
    x = keras.layers.Softmax()(x)
    model = keras.Model(inputs, x)
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    path.write_bytes(converter.convert())


def write_int8(path: Path) -> None:
    from ai_edge_quantizer import quantizer, recipe

    rng = np.random.default_rng(0)
    tool = quantizer.Quantizer(str(path), recipe.static_wi8_ai8())
    signature = "serving_default"
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(str(path)).get_signature_runner(signature)
    (name,) = runner.get_input_details()
    data = {
        signature: [{name: rng.uniform(-1, 1, (1, *SHAPE)).astype(np.float32)} for _ in range(32)]
    }
    result = tool.quantize(tool.calibrate(data))
    result.export_model("stranger.tflite", overwrite=True)


if __name__ == "__main__":
    {"float": write_float, "int8": write_int8}[sys.argv[1]](Path(sys.argv[2]))
