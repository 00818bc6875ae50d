"""A board's own profile in place of the model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from partitioner.bundle import Bundle
from partitioner.cost import compute, profile
from partitioner.cost.compute import CLOCK_HZ, CostError
from partitioner.cost.operators import Path as KernelPath
from partitioner.cost.operators import Shape, shapes
from partitioner.graph import Graph
from partitioner.plan.cli import calibrate, main

STRANGER = Path(__file__).parents[2] / "data" / "stranger.tflite"


def answer(rows: list[Shape], factor: float) -> dict[str, Any]:
    model = compute.esp32s3()
    timed = [[s.kind, round(factor * model.cycles(s).middle / CLOCK_HZ * 1e6)] for s in rows]
    return {"id": 1, "ok": True, "result": {"operators": timed}}


@pytest.fixture
def bundle(stranger_bundle: Bundle, tmp_path: Path) -> Path:
    stranger_bundle.write(tmp_path / "bundle", force=False)
    return tmp_path / "bundle"


def test_a_board_half_as_fast_gives_plans_twice_as_long(
    invoke: Callable[..., Result], bundle: Path, stranger_bundle: Bundle, tmp_path: Path
) -> None:
    given, fitted = tmp_path / "profile.json", tmp_path / "calibration.json"
    stage = shapes(Graph(stranger_bundle.stages[1]))
    given.write_text(json.dumps(answer(list(stage), 2.0)))
    result = invoke(calibrate, given, bundle, "--stage", 1, "--output", fitted)
    assert result.exit_code == 0, result.output
    assert "fitted: " in result.output
    model = profile.read(fitted)
    for shape in stage:
        assert model.cycles(shape).basis == "profile"
    plans = invoke(main, "--model", STRANGER, "--calibration-file", fitted)
    assert plans.exit_code == 0, plans.output


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda rows: rows[1:], "operators are missing"),
        (lambda rows: [["SOFTMAX", 1], *rows[1:]], "operator 0 of the stage"),
        (lambda rows: [[rows[0][0], -3], *rows[1:]], "negative"),
        (lambda rows: [[rows[0][0], None], *rows[1:]], "no time"),
        (lambda rows: [[kind, 0] for kind, _ in rows], "no operator was timed"),
        (lambda rows: "fast", "has `operators`"),
    ],
)
def test_profiles_that_are_not_the_stages_are_refused(
    stranger_bundle: Bundle, tmp_path: Path, change: Callable[[Any], Any], says: str
) -> None:
    stage = list(shapes(Graph(stranger_bundle.stages[0])))
    rows = answer(stage, 1.0)["result"]["operators"]
    path = tmp_path / "profile.json"
    path.write_text(json.dumps({"operators": change(rows)}))
    with pytest.raises(CostError, match=says):
        profile.read_profile(path, stage)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"operators": [["CONV_2D", 10]]}', "operators are missing, or it is another stage's"),
        ('{"operators": []}', "operators are missing"),
        ("[1, 2", "is no JSON"),
    ],
)
def test_a_bad_profile_ends_in_a_line_and_writes_nothing(
    invoke: Callable[..., Result], bundle: Path, tmp_path: Path, text: str, says: str
) -> None:
    given, fitted = tmp_path / "profile.json", tmp_path / "calibration.json"
    given.write_text(text)
    result = invoke(calibrate, given, bundle, "--output", fitted)
    assert result.exit_code == 1
    assert says in result.output
    assert len(result.output.strip().splitlines()) == 1
    assert not fitted.exists()


def test_a_stage_that_the_bundle_lacks_is_wrong_usage(
    invoke: Callable[..., Result], bundle: Path
) -> None:
    result = invoke(calibrate, bundle, bundle, "--stage", 9)
    assert result.exit_code == 2
    assert "the bundle has stages 0 to" in result.output


@pytest.mark.parametrize("time", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_times_that_are_not_finite_are_refused(
    stranger_bundle: Bundle, tmp_path: Path, time: str
) -> None:
    stage = list(shapes(Graph(stranger_bundle.stages[0])))
    rows = answer(stage, 1.0)["result"]["operators"]
    rows[0][1] = "TIME"
    path = tmp_path / "profile.json"
    path.write_text(json.dumps({"operators": rows}).replace('"TIME"', time))
    with pytest.raises(CostError, match="operator 0 has no time"):
        profile.read_profile(path, stage)


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"version": 9, "paths": {}}', '{"version": 1, "paths": {"ADD": [1]}}',
     '{"version": 1, "paths": {"FASTER": [1]}}', '{"version": 1, "paths": {"ADD": [1, "x"]}}'],
)  # fmt: skip
def test_files_that_are_no_calibration_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(text)
    with pytest.raises(CostError):
        profile.read(path)


def test_each_path_has_as_many_weights_as_features() -> None:
    for shape, _ in [*compute.counted(), *compute.published()]:
        assert len(compute._features(shape)) == compute.feature_count(shape.path)
    assert compute.feature_count(KernelPath.OTHER) == 1
