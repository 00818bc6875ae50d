"""The bundles of an experiment: those that are there, and those cut for it, kept for the next time.

A network is opened and cut in a process of its own, which ends before anything is measured: its
converter may take much memory, or die.
"""

from __future__ import annotations

import functools
import hashlib
import json
import multiprocessing
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path

from host.bench.spec import Cell, Experiment, SpecError, cut_name
from models.errors import TinysplitError
from partitioner import bundle as bundles
from partitioner.bundle import Bundle
from partitioner.catalogue import Catalogue
from partitioner.command import describe
from partitioner.kernels import Array
from partitioner.source import Request, Source, open_source, realistic

Key = tuple[str, tuple[str, ...]]  # A model's name and the layers cut after.


def key(cell: Cell) -> Key:
    """Which bundle a cell runs."""
    return cell.model.name, cell.cut


def folder_of(request: Request, cut: Sequence[str], cache: Path) -> Path:
    """Where the bundle of this network and cut is kept: another for other tools or calibration."""
    asked = asdict(request)
    for name in ("model", "weights", "calibration"):
        path = Path(str(asked[name]))
        if path.is_file():
            asked[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    content = {"request": asked, "cut": list(cut), "tools": bundles.tool_versions()}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    stem = re.sub(r"[^A-Za-z0-9._+-]", "_", f"{Path(request.model).stem}-{cut_name(cut)}")
    return cache / f"{stem[:100]}-{digest[:8]}"


Wanted = list[tuple[tuple[str, ...], Path]]  # Cuts of one network, and where their bundles go.


def prepare(
    experiment: Experiment, cache: Path, report: Callable[[str], None] = lambda _: None
) -> dict[Key, Path]:
    """The folder of every cell's bundle; what is missing is made.

    Raises:
        SpecError: an unknown layer or model, by name; a bundle that does not fit its set of nodes.
        TinysplitError: a bundle cannot be made or read.
    """
    found, missing = _folders(experiment, cache)
    for name, (request, wanted) in missing.items():
        with _Elsewhere(name) as elsewhere:
            report(f"open {name}")
            elsewhere(_look, request, [cut for cut, _ in wanted])
            for number, (cut, folder) in enumerate(wanted, 1):
                report(f"cut {name} at {cut_name(cut)} ({number} of {len(wanted)})")
                elsewhere(_make, request, cut, folder)
    return found


def check(
    experiment: Experiment, cache: Path, report: Callable[[str], None] = lambda _: None
) -> None:
    """Whether every layer is there that cells are cut at, and every bundle; nothing is made.

    Raises:
        SpecError: an unknown layer or model, by name.
        TinysplitError: a bundle cannot be read.
    """
    _, missing = _folders(experiment, cache)
    for name, (request, wanted) in missing.items():
        report(f"open {name}, to look up its layers")
        with _Elsewhere(name) as elsewhere:
            elsewhere(_look, request, [cut for cut, _ in wanted])
    for model in experiment.models:
        if model.bundle is not None:
            bundles.read(model.bundle)


def _folders(
    experiment: Experiment, cache: Path
) -> tuple[dict[Key, Path], dict[str, tuple[Request, Wanted]]]:
    """Where each cell's bundle is to be, and by model those that are not there."""
    found: dict[Key, Path] = {}
    missing: dict[str, tuple[Request, Wanted]] = {}
    for cell in experiment.cells:
        if key(cell) in found:
            continue
        model = cell.model
        if model.bundle is not None:
            found[key(cell)] = model.bundle
            continue
        assert model.request is not None
        folder = folder_of(model.request, cell.cut, cache)
        found[key(cell)] = folder
        if not (folder / "manifest.json").exists():
            missing.setdefault(model.name, (model.request, []))[1].append((cell.cut, folder))
    return found, missing


class _Elsewhere:
    """A process that works on the network `name`: work for it is called with this."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))

    def __enter__(self) -> _Elsewhere:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def __call__(self, work: Callable[..., str | None], *given: object) -> None:
        """Wait for work that returns what went wrong in one line. Raises SpecError: something."""
        try:
            why = self._pool.submit(work, *given).result()
        except BrokenProcessPool as error:
            raise SpecError(
                f"model {self._name}: the process that was to cut it was killed"
            ) from error
        if why is not None:
            raise SpecError(f"model {self._name}: {why}")


@functools.lru_cache(maxsize=1)
def _opened(request: Request) -> tuple[Source, Catalogue]:
    """Once in the process that works on it."""
    source = open_source(request)
    return source, Catalogue(source.graph, source.layers)


@functools.lru_cache(maxsize=1)
def _verify_on(request: Request) -> list[list[Array]]:
    return realistic(_opened(request)[0], request, bundles.VERIFY_INPUTS // 2, [])


def _look(request: Request, cuts: Sequence[tuple[str, ...]]) -> str | None:
    """Look layers up; returns what went wrong in one line."""
    try:
        for cut in cuts:
            _opened(request)[1].chain(cut)
    except TinysplitError as error:
        return describe(error)
    return None


def _make(request: Request, cut: tuple[str, ...], folder: Path) -> str | None:
    """Make a bundle; returns what went wrong in one line."""
    try:
        source, catalogue = _opened(request)
        built = bundles.build(
            source.graph,
            catalogue.chain(cut),
            model=source.identity,
            calibration=source.calibration.record() if source.calibration else None,
            realistic=_verify_on(request),
        )
        built.write(folder)
    except TinysplitError as error:
        return describe(error)
    return None


def read_all(experiment: Experiment, folders: dict[Key, Path]) -> dict[Key, Bundle]:
    """Every bundle, read and held against the sets of nodes that are to run it.

    Raises:
        SpecError, BundleError, ManifestError: as named.
    """
    found = {name: bundles.read(folder) for name, folder in folders.items()}
    for cell in experiment.cells:
        stages = len(found[key(cell)].stages)
        relays = len(cell.boards.relays)
        if relays and relays != stages - 2:
            raise SpecError(
                f"boards {cell.boards.name}: {relays} relays for the {stages} stages of "
                f"{cell.model.name}; name one for each stage between head and tail"
            )
    return found
