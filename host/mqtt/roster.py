"""What the nodes at a broker say of themselves: their status, their telemetry. Pure.

Anybody who may publish there can say anything: what does not follow the schema is left out, and
there is an end to how much is kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from host.boards import control
from host.boards.control import ControlError
from host.mqtt import topics

MOST_NODES = 1000
LONGEST_BYTES = 1 << 16


@dataclass
class NodeView:
    """A node as it was heard last; `heard_s` is when its telemetry was, by the caller's clock."""

    name: str
    status: Mapping[str, Any] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    heard_s: float | None = None

    @property
    def online(self) -> bool | None:
        """None: it never said."""
        return self.status.get("online")

    @property
    def loop_us(self) -> int | None:
        """The last inference's round trip where it was begun, elsewhere the last invocation."""
        return self.values.get("last_round_trip_us") or self.values.get("last_invoke_us") or None

    @property
    def inferences(self) -> int | None:
        """Begun here, or else invocations of the stage."""
        return self.values.get("inferences") or self.values.get("runs")


class Roster:
    """The nodes, by name. `rejected` counts messages that were left out."""

    def __init__(self) -> None:
        self.nodes: dict[str, NodeView] = {}
        self.rejected = 0

    def take(self, where: str, payload: bytes, now_s: float) -> dict[str, Any] | None:
        """Learn from a message; returns it as a record: `node`, `topic` and what it says.

        None for what tells nothing of a node.

        Raises:
            ControlError: `bad_reply`: it was left out; the text is one printable line.
        """
        found = topics.parse(where)
        if found is None or found[1] not in (topics.STATUS, topics.TELEMETRY) or not payload:
            return None
        name, what = found
        try:
            return self._learn(name, what, payload, now_s)
        except ControlError as error:
            self.rejected += 1
            text = control.printable(f"{name}: its {what} is left out: {error}")
            raise ControlError(error.code, text) from error

    def _learn(self, name: str, what: str, payload: bytes, now_s: float) -> dict[str, Any] | None:
        if len(payload) > LONGEST_BYTES:
            raise ControlError("bad_reply", f"it has {len(payload):,} bytes")
        if what == topics.STATUS:
            said = control.parse_status(payload)
            self._node(name).status = said
            return {"node": name, "topic": what, **said}
        said = control.parse_answer(payload)
        if "event" not in said:
            raise ControlError("bad_reply", "it is no event")
        if said["event"] != "telemetry":
            return {"topic": what, **said, "node": name}
        node = self._node(name)
        node.values, node.heard_s = said.get("values", {}), now_s
        return {"node": name, "topic": what, "values": node.values}

    def _node(self, name: str) -> NodeView:
        if name not in self.nodes and len(self.nodes) >= MOST_NODES:
            raise ControlError("bad_reply", f"there are more than {MOST_NODES} nodes")
        return self.nodes.setdefault(name, NodeView(name))


def as_json(record: Mapping[str, Any]) -> str:
    """A record as a line."""
    return json.dumps(record, separators=(",", ":"))
