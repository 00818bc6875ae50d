"""The best plan, proven: dynamic programming along the chain, over cuts and options of hops.

Theory of operation. What it costs to finish, once node n has received the boundary at position i by
option k, depends on (n, i, k) alone, for sums and for maxima alike (Bellman's principle; Held and
Karp 1962 for the staged form). So the cheapest completion of every such state is found from the
chain's end backwards, in one vector operation per node. Options that another one of the same class
beats at a position in all that they cost are left out first; for a sum one per class is left.

Plans are then built from the front, always extending the beginning whose cheapest completion is
cheapest of all. Since completions are exact, the first whole plan is the best, the next one the
runner-up, and so on (best-first search with a perfect heuristic; Hart, Nilsson and Raphael 1968):
each has other cuts, and the best options for them. For several criteria a state keeps every way
that no other beats in all of them (Martins 1984), which gives the Pareto front whole.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from partitioner.plan.problem import (
    Costs,
    Criterion,
    Limit,
    Mask,
    Plan,
    PlanError,
    Problem,
    by_class,
    by_option,
    cost_of,
)

_Indices: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Solution:
    """A plan and its cost by each criterion asked for."""

    plan: Plan
    costs: tuple[float, ...]


def ranked(problem: Problem, criterion: Criterion, count: int = 1) -> list[Solution]:
    """The `count` cheapest plans, best first; fewer if there are not so many.

    No two have the same nodes and cuts; each has the best options for its own.

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


@dataclass(frozen=True)
class _Hops:
    """Hops between two nodes: what is left of the options, A of them, at each position.

    Costs are (F, P, A) for F criteria, infinite where a position has fewer options.
    """

    options: _Indices
    classes: _Indices
    sends: Costs
    costs: Costs
    receives: Costs


def _hops(problem: Problem, criteria: Sequence[Criterion]) -> dict[tuple[int, int], _Hops]:
    """By sender and receiver; without those between which no hop is allowed."""
    found: dict[tuple[int, int], _Hops] = {}
    known: dict[tuple[bytes, ...], _Hops] = {}  # Chains of equal boards repeat themselves.
    classed = _classed(problem, criteria)
    for receiver in range(1, problem.nodes):
        for sender in range(receiver - 1 if problem.every_node else 0, receiver):
            allowed = problem.hop_allowed(sender, receiver)
            if not allowed.any():
                continue
            parts = [_parts(problem, one, sender, receiver) for one in criteria]
            sends, costs, receives = (np.stack(part) for part in zip(*parts, strict=True))
            costs = np.where(allowed, costs, np.inf)
            classes = np.array(
                [problem.option_class(sender, k) for k in range(problem.options)], np.int64
            )
            content = tuple(part.tobytes() for part in (sends, costs, receives, classes))
            if content in known:
                found[sender, receiver] = known[content]
                continue
            keys: list[Costs] = []
            for number, criterion in enumerate(criteria):
                own = sends[number], costs[number], receives[number]
                keys += [sum(own)] if criterion.combine == "sum" else own
            kept = _survivors(np.stack(keys), classes if classed else None)
            order = np.argsort(~kept, axis=1, kind="stable")[:, : max(kept.sum(axis=1))]
            at = np.arange(problem.positions)[:, None]
            costs = np.where(kept[at, order], costs[:, at, order], np.inf)
            found[sender, receiver] = known[content] = _Hops(
                order, classes[order], sends[:, at, order], costs, receives[:, at, order]
            )
    return found


def _parts(problem: Problem, one: Criterion, sender: int, receiver: int) -> tuple[Costs, ...]:
    shape = (problem.positions, problem.options)
    return tuple(
        np.zeros(shape)
        if values is None
        else np.broadcast_to(by_option(values[sender, receiver]), shape)
        for values in (one.sends, one.hops, one.receives)
    )


def _classed(problem: Problem, criteria: Sequence[Criterion]) -> bool:
    """Whether stages know classes at all."""
    stages = itertools.chain(problem.stage_allowed, *(one.stages for one in criteria))
    return any(one.ndim == 4 for one in stages)


