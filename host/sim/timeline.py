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
    """The events of a run, a process for each node and a thread for each kind of thing.

    An inference has its error code, null if it went down with its head.
    """
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
    begun: dict[int, tuple[int, int]] = {}  # By node: inference and when.
    busy: dict[tuple[int, int], dict[str, Any]] = {}  # By row: the last slice that power ends.

    def ended(node: int, at_us: int, code: int | None) -> None:
        if node in begun:
            number, start = begun.pop(node)
            out.append(
                {"ph": "X", "pid": node, "tid": 0, "ts": start, "dur": at_us - start,
                 "name": f"inference {number}", "args": {"code": code}}
            )  # fmt: skip

    for event in events:
        where = {"pid": event.node, "ts": event.at_us}
        if event.kind == "begun":
            begun[event.node] = event.value, event.at_us
        elif event.kind == "result":
            ended(event.node, event.at_us, event.other)
        elif event.kind in ("invoke", "flash"):
            row = 1 if event.kind == "invoke" else 4
            name = "invoke" if event.kind == "invoke" else _STEPS[event.other]
            out.append({**where, "ph": "X", "tid": row, "dur": event.value, "name": name})
            busy[event.node, row] = out[-1]
        elif event.kind == "air":
            out.append(
                {**where, "ph": "X", "tid": 3, "dur": event.value, "name": f"to {event.other}"}
            )
        elif event.kind in ("reboot", "cut"):
            for row in (1, 4):
                if (event.node, row) in busy:
                    last = busy.pop((event.node, row))
                    last["dur"] = min(last["dur"], max(event.at_us - last["ts"], 0))
            ended(event.node, event.at_us, None)
            name = "down" if event.kind == "reboot" else "power cut"
            out.append({**where, "ph": "X", "tid": 0, "dur": event.value, "name": name})
        elif event.kind == "boot":
            arguments = {"version": event.value, "code": event.other}
            out.append({**where, "ph": "i", "tid": 4, "s": "t", "name": "boot", "args": arguments})
        else:
            name = f"{event.kind} {event.frame}"
            arguments = {"bytes": event.length, "peer": event.other}
            out.append({**where, "ph": "i", "tid": 2, "s": "t", "name": name, "args": arguments})
    return {"traceEvents": out, "displayTimeUnit": "ms"}


def encode(trace: dict[str, Any]) -> str:
    """The trace as text: the same for the same run, wherever it ran."""
    return json.dumps(trace, separators=(",", ":")) + "\n"
