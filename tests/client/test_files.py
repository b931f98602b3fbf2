"""Claims about files that are given: what is damaged, or is something else, is one clear error."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metavae_client.files import Reading, read_images, read_summary, write_summary
from metavae_zoo.embedding.summary import Summary
from metavae_zoo.errors import BadFile, BadImages

_START = b"\x93NUMPY\x01\x00"


def header(text: bytes) -> bytes:
    """The start of a .npy file whose header is `text`."""
    return _START + len(text).to_bytes(2, "little") + text


DAMAGED_ARRAYS = {
    "half a header": header(b"{'descr': ("),
    "brackets": header(b"(" * 1000),
    "objects": header(b"{'descr': '|O', 'fortran_order': False, 'shape': (1,)}"),
    "too much": header(b"{'descr': '|u1', 'fortran_order': False, 'shape': (9999999999999,)}"),
    "nothing": b"",
}


@pytest.mark.parametrize("content", DAMAGED_ARRAYS.values(), ids=DAMAGED_ARRAYS.keys())
def test_a_damaged_array_is_told(tmp_path, bundle, content):
    file = tmp_path / "images.npy"
    file.write_bytes(content)
    with pytest.raises(BadFile, match=r"images\.npy cannot be read as an array"):
        read_images([file], bundle.card, field="queries")


def encrypted(file: Path) -> None:
    content = bytearray(file.read_bytes())
    for sign in (b"PK\x01\x02", b"PK\x03\x04"):  # the bit of each member's two headers
        at = content.index(sign)
        content[at + (8 if sign == b"PK\x01\x02" else 6)] |= 1
    file.write_bytes(content)


def with_member(name: str, content: bytes, packing: int = zipfile.ZIP_STORED):
    def change(file: Path) -> None:
        with zipfile.ZipFile(file) as saved:
            members = {one: saved.read(one) for one in saved.namelist()}
        with zipfile.ZipFile(file, "w", packing) as saved:
            for one, its in (members | {name: content}).items():
                saved.writestr(one, its)

    return change


def of_other_types(file: Path) -> None:
    np.savez(file, total=np.zeros(3, np.complex128), count=1, model="m")


def of_words_for_a_terminal(file: Path) -> None:
    np.savez(file, total=np.zeros(3), count=1, model="\x1b[31mred")


@pytest.mark.parametrize(
    "change",
    [
        encrypted,
        with_member("total.npy", DAMAGED_ARRAYS["half a header"]),
        with_member("total.npy", bytes(200_000_000), zipfile.ZIP_DEFLATED),
        of_other_types,
        of_words_for_a_terminal,
    ],
    ids=["encrypted", "damaged", "bomb", "complex", "escapes"],
)
@pytest.mark.filterwarnings("error")
def test_a_summary_that_is_none_is_told(tmp_path, change):
    file = tmp_path / "summary.npz"
    write_summary(file, Summary(np.zeros(3), 1, "m"))
    assert read_summary(file) == Summary(np.zeros(3), 1, "m")
    change(file)
    with pytest.raises(BadFile, match=r"summary\.npz cannot be read as a summary"):
        read_summary(file)


@pytest.mark.parametrize("kind", ["GIF", "DDS", "EPS", "ICO"])
def test_a_picture_of_another_format_than_its_name_says_is_not_opened(tmp_path, bundle, kind):
    file = tmp_path / "picture.png"
    Image.new("RGB", bundle.card.image_shape[1:]).save(file, kind)
    with pytest.raises(BadFile, match=r"picture\.png cannot be read as a picture"):
        read_images([file], bundle.card, field="queries")


@pytest.mark.parametrize("name", ["queries.npy", "queries.png"])
def test_a_pipe_of_images_is_not_waited_for(tmp_path, bundle, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(BadFile, match="is no file"):
        read_images([tmp_path / name], bundle.card, field="queries")


def test_a_pipe_of_a_summary_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "summary.npz")
    with pytest.raises(BadFile, match="is no file"):
        read_summary(tmp_path / "summary.npz")


def picture_of(bundle, pixels: np.ndarray | None = None) -> Image.Image:
    """A picture of the model's size; its left half is white."""
    _, height, width = bundle.card.image_shape
    if pixels is None:
        pixels = np.zeros((height, width), np.uint8)
        pixels[:, : width // 2] = 255
    return Image.fromarray(pixels)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
@pytest.mark.parametrize("background", [0, 255])
def test_alpha_shows_the_background(tmp_path, bundle, mode, background):
    picture = picture_of(bundle)
    clear = Image.fromarray(np.full_like(np.asarray(picture), 0))
    if mode == "P":
        palette = Image.new("P", picture.size, 1)
        palette.putpalette([0, 0, 0, 200, 200, 200])
        palette.save(tmp_path / "one.png", transparency=1)
    else:
        merged = picture.convert(mode)
        merged.putalpha(clear)
        merged.save(tmp_path / "one.png")
    reading = Reading(background=background)
    found = read_images([tmp_path / "one.png"], bundle.card, field="queries", reading=reading)
    assert (found.images == background).all()


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff", "JPEG"])
def test_a_picture_is_turned_as_its_orientation_says(tmp_path, bundle, suffix):
    picture, exif = picture_of(bundle), Image.Exif()
    exif[0x0112] = 3  # turned by 180 degrees
    path = tmp_path / f"one.{suffix}"
    picture.save(path, exif=exif)
    [image] = read_images([path], bundle.card, field="queries").images[:, 0]
    assert image[:, -1].min() > 200
    assert image[:, 0].max() < 50


def test_every_page_of_a_tiff_is_an_image_and_an_animation_is_refused(tmp_path, bundle):
    levels = [np.full(bundle.card.image_shape[1:], level, np.uint8) for level in (0, 100, 200)]
    first, *others = (picture_of(bundle, level) for level in levels)
    stack = tmp_path / "stack.TIF"
    first.save(stack, format="TIFF", save_all=True, append_images=others)
    found = read_images([stack], bundle.card, field="queries")
    assert found.images[:, 0, 0, 0].tolist() == [0, 100, 200]
    assert found.names == [f"{stack}[{page}]" for page in range(3)]
    for suffix in ("png", "webp"):
        path = tmp_path / f"moving.{suffix}"
        first.save(path, save_all=True, append_images=others)
        with pytest.raises(BadImages, match="animation of 3 frames"):
            read_images([path], bundle.card, field="queries")


def test_sixteen_bits_are_refused(tmp_path, bundle):
    deep = np.zeros(bundle.card.image_shape[1:], np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    with pytest.raises(BadImages, match="mode I;16, expected 8 bits"):
        read_images([tmp_path / "deep.png"], bundle.card, field="queries")


def test_of_a_folder_pictures_are_read_and_the_rest_is_counted(tmp_path, bundle):
    (tmp_path / "below").mkdir()
    for name in ("b.PNG", "a.png", ".hidden.png", "._a.png", "below/c.png"):
        picture_of(bundle).save(tmp_path / name, format="PNG")
    (tmp_path / "notes.txt").touch()
    (tmp_path / ".DS_Store").touch()
    found = read_images([tmp_path], bundle.card, field="queries")
    assert found.names == [str(tmp_path / name) for name in ("a.png", "b.PNG")]
    assert found.passed_over == 1
    everything = Reading(recursive=True)
    found = read_images([tmp_path], bundle.card, field="queries", reading=everything)
    assert len(found.images) == 3
    (tmp_path / "empty" / "deeper").mkdir(parents=True)
    with pytest.raises(BadFile, match=r"no pictures.*--recursive"):
        read_images([tmp_path / "empty"], bundle.card, field="queries")


def test_dark_ink_is_inverted(tmp_path, bundle):
    picture_of(bundle).save(tmp_path / "one.png")
    plain = read_images([tmp_path / "one.png"], bundle.card, field="queries").images
    reading = Reading(invert=True)
    found = read_images([tmp_path / "one.png"], bundle.card, field="queries", reading=reading)
    assert np.array_equal(found.images, 255 - plain)
