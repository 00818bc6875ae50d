"""Captures in CSV files."""

import time
from pathlib import Path

import numpy as np
import pytest

from host.meters import replay
from host.meters.meter import GPIO, REPLAYED, MeterError
from host.meters.replay import Replay
from host.meters.sampled import Sampling


def capture(path: Path) -> Path:
    """A turn of 100 ms at 1 kHz and 5 V: 10 mA, and 110 mA while D0 is high, for 40 ms."""
    rows = [f"{k / 1000},{0.11 if 30 <= k < 70 else 0.01},{int(30 <= k < 70)}" for k in range(100)]
    path.write_text("time_s,current_a,d0\n" + "\n".join(rows) + "\n")
    return path


def test_a_capture_is_played_over_and_over(tmp_path: Path) -> None:
    with Replay(capture(tmp_path / "c.csv"), 5000, Sampling(rule="rectangle")) as meter:
        meter.attach([])
        meter.begin()
        time.sleep(0.35)
        found = meter.end({})
        samples = meter.capture(time.monotonic(), time.monotonic() + 1.0)
    assert meter.source().provenance == REPLAYED
    assert meter.source().name == "replay of c.csv"
    assert found.method == GPIO
    assert set(found.phases) == {(0, "invoke")}
    assert np.allclose(np.diff(samples.time_s), 1e-3)
    # Ten turns of 40 ms at 110 mA and 60 ms at 10 mA.
    power = float((samples.current_a * samples.voltage_v)[:1000].mean())
    assert power == pytest.approx(5 * (0.4 * 0.11 + 0.6 * 0.01), rel=0.01)
    assert found.phases[0, "invoke"] == pytest.approx(3.5 * 5 * 0.11 * 40, rel=0.4)


def test_voltages_and_marks_may_be_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_text("d7,voltage_v,time_s,current_a,d0\n1,3,0,0.1,0\n0,4,1,0.2,1\n")
    found = replay.read(path, None)
    assert found.voltage_v.tolist() == [3, 4]
    assert found.current_a.tolist() == [0.1, 0.2]
    assert found.marks is not None
    assert found.marks.tolist() == [128, 1]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (None, "cannot be read"),
        ("", "first line must name"),
        ("time_s,amps\n", "first line must name"),
        ("time_s,current_a,watts\n0,1,2\n", "unknown column 'watts'"),
        ("time_s,current_a,voltage_v\n0,1,1\n1,x,1\n", "line 3 is not 3 numbers"),
        ("time_s,current_a,voltage_v\n0,1\n", "line 2 is not 3 numbers"),
        ("time_s,current_a,voltage_v\n0,1,1\n0,1,1\n", "do not increase"),
        ("time_s,current_a,voltage_v\n0,1,1\n1,nan,1\n", "not a finite number"),
        ("time_s,current_a,voltage_v,d3\n0,1,1,2\n1,1,1,0\n", "column d3 is a logic input"),
        ("time_s,current_a\n0,1\n1,1\n", "voltage_mv"),
    ],
)
def test_what_is_no_capture_is_refused(tmp_path: Path, text: str | None, what: str) -> None:
    path = tmp_path / "c.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(MeterError, match=what) as caught:
        replay.read(path, None)
    assert caught.value.code == "bad_file"
    assert "\n" not in str(caught.value)


def test_without_marks_the_time_that_nobody_accounts_for_is_uncertain(tmp_path: Path) -> None:
    """50 ms of phases in 200 ms: the result may have been there 150 ms before it was here."""
    path = tmp_path / "c.csv"
    path.write_text("time_s,current_a,voltage_v\n0,0.1,5\n0.001,0.1,5\n")
    with Replay(path, None, Sampling()) as meter:
        meter.begin()
        time.sleep(0.2)
        found = meter.end({(0, 1): 50_000, (1, 1): 900_000})
    assert found.energy_mj == pytest.approx(25)
    assert found.uncertainty_mj is not None
    assert 2 * 0.15 * 500 <= found.uncertainty_mj < 2 * 0.25 * 500
