"""The PPK2's protocol, real time, losses and plug, against an instrument on a pseudo-terminal."""

import os
import time

import numpy as np
import pytest
from ppk2_api.ppk2_api import PPK2_API

from host.meters import energy, ppk2
from host.meters.meter import GPIO, SAMPLES_LOST, TIMESTAMPS, MeterError
from host.meters.ppk2 import PERIOD_S, Ppk2, amperes, calibration
from host.meters.sampled import Sampling
from tests.host.meters.conftest import PlugIn
from tests.host.meters.fake_ppk2 import METADATA, Behaviour, encoded

VOLTAGE_MV = 3300
# An inference of a head that rests at 30 uA between its phases: all ranges but one.
# Samples of 10 us, amperes, marks: bit 0 invoke, 1 send, 3 downstream.
PROFILE = [
    (2000, 30e-6, 0),
    (5000, 0.065, 1),
    (100, 0.020, 0),
    (3000, 0.190, 2),
    (2000, 0.045, 8),
    (1000, 0.002, 0),
]
TURN_S = sum(n for n, _, _ in PROFILE) * PERIOD_S
PHASES = {"invoke": 1, "send": 2, "downstream": 8}


def joules(mark: int) -> float:
    return sum(n * PERIOD_S * a for n, a, m in PROFILE if m == mark) * VOLTAGE_MV / 1000


def meter(port: str, sampling: Sampling | None = None, mode: str = "source") -> Ppk2:
    return Ppk2(port, mode, VOLTAGE_MV, sampling or Sampling())


def held_against(device: Ppk2, seconds: float) -> None:
    """`seconds` of samples, in one capture, have each phase's energy within 1 %."""
    stop = time.monotonic()
    samples = device.capture(stop - seconds, stop)
    meterage = energy.Meterage(samples)
    for name, mark in PHASES.items():
        windows = energy.marked(samples, mark.bit_length() - 1)[1:-1]  # Whole ones.
        assert len(windows) >= seconds / TURN_S - 4
        found = meterage.of(windows)
        wanted = joules(mark) * len(windows)
        assert found.joules == pytest.approx(wanted, rel=0.01), name
        assert abs(found.joules - wanted) < found.uncertainty_j
        assert found.uncertainty_j < 0.25 * found.joules


def wait_for(device: Ppk2, samples: int) -> None:
    """The instrument is a process of this machine, which may keep it waiting."""
    until = time.monotonic() + 30
    while device.samples < samples:
        assert time.monotonic() < until, device.samples
        time.sleep(0.01)


def test_seconds_of_real_time_lose_nothing_and_have_every_phases_energy(plug_in: PlugIn) -> None:
    port, _ = plug_in(Behaviour(PROFILE))
    with meter(port) as device:
        started, had = time.monotonic(), device.samples
        time.sleep(3)
        held_against(device, 2.5)
        until = time.monotonic() + 10
        while abs(device.samples - had - 100_000 * (time.monotonic() - started)) > 30_000:
            assert time.monotonic() < until, device.samples - had
            time.sleep(0.01)
        assert device.losses == 0
        assert device.source().name == "PPK2, source mode at 3300 mV"


@pytest.mark.skipif("TINYSPLIT_LONG" not in os.environ, reason="ten minutes: make meter-hold")
@pytest.mark.timeout(900)
def test_ten_minutes_lose_nothing(plug_in: PlugIn) -> None:
    port, _ = plug_in(Behaviour(PROFILE))
    with meter(port) as device:
        started = time.monotonic()
        while time.monotonic() - started < 600:
            device.begin()
            time.sleep(10)
            held_against(device, 9.5)
        assert device.losses == 0
        assert device.samples == pytest.approx(100_000 * (time.monotonic() - started), rel=0.01)


def test_an_inference_is_told_apart_by_its_marks(plug_in: PlugIn) -> None:
    port, _ = plug_in(Behaviour(PROFILE))
    with meter(port) as device:
        device.attach([])
        wait_for(device, 10_000)
        before = time.monotonic()
        device.begin()
        started = time.monotonic()
        time.sleep(4 * TURN_S)
        turns = (time.monotonic() - started) / TURN_S
        found = device.end({})
        most = (time.monotonic() - before) / TURN_S
    assert found.method == GPIO
    assert found.baseline_mw is None
    assert {phase for _, phase in found.phases} == set(PHASES)
    for name, mark in PHASES.items():  # The first and the last turn are perhaps cut.
        each = 1e3 * joules(mark)
        assert (turns - 1.6) * each < found.phases[0, name] < (most + 1.6) * each
    assert found.uncertainty_mj is not None
    assert 0 < found.uncertainty_mj < 0.25 * found.energy_mj
    assert found.energy_mj > sum(found.phases.values()) * 0.99