def _survivors(keys: Costs, classes: _Indices | None) -> Mask:
    """(P, K) of keys (F, P, K): finite, and not beaten by one of the same class.

    Of equal ones the first survives.
    """
    finite: Mask = np.asarray(np.isfinite(keys).all(axis=0))
    count = finite.shape[1]
    if count == 1:
        return finite
    if len(keys) == 1 and classes is None:
        first = np.zeros_like(finite)
        np.put_along_axis(first, np.argmin(keys[0], axis=1, keepdims=True), True, axis=1)
        return first & finite
    # (P, one, another)
    beats: Mask = np.asarray((keys[:, :, :, None] <= keys[:, :, None, :]).all(axis=0))
    rank = np.arange(count)
    beats &= ~beats.transpose(0, 2, 1) | (rank[:, None] < rank)
    if classes is not None:
        classes = np.broadcast_to(classes, finite.shape)
        beats &= classes[:, :, None] == classes[:, None, :]
    found: Mask = finite & ~beats.any(axis=1)
    return found


@dataclass(frozen=True)
class _Leaving:
    """How a node may end its stage: D ways at each position, the network's end among them."""

    sends: Costs
    rest: Costs  # The hop and the cheapest completion behind it.
    classes: _Indices


class _Completions:
    """The cheapest completion of every state of a problem, by one criterion."""

    def __init__(self, problem: Problem, criterion: Criterion) -> None:
        self.problem = problem
        self.combine = np.maximum if criterion.combine == "max" else np.add
        self.hops = _hops(problem, [criterion])
        self.classed = _classed(problem, [criterion])
        self.stages = [
            np.where(by_class(allowed), by_class(stages), np.inf)
            for allowed, stages in zip(problem.stage_allowed, criterion.stages, strict=True)
        ]
        self.after: dict[tuple[int, int], Costs] = {}  # (P, A) by sender and receiver.
        self.from_start = np.full(problem.nodes, np.inf)
        for node in reversed(range(problem.nodes)):
            self._look_at(node)

    def _look_at(self, node: int) -> None:
        problem = self.problem
        leaving = self._leaving(node)
        if leaving is None:
            for sender in range(node):
                if (sender, node) in self.hops:
                    shape = self.hops[sender, node].options.shape
                    self.after[sender, node] = np.full(shape, np.inf)
            return
        for sender in range(node):
            hops = self.hops.get((sender, node))
            if hops is not None:
                every = np.arange(problem.positions)
                self.after[sender, node] = self._complete(
                    node, every, hops.receives[0], hops.classes, leaving
                )
        if problem.begins[node]:
            begin = self._complete(
                node, np.array([0]), np.zeros((1, 1)), np.zeros((1, 1), np.int64), leaving
            )
            self.from_start[node] = begin[0, 0]

    def _leaving(self, node: int) -> _Leaving | None:
        sends, rest, classes = [], [], []
        for receiver in range(node + 1, self.problem.nodes):
            hops = self.hops.get((node, receiver))
            if hops is not None:
                sends.append(hops.sends[0])
                rest.append(self.combine(hops.costs[0], self.after[node, receiver]))
                classes.append(hops.classes)
        if self.problem.ends[node]:
            end = np.full((self.problem.positions, 1), np.inf)
            end[-1] = 0.0
            sends.append(np.zeros_like(end))
            rest.append(end)
            classes.append(np.zeros(end.shape, np.int64))
        if not rest:
            return None
        found = _Leaving(*(np.concatenate(p, axis=1) for p in (sends, rest, classes)))
        if found.rest.shape[1] == 1:
            return found
        if self.combine is np.add:
            keys = (found.sends + found.rest)[None]
        else:
            # Where nothing follows, what is sent there does not matter either.
            keys = np.stack([np.where(np.isfinite(found.rest), found.sends, np.inf), found.rest])
        kept = _survivors(keys, found.classes if self.classed else None)
        width = max(kept.sum(axis=1).max(), 1)
        order = np.argsort(~kept, axis=1, kind="stable")[:, :width]
        rest_left = np.where(kept, found.rest, np.inf)
        return _Leaving(
            np.take_along_axis(found.sends, order, 1),
            np.take_along_axis(rest_left, order, 1),
            np.take_along_axis(found.classes, order, 1),
        )

    def _complete(
        self, node: int, starts: _Indices, receives: Costs, classes: _Indices, leaving: _Leaving
    ) -> Costs:
        """(I, A): the cheapest way on from I positions, for A ways of having arrived there."""
        own = self.own(node, starts, receives, classes, leaving.sends, leaving.classes)
        found: Costs = self.combine(own, leaving.rest).min(axis=(2, 3))
        return found

    def own(
        self,
        node: int,
        starts: _Indices,
        receives: Costs,
        classes: _Indices,
        sends: Costs,
        leaving: _Indices,
    ) -> Costs:
        """(I, A, P, D): stages of a node with what its hops add, from `starts` to everywhere."""
        stages = self.stages[node]
        if stages.shape[0] == 1:
            matrix = stages[0, 0][starts][:, None, :, None]
        else:
            count, size = stages.shape[0], self.problem.positions
            rows = classes[:, :, None, None] * count * size + starts[:, None, None, None]
            columns = leaving * (size * size) + np.arange(size)[:, None]
            matrix = stages.reshape(-1).take(rows * size + columns)
        total: Costs = receives[:, :, None, None] + matrix + sends
        return total


