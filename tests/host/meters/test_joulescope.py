"""Joulescopes: an instrument of known current behind the driver's interface, and that interface."""

import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from host.meters import energy, joulescope, streaming
from host.meters.joulescope import MODELS, PERIOD_S, Joulescope, Signal
from host.meters.meter import GPIO, MEASURED, SAMPLES_LOST, TIMESTAMPS, MeterError
from host.meters.sampled import Sampling
from tests.host.meters import fake_joulescope
from tests.host.meters.fake_joulescope import RATE_HZ, Driver, Instrument

JS220, JS110 = "u/js220/000415", "u/js110/002557"
# An inference of a head: counts of 2 MHz, amperes, volts, marks (0 invoke, 1 send, 3 downstream).
PROFILE = [
    (40_000, 30e-6, 3.31, 0),
    (100_000, 0.065, 3.30, 1),
    (2_000, 0.020, 3.30, 0),
    (60_000, 0.190, 3.28, 2),
    (40_000, 0.045, 3.30, 8),
    (20_000, 0.002, 3.31, 0),
]
TURN = sum(n for n, *_ in PROFILE)
PHASES = {"invoke": 1, "send": 2, "downstream": 8}
Plug = Callable[..., Joulescope]


def millijoules(mark: int) -> float:
    return sum(n / RATE_HZ * a * v for n, a, v, m in PROFILE if m == mark) * 1e3


@pytest.fixture
def plug(monkeypatch: pytest.MonkeyPatch) -> Plug:
    """`plug(Instrument(...), serial=...)`: a meter, with these instruments plugged in.

    They are a thread of this process, which a busy machine may keep waiting.
    """
    monkeypatch.setattr(streaming, "SILENT_S", 10.0)

    def start(*world: Instrument, sampling: Sampling | None = None, **more: Any) -> Joulescope:
        package = fake_joulescope.module(*world)
        monkeypatch.setitem(sys.modules, "pyjoulescope_driver", package)
        return Joulescope(more.pop("serial", None), sampling or Sampling(), **more)

    return start


def whole_turns(meter: Joulescope, seconds: float) -> Any:
    stop = time.monotonic()
    return meter.capture(stop - seconds, stop)


def wait_for(meter: Joulescope, samples: int) -> None:
    until = time.monotonic() + 30
    while meter.samples < samples:
        assert time.monotonic() < until, meter.samples
        time.sleep(0.01)


@pytest.mark.parametrize("jumbled", [False, True])
def test_every_phases_energy_is_within_1_percent(plug: Plug, jumbled: bool) -> None:
    with plug(Instrument(JS220, PROFILE, jumbled=jumbled)) as meter:
        wait_for(meter, 90_000)
        samples = whole_turns(meter, 0.7)
        assert meter.losses == 0
    assert np.allclose(np.diff(samples.time_s), PERIOD_S)
    meterage = energy.Meterage(samples)
    for name, mark in PHASES.items():
        windows = energy.marked(samples, mark.bit_length() - 1)[1:-1]  # Whole ones.
        assert len(windows) >= 2
        found = meterage.of(windows).joules * 1e3 / len(windows)
        assert found == pytest.approx(millijoules(mark), rel=0.01), name
    assert meter.source().provenance == MEASURED
    assert meter.source().name == (
        "Joulescope JS220, means over 10 us, instrument's error not counted"
    )


def test_an_inference_is_told_apart_by_its_marks(plug: Plug) -> None:
    with plug(Instrument(JS220, PROFILE), accuracy_percent=1.0) as meter:
        meter.attach([])
        wait_for(meter, 20_000)
        meter.begin()
        started = time.monotonic()
        time.sleep(4 * TURN / RATE_HZ)
        turns = (time.monotonic() - started) * RATE_HZ / TURN
        found = meter.end({})
        assert meter.source().name.endswith("accurate to 1 %")
    assert found.method == GPIO
    assert {phase for _, phase in found.phases} == set(PHASES)
    for name, mark in PHASES.items():  # The first and the last turn are perhaps cut.
        each = millijoules(mark)
        assert found.phases[0, name] == pytest.approx(turns * each, abs=1.6 * each)
    assert found.uncertainty_mj is not None
    assert 0.01 * found.energy_mj < found.uncertainty_mj < 0.02 * found.energy_mj


