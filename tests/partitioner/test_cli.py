"""The command `partition`, as a user meets it: what it prints, leaves behind and refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from partitioner import bundle, cli
from partitioner.cli import main
from partitioner.plan.cli import main as plan
from partitioner.source import Source
from tests.conftest import DATA

Invoke = Callable[..., Result]
STRANGER = DATA / "stranger.tflite"


def assert_refused(result: Result, message: str, code: int = 1) -> None:
    """One clear line on standard error, the exit code, and nothing left behind."""
    import re

    assert result.exit_code == code, result.output
    assert re.search(message, result.stderr), result.stderr
    assert "Traceback" not in result.output
    assert result.stderr.count("error:") == 1
    assert list(Path().rglob("*")) == [], "left behind"


@pytest.fixture
def shipped(monkeypatch: pytest.MonkeyPatch, digits_source: Source) -> None:
    """The default network without converting it again for each test."""
    monkeypatch.setattr(cli, "open_source", lambda *_: digits_source)


@pytest.mark.usefixtures("shipped")
def test_layer_auto_cuts_where_plan_would(invoke: Invoke) -> None:
    """Without --ram: for the memory of the board that `tinysplit plan` takes, where it fits."""
    cut = invoke(main, "--layer", "auto", "-o", "b")
    assert cut.exit_code == 0, cut.output
    planned = invoke(plan, "--model", "b/full.tflite", "--json", "plan.json")
    assert planned.exit_code == 0, planned.output
    best = json.loads(Path("plan.json").read_text())["plans"][0]
    head = best["stages"][0]["operators"]
    assert len(bundle.read(Path("b")).manifest.stages[0].operators) == head[1] - head[0]


@pytest.mark.usefixtures("shipped")
def test_the_default_cut_writes_a_bundle_of_1008_bytes(invoke: Invoke) -> None:
    result = invoke(main, "--layer", "block_16_project_BN", "--evaluate-images", 30)
    assert result.exit_code == 0, result.output
    folder = Path("build/mobilenet_v2_0.35_96_digits-block_16_project_BN")
    opened = bundle.read(folder)
    assert opened.manifest.boundaries[0].payload_bytes == 1008
    assert opened.manifest.verification["images"] == 10
    assert opened.manifest.verification["noise"] == 10
    accuracy = opened.manifest.accuracy
    assert accuracy is not None
    assert accuracy["int8"] == accuracy["split"] >= 0.9
    assert "1,008 bytes (3x3x112) after block_16_project_BN" in result.output
    assert "none differs" in result.output
    assert "arena (x86-64)" in result.output
    assert opened.manifest.id[:16] in result.output


@pytest.mark.usefixtures("shipped")
def test_a_chain_of_four_with_a_double_cut(invoke: Invoke) -> None:
    names = ("block_13_project_BN", "block_2_expand_relu", "block_5_add")
    arguments = [a for name in names for a in ("--layer", name)]
    result = invoke(main, *arguments, "--output", "chain", "--evaluate", "none")
    assert result.exit_code == 0, result.output
    opened = bundle.read(Path("chain"))
    assert [b.layer for b in opened.manifest.boundaries] == [names[1], names[2], names[0]]
    assert len(opened.manifest.boundaries[0].tensors) == 2
    assert len(opened.stages) == 4


@pytest.mark.usefixtures("shipped")
def test_the_listing_has_every_layer_and_cut(invoke: Invoke) -> None:
    result = invoke(main, "--list", "--json", "l.json", "--plot", "l.png", "--ram", "150KiB")
    assert result.exit_code == 0, result.output
    content = json.loads(Path("l.json").read_text())
    cuts = [layer["cut"] for layer in content["layers"] if layer["cut"]]
    assert len(content["layers"]) == 157  # 156 layers and the logits inside `predictions`.
    assert content["legal_cuts"] == len({cut["position"] for cut in cuts}) == 64
    for cut in cuts:
        assert cut["head_macs"] + cut["tail_macs"] == content["macs"]
        assert cut["payload_bytes"] == sum(t["bytes"] for t in cut["tensors"])
        assert cut["head_fits"] == (cut["head_arena_bytes"] <= 150 * 1024)
    assert {cut["head_fits"] for cut in cuts} == {True, False}
    fused = next(la for la in content["layers"] if la["name"] == "block_16_project")
    assert (fused["cut"], fused["stand_in"]) == (None, "block_16_project_BN")
    assert "34 with one tensor, 30 with more" in result.output
    assert np.asarray(Image.open("l.png")).std() > 10


def test_a_strangers_tflite_is_listed_and_cut_without_tensorflow(tmp_path: Path) -> None:
    """In a process that would fail if it imported TensorFlow or Keras."""
    code = (
        "import sys; sys.modules.update(tensorflow=None, keras=None)\n"
        "from partitioner.cli import main; main()"
    )
    for arguments in (["--list"], ["--layer", "#6", "--output", str(tmp_path / "out")]):
        done = subprocess.run(
            [sys.executable, "-c", code, "--model", str(STRANGER), *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
    opened = bundle.read(tmp_path / "out")
    assert opened.manifest.model["source"] == "tflite"
    assert opened.full == STRANGER.read_bytes()


def test_calibration_from_a_folder_of_images_and_a_keras_file(
    invoke: Invoke, small_model: Any, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(12):
        pixels = rng.integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    small_model.save(tmp_path / "small.keras")
    arguments = ("--model", tmp_path / "small.keras", "--calibration", folder, "--layer", "conv")
    result = invoke(main, *arguments, "--preprocess", "unit")
    assert result.exit_code == 0, result.output
    m = bundle.read(Path("build/small-conv")).manifest
    assert m.model["name"] == "small"
    assert m.calibration is not None
    assert (m.calibration["source"], m.calibration["images"]) == ("photos", 12)
    assert (m.model["source"], m.model["preprocessing"]) == ("keras", "unit")


def test_calibration_from_arrays(invoke: Invoke, keras: Any, tmp_path: Path) -> None:
    a, b = keras.Input((5,)), keras.Input((7,))
    x = keras.layers.Concatenate()([keras.layers.Dense(4)(a), keras.layers.Dense(3)(b)])
    keras.Model([a, b], keras.layers.Dense(2)(x)).save(tmp_path / "two.keras")
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "c.npz", rng.normal(size=(30, 5)), rng.normal(size=(30, 7)))
    arguments = ("--model", tmp_path / "two.keras", "--layer", "#0", "--output", "out")
    result = invoke(main, *arguments, "--calibration", tmp_path / "c.npz", "--verbose")
    assert result.exit_code == 0, result.output
    assert len(bundle.read(Path("out")).manifest.inputs) == 2
    for bad, message in [
        ({"x": rng.normal(size=(30, 5))}, "name them after the network's inputs"),
        (
            {"arr_0": rng.normal(size=(30, 7)), "arr_1": rng.normal(size=(30, 5))},
            "('n', 5), ('n', 7)",
        ),
    ]:
        np.savez(tmp_path / "bad.npz", **bad)
        refused = invoke(main, *arguments[:-1], "out2", "--calibration", tmp_path / "bad.npz")
        assert refused.exit_code == 1
        assert message in refused.stderr


def test_named_calibration_arrays_go_to_the_inputs_of_that_name(
    invoke: Invoke, keras: Any, tmp_path: Path
) -> None:
    left, right = keras.Input((5,), name="left"), keras.Input((5,), name="right")
    x = keras.layers.Concatenate()([keras.layers.Dense(4)(left), keras.layers.Dense(4)(right)])
    keras.Model([left, right], keras.layers.Dense(2)(x)).save(tmp_path / "same.keras")
    rng = np.random.default_rng(0)
    large, small = 100 * rng.normal(size=(30, 5)), rng.normal(size=(30, 5))
    np.savez(tmp_path / "c.npz", right=large, left=small)
    arguments = ("--model", tmp_path / "same.keras", "--calibration", tmp_path / "c.npz")
    result = invoke(main, *arguments, "--layer", "#0", "--output", "out")
    assert result.exit_code == 0, result.output
    first, second = bundle.read(Path("out")).manifest.inputs
    assert "left" in first.name
    assert first.scale is not None
    assert second.scale is not None
    assert first.scale * 10 < second.scale


def test_a_wrong_name_is_refused_before_the_conversion(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> bytes:
        raise AssertionError("converted all the same")

    monkeypatch.setattr("partitioner.quantize.to_int8", never)
    assert_refused(invoke(main, "--layer", "block_16_projet_BN"), "mean block_16_project_BN", 2)


def test_a_rolled_recurrent_layer_is_refused_by_name(
    invoke: Invoke, keras: Any, tmp_path: Path
) -> None:
    inputs = keras.Input((10, 6))
    keras.Model(inputs, keras.layers.Dense(2)(keras.layers.LSTM(5, name="memory")(inputs))).save(
        tmp_path / "lstm.keras"
    )
    np.savez(tmp_path / "c.npz", np.ones((8, 10, 6)))
    arguments = ("--model", tmp_path / "lstm.keras", "--calibration", tmp_path / "c.npz")
    refused = invoke(main, *arguments, "--layer", "#0")
    assert_refused(refused, "'memory' is a recurrent layer .*unroll=True")


def test_held_out_images_are_not_those_of_the_calibration(
    invoke: Invoke, small_model: Any, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    for i in range(10):
        (tmp_path / "photos" / str(i)).mkdir(parents=True)
        pixels = rng.integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / str(i) / "a.png")
    small_model.save(tmp_path / "small.keras")
    photos = tmp_path / "photos"
    arguments = ("--model", tmp_path / "small.keras", "--preprocess", "unit", "--layer", "conv")
    refused = invoke(main, *arguments, "--calibration", photos, "--evaluate", photos)
    assert_refused(refused, "was used for calibration")
    result = invoke(
        main, *arguments, "--calibration", photos, "--evaluate", photos, "--calibration-images", 6
    )
    assert result.exit_code == 0, result.output
    assert "accuracy on 4 held-out images" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--layer", "#99"), "no layer '#99'"),
        (("--layer", "functional_1/add_1/Ad"), "did you mean functional_1/add_1/Add"),
        (("--layer", "serving_default_keras_tensor:0"), "is an input"),
        (("--layer", "StatefulPartitionedCall_1:0"), "is the output"),
        (("--layer", "#2", "--alpha", "0.5"), "--alpha is for built-in networks"),
        (("--list", "--plot", "x.bmp"), "must end in .png, .pdf, .svg"),
        (("--layer", "#2", "--calibration", "nowhere"), "no folder of images nowhere"),
    ],
)
def test_bad_requests(invoke: Invoke, arguments: tuple[str, ...], message: str) -> None:
    assert_refused(invoke(main, "--model", STRANGER, *arguments), message, 2)


def test_images_of_other_classes(invoke: Invoke) -> None:
    refused = invoke(main, "--model", STRANGER, "--layer", "#2", "--evaluate", "digits")
    assert_refused(refused, "have 10 classes .* has 5 outputs")


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--list", "--layer", "x"),
        ("--layer", "x", "--json", "f"),
        ("--list", "--ram", "lots"),
        ("--list", "--ram", "0"),
        ("--nonsense",),
    ],
)
def test_wrong_usage_exits_with_2(invoke: Invoke, arguments: tuple[str, ...]) -> None:
    assert_refused(invoke(main, *arguments), "see `main --help`", 2)


@pytest.mark.usefixtures("shipped")
@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("block_16_project", "fused into 'block_16_project_BN'.*nearest legal cuts"),
        ("block_17_add", "no layer 'block_17_add'; did you mean"),
        ("input_layer", "is an input"),
        ("predictions", "is the output"),
    ],
)
def test_layers_that_cannot_be_cut_at(invoke: Invoke, layer: str, message: str) -> None:
    assert_refused(invoke(main, "--layer", layer), message, 2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a .tflite file"),
        (b"hello, I am a text file", "not a .tflite file"),
        (STRANGER.read_bytes()[:3000], "damaged|truncated"),
    ],
)
def test_files_that_are_no_tflite(
    invoke: Invoke, tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "m.tflite").write_bytes(content)
    assert_refused(invoke(main, "--model", tmp_path / "m.tflite", "--list"), message)


def test_files_that_cannot_be_read(invoke: Invoke, tmp_path: Path) -> None:
    missing = tmp_path / "none.tflite"
    assert_refused(invoke(main, "--model", missing, "--list"), "no file .*none.tflite", 2)
    assert_refused(invoke(main, "--model", tmp_path / "n.keras", "--list"), "no file .*n.keras", 2)
    (tmp_path / "bad.keras").write_bytes(b"PK\x03\x04 not really")
    refused = invoke(main, "--model", tmp_path / "bad.keras", "--list")
    assert_refused(refused, "is no .keras file")


def test_unknown_networks_and_weights(invoke: Invoke) -> None:
    refused = invoke(main, "--model", "mobilenet_v9", "--list")
    assert_refused(refused, "one of mobilenet_v2, resnet", 2)
    for arguments in (("--size", 224), ("--alpha", 1.0), ("--classes", 3)):
        refused = invoke(main, "--list", *arguments)
        assert_refused(refused, "digits weights belong to mobilenet_v2 with alpha 0.35", 2)
    assert_refused(invoke(main, "--list", "--weights", "none.h5"), "no weights file none.h5", 2)


def test_imagenet_without_internet_is_one_clear_line(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # Nothing listens there.
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    refused = invoke(main, "--list", "--weights", "imagenet")
    assert_refused(refused, "imagenet weights could not be downloaded.*connect to the internet")


@pytest.fixture
def photos(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "photos"
    folder.mkdir()
    return folder


def test_folders_of_images_that_do_not_serve(invoke: Invoke, photos: Path) -> None:
    arguments = ("--model", STRANGER, "--layer", "#6", "--calibration", photos)
    assert_refused(invoke(main, *arguments), "no images in")
    (photos / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    assert_refused(invoke(main, *arguments), "a.png cannot be read as an image")
    Image.new("RGB", (30, 24)).save(photos / "a.png")
    assert_refused(invoke(main, *arguments), "a.png is 30x24 pixels, the network takes 24x24")
    result = invoke(main, *arguments, "--resize", "--output", "out")
    assert result.exit_code == 0, result.output


def test_a_model_without_known_preprocessing_is_verified_on_noise_and_says_so(
    invoke: Invoke, keras: Any, tmp_path: Path
) -> None:
    from partitioner import quantize

    inputs = keras.Input((40,))
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Dense(8, "relu")(inputs)))
    rng = np.random.default_rng(0)
    data = quantize.to_int8(model, [rng.normal(size=(20, 40)).astype(np.float32)])
    (tmp_path / "flat.tflite").write_bytes(data)
    result = invoke(main, "--model", tmp_path / "flat.tflite", "--layer", "#0", "--output", "out")
    assert result.exit_code == 0, result.output
    assert "verified on noise only" in result.stderr
    assert bundle.read(Path("out")).manifest.verification["images"] == 0


def test_an_existing_bundle_is_kept_unless_forced(invoke: Invoke) -> None:
    arguments = ("--model", STRANGER, "--layer", "#6")
    assert invoke(main, *arguments).exit_code == 0
    (folder,) = Path("build").iterdir()
    before = (folder / "manifest.json").stat().st_mtime_ns
    refused = invoke(main, *arguments)
    assert refused.exit_code == 1
    assert "exists already; give --force" in refused.stderr
    assert (folder / "manifest.json").stat().st_mtime_ns == before
    assert invoke(main, *arguments, "--force").exit_code == 0
    assert (folder / "manifest.json").stat().st_mtime_ns > before


def test_verbose_shows_the_traceback(invoke: Invoke) -> None:
    result = invoke(main, "--model", "none.tflite", "--list", "--verbose")
    assert result.exit_code == 2
    assert "Traceback" in result.stderr