@dataclass(frozen=True)
class _Beginning:
    """A plan's first part: nodes and cuts so far, and A ways in which the last of them arrived."""

    nodes: tuple[int, ...]
    cuts: tuple[int, ...]
    costs: Costs
    receives: Costs
    classes: _Indices
    options: tuple[tuple[int, ...], ...]


def _solve(problem: Problem, criterion: Criterion, count: int) -> list[Solution]:
    ahead = _Completions(problem, criterion)
    queue: list[tuple[float, int, int, _Beginning]] = []
    turn = itertools.count()

    def push(cost: float, beginning: _Beginning) -> None:
        # Of equal ones the longest first, so that a whole plan is not kept waiting.
        heapq.heappush(queue, (cost, -len(beginning.cuts), next(turn), beginning))

    for node in range(problem.nodes):
        if np.isfinite(ahead.from_start[node]):
            zero = np.zeros(1)
            push(
                float(ahead.from_start[node]),
                _Beginning((node,), (), zero, zero, np.zeros(1, np.int64), ((),)),
            )
    found: list[Solution] = []
    while queue and len(found) < count:
        *_, beginning = heapq.heappop(queue)
        if len(beginning.cuts) == len(beginning.nodes):
            plan = Plan(beginning.nodes, beginning.cuts, beginning.options[0])
            found.append(Solution(plan, (cost_of(problem, plan, criterion),)))
            continue
        longer = sorted(_extensions(ahead, beginning, count), key=lambda one: one[0])
        for cost, extended in longer[:count]:
            push(cost, extended)
    return found


