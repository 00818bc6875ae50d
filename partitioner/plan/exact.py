"""The best plan, proven: dynamic programming along the chain, over cuts.

Theory of operation. The best way to have run up to position j with node n as the last depends
only on (n, j), for sums and for maxima alike (Bellman's principle; Held and Karp 1962 for the
staged form). So there are N * P states, each looked at from at most P earlier ones, in one vector
operation per node. Keeping the `count` best ways instead of one gives the runners-up, because
each of them extends one of the `count` best of an earlier state. For several criteria a state keeps
every way that no other beats in all of them (Martins 1984), which gives the Pareto front whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from partitioner.plan.problem import (
    Costs,
    Criterion,
    Limit,
    Plan,
    PlanError,
    Problem,
)

_Indices: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Solution:
    """A plan and its cost by each criterion asked for."""

    plan: Plan
    costs: tuple[float, ...]


def ranked(problem: Problem, criterion: Criterion, count: int = 1) -> list[Solution]:
    """The `count` cheapest plans, best first; fewer if there are not so many.

    Raises:
        PlanError: no plan keeps the limits (says which bind, and by how much), or the criterion
            does not fit the problem.
    """
    problem.check(criterion)
    found = _solve(problem, criterion, count)
    if not found:
        raise PlanError(explain(problem))
    return found


def best(problem: Problem, criterion: Criterion) -> Solution:
    """The cheapest plan. Raises PlanError as `ranked`."""
    return ranked(problem, criterion, 1)[0]


def _solve(problem: Problem, criterion: Criterion, count: int) -> list[Solution]:
    combine = np.maximum if criterion.combine == "max" else np.add
    nodes, positions = problem.nodes, problem.positions
    # ways[n] is (count, P): the cheapest ways to have run up to a position with node n as the last.
    ways: list[Costs] = []
    came: list[tuple[_Indices, _Indices]] = []  # By way and position: from where, by which arrival.
    arrivals: list[tuple[_Indices, _Indices]] = []  # By arrival and position: node, its way.
    for node in range(nodes):
        arrived, sources = _arrive(problem, criterion, combine, ways, node, count)
        stages = np.where(problem.stage_allowed[node], criterion.stages[node], np.inf)
        options = combine(arrived[:, :, None], stages[None]).reshape(count * positions, positions)
        order = _cheapest(options, count)
        ways.append(np.take_along_axis(options, order, axis=0))
        came.append((order % positions, order // positions))
        arrivals.append(sources)
    ends = [(ways[n][k, -1], n, k) for n in range(nodes) if problem.ends[n] for k in range(count)]
    return [
        Solution(_trace(node, way, positions - 1, came, arrivals), (float(value),))
        for value, node, way in sorted(end for end in ends if np.isfinite(end[0]))[:count]
    ]


def _cheapest(ways: Costs, count: int) -> _Indices:
    """Rows of the `count` smallest values of each column, in order; the first of equal ones."""
    if count == 1:
        first: _Indices = np.argmin(ways, axis=0, keepdims=True)
        return first
    order: _Indices = np.argsort(ways, axis=0, kind="stable")[:count]
    return order


def _arrive(
    problem: Problem,
    criterion: Criterion,
    combine: np.ufunc,
    best: Sequence[Costs],
    node: int,
    count: int,
) -> tuple[Costs, tuple[_Indices, _Indices]]:
    """(count, P): the cheapest ways for `node` to begin at a position, and whence they come."""
    positions = problem.positions
    earlier = range(max(node - 1, 0) if problem.every_node else 0, node)
    options = [np.full((count, positions), np.inf)]
    if problem.begins[node]:
        options[0][0, 0] = 0.0
    for sender in earlier:
        hops = np.where(problem.hop_allowed[sender, node], criterion.hops[sender, node], np.inf)
        options.append(combine(best[sender], hops))
    ways = np.concatenate(options)
    order = _cheapest(ways, count)
    senders = np.array([-1, *earlier], np.int64)
    return np.take_along_axis(ways, order, axis=0), (senders[order // count], order % count)


def _trace(
    node: int,
    way: int,
    position: int,
    came: Sequence[tuple[_Indices, _Indices]],
    arrivals: Sequence[tuple[_Indices, _Indices]],
) -> Plan:
    nodes, cuts = [], []
    while node >= 0:
        nodes.append(node)
        cuts.append(position)
        starts, before = came[node]
        start, arrival = int(starts[way, position]), int(before[way, position])
        senders, ways = arrivals[node]
        node, way, position = int(senders[arrival, start]), int(ways[arrival, start]), start
    return Plan(tuple(reversed(nodes)), tuple(reversed(cuts)))


@dataclass(frozen=True)
class _Label:
    costs: tuple[float, ...]
    node: int
    position: int
    before: _Label | None


def pareto(problem: Problem, criteria: Sequence[Criterion]) -> list[Solution]:
    """Every plan's costs that no other plan beats in one criterion without losing in another.

    One plan for each such point, sorted by the first criterion.

    Raises:
        PlanError: as `ranked`.
    """
    for criterion in criteria:
        problem.check(criterion)
    ends = problem.positions - 1
    done: list[list[list[_Label]]] = []  # [node][position]
    for node in range(problem.nodes):
        here: list[list[_Label]] = [[] for _ in range(problem.positions)]
        arriving = _arriving(problem, criteria, done, node)
        for end in range(1, problem.positions):
            if node == problem.nodes - 1 and end < ends:
                continue
            labels = []
            for start in range(end):
                if not problem.stage_allowed[node][start, end]:
                    continue
                for costs, before in arriving[start]:
                    total = _extend(criteria, costs, [c.stages[node][start, end] for c in criteria])
                    labels.append(_Label(total, node, end, before))
            here[end] = _undominated(labels)
        done.append(here)
    last = _undominated(
        [label for node in range(problem.nodes) if problem.ends[node] for label in done[node][ends]]
    )
    if not last:
        raise PlanError(explain(problem))
    return [Solution(_plan_of(label), label.costs) for label in last]


def _arriving(
    problem: Problem,
    criteria: Sequence[Criterion],
    done: Sequence[Sequence[Sequence[_Label]]],
    node: int,
) -> list[list[tuple[tuple[float, ...], _Label | None]]]:
    found: list[list[tuple[tuple[float, ...], _Label | None]]] = []
    for start in range(problem.positions):
        ways: list[tuple[tuple[float, ...], _Label | None]] = []
        if start == 0 and problem.begins[node]:
            ways.append(((0.0,) * len(criteria), None))
        for sender in range(node):
            if problem.hop_allowed[sender, node, start]:
                hop = [c.hops[sender, node, start] for c in criteria]
                ways += [(_extend(criteria, b.costs, hop), b) for b in done[sender][start]]
        found.append(ways)
    return found


def _extend(
    criteria: Sequence[Criterion], costs: Sequence[float], more: Sequence[float]
) -> tuple[float, ...]:
    return tuple(
        max(a, float(b)) if criterion.combine == "max" else a + float(b)
        for criterion, a, b in zip(criteria, costs, more, strict=True)
    )


def _undominated(labels: list[_Label]) -> list[_Label]:
    """Sorted by costs; of equal ones, one."""
    kept: list[_Label] = []
    for label in sorted(labels, key=lambda one: (one.costs, one.node, one.position)):
        if not any(all(a <= b for a, b in zip(k.costs, label.costs, strict=True)) for k in kept):
            kept.append(label)
    return kept


def _plan_of(label: _Label) -> Plan:
    nodes, cuts = [], []
    at: _Label | None = label
    while at is not None:
        nodes.append(at.node)
        cuts.append(at.position)
        at = at.before
    return Plan(tuple(reversed(nodes)), tuple(reversed(cuts)))


def explain(problem: Problem) -> str:
    """Why no plan keeps the limits: which of them would have to give, and by how much.

    Looked for is the plan that exceeds one limit least, in proportion, and keeps all others; if
    no single limit is enough to lift, the plan that exceeds all of them least.
    """
    alone = [(limit,) for limit in problem.limits]
    for group in (alone, [problem.limits]):
        nearest: tuple[float, str] | None = None
        for lifted in group:
            kept = tuple(limit for limit in problem.limits if limit not in lifted)
            found = _solve(replace(problem, limits=kept), _overuse(problem, lifted), 1)
            if found and (nearest is None or found[0].costs[0] < nearest[0]):
                broken = problem.violations(found[0].plan)
                nearest = found[0].costs[0], "; ".join(str(v) for v in broken)
        if nearest is not None:
            return f"no plan keeps the limits; the nearest one exceeds {nearest[1]}"
    return "no plan: none of the nodes that may hold the input can reach one that may end the chain"


def _overuse(problem: Problem, lifted: Sequence[Limit]) -> Criterion:
    """How far a plan exceeds these limits, in proportion to them."""
    stages = [np.zeros((problem.positions, problem.positions)) for _ in range(problem.nodes)]
    hops = np.zeros((problem.nodes, problem.nodes, problem.positions))
    for limit in lifted:
        most = np.maximum(np.asarray(limit.most, float), 1.0)
        if limit.stages is not None:
            stages = [
                np.maximum(s, n / m) for s, n, m in zip(stages, limit.stages, most, strict=True)
            ]
        if limit.hops is not None:
            hops = np.maximum(hops, limit.hops / most[:, None, None])
    return Criterion("overuse", "", "max", stages, hops)
