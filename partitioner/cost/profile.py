"""A board's own per-operator profile, and the compute model fitted to it.

A profile is what a board answers to the command `profile` (control.schema.json): `operators`, a
list of [kind, microseconds] in execution order, of one stage. A calibration is made of it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from partitioner.cost import compute
from partitioner.cost.compute import CLOCK_HZ, ComputeModel, CostError
from partitioner.cost.operators import Path as KernelPath
from partitioner.cost.operators import Shape
from partitioner.output import whole_file

VERSION = 1


def read_profile(path: Path, shapes: Sequence[Shape]) -> list[tuple[Shape, float]]:
    """The stage's operators and the cycles that a board at 240 MHz took for them.

    Raises:
        CostError: unreadable, not a profile, or of another stage: operators missing, of other
            kinds, or with times that cannot be.
    """
    content = _load(path)
    if isinstance(content, dict) and isinstance(content.get("result"), dict):
        content = content["result"]  # The whole reply.
    operators = content.get("operators") if isinstance(content, dict) else None
    if not isinstance(operators, list):
        raise CostError(f"{path} is no profile: a board's answer to `profile` has `operators`")
    if len(operators) != len(shapes):
        raise CostError(
            f"{path} has {len(operators)} operators and the stage {len(shapes)}: operators are "
            "missing, or it is another stage's"
        )
    found = []
    for number, (row, shape) in enumerate(zip(operators, shapes, strict=True)):
        if not (isinstance(row, list) and len(row) == 2 and row[0] == shape.kind):
            raise CostError(f"{path}: operator {number} of the stage is {shape.kind}, not {row}")
        us = row[1]
        if isinstance(us, bool) or not isinstance(us, int | float) or not math.isfinite(us):
            raise CostError(f"{path}: operator {number} has no time")
        if us < 0:
            raise CostError(f"{path}: operator {number} took {us} us, which is negative")
        found.append((shape, max(float(us), 1.0) * CLOCK_HZ / 1e6))
    if all(us == 0 for _, us in operators):
        raise CostError(f"{path}: no operator was timed; turn the profile on and infer once")
    return found


def write(model: ComputeModel, path: Path) -> None:
    """The fitted part of a model as a calibration file."""
    content = {
        "version": VERSION,
        "paths": {kernel.name: list(weights) for kernel, weights in model.profiled.items()},
    }
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", "utf-8")


def read(path: Path) -> ComputeModel:
    """The published model with a calibration file's paths in it.

    Raises:
        CostError: unreadable, or not a calibration.
    """
    content = _load(path)
    base = compute.esp32s3()
    try:
        if content["version"] != VERSION:
            raise CostError(f"{path} is of version {content['version']}, known is {VERSION}")
        fitted = {
            KernelPath[name]: tuple(float(weight) for weight in weights)
            for name, weights in content["paths"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CostError(f"{path} is no calibration: `tinysplit calibrate` makes one") from error
    for kernel, weights in fitted.items():
        if len(weights) != compute.feature_count(kernel) or not all(map(math.isfinite, weights)):
            raise CostError(f"{path}: {kernel.name} does not have the weights it needs")
    return replace(base, profiled=fitted)


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise CostError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CostError(f"{path} is no JSON: {error}") from error
