"""The quantized network as this project sees it: tensors, operators in execution order, cuts.

A cut is a position in the execution order: operators before it make the head,
the rest the tail. What crosses is every tensor produced before and still needed
after, in the order in which the tensors come to be.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from partitioner import tflite
from partitioner.tflite import TfliteError

DTYPES: dict[int, np.dtype[Any]] = {
    schema.TensorType.FLOAT32: np.dtype(np.float32),
    schema.TensorType.FLOAT16: np.dtype(np.float16),
    schema.TensorType.FLOAT64: np.dtype(np.float64),
    schema.TensorType.INT8: np.dtype(np.int8),
    schema.TensorType.UINT8: np.dtype(np.uint8),
    schema.TensorType.INT16: np.dtype(np.int16),
    schema.TensorType.UINT16: np.dtype(np.uint16),
    schema.TensorType.INT32: np.dtype(np.int32),
    schema.TensorType.UINT32: np.dtype(np.uint32),
    schema.TensorType.INT64: np.dtype(np.int64),
    schema.TensorType.BOOL: np.dtype(np.bool_),
}


@dataclass(frozen=True)
class Tensor:
    """A tensor of the graph. `scale` and `zero_point` are None unless quantized per tensor."""

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    scale: float | None
    zero_point: int | None
    constant: bool
    variable: bool

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Operator:
    """An operator; `inputs` are the tensors it computes on, constants left out."""

    index: int
    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    macs: int


@dataclass(frozen=True)
class Cut:
    """A legal cut before operator `position`; `tensors` cross it, in manifest order."""

    position: int
    tensors: tuple[int, ...]
    payload_bytes: int


class Graph:
    """A full-int8 network: `data` is the .tflite file, `model` its ModelT.

    Raises:
        TfliteError: unreadable, not full int8, or with dynamic shapes.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.model = tflite.read(data)
        graph = self.model.subgraphs[0]
        self.tensors = tuple(self._tensor(i, t) for i, t in enumerate(graph.tensors))
        self.inputs = tflite.indices(graph.inputs)
        self.outputs = tflite.indices(graph.outputs)
        self.operators = tuple(self._operator(i, o) for i, o in enumerate(graph.operators))
        self._check_order()
        self._check_int8()

    def _tensor(self, index: int, tensor: Any) -> Tensor:
        name = tflite.text(tensor.name) or f"tensor {index}"
        dtype = DTYPES.get(tensor.type)
        if dtype is None:
            kind = tflite.enum_name(schema.TensorType, tensor.type)
            raise TfliteError(f"tensor {name!r} is of type {kind}, which tinysplit cannot carry")
        shape = tflite.indices(tensor.shape)
        data = self.model.buffers[tensor.buffer].data
        constant = data is not None and len(data) > 0
        quantization = tensor.quantization
        scales: Any = None if quantization is None else quantization.scale
        scales = () if scales is None else scales
        per_tensor = len(scales) == 1
        if any(size < 0 for size in shape) or (
            not constant and any(size < 0 for size in tflite.indices(tensor.shapeSignature)[1:])
        ):
            raise TfliteError(
                f"tensor {name!r} has a dynamic shape; convert the model with a fixed input shape"
            )
        built = Tensor(
            index=index,
            name=name,
            shape=shape,
            dtype=dtype,
            scale=float(scales[0]) if per_tensor else None,
            zero_point=int(quantization.zeroPoint[0])
            if per_tensor and quantization.zeroPoint is not None and len(quantization.zeroPoint)
            else (0 if per_tensor else None),
            constant=constant,
            variable=bool(tensor.isVariable),
        )
        self._check_quantization(built)
        if any(size == 0 for size in shape):
            raise TfliteError(f"tensor {name!r} has no values (shape {shape})")
        if constant and len(data) != built.bytes and not tensor.sparsity:
            raise TfliteError(
                f"a damaged .tflite file (constant {name!r} has {len(data)} bytes, "
                f"its shape needs {built.bytes})"
            )
        return built

    @staticmethod
    def _check_quantization(tensor: Tensor) -> None:
        if tensor.scale is None or tensor.zero_point is None:
            return
        in_range = True
        if tensor.dtype.kind in "iu":
            limits = np.iinfo(tensor.dtype)
            in_range = limits.min <= tensor.zero_point <= limits.max
        if not (math.isfinite(tensor.scale) and tensor.scale > 0 and in_range):
            raise TfliteError(
                f"tensor {tensor.name!r} has an impossible quantization (scale {tensor.scale:g}, "
                f"zero point {tensor.zero_point})"
            )

    def _operator(self, index: int, operator: Any) -> Operator:
        kind = tflite.op_kind(self.model, operator)
        every = tuple(i for i in tflite.indices(operator.inputs) if i != -1)
        outputs = tflite.indices(operator.outputs)
        return Operator(
            index=index,
            kind=kind,
            inputs=tuple(i for i in every if not self.tensors[i].constant),
            outputs=outputs,
            macs=_macs(kind, [self.tensors[i] for i in every], [self.tensors[i] for i in outputs]),
        )

    def _check_order(self) -> None:
        made = {*self.inputs, *(t.index for t in self.tensors if t.constant or t.variable)}
        for operator in self.operators:
            if not made.issuperset(operator.inputs):
                raise TfliteError("a damaged .tflite file (operators not in execution order)")
            if made.intersection(operator.outputs):
                raise TfliteError("a damaged .tflite file (a tensor is produced twice)")
            made.update(operator.outputs)
        if not made.issuperset(self.outputs):
            raise TfliteError("a damaged .tflite file (an output that nothing produces)")
        if len(set(self.inputs)) != len(self.inputs):
            raise TfliteError("the model names one of its inputs twice")
        for index in (*self.inputs, *self.outputs):
            if self.tensors[index].constant:
                name = self.tensors[index].name
                raise TfliteError(f"the constant {name!r} is an input or output of the model")

    def _check_int8(self) -> None:
        advice = "quantize it to full int8 (int8 inputs, outputs and activations)"
        activations = [
            self.tensors[i]
            for i in (*self.inputs, *(i for op in self.operators for i in op.outputs))
        ]
        for index in (*self.inputs, *self.outputs):
            if self.tensors[index].dtype.kind == "f":
                weights = any(t.constant and t.dtype == np.int8 for t in self.tensors)
                kind = "quantized only in part (dynamic range or float in and out)"
                raise TfliteError(f"the model is {kind if weights else 'float'}; {advice}")
        if any(t.dtype == np.int16 for t in activations):
            raise TfliteError(f"the model has 16-bit activations (16x8 quantization); {advice}")
        for tensor in activations:
            if tensor.dtype.kind == "f":
                raise TfliteError(
                    f"the model computes in float at {tensor.name!r} (quantized only in part); "
                    f"{advice}"
                )
        if not any(tensor.dtype in (np.int8, np.uint8) for tensor in activations):
            raise TfliteError(f"the model has no int8 activations; {advice}")

    @cached_property
    def producer(self) -> dict[int, int]:
        """Index of the operator that produces a tensor; graph inputs have none."""
        return {tensor: op.index for op in self.operators for tensor in op.outputs}

    @cached_property
    def last_use(self) -> dict[int, int]:
        """Index of the last operator that reads a tensor; past the last one for outputs."""
        uses = {tensor: op.index for op in self.operators for tensor in op.inputs}
        return uses | dict.fromkeys(self.outputs, len(self.operators))

    def crossing(self, position: int) -> tuple[int, ...]:
        """The tensors that exist before operator `position` and are needed from it on."""
        made = dict.fromkeys(self.inputs)
        for operator in self.operators[:position]:
            made.update(dict.fromkeys(operator.outputs))
        return tuple(t for t in made if self.last_use.get(t, -1) >= position)

    @cached_property
    def cuts(self) -> tuple[Cut, ...]:
        """Every legal cut, in execution order. Head and tail have an operator each.

        A cut is illegal where a variable tensor (state kept between inferences) would be needed
        on both sides, or where the head computes nothing the tail needs, or the tail no output.
        """
        found = []
        for position in range(1, len(self.operators)):
            crossing = self.crossing(position)
            head, tail = self._touched(0, position), self._touched(position, None)
            useful = head.intersection(crossing) - {*self.inputs}
            answers = {i for op in self.operators[position:] for i in op.outputs}
            shared_state = any(self.tensors[i].variable for i in head & tail)
            if not useful or not answers.intersection(self.outputs) or shared_state:
                continue
            payload = sum(self.tensors[i].bytes for i in crossing)
            found.append(Cut(position, crossing, payload))
        return tuple(found)

    def _touched(self, start: int, stop: int | None) -> set[int]:
        """Every tensor that operators `start` to `stop` read or write, constants left out."""
        return {i for op in self.operators[start:stop] for i in (*op.inputs, *op.outputs)}

    def macs(self, start: int = 0, stop: int | None = None) -> int:
        """Multiply-accumulates of operators `start` to `stop`."""
        return sum(op.macs for op in self.operators[start:stop])

    def kinds(self, start: int = 0, stop: int | None = None) -> tuple[str, ...]:
        """The kinds of operators in a range, sorted, each once."""
        return tuple(sorted({op.kind for op in self.operators[start:stop]}))


def _macs(kind: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> int:
    """Multiply-accumulates of one operator; 0 for kinds that do not multiply matrices."""
    if not outputs or len(inputs) < 2:
        return 0
    produced = math.prod(outputs[0].shape)
    weights = inputs[1].shape
    if kind == "CONV_2D" and len(weights) == 4:  # OHWI; I is per group.
        return produced * math.prod(weights[1:])
    if kind == "DEPTHWISE_CONV_2D" and len(weights) == 4:  # 1HWO
        return produced * weights[1] * weights[2]
    if kind == "FULLY_CONNECTED" and weights:  # OI
        return produced * weights[-1]
    if kind == "TRANSPOSE_CONV" and len(weights) == 4 and len(inputs) > 2:  # OHWI
        return math.prod(inputs[2].shape) * math.prod(weights[:3])
    if kind == "BATCH_MATMUL" and inputs[0].shape:
        return produced * inputs[0].shape[-1]
    return 0
