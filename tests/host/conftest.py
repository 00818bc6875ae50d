"""Bundles that chains of boards are made of, written once."""

from __future__ import annotations

from pathlib import Path

import pytest

from partitioner.bundle import Bundle, build
from partitioner.catalogue import Catalogue
from partitioner.graph import Graph


@pytest.fixture(scope="session")
def folder(stranger_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small network in three stages."""
    folder = tmp_path_factory.mktemp("stranger") / "bundle"
    stranger_bundle.write(folder)
    return folder


@pytest.fixture(scope="session")
def pair(stranger: Graph, stranger_bundle: Bundle) -> Bundle:
    """The same network in two stages, cut where two tensors cross."""
    cuts = Catalogue(stranger, None).chain(("#1",))
    model = stranger_bundle.manifest.model
    return build(stranger, cuts, model=model, calibration=None, realistic=[])


@pytest.fixture(scope="session")
def pair_folder(pair: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pair") / "bundle"
    pair.write(folder)
    return folder