def test_a_js110_has_two_inputs_and_marks_the_head_from_end_to_end(plug: Plug) -> None:
    profile = [(n, a, v, {8: 2, 2: 0}.get(m, m)) for n, a, v, m in PROFILE]  # Downstream on 1.
    instrument = Instrument(JS110, profile)
    with plug(instrument) as meter:
        wait_for(meter, 20_000)
        meter.begin()
        time.sleep(2.5 * TURN / RATE_HZ)
        found = meter.end({})
        assert meter.losses == 0
        told = dict(instrument.told)
    assert (told["s/i/lsb_src"], told["s/v/lsb_src"]) == ("gpi0", "gpi1")
    assert {name for name in told if name.startswith("s/gpi/")} == {"s/gpi/0/ctrl", "s/gpi/1/ctrl"}
    assert {phase for _, phase in found.phases} == {"invoke", "downstream"}
    assert meter.source().name.startswith("Joulescope JS110")
    with pytest.raises(MeterError, match="logic inputs 0 to 1") as caught:
        plug(instrument, channels={"send": 2}).__enter__()
    assert caught.value.code == "no_meter"


def test_without_marks_phases_are_where_the_records_say(plug: Plug) -> None:
    flat = [(RATE_HZ, 0.1, 3.3, 0)]
    with plug(Instrument(JS220, flat), sampling=Sampling(baseline_s=0.2)) as meter:
        wait_for(meter, 10_000)
        meter.attach([])
        meter.begin()
        time.sleep(0.1)
        found = meter.end({(0, 1): 60_000, (0, 3): 30_000})
    assert found.method == TIMESTAMPS
    assert found.baseline_mw == pytest.approx(330, rel=0.001)
    assert abs(found.energy_mj) < 0.05


@pytest.mark.parametrize("path", [JS220, JS110])
def test_missing_samples_spoil_their_inference_and_no_other(plug: Plug, path: str) -> None:
    at = RATE_HZ // 2
    with plug(Instrument(path, PROFILE, skip=(at, 1280))) as meter:
        wait_for(meter, 20_000)
        meter.begin()
        wait_for(meter, 65_000)
        with pytest.raises(MeterError, match="lost samples") as caught:
            meter.end({})
        assert caught.value.code == SAMPLES_LOST
        assert caught.value.passes
        time.sleep(0.3)
        meter.begin()
        time.sleep(0.3)
        assert meter.end({}).energy_mj > 0


