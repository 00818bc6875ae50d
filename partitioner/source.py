"""What the user named, opened: a built-in network, a .keras file or an int8 .tflite."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.errors import ArgumentError, TinysplitError
from partitioner import bundle, inputs, layers, quantize
from partitioner.graph import Graph
from partitioner.inputs import Samples
from partitioner.kernels import Array
from partitioner.layers import Layer
from partitioner.tflite import TfliteError

SEED = 0
_MATCH_SAMPLES = 4
_SETTLE_SAMPLES = 16


class SourceError(TinysplitError):
    """No such model, or options that do not go with it."""


class RequestError(SourceError, ArgumentError):
    """A model file that is not there, or options that are not for it."""


@dataclass(frozen=True)
class Request:
    """What the command line asks for; None means not given.

    `layer_names` are only checked, so that a wrong one is refused before the long work.
    """

    model: str = "mobilenet_v2"
    weights: str | None = None
    alpha: float | None = None
    size: int | None = None
    classes: int | None = None
    preprocessing: str | None = None
    calibration: str = "digits"
    calibration_images: int = 100
    resize: bool = False
    layer_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """A quantized network, ready to be listed and cut.

    `layers` is None for a .tflite, whose Keras layers are not known. `keras_model` likewise.
    `identity` and `calibration` are as in the manifest.
    """

    graph: Graph
    layers: tuple[Layer, ...] | None
    keras_model: Any | None
    identity: dict[str, Any]
    calibration: Samples | None

    @property
    def name(self) -> str:
        return str(self.identity["name"])


def open_source(request: Request, report: Callable[[str], None] = lambda _: None) -> Source:
    """Build or read the network, quantize it if it is not, and find its layers.

    Args:
        report: told the name of each step.

    Raises:
        SourceError, WeightsError, QuantizeError, TfliteError, ImageError, InputError: as named.
    """
    path = Path(request.model)
    if path.suffix == ".tflite" or (path.is_file() and path.suffix != ".keras"):
        return _open_tflite(request, path, report)
    return _open_keras(request, path, report)


def _open_tflite(request: Request, path: Path, report: Callable[[str], None]) -> Source:
    _refuse(request, path, ("weights", "alpha", "size", "classes"))
    report("read")
    data = _read(path)
    try:
        graph = Graph(data)
    except TfliteError as error:
        raise TfliteError(f"{path}: {error}") from error
    first = bundle.spec(graph, graph.inputs[0])
    identity = {
        "name": path.stem,
        "source": "tflite",
        "weights": None,
        "weights_sha256": hashlib.sha256(data).hexdigest(),
        "preprocessing": request.preprocessing or inputs.infer_preprocessing(first),
        "class_names": None,
    }
    return Source(graph, None, None, identity, None)


def _open_keras(request: Request, path: Path, report: Callable[[str], None]) -> Source:
    from models import weights

    if path.suffix == ".keras":
        _refuse(request, path, ("weights", "alpha", "size", "classes"))
        _read(path)
    else:
        weights.checked(
            request.model, request.weights, request.alpha, request.size, request.classes
        )
    report("import TensorFlow")
    quantize.require_tensorflow()
    report("model")
    if path.suffix == ".keras":
        model = quantize.load_keras(path)
        name, given, kind = path.stem, None, "keras"
        network = None
        preprocessing = request.preprocessing
    else:
        network = weights.network(
            request.model,
            weights=request.weights,
            alpha=request.alpha,
            size=request.size,
            classes=request.classes,
        )
        model, name, given, kind = network.model, network.name, network.weights, "builtin"
        preprocessing = request.preprocessing or network.preprocessing
    shapes = quantize.input_shapes(model)
    for layer_name in request.layer_names:
        layers.check_name(model, layer_name)
    report("calibration")
    samples = inputs.gather(
        request.calibration,
        shapes,
        preprocessing,
        names=quantize.input_names(model),
        count=request.calibration_images,
        seed=SEED,
        resize=request.resize,
    )
    if network is not None and network.weights == "random":
        network = weights.settle_batch_norm(network, samples.arrays[0][:_SETTLE_SAMPLES])
    identity = {
        "name": name,
        "source": kind,
        "weights": given,
        "weights_sha256": network.weights_sha256 if network else weights.fingerprint(model),
        "preprocessing": preprocessing,
        "class_names": list(network.class_names) if network and network.class_names else None,
    }
    report("quantize")
    graph = Graph(quantize.to_int8(model, samples.arrays))
    report("layers")
    few = [array[:_MATCH_SAMPLES] for array in samples.arrays]
    return Source(graph, layers.match(model, graph, few), model, identity, samples)


def _refuse(request: Request, path: Path, names: Sequence[str]) -> None:
    for name in names:
        if getattr(request, name) is not None:
            raise RequestError(f"--{name} is for built-in networks; {path} brings its own")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise RequestError(f"there is no file {path}") from error
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}") from error


def realistic(source: Source, request: Request, count: int, notes: list[str]) -> list[list[Array]]:
    """Up to `count` sets of inputs made from real images; a note says why if there are none.

    Raises:
        ImageError, InputError: the calibration that was asked for cannot be had.
    """
    specs = [bundle.spec(source.graph, index) for index in source.graph.inputs]
    samples = source.calibration
    if samples is None:
        try:
            samples = inputs.gather(
                request.calibration,
                [spec.shape for spec in specs],
                source.identity["preprocessing"],
                names=[spec.name for spec in specs],
                count=count,
                seed=SEED,
                resize=request.resize,
            )
        except TinysplitError as error:
            if request.calibration != "digits":
                raise
            notes.append(f"no real images: {error}")
            return []
    return inputs.quantized([array[:count] for array in samples.arrays], specs)
