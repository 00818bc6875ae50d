"""Bundles: verified before they are written, checked when they are read, whole or absent."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from partitioner import bundle, cut, kernels, manifest, output
from partitioner.bundle import Bundle, BundleError, InexactError
from partitioner.catalogue import Catalogue
from partitioner.graph import Graph
from partitioner.manifest import ManifestError
from partitioner.output import OutputError


def written(stranger_bundle: Bundle, folder: Path) -> Path:
    stranger_bundle.write(folder)
    return folder


def test_what_is_written_is_what_is_read(stranger_bundle: Bundle, tmp_path: Path) -> None:
    folder = written(stranger_bundle, tmp_path / "b")
    assert bundle.read(folder) == stranger_bundle
    assert sorted(p.name for p in folder.iterdir()) == [
        "full.tflite",
        "manifest.json",
        "selftest.npz",
        "stage0.tflite",
        "stage1.tflite",
        "stage2.tflite",
    ]


def test_two_builds_are_identical(stranger: Graph, stranger_bundle: Bundle) -> None:
    cuts = Catalogue(stranger, None).chain(("#1", "#6"))
    model = stranger_bundle.manifest.model
    again = bundle.build(stranger, cuts, model=model, calibration=None, realistic=[])
    assert again == stranger_bundle


def test_the_schema_documents_every_field_that_is_written(stranger_bundle: Bundle) -> None:
    content = json.loads(stranger_bundle.manifest.to_json())
    jsonschema.Draft202012Validator.check_schema(manifest.schema())
    assert set(content) == set(manifest.schema()["properties"])
    for name, field in manifest.schema()["properties"].items():
        assert "description" in field or "$ref" in field or "const" in field, name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.pop("stages"), "not valid at the top level: 'stages' is a required"),
        (lambda m: m["stages"][0].update(macs=-1), "not valid at stages/0/macs"),
        (lambda m: m.update(surprise=1), "not valid.*surprise"),
        (lambda m: m.update(format=2), "format 2, this tinysplit reads format 1"),
        (lambda m: m["boundaries"][0].update(layer="x"), "changed after it was written"),
        (lambda m: m.update(id="0" * 64), "changed after it was written"),
        (lambda m: m["files"].update({"../../etc/passwd": "0" * 64}), "not valid at files"),
        (lambda m: m["stages"][0].update(arena_bytes=2**31), "not valid at stages/0/arena_bytes"),
        (lambda m: m["stages"][0].update(arena_bytes=5000.0), "not valid at stages/0/arena_bytes"),
        (lambda m: m["stages"][1].update(inputs=[0.0]), "not valid at stages/1/inputs/0"),
        (lambda m: m["inputs"][0].update(scale=0), "not valid at inputs/0/scale"),
        (lambda m: m["inputs"][0].update(scale=float("nan")), "NaN is no number"),
    ],
)
def test_a_changed_manifest_is_refused(
    stranger_bundle: Bundle, tmp_path: Path, change: Any, message: str
) -> None:
    folder = written(stranger_bundle, tmp_path / "b")
    content = json.loads((folder / "manifest.json").read_text())
    change(content)
    (folder / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(ManifestError, match=message):
        bundle.read(folder)


def _resealed(m: manifest.Manifest, **changes: Any) -> str:
    return replace(m, **changes).to_json()


def test_a_manifest_whose_wiring_contradicts_itself_is_refused(stranger_bundle: Bundle) -> None:
    good = stranger_bundle.manifest
    tail = replace(good.stages[2], inputs=(7,))
    with pytest.raises(ManifestError, match="inputs of stage 2"):
        manifest.parse(_resealed(good, stages=(*good.stages[:2], tail)))
    lying = replace(good.boundaries[0], payload_bytes=1)
    with pytest.raises(ManifestError, match="payload at"):
        manifest.parse(_resealed(good, boundaries=(lying, good.boundaries[1])))
    with pytest.raises(ManifestError, match="stands twice"):
        manifest.parse(good.to_json().replace("{", '{"id": "x",', 1))
    head = replace(good.stages[0], sent=good.stages[0].sent[:1])
    with pytest.raises(ManifestError, match="what stage 0 sends"):
        manifest.parse(_resealed(good, stages=(head, *good.stages[1:])))


@pytest.mark.parametrize("name", ["full.tflite", "stage1.tflite", "selftest.npz"])
def test_a_changed_or_missing_file_is_refused(
    stranger_bundle: Bundle, tmp_path: Path, name: str
) -> None:
    folder = written(stranger_bundle, tmp_path / "b")
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(BundleError, match=f"{name} is not the file the manifest describes"):
        bundle.read(folder)
    (folder / name).unlink()
    with pytest.raises(BundleError, match=f"{name} cannot be read"):
        bundle.read(folder)


def test_files_of_another_network_under_a_consistent_manifest_are_refused(
    stranger_bundle: Bundle, tmp_path: Path
) -> None:
    """Somebody who recomputes every checksum still cannot pair files that do not fit."""
    m, files = stranger_bundle.manifest, dict(stranger_bundle.files)
    swapped = {**files, "stage0.tflite": files["stage1.tflite"]}
    wrong = replace(m.inputs[0], shape=(1, 24, 24, 1))
    for changed_files, changed, message in [
        (swapped, m, "stage0.tflite"),
        ({**files, "full.tflite": files["stage0.tflite"]}, m, "full.tflite"),
        (files, replace(m, inputs=(wrong,)), "inputs of full.tflite"),
    ]:
        sums = {name: hashlib.sha256(data).hexdigest() for name, data in changed_files.items()}
        folder = tmp_path / message.replace(" ", "_")
        Bundle(replace(changed, files=sums), changed_files).write(folder)
        with pytest.raises(BundleError, match=f"contradict each other: .*{message}"):
            bundle.read(folder)


def test_a_selftest_of_other_arrays_is_refused(stranger_bundle: Bundle) -> None:
    arrays = stranger_bundle.selftest()
    for changed in ({**arrays, "input_0": arrays["input_0"][:1]}, {"x": arrays["crc32"]}):
        files = {**stranger_bundle.files, "selftest.npz": bundle._npz(changed)}
        with pytest.raises(BundleError, match="does not hold the arrays"):
            replace(stranger_bundle, files=files).selftest()
    files = {**stranger_bundle.files, "selftest.npz": b"PK nonsense"}
    with pytest.raises(BundleError, match="cannot be read"):
        replace(stranger_bundle, files=files).selftest()


def test_how_it_was_made_is_not_part_of_the_id(stranger_bundle: Bundle) -> None:
    m = stranger_bundle.manifest
    assert replace(m, tools={"keras": "99"}, accuracy=None).id == m.id
    assert replace(m, files={**m.files, "full.tflite": "0" * 64}).id != m.id


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names")
def test_a_pipe_in_place_of_a_file_is_refused_and_not_waited_for(
    stranger_bundle: Bundle, tmp_path: Path
) -> None:
    for name in ("manifest.json", "stage0.tflite"):
        folder = tmp_path / name
        stranger_bundle.write(folder)
        (folder / name).unlink()
        os.mkfifo(folder / name)
        with pytest.raises(BundleError, match="cannot be read: it is no file"):
            bundle.read(folder)


def test_a_folder_without_a_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is not a bundle"):
        bundle.read(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ManifestError, match="no JSON"):
        bundle.read(tmp_path)
    (tmp_path / "manifest.json").write_text('{"scale": 1e999}')
    with pytest.raises(ManifestError, match="1e999 is beyond"):
        bundle.read(tmp_path)


def test_one_differing_byte_leaves_no_bundle(
    stranger: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stage with one bias changed by one is caught, and named by boundary or output."""
    cuts = Catalogue(stranger, None).chain(("#6",))
    honest = cut.split

    def lying(graph: Graph, positions: tuple[int, ...]) -> tuple[cut.Stage, ...]:
        head, tail = honest(graph, positions)
        graph_of_head = Graph(head.data)
        bias = next(t for t in graph_of_head.tensors if t.constant and t.dtype == np.int32)
        buffer = graph_of_head.model.subgraphs[0].tensors[bias.index].buffer
        graph_of_head.model.buffers[buffer].data = np.array(
            graph_of_head.model.buffers[buffer].data
        )
        graph_of_head.model.buffers[buffer].data[1] ^= 16
        data = cut.extract(
            graph_of_head,
            0,
            len(graph_of_head.operators),
            graph_of_head.inputs,
            graph_of_head.outputs,
        )
        return replace(head, data=data), tail

    monkeypatch.setattr(bundle, "split", lying)
    with pytest.raises(InexactError, match=r"values differ in the .* for input 0"):
        bundle.build(stranger, cuts, model={"name": "x"}, calibration=None, realistic=[])


