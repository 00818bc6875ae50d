"""`tinysplit run` in process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from host import local_run
from host.cli import main
from host.report.contact_sheet import as_picture
from partitioner import evaluate, kernels
from partitioner.bundle import Bundle, build
from partitioner.catalogue import Catalogue
from partitioner.source import Source

Invoke = Callable[..., Result]


@pytest.fixture(scope="module")
def digits_bundle(digits_source: Source) -> Bundle:
    cuts = Catalogue(digits_source.graph, digits_source.layers).chain(("block_2_expand_relu",))
    return build(
        digits_source.graph, cuts, model=digits_source.identity, calibration=None, realistic=[]
    )


@pytest.fixture
def folder(digits_bundle: Bundle, tmp_path: Path) -> Path:
    digits_bundle.write(tmp_path / "bundle")
    return tmp_path / "bundle"


def test_real_digits_are_classified_and_all_bytes_agree(invoke: Invoke, folder: Path) -> None:
    result = invoke(main, "run", folder, "--count", 20, "--save-figure", "sheet.png")
    assert result.exit_code == 0, result.output
    assert "all bytes agree" in result.output
    right = int(result.output.split(" of 20 images right")[0].split()[-1])
    assert right >= 18
    assert "measured on this host with tflite-micro" in result.output
    assert np.asarray(Image.open("sheet.png")).std() > 20


def test_fast_kernels_report_how_far_they_are_off(invoke: Invoke, folder: Path) -> None:
    result = invoke(main, "run", folder, "--kernels", "fast", "--count", 5)
    assert result.exit_code == 0, result.output
    assert "differ from the uncut model on exact kernels" in result.output
    assert "xnnpack" in result.output
    assert "all bytes agree" not in result.output


def test_an_inexact_stage_is_found(digits_bundle: Bundle) -> None:
    """The tail of a bundle whose head's outputs are swapped gives wrong bytes; they are counted."""
    m = digits_bundle.manifest
    head = m.stages[0]
    swapped = replace(m, stages=(replace(head, sent=head.sent[::-1]), *m.stages[1:]))
    images = evaluate.held_out("digits", m, count=2)
    with pytest.raises(Exception, match=r"Dimension mismatch|shape"):
        list(local_run.run(replace(digits_bundle, manifest=swapped), images, kernels.exact()))


def test_a_folder_of_images_with_classes(invoke: Invoke, folder: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    for label in ("3", "7"):
        (images / label).mkdir(parents=True)
    digits = evaluate.held_out("digits", _manifest(folder))
    for i in range(12):
        label = digits.labels[i] if digits.labels[i] in ("3", "7") else "3"
        Image.fromarray(digits.images[i]).save(images / str(label) / f"{i}.png")
    result = invoke(main, "run", folder, "--images", images)
    assert result.exit_code == 0, result.output
    assert "3/" in result.output


def _manifest(folder: Path):  # type: ignore[no-untyped-def]
    from partitioner import bundle

    return bundle.read(folder).manifest


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("nowhere",), 2, "'nowhere' does not exist"),
        (("BUNDLE", "--images", "nowhere"), 2, "no folder of images nowhere"),
        (("BUNDLE", "--save-figure", "x.doc"), 2, "must end in .png"),
        (("BUNDLE", "--save-figure", "/proc/x/y.png"), 1, "cannot write /proc/x/y.png"),
    ],
)
def test_bad_requests(
    invoke: Invoke, folder: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    chosen = [folder if a == "BUNDLE" else a for a in arguments]
    result = invoke(main, "run", *chosen)
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert list(Path().iterdir()) == []


def test_a_boundary_as_a_picture_has_a_tile_per_channel() -> None:
    tensor = np.arange(2 * 3 * 4, dtype=np.int8).reshape(1, 2, 3, 4)
    sheet = as_picture([tensor])
    assert np.isfinite(sheet).sum() == 24
    assert set(sheet[np.isfinite(sheet)].astype(int)) == set(range(24))