def _extensions(
    ahead: _Completions, beginning: _Beginning, count: int
) -> Iterable[tuple[float, _Beginning]]:
    """A plan's beginning by one stage longer, and its cheapest completion."""
    problem = ahead.problem
    node = beginning.nodes[-1]
    start = np.array([beginning.cuts[-1] if beginning.cuts else 0])
    here = node, start, beginning.receives[None], beginning.classes[None]
    last = problem.positions - 1
    if problem.ends[node]:
        nothing = np.zeros((problem.positions, 1))
        own = ahead.own(*here, nothing, nothing.astype(np.int64))[0, :, last, 0]
        ends = ahead.combine(beginning.costs, own)
        way = int(np.argmin(ends))
        if np.isfinite(ends[way]):
            yield (
                float(ends[way]),
                replace(beginning, cuts=(*beginning.cuts, last), options=(beginning.options[way],)),
            )
    for receiver in range(node + 1, problem.nodes):
        hops = ahead.hops.get((node, receiver))
        if hops is None:
            continue
        own = ahead.own(*here, hops.sends[0], hops.classes)[0]
        arrived = ahead.combine(ahead.combine(beginning.costs[:, None, None], own), hops.costs[0])
        ways = arrived.argmin(axis=0)
        least = arrived.min(axis=0)  # (P, A)
        whole = ahead.combine(least, ahead.after[node, receiver]).min(axis=1)
        for cut in np.argsort(whole, kind="stable")[:count]:
            if np.isfinite(whole[cut]):
                slots = np.flatnonzero(np.isfinite(least[cut]))
                yield (
                    float(whole[cut]),
                    _Beginning(
                        (*beginning.nodes, receiver),
                        (*beginning.cuts, int(cut)),
                        least[cut, slots],
                        hops.receives[0, cut, slots],
                        hops.classes[cut, slots],
                        tuple(
                            (*beginning.options[ways[cut, s]], int(hops.options[cut, s]))
                            for s in slots
                        ),
                    ),
                )


@dataclass(frozen=True)
class _Label:
    """A way to have arrived at a node: what it cost, and how."""

    costs: Costs
    nodes: tuple[int, ...]
    cuts: tuple[int, ...]
    options: tuple[int, ...]
    receives: Costs
    klass: int


def pareto(problem: Problem, criteria: Sequence[Criterion]) -> list[Solution]:
    """Every plan's costs that no other plan beats in one criterion without losing in another.

    One plan for each such point, sorted by the first criterion.

    Raises:
        PlanError: as `ranked`.
    """
    for criterion in criteria:
        problem.check(criterion)
    hops = _hops(problem, criteria)
    maxima = np.array([one.combine == "max" for one in criteria])[:, None, None]
    arrived: list[list[_Label]] = [[] for _ in range(problem.nodes)]
    whole: list[_Label] = []
    zero = np.zeros(len(criteria))
    for node in range(problem.nodes):
        if problem.begins[node]:
            arrived[node].append(_Label(zero, (node,), (), (), zero, 0))
        labels = arrived[node]
        if labels and problem.ends[node]:
            nothing = np.zeros((len(criteria), problem.positions, 1))
            here = np.zeros(nothing.shape[1:], np.int64)
            ends = [
                _extended(problem, criteria, maxima, label, nothing, nothing, here)[:, -1, 0]
                for label in labels
            ]
            whole += [
                replace(label, costs=costs, cuts=(*label.cuts, problem.positions - 1))
                for label, costs in zip(labels, ends, strict=True)
                if np.isfinite(costs).all()
            ]
        for receiver in range(node + 1, problem.nodes):
            pair = hops.get((node, receiver))
            if pair is not None and labels:
                arrived[receiver] += _arrivals(problem, criteria, maxima, labels, receiver, pair)
    if not whole:
        raise PlanError(explain(problem))
    kept = _undominated(np.stack([label.costs for label in whole]))
    found = []
    for label in (whole[index] for index in kept):
        plan = Plan(label.nodes, label.cuts, label.options)
        found.append(Solution(plan, tuple(cost_of(problem, plan, one) for one in criteria)))
    return found


def _extended(
    problem: Problem,
    criteria: Sequence[Criterion],
    maxima: Mask,
    label: _Label,
    sends: Costs,
    costs: Costs,
    classes: _Indices,
) -> Costs:
    """(F, P, A): a label's costs with a stage to everywhere, and a hop from there."""
    node, start = label.nodes[-1], label.cuts[-1] if label.cuts else 0
    to = np.arange(problem.positions)[:, None]
    stages = []
    allowed = problem.stage_allowed[node].astype(float)
    for matrix in (allowed, *(one.stages[node] for one in criteria)):
        four = by_class(matrix)
        came, goes = (0, np.zeros_like(classes)) if four.shape[0] == 1 else (label.klass, classes)
        stages.append(four[came, goes, start, to])
    own = (
        np.where(stages[0] > 0, np.stack(stages[1:]), np.inf)
        + label.receives[:, None, None]
        + sends
    )
    before = label.costs[:, None, None]
    found: Costs = np.where(
        maxima, np.maximum(np.maximum(before, own), costs), before + own + costs
    )
    return found


