"""What the rows of sweeps say: medians and their intervals, phases, fronts, comparisons.

Pure: data frames in, data frames out. `tinysplit report`, its figures and
`experiments/analysis.ipynb` all compute here. Only rows of the purpose `run` count; of these, those
with an error count as failed and have no times. Durations are milliseconds from here on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from host.bench import rows as schema
from models.errors import TinysplitError

Frame = Any  # pandas.DataFrame, which has no types.

CONFIDENCE = 0.95
# Coordinates of a cell (host.bench.rows); a set of results is told apart by the first.
COORDINATES = (
    "experiment",
    "model",
    "cut",
    "transport_name",
    "link",
    "codec",
    "boards",
    "meter",
    "heads",
    "repetition",
)
# The round trip in order of time: what a phase is called, the columns that make it up, and which
# column says how it came about.
PHASES: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("head waits", ("head_queue_us",), "compute_provenance"),
    ("head computes", ("head_invoke_us",), "compute_provenance"),
    ("head encodes", ("head_encode_us",), "compute_provenance"),
    ("link", ("link_us",), "link_provenance"),
    ("stages between", ("between_us",), "compute_provenance"),
    ("tail decodes and waits", ("tail_decode_us", "tail_queue_us"), "compute_provenance"),
    ("tail computes", ("tail_invoke_us",), "compute_provenance"),
    ("tail encodes", ("tail_encode_us",), "compute_provenance"),
    ("return", ("return_us",), "link_provenance"),
)


class AnalysisError(TinysplitError):
    """Results that nothing can be said about."""


class Interval(NamedTuple):
    """Both ends of a confidence interval."""

    low: float
    high: float


def frame(tables: Mapping[str, Any]) -> Frame:
    """Rows of one or more sweeps as one data frame.

    `tables`: pyarrow tables of `host.bench.rows`, each by the name that its `experiment` becomes.

    Raises:
        AnalysisError: there is no row in them.
    """
    parts = [table.to_pandas().assign(experiment=name) for name, table in tables.items()]
    parts = [part for part in parts if len(part)]
    if not parts:
        raise AnalysisError("there are no rows in these results yet; run the sweep first")
    return pd.concat(parts, ignore_index=True)


def counted(frame: Frame) -> Frame:
    """The rows that count: of runs that were not interrupted, in `frame`'s order.

    Raises:
        AnalysisError: none of them counts.
    """
    found = frame[frame["purpose"] == schema.RUN]
    if found.empty:
        raise AnalysisError(
            "no row of these results is of a completed run (only warm-up or interrupted ones); "
            "let the sweep go on"
        )
    return found


def median_interval(
    values: Sequence[float] | NDArray[np.float64], confidence: float = CONFIDENCE
) -> Interval | None:
    """A distribution-free confidence interval for the median, from two order statistics.

    The ranks are symmetric, with binomial coverage of at least `confidence` (Hahn and Meeker,
    Statistical Intervals, 1991, 5.2). It takes the values for independent. None if there are too
    few (fewer than 6 for 95 %).
    """
    ordered = np.sort(np.asarray(values, float))
    count = len(ordered)
    below, rank = 0.0, 0
    while rank < count // 2:
        more = below + math.exp(
            math.lgamma(count + 1)
            - math.lgamma(rank + 1)
            - math.lgamma(count - rank + 1)
            - count * math.log(2)
        )
        if 2 * more > 1 - confidence:
            break
        below, rank = more, rank + 1
    if rank == 0:
        return None
    return Interval(float(ordered[rank - 1]), float(ordered[count - rank]))


def ratio_interval(
    base: Sequence[float],
    other: Sequence[float],
    confidence: float = CONFIDENCE,
    resamples: int = 2000,
) -> Interval | None:
    """An interval for median(other) / median(base) by the percentile bootstrap (Efron, 1979).

    The same figures give the same interval. None with fewer than 6 values on a side.
    """
    if min(len(base), len(other)) < 6:
        return None
    generator = np.random.default_rng(0)

    def medians(values: Sequence[float]) -> NDArray[np.float64]:
        drawn = generator.choice(np.asarray(values, float), (resamples, len(values)))
        return np.asarray(np.median(drawn, axis=1))

    ratios = medians(other) / np.maximum(medians(base), 1e-9)
    edge = 50 * (1 - confidence)
    low, high = np.percentile(ratios, [edge, 100 - edge])
    return Interval(float(low), float(high))


def varying(frame: Frame) -> list[str]:
    """The coordinates in which the rows differ; `transport_name` always, as it names the line."""
    return [name for name in COORDINATES if name == "transport_name" or frame[name].nunique() > 1]


def label(row: Any, names: Sequence[str]) -> str:
    """A cell's coordinates as people read them."""
    units = {"heads": "{} heads", "repetition": "repetition {}"}
    return " · ".join(units.get(name, "{}").format(row[name]) for name in names)


