"""A run over a link as a table per phase, and what the link did."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from host.link.messages import Phase
from host.link_run import LinkInference
from host.testbed import Options
from partitioner.bundle import Bundle


def phase_rows(inferences: Sequence[LinkInference], stages: int) -> list[tuple[str, list[int]]]:
    """Each step of an inference with its microseconds in every inference, in order of time.

    `link` is from handing a boundary to the link until its acknowledgement is back; `return` is
    what remains of the way back: from the last stage's end to the result being here.
    """

    def get(stage: int, phase: Phase) -> list[int]:
        return [i.round.phases.get((stage, phase), 0) for i in inferences]

    rows = [("preprocess (host)", [i.preprocess_us for i in inferences])]
    rows.append(("wait at stage 0", get(0, Phase.QUEUE)))
    for stage in range(stages):
        name = "head" if stage == 0 else "tail" if stage == stages - 1 else f"stage {stage}"
        if stage > 0:
            decode = zip(get(stage, Phase.DECODE), get(stage, Phase.QUEUE), strict=True)
            rows.append((f"decode ({name})", [a + b for a, b in decode]))
        rows.append((f"invoke ({name})", get(stage, Phase.INVOKE)))
        rows.append((f"encode ({name})", get(stage, Phase.ENCODE)))
        if stage < stages - 1:
            rows.append((f"link {stage} to {stage + 1}", get(stage, Phase.SEND)))
    total = [i.round.round_trip_us for i in inferences]
    known = [sum(values) for values in zip(*(r[1] for r in rows[1:]), strict=True)]
    rows.append(("return", [max(t - k, 0) for t, k in zip(total, known, strict=True)]))
    rows.append(("round trip", total))
    return rows


def _provenance(phase: str) -> str:
    """How the times of a phase come about where the air is a model."""
    if phase.startswith("link") or phase == "return":
        return "modelled"
    return "measured and modelled" if phase == "round trip" else "measured"


def percentile(values: Sequence[int], share: float) -> float:
    """Linear interpolation between closest ranks (numpy's default)."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def lines(
    bundle: Bundle,
    inferences: Sequence[LinkInference],
    options: Options,
    stats: Sequence[dict[str, Any]],
    tallies: Sequence[dict[str, dict[str, int]]],
    air: tuple[str, Sequence[str]] = ("", ()),
) -> list[RenderableType]:
    """What `tinysplit run --transport` prints; `air` as Testbed.air_report gives it."""
    manifest = bundle.manifest
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("phase")
    for heading in ("median ms", "p95 ms", "max ms"):
        table.add_column(heading, justify="right")
    provenance, report = air
    if provenance:
        table.add_column("how")
    for name, values in phase_rows(inferences, len(manifest.stages)):
        figures = (statistics.median(values), percentile(values, 0.95), max(values))
        style = "bold" if name == "round trip" else ""
        cells = [f"{v / 1000:.2f}" for v in figures]
        table.add_row(name, *cells, *([_provenance(name)] if provenance else []), style=style)

    nodes = "virtual boards" + (", tail on the host" if options.tail == "host" else "")
    sent = sum(i.round.fragments_sent for i in inferences)
    resent = sum(i.round.fragments_resent for i in inferences)
    payload = sum(b.payload_bytes for b in manifest.boundaries) * len(inferences)
    out: list[RenderableType] = [table]
    over = f"{options.transport}, the air {provenance}" if provenance else options.transport
    out.append(
        f"measured on this host's clock: {nodes}, {over}" + ("" if provenance else " over loopback")
    )
    out += report
    out.append(
        f"first link: {sent} data frames for {len(inferences)} boundaries, {resent} of them "
        "retransmissions"
    )
    wire = sum(s["bytes_out"] for s in stats)
    out.append(
        f"on the wire: {wire:,} bytes of frames sent by the boards for {payload:,} bytes of "
        "boundaries (results, acknowledgements and session set-up included)"
    )
    for number, tally in enumerate(reversed(tallies)):
        both = [
            ", ".join(f"{v} {k}" for k, v in tally[way].items() if v and k != "bytes")
            for way in ("forward", "back")
        ]
        out.append(f"bad link {number} to {number + 1}: {both[0]}; back: {both[1]}")
    known = [i for i in inferences if i.truth is not None]
    if known:
        right = sum(i.truth == i.predicted for i in known)
        out.append(f"{right} of {len(known)} images right")
    exact = sum(i.exact for i in inferences)
    if exact == len(inferences):
        out.append(f"all {exact} results equal the uncut model's, byte for byte")
    else:
        out.append(f"{exact} of {len(inferences)} results equal the uncut model's")
    return out
