"""Claims about what counts as images."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from metavae_zoo.errors import BadImages
from metavae_zoo.images import as_images

SHAPE = (1, 4, 4)


def test_bytes_pass_without_a_copy():
    images = np.arange(32, dtype=np.uint8).reshape(2, 4, 4)
    assert np.shares_memory(as_images(images, SHAPE, field="queries"), images)


def test_floats_are_rounded_to_eight_bits():
    levels = np.arange(256, dtype=np.uint8)
    images = np.resize(levels, (16, 4, 4))
    for kind in (np.float16, np.float32, np.float64):
        assert np.array_equal(
            as_images((images / 255).astype(kind), SHAPE, field="queries")[:, 0], images
        )


@pytest.mark.parametrize(
    ("images", "says"),
    [
        (
            np.zeros((2, 5, 4), np.uint8),
            r"shape \[2, 5, 4\], expected \[N, 4, 4\] or \[N, 1, 4, 4\]",
        ),
        (np.zeros((2, 3, 4, 4), np.uint8), r"shape \[2, 3, 4, 4\]"),
        (np.zeros((4, 4), np.uint8), r"shape \[4, 4\]"),
        (np.zeros((0, 4, 4), np.uint8), "is empty"),
        (np.zeros((2, 4, 4), np.int64), "type int64, expected uint8"),
        (np.full((2, 4, 4), "a"), "expected uint8"),
        (np.full((2, 4, 4), np.nan, np.float32), "NaN or infinite"),
        (np.full((2, 4, 4), 255.0, np.float32), "255 to 255, expected 0 to 1"),
        (np.full((2, 4, 4), -0.1, np.float32), "expected 0 to 1"),
    ],
)
def test_bad_images_say_what_was_given_and_what_was_expected(images, says):
    with pytest.raises(BadImages, match=says) as caught:
        as_images(images, SHAPE, field="queries")
    assert caught.value.field == "queries"
    assert caught.value.hint


@pytest.mark.parametrize(
    ("shape", "does"),
    [
        ((4, 4), r"images\[None\]"),
        ((1, 4, 4, 1), "moveaxis"),
        ((5, 4, 4, 1), "moveaxis"),
        ((80,), r"reshape\(-1, 1, 4, 4\)"),
        ((5, 16), r"reshape\(-1, 1, 4, 4\)"),
        ((5, 8, 8), "Resize"),
        ((5, 15), "Resize"),
    ],
)
def test_images_of_the_right_size_in_another_layout_are_told_what_to_do(shape, does):
    with pytest.raises(BadImages) as caught:
        as_images(np.zeros(shape, np.uint8), SHAPE, field="queries")
    assert re.search(does, caught.value.hint)


def memory_map(folder: Path, array: np.ndarray) -> np.ndarray:
    np.save(folder / "images.npy", array)
    return np.load(folder / "images.npy", mmap_mode="r")


def test_whatever_holds_pixels_is_read(tmp_path):
    levels = np.arange(32, dtype=np.uint8).reshape(2, 4, 4) * 8
    floats = torch.from_numpy(levels / 255).float()
    for given in (
        torch.from_numpy(levels),
        floats.requires_grad_(),
        list(floats),
        list(levels),
        [Image.fromarray(one) for one in levels],
        levels.view(np.recarray),
        np.ma.array(levels, mask=False),
        memory_map(tmp_path, levels),
    ):
        assert np.array_equal(as_images(given, SHAPE, field="queries")[:, 0], levels)
    marks = levels > 100
    assert np.array_equal(as_images(marks, SHAPE, field="queries")[:, 0], 255 * marks)


def test_floats_that_leave_the_range_by_rounding_are_taken():
    images = np.full((1, 4, 4), 1.00000024, np.float32)
    images[0, 0] = -1e-7
    found = as_images(images, SHAPE, field="queries")
    assert set(found.ravel().tolist()) == {0, 255}


@pytest.mark.parametrize(
    ("images", "says"),
    [
        (lambda: (np.zeros((4, 4), np.uint8) for _ in range(3)), r"list\(images\)"),
        (lambda: "scans/", "Read pictures first"),
        (lambda: [Path("a.png"), Path("b.png")], "Read pictures first"),
        (lambda: [Image.new("P", (4, 4))], r"convert\('L'\)"),
        (lambda: [Image.new("RGBA", (4, 4))], "background"),
        (lambda: np.ma.array(np.zeros((1, 4, 4)), mask=True), "filled"),
        (lambda: torch.zeros(2, 4, 4).to_sparse(), "one size"),
        (lambda: [np.zeros((4, 4)), np.zeros((5, 4))], "one size"),
        (lambda: np.zeros((2, 4, 4, 3), np.uint8), "make them grey"),
        (lambda: np.full((2, 4, 4), 200), r"astype\('uint8'\)"),
        (lambda: np.full((2, 4, 4), 1), r"images \* 255"),
        (lambda: np.full((2, 4, 4), 4095, np.uint16), "black"),
        (lambda: None, "Give numbers|Resize"),
        (lambda: [None, None], "."),
    ],
)
def test_whatever_is_no_image_is_refused_with_the_hint_that_is_right(images, says):
    with pytest.raises(BadImages) as caught:
        as_images(images(), SHAPE, field="queries")
    assert re.search(says, caught.value.hint)
