"""Exact planning against brute force, on every instance small enough to enumerate."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partitioner.plan import comparators
from partitioner.plan.exact import best, pareto, ranked
from partitioner.plan.problem import Criterion, Limit, Plan, PlanError, Problem, cost_of


def random_costs(rng, problem, *, classed=False):
    """Stages as a criterion or a limit has them; with `classed`, another matrix per class pair."""
    shape = (problem.positions,) * 2
    if classed:
        shape = (problem.class_count, problem.class_count, *shape)
    return [rng.integers(0, 50, shape).astype(float) for _ in range(problem.nodes)]


def random_hops(rng, problem, most=50):
    shape = problem.nodes, problem.nodes, problem.positions, problem.options
    return rng.integers(0, most, shape).astype(float)


def random_criterion(rng, problem, combine, name="time"):
    ends = {}
    if rng.random() < 0.5:  # What a hop costs its ends beside the link.
        ends = {part: random_hops(rng, problem, 30) for part in ("sends", "receives")}
    classed = problem.classes is not None and rng.random() < 0.5
    stages = random_costs(rng, problem, classed=classed)
    return Criterion(name, "us", combine, stages, random_hops(rng, problem), **ends)


def random_problem(rng, *, every_node=True, tightness=0.0, options=1):
    positions = int(rng.integers(2, 8 if options == 1 else 6))
    nodes = int(rng.integers(1, min(5, positions) if every_node else 5))
    given = {"every_node": every_node}
    if rng.random() < 0.3:
        given |= {"may_begin": rng.random(nodes) < 0.7, "may_end": rng.random(nodes) < 0.7}
    if options > 1:
        given["choices"] = [int(rng.integers(1, options + 1)) for _ in range(nodes)]
        if rng.random() < 0.7:
            given["classes"] = [[int(c) for c in rng.integers(1, 3, options)] for _ in range(nodes)]
    bare = Problem(positions, nodes, **given)
    limits = []
    if tightness:
        classed = bare.classes is not None and rng.random() < 0.7
        most = rng.integers(0, 60, nodes).astype(float)
        if classed:
            most = rng.integers(0, 60, (nodes, bare.class_count, bare.class_count)).astype(float)
        limits.append(Limit("RAM", "B", most, stages=random_costs(rng, bare, classed=classed)))
        limits.append(Limit("payload", "B", [tightness] * nodes, hops=random_hops(rng, bare, 100)))
    return Problem(positions, nodes, tuple(limits), **given)


def every_plan(problem):
    """All plans that keep the limits, found without any of the planner's own machinery."""
    sizes = [problem.nodes] if problem.every_node else range(1, problem.nodes + 1)
    for size in sizes:
        for nodes in itertools.combinations(range(problem.nodes), size):
            counts = [1 if problem.choices is None else problem.choices[n] for n in nodes[:-1]]
            for inner in itertools.combinations(range(1, problem.positions - 1), size - 1):
                for options in itertools.product(*map(range, counts)):
                    plan = Plan(nodes, (*inner, problem.positions - 1), options)
                    if problem.may_begin is not None and not problem.may_begin[nodes[0]]:
                        continue
                    if problem.may_end is not None and not problem.may_end[nodes[-1]]:
                        continue
                    if not problem.violations(plan):
                        yield plan


def cheapest_by_cuts(problem, criterion):
    """The least cost for every nodes and cuts, over the options."""
    found = {}
    for plan in every_plan(problem):
        key = plan.nodes, plan.cuts
        found[key] = min(found.get(key, np.inf), cost_of(problem, plan, criterion))
    return found


OPTIONS = st.sampled_from([1, 1, 2, 4])
seeds = st.integers(0, 2**32 - 1)


@given(
    seeds, st.sampled_from(["sum", "max"]), st.booleans(), st.sampled_from([0.0, 60.0, 20.0]),
    OPTIONS,
)  # fmt: skip
@settings(max_examples=400)
def test_best_is_what_brute_force_finds(seed, combine, every_node, tightness, options):
    rng = np.random.default_rng(seed)
    problem = random_problem(rng, every_node=every_node, tightness=tightness, options=options)
    criterion = random_criterion(rng, problem, combine)
    costs = sorted(cost_of(problem, plan, criterion) for plan in every_plan(problem))
    if not costs:
        with pytest.raises(PlanError, match="no plan"):
            best(problem, criterion)
        return
    solution = best(problem, criterion)
    assert solution.costs == (costs[0],)
    assert cost_of(problem, solution.plan, criterion) == costs[0]
    assert problem.violations(solution.plan) == []


@given(seeds, st.sampled_from(["sum", "max"]), st.booleans(), OPTIONS)
@settings(max_examples=200)
def test_runners_up_are_the_next_cheapest_cuts_each_once(seed, combine, every_node, options):
    rng = np.random.default_rng(seed)
    problem = random_problem(rng, every_node=every_node, options=options)
    criterion = random_criterion(rng, problem, combine)
    costs = sorted(cheapest_by_cuts(problem, criterion).values())
    if not costs:
        return
    found = ranked(problem, criterion, 5)
    assert [s.costs[0] for s in found] == costs[:5]
    assert len({(s.plan.nodes, s.plan.cuts) for s in found}) == len(found)
    assert all(cost_of(problem, s.plan, criterion) == s.costs[0] for s in found)