def cells(frame: Frame) -> Frame:
    """One row for each cell, in order of coordinates.

    Columns: COORDINATES, `transport`, `label`, `payload_bytes`, `nodes`, `kernels`, `provenance`
    (and `compute_`, `link_`, `energy_provenance`), `inferences`, `failed`, `checked` and `exact`
    (how many results were compared with the uncut model's, and are equal), `steady` (bool: none
    began before the round trips were), `runs`,
    `round_trip_ms` (median) with `round_trip_low_ms` and `_high_ms` (median_interval),
    `run_low_ms` and `run_high_ms` (lowest and highest median of a run), `p95_ms`, `link_ms`,
    `one_way_ms` and `one_way_uncertainty_ms` (medians), `one_way_method`, `compute_ms` (median of
    the invocations' sum), `rate_hz` (1 / median), `loss`, `retransmission_share` (of data frames),
    `wire_bytes` and `air_bytes` (means), `energy_mj` (median), `energy_low_mj`, `energy_high_mj`,
    `energy_uncertainty_mj`, `energy_source`, `energy_method`. NaN: not known.
    """
    rows = counted(frame)
    names = varying(rows)
    found = []
    for where, group in rows.groupby(list(COORDINATES), sort=True, dropna=False):
        one = dict(zip(COORDINATES, where, strict=True))
        found.append({**one, **_cell(group), "label": label(one, names)})
    return pd.DataFrame(found)


def _cell(group: Frame) -> dict[str, Any]:
    good = group[group["error"].isna()]
    trips = good["round_trip_us"].dropna().astype(float) / 1000
    per_run = trips.groupby([good["boot"], good["run"]]).median()
    interval = median_interval(trips.to_numpy())
    energy = good["energy_mj"].dropna().astype(float)
    spread = median_interval(energy.to_numpy())
    compute = good["head_invoke_us"].astype(float) + good["tail_invoke_us"].astype(float)
    frames = good["data_frames"].sum()

    def median(column: str, scale: float = 1000) -> float:
        values = good[column].dropna().astype(float)
        return float(values.median()) / scale if len(values) else math.nan

    def text(column: str) -> str:
        told = sorted({str(value) for value in group[column] if value not in ("", "none")})
        return ", ".join(told) or "none"

    return {
        "transport": group["transport"].iloc[0],
        "payload_bytes": int(group["payload_bytes"].iloc[0]),
        "nodes": " to ".join(group["nodes"].iloc[0]),
        **{
            name: text(name)
            for name in (
                "kernels",
                "provenance",
                "compute_provenance",
                "link_provenance",
                "energy_provenance",
                "energy_source",
                "energy_method",
            )
        },
        "inferences": len(group),
        "failed": int(group["error"].notna().sum()),
        "steady": not group["steady"].eq(False).any(),
        "checked": int(good["exact"].notna().sum()),
        "exact": int((good["exact"] == True).sum()),  # noqa: E712 - null is neither.
        "runs": len(per_run),
        "round_trip_ms": float(trips.median()) if len(trips) else math.nan,
        "round_trip_low_ms": interval.low if interval else math.nan,
        "round_trip_high_ms": interval.high if interval else math.nan,
        "run_low_ms": float(per_run.min()) if len(per_run) else math.nan,
        "run_high_ms": float(per_run.max()) if len(per_run) else math.nan,
        "p95_ms": float(trips.quantile(0.95)) if len(trips) else math.nan,
        "link_ms": median("link_us"),
        "one_way_ms": median("one_way_us"),
        "one_way_method": " and ".join(sorted(set(good["one_way_method"].dropna()))) or "none",
        "one_way_uncertainty_ms": median("one_way_uncertainty_us"),
        "compute_ms": float(compute.median()) / 1000 if len(compute.dropna()) else math.nan,
        "rate_hz": 1000 / float(trips.median()) if len(trips) and trips.median() else math.nan,
        "loss": float(group["loss"].iloc[0]),
        "retransmission_share": float(good["retransmissions"].sum() / frames)
        if frames
        else math.nan,
        "wire_bytes": float(good["wire_bytes"].astype(float).mean()),
        "air_bytes": float(good["air_bytes"].astype(float).mean()),
        "energy_mj": float(energy.median()) if len(energy) else math.nan,
        "energy_low_mj": spread.low if spread else math.nan,
        "energy_high_mj": spread.high if spread else math.nan,
        "energy_uncertainty_mj": median("energy_uncertainty_mj", 1),
    }


