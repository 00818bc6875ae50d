"""Inferences through a chain of boards, each compared with the uncut model byte for byte."""

from __future__ import annotations

import numpy as np

from host.testbed import Testbed
from partitioner import kernels
from partitioner.bundle import Bundle


def samples(count: int = 5, seed: int = 7) -> list[np.ndarray]:
    """Inputs of the small network, uniform noise."""
    rng = np.random.default_rng(seed)
    return [rng.integers(-128, 128, (1, 24, 24, 3), np.int8) for _ in range(count)]


def assert_exact(testbed: Testbed, bundle: Bundle, count: int = 5, seed: int = 7) -> None:
    uncut = kernels.exact().load(bundle.full)
    for value in samples(count, seed):
        found = testbed.infer([value])
        assert found.outputs[0].tobytes() == uncut.run([value])[0].tobytes()
