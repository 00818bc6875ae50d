"""Crafted .tflite files: a named error or exact bytes, never a crash of this process."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

from partitioner import tflite
from partitioner.cli import main
from partitioner.graph import Graph
from partitioner.tflite import TfliteError
from tests.conftest import DATA

Invoke = Callable[..., Result]
STRANGER = (DATA / "stranger.tflite").read_bytes()


def edited(edit: Callable[[Any, Any], None]) -> bytes:
    """The stranger's network after `edit(model, graph)`."""
    model = tflite.read(STRANGER)
    edit(model, model.subgraphs[0])
    return tflite.rewrite(model)


def scale(value: float, zero_point: int = 0) -> Callable[[Any, Any], None]:
    def edit(_: Any, graph: Any) -> None:
        graph.tensors[0].quantization.scale = [value]
        graph.tensors[0].quantization.zeroPoint = [zero_point]

    return edit


def _outputs(*indices: int) -> Callable[[Any, Any], None]:
    def edit(_: Any, graph: Any) -> None:
        graph.outputs = list(indices)

    return edit


def _rank(_: Any, graph: Any) -> None:
    graph.tensors[0].shape = np.ones(9, np.int32)


def _zero(_: Any, graph: Any) -> None:
    graph.tensors[0].shape = np.array([1, 0, 24, 3], np.int32)


def _twice(_: Any, graph: Any) -> None:
    graph.inputs = [graph.inputs[0], graph.inputs[0]]


def _intermediates(_: Any, graph: Any) -> None:
    graph.operators[1].intermediates = [99999]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (scale(float("nan")), "impossible quantization"),
        (scale(0.0), "impossible quantization"),
        (scale(-1.0), "impossible quantization"),
        (scale(1.0, 2**40), "impossible quantization"),
        (_rank, "more than 8 dimensions"),
        (_zero, "has no values"),
        (_twice, "names one of its inputs twice"),
        (_intermediates, "out of range"),
    ],
)
def test_graphs_that_make_no_sense_are_refused(
    edit: Callable[[Any, Any], None], message: str
) -> None:
    with pytest.raises(TfliteError, match=message):
        Graph(edited(edit))


def test_a_constant_as_output_is_refused(stranger: Graph) -> None:
    constant = next(t.index for t in stranger.tensors if t.constant)
    with pytest.raises(TfliteError, match="is an input or output of the model"):
        Graph(edited(_outputs(*stranger.outputs, constant)))


def _tiny(_: Any, graph: Any) -> None:
    graph.tensors[graph.inputs[0]].shape = np.array([1, 1, 1, 1], np.int32)


def _batch(_: Any, graph: Any) -> None:
    made = {int(i) for op in graph.operators for i in op.outputs} | {int(graph.inputs[0])}
    for index in made:
        shape = graph.tensors[index].shape
        graph.tensors[index].shape = np.array([4, *shape[1:]], np.int32)


@pytest.mark.parametrize("edit", [_tiny, _batch])
def test_shapes_that_upset_the_kernels_end_in_one_line(
    invoke: Invoke, tmp_path: Path, edit: Callable[[Any, Any], None]
) -> None:
    """Run in this process, these would end it: the worker takes the blow."""
    path = tmp_path / "x.tflite"
    path.write_bytes(edited(edit))
    result = invoke(main, "--model", path, "--layer", "#3")
    assert result.exit_code in (0, 1), result.output
    if result.exit_code:
        assert result.stderr.count("error:") == 1
        assert "defect" not in result.stderr
        assert not Path("build").exists()


def test_code_in_the_current_folder_is_not_run(invoke: Invoke) -> None:
    for module in ("json.py", "struct.py", "select.py", "numpy.py"):
        Path(module).write_text("open('pwned', 'w')")
    result = invoke(main, "--model", DATA / "stranger.tflite", "--layer", "#3", "--output", "o")
    assert result.exit_code == 0, result.output
    assert not Path("pwned").exists()


def test_names_that_look_like_markup_or_operators(invoke: Invoke, tmp_path: Path) -> None:
    def edit(_: Any, graph: Any) -> None:
        graph.tensors[int(graph.operators[3].outputs[0])].name = "conv[/x]"
        graph.tensors[int(graph.operators[5].outputs[0])].name = "#7"
        graph.tensors[int(graph.operators[6].outputs[0])].name = "a\x1b[31m\nb"

    path = tmp_path / "x.tflite"
    path.write_bytes(edited(edit))
    listed = invoke(main, "--model", path, "--list")
    assert listed.exit_code == 0, listed.output
    assert "conv[/x]" in listed.output
    assert "\x1b" not in listed.output
    cut = invoke(main, "--model", path, "--layer", "conv[/x]", "--output", "o[/x]/b")
    assert cut.exit_code == 0, cut.output
    seven = invoke(main, "--model", path, "--layer", "#7", "--output", "seven")
    assert seven.exit_code == 0, seven.output
    assert Graph(Path("seven/stage0.tflite").read_bytes()).operators[-1].index == 7


def test_a_special_file_is_written_to_not_replaced(invoke: Invoke, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.json"
    os.mkfifo(pipe)
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(pipe.read_bytes()))
    reader.start()
    result = invoke(main, "--model", DATA / "stranger.tflite", "--list", "--json", pipe)
    reader.join(20)
    assert result.exit_code == 0, result.output
    assert found[0].startswith(b"{")
    assert not pipe.is_file()
