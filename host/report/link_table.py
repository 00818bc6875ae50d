"""A run over a link as a table per phase, and what the link did."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from rich.console import RenderableType
from rich.table import Table

from host.link.messages import Phase
from host.link_run import LinkInference
from host.testbed import Options, StageNode
from partitioner.bundle import Bundle


class PhaseRow(NamedTuple):
    """One step of an inference: its microseconds in every inference, and whose clocks told them.

    `over_air`: how much of it passes on the air: `no`, `all` or `part`.
    """

    name: str
    values: list[int]
    stages: Sequence[int]
    over_air: str = "no"


def phase_rows(inferences: Sequence[LinkInference], stages: int) -> list[PhaseRow]:
    """The steps of an inference in order of time.

    `link` is from handing a boundary to the link until its acknowledgement is back; `return` is
    what remains of the way back: from the last stage's end to the result being here.
    """

    def get(stage: int, phase: Phase) -> list[int]:
        return [i.round.phases.get((stage, phase), 0) for i in inferences]

    every = range(stages)
    rows = [PhaseRow("preprocess (host)", [i.preprocess_us for i in inferences], ())]
    rows.append(PhaseRow("wait at stage 0", get(0, Phase.QUEUE), [0]))
    for stage in every:
        name = "head" if stage == 0 else "tail" if stage == stages - 1 else f"stage {stage}"
        if stage > 0:
            rows.append(PhaseRow(f"decode ({name})", get(stage, Phase.DECODE), [stage]))
            rows.append(PhaseRow(f"wait at stage {stage}", get(stage, Phase.QUEUE), [stage]))
        rows.append(PhaseRow(f"invoke ({name})", get(stage, Phase.INVOKE), [stage]))
        rows.append(PhaseRow(f"encode ({name})", get(stage, Phase.ENCODE), [stage]))
        if stage < stages - 1:
            sent = get(stage, Phase.SEND)
            rows.append(PhaseRow(f"link {stage} to {stage + 1}", sent, [stage, stage + 1], "all"))
    total = [i.round.round_trip_us for i in inferences]
    known = [sum(values) for values in zip(*(r.values for r in rows[1:]), strict=True)]
    back = [max(t - k, 0) for t, k in zip(total, known, strict=True)]
    rows.append(PhaseRow("return", back, every, "all"))
    rows.append(PhaseRow("round trip", total, every, "part"))
    return rows


def how(row: PhaseRow, nodes: Sequence[StageNode], air: str) -> str:
    """How the times of a row come about. `air`: how those over the air do, empty if measured."""
    found = {nodes[stage].provenance for stage in row.stages} or {"measured"}
    air = air.partition(" ")[0]  # By what is said below the table.
    if air and row.over_air != "no":
        found = {air} if row.over_air == "all" else {*found, air}
    return " and ".join(sorted(found))


def counted(number: int, thing: str) -> str:
    """`1 boundary`, `2 boundaries`."""
    if number == 1:
        return f"1 {thing}"
    return (
        f"{number:,} {thing.removesuffix('y')}ies" if thing[-1] == "y" else f"{number:,} {thing}s"
    )


def coded_bytes(
    bundle: Bundle, before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]]
) -> list[float | None]:
    """For each link, what a boundary on it came to on average in codec 1, bytes; None: it went raw.

    `before` and `after` are the boards' stats, head first, around the run.
    """
    found: list[float | None] = []
    boards = zip(bundle.manifest.boundaries, before, after, strict=False)
    for boundary, first, last in boards:
        raw, coded = (
            last.get(name, 0) - first.get(name, 0) & 0xFFFF_FFFF
            for name in ("raw_bytes", "coded_bytes")
        )
        found.append(boundary.payload_bytes * coded / raw if raw else None)
    return found


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
    air: tuple[str, Sequence[str]],
    nodes: Sequence[StageNode],
    coded: Sequence[float | None] = (),
) -> list[RenderableType]:
    """What `tinysplit run --transport` prints; `air` as Testbed.air_report gives it, `nodes` what
    ran the stages, `coded` of `coded_bytes`."""
    manifest = bundle.manifest
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("phase")
    for heading in ("median ms", "p95 ms", "max ms"):
        table.add_column(heading, justify="right")
    provenance, report = air
    table.add_column("how")
    for row in phase_rows(inferences, len(manifest.stages)):
        figures = (statistics.median(row.values), percentile(row.values, 0.95), max(row.values))
        style = "bold" if row.name == "round trip" else ""
        cells = [f"{v / 1000:.2f}" for v in figures]
        table.add_row(row.name, *cells, how(row, nodes, provenance.split(" ")[0]), style=style)
    sent = sum(i.round.fragments_sent for i in inferences)
    resent = sum(i.round.fragments_resent for i in inferences)
    payload = sum(b.payload_bytes for b in manifest.boundaries) * len(inferences)
    out: list[RenderableType] = [table]
    over = f"{options.transport}, the air {provenance}" if provenance else options.transport
    out.append(f"over {over}, each phase by the clock of its stage:")
    out += [f"  stage {number}: {node.what}" for number, node in enumerate(nodes)]
    out.append(
        "link: until the acknowledgement is back, while the next stage works already; return: what "
        "the others leave of the round trip"
    )
    out += report
    out.append(
        f"first link: {counted(sent, 'data frame')} for {counted(len(inferences), 'boundary')}, "
        f"{resent} of them retransmitted"
    )
    for number, (boundary, mean) in enumerate(zip(manifest.boundaries, coded, strict=False)):
        how_coded = "raw" if mean is None else f"{mean:,.0f} coded on average"
        out.append(f"boundary {number}: {boundary.payload_bytes:,} bytes, {how_coded}")
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
    if exact == len(inferences) == 1:
        out.append("the result equals the uncut model's, byte for byte")
    elif exact == len(inferences):
        out.append(f"all {exact} results equal the uncut model's, byte for byte")
    else:
        out.append(f"{exact} of {len(inferences)} results equal the uncut model's")
    return out