def test_the_selftest_has_the_exact_bytes_and_every_operators_checksum(
    stranger: Graph, stranger_bundle: Bundle
) -> None:
    arrays = stranger_bundle.selftest()
    m = stranger_bundle.manifest
    keeping = kernels.exact().load(stranger.data, keep_tensors=True)
    for n in range(m.selftest["vectors"]):
        (output,) = keeping.run([arrays["input_0"][n]])
        assert output.tobytes() == arrays["output_0"][n].tobytes()
        for stage in m.stages:
            for operator in stage.operators:
                column = operator.crc_index
                tensor = keeping.tensor(stranger.operators[column].outputs[0])
                assert zlib.crc32(tensor.tobytes()) == arrays["crc32"][n, column]
        passage = stranger_bundle.chain(kernels.exact()).run([arrays["input_0"][n]])
        for k, message in enumerate(passage.messages):
            for i, tensor in enumerate(message):
                assert tensor.tobytes() == arrays[f"boundary_{k}_{i}"][n].tobytes()


def test_a_stage_loads_in_an_arena_of_the_size_stated(stranger_bundle: Bundle) -> None:
    """In a process of its own: too small an arena can crash TensorFlow Lite Micro."""
    for data, stage in zip(stranger_bundle.stages, stranger_bundle.manifest.stages, strict=True):
        code = (
            "import sys; from tflite_micro.python.tflite_micro import runtime\n"
            "model, size = sys.stdin.buffer.read(), int(sys.argv[1]) + 16\n"
            "runtime.Interpreter.from_bytes(model, arena_size=size)"
        )
        command = [sys.executable, "-c", code, str(stage.arena_bytes)]
        done = subprocess.run(command, input=data, capture_output=True)
        assert done.returncode == 0, done.stderr


