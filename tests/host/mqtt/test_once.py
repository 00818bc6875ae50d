"""What a node remembers of the commands it has taken."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from host.mqtt.once import ANSWERS, IDS, Once, Verdict

LINE = b'{"cmd":"info"}'


def taken(once: Once, command_id: str, after: int | None = None) -> Verdict:
    verdict = once.admit(command_id, LINE, after)
    if verdict is Verdict.NEW:
        once.keep(command_id, command_id.encode())
    return verdict


def test_a_command_is_new_once() -> None:
    once = Once()
    assert once.admit("a", LINE) is Verdict.NEW
    assert once.admit("a", LINE) is Verdict.PENDING
    once.keep("a", b"answer")
    assert once.admit("a", LINE) is Verdict.DONE
    assert (once.answer("a"), once.count) == (b"answer", 1)
    assert once.admit(1, LINE) is Verdict.NEW
    assert once.admit("1", LINE) is Verdict.NEW  # A number and a text are two ids.


def test_another_command_of_the_same_id_is_not_taken_for_the_first() -> None:
    once, other = Once(), b'{"cmd":"reboot"}'
    assert once.admit("a", LINE) is Verdict.NEW
    assert once.admit("a", other, after=0) is Verdict.REUSED
    assert once.admit("a", LINE) is Verdict.PENDING
    once.keep("a", b"answer")
    assert once.admit("a", other) is Verdict.REUSED
    assert once.admit("a", LINE) is Verdict.DONE
    assert (once.answer("a"), once.count) == (b"answer", 1)
    for number in range(IDS):
        taken(once, str(number))
    assert once.admit("a", other) is Verdict.NEW  # Forgotten, so it is free again.


def test_answers_are_kept_of_the_last_only() -> None:
    once = Once()
    for number in range(ANSWERS + 1):
        taken(once, str(number))
    assert [once.answer(str(n)) is None for n in range(ANSWERS + 1)] == [True] + [False] * ANSWERS
    assert taken(once, "0") is Verdict.DONE


def test_a_large_answer_is_not_kept() -> None:
    once = Once()
    taken(once, "small")
    once.admit("large", LINE)
    once.keep("large", bytes(2 << 20))
    assert once.answer("large") is None
    assert once.admit("large", LINE) is Verdict.DONE


def test_what_may_be_forgotten_is_not_done() -> None:
    once = Once()
    for number in range(IDS + 1):
        assert taken(once, str(number), after=number) is Verdict.NEW
    assert once.admit("0", LINE, after=0) is Verdict.FORGOTTEN
    assert once.admit("0", LINE, after=once.count + 1) is Verdict.FORGOTTEN
    assert once.admit("late", LINE, after=1) is Verdict.NEW  # So many are remembered.


def test_what_is_under_way_is_not_forgotten() -> None:
    once = Once()
    once.admit("long", LINE)
    for number in range(3 * IDS):
        taken(once, str(number))
    assert once.admit("long", LINE) is Verdict.PENDING


@given(st.lists(st.tuples(st.integers(0, 80), st.integers(0, 60)), max_size=300))
def test_nothing_that_says_when_it_was_made_is_done_twice(events: list[tuple[int, int]]) -> None:
    """Each id is made once, with the count of then, and comes again whenever it likes."""
    once, made, done = Once(), dict[int, int](), list[int]()
    for command_id, others in events:
        after = made.setdefault(command_id, once.count)
        if taken(once, str(command_id), after) is Verdict.NEW:
            done.append(command_id)
        for number in range(others // 10):
            taken(once, f"other {once.count} {number}")
    assert len(done) == len(set(done))
