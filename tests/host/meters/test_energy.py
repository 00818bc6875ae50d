"""Integration against closed forms."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from host.link.messages import Phase
from host.meters import energy
from host.meters.energy import RULES, EnergyError, Integral, Meterage, Samples, Window

STEPS = st.lists(st.floats(1e-5, 1.0), min_size=2, max_size=40)
SHARES = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted)


def times(steps: list[float]) -> energy.Floats:
    return np.concatenate(([0.0], np.cumsum(steps)))


def samples(time_s: energy.Floats, current_a: energy.Floats, **more: object) -> Samples:
    return Samples(time_s, current_a, np.full(len(time_s), 2.0), **more)  # type: ignore[arg-type]


@given(STEPS, st.floats(-3, 3), st.floats(-5, 5), SHARES)
def test_a_straight_line_is_integrated_exactly_by_trapezoids(
    steps: list[float], level: float, slope: float, shares: list[float]
) -> None:
    t = times(steps)
    a, b = (share * float(t[-1]) for share in shares)
    found = Integral(t, level + slope * t).over(Window(a, b))
    assert found == pytest.approx(level * (b - a) + slope * (b * b - a * a) / 2, abs=1e-6)


@given(STEPS, st.floats(-3, 3), SHARES, st.sampled_from(RULES))
def test_a_constant_is_integrated_exactly_by_every_rule(
    steps: list[float], level: float, shares: list[float], rule: str
) -> None:
    t = times(steps)
    a, b = (share * float(t[-1]) for share in shares)
    found = Integral(t, np.full(len(t), level), rule).over(Window(a, b))
    assert found == pytest.approx(level * (b - a), abs=1e-9)


@given(STEPS, st.data(), st.sampled_from(RULES))
def test_windows_add_up(steps: list[float], data: st.DataObject, rule: str) -> None:
    t = times(steps)
    values = np.array(data.draw(st.lists(st.floats(-9, 9), min_size=len(t), max_size=len(t))))
    a, b, c = sorted(data.draw(st.floats(0, 1)) * float(t[-1]) for _ in range(3))
    whole = Integral(t, values, rule)
    parts = whole.over(Window(a, b)) + whole.over(Window(b, c))
    assert parts == pytest.approx(whole.over(Window(a, c)), abs=1e-7)
    assert whole.over(Window(b, b)) == 0


@given(STEPS, st.data())
def test_steps_are_integrated_exactly_by_rectangles(
    steps: list[float], data: st.DataObject
) -> None:
    levels = data.draw(st.lists(st.floats(-9, 9), min_size=len(steps), max_size=len(steps)))
    t = times(steps)
    found = Integral(t, np.array([*levels, 0.0]), "rectangle").over(Window(0.0, float(t[-1])))
    assert found == pytest.approx(sum(h * w for h, w in zip(levels, steps, strict=True)), abs=1e-7)


def test_a_sine_is_integrated_within_the_rules_own_error() -> None:
    t = np.arange(0, 1001) * 1e-3
    found = Integral(t, np.sin(math.pi * t)).over(Window(0, 1))
    assert found == pytest.approx(2 / math.pi, abs=math.pi**2 / 12 * 1e-6)


@given(st.floats(0, 1), st.floats(0, 0.2), st.floats(0, 0.3))
def test_uncertainty_is_the_ranges_and_the_edges_share(
    current: float, accuracy: float, edge_s: float
) -> None:
    t = np.linspace(0, 4, 41)
    level = np.full(41, current)
    one = samples(t, level, current_error_a=accuracy * level)
    found = Meterage(one, edge_s=edge_s).of([Window(1, 2), Window(3, 3.5)])
    assert found.seconds == 1.5
    assert found.joules == pytest.approx(2 * current * 1.5)
    assert found.uncertainty_j == pytest.approx(2 * current * (accuracy * 1.5 + 4 * edge_s))


def test_a_baseline_is_subtracted_from_the_power() -> None:
    t = np.linspace(0, 1, 11)
    one = samples(t, np.full(11, 0.5))
    assert energy.mean_power_w(one) == pytest.approx(1.0)
    assert Meterage(one, baseline_w=0.25).of([Window(0, 1)]).joules == pytest.approx(0.75)


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 9)), min_size=1, max_size=20))
def test_marks_last_as_long_as_they_are_high(runs: list[tuple[bool, int]]) -> None:
    high = [level for level, count in runs for _ in range(count)]
    bits = np.array([False, *high, False], np.uint8) << 3
    one = samples(np.arange(len(bits)) * 0.1, np.zeros(len(bits)), marks=bits)
    windows = energy.marked(one, 3)
    assert sum(w.seconds for w in windows) == pytest.approx(0.1 * sum(high))
    assert all(a.stop_s < b.start_s for a, b in itertools.pairwise(windows))
    assert energy.marked(one, 2) == []


def test_marks_that_are_cut_off_begin_and_end_with_the_samples() -> None:
    one = samples(np.arange(3.0), np.zeros(3), marks=np.ones(3, np.uint8))
    assert energy.marked(one, 0) == [Window(0, 2)]
    assert energy.marked(samples(np.arange(3.0), np.zeros(3)), 0) == []


def test_the_timeline_ends_with_the_result_and_leaves_no_gap() -> None:
    us = {
        (0, Phase.PREPROCESS): 9e9, (0, Phase.QUEUE): 1, (0, Phase.INVOKE): 500,
        (0, Phase.ENCODE): 9, (0, Phase.SEND): 90, (0, Phase.DOWNSTREAM): 400,
        (1, Phase.RECEIVE): 80, (1, Phase.DECODE): 3, (1, Phase.INVOKE): 300,
    }  # fmt: skip
    head = energy.timeline(us, 0, 1.0)  # type: ignore[arg-type]
    assert Phase.PREPROCESS not in head
    assert head[Phase.DOWNSTREAM].stop_s == pytest.approx(1.0)
    assert head[Phase.DOWNSTREAM].start_s == pytest.approx(head[Phase.SEND].stop_s)
    assert head[Phase.QUEUE].start_s == pytest.approx(1 - 1000e-6)
    tail = energy.timeline(us, 1, 1.0)  # type: ignore[arg-type]
    assert tail[Phase.RECEIVE].stop_s == pytest.approx(head[Phase.SEND].stop_s)
    assert tail[Phase.RECEIVE].seconds == pytest.approx(80e-6)
    assert tail[Phase.INVOKE].start_s == pytest.approx(1 - 400e-6 + 3e-6)
    assert set(tail) == {Phase.RECEIVE, Phase.DECODE, Phase.INVOKE}


@pytest.mark.parametrize(
    ("time_s", "current_a", "what"),
    [
        ([0.0], [1.0], "fewer than two"),
        ([0.0, 0.0], [1.0, 1.0], "do not increase"),
        ([0.0, 1.0], [1.0, math.nan], "not a finite"),
        ([0.0, 1.0], [1.0, 1.0, 1.0], "not of one length"),
    ],
)
def test_samples_that_are_none_are_refused(
    time_s: list[float], current_a: list[float], what: str
) -> None:
    with pytest.raises(EnergyError, match=what):
        samples(np.array(time_s), np.array(current_a))


def test_windows_that_are_not_in_the_samples_are_refused() -> None:
    whole = Meterage(samples(np.arange(3.0), np.ones(3)))
    with pytest.raises(EnergyError, match=r"from 0\.000000 s to 2\.000000 s only"):
        whole.of([Window(1, 2.5)])
    with pytest.raises(EnergyError, match="ends before"):
        whole.of([Window(1, 0.5)])
    with pytest.raises(EnergyError, match="no rule"):
        Integral(np.arange(3.0), np.ones(3), "simpson")
