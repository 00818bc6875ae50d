"""Cutting the flatbuffer: a range of operators becomes a .tflite file of its own.

Every tensor keeps its name, shape and quantization, every constant its bytes;
only indices change. A stage holds nothing it does not use. Tensors that merely
travel past a stage are not in its file: the manifest routes them around it.
"""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass
from typing import Any

from ai_edge_litert import schema_py_generated as schema

from partitioner import tflite
from partitioner.graph import Graph
from partitioner.tflite import AlignedBuffer


@dataclass(frozen=True)
class Stage:
    """One piece of a cut network.

    `inputs` and `outputs` are tensor indices of the uncut graph in the order in which the
    stage's own file has them. `received` and `sent` are the tensors that reach and leave the
    node that runs the stage; those in `sent` but not in `outputs` are passed on as received.
    """

    start: int
    stop: int
    received: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    sent: tuple[int, ...]
    data: bytes


def split(graph: Graph, positions: tuple[int, ...]) -> tuple[Stage, ...]:
    """The stages between consecutive cuts; `positions` are of legal cuts, ascending."""
    edges = (0, *positions, len(graph.operators))
    stages = []
    for start, stop in itertools.pairwise(edges):
        received = graph.crossing(start) if start else graph.inputs
        last = stop == len(graph.operators)
        sent = graph.outputs if last else graph.crossing(stop)
        operators = graph.operators[start:stop]
        used = {tensor for op in operators for tensor in op.inputs}
        made = {tensor for op in operators for tensor in op.outputs}
        inputs = tuple(dict.fromkeys(t for t in received if t in used))
        outputs = tuple(dict.fromkeys(t for t in sent if t in made))
        data = extract(graph, start, stop, inputs, outputs)
        stages.append(Stage(start, stop, received, inputs, outputs, sent, data))
    return tuple(stages)


def extract(
    graph: Graph, start: int, stop: int, inputs: tuple[int, ...], outputs: tuple[int, ...]
) -> bytes:
    """Operators `start` to `stop` of `graph` as a .tflite file with these inputs and outputs."""
    source = graph.model.subgraphs[0]
    operators = [copy.copy(operator) for operator in source.operators[start:stop]]

    kept: dict[int, int] = {}
    for index in inputs:
        kept.setdefault(index, len(kept))
    for operator in operators:
        for vector in (operator.inputs, operator.outputs, operator.intermediates):
            for index in tflite.indices(vector):
                if index != -1:
                    kept.setdefault(index, len(kept))

    buffers = [AlignedBuffer()]  # Buffer 0 is empty by convention: tensors without data.
    buffer_of: dict[int, int] = {}
    tensors = []
    for index in kept:
        tensor = copy.copy(source.tensors[index])
        if graph.tensors[index].constant:
            if tensor.buffer not in buffer_of:
                buffer_of[tensor.buffer] = len(buffers)
                data = graph.model.buffers[tensor.buffer].data
                buffers.append(AlignedBuffer(bytes(bytearray(data))))
            tensor.buffer = buffer_of[tensor.buffer]
        else:
            tensor.buffer = 0
        tensor.shapeSignature = None
        tensors.append(tensor)

    codes: dict[int, int] = {}
    for operator in operators:
        operator.opcodeIndex = codes.setdefault(operator.opcodeIndex, len(codes))
        operator.inputs = _renumbered(operator.inputs, kept)
        operator.outputs = _renumbered(operator.outputs, kept)
        operator.intermediates = _renumbered(operator.intermediates, kept)

    subgraph = schema.SubGraphT()
    subgraph.name = "main"
    subgraph.tensors = tensors
    subgraph.operators = operators
    subgraph.inputs = [kept[i] for i in inputs]
    subgraph.outputs = [kept[i] for i in outputs]

    model = schema.ModelT()
    model.version = graph.model.version
    model.description = "tinysplit stage"
    model.operatorCodes = [graph.model.operatorCodes[i] for i in codes]
    model.subgraphs = [subgraph]
    model.buffers = buffers
    return tflite.write(model)


def _renumbered(vector: Any, kept: dict[int, int]) -> list[int] | None:
    if vector is None:
        return None
    return [kept[i] if i != -1 else -1 for i in tflite.indices(vector)]
