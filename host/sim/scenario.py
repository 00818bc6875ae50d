"""A scenario: nodes, links and what goes wrong, from YAML, checked by scenario.schema.json."""

from __future__ import annotations

import difflib
import json
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema

from host.document import Document, DocumentError, text_of
from models.errors import TinysplitError

MAX_NODES = 32
NO_NODE = 255
NO_STAGE = 255  # Of the host that sends updates.

_LOSS = {"medium", "loss", "corrupt"}
_PATH = _LOSS | {"jitter_ms", "delay_ms", "rate_bps", "mtu"}
_MEANT = {
    "wire": _PATH | {"duplicate", "reorder"},
    "espnow": _LOSS | {"version", "rate"},
    "ble": _LOSS | {"phy", "interval_ms", "data_bytes", "mtu"},
    "udp": _PATH | {"duplicate", "reorder"},
    "tcp": _PATH,
}


class ScenarioError(TinysplitError):
    """A scenario that cannot be read or makes no sense."""


@dataclass(frozen=True)
class Scenario:
    """A checked scenario. `nodes` are single ones, in order, with `next` an index among them."""

    name: str
    content: dict[str, Any]
    nodes: tuple[dict[str, Any], ...]

    def __getitem__(self, key: str) -> Any:
        return self.content[key]


@cache
def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of scenarios."""
    loaded: dict[str, Any] = json.loads(
        Path(__file__).with_name("scenario.schema.json").read_text("utf-8")
    )
    return loaded


def read(path: Path) -> Scenario:
    """The scenario in a YAML file.

    Raises:
        ScenarioError: unreadable, no YAML, or not a scenario; unknown keys are named, with the
            nearest known one.
    """
    return of_file(path, content(path))


def content(path: Path) -> Any:
    """What a YAML file holds. Raises ScenarioError."""
    try:
        return Document(text_of(path), {}).content
    except DocumentError as error:
        raise ScenarioError(f"{path}: {error}") from error


def of_file(path: Path, content: Any) -> Scenario:
    """The scenario that a file's content is. Raises ScenarioError."""
    try:
        return parse(content)
    except ScenarioError as error:
        raise ScenarioError(f"{path}: {error}") from error


def parse(content: Any) -> Scenario:
    """A scenario from plain data. Raises ScenarioError."""
    if not isinstance(content, dict):
        raise ScenarioError("a scenario is a mapping of names to values")
    _check(content)
    filled = _filled(content, schema()["properties"])
    filled["link"] = _filled(content["link"], schema()["properties"]["link"]["properties"])
    entry = schema()["properties"]["nodes"]["items"]["properties"]
    entries = [_filled(node, entry) for node in content["nodes"]]
    nodes = _nodes(entries, len(filled["stages"]))
    update = content.get("update")
    if update is not None:
        filled["update"] = _filled(update, schema()["properties"]["update"]["properties"])
        nodes += (_sender(filled, content["nodes"]),)
    if len(nodes) > MAX_NODES:
        raise ScenarioError(f"{len(nodes)} nodes; a simulation has {MAX_NODES} at most")
    return Scenario(filled["name"], filled, nodes)


def _sender(filled: dict[str, Any], given: list[dict[str, Any]]) -> dict[str, Any]:
    """The node that sends updates."""
    if len(filled["update"]["stages"]) != len(filled["stages"]):
        raise ScenarioError("update/stages: both bundles have as many stages")
    if any("bundle" in node for node in given):
        raise ScenarioError("nodes: with `update`, the image in its flash gives a node its bundle")
    own = {key: filled["update"][key] for key in ("reboot_every_s", "down_ms")
           if key in filled["update"]}  # fmt: skip
    entry = schema()["properties"]["nodes"]["items"]["properties"]
    return {**_filled({"stage": NO_STAGE}, entry), **own, "next": NO_NODE}


def _check(content: dict[str, Any]) -> None:
    for error in jsonschema.Draft202012Validator(schema()).iter_errors(content):
        where = "/".join(str(part) for part in error.absolute_path)
        place = f"{where}: " if where else ""
        if error.validator == "additionalProperties":
            known = list(error.schema["properties"])
            unknown = next(str(key) for key in error.instance if key not in known)
            close = difflib.get_close_matches(unknown, known, n=1, cutoff=0)
            raise ScenarioError(
                f"{place}unknown key {unknown!r}; the nearest known is {close[0]!r}"
            )
        raise ScenarioError(f"{place}{error.message[:160]}")
    medium = content["link"]["medium"]
    for key in content["link"]:
        if key not in _MEANT[medium]:
            meant = ", ".join(sorted(_MEANT[medium] - {"medium"}))
            raise ScenarioError(f"link: {key!r} means nothing over {medium}, which has {meant}")
    numbers = [value for value in _leaves(content) if isinstance(value, float)]
    if not all(math.isfinite(value) for value in numbers):
        raise ScenarioError("a number is not finite")


def _leaves(content: Any) -> list[Any]:
    if isinstance(content, dict):
        return [leaf for value in content.values() for leaf in _leaves(value)]
    if isinstance(content, list):
        return [leaf for value in content for leaf in _leaves(value)]
    return [content]


def _filled(given: dict[str, Any], properties: dict[str, Any]) -> dict[str, Any]:
    defaults = {key: known["default"] for key, known in properties.items() if "default" in known}
    shares = {key: 0 for key, known in properties.items() if "$ref" in known}
    return {**defaults, **shares, **given}


def _nodes(entries: list[dict[str, Any]], stages: int) -> tuple[dict[str, Any], ...]:
    first: list[int] = []
    count = 0
    for entry in entries:
        first.append(count)
        count += entry["count"]
        if entry["stage"] >= stages:
            raise ScenarioError(f"a node has stage {entry['stage']}, of {stages}")
    if not any(entry["stage"] == 0 for entry in entries):
        raise ScenarioError("no node has stage 0: nobody begins inferences")
    found = []
    for number, entry in enumerate(entries):
        following = NO_NODE
        if entry["stage"] < stages - 1:
            chosen = entry.get("next")
            if chosen is None:
                same = [i for i, e in enumerate(entries) if e["stage"] == entry["stage"] + 1]
                if not same:
                    raise ScenarioError(f"nodes/{number}: no node has stage {entry['stage'] + 1}")
                chosen = same[0]
            if chosen >= len(entries) or entries[chosen]["stage"] != entry["stage"] + 1:
                raise ScenarioError(f"nodes/{number}: `next` is not an entry of the next stage")
            following = first[chosen]
        found += [{**entry, "next": following}] * entry["count"]
    return tuple(found)