def _arrivals(
    problem: Problem,
    criteria: Sequence[Criterion],
    maxima: Mask,
    labels: Sequence[_Label],
    receiver: int,
    hops: _Hops,
) -> list[_Label]:
    """The ways to arrive at `receiver` that none beats, for every position and option."""
    costs = np.stack(
        [
            _extended(problem, criteria, maxima, label, hops.sends, hops.costs, hops.classes)
            for label in labels
        ]
    )
    found = []
    for cut, slot in np.argwhere(np.isfinite(costs).all(axis=1).any(axis=0)):
        points = costs[:, :, cut, slot]
        for index in _undominated(points):
            label = labels[index]
            found.append(
                _Label(
                    points[index],
                    (*label.nodes, receiver),
                    (*label.cuts, int(cut)),
                    (*label.options, int(hops.options[cut, slot])),
                    hops.receives[:, cut, slot],
                    int(hops.classes[cut, slot]),
                )
            )
    return found


def _undominated(points: Costs) -> list[int]:
    """Which rows of points (L, F) no other beats, sorted by them; of equal ones, one."""
    kept: list[int] = []
    for index in np.lexsort(points.T[::-1]):
        point = points[index]
        if np.isfinite(point).all() and not (points[kept] <= point).all(axis=1).any():
            kept.append(int(index))
    return kept


def explain(problem: Problem) -> str:
    """Why no plan keeps the limits: which of them would have to give, and by how much.

    Looked for is the plan that exceeds one limit least, in proportion, and keeps all others; if
    no single limit is enough to lift, the plan that exceeds all of them least.
    """
    alone = [(limit,) for limit in problem.limits]
    for group in (alone, [problem.limits]):
        nearest: tuple[float, str] | None = None
        for lifted in group:
            kept = tuple(one for one in problem.limits if all(one is not gone for gone in lifted))
            found = _solve(replace(problem, limits=kept), _overuse(problem, lifted), 1)
            if found and (nearest is None or found[0].costs[0] < nearest[0]):
                broken = problem.violations(found[0].plan)
                nearest = found[0].costs[0], "; ".join(str(v) for v in broken)
        if nearest is not None:
            return f"no plan keeps the limits; the nearest one exceeds {nearest[1]}"
    first = ", ".join(str(node) for node in np.flatnonzero(problem.begins)) or "none"
    last = ", ".join(str(node) for node in np.flatnonzero(problem.ends)) or "none"
    return (
        "no plan: none of the nodes that may hold the input can reach one that may end the chain "
        f"(input: {first}; output: {last}{'; every node is used' if problem.every_node else ''})"
    )


def _overuse(problem: Problem, lifted: Sequence[Limit]) -> Criterion:
    """How far a plan exceeds these limits, in proportion to them."""
    stages = [np.zeros((problem.positions, problem.positions)) for _ in range(problem.nodes)]
    hops = np.zeros((problem.nodes, problem.nodes, problem.positions, 1))
    for limit in lifted:
        most = np.maximum(np.asarray(limit.most, float), 1.0)
        if limit.stages is not None:
            stages = [
                np.maximum(s, n / (m[:, :, None, None] if m.ndim else m))
                for s, n, m in zip(stages, limit.stages, most, strict=True)
            ]
        if limit.hops is not None:
            least = most.reshape(problem.nodes, -1).min(axis=1)
            needed = limit.hops if limit.hops.ndim == 4 else limit.hops[..., None]
            hops = np.maximum(hops, needed / least[:, None, None, None])
    if hops.shape[3] != problem.options:
        hops = np.broadcast_to(hops, (*hops.shape[:3], problem.options))
    return Criterion("overuse", "", "max", stages, hops)