@given(seeds, st.booleans(), st.sampled_from([0.0, 60.0]), OPTIONS)
@settings(max_examples=200)
def test_the_pareto_front_is_whole_and_has_nothing_else(seed, every_node, tightness, options):
    rng = np.random.default_rng(seed)
    problem = random_problem(rng, every_node=every_node, tightness=tightness, options=options)
    criteria = [
        random_criterion(rng, problem, "sum", "latency"),
        random_criterion(rng, problem, "max", "period"),
    ]
    points = {tuple(cost_of(problem, plan, c) for c in criteria) for plan in every_plan(problem)}
    front = {p for p in points if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points)}
    if not points:
        with pytest.raises(PlanError):
            pareto(problem, criteria)
        return
    found = pareto(problem, criteria)
    assert {s.costs for s in found} == front
    assert len(found) == len(front)
    assert all(tuple(cost_of(problem, s.plan, c) for c in criteria) == s.costs for s in found)


@given(seeds, st.sampled_from(["sum", "max"]), OPTIONS)
@settings(max_examples=200)
def test_comparators_never_beat_the_exact_plan_and_keep_the_limits(seed, combine, options):
    rng = np.random.default_rng(seed)
    problem = random_problem(rng, tightness=60.0, options=options)
    criterion = random_criterion(rng, problem, combine)
    brute = comparators.brute_force(problem, criterion)
    costs = [cost_of(problem, plan, criterion) for plan in every_plan(problem)]
    assert (brute.costs[0] if brute else None) == min(costs, default=None)
    others = [
        comparators.beam_search(problem, criterion),
        comparators.greedy(problem, criterion),
        comparators.first_fit(problem, criterion),
        comparators.random_fit(problem, criterion),
    ]
    if brute is None:
        assert others == [None] * 4
        return
    assert best(problem, criterion).costs == brute.costs
    for other in others:
        if other is not None:
            assert other.costs[0] >= brute.costs[0]
            assert problem.violations(other.plan) == []


def line(stage_bytes, most, payload=None, payload_most=None):
    """Two nodes; a stage needs as many bytes as said for its end, whatever its start."""
    positions = len(stage_bytes)
    use = np.tile(np.array(stage_bytes, float), (positions, 1))
    limits = [Limit("RAM", "B", most, stages=[use, np.zeros_like(use)])]
    if payload is not None:
        hops = np.broadcast_to(np.array(payload, float), (2, 2, positions)).copy()
        limits.append(Limit("payload", "B", [payload_most] * 2, hops=hops))
    problem = Problem(positions, 2, tuple(limits))
    zero = [np.zeros((positions,) * 2)] * 2
    return problem, Criterion("time", "us", "sum", zero, np.zeros((2, 2, positions)))


def test_an_infeasible_problem_says_which_limit_binds_and_by_how_much():
    problem, criterion = line([0, 500, 400, 900], [300, 300])
    with pytest.raises(PlanError, match="RAM on node 0: 400 B needed, 300 there, 100 too many"):
        best(problem, criterion)


def test_of_two_limits_the_one_nearest_to_giving_is_named():
    problem, criterion = line([0, 500, 290, 900], [300, 300], [0, 10, 260, 0], 250)
    with pytest.raises(PlanError, match="exceeds payload on node 0: 260 B needed, 250 there, 10"):
        best(problem, criterion)


def test_where_no_single_limit_is_enough_to_lift_all_that_bind_are_named():
    use = np.full((3, 3), 400.0)
    limits = (
        Limit("RAM", "B", [300, 500], stages=[use, use]),
        Limit("flash", "B", [500, 100], stages=[use, use]),
    )
    problem = Problem(3, 2, limits)
    zero = Criterion("time", "us", "sum", [np.zeros((3, 3))] * 2, np.zeros((2, 2, 3)))
    with pytest.raises(PlanError, match=r"RAM on node 0.*; flash on node 1: 400 B.*300 too many"):
        best(problem, zero)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_numbers_that_are_negative_or_not_finite_are_refused(bad):
    problem = Problem(3, 2)
    stages = [np.zeros((3, 3)), np.full((3, 3), bad)]
    with pytest.raises(PlanError, match="negative or not finite"):
        best(problem, Criterion("time", "us", "sum", stages, np.zeros((2, 2, 3))))


def test_a_chain_longer_than_the_network_is_refused():
    with pytest.raises(PlanError, match="longer than the network, which can be divided into 3"):
        Problem(4, 4)


def test_nodes_may_be_left_out_where_that_is_allowed():
    slow = np.full((4, 4), 100.0)
    fast = np.ones((4, 4))
    problem = Problem(4, 3, every_node=False, may_begin=[True, False, False])
    criterion = Criterion("time", "us", "sum", [fast, slow, fast], np.full((3, 3, 4), 5.0))
    assert best(problem, criterion).plan == Plan((0,), (3,))
    heavy = Problem(
        4, 3, (Limit("RAM", "B", [2, 9, 9], stages=[np.array([[0, 1, 3, 3]] * 4, float)] * 3),),
        every_node=False, may_begin=[True, False, False],
    )  # fmt: skip
    assert best(heavy, criterion).plan == Plan((0, 2), (1, 3))
