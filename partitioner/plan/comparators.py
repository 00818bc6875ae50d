"""The methods that exact planning is compared with: the paper's (arXiv:2507.16594v2), written anew.

All of them give every node of the chain a stage, in order, and every hop one of its options. Apart
from brute force, none promises the best plan, and all but brute force may miss a plan that exists.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from partitioner.plan.exact import Solution
from partitioner.plan.problem import (
    Criterion,
    Plan,
    Problem,
    cost_of,
    hop_value,
    stage_value,
)

_CHUNK = 100_000  # Plans under way at once in brute force.


@dataclass(frozen=True)
class _Way:
    """The first nodes' cuts and options, and what they cost."""

    cost: float
    cuts: tuple[int, ...]
    options: tuple[int, ...]


def _step(
    problem: Problem, criterion: Criterion, way: _Way, end: int, option: int | None
) -> float | None:
    """What the next node's stage and the hop behind it cost; None if a limit forbids it."""
    node = len(way.cuts)
    start = way.cuts[-1] if way.cuts else 0
    before = problem.option_class(node - 1, way.options[-1]) if node else 0
    classes = before, problem.option_class(node, option)
    if not stage_value(problem.stage_allowed[node], classes, start, end):
        return None
    stage = stage_value(criterion.stages[node], classes, start, end)
    if node:
        stage += hop_value(criterion.receives, node - 1, node, start, way.options[-1])
    if option is None:
        return stage
    stage += hop_value(criterion.sends, node, node + 1, end, option)
    hop = hop_value(criterion.hops, node, node + 1, end, option)
    return max(stage, hop) if criterion.combine == "max" else stage + hop


class _Steps:
    """Every next step of a way through a chain."""

    def __init__(self, problem: Problem, criterion: Criterion) -> None:
        self.problem, self.criterion = problem, criterion
        self.hops = [problem.hop_allowed(n, n + 1) for n in range(problem.nodes - 1)]

    def possible(self) -> bool:
        return bool(self.problem.begins[0] and self.problem.ends[-1])

    def after(self, way: _Way) -> Iterator[tuple[float, _Way]]:
        """What the next step costs, and the way with it."""
        problem, node = self.problem, len(way.cuts)
        if node == problem.nodes - 1:
            more = _step(problem, self.criterion, way, problem.positions - 1, None)
            if more is not None:
                yield more, self._longer(way, more, problem.positions - 1, ())
            return
        start = way.cuts[-1] if way.cuts else 0
        # An operator is left for each node behind.
        for end in range(start + 1, problem.positions - (problem.nodes - 1 - node)):
            for option in np.flatnonzero(self.hops[node][end]).tolist():
                more = _step(problem, self.criterion, way, end, option)
                if more is not None:
                    yield more, self._longer(way, more, end, (option,))

    def _longer(self, way: _Way, more: float, end: int, option: tuple[int, ...]) -> _Way:
        worst = self.criterion.combine == "max"
        cost = max(way.cost, more) if worst else way.cost + more
        return _Way(cost, (*way.cuts, end), (*way.options, *option))

    def solution(self, way: _Way | None) -> Solution | None:
        if way is None or not self.possible():
            return None
        plan = Plan(tuple(range(self.problem.nodes)), way.cuts, way.options)
        return Solution(plan, (cost_of(self.problem, plan, self.criterion),))


_NOTHING = _Way(0.0, (), ())


def beam_search(problem: Problem, criterion: Criterion, width: int = 8) -> Solution | None:
    """Node by node, keeps the `width` cheapest ways so far."""
    steps = _Steps(problem, criterion)
    beam = [_NOTHING]
    for _ in range(problem.nodes):
        grown = [longer for way in beam for _, longer in steps.after(way)]
        beam = sorted(grown, key=lambda way: (way.cost, way.cuts, way.options))[:width]
    return steps.solution(beam[0] if beam else None)


def greedy(problem: Problem, criterion: Criterion) -> Solution | None:
    """Each node in turn takes the stage that is cheapest for itself, by operator run."""
    steps, way = _Steps(problem, criterion), _NOTHING
    for _ in range(problem.nodes):
        start = way.cuts[-1] if way.cuts else 0
        found = [
            (more / (one.cuts[-1] - start), one.cuts[-1], one) for more, one in steps.after(way)
        ]
        if not found:
            return None
        way = min(found, key=lambda each: each[:2])[2]
    return steps.solution(way)


