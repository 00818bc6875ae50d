"""Networks that several tests share, converted once; what runs beside what."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from partitioner.bundle import Bundle, build
from partitioner.catalogue import Catalogue
from partitioner.graph import Graph
from partitioner.source import Request, Source, open_source

DATA = Path(__file__).parent / "data"
CONVERTING = ("tests/partitioner/", "tests/host/test_run.py")


def pytest_configure() -> None:
    """A job in the background ignores Ctrl-C, and so would the programs that tests send it to."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def unit_of(nodeid: str) -> str:
    """What one process runs: a file, or all those that share converted networks."""
    file = nodeid.split("::")[0]
    return CONVERTING[0] if file.startswith(CONVERTING) else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """`-n auto`: most tests wait for others some of their time; each process holds TensorFlow."""
    return min((os.cpu_count() or 1) + 1, 6)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """`--dist loadfile`: by `unit_of`, in the order of pytest_collection_modifyitems."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class ByUnit(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return unit_of(nodeid)

    config.option.loadscopereorder = False
    return ByUnit(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of several processes, each shall end when the others do: what takes long comes first, which
    is what converts, then files of few tests."""
    if hasattr(config, "workerinput"):
        sizes = Counter(unit_of(item.nodeid) for item in items)

        def place(item: pytest.Item) -> tuple[bool, int, str]:
            unit = unit_of(item.nodeid)
            return unit != CONVERTING[0], sizes[unit], unit

        items.sort(key=place)


@pytest.fixture(scope="session")
def digits_source() -> Source:
    """The trained MobileNetV2 that ships."""
    return open_source(Request())


@pytest.fixture(scope="session")
def stranger() -> Graph:
    """A small int8 network made by ai-edge-quantizer; needs no TensorFlow."""
    return Graph((DATA / "stranger.tflite").read_bytes())


@pytest.fixture(scope="session")
def stranger_bundle(stranger: Graph) -> Bundle:
    identity: dict[str, Any] = {
        "name": "stranger",
        "source": "tflite",
        "weights": None,
        "weights_sha256": "0" * 64,
        "preprocessing": "tf",
        "class_names": None,
    }
    cuts = Catalogue(stranger, None).chain(("#1", "#6"))
    return build(stranger, cuts, model=identity, calibration=None, realistic=[])


@pytest.fixture(scope="session")
def keras() -> Any:
    from partitioner.quantize import require_tensorflow

    require_tensorflow()
    import keras

    return keras


@pytest.fixture(scope="session")
def small_model(keras: Any) -> Any:
    """A convolution and a dense layer, randomly initialised."""
    keras.utils.set_random_seed(5)
    inputs = keras.Input((16, 16, 3), name="picture")
    x = keras.layers.Conv2D(4, 3, strides=2, activation="relu", name="conv")(inputs)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, keras.layers.Dense(10, name="scores")(x))


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run a command in an empty folder: `invoke(main, "--list", ...)`."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "200")

    def call(command: Any, *arguments: object) -> Result:
        return CliRunner().invoke(command, [str(a) for a in arguments])

    return call


def random_inputs(graph: Graph, seed: int, count: int = 3) -> list[list[np.ndarray]]:
    """Sets of int8 inputs, uniform noise."""
    rng = np.random.default_rng(seed)
    shapes = [graph.tensors[i].shape for i in graph.inputs]
    return [[rng.integers(-128, 128, s, np.int8) for s in shapes] for _ in range(count)]
