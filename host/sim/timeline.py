"""A run as a timeline in Chrome's trace format, for ui.perfetto.dev or chrome://tracing.

The format is the "JSON Object Format" of the Trace Event Format document by the Chromium project.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from host.sim.scenario import NO_STAGE, Scenario
from host.sim.world import Event

_ROWS = ("inference", "engine", "frames", "air")
_FLASH = "flash"
_STEPS = ("begin", "piece", "finish", "activate", "restart")  # enum sim_step


def chrome_trace(scenario: Scenario, events: Sequence[Event]) -> dict[str, Any]:
    """The events of a run, a process for each node and a thread for each kind of thing."""
    out: list[dict[str, Any]] = []
    rows = (*_ROWS, _FLASH) if "update" in scenario.content else _ROWS
    for number, node in enumerate(scenario.nodes):
        sends = node["stage"] == NO_STAGE
        name = f"node {number}, " + ("updates" if sends else f"stage {node['stage']}")
        out.append({"ph": "M", "pid": number, "name": "process_name", "args": {"name": name}})
        out += [
            {"ph": "M", "pid": number, "tid": row, "name": "thread_name", "args": {"name": text}}
            for row, text in enumerate(rows)
        ]
    begun: dict[tuple[int, int], int] = {}
    for event in events:
        where = {"pid": event.node, "ts": event.at_us}
        if event.kind == "begun":
            begun[event.node, event.value] = event.at_us
        elif event.kind == "result" and (event.node, event.value) in begun:
            start = begun.pop((event.node, event.value))
            duration = event.at_us - start
            out.append(
                {"ph": "X", "pid": event.node, "tid": 0, "ts": start, "dur": duration,
                 "name": f"inference {event.value}", "args": {"code": event.other}}
            )  # fmt: skip
        elif event.kind == "invoke":
            out.append({**where, "ph": "X", "tid": 1, "dur": event.value, "name": "invoke"})
        elif event.kind == "air":
            out.append(
                {**where, "ph": "X", "tid": 3, "dur": event.value, "name": f"to {event.other}"}
            )
        elif event.kind in ("reboot", "cut"):
            name = "down" if event.kind == "reboot" else "power cut"
            out.append({**where, "ph": "X", "tid": 0, "dur": event.value, "name": name})
            begun = {key: start for key, start in begun.items() if key[0] != event.node}
        elif event.kind == "boot":
            arguments = {"version": event.value, "code": event.other}
            out.append({**where, "ph": "i", "tid": 4, "s": "t", "name": "boot", "args": arguments})
        elif event.kind == "flash":
            name = _STEPS[event.other]
            out.append({**where, "ph": "X", "tid": 4, "dur": event.value, "name": name})
        else:
            name = f"{event.kind} {event.frame}"
            arguments = {"bytes": event.length, "peer": event.other}
            out.append({**where, "ph": "i", "tid": 2, "s": "t", "name": name, "args": arguments})
    return {"traceEvents": out, "displayTimeUnit": "ms"}


def encode(trace: dict[str, Any]) -> str:
    """The trace as text: the same for the same run, wherever it ran."""
    return json.dumps(trace, separators=(",", ":")) + "\n"
