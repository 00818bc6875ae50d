"""The manifest of a bundle: what is in it, and how its stages fit together.

`manifest.schema.json` beside this file documents every field and is enforced both
when a manifest is written and when it is read.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np

from models.errors import TinysplitError

FORMAT = 1
NOT_IN_ID = ("tools", "verification", "accuracy")


class ManifestError(TinysplitError):
    """A manifest that does not follow the schema, or contradicts itself."""


@dataclass(frozen=True)
class TensorSpec:
    """A tensor that crosses between nodes; bytes are little-endian, C order."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float | None
    zero_point: int | None

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class OperatorSpec:
    """An operator of a stage; its outputs' checksums start at column `crc_index`."""

    kind: str
    macs: int
    output_shapes: tuple[tuple[int, ...], ...]
    crc_index: int


@dataclass(frozen=True)
class Route:
    """Where a tensor that a node sends comes from: its model's output, or what it received."""

    source: str  # "output" or "received"
    index: int


@dataclass(frozen=True)
class StageSpec:
    """One stage: its file, what it costs, and its wiring.

    `inputs[i]` is which of the received tensors is input i of the stage's file; `sent[j]` is
    where tensor j of what the node sends on comes from.
    """

    file: str
    flash_bytes: int
    arena_bytes: int | None
    macs: int
    operator_kinds: tuple[str, ...]
    operators: tuple[OperatorSpec, ...]
    inputs: tuple[int, ...]
    outputs: tuple[TensorSpec, ...]
    sent: tuple[Route, ...]


@dataclass(frozen=True)
class Boundary:
    """The tensors that cross a cut, in the order in which they travel."""

    layer: str
    payload_bytes: int
    tensors: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class Manifest:
    """Everything a node, a planner or a reader has to know of a bundle."""

    format: int
    model: dict[str, Any]
    tools: dict[str, str]
    calibration: dict[str, Any] | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    boundaries: tuple[Boundary, ...]
    stages: tuple[StageSpec, ...]
    full: dict[str, Any]
    selftest: dict[str, Any]
    verification: dict[str, Any]
    accuracy: dict[str, Any] | None
    files: dict[str, str]

    @property
    def id(self) -> str:
        """The bundle id: SHA-256 over the manifest as canonical JSON, without NOT_IN_ID.

        Canonical: keys sorted, no spaces, ASCII. The manifest names the SHA-256 of every file,
        so the id covers all of the bundle's contents. What is left out says how the contents
        were made and tested: two bundles of the same contents have the same id.
        """
        covered = {key: value for key, value in _plain(self).items() if key not in NOT_IN_ID}
        content = json.dumps(covered, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(content.encode("ascii")).hexdigest()

    @property
    def cut_positions(self) -> tuple[int, ...]:
        """For each boundary, how many operators of the uncut model lie before it."""
        return tuple(itertools.accumulate(len(s.operators) for s in self.stages[:-1]))

    def received(self, stage: int) -> tuple[TensorSpec, ...]:
        """The tensors that reach the node running `stage`."""
        return self.boundaries[stage - 1].tensors if stage else self.inputs

    def to_json(self) -> str:
        """The text of manifest.json.

        Raises:
            ManifestError: a field the schema forbids.
        """
        content = {"id": self.id, **_plain(self)}
        _validate(content)
        return json.dumps(content, indent=2) + "\n"


def parse(text: str) -> Manifest:
    """The manifest in the text of a manifest.json, checked against schema, id and itself.

    Raises:
        ManifestError: no JSON, against the schema, of another format, or contradicting itself.
    """
    try:
        content = json.loads(
            text,
            parse_constant=_refuse,
            parse_float=_finite,
            object_pairs_hook=_without_duplicates,
        )
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"manifest.json is no JSON: {error}") from error
    found = content.get("format") if isinstance(content, dict) else None
    if isinstance(found, int) and found != FORMAT:
        raise ManifestError(
            f"the bundle has format {found}, this tinysplit reads format {FORMAT}; "
            "make the bundle again or use the matching tinysplit"
        )
    _validate(content)
    claimed = content.pop("id")
    manifest = _build(content)
    if manifest.id != claimed:
        raise ManifestError("the manifest was changed after it was written (its id does not match)")
    _check_wiring(manifest)
    return manifest


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")


def _finite(number: str) -> float:
    value = float(number)
    if math.isinf(value):
        raise ValueError(f"{number} is beyond what a number holds")
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return content


def _build(content: dict[str, Any]) -> Manifest:
    def tensors(rows: list[dict[str, Any]]) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(**{**row, "shape": tuple(row["shape"])}) for row in rows)

    def stage(row: dict[str, Any]) -> StageSpec:
        operators = tuple(
            OperatorSpec(**{**o, "output_shapes": tuple(map(tuple, o["output_shapes"]))})
            for o in row["operators"]
        )
        return StageSpec(
            **{
                **row,
                "operator_kinds": tuple(row["operator_kinds"]),
                "operators": operators,
                "inputs": tuple(row["inputs"]),
                "outputs": tensors(row["outputs"]),
                "sent": tuple(Route(**r) for r in row["sent"]),
            }
        )

    return Manifest(
        **{
            **content,
            "inputs": tensors(content["inputs"]),
            "outputs": tensors(content["outputs"]),
            "boundaries": tuple(
                Boundary(**{**b, "tensors": tensors(b["tensors"])}) for b in content["boundaries"]
            ),
            "stages": tuple(stage(s) for s in content["stages"]),
        }
    )


def _check_wiring(manifest: Manifest) -> None:
    """What a schema cannot say: that every index points at something of the right size."""

    def demand(holds: bool, what: str) -> None:
        if not holds:
            raise ManifestError(f"the manifest contradicts itself: {what}")

    demand(len(manifest.stages) == len(manifest.boundaries) + 1, "stages and boundaries")
    for number, stage in enumerate(manifest.stages):
        received = manifest.received(number)
        last = number == len(manifest.boundaries)
        sent = manifest.outputs if last else manifest.boundaries[number].tensors
        demand(stage.file in manifest.files, f"{stage.file} has no checksum")
        demand(all(i < len(received) for i in stage.inputs), f"inputs of stage {number}")
        demand(len(stage.sent) == len(sent), f"what stage {number} sends")
        for route, tensor in zip(stage.sent, sent, strict=True):
            origin = stage.outputs if route.source == "output" else received
            demand(
                route.index < len(origin) and origin[route.index] == tensor,
                f"tensor {tensor.name!r} sent by stage {number}",
            )
    for boundary in manifest.boundaries:
        payload = sum(tensor.bytes for tensor in boundary.tensors)
        demand(payload == boundary.payload_bytes, f"payload at {boundary.layer}")


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(asdict(value), allow_nan=False))


@cache
def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of manifest.json."""
    loaded: dict[str, Any] = json.loads(
        Path(__file__).with_name("manifest.schema.json").read_text()
    )
    return loaded


def _is_integer(_: Any, value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


# JSON Schema calls 1.0 an integer; what indexes and allocates here must be one for Python too.
_Validator = jsonschema.validators.extend(  # type: ignore[no-untyped-call]
    jsonschema.Draft202012Validator,
    type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine("integer", _is_integer),
)


def _validate(content: Any) -> None:
    errors = _Validator(schema()).iter_errors(content)
    worst = jsonschema.exceptions.best_match(errors)
    if worst is not None:
        where = "/".join(str(p) for p in worst.absolute_path) or "the top level"
        raise ManifestError(f"manifest.json is not valid at {where}: {worst.message[:200]}")