def test_an_existing_folder_is_kept_unless_forced(stranger_bundle: Bundle, tmp_path: Path) -> None:
    folder = written(stranger_bundle, tmp_path / "b")
    before = (folder / "manifest.json").stat().st_ino
    with pytest.raises(OutputError, match="exists already; give --force"):
        stranger_bundle.write(folder)
    assert (folder / "manifest.json").stat().st_ino == before
    stranger_bundle.write(folder, force=True)
    assert (folder / "manifest.json").stat().st_ino != before
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_force_spares_a_file_somebody_put_into_a_bundle(
    stranger_bundle: Bundle, tmp_path: Path
) -> None:
    folder = written(stranger_bundle, tmp_path / "b")
    (folder / "run.png").write_text("keep")
    with pytest.raises(OutputError, match=r"holds 'run.png', which is not a bundle's"):
        stranger_bundle.write(folder, force=True)
    assert (folder / "run.png").exists()


@pytest.mark.parametrize("atomic", [True, False])
def test_a_replacement_that_fails_leaves_the_old_bundle(
    stranger_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, atomic: bool
) -> None:
    """Every rename fails in turn, with and without the atomic exchange of Linux."""
    folder = written(stranger_bundle, tmp_path / "b")
    if not atomic:
        monkeypatch.setattr(output, "_exchange", lambda *_: False)
    real, calls = Path.replace, []

    def failing(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == fail_at:
            raise OSError(5, "Input/output error")
        return real(self, target)

    for fail_at in (1, 2):  # noqa: B007  # Read by `failing`.
        calls.clear()
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", failing)
            with suppress(OutputError):
                stranger_bundle.write(folder, force=True)
        assert bundle.read(folder) == stranger_bundle
        assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_force_spares_what_is_no_bundle(stranger_bundle: Bundle, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "cat.png").write_text("")
    with pytest.raises(OutputError, match=r"holds 'cat.png', .* --force leaves it alone"):
        stranger_bundle.write(photos, force=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is not a folder"):
        stranger_bundle.write(tmp_path / "file", force=True)
    assert (photos / "cat.png").exists()


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for 8 KiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    mount = tmp_path / "disk"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(mount)], check=True)
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


def test_a_full_disk_leaves_nothing_behind(stranger_bundle: Bundle, tiny_disk: Path) -> None:
    with pytest.raises(OutputError, match="No space left on device; nothing was left there"):
        stranger_bundle.write(tiny_disk / "b")
    assert list(tiny_disk.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_one_line(stranger_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot write .*(Not a directory|File exists)"):
        stranger_bundle.write(tmp_path / "file" / "b")
