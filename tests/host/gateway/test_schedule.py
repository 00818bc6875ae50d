"""Whose turn it is."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from host.gateway.schedule import MOST_TAKEN, Head, Job, Schedule


def head(peer: object) -> Head:
    nobody: Any = None
    return Head(nobody, peer, 1, nobody, 0)


def job(of: Head, deadline_us: int = 1000) -> Job:
    event: Any = SimpleNamespace(deadline_us=deadline_us)
    return Job(of, event, 0)


def test_a_head_that_asks_more_waits_for_itself() -> None:
    schedule, greedy, modest = Schedule(100), head("greedy"), head("modest")
    for _ in range(6):
        schedule.add(job(greedy))
    schedule.add(job(modest))
    schedule.add(job(modest))
    turns = [one.head.peer for one in iter(schedule.take, None)]
    assert turns[:4] == ["greedy", "modest", "greedy", "modest"]
    assert len(turns) == 8


def test_what_does_not_fit_is_refused() -> None:
    schedule, one = Schedule(2), head(1)
    assert [schedule.add(job(one)) for _ in range(3)] == [True, True, False]
    assert len(schedule) == 2


def test_what_comes_back_is_next_and_always_fits() -> None:
    schedule, first, second = Schedule(2), head(1), head(2)
    schedule.add(job(first))
    schedule.add(job(second))
    taken = schedule.take()
    assert taken is not None
    schedule.add(job(second))
    schedule.again(taken)
    assert len(schedule) == 3
    assert schedule.take() is taken


def test_a_head_that_takes_no_answers_is_passed_over_until_it_does() -> None:
    schedule, mute, other = Schedule(100), head("mute"), head("other")
    for _ in range(MOST_TAKEN + 2):
        schedule.add(job(mute))
    schedule.add(job(other))
    turns = Counter(one.head.peer for one in iter(schedule.take, None))
    assert turns == {"mute": MOST_TAKEN, "other": 1}
    schedule.add(job(mute))
    assert schedule.take() is None
    schedule.settled(mute)
    assert schedule.take() is not None
    assert schedule.take() is None
    assert len(schedule) == 2


def test_what_nobody_waits_for_is_taken_out_wherever_it_stands() -> None:
    schedule, mute, other = Schedule(100), head("mute"), head("other")
    for _ in range(MOST_TAKEN + 1):
        schedule.add(job(mute, deadline_us=10))
    while schedule.take():
        pass
    schedule.add(job(other, deadline_us=10))
    schedule.add(job(other, deadline_us=30))
    assert [one.head.peer for one in schedule.late(20)] == ["other", "mute"]
    assert len(schedule) == 1


def test_a_session_that_ends_takes_its_requests_along() -> None:
    schedule, one, other = Schedule(100), head(1), head(2)
    schedule.add(job(one))
    schedule.add(job(other))
    assert schedule.forget(one) == 1
    taken = schedule.take()
    assert taken is not None
    assert taken.head is other
    assert schedule.take() is None


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["add", "take", "again", "settled", "forget", "late"]),
            st.integers(0, 3),
        ),
        max_size=80,
    )
)
def test_nothing_is_lost_or_taken_twice(steps: list[tuple[str, int]]) -> None:
    schedule, heads = Schedule(1 << 30), [head(n) for n in range(4)]
    waiting: set[Job] = set()
    taken: list[Job] = []
    for step, number in steps:
        one = heads[number]
        if step == "add":
            fresh = job(one, deadline_us=number)
            assert schedule.add(fresh)
            waiting.add(fresh)
        elif step == "take":
            found = schedule.take()
            if found is None:
                assert all(other.head.taken >= MOST_TAKEN for other in waiting)
                continue
            waiting.remove(found)
            taken.append(found)
        elif step == "again" and taken:
            waiting.add(taken[-1])
            schedule.again(taken.pop())
        elif step == "settled" and any(other.head is one for other in taken):
            taken.remove(next(other for other in taken if other.head is one))
            schedule.settled(one)
        elif step == "forget":
            gone = {other for other in waiting if other.head is one}
            assert schedule.forget(one) == len(gone)
            waiting -= gone
        elif step == "late":
            late = set(schedule.late(number))
            assert late == {other for other in waiting if other.event.deadline_us <= number}
            waiting -= late
        assert len(schedule) == len(waiting)
        assert len(schedule) == sum(len(other.waiting) for other in heads)
