"""The split problem: a network's cuts, nodes in a chain, links between them, what all that costs.

Theory of operation. Positions 0 to P-1 are the places where the network can be divided: 0 is
before its first operator, P-1 behind its last, the others are its legal cuts. Stage (n, i, j) is
node n running from position i to position j > i. Hop (m, n, i, k) is the boundary at position i
travelling from node m to a later node n by option k: a transport, its PHY rate and a codec. A plan
gives nodes, in the order of the chain, one stage each, so that the stages together are the network,
and each hop an option.

What a plan costs is the sum of its stages and hops (latency, energy) or the worst of them (the
slowest step of a pipeline, the weakest battery). What a hop costs its two ends (coding, the radio's
energy) counts with their stages. What a plan may not exceed are limits on stages and hops. Where
the radios that a node runs change its stages (their memory is taken from the arena's), options have
classes, and a stage has a matrix for each pair of classes by which its input comes and its output
leaves; class 0 stands for no hop, at the chain's two ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from models.errors import TinysplitError

Costs: TypeAlias = npt.NDArray[np.float64]
Mask: TypeAlias = npt.NDArray[np.bool_]
_Any = TypeVar("_Any", Costs, Mask)


class PlanError(TinysplitError):
    """There is no plan, or the problem makes no sense."""


@dataclass(frozen=True)
class Criterion:
    """What a plan is judged by; less is better.

    Args:
        stages: per node (P, P), of which only i < j count, or (C, C, P, P) for C classes of
            options: by input's and output's.
        hops: (N, N, P) or (N, N, P, K) for K options, of which only m < n count.
        sends, receives: as `hops`: what a hop adds to the stage before and behind it.
        combine: `sum` over stages and hops, or `max`.

    Values are finite and not negative, in `unit`.
    """

    name: str
    unit: str
    combine: Literal["sum", "max"]
    stages: Sequence[Costs]
    hops: Costs
    sends: Costs | None = None
    receives: Costs | None = None


@dataclass(frozen=True)
class Limit:
    """What stages or hops need, shaped as in a criterion, and the most there is.

    `most` has a number per node, or per node and pair of classes (N, C, C). A hop counts against
    the node that sends.
    """

    name: str
    unit: str
    most: Sequence[float] | Costs
    stages: Sequence[Costs] | None = None
    hops: Costs | None = None


@dataclass(frozen=True)
class Plan:
    """Node `nodes[k]` runs from position `cuts[k-1]` (0 for the first) to `cuts[k]`.

    `options[k]` is what carries the hop from `nodes[k]` to `nodes[k+1]`.
    """

    nodes: tuple[int, ...]
    cuts: tuple[int, ...]
    options: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.options:
            object.__setattr__(self, "options", (0,) * (len(self.nodes) - 1))

    @property
    def stages(self) -> tuple[tuple[int, int, int], ...]:
        """(node, from, to) of every stage."""
        starts = (0, *self.cuts[:-1])
        return tuple(zip(self.nodes, starts, self.cuts, strict=True))

    @property
    def hops(self) -> tuple[tuple[int, int, int, int], ...]:
        """(sender, receiver, position, option) of every hop."""
        return tuple(
            zip(self.nodes[:-1], self.nodes[1:], self.cuts[:-1], self.options, strict=True)
        )


@dataclass(frozen=True)
class Violation:
    """A limit that a plan exceeds: on `node`, `needed` of at most `most`."""

    limit: str
    unit: str
    node: int
    needed: float
    most: float

    def __str__(self) -> str:
        over = self.needed - self.most
        return (
            f"{self.limit} on node {self.node}: {self.needed:,.0f} {self.unit} needed, "
            f"{self.most:,.0f} there, {over:,.0f} too many"
        )


@dataclass(frozen=True)
class Problem:
    """`positions` P, `nodes` N, and the limits every plan keeps.

    Args:
        every_node: each node has a stage; otherwise nodes may be left out.
        may_begin, may_end: which nodes may hold the input and make the output. None: all may.
        choices: how many options hops have that leave each node. None: one.
        classes: of those options, (N, K), 1 and above. None: 1 for all.

    Raises:
        PlanError: shapes do not fit, a number is negative or not finite, or the chain is longer
            than the network.
    """

    positions: int
    nodes: int
    limits: tuple[Limit, ...] = ()
    every_node: bool = True
    may_begin: Sequence[bool] | None = None
    may_end: Sequence[bool] | None = None
    choices: Sequence[int] | None = None
    classes: Sequence[Sequence[int]] | None = None

    def __post_init__(self) -> None:
        if self.nodes < 1 or self.positions < 2:
            raise PlanError("a plan needs a node at least, and a network of an operator at least")
        if self.every_node and self.nodes > self.positions - 1:
            raise PlanError(
                f"a chain of {self.nodes} nodes is longer than the network, which can be divided "
                f"into {self.positions - 1} stages at most"
            )
        for allowed in (self.may_begin, self.may_end):
            if allowed is not None and len(allowed) != self.nodes:
                raise PlanError(f"who may begin or end is said for each of {self.nodes} nodes")
        if self.choices is not None and (len(self.choices) != self.nodes or min(self.choices) < 1):
            raise PlanError(f"hops of each of {self.nodes} nodes have an option at least")
        if self.classes is not None and (
            len(self.classes) != self.nodes
            or any(len(row) < self.options or min(row) < 1 for row in self.classes)
        ):
            raise PlanError("an option has a class, which is above 0")
        for limit in self.limits:
            self._check(limit.name, limit.stages, (limit.hops,))
            most = np.asarray(limit.most)
            square = (self.nodes, self.class_count, self.class_count)
            if most.shape not in ((self.nodes,), square) or not (most >= 0).all():
                raise PlanError(f"{limit.name}: a number not below 0 for each of the nodes")

    def _check(
        self, name: str, stages: Sequence[Costs] | None, hops: Sequence[Costs | None]
    ) -> None:
        square = (self.positions, self.positions)
        shapes = (square, (self.class_count, self.class_count, *square))
        if stages is not None and (
            len(stages) != self.nodes or any(s.shape not in shapes for s in stages)
        ):
            raise PlanError(f"{name}: stages are {self.nodes} matrices of {square}")
        cube = (self.nodes, self.nodes, self.positions)
        for values in hops:
            if values is not None and values.shape not in (cube, (*cube, self.options)):
                raise PlanError(f"{name}: hops are {(*cube, self.options)}")
        seen: dict[int, Any] = {id(s): s for s in stages or ()}
        for values in (*seen.values(), *(h for h in hops if h is not None)):
            # What is repeated by a stride of 0 is looked at once.
            once = values[tuple(slice(0, None if step else 1) for step in values.strides)]
            if not np.isfinite(once).all() or (once < 0).any():
                raise PlanError(f"{name}: a number is negative or not finite")

    def check(self, criterion: Criterion) -> None:
        """Raises PlanError if the criterion does not fit this problem."""
        hops = (criterion.hops, criterion.sends, criterion.receives)
        self._check(criterion.name, criterion.stages, hops)

    @cached_property
    def options(self) -> int:
        """K: the most options a hop has."""
        return 1 if self.choices is None else max(self.choices)

    @cached_property
    def class_count(self) -> int:
        """C, class 0 included."""
        return 2 if self.classes is None else 1 + max(max(row) for row in self.classes)

    def option_class(self, node: int, option: int | None) -> int:
        """The class of an option of a hop that leaves `node`; 0 for no hop."""
        if option is None:
            return 0
        return 1 if self.classes is None else self.classes[node][option]

    @cached_property
    def stage_allowed(self) -> tuple[Mask, ...]:
        """(P, P) or (C, C, P, P) per node: stages that go forward and keep every limit."""
        rank = np.arange(self.positions)
        order = rank[:, None] < rank[None, :]
        found = []
        for node in range(self.nodes):
            allowed = order
            for limit in self.limits:
                if limit.stages is not None:
                    most = np.asarray(limit.most[node])
                    if most.ndim:
                        most = most[:, :, None, None]
                    allowed = allowed & (limit.stages[node] <= most)
            found.append(allowed)
        return tuple(found)

    def hop_allowed(self, sender: int, receiver: int) -> Mask:
        """(P, K): options of hops between two nodes, at every position, that keep every limit."""
        allowed = np.zeros((self.positions, self.options), bool)
        if receiver <= sender or (self.every_node and receiver != sender + 1):
            return allowed
        allowed[1:-1, : 1 if self.choices is None else self.choices[sender]] = True
        for limit in self.limits:
            if limit.hops is not None:
                # The tightest of what `most` says, should it differ by class.
                most = np.min(np.asarray(limit.most[sender]))
                allowed &= by_option(limit.hops[sender, receiver]) <= most
        return allowed

    @cached_property
    def begins(self) -> Mask:
        """(N,): nodes that may run the first stage."""
        given = np.ones(self.nodes, bool) if self.may_begin is None else np.array(self.may_begin)
        return given & (np.arange(self.nodes) == 0) if self.every_node else given

    @cached_property
    def ends(self) -> Mask:
        """(N,): nodes that may run the last stage."""
        given = np.ones(self.nodes, bool) if self.may_end is None else np.array(self.may_end)
        last = np.arange(self.nodes) == self.nodes - 1
        return given & last if self.every_node else given

    def violations(self, plan: Plan) -> list[Violation]:
        """Every limit that `plan` exceeds."""
        found = []
        for limit in self.limits:
            if limit.stages is not None:
                for number, (node, start, end) in enumerate(plan.stages):
                    classes = self.stage_classes(plan, number)
                    needed = stage_value(limit.stages[node], classes, start, end)
                    most = np.asarray(limit.most[node])
                    there = float(most[classes] if most.ndim else most)
                    if needed > there:
                        found.append(Violation(limit.name, limit.unit, node, needed, there))
            if limit.hops is not None:
                for sender, receiver, at, option in plan.hops:
                    needed = hop_value(limit.hops, sender, receiver, at, option)
                    there = float(np.min(np.asarray(limit.most[sender])))
                    if needed > there:
                        found.append(Violation(limit.name, limit.unit, sender, needed, there))
        return found

    def stage_classes(self, plan: Plan, number: int) -> tuple[int, int]:
        """The classes by which stage `number` of a plan gets its input and gives its output."""
        hops = plan.hops
        before = self.option_class(hops[number - 1][0], hops[number - 1][3]) if number else 0
        behind = self.option_class(hops[number][0], hops[number][3]) if number < len(hops) else 0
        return before, behind


def by_option(hops: Costs) -> Costs:
    """Hops between two nodes, (P,) or (P, K), as (P, K)."""
    return hops[:, None] if hops.ndim == 1 else hops


def by_class(stages: _Any) -> _Any:
    """Stages of a node, (P, P) or (C, C, P, P), as (C, C, P, P) where C may be 1 for any."""
    return stages[None, None] if stages.ndim == 2 else stages


def stage_value(stages: Costs | Mask, classes: tuple[int, int], start: int, end: int) -> float:
    """One stage's value in a node's matrix or matrices."""
    if stages.ndim == 2:
        return float(stages[start, end])
    before, behind = classes
    return float(stages[before, behind, start, end])


def hop_value(hops: Costs | None, sender: int, receiver: int, at: int, option: int) -> float:
    """One hop's value; 0 where there are none."""
    if hops is None:
        return 0.0
    row = hops[sender, receiver, at]
    return float(row[option]) if hops.ndim == 4 else float(row)


def cost_of(problem: Problem, plan: Plan, criterion: Criterion) -> float:
    """What `plan` costs by `criterion`, added up stage by stage along the chain."""
    parts = []
    hops = plan.hops
    for number, (node, start, end) in enumerate(plan.stages):
        classes = problem.stage_classes(plan, number)
        own = stage_value(criterion.stages[node], classes, start, end)
        if number > 0:
            own += hop_value(criterion.receives, *hops[number - 1])
        if number < len(hops):
            own += hop_value(criterion.sends, *hops[number])
        parts.append(own)
        if number < len(hops):
            parts.append(hop_value(criterion.hops, *hops[number]))
    if criterion.combine == "max":
        return max(parts)
    total = 0.0
    for part in parts:
        total += part
    return total
