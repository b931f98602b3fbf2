"""Claims about files that are given: what is damaged, or is something else, is one clear error."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metavae_client.files import read_images, read_summary, write_summary
from metavae_zoo.embedding.summary import Summary
from metavae_zoo.errors import BadFile

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
