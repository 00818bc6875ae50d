"""Reading and writing .tflite files: bytes to LiteRT's schema objects and back.

Nothing about networks is known here, only the file format. What is read is
checked so far that the rest of the code can index without fear.
"""

from __future__ import annotations

from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from models.errors import TinysplitError

IDENTIFIER = b"TFL3"
_MAX_RANK = 8
ALIGNMENT = 16  # schema.fbs: `data:[ubyte] (force_align: 16)`; the Python writer ignores it.


class TfliteError(TinysplitError):
    """Not a .tflite file, a damaged one, or one tinysplit cannot work with."""


class AlignedBuffer(schema.BufferT):  # type: ignore[misc]
    """A BufferT whose data starts at a multiple of ALIGNMENT from the start of the file."""

    def __init__(self, data: bytes | None = None) -> None:
        super().__init__()
        self.data = data

    def Pack(self, builder: flatbuffers.Builder) -> int:
        """Called by ModelT.Pack; returns the table's offset."""
        vector = None
        if self.data is not None:
            vector = _aligned_vector(builder, self.data)
        schema.BufferStart(builder)
        if vector is not None:
            schema.BufferAddData(builder, vector)
        return int(schema.BufferEnd(builder))


def _aligned_vector(builder: flatbuffers.Builder, data: bytes) -> int:
    builder.StartVector(1, len(data), ALIGNMENT)
    builder.head = builder.Head() - len(data)
    builder.Bytes[builder.Head() : builder.Head() + len(data)] = data
    return int(builder.EndVector())


def read(data: bytes) -> Any:
    """The ModelT in `data`, every index in it within range.

    Raises:
        TfliteError: not a .tflite file, or a damaged or unsupported one.
    """
    if len(data) < 8 or data[4:8] != IDENTIFIER:
        raise TfliteError("not a .tflite file (no TFL3 mark at byte 4)")
    try:
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
    except Exception as error:  # The generated reader raises whatever the bytes lead it to.
        raise TfliteError(
            f"a damaged or truncated .tflite file ({type(error).__name__} while reading it)"
        ) from error
    _check_indices(model)
    return model


def write(model: Any) -> bytes:
    """`model` (a ModelT whose buffers are AlignedBuffers) as the bytes of a .tflite file."""
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
    return bytes(builder.Output())


def rewrite(model: Any) -> bytes:
    """A model that `read` returned, changed by the caller, as the bytes of a .tflite file."""
    model.buffers = [
        AlignedBuffer(None if buffer.data is None else bytes(bytearray(buffer.data)))
        for buffer in model.buffers
    ]
    return write(model)


def text(name: Any) -> str:
    """A string of the schema, which comes as bytes, str or None; control characters as ?."""
    decoded = name.decode("utf-8", "replace") if isinstance(name, bytes) else f"{name or ''}"
    return "".join(c if c.isprintable() else "?" for c in decoded)


def indices(vector: Any) -> tuple[int, ...]:
    """An integer vector of the schema, which comes as array, list or None."""
    return () if vector is None else tuple(int(i) for i in vector)


_ENUM_NAMES: dict[type, dict[int, str]] = {
    enum: {value: name for name, value in vars(enum).items() if not name.startswith("_")}
    for enum in (schema.BuiltinOperator, schema.TensorType, schema.ActivationFunctionType)
}


def enum_name(enum: type, value: int) -> str:
    """The schema's name for `value`, or a number in words for one it does not know."""
    return _ENUM_NAMES[enum].get(value, f"{enum.__name__} {value}")


def op_kind(model: Any, operator: Any) -> str:
    """The builtin operator's name, or a custom operator's own name."""
    code = model.operatorCodes[operator.opcodeIndex]
    builtin = max(code.builtinCode, code.deprecatedBuiltinCode)
    if builtin == schema.BuiltinOperator.CUSTOM:
        return f"custom operator {text(code.customCode)!r}"
    return enum_name(schema.BuiltinOperator, builtin)


def _check_indices(model: Any) -> None:
    def within(values: tuple[int, ...], limit: int, what: str) -> None:
        if any(not 0 <= value < limit for value in values):
            raise TfliteError(f"a damaged .tflite file ({what} out of range)")

    if not model.subgraphs or not model.buffers:
        raise TfliteError("a .tflite file without a graph")
    if len(model.subgraphs) > 1:
        raise TfliteError(
            f"the model has {len(model.subgraphs)} subgraphs (control flow); "
            "tinysplit cuts models of one graph"
        )
    if any(getattr(buffer, "offset", 0) for buffer in model.buffers):
        raise TfliteError(
            "the model keeps its buffers outside the flatbuffer, which TensorFlow Lite Micro "
            "cannot load; convert it again without that option"
        )
    graph = model.subgraphs[0]
    tensors = graph.tensors or []
    if any(t.shape is not None and len(t.shape) > _MAX_RANK for t in tensors):
        raise TfliteError(f"a damaged .tflite file (a tensor of more than {_MAX_RANK} dimensions)")
    for tensor in tensors:
        within((tensor.buffer,), len(model.buffers), "a buffer index")
        if tensor.shape is None:
            tensor.shape = np.zeros(0, np.int32)
    within(indices(graph.inputs) + indices(graph.outputs), len(tensors), "a graph input or output")
    if not graph.operators or not indices(graph.inputs) or not indices(graph.outputs):
        raise TfliteError("a .tflite file whose graph has no operators, inputs or outputs")
    for operator in graph.operators:
        within((operator.opcodeIndex,), len(model.operatorCodes or []), "an operator code")
        used = tuple(i for i in indices(operator.inputs) if i != -1)
        used += tuple(i for i in indices(operator.intermediates) if i != -1)
        within(used + indices(operator.outputs), len(tensors), "an operator's tensor")