def test_without_marks_phases_are_where_the_records_say(plug_in: PlugIn) -> None:
    port, _ = plug_in(Behaviour([(1000, 0.1, 0)]))
    baseline = Sampling(baseline_s=0.2)
    with meter(port, baseline, "ampere") as device:
        wait_for(device, 10_000)
        device.attach([])
        device.begin()
        time.sleep(0.1)
        found = device.end({(0, 1): 60_000, (0, 3): 30_000, (1, 1): 5_000})
        assert found.method == TIMESTAMPS
        assert found.baseline_mw == pytest.approx(330, rel=0.01)
        assert set(found.phases) == {(0, "invoke"), (0, "send")}
        assert abs(found.energy_mj) < 0.3  # Of 29.7 mJ: nothing is left above the baseline.
        strict = meter(port, Sampling(phases="gpio"))
        strict.capture = device.capture  # type: ignore[method-assign]
        strict.begin()
        with pytest.raises(MeterError, match="D0, D1, D2, D3") as caught:
            strict.end({})
    assert caught.value.code == "no_marks"


def test_a_lost_sample_spoils_its_inference_and_no_other(plug_in: PlugIn) -> None:
    port, _ = plug_in(Behaviour(PROFILE, lose=((100_000, 1),)))
    with meter(port) as device:
        wait_for(device, 10_000)
        device.begin()
        wait_for(device, 110_000)
        with pytest.raises(MeterError, match="lost samples") as caught:
            device.end({})
        assert caught.value.code == SAMPLES_LOST
        assert caught.value.passes
        device.begin()
        time.sleep(0.3)
        assert device.end({}).energy_mj > 0
        assert device.losses == 1


def test_losses_that_the_counter_cannot_show_are_seen_by_the_clock(plug_in: PlugIn) -> None:
    gone = (100_000, 64 * 400)  # 0.256 s.
    port, _ = plug_in(Behaviour(PROFILE, lose=(gone,)))
    with meter(port) as device:
        until = time.monotonic() + 30
        while device.losses < 1:
            assert time.monotonic() < until
            time.sleep(0.05)


def test_unplugging_is_an_error_by_name(plug_in: PlugIn) -> None:
    port, pull = plug_in(Behaviour(PROFILE))
    with meter(port) as device:
        time.sleep(0.1)
        device.begin()
        pull()
        with pytest.raises(MeterError, match="unplugged") as caught:
            device.end({})
    assert caught.value.code == "unplugged"
    assert not caught.value.passes
    device.close()


def test_an_instrument_that_stops_is_an_error_by_name(plug_in: PlugIn) -> None:
    port, _ = plug_in(Behaviour(PROFILE, stop_after=20_000))
    with meter(port) as device:
        device.begin()
        wait_for(device, 20_000)
        time.sleep(0.1)
        with pytest.raises(MeterError) as caught:
            device.end({(0, 1): 100_000})
    assert caught.value.code == "stopped"


def test_what_is_no_ppk2_is_refused(
    plug_in: PlugIn, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ppk2, "_METADATA_S", 0.5)
    port, _ = plug_in(Behaviour(PROFILE, silent=True))
    with pytest.raises(MeterError, match="answers as a PPK2") as caught, meter(port):
        pass
    assert caught.value.code == "no_answer"
    with pytest.raises(MeterError, match="is the PPK2 plugged in") as caught, meter("/dev/nothing"):
        pass
    assert caught.value.code == "no_port"


def test_one_left_measuring_is_taken_over_and_metadata_may_come_in_pieces(plug_in: PlugIn) -> None:
    port, _ = plug_in(Behaviour(PROFILE, split_metadata=True))
    before = PPK2_API(port)
    before.use_ampere_meter()
    before.set_source_voltage(5000)
    before.toggle_DUT_power("ON")
    before.start_measuring()
    time.sleep(0.1)
    before.ser.close()
    with meter(port) as device:
        wait_for(device, 50_000)
        held_against(device, 0.4)


def test_conversion_is_the_packages_own() -> None:
    """ppk2-api's, sample by sample, with the filter after changes of range."""
    hectic = [(n, a, 0) for n in (1, 2, 3, 4, 700) for a in (0.2, 10e-6, 0.03, 0.3, 2e-3, 80e-6)]
    words = encoded([*hectic, *PROFILE], 3.3)
    theirs = PPK2_API.__new__(PPK2_API)
    theirs.ser = None
    fresh(theirs)
    assert theirs._parse_metadata(METADATA)
    wanted, bits = theirs.get_samples(words.astype("<u4").tobytes())
    ours = amperes(words, calibration(METADATA), 3.3)
    assert np.allclose(ours * 1e6, wanted, rtol=1e-9, atol=1e-6)
    assert bits == (words >> 24).tolist()


def fresh(api: PPK2_API) -> None:
    """As its constructor leaves it, without a port."""
    import serial

    class Port:
        baudrate = 0

        def close(self) -> None: ...

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serial, "Serial", lambda *_, **__: Port())
        PPK2_API.__init__(api, "none")
    api.current_vdd = 3300


def test_constants_that_a_unit_lacks_are_nominal_and_counted() -> None:
    own = calibration(METADATA)
    assert own.nominal == 0
    assert own.r[4] == pytest.approx(0.0564)
    partial = calibration(METADATA.replace("R4: 0.056400000", "R4: -nan").replace("UG0", "XX0"))
    assert partial.nominal == 2
    assert partial.r[4] == 0.043
    assert partial.ug[0] == 1.0
