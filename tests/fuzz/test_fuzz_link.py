"""The fuzz target runs, briefly, with every test run."""

from fuzz_link import at_random


def test_random_scripts() -> None:
    assert at_random(2.0, 1) > 10
