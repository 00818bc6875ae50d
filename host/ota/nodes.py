"""The boards of an update as they are named: `--node STAGE=NAME`, or chain by chain in a file."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from host import reach
from host.boards.kinds import KindError
from host.document import Document, DocumentError, text_of
from host.ota.courier import Node
from models.errors import TinysplitError

LAST = -1  # The stage `tail`, until it is known how many there are.
_WORDS = {"head": 0, "tail": LAST}


class NodesError(TinysplitError):
    """Boards that cannot be updated as they are named."""


def parse(label: str, name: str, chain: int = 0) -> Node:
    """The board that runs stage `label` (head, tail, a number) of chain number `chain`.

    Raises:
        NodesError: one of them means nothing.
    """
    if label in _WORDS:
        stage, shown = _WORDS[label], label
    elif re.fullmatch(r"[0-9]{1,3}", label):
        stage, shown = int(label), f"stage {int(label)}"
    else:
        raise NodesError(f"{label[:40]!r} is no stage: write head, tail, or a stage's number")
    try:
        return Node(chain, shown, stage, name, reach.parse(name))
    except KindError as error:
        raise NodesError(str(error)) from error


def read(path: Path) -> list[Node]:
    """The chains in a YAML file, fleet.schema.json.

    Raises:
        NodesError: says what is wrong, and in which line.
    """
    try:
        document = Document(text_of(path), _schema())
        return [node for chain in range(len(document.content)) for node in _chain(document, chain)]
    except DocumentError as error:
        raise NodesError(str(error)) from error


def _chain(document: Document, number: int) -> list[Node]:
    found = []
    for label, name in document.content[number].items():
        try:
            node = parse(label, name, number)
        except NodesError as error:
            raise document.error((number, label), str(error)) from error
        node.label = f"chain {number + 1} {node.label}"
        found.append(node)
    return found


@cache
def _schema() -> dict[str, Any]:
    text = Path(__file__).with_name("fleet.schema.json").read_text("utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def check(nodes: Sequence[Node], stages: int, partial: bool) -> None:
    """Every chain is whole (or `partial`), and no board is named twice. Fills in what `tail` is.

    Raises:
        NodesError: it is not.
    """
    places = [node.place for node in nodes]
    for node in nodes:
        if places.count(node.place) > 1:
            raise NodesError(f"{node.name} is named twice: a board runs one stage")
        if node.stage == LAST:
            node.stage = stages - 1
        if node.stage >= stages:
            raise NodesError(f"{node.label}: there are {stages} stages, 0 to {stages - 1}")
    for chain in {node.chain for node in nodes}:
        own = [node.stage for node in nodes if node.chain == chain]
        if len(set(own)) != len(own):
            raise NodesError("a stage of one chain is named twice; --fleet takes several chains")
        missing = [str(stage) for stage in range(stages) if stage not in own]
        if missing and not partial:
            raise NodesError(
                f"stage {', '.join(missing)} is not named: a chain runs one bundle or gives no "
                "results; name all of it, or say --partial"
            )
