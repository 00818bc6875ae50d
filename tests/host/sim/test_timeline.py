"""Timelines: valid in Chrome's trace format, and of what happened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from host.sim import scenario as scenarios
from host.sim import timeline, world

FOLDER = Path(__file__).parents[3] / "experiments" / "sim"

# Of the "Trace Event Format" document: complete (X), instant (i) and metadata (M) events, which the
# importers of Perfetto and chrome://tracing take; times in microseconds.
_INTEGER = {"type": "integer", "minimum": 0}
_PLACE = {"pid": _INTEGER, "name": {"type": "string", "minLength": 1}}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["traceEvents"],
    "properties": {
        "displayTimeUnit": {"enum": ["ms", "ns"]},
        "traceEvents": {
            "type": "array",
            "items": {
                "oneOf": [
                    {
                        "required": ["ph", "pid", "tid", "ts", "dur", "name"],
                        "properties": {**_PLACE, "ph": {"const": "X"}, "tid": _INTEGER,
                                       "ts": _INTEGER, "dur": _INTEGER, "args": {"type": "object"}},
                        "additionalProperties": False,
                    },
                    {
                        "required": ["ph", "pid", "tid", "ts", "name", "s"],
                        "properties": {**_PLACE, "ph": {"const": "i"}, "tid": _INTEGER,
                                       "ts": _INTEGER, "s": {"enum": ["g", "p", "t"]},
                                       "args": {"type": "object"}},
                        "additionalProperties": False,
                    },
                    {
                        "required": ["ph", "pid", "name", "args"],
                        "properties": {**_PLACE, "ph": {"const": "M"}, "tid": _INTEGER,
                                       "args": {"type": "object", "required": ["name"]}},
                        "additionalProperties": False,
                    },
                ]
            },
        },
    },
}  # fmt: skip


@pytest.fixture(scope="module", params=["two_chains", "hostile_update", "ble_chain", "many_heads"])
def trace(request: pytest.FixtureRequest) -> dict[str, Any]:
    whole = scenarios.content(FOLDER / f"{request.param}.yaml")
    short = scenarios.parse({**whole, "seconds": 8, "settle_seconds": 5})
    _, events = world.run(short, 1, trace=True)
    made: dict[str, Any] = json.loads(timeline.encode(timeline.chrome_trace(short, events)))
    return made


def test_it_is_in_the_trace_event_format(trace: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(SCHEMA).validate(trace)


def test_slices_of_a_row_do_not_overlap(trace: dict[str, Any]) -> None:
    """Viewers drop or misplace slices of one thread that overlap without one holding the other."""
    free: dict[tuple[int, int], int] = {}
    slices = [e for e in trace["traceEvents"] if e["ph"] == "X"]
    for event in sorted(slices, key=lambda e: e["ts"]):
        row = event["pid"], event["tid"]
        assert event["ts"] >= free.get(row, 0), event
        free[row] = event["ts"] + event["dur"]
    assert len(slices) > 100


def test_every_row_and_node_has_a_name(trace: dict[str, Any]) -> None:
    events = trace["traceEvents"]
    named = {e["pid"] for e in events if e["ph"] == "M" and e["name"] == "process_name"}
    rows = {(e["pid"], e["tid"]) for e in events if e["ph"] == "M" and e["name"] == "thread_name"}
    assert {e["pid"] for e in events} == named
    assert {(e["pid"], e["tid"]) for e in events if e["ph"] != "M"} <= rows


def test_nothing_runs_while_a_node_is_down(trace: dict[str, Any]) -> None:
    slices = [e for e in trace["traceEvents"] if e["ph"] == "X" and e["tid"] in (0, 1, 4)]
    for dark in (e for e in slices if e["name"] in ("down", "power cut")):
        end = dark["ts"] + dark["dur"]
        own = [e for e in slices if e["pid"] == dark["pid"] and e is not dark]
        assert all(e["ts"] + e["dur"] <= dark["ts"] or e["ts"] >= end for e in own)
