"""Digits and folders of images."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models import digits, images, preprocess
from models.images import ImageError


def test_the_split_is_fixed_and_disjoint() -> None:
    train, test = digits.load("train"), digits.load("test")
    assert (len(train), len(test)) == (1438, 359)
    rows = {image.tobytes() for image in train.images}
    shared = sum(image.tobytes() in rows for image in test.images)
    assert shared <= 1  # The data set itself may hold a digit twice.
    assert np.array_equal(digits.load("test").labels, test.labels)


def test_the_digits_are_those_of_load_digits() -> None:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    table = digits._read()
    assert np.array_equal(table[:, :64], bunch.data)
    assert np.array_equal(table[:, 64], bunch.target)


def test_enlarged_digits_keep_range_and_channels() -> None:
    large = digits.enlarge(digits.load("test").images[:3], 24, 40, 3)
    assert large.shape == (3, 24, 40, 3)
    assert large.max() > 200
    assert np.array_equal(large[..., 0], large[..., 2])


@pytest.mark.parametrize(
    ("mode", "black", "white"),
    [("tf", -1, 1), ("unit", 0, 1), ("raw", 0, 255)],
)
def test_preprocessing_ranges(mode: str, black: float, white: float) -> None:
    pixels = np.array([0, 255], np.uint8).reshape(2, 1, 1, 1)
    assert preprocess.to_float(pixels, mode).reshape(-1).tolist() == [black, white]


@pytest.mark.parametrize("mode", ["tf", "caffe", "torch"])
def test_preprocessing_equals_keras(mode: str) -> None:
    from partitioner.quantize import require_tensorflow

    require_tensorflow()
    from keras.src.applications.imagenet_utils import preprocess_input

    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), np.uint8)
    wanted = preprocess_input(pixels.astype(np.float32), "channels_last", mode)
    assert np.allclose(preprocess.to_float(pixels, mode), wanted, atol=1e-4)


def test_a_sample_is_seeded_and_without_repeats() -> None:
    a, b, c = (images.load("digits", (8, 8, 1), count=50, seed=s) for s in (3, 3, 4))
    assert a.names == b.names
    assert len(set(a.names)) == 50
    assert a.names != c.names
    assert len(images.load("digits", (8, 8, 1), count=10_000)) == 359


def test_images_used_elsewhere_are_left_out() -> None:
    every = images.load("digits", (8, 8, 1))
    rest = every.without(every.first(300))
    assert 50 <= len(rest) <= 59
    assert not set(rest.names) & set(every.first(300).names)


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    found = images.load(str(tmp_path), (8, 8, 1)).images[0, :, :, 0]
    assert np.array_equal(found, (ramp / 257).astype(np.uint8))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_that_hides_nothing_is_dropped_and_any_other_refused(
    tmp_path: Path, mode: str
) -> None:
    opaque = Image.new("RGB", (4, 4), (9, 9, 9)).convert(mode)
    opaque.save(tmp_path / "x.png")
    assert images.load(str(tmp_path), (4, 4, 3)).images.max() == 9
    glass = opaque.copy()
    glass.putpixel((1, 2), (*opaque.getpixel((1, 2))[:-1], 254))
    glass.save(tmp_path / "x.png")
    with pytest.raises(ImageError, match=r"x.png has transparent pixels: flatten it"):
        images.load(str(tmp_path), (4, 4, 3))


def test_a_transparent_colour_of_a_palette_is_refused_too(tmp_path: Path) -> None:
    Image.new("P", (4, 4), 3).save(tmp_path / "x.gif", transparency=3)
    with pytest.raises(ImageError, match="transparent pixels"):
        images.load(str(tmp_path), (4, 4, 3))


def test_a_pipe_among_the_images_is_passed_over(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    Image.new("L", (4, 4), 7).save(tmp_path / "x.png")
    assert images.load(str(tmp_path), (4, 4, 1)).names == ("x.png",)


def test_an_empty_folder_is_a_class_too(tmp_path: Path) -> None:
    for label in ("cat", "dog", "eel"):
        (tmp_path / label).mkdir()
    Image.new("L", (4, 4), 7).save(tmp_path / "dog" / "x.png")
    found = images.load(str(tmp_path), (4, 4, 1))
    assert (found.labels, found.classes) == (("dog",), ("cat", "dog", "eel"))


def test_folder_names_are_classes(tmp_path: Path) -> None:
    for label in ("dog", "cat"):
        (tmp_path / label).mkdir()
        Image.new("L", (4, 4), 7).save(tmp_path / label / "x.png")
    found = images.load(str(tmp_path), (4, 4, 3))
    assert found.labels == ("cat", "dog")
    assert found.classes == ("cat", "dog")
    assert found.images.shape == (2, 4, 4, 3)


def test_inputs_that_are_no_images() -> None:
    with pytest.raises(ImageError, match="5 channels"):
        images.load("digits", (8, 8, 5))
