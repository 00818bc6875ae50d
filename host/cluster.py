"""A dask cluster, for work that needs no board; its workers need tinysplit."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from models.errors import TinysplitError

CONNECT_TIMEOUT = "10s"


class ClusterError(TinysplitError):
    """The cluster is not to be had."""


@contextmanager
def connected(scheduler: str) -> Iterator[Any]:
    """A distributed.Client of the scheduler at this address (`tcp://host:8786`).

    Raises:
        ClusterError: dask is not installed, or nobody answers there.
    """
    try:
        distributed = importlib.import_module("distributed")
    except ModuleNotFoundError as error:
        raise ClusterError("--scheduler needs dask: pip install 'tinysplit[cluster]'") from error
    try:
        client = distributed.Client(scheduler, timeout=CONNECT_TIMEOUT)
    except (OSError, ValueError, TypeError) as error:
        raise ClusterError(f"no dask scheduler answers at {scheduler}") from error
    with client:
        yield client
