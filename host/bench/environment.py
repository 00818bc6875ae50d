"""What a sweep ran on, kept beside its rows: versions, commit, machine, boards, bundles, the room.

Nothing in it tells a user's name, a path or a secret.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from host.bench import rows, store
from host.bench.bundles import Key
from host.bench.measured import now_utc
from host.bench.spec import Cell, Experiment, cut_name
from partitioner import kernels
from partitioner.bundle import Bundle
from partitioner.output import OutputError

VERSION = 1
_PACKAGES = (
    "tinysplit", "numpy", "tflite-micro", "ai-edge-litert", "tensorflow-cpu", "tensorflow",
    "keras", "bumble", "bleak", "pyserial", "pyarrow",
)  # fmt: skip


class Environment:
    """The file, and what is added to it while the sweep runs; a context manager."""

    def __init__(self, folder: Path, experiment: Experiment, bundles: Mapping[Key, Bundle]) -> None:
        """Read it, hold the bundles against those it names, and note that a session begins.

        Raises:
            StoreError: a bundle is another than when the sweep began; by name.
            OutputError: it cannot be written.
        """
        self._path = folder / store.ENVIRONMENT
        content = store.read_json(self._path)
        known = content.get("bundles", {})
        now = {
            f"{model} / {cut_name(cut)}": bundle.manifest.id
            for (model, cut), bundle in bundles.items()
        }
        for name, digest in known.items():
            if name in now and now[name] != digest:
                raise store.StoreError(
                    f"{folder} was begun with bundle {digest[:12]} for {name}, and now it is "
                    f"{now[name][:12]}; restore it, or give another --output"
                )
        self._content: dict[str, Any] = {
            "version": VERSION,
            "rows_version": rows.VERSION,
            "experiment": experiment.name,
            "experiment_sha256": experiment.sha256,
            "room": dict(experiment.room),
            "bundles": {**known, **now},
            "boards": content.get("boards", {}),
            "sessions": content.get("sessions", []),
        }
        self._content["sessions"].append(
            {
                "began_utc": now_utc(),
                "ended_utc": None,
                "commit": commit(),
                "machine": machine(),
                "kernels": kernels.exact().name,
                "packages": packages(),
            }
        )
        self._write()

    def _write(self) -> None:
        store.write_json(self._path, self._content)

    def boards(self, cell: Cell, found: list[dict[str, Any]]) -> None:
        """Who the boards of a cell are; what differs from last time is added."""
        known = self._content["boards"].setdefault(cell.boards.name, [])
        fresh = [board for board in found if board not in known]
        if fresh:
            known += fresh
            self._write()

    def __enter__(self) -> Environment:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """The session is over. Raises OutputError, unless something else is on its way already."""
        self._content["sessions"][-1]["ended_utc"] = now_utc()
        try:
            self._write()
        except OutputError:
            if value is None:
                raise


def packages() -> dict[str, str]:
    """Installed versions of what shapes the figures; Python among them."""
    installed = {_normal(d.metadata["Name"]): d.version for d in importlib.metadata.distributions()}
    known = {name: installed[name] for name in _PACKAGES if name in installed}
    return {"python": platform.python_version(), **known}


def _normal(name: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def machine() -> dict[str, Any]:
    """This host: processor, cores, kernel, and how busy it was (1-minute load) when it began."""
    return {
        "system": platform.system(),
        "release": platform.release(),
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()


def commit() -> dict[str, Any] | None:
    """The commit of the checkout this code is in, and whether it was changed; None: no checkout."""
    here = Path(__file__).parents[2]
    if not (here / ".git").exists():
        return None
    try:
        shown = _git(here, "rev-parse", "HEAD").strip()
        changed = bool(_git(here, "status", "--porcelain", "--untracked-files=no").strip())
    except (OSError, subprocess.SubprocessError):
        return None
    return {"id": shown, "changed": changed}


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(  # noqa: S603
        ["git", "-C", str(folder), *words],  # noqa: S607
        capture_output=True, text=True, timeout=10, check=True,
    )  # fmt: skip
    return done.stdout
