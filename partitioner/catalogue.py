"""Every layer of a network in order, the cuts among them, and what each cut costs."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

from models.errors import ArgumentError
from partitioner import arena, kernels
from partitioner.cut import split
from partitioner.graph import Cut, Graph
from partitioner.layers import PASS_THROUGH, Layer

DEFAULT_RAM_BYTES = 300 * 1024


class LayerNameError(ArgumentError):
    """A layer that does not exist, or after which no cut is possible."""


@dataclass(frozen=True)
class Row:
    """A layer, or an operator that no layer names.

    `operator` is the position of the operator whose output it is, -1 for inputs, None for a layer
    fused away, for which `stand_in` is the layer to cut at instead. `cut` is None where cutting
    after it is not possible.
    """

    name: str
    kind: str
    output_shape: tuple[int | None, ...]
    operator: int | None
    stand_in: str | None
    cut: Cut | None


@dataclass(frozen=True)
class Cost:
    """What a cut asks of head and tail. Arena is None where TFLM is not installed."""

    head_macs: int
    tail_macs: int
    head_flash_bytes: int
    tail_flash_bytes: int
    head_arena_bytes: int | None
    tail_arena_bytes: int | None


class Catalogue:
    """The rows of a network, in execution order.

    For a .tflite, whose layers are not known, there is a row per operator, named after its
    first output. Operators are always addressable as `#N` too.
    """

    def __init__(self, graph: Graph, layers: tuple[Layer, ...] | None) -> None:
        self.graph = graph
        self._cuts = {cut.position: cut for cut in graph.cuts}
        self.rows = self._from_layers(layers) if layers else self._from_operators()
        self._by_name = {row.name: row for row in self.rows}

    def _row(self, name: str, kind: str, shape: tuple[int | None, ...], operator: int) -> Row:
        return Row(name, kind, shape, operator, None, self._cuts.get(operator + 1))

    def _from_layers(self, layers: tuple[Layer, ...]) -> tuple[Row, ...]:
        named = {layer.tensor for layer in layers if layer.tensor is not None}
        unnamed = [op for op in self.graph.operators if not named.intersection(op.outputs)]
        rows: list[Row] = []
        for layer in layers:
            if layer.tensor is None:
                shape = layer.output_shape
                rows.append(Row(layer.name, layer.kind, shape, None, layer.stand_in, None))
                continue
            operator = self.graph.producer.get(layer.tensor, -1)
            while unnamed and unnamed[0].index < operator:
                op = unnamed.pop(0)
                tensor = self.graph.tensors[op.outputs[0]]
                rows.append(self._row(f"#{op.index}", op.kind, tensor.shape, op.index))
            rows.append(self._row(layer.name, layer.kind, layer.output_shape, operator))
        return tuple(rows)

    def _from_operators(self) -> tuple[Row, ...]:
        rows, taken = [], set()
        for index in self.graph.inputs:
            tensor = self.graph.tensors[index]
            rows.append(Row(tensor.name, "input", tensor.shape, -1, None, None))
            taken.add(tensor.name)
        for op in self.graph.operators:
            tensor = self.graph.tensors[op.outputs[0]]
            ambiguous = tensor.name in taken or tensor.name.startswith("#")
            name = f"#{op.index}" if ambiguous else tensor.name
            taken.add(name)
            rows.append(self._row(name, op.kind, tensor.shape, op.index))
        return tuple(rows)

    def short_name(self, cut: Cut) -> str:
        """A name that `resolve` takes for the cut: its layer's, without what a converter of a
        .tflite joined to it, or `#N`."""
        for row in self.rows:
            if row.cut is not None and row.cut.position == cut.position:
                name = row.name.partition(";")[0]
                if sum(name in other.name.split(";") for other in self.rows) == 1:
                    return name
        return f"#{cut.position - 1}"

    def resolve(self, name: str) -> tuple[str, Cut]:
        """The row's name and the cut after the layer `name` (or operator `#N`).

        Raises:
            LayerNameError: no such layer, a fused one, an input or an output; says what to
                take instead.
        """
        row = self._by_name.get(name)
        if row is None and name[:1] == "#" and name[1:].isdecimal():
            operator = int(name[1:])
            named = [r for r in self.rows if r.operator == operator]
            compute = [r for r in named if r.kind not in PASS_THROUGH] or named
            row = compute[0] if compute else None
        if row is None:
            # One of the names that a converter joined to one.
            parts = [r for r in self.rows if name in r.name.split(";")]
            row = parts[0] if len(parts) == 1 else None
        if row is None:
            # A layer of a nested model by its own name, or the nested model by its last layer.
            inner = [r for r in self.rows if r.name.endswith(f"/{name}")]
            whole = [r for r in self.rows if r.name.startswith(f"{name}/")]
            row = inner[0] if len(inner) == 1 else whole[-1] if whole else None
        if row is None:
            close = difflib.get_close_matches(name, self._by_name, n=3, cutoff=0.4)
            hint = f"; did you mean {' or '.join(close)}?" if close else ""
            raise LayerNameError(f"no layer {name!r}{hint} (partition --list shows all)")
        if row.cut is not None:
            return row.name, row.cut
        if row.operator is None:
            raise LayerNameError(
                f"{row.name!r} is fused into {row.stand_in or 'a later layer'!r} and has no tensor "
                f"of its own; {self._nearest(row)}"
            )
        if row.operator == -1:
            raise LayerNameError(
                f"{row.name!r} is an input: nothing would be left for the head; "
                f"{self._nearest(row)}"
            )
        if row.operator == len(self.graph.operators) - 1:
            raise LayerNameError(
                f"{row.name!r} is the output: nothing would be left for the tail; "
                f"{self._nearest(row)}"
            )
        raise LayerNameError(
            f"no cut is possible after {row.name!r} (it keeps state between inferences); "
            f"{self._nearest(row)}"
        )

    def _nearest(self, row: Row) -> str:
        position = self.rows.index(row)
        before = [r.name for r in self.rows[:position] if r.cut]
        after = [r.name for r in self.rows[position:] if r.cut]
        parts = []
        if before:
            parts.append(f"{before[-1]} before it")
        if after:
            stand_in = self._by_name.get(row.stand_in or "")
            name = stand_in.name if stand_in and stand_in.cut else after[0]
            parts.append(f"{name} after it")
        return (
            f"nearest legal cuts: {', '.join(parts)}" if parts else "the network has no legal cut"
        )

    def _check_chain(self, cuts: list[tuple[str, Cut]]) -> None:
        for number, stage in enumerate(split(self.graph, tuple(cut.position for _, cut in cuts))):
            if not stage.outputs:
                raise LayerNameError(
                    f"stage {number} of this chain would compute nothing that a later one needs; "
                    "leave out one of the cuts"
                )

    def chain(self, names: tuple[str, ...]) -> list[tuple[str, Cut]]:
        """The cuts after these layers, in execution order.

        Raises:
            LayerNameError: as `resolve`, or two of the names mean one cut.
        """
        found: dict[int, tuple[str, Cut]] = {}
        for name in names:
            resolved = self.resolve(name)
            if resolved[1].position in found:
                other = found[resolved[1].position][0]
                raise LayerNameError(f"{name!r} and {other!r} are one and the same cut")
            found[resolved[1].position] = resolved
        cuts = [found[position] for position in sorted(found)]
        self._check_chain(cuts)
        return cuts

    def costs(
        self, report: Callable[[int, int], None] = lambda _done, _total: None
    ) -> dict[int, Cost]:
        """The cost of every legal cut by its position; TFLM itself loads every sub-model.

        Args:
            report: told how many of how many models have been measured.

        Raises:
            KernelError: TensorFlow Lite Micro cannot run the model.
        """
        pairs = {cut.position: split(self.graph, (cut.position,)) for cut in self.graph.cuts}
        models = [stage.data for pair in pairs.values() for stage in pair]
        sizes: list[int | None] = []
        if kernels.available():
            for use in arena.measure([self.graph.data, *models]):
                sizes.append(use.total)
                report(len(sizes) - 1, len(models))
            del sizes[0]
        else:
            sizes = [None] * len(models)
        return {
            position: Cost(
                head_macs=self.graph.macs(0, position),
                tail_macs=self.graph.macs(position),
                head_flash_bytes=len(head.data),
                tail_flash_bytes=len(tail.data),
                head_arena_bytes=sizes[2 * i],
                tail_arena_bytes=sizes[2 * i + 1],
            )
            for i, (position, (head, tail)) in enumerate(pairs.items())
        }
