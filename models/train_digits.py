"""Train the model that ships: MobileNetV2, alpha 0.35, 96x96x3, on handwritten digits.

    python -m models.train_digits [--epochs 18] [--output models/data]

writes the weights and, beside them, a JSON record of seed, split, recipe and
accuracy, in float and quantized to int8. About four minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models import digits
from models.build import mobilenet_v2
from models.preprocess import to_float
from models.weights import DIGITS_RECORD, DIGITS_WEIGHTS

SEED = 7
EPOCHS = 18
BATCH = 64
LEARNING_RATE = 2e-3
MAX_SHIFT_PX = 8
BATCH_NORM_MOMENTUM = 0.9  # Keras's 0.999 needs more steps than 18 short epochs have.
ALPHA, SIZE = 0.35, 96


def shifted(images: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Each image moved by up to MAX_SHIFT_PX pixels in x and y; what is uncovered is black."""
    out = np.full_like(images, -1.0)
    for target, image in zip(out, images, strict=True):
        dy, dx = rng.integers(-MAX_SHIFT_PX, MAX_SHIFT_PX + 1, 2)
        rows = slice(max(dy, 0), SIZE + min(dy, 0))
        columns = slice(max(dx, 0), SIZE + min(dx, 0))
        target[rows, columns] = image[
            max(-dy, 0) : SIZE + min(-dy, 0), max(-dx, 0) : SIZE + min(-dx, 0)
        ]
    return out


def accuracy_int8(weights: Path) -> float:
    """On the test digits, as `partition` quantizes these weights and tinysplit runs them.

    The one place where models/ asks partitioner/: this script is a user of both.
    """
    from partitioner import inputs, kernels
    from partitioner.bundle import spec
    from partitioner.source import Request, open_source

    graph = open_source(Request(weights=str(weights), alpha=ALPHA, size=SIZE, classes=10)).graph
    test_set = digits.load("test")
    floats = to_float(digits.enlarge(test_set.images, SIZE, SIZE, 3), "tf")
    rows = inputs.quantized([floats], [spec(graph, graph.inputs[0])])
    full = kernels.exact().load(graph.data)
    predicted = [int(np.argmax(full.run(row)[0])) for row in rows]
    return float(np.mean(np.array(predicted) == test_set.labels))


def train(epochs: int, output: Path) -> dict[str, Any]:
    import keras

    keras.utils.set_random_seed(SEED)
    rng = np.random.default_rng(SEED)
    train_set, test_set = digits.load("train"), digits.load("test")
    x_train = to_float(digits.enlarge(train_set.images, SIZE, SIZE, 3), "tf")
    x_test = to_float(digits.enlarge(test_set.images, SIZE, SIZE, 3), "tf")

    model = mobilenet_v2(ALPHA, SIZE, classes=10)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = BATCH_NORM_MOMENTUM
    steps = epochs * -(-len(train_set) // BATCH)
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    started = time.monotonic()
    for epoch in range(epochs):
        history = model.fit(
            shifted(x_train, rng),
            train_set.labels,
            batch_size=BATCH,
            initial_epoch=epoch,
            epochs=epoch + 1,
            verbose=2,
        )
    _, test_accuracy = model.evaluate(x_test, test_set.labels, verbose=0)

    output.mkdir(parents=True, exist_ok=True)
    weights = output / DIGITS_WEIGHTS
    plain = mobilenet_v2(ALPHA, SIZE, classes=10)  # Never compiled, so without optimizer state.
    plain.set_weights(model.get_weights())
    plain.save_weights(weights)
    int8_accuracy = accuracy_int8(weights)
    record = {
        "model": {"name": "mobilenet_v2", "alpha": ALPHA, "size": SIZE, "classes": 10},
        "data": "sklearn.datasets.load_digits, enlarged to 96x96x3 (bilinear)",
        "split": {
            "seed": digits.SPLIT_SEED,
            "train": len(train_set),
            "test": len(test_set),
        },
        "recipe": {
            "seed": SEED,
            "epochs": epochs,
            "batch": BATCH,
            "optimizer": f"Adam {LEARNING_RATE}, cosine decay",
            "augmentation": f"shifts of up to {MAX_SHIFT_PX} px",
            "batch_norm_momentum": BATCH_NORM_MOMENTUM,
        },
        "train_accuracy_last_epoch": round(history.history["accuracy"][-1], 4),
        "test_accuracy_float": round(float(test_accuracy), 4),
        "test_accuracy_int8": round(int8_accuracy, 4),
        "seconds": round(time.monotonic() - started),
        "versions": {"python": platform.python_version(), "keras": keras.__version__},
    }
    (output / DIGITS_RECORD).write_text(json.dumps(record, indent=2) + "\n")
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "data")
    arguments = parser.parse_args()
    record = train(arguments.epochs, arguments.output)
    print(
        f"test accuracy: float {record['test_accuracy_float']:.2%}, "
        f"int8 {record['test_accuracy_int8']:.2%}, in {record['seconds']} s"
    )


if __name__ == "__main__":
    main()