def first_fit(problem: Problem, criterion: Criterion) -> Solution | None:
    """Each node in turn takes as much of the network as its limits allow, by its first option."""
    steps, way = _Steps(problem, criterion), _NOTHING
    for _ in range(problem.nodes):
        found = [one for _, one in steps.after(way)]
        if not found:
            return None
        way = max(found, key=lambda one: (one.cuts[-1], [-option for option in one.options]))
    return steps.solution(way)


def random_fit(
    problem: Problem, criterion: Criterion, seed: int = 0, tries: int = 100
) -> Solution | None:
    """The first of `tries` random plans that keeps the limits."""
    rng = np.random.default_rng(seed)
    inner = np.arange(1, problem.positions - 1)
    steps = _Steps(problem, criterion)
    there = [np.flatnonzero(hops.any(axis=0)) for hops in steps.hops]
    if not steps.possible() or not all(len(known) for known in there):
        return None
    for _ in range(tries):
        drawn = sorted(int(c) for c in rng.choice(inner, problem.nodes - 1, replace=False))
        options = tuple(int(rng.choice(known)) for known in there)
        plan = Plan(tuple(range(problem.nodes)), (*drawn, problem.positions - 1), options)
        if not problem.violations(plan):
            return Solution(plan, (cost_of(problem, plan, criterion),))
    return None


def plans_to_try(problem: Problem) -> int:
    """How many plans brute force looks at, if no limit forbids any."""
    options = 1 if problem.choices is None else math.prod(problem.choices[:-1])
    return math.comb(problem.positions - 2, problem.nodes - 1) * options


def brute_force(problem: Problem, criterion: Criterion) -> Solution | None:
    """Looks at every plan, many at once, stage by stage in the order of the chain."""
    if not (problem.begins[0] and problem.ends[-1]):
        return None
    tables = [_table(problem, criterion, node) for node in range(problem.nodes)]
    best = _Best(problem, criterion)
    best.look(tables, np.zeros(1), np.zeros((1, 1), np.int32))
    if best.states is None:
        return None
    cuts, options = np.divmod(best.states, problem.options)
    plan = Plan(
        tuple(range(problem.nodes)),
        (*(int(cut) for cut in cuts), problem.positions - 1),
        tuple(int(option) for option in options),
    )
    return Solution(plan, (cost_of(problem, plan, criterion),))


_Table = npt.NDArray[np.float64]


def _table(problem: Problem, criterion: Criterion, node: int) -> _Table:
    """What a node's step costs from every state to every state behind it; infinite if forbidden.

    A state is a position and the option by which it was reached, `position * K + option`.
    """
    states = problem.positions * problem.options
    found = np.full((states if node else 1, states if node < problem.nodes - 1 else 1), np.inf)
    last = node == problem.nodes - 1
    steps = _Steps(problem, criterion)
    for before in range(found.shape[0]):
        start, arrived = divmod(before, problem.options)
        way = _Way(0.0, (0,) * (node - 1) + (start,) * (node > 0), (arrived,) * node)
        for cost, longer in steps.after(way):
            state = 0 if last else longer.cuts[-1] * problem.options + longer.options[-1]
            found[before, state] = cost
    return found


class _Best:
    """The best plan seen so far."""

    def __init__(self, problem: Problem, criterion: Criterion) -> None:
        self.depth = problem.nodes - 1
        self.worst = criterion.combine == "max"
        self.cost = math.inf
        self.states: npt.NDArray[np.int32] | None = None

    def look(self, tables: list[_Table], costs: _Table, states: npt.NDArray[np.int32]) -> None:
        """Every way on for ways through the first nodes: `costs` (M,), `states` (M, 1 + hops)."""
        node = states.shape[1] - 1
        steps = tables[node][states[:, -1]]
        total = np.maximum(costs[:, None], steps) if self.worst else costs[:, None] + steps
        if node == self.depth:
            least = int(total[:, 0].argmin())
            if total[least, 0] < self.cost:
                self.cost, self.states = float(total[least, 0]), states[least, 1:]
            return
        ways, behind = np.nonzero(np.isfinite(total))
        for first in range(0, len(ways), _CHUNK):
            part = ways[first : first + _CHUNK], behind[first : first + _CHUNK]
            self.look(
                tables, total[part], np.column_stack([states[part[0]], part[1].astype(np.int32)])
            )
