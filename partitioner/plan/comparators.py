"""The methods that exact planning is compared with: the paper's (arXiv:2507.16594v2), written anew.

All of them give every node of the chain a stage, in order. Apart from brute force, none promises
the best plan, and all but brute force may miss a plan that exists.
"""

from __future__ import annotations

import itertools

import numpy as np

from partitioner.plan.exact import Solution
from partitioner.plan.problem import Criterion, Plan, Problem, cost_of


def _whole(problem: Problem, cuts: tuple[int, ...]) -> Plan:
    return Plan(tuple(range(problem.nodes)), (*cuts, problem.positions - 1))


def _allowed(problem: Problem, plan: Plan) -> bool:
    return (
        bool(problem.begins[plan.nodes[0]] and problem.ends[plan.nodes[-1]])
        and all(problem.stage_allowed[n][i, j] for n, i, j in plan.stages)
        and all(problem.hop_allowed[m, n, i] for m, n, i in plan.hops)
    )


def _step(problem: Problem, criterion: Criterion, node: int, start: int, end: int) -> float | None:
    """The cost of node's stage and of the hop behind it; None if a limit forbids it."""
    if not problem.stage_allowed[node][start, end]:
        return None
    stage = float(criterion.stages[node][start, end])
    if node == problem.nodes - 1:
        return stage
    if not problem.hop_allowed[node, node + 1, end]:
        return None
    hop = float(criterion.hops[node, node + 1, end])
    return max(stage, hop) if criterion.combine == "max" else stage + hop


def _reach(problem: Problem, node: int, start: int) -> range:
    """Where node may stop: the last at the end, the others with an operator left for each node."""
    if node == problem.nodes - 1:
        return range(problem.positions - 1, problem.positions)
    return range(start + 1, problem.positions - (problem.nodes - 1 - node))


def brute_force(problem: Problem, criterion: Criterion) -> Solution | None:
    """Looks at every plan."""
    found: Solution | None = None
    for cuts in itertools.combinations(range(1, problem.positions - 1), problem.nodes - 1):
        plan = _whole(problem, cuts)
        if _allowed(problem, plan):
            cost = cost_of(plan, criterion)
            if found is None or cost < found.costs[0]:
                found = Solution(plan, (cost,))
    return found


def beam_search(problem: Problem, criterion: Criterion, width: int = 8) -> Solution | None:
    """Node by node, keeps the `width` cheapest ways so far."""
    beam: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    for node in range(problem.nodes):
        grown = []
        for cost, cuts in beam:
            start = cuts[-1] if cuts else 0
            for end in _reach(problem, node, start):
                more = _step(problem, criterion, node, start, end)
                if more is not None:
                    total = max(cost, more) if criterion.combine == "max" else cost + more
                    grown.append((total, (*cuts, end)))
        beam = sorted(grown)[:width]
    return _finish(problem, criterion, beam[0][1] if beam else None)


def greedy(problem: Problem, criterion: Criterion) -> Solution | None:
    """Each node in turn takes the stage that is cheapest for itself, by operator run."""
    cuts: tuple[int, ...] = ()
    for node in range(problem.nodes):
        start = cuts[-1] if cuts else 0
        steps = {
            end: more / (end - start)
            for end in _reach(problem, node, start)
            if (more := _step(problem, criterion, node, start, end)) is not None
        }
        if not steps:
            return None
        cuts = (*cuts, min(steps, key=lambda end: (steps[end], end)))
    return _finish(problem, criterion, cuts)


def first_fit(problem: Problem, criterion: Criterion) -> Solution | None:
    """Each node in turn takes as much of the network as its limits allow."""
    cuts: tuple[int, ...] = ()
    for node in range(problem.nodes):
        start = cuts[-1] if cuts else 0
        ends = [
            end
            for end in _reach(problem, node, start)
            if _step(problem, criterion, node, start, end) is not None
        ]
        if not ends:
            return None
        cuts = (*cuts, ends[-1])
    return _finish(problem, criterion, cuts)


def random_fit(
    problem: Problem, criterion: Criterion, seed: int = 0, tries: int = 100
) -> Solution | None:
    """The first of `tries` random plans that keeps the limits."""
    rng = np.random.default_rng(seed)
    inner = np.arange(1, problem.positions - 1)
    for _ in range(tries):
        drawn = rng.choice(inner, problem.nodes - 1, replace=False)
        plan = _whole(problem, tuple(sorted(int(c) for c in drawn)))
        if _allowed(problem, plan):
            return Solution(plan, (cost_of(plan, criterion),))
    return None


def _finish(
    problem: Problem, criterion: Criterion, cuts: tuple[int, ...] | None
) -> Solution | None:
    if cuts is None:
        return None
    plan = Plan(tuple(range(problem.nodes)), cuts)
    return Solution(plan, (cost_of(plan, criterion),)) if _allowed(problem, plan) else None
