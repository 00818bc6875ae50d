"""A dask cluster as an executor, for cells that need no board."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager

from models.errors import TinysplitError


class ClusterError(TinysplitError):
    """The cluster is not to be had."""


@contextmanager
def on_cluster(scheduler: str) -> Iterator[Executor]:
    """The workers of the scheduler at this address (`tcp://host:8786`); they need tinysplit.

    Raises:
        ClusterError: dask is not installed, or nobody answers there.
    """
    try:
        distributed = importlib.import_module("distributed")
    except ModuleNotFoundError as error:
        raise ClusterError("--scheduler needs dask: pip install 'tinysplit[cluster]'") from error
    try:
        client = distributed.Client(scheduler, timeout="10s")
    except (OSError, ValueError) as error:
        raise ClusterError(f"no dask scheduler at {scheduler}: {error}") from error
    with client:
        executor: Executor = client.get_executor()
        yield executor
