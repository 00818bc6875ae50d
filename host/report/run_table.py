"""Runs in this process, as a table and in words."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from host.local_run import Inference
from partitioner import kernels
from partitioner.bundle import Bundle


def table(
    opened: Bundle, inferences: list[Inference], names: Sequence[str], labels: Sequence[str | None]
) -> Table:
    """A row for each image; `names` are those of the classes, `labels` the images' own."""
    manifest = opened.manifest
    out = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("image", "true", "predicted"):
        out.add_column(heading)
    for number in range(len(manifest.boundaries)):
        out.add_column(f"boundary {number}\nbytes", justify="right")
    for number in range(len(manifest.stages)):
        out.add_column(f"stage {number}\nms", justify="right")
    out.add_column("equals\nuncut")
    for one, label in zip(inferences, labels, strict=True):
        right = one.truth is None or one.truth == one.predicted
        out.add_row(
            one.name,
            label or "?",
            Text(names[one.predicted], style="green" if right else "red"),
            *(f"{sum(t.nbytes for t in message):,}" for message in one.boundaries),
            *(f"{us / 1000:.2f}" for us in one.stage_us),
            "yes" if one.differing_values == 0 else f"{one.differing_values} differ",
        )
    return out


def summary(
    opened: Bundle,
    inferences: list[Inference],
    chosen: kernels.Kernels,
    labels: Sequence[str | None],
) -> list[str]:
    """Lines for people: how many were right, how long it took, what differs."""
    known = [i for i in inferences if i.truth is not None]
    lines = []
    if known:
        right = sum(i.truth == i.predicted for i in known)
        lines.append(f"{right} of {len(known)} images right")
    elif unknown := sorted({label for label in labels if label is not None}):
        shown = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        lines.append(f"no accuracy: the classes {shown} are not the network's")
    medians = [
        statistics.median(i.stage_us[n] for i in inferences) / 1000
        for n in range(len(opened.manifest.stages))
    ]
    times = ", ".join(f"stage {n} {ms:.2f} ms" for n, ms in enumerate(medians))
    lines.append(f"median time, measured on this host with {chosen.name}: {times}")
    compared = sum(i.compared_values for i in inferences)
    differing = sum(i.differing_values for i in inferences)
    if differing == 0:
        lines.append(
            f"all bytes agree: {compared:,} boundary and output values equal the uncut model's"
        )
    else:
        changed = sum(i.predicted != i.exact_predicted for i in inferences)
        lines.append(
            f"{differing:,} of {compared:,} boundary and output values "
            f"({differing / compared:.2%}) differ from the uncut model on exact kernels, "
            f"and {changed} of {len(inferences)} predictions"
        )
    return lines
