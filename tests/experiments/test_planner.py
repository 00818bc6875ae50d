"""The comparison of planning methods: its YAML, its tables, its command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import Result

from experiments import planner
from host.document import DocumentError

STRANGER = Path(__file__).parents[1] / "data" / "stranger.tflite"


def small(**changes: object) -> dict[str, object]:
    return {
        "networks": {"stranger": {"model": str(STRANGER)}},
        "node": "esp32s3-psram",
        "cases": [
            {"network": "stranger", "hop": "espnow:rate=1M/11M,ble"},
            {"network": "stranger", "hop": "espnow", "objective": "throughput"},
        ],
        "devices": [2, 3],
        "larger": [4],
        "runs": 1,
        **changes,
    }


def written(folder: Path, content: object) -> Path:
    path = folder / "planner.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_the_file_that_ships_is_valid_and_asks_for_what_the_paper_compared() -> None:
    content = planner.read(planner.HERE / "planner.yaml")
    assert set(content["networks"]) == {"MobileNetV2", "ResNet50"}
    assert content["devices"] == [2, 3, 4, 5, 6, 7, 8]
    assert content["bounds_ms"] == {"5": 5, "64": 200}
    assert 64 in content["larger"]
    assert len(content["methods"]) == 6


def test_tables_have_a_row_for_each_chain_and_ours_is_always_the_optimum(
    invoke: Callable[..., Result], tmp_path: Path
) -> None:
    out = tmp_path / "planner.md"
    result = invoke(planner.main, written(tmp_path, small()), "--output", out)
    assert result.exit_code == 0, result.output
    rows = [line.split(" | ") for line in out.read_text().splitlines() if line[:3] in "| 2| 3| 4"]
    rows = [row for row in rows if row[0][2:].isdecimal()]
    assert [row[0] for row in rows] == ["| 2", "| 3", "| 4"] * 2
    assert all(row[3].startswith("1.000 / ") for row in rows)
    assert all(row[4].startswith("1.000 / ") for row in rows[:2])
    assert all(row[4].strip(" |") == "" for row in (rows[2], rows[5]))


def test_planning_slower_than_allowed_is_a_failure(
    invoke: Callable[..., Result], tmp_path: Path
) -> None:
    path = written(tmp_path, small(bounds_ms={2: 0.000001}))
    result = invoke(planner.main, path, "--output", tmp_path / "out.md")
    assert result.exit_code == 1
    assert "exact planning for 2 devices took" in result.output
    assert "| 2 | " in (tmp_path / "out.md").read_text()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"device": [2]}, "unknown key 'device'; the nearest known is 'devices'"),
        ({"networks": {"a": {"model": "x", "sice": 9}}}, "unknown key 'sice'; the nearest"),
        ({"cases": [{"network": "other", "hop": "udp"}]}, "is none of stranger"),
        ({"methods": ["exhaustive"]}, "'exhaustive' is not known; the nearest is"),
        ({"devices": [65]}, "not 65"),
        ({"devices": [0]}, "devices/0: must be a whole number from 1 to 64, not 0"),
        ({"brute_force_plans": float("nan")}, "is not finite"),
        ({"beam_width": -1}, "beam_width: must be a whole number from 1 on, not -1"),
        ({"node": "esp8266"}, "no node 'esp8266'"),
        ({"cases": [{"network": "stranger", "hop": "zigbee"}]}, "no transport 'zigbee'"),
        ({"bounds_ms": {"five": 1}}, "devices"),
    ],
)
def test_files_that_make_no_sense_end_in_a_line(
    invoke: Callable[..., Result], tmp_path: Path, changes: dict[str, object], says: str
) -> None:
    result = invoke(planner.main, written(tmp_path, small(**changes)))
    assert result.exit_code == 1, result.output
    assert says in " ".join(result.output.split())
    assert "Traceback" not in result.output


@pytest.mark.parametrize("content", [b"\xff", b"[]", b"a: [", b"a: 1\na: 2"])
def test_files_that_are_no_yaml_of_ours_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "planner.yaml"
    path.write_bytes(content)
    with pytest.raises(DocumentError):
        planner.read(path)


def test_a_file_that_is_not_there_is_named(invoke: Callable[..., Result]) -> None:
    result = invoke(planner.main, "missing.yaml")
    assert result.exit_code == 2
    assert "missing.yaml" in result.output