def test_values_that_are_no_numbers_are_lost_samples(plug: Plug) -> None:
    with plug(Instrument(JS220, PROFILE, unknown=(RATE_HZ // 2, 40))) as meter:
        wait_for(meter, 20_000)
        meter.begin()
        wait_for(meter, 65_000)
        with pytest.raises(MeterError, match="lost samples"):
            meter.end({})


def test_unplugging_and_silence_are_errors_by_name(
    plug: Plug, monkeypatch: pytest.MonkeyPatch
) -> None:
    with plug(Instrument(JS220, PROFILE, vanish_after=RATE_HZ // 2)) as meter:
        wait_for(meter, 20_000)
        meter.begin()
        time.sleep(0.4)
        with pytest.raises(MeterError, match="was unplugged") as caught:
            meter.end({})
        assert (caught.value.code, caught.value.passes) == ("unplugged", False)
    meter.close()
    monkeypatch.setattr(streaming, "SILENT_S", 1.0)
    with plug(Instrument(JS220, PROFILE, stop_after=RATE_HZ // 2)) as meter:
        wait_for(meter, 20_000)
        meter.begin()
        wait_for(meter, 45_000)
        time.sleep(0.1)
        with pytest.raises(MeterError) as caught:
            meter.end({})
        assert caught.value.code == "stopped"


def test_which_instrument_is_said_or_the_only_one(plug: Plug) -> None:
    both = Instrument(JS220, PROFILE), Instrument(JS110, PROFILE)
    for serial, world, told in (
        (None, (), "no Joulescope is connected"),
        ("1", both, "no Joulescope 1 is connected (000415, 002557)"),
        (None, both, "name one by `serial`, of 000415, 002557"),
        (None, (Instrument("u/js320/1", PROFILE),), "none of the Joulescopes known: js220, js110"),
    ):
        with pytest.raises(MeterError) as caught, plug(*world, serial=serial):
            pass
        assert told in str(caught.value)
        assert caught.value.code == "no_meter"
    with plug(*both, serial="002557") as meter:
        assert meter.source().name.startswith("Joulescope JS110")
    with (
        pytest.raises(MeterError, match="close what else uses it") as caught,
        plug(Instrument(JS220, PROFILE, busy=True)),
    ):
        pass
    assert caught.value.code == "busy"


def test_it_is_let_go_of_and_the_drivers_log_too(plug: Plug) -> None:
    log = logging.getLogger("jsdrv")
    before = list(log.handlers), log.propagate
    instrument = Instrument(JS220, PROFILE)
    with plug(instrument):
        assert instrument.told["s/i/ctrl"] == 1
    assert instrument.told["s/i/ctrl"] == instrument.told["s/gpi/3/ctrl"] == 0
    assert (list(log.handlers), log.propagate) == before


def test_without_the_package_the_remedy_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyjoulescope_driver", None)
    with pytest.raises(MeterError, match=r"tinysplit\[meters\]") as caught:
        Joulescope(None, Sampling()).__enter__()
    assert caught.value.code == "not_installed"


@given(st.lists(st.integers(1, 90), min_size=1, max_size=40), st.integers(0, 300), st.data())
def test_however_messages_are_cut_the_samples_are_the_same(
    lengths: list[int], first: int, data: st.DataObject
) -> None:
    values = np.random.default_rng(first).random(sum(lengths))
    signal, at = Signal(), 0
    for length in lengths:
        back = data.draw(st.integers(0, min(at, 15)))  # The driver may repeat itself.
        lost = signal.take((first + at - back) * 2, 2, values[at - back : at + length])
        assert lost == []
        at += length
    start = -(-first // 10)
    wanted = values[start * 10 - first :]
    whole = len(wanted) // 10
    assert signal.count == (start + whole if len(wanted) else signal.count)
    if whole:
        means = wanted[: whole * 10].reshape(whole, 10).mean(axis=1)
        assert signal.between(start, start + whole) == pytest.approx(means)


@given(st.integers(1, 200), st.integers(1, 400), st.integers(1, 200))
def test_no_gap_is_silent(before: int, gap: int, after: int) -> None:
    signal = Signal()
    signal.take(0, 2, np.zeros(before))
    lost = signal.take((before + gap) * 2, 2, np.zeros(after))
    (missing,) = lost
    assert missing[0] * 20 <= before * 2
    assert missing[1] * 20 >= (before + gap) * 2


# The interface that the instrument above stands in at, held against the maker's package.


def test_the_stand_in_has_the_real_drivers_methods() -> None:
    real = fake_joulescope.signatures(pytest.importorskip("pyjoulescope_driver").Driver)
    ours = fake_joulescope.signatures(Driver)
    assert ours.keys() <= real.keys()
    for name, parameters in ours.items():
        assert parameters == real[name], name


@pytest.mark.parametrize("real", [True, False])
def test_both_drivers_do_the_same_without_an_instrument(real: bool) -> None:
    package = pytest.importorskip("pyjoulescope_driver")
    driver = package.Driver() if real else fake_joulescope.module().__dict__["Driver"]()
    try:
        driver.log_level = "warning"
        assert list(driver.device_paths()) == []
        seen: list[tuple[str, Any]] = []
        hear = lambda topic, value: seen.append((topic, value))  # noqa: E731 - of one identity.
        driver.subscribe(joulescope.REMOVED, "pub", hear)
        driver.subscribe(f"{JS220}/s/i/!data", "pub", hear)
        driver.publish(f"{JS220}/s/i/!data", 5, timeout=0)
        deadline = time.monotonic() + 5
        while not seen and time.monotonic() < deadline:
            time.sleep(0.01)
        assert seen == [(f"{JS220}/s/i/!data", 5)]
        driver.unsubscribe(joulescope.REMOVED, hear)
        with pytest.raises(RuntimeError, match="jsdrv_unsubscribe failed 16 NOT_FOUND"):
            driver.unsubscribe(joulescope.REMOVED, hear)
        with pytest.raises(TimeoutError, match="jsdrv_open timed out"):
            driver.open(JS220, "defaults", timeout=0.1)
        with pytest.raises(TimeoutError, match="jsdrv_publish timed out"):
            driver.publish(f"{JS220}/h/fs", 1_000_000, timeout=0.1)
    finally:
        driver.finalize()


def test_every_name_that_is_used_is_in_the_real_driver() -> None:
    """Topics and values that the driver itself knows, the fields of a message, the log's words.

    A JS220's own topics (its ranges, its logic inputs' voltage) come from the instrument.
    """
    binding = pytest.importorskip("pyjoulescope_driver.binding")
    content = Path(binding.__file__).read_bytes()
    signals = [name for n in range(4) for name in (f"s/gpi/{n}/!data", f"s/gpi/{n}/ctrl")]
    words = ["s/i/!data", "s/v/!data", "s/i/ctrl", "s/v/ctrl", *signals, joulescope.REMOVED]
    words += [topic for topic, _ in MODELS["js110"].settings]
    words += ['[128, "auto"]', '[0, "15 V"]', '[2, "gpi0"]', '[3, "gpi1"]', '[3300, "3.3V"]']
    words += ['[2000000, "2 MHz"]', '[1000000, "1 MHz"]', "h/fs", "js110", "js220"]
    words += ["sample_id", "decimate_factor", "sample_rate", "data"]
    words += [joulescope._LOG_NAME, joulescope._SKIPPED]
    assert [word for word in words if word.encode() not in content] == []
    record = pytest.importorskip("pyjoulescope_driver.record")._SIGNALS
    for name, signal in (("current", "i"), ("voltage", "v"), ("gpi[3]", "gpi/3")):
        assert record[name]["data_topic"] == f"s/{signal}/!data"
        assert record[name]["ctrl_topic"] == f"s/{signal}/ctrl"
