"""The firmware's core on a modelled air, in simulated time: 1,000 boundary tensors, all exact."""

from __future__ import annotations

import pytest
from core_on_air import Air


@pytest.mark.parametrize(
    ("version", "loss", "count"), [(1, 0.1, 1000), (2, 0.1, 1000), (1, 0.5, 200), (2, 0.5, 200)]
)
def test_boundary_tensors_arrive_exact_whatever_is_lost(
    version: int, loss: float, count: int
) -> None:
    tried = Air(loss=loss, version=version).try_messages(count)
    assert tried.exact == count
    # What the MAC repeats the protocol must not repeat, too.
    assert tried.data_ratio <= 1.05
    if loss == 0.5:
        assert tried.given_up > 0


def test_without_loss_nothing_is_sent_twice_and_the_air_is_busy() -> None:
    for version in (1, 2):
        tried = Air(version=version).try_messages(50)
        assert tried.data_ratio == 1.0
        assert tried.airtime > 0.85


def test_a_tensor_takes_as_long_as_its_frames() -> None:
    # 23 frames of 250 bytes at 3.21 ms each, and an acknowledgement.
    assert Air().try_messages(50).mean_ms == pytest.approx(23 * 3.21 + 1.3, rel=0.03)
