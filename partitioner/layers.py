"""Which tensor of the quantized graph is which Keras layer's output.

Names do not survive the conversion, so they are not looked at. The Keras graph
is executed layer by layer in topological order, on a few inputs, and beside it
the quantized graph. A layer's float output is a tensor's if

1. shape: they have as many values per sample, in the same shape or reshaped;
2. structure: going back from either, the first matched tensors met are the same;
3. values: the dequantized tensor is the float output but for quantization.

Once matched, the following layers compute on the dequantized tensor, so errors
do not add up with depth and rule 3 stays sharp. Layers that match nothing are fused
into a later one. When several layers in a row match one tensor (a batch norm that
does nothing, an activation that never clips), the last that computes anything owns it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import ArgumentError, TinysplitError
from partitioner import kernels
from partitioner.graph import Graph

# Layers that hand their input on when a network is not being trained.
PASS_THROUGH = frozenset(
    {
        "ActivityRegularization",
        "AlphaDropout",
        "Dropout",
        "Flatten",
        "GaussianDropout",
        "GaussianNoise",
        "Identity",
        "InputLayer",
        "Reshape",
        "SpatialDropout1D",
        "SpatialDropout2D",
        "SpatialDropout3D",
    }
)

# How far a matched tensor may lie from the float layer, in its own quantization steps or
# relative to its spread, whichever is larger. Activations cost half a step, weights (8 bits
# per channel) up to a few per cent of the spread; a ReLU taken for its input misses by half.
_STEPS = 2.0
_SPREAD = 0.1


class LayerError(TinysplitError):
    """The Keras model cannot be walked, or does not agree with its own conversion."""


class UnknownLayerError(LayerError, ArgumentError):
    """A name that no layer has."""


@dataclass(frozen=True)
class Layer:
    """A Keras layer. `tensor` is its output in the quantized graph, None if it is fused away.

    `stand_in` names the layer whose tensor stands for a fused one: the next in the data flow
    that has one. Layers of nested models are named `outer/inner`; a layer called twice appears
    twice, the second time as `name@2`.
    """

    name: str
    kind: str
    output_shape: tuple[int | None, ...]
    tensor: int | None
    stand_in: str | None


@dataclass
class _Value:
    """What flows along an edge of the Keras graph: float samples, and where they come from."""

    samples: Any
    origins: frozenset[int]


@dataclass
class _Call:
    """One execution of one layer."""

    name: str
    kind: str
    output_shape: tuple[int | None, ...]
    inputs: list[_Value]
    outputs: list[_Value]
    tensor: int | None = None
    fused: bool = field(default=False)


def match(model: Any, graph: Graph, samples: Sequence[NDArray[np.float32]]) -> tuple[Layer, ...]:
    """Every layer of a functional or sequential Keras `model`, in execution order.

    Args:
        model: the keras.Model that `graph` was converted from.
        samples: a float32 array (n, ...) for each graph input, n at least 1; a few realistic ones.

    Raises:
        LayerError: a subclassed model, or one whose inputs or outputs `graph` does not have.
    """
    function = _functional(model)
    if function is None:
        raise LayerError(
            "the model is a subclassed keras.Model, whose layers cannot be listed; "
            "build it with the functional API, or give the converted .tflite"
        )
    walker = _Walker(graph, samples)
    walker.run(function, "", walker.input_values(model))
    return walker.layers()


def _functional(model: Any) -> Any:
    """The graph of nodes behind a functional or sequential model; None behind any other."""
    import keras

    if isinstance(model, keras.Sequential):
        if not model.built:
            raise LayerError("the Sequential model has no input shape; give it an Input layer")
        return model._functional
    return model if hasattr(model, "_nodes_by_depth") else None


def check_name(model: Any, name: str) -> None:
    """Refuse early what cannot be the name of a layer; says which ones are close.

    Raises:
        UnknownLayerError: the model has no such layer. Operators (`#N`) and repeated calls
            (`name@2`) pass unchecked.
    """
    known = list(_names(model, ""))
    plain = name.partition("@")[0]
    if name[:1] == "#" or any(k == plain or k.endswith(f"/{plain}") for k in known):
        return
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    raise UnknownLayerError(f"no layer {name!r}{hint} (partition --list shows all)")


def _names(model: Any, prefix: str) -> Iterator[str]:
    for layer in model.layers:
        yield prefix + layer.name
        if hasattr(layer, "_nodes_by_depth") or hasattr(layer, "_functional"):
            yield from _names(layer, f"{prefix}{layer.name}/")


class _Walker:
    def __init__(self, graph: Graph, samples: Sequence[NDArray[np.float32]]) -> None:
        self._graph = graph
        self._samples = samples
        self._claimed: set[int] = set(graph.inputs)
        self._quantized = self._run_quantized()
        self._calls: list[_Call] = []
        self._names: dict[str, int] = {}

    def _run_quantized(self) -> dict[int, NDArray[np.float32]]:
        """The dequantized values (n, ...) of every activation for the samples."""
        graph = self._graph
        interpreter = kernels.LiteRtReference().load(graph.data, keep_tensors=True)
        wanted = [*graph.inputs, *(i for op in graph.operators for i in op.outputs)]
        found: dict[int, list[NDArray[np.float32]]] = {i: [] for i in wanted}
        for n in range(len(self._samples[0])):
            inputs = []
            for index, values in zip(graph.inputs, self._samples, strict=True):
                tensor = graph.tensors[index]
                one = values[n : n + 1].reshape(tensor.shape)
                if tensor.scale is None or tensor.zero_point is None:
                    inputs.append(one.astype(tensor.dtype))
                else:
                    inputs.append(
                        kernels.quantize(one, tensor.scale, tensor.zero_point, tensor.dtype)
                    )
            interpreter.run(inputs)
            for index in wanted:
                tensor = graph.tensors[index]
                value = interpreter.tensor(index)
                found[index].append(kernels.dequantize(value, tensor.scale, tensor.zero_point))
        return {i: np.stack(values) for i, values in found.items()}

    def input_values(self, model: Any) -> list[_Value]:
        if len(model.inputs) != len(self._graph.inputs):
            raise LayerError(
                f"the Keras model has {len(model.inputs)} inputs, its conversion "
                f"{len(self._graph.inputs)}"
            )
        return [
            _Value(
                self._as_layer_output(index, (len(samples), *tensor.shape[1:])), frozenset([index])
            )
            for index, samples, tensor in zip(
                self._graph.inputs, self._samples, model.inputs, strict=True
            )
        ]

    def _as_layer_output(self, tensor: int, shape: tuple[int, ...]) -> Any:
        import keras

        return keras.ops.convert_to_tensor(self._quantized[tensor].reshape(shape))

    def run(self, function: Any, prefix: str, inputs: list[_Value]) -> list[_Value]:
        """Execute a functional graph on `inputs`; returns its outputs."""
        import keras

        values = {id(t): v for t, v in zip(function.inputs, inputs, strict=True)}
        for tensor, value in zip(function.inputs, inputs, strict=True):
            if not prefix:
                name = self._unique(tensor._keras_history.operation.name)
                self._calls.append(
                    _Call(name, "InputLayer", tuple(tensor.shape), [], [value], min(value.origins))
                )
        for depth in sorted(function._nodes_by_depth, reverse=True):
            for node in function._nodes_by_depth[depth]:
                if node.is_input or any(id(t) not in values for t in node.input_tensors):
                    continue
                layer = node.operation
                sources = [values[id(t)] for t in node.input_tensors]
                inner = _functional(layer) if isinstance(layer, keras.Model) else None
                if inner is not None:
                    outputs = self.run(inner, f"{prefix}{layer.name}/", sources)
                else:
                    outputs = self._execute(node, prefix, sources, values)
                for tensor, value in zip(node.output_tensors, outputs, strict=True):
                    values[id(tensor)] = value
        return [values[id(t)] for t in function.outputs]

    def _execute(
        self, node: Any, prefix: str, sources: list[_Value], values: dict[int, _Value]
    ) -> list[_Value]:
        import keras

        layer = node.operation
        arguments, keywords = node.arguments.fill_in({i: v.samples for i, v in values.items()})
        produced = keras.tree.flatten(layer(*arguments, **keywords))
        origins = frozenset().union(*(s.origins for s in sources))
        outputs = [_Value(samples, origins) for samples in produced]
        call = _Call(
            self._unique(prefix + layer.name),
            type(layer).__name__,
            tuple(node.output_tensors[0].shape),
            sources,
            outputs,
        )
        self._calls.append(call)
        for output in outputs:
            tensor = self._find(output)
            if tensor is None:
                continue
            self._claimed.add(tensor)
            output.samples = self._as_layer_output(tensor, tuple(output.samples.shape))
            output.origins = frozenset([tensor])
            if call.tensor is None:
                call.tensor = tensor
        return outputs

    def _unique(self, name: str) -> str:
        count = self._names[name] = self._names.get(name, 0) + 1
        return name if count == 1 else f"{name}@{count}"

    def _find(self, value: _Value) -> int | None:
        """The tensor that holds `value`: of the same shape rather than reshaped, and an unclaimed
        one (the closest, if several) rather than the one `value` was computed from."""
        wanted = np.asarray(value.samples, np.float32)
        unclaimed = [
            index
            for operator in self._graph.operators
            for index in operator.outputs
            if index not in self._claimed
            and self._quantized[index].size == wanted.size
            and self._claimed_ancestors(index) == value.origins
        ]
        origin = [
            index
            for index in value.origins
            if len(value.origins) == 1 and self._quantized[index].size == wanted.size
        ]
        for reshaped in (False, True):
            for candidates in (unclaimed, origin):
                close = [
                    (self._distance(wanted, index), index)
                    for index in candidates
                    if (self._graph.tensors[index].shape[1:] != wanted.shape[1:]) == reshaped
                ]
                if close and min(close)[0] <= 1:
                    return min(close)[1]
        return None

    def _distance(self, wanted: NDArray[np.float32], index: int) -> float:
        """Root mean square difference, 1 at the largest that passes for quantization."""
        found = self._quantized[index]
        difference = found.reshape(-1) - wanted.reshape(-1)
        error = float(np.sqrt(np.mean(np.square(difference, dtype=np.float64))))
        step = self._graph.tensors[index].scale or 0.5
        return error / max(_STEPS * step, _SPREAD * float(wanted.std()))

    def _claimed_ancestors(self, index: int) -> frozenset[int]:
        """The claimed tensors first met on the way back from an unclaimed one."""
        met: set[int] = set()
        pending, seen = [index], {index}
        while pending:
            producer = self._graph.producer.get(pending.pop())
            if producer is None:
                continue
            for source in self._graph.operators[producer].inputs:
                if source in self._claimed:
                    met.add(source)
                elif source not in seen:
                    seen.add(source)
                    pending.append(source)
        return frozenset(met)

    def layers(self) -> tuple[Layer, ...]:
        owners: dict[int, int] = {}
        for position, call in enumerate(self._calls):
            if call.tensor is not None and (
                call.tensor not in owners or call.kind not in PASS_THROUGH
            ):
                owners[call.tensor] = position
        for position, call in enumerate(self._calls):
            if call.tensor is not None and position < owners[call.tensor]:
                call.tensor = None
        return tuple(
            Layer(c.name, c.kind, c.output_shape, c.tensor, self._stand_in(i))
            for i, c in enumerate(self._calls)
        )

    def _stand_in(self, position: int) -> str | None:
        """The first layer downstream of a fused one that has a tensor."""
        if self._calls[position].tensor is not None:
            return None
        reached = {id(value) for value in self._calls[position].outputs}
        for call in self._calls[position + 1 :]:
            if any(id(value) in reached for value in call.inputs):
                if call.tensor is not None:
                    return call.name
                reached.update(id(value) for value in call.outputs)
        return None
