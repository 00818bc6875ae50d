"""Stages load and run in tflite-runtime, LiteRT's predecessor, which many boards still have.

Its last release needs numpy 1 and Python 3.11 or older, so it gets an environment of its own.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from partitioner import kernels
from partitioner.bundle import Bundle

_RUN = """
import sys, numpy as np
from tflite_runtime.interpreter import Interpreter
for stage in sys.argv[1:-1]:
    interpreter = Interpreter(stage)
    interpreter.allocate_tensors()
    interpreter.invoke()
interpreter = Interpreter(sys.argv[1])
interpreter.allocate_tensors()
given = np.load(sys.argv[-1])
interpreter.set_tensor(interpreter.get_input_details()[0]["index"], given["input_0"][0])
interpreter.invoke()
detail = interpreter.get_output_details()
print(" ".join(str(interpreter.get_tensor(d["index"]).sum(dtype="i8")) for d in detail))
"""


@pytest.mark.network
@pytest.mark.skipif(sys.version_info >= (3, 12), reason="tflite-runtime has no wheel for it")
@pytest.mark.skipif(sys.platform != "linux", reason="tflite-runtime has no wheel for it")
def test_stages_run_in_tflite_runtime(stranger_bundle: Bundle, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    packages = ["tflite-runtime==2.14.0", "numpy<2"]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    stranger_bundle.write(tmp_path / "bundle")
    stages = [str(tmp_path / "bundle" / s.file) for s in stranger_bundle.manifest.stages]
    selftest = str(tmp_path / "bundle" / "selftest.npz")
    done = subprocess.run(
        [python, "-c", _RUN, *stages, selftest], capture_output=True, text=True, check=True
    )
    head = kernels.exact().load(stranger_bundle.stages[0])
    outputs = head.run([stranger_bundle.selftest()["input_0"][0]])
    sums = [int(s) for s in done.stdout.split()]
    assert len(sums) == len(outputs)
    for found, output in zip(sums, outputs, strict=True):
        # Its kernels round some values differently by one; the sum tells right from wrong.
        assert abs(found - int(output.sum(dtype=np.int64))) <= 0.02 * output.size
