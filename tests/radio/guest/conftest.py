"""What tests in the guest share. The host prepared the bundles; nothing here needs TensorFlow."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from partitioner import bundle as bundles
from partitioner.bundle import Bundle
from tests.radio.guest.tap import Report


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Report())


@pytest.fixture(scope="session")
def lane() -> Path:
    """The host's folder: bundles in, logs out."""
    return Path(os.environ["TINYSPLIT_LANE"])


@pytest.fixture(scope="session")
def small(lane: Path) -> Path:
    """A small network in two stages, two tensors between them."""
    return lane / "small"


@pytest.fixture(scope="session")
def digits(lane: Path) -> Path:
    """The MobileNetV2 that ships, cut at block_16_project_BN."""
    return lane / "digits"


@pytest.fixture(scope="session")
def small_bundle(small: Path) -> Bundle:
    return bundles.read(small)
