"""Meters in sweeps: what rows say of energy, and what a meter that fails does to a sweep."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from host.bench import store
from host.bench.cli import bench
from host.meters import streaming
from partitioner.bundle import Bundle
from tests.host.meters import fake_joulescope
from tests.host.meters.conftest import PlugIn
from tests.host.meters.fake_joulescope import Instrument
from tests.host.meters.fake_ppk2 import Behaviour
from tests.host.meters.test_replay import capture

EXPERIMENT = """\
version: 1
name: metered
models: [{name: stranger, bundle: bundle}]
transports: [udp]
inputs: {images: selftest, count: 2}
method: {runs: 1, run_seconds: 0.1, run_inferences: 4, warm_up_inferences: 2, give_up_after: 10000}
"""
Sweep = Callable[[str], tuple[Result, list[dict[str, Any]], list[dict[str, Any]]]]


@pytest.fixture
def sweep(stranger_bundle: Bundle, tmp_path: Path, invoke: Callable[..., Result]) -> Sweep:
    """Runs the experiment with these meters: what it printed, its rows, its cells."""
    stranger_bundle.write(tmp_path / "bundle")

    def run(meters: str) -> tuple[Result, list[dict[str, Any]], list[dict[str, Any]]]:
        path, out = tmp_path / "metered.yaml", tmp_path / "out"
        path.write_text(f"{EXPERIMENT}meters: {meters}\n")
        done = invoke(bench, path, "--output", out, "--quiet")
        return done, store.read(out).rows.to_pylist(), store.read_state(out).cells

    return run


def test_a_ppk2_gives_every_row_its_energy(plug_in: PlugIn, sweep: Sweep) -> None:
    port, _ = plug_in(Behaviour([(1000, 0.1, 0)]))  # 100 mA without end, no marks: 330 mW.
    spec = {"name": "power", "meter": "ppk2", "port": port, "mode": "source", "voltage_mv": 3300}
    done, rows, _ = sweep(json.dumps([spec]))
    assert done.exit_code == 0, done.output
    assert len(rows) >= 6
    for row in rows:
        assert row["error"] is None
        assert row["energy_source"] == "PPK2, source mode at 3300 mV"
        assert (row["energy_method"], row["energy_provenance"]) == ("timestamps", "measured")
        lasted_us = sum(p["duration_us"] for p in row["phases"] if p["stage"] == 0)
        lasted_us -= row["preprocess_us"]
        by_power = lasted_us * 0.330 / 1e3
        assert row["energy_mj"] == row["energy_head_mj"] == pytest.approx(by_power, rel=0.01)
        assert row["energy_tail_mj"] is None
        assert row["energy_baseline_mw"] is None
        assert row["energy_uncertainty_mj"] > 0.15 * row["energy_mj"]
        shares = {share["phase"]: share["energy_mj"] for share in row["energy_phases"]}
        assert sum(shares.values()) == pytest.approx(row["energy_mj"])
        assert {"invoke", "send", "downstream"} <= set(shares)


def test_a_joulescope_gives_every_row_its_energy(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It is a thread of this process, which a busy machine may keep waiting.
    monkeypatch.setattr(streaming, "SILENT_S", 30.0)
    monkeypatch.setattr(streaming, "_BEHIND_S", 30.0)
    flat = Instrument("u/js220/000415", [(2_000_000, 0.1, 3.3, 0)])  # 330 mW, no marks.
    monkeypatch.setitem(sys.modules, "pyjoulescope_driver", fake_joulescope.module(flat))
    wanted = {"meter": "joulescope", "serial": "000415", "accuracy_percent": 2}
    absent = {"name": "absent", "meter": "joulescope", "serial": "1"}
    _, rows, cells = sweep(json.dumps([wanted, absent]))
    assert {cell["coordinates"]["meter"]: cell["state"] for cell in cells} == {
        "joulescope": "done", "absent": "failed",
    }, [cell["reason"] for cell in cells]  # fmt: skip
    for row in rows:
        if row["meter"] == "absent":
            assert row["error_code"] == "no_meter"
            continue
        assert row["energy_source"].startswith("Joulescope JS220")
        assert (row["energy_method"], row["energy_provenance"]) == ("timestamps", "measured")
        lasted_us = sum(p["duration_us"] for p in row["phases"] if p["stage"] == 0)
        lasted_us -= row["preprocess_us"]
        assert row["energy_mj"] == pytest.approx(lasted_us * 0.330 / 1e3, rel=0.01)


def test_a_meter_that_is_pulled_out_fails_its_cell_and_not_the_sweep(
    plug_in: PlugIn, sweep: Sweep, tmp_path: Path
) -> None:
    port, _ = plug_in(Behaviour([(1000, 0.1, 0)], vanish_after=25_000))
    ppk2 = {"meter": "ppk2", "port": port, "voltage_mv": 3300, "baseline_s": 0.4}
    capture(tmp_path / "c.csv")
    replay = {"meter": "replay", "file": "c.csv", "voltage_mv": 5000, "phases": "timestamps"}
    done, rows, cells = sweep(json.dumps([ppk2, replay]))
    assert done.exit_code == 1
    assert "Traceback" not in done.output
    by_meter = {cell["coordinates"]["meter"]: cell for cell in cells}
    assert by_meter["ppk2"]["state"] == "failed"
    assert f"the PPK2 on {port} was unplugged" in by_meter["ppk2"]["reason"]
    assert by_meter["replay"]["state"] == "done"
    for row in rows:
        if row["meter"] == "ppk2":
            assert row["error_code"] == "unplugged"
        else:
            assert row["energy_provenance"] == "replayed"
            assert row["energy_source"] == "replay of c.csv"
            assert row["energy_mj"] > 0


def test_a_lost_sample_costs_its_inference_and_not_the_cell(plug_in: PlugIn, sweep: Sweep) -> None:
    # For 40 ms one every 5 ms, for 40 ms none: a run is longer, an inference shorter.
    port, _ = plug_in(Behaviour([(1000, 0.1, 0)], lose_by_turns=(8000, 4000, 500)))
    done, rows, _ = sweep(json.dumps([{"meter": "ppk2", "port": port, "voltage_mv": 3300}]))
    assert done.exit_code == 0, done.output
    spoilt = [row for row in rows if row["error_code"] == "samples_lost"]
    assert spoilt
    assert all((row["energy_mj"], row["round_trip_us"]) == (None, None) for row in spoilt)
    whole = [row for row in rows if row["error"] is None]
    assert len(whole) >= 4
    assert all(row["energy_mj"] > 0 for row in whole)


def test_meters_that_are_not_there_fail_their_cells_by_name(sweep: Sweep) -> None:
    replay = {"meter": "replay", "file": "nothing.csv"}
    none = [{**replay, "name": "far", "stage": 3}, replay, "board"]
    none.append({"meter": "ppk2", "port": "/dev/nothing", "voltage_mv": 3300})
    done, rows, cells = sweep(json.dumps(none))
    assert done.exit_code == 1
    assert {cell["state"] for cell in cells} == {"failed"}
    assert {row["meter"]: row["error_code"] for row in rows} == {
        "far": "no_stage", "replay": "bad_file", "board": "no_meter", "ppk2": "no_port",
    }  # fmt: skip