def phases(frame: Frame) -> Frame:
    """The round trip taken apart: a row for each cell, a column (ms) for each of PHASES.

    Medians of phases do not add up to the median of their sum, so each is the mean over the middle
    fifth of the cell's inferences by round trip (at least one of them), where they do; `total_ms`
    is their sum, within that fifth. Cells in which everything failed are left out.
    """
    rows = counted(frame)
    names = varying(rows)
    found = []
    for where, group in rows.groupby(list(COORDINATES), sort=True, dropna=False):
        good = group[group["error"].isna() & group["round_trip_us"].notna()]
        if good.empty:
            continue
        ordered = good.sort_values("round_trip_us", kind="stable")
        middle = (len(ordered) - 1) / 2
        reach = max(len(ordered) // 10, 0)
        near = ordered.iloc[math.floor(middle) - reach : math.ceil(middle) + reach + 1]
        one: dict[str, Any] = dict(zip(COORDINATES, where, strict=True))
        one["label"] = label(one, names)
        one["transport"] = group["transport"].iloc[0]
        for kind in ("provenance", "compute_provenance", "link_provenance"):
            one[kind] = group[kind].iloc[0]
        for name, columns, _ in PHASES:
            summed = near[list(columns)].astype(float).fillna(0).sum(axis=1)
            one[name] = float(summed.mean()) / 1000
        one["total_ms"] = sum(one[name] for name, _, _ in PHASES)
        found.append(one)
    return pd.DataFrame(found)


def front(cells: Frame, across: str, up: str) -> Frame:
    """The cells that no other beats: as good in both columns and better in one (less is better).

    Cells that lack a figure take no part. In ascending order of `across`.
    """
    known = cells.dropna(subset=[across, up]).sort_values([across, up], kind="stable")
    best, kept = math.inf, []
    for index, row in known.iterrows():
        if row[up] < best:
            best = row[up]
            kept.append(index)
    return known.loc[kept]


def compare(frame: Frame, base: str, other: str) -> Frame:
    """Cells of two experiments (or sets of boards) that agree in the other coordinates.

    `base` and `other` are values of the column `experiment`. Columns: the coordinates besides it,
    `label`, `base_ms`, `other_ms` (medians of round trips), `ratio` (other / base), `ratio_low`,
    `ratio_high` (ratio_interval; NaN: too few), `provenance` of both.

    Raises:
        AnalysisError: no cell is in both.
    """
    rows = counted(frame)
    rows = rows[rows["error"].isna() & rows["round_trip_us"].notna()]
    shared = [name for name in COORDINATES if name not in ("experiment", "boards")]
    sides = [
        dict(iter(rows[rows["experiment"] == name].groupby(shared, sort=True)))
        for name in (base, other)
    ]
    names = [name for name in varying(rows) if name in shared]
    found = []
    for where in sides[0]:
        if where not in sides[1]:
            continue
        one = dict(zip(shared, where, strict=True))
        values = [side[where]["round_trip_us"].astype(float).to_numpy() / 1000 for side in sides]
        interval = ratio_interval(*values)
        medians = [float(np.median(v)) for v in values]
        told = [side[where]["provenance"].iloc[0] for side in sides]
        found.append(
            {
                **one,
                "label": label(one, names),
                "transport": sides[0][where]["transport"].iloc[0],
                "base_ms": medians[0],
                "other_ms": medians[1],
                "ratio": medians[1] / medians[0] if medians[0] else math.nan,
                "ratio_low": interval.low if interval else math.nan,
                "ratio_high": interval.high if interval else math.nan,
                "provenance": " / ".join(dict.fromkeys(told)),
            }
        )
    if not found:
        raise AnalysisError(
            f"{base} and {other} have no cell in common (same model, cut, transport, link, codec); "
            "compare sweeps of the same experiment file"
        )
    return pd.DataFrame(found)
