"""A stage as a node runs it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from host.boards.selftest import golden, selftest
from partitioner import kernels
from partitioner.bundle import Bundle, _npz
from partitioner.chain import Stage, StageError


def load(bundle: Bundle, number: int) -> Stage:
    return Stage(bundle.manifest, number, bundle.stages[number], kernels.exact())


def test_stages_in_a_row_give_the_golden_output(stranger_bundle: Bundle) -> None:
    stages = [load(stranger_bundle, n) for n in range(3)]
    arrays = golden(stranger_bundle, stages[0])
    for stage in stages:
        data = b"".join(a.tobytes() for a in arrays)
        arrays = stage.run(stage.decode(data, [a.nbytes for a in arrays])).tensors
    expected = stranger_bundle.selftest()["output_0"][0]
    assert arrays[0].tobytes() == expected.tobytes()


def test_the_selftest_passes_on_exact_kernels(stranger_bundle: Bundle) -> None:
    for number in range(3):
        result = selftest(stranger_bundle, load(stranger_bundle, number), kernels.exact())
        assert (result.passed, result.first_wrong) == (result.vectors, None)


def test_the_selftest_names_the_first_operator_that_disagrees(stranger_bundle: Bundle) -> None:
    """Golden values changed as if operator 3 of the network computed something else."""
    arrays = stranger_bundle.selftest()
    operator = stranger_bundle.manifest.stages[1].operators[1]
    arrays["crc32"][:, operator.crc_index] ^= np.uint32(1)
    arrays["boundary_1_0"] = arrays["boundary_1_0"] ^ np.int8(1)
    files = {**stranger_bundle.files, "selftest.npz": _npz(arrays)}
    changed = replace(stranger_bundle, files=files)
    wrong = selftest(changed, load(changed, 1), kernels.exact())
    assert wrong.passed == 0
    assert wrong.first_wrong == f"operator 1 of the stage, {operator.kind} to " + "x".join(
        map(str, operator.output_shapes[0])
    )


def test_tensors_of_another_size_are_refused(stranger_bundle: Bundle) -> None:
    stage = load(stranger_bundle, 1)
    with pytest.raises(StageError, match="stage 1 takes tensors of"):
        stage.decode(b"123", [3])
    with pytest.raises(StageError, match="the bundle has stages 0 to 2, not 3"):
        Stage(stranger_bundle.manifest, 3, b"", kernels.exact())
