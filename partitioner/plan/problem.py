"""The split problem: a network's cuts, nodes in a chain, what everything costs and needs.

Theory of operation. Positions 0 to P-1 are the places where the network can be divided: 0 is
before its first operator, P-1 behind its last, the others are its legal cuts. Stage (n, i, j) is
node n running from position i to position j > i. Hop (m, n, i) is the boundary at position i
travelling from node m to a later node n. A plan gives nodes, in the order of the chain, one
stage each, so that the stages together are the network. What a plan costs is the sum of its stages
and hops (latency, energy) or the worst of them (the slowest step of a pipeline, the weakest
battery); what it may not exceed are limits on stages and hops.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from models.errors import TinysplitError

Costs: TypeAlias = npt.NDArray[np.float64]
Mask: TypeAlias = npt.NDArray[np.bool_]


class PlanError(TinysplitError):
    """There is no plan, or the problem makes no sense."""


@dataclass(frozen=True)
class Criterion:
    """What a plan is judged by; less is better.

    `stages` has a matrix (P, P) per node, of which only i < j count; `hops` is (N, N, P), of
    which only m < n counts. `combine` is `sum` over stages and hops, or `max`. Values are finite
    and not negative, in `unit`.
    """

    name: str
    unit: str
    combine: Literal["sum", "max"]
    stages: Sequence[Costs]
    hops: Costs


@dataclass(frozen=True)
class Limit:
    """What stages (P, P per node) or hops (N, N, P) need, and the most there is (per node).

    A hop counts against the node that sends.
    """

    name: str
    unit: str
    most: Sequence[float]
    stages: Sequence[Costs] | None = None
    hops: Costs | None = None


@dataclass(frozen=True)
class Plan:
    """Node `nodes[k]` runs from position `cuts[k-1]` (0 for the first) to `cuts[k]`."""

    nodes: tuple[int, ...]
    cuts: tuple[int, ...]

    @property
    def stages(self) -> tuple[tuple[int, int, int], ...]:
        """(node, from, to) of every stage."""
        starts = (0, *self.cuts[:-1])
        return tuple(zip(self.nodes, starts, self.cuts, strict=True))

    @property
    def hops(self) -> tuple[tuple[int, int, int], ...]:
        """(sender, receiver, position) of every hop."""
        return tuple(zip(self.nodes[:-1], self.nodes[1:], self.cuts[:-1], strict=True))


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

    def __post_init__(self) -> None:
        if self.nodes < 1 or self.positions < 2:
            raise PlanError("a plan needs a node at least, and a network of an operator at least")
        if self.every_node and self.nodes > self.positions - 1:
            raise PlanError(
                f"a chain of {self.nodes} nodes is longer than the network, which can be divided "
                f"into {self.positions - 1} stages at most"
            )
        for limit in self.limits:
            self._check(limit.name, limit.stages, limit.hops)
            if len(limit.most) != self.nodes or not all(m >= 0 for m in limit.most):
                raise PlanError(f"{limit.name}: a number not below 0 for each of the nodes")
        for allowed in (self.may_begin, self.may_end):
            if allowed is not None and len(allowed) != self.nodes:
                raise PlanError(f"who may begin or end is said for each of {self.nodes} nodes")

    def _check(self, name: str, stages: Sequence[Costs] | None, hops: Costs | None) -> None:
        shape = (self.positions, self.positions)
        if stages is not None and (
            len(stages) != self.nodes or any(s.shape != shape for s in stages)
        ):
            raise PlanError(f"{name}: stages are {self.nodes} matrices of {shape}")
        if hops is not None and hops.shape != (self.nodes, self.nodes, self.positions):
            raise PlanError(f"{name}: hops are {(self.nodes, self.nodes, self.positions)}")
        seen: dict[int, Any] = {id(s): s for s in stages or ()}
        for values in (*seen.values(), *(() if hops is None else (hops,))):
            if not np.isfinite(values).all() or (values < 0).any():
                raise PlanError(f"{name}: a number is negative or not finite")

    def check(self, criterion: Criterion) -> None:
        """Raises PlanError if the criterion does not fit this problem."""
        self._check(criterion.name, criterion.stages, criterion.hops)

    @cached_property
    def _order(self) -> Mask:
        rank = np.arange(self.positions)
        return rank[:, None] < rank[None, :]

    @cached_property
    def stage_allowed(self) -> tuple[Mask, ...]:
        """(P, P) per node: stages that go forward and keep every limit."""
        found = []
        for node in range(self.nodes):
            allowed = self._order.copy()
            for limit in self.limits:
                if limit.stages is not None:
                    allowed &= limit.stages[node] <= limit.most[node]
            found.append(allowed)
        return tuple(found)

    @cached_property
    def hop_allowed(self) -> Mask:
        """(N, N, P): hops to a later node that keep every limit."""
        rank = np.arange(self.nodes)
        forward = rank[:, None] + 1 == rank if self.every_node else rank[:, None] < rank
        allowed = np.repeat(forward[:, :, None], self.positions, axis=2)
        allowed[:, :, [0, -1]] = False
        for limit in self.limits:
            if limit.hops is not None:
                allowed &= limit.hops <= np.asarray(limit.most)[:, None, None]
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
                for node, start, end in plan.stages:
                    needed = float(limit.stages[node][start, end])
                    if needed > limit.most[node]:
                        most = limit.most[node]
                        found.append(Violation(limit.name, limit.unit, node, needed, most))
            if limit.hops is not None:
                for sender, receiver, at in plan.hops:
                    needed = float(limit.hops[sender, receiver, at])
                    if needed > limit.most[sender]:
                        most = limit.most[sender]
                        found.append(Violation(limit.name, limit.unit, sender, needed, most))
        return found


def cost_of(plan: Plan, criterion: Criterion) -> float:
    """What `plan` costs by `criterion`, added up stage by stage along the chain."""
    parts = []
    for number, (node, start, end) in enumerate(plan.stages):
        parts.append(float(criterion.stages[node][start, end]))
        if number < len(plan.hops):
            sender, receiver, at = plan.hops[number]
            parts.append(float(criterion.hops[sender, receiver, at]))
    if criterion.combine == "max":
        return max(parts)
    total = 0.0
    for part in parts:
        total += part
    return total
