"""Claims about the families: what their values, splits and pixels are."""

from __future__ import annotations

import functools
import hashlib
import http.server
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from metavae_zoo.errors import DataUnavailable, UnknownName
from metavae_zoo.families import FAMILIES, family, mnist
from metavae_zoo.families.axes import ROTATION, SCALE, SKEW
from metavae_zoo.families.warp import warp

PAPER_SPLITS = {
    # axis: values, then per split the number of training and of held-out values
    "rotation": (18, {"interleaved": (9, 9), "sparse": (5, 13), "contiguous": (10, 8)}),
    "skew": (18, {"interleaved": (9, 9), "sparse": (5, 13), "contiguous": (10, 8)}),
    "scale": (15, {"interleaved": (8, 7), "sparse": (4, 11), "contiguous": (8, 7)}),
}
PAPER = [name for name, source in FAMILIES.items() if source.axis.name in PAPER_SPLITS]

# sha256, shortened, of the test images at all values, and of the names of their cache files
PIXELS_AND_KEYS = {
    "mnist-rotation": ("589d252126e59a2c", "c670120c16282015"),
    "mnist-scale": ("be24f3fc71699a5d", "1463eac066ebcab8"),
    "mnist-skew": ("f1fe77b99aec3237", "fba3729bf1c77dee"),
    "digits-rotation": ("4d819f5ef5b189a0", "22b716a7b9425a10"),
    "digits-scale": ("7257685a8aad328f", "f93540b4e57ef153"),
    "digits-skew": ("16ce82e278df986b", "959f1aee155098d5"),
}


@pytest.mark.parametrize("name", PAPER)
def test_splits_have_the_papers_sizes_and_cover_every_value(name):
    source = family(name)
    count, splits = PAPER_SPLITS[source.axis.name]
    assert len(source.values) == count
    for split, sizes in splits.items():
        found = source.split(split)
        assert (len(found.train_values), len(found.held_out_values)) == sizes
        assert sorted(found.train_values + found.held_out_values) == list(source.values)


def test_sparse_and_contiguous_values_are_the_papers():
    assert family("mnist-rotation").split("sparse").train_values == (-160, -80, 0, 80, 160)
    assert family("mnist-scale").split("sparse").train_values == (0.6, 1.0, 1.4, 1.8)
    assert family("mnist-skew").split("contiguous").train_values == tuple(range(-180, 1, 20))


@pytest.mark.parametrize("name", [name for name in PAPER if name.startswith("digits")])
@pytest.mark.parametrize("split", ["interleaved", "sparse", "contiguous"])
def test_no_held_out_distribution_equals_a_training_one_on_pixels(name, split):
    source, values = family(name), family(name).split(split)
    seen = source.images_at(values.train_values, "test")
    for held in source.images_at(values.held_out_values, "test"):
        for images in seen:
            differing = (held != images).any(axis=(1, 2, 3)).mean()
            assert differing > 0.95


def test_no_held_out_mnist_skew_equals_a_training_one(mnist_root):
    source = family("mnist-skew")
    values = source.split("contiguous")
    seen = source.images_at(values.train_values, "test", mnist_root)
    for held in source.images_at(values.held_out_values, "test", mnist_root):
        assert all((held != images).any(axis=(1, 2, 3)).mean() > 0.95 for images in seen)


@pytest.mark.parametrize("name", PIXELS_AND_KEYS)
def test_pixels_and_cache_keys_of_the_papers_families_never_change(
    name, request, tmp_path, monkeypatch
):
    monkeypatch.setenv("METAVAE_CACHE", str(tmp_path))
    root = request.getfixturevalue("mnist_root") if name.startswith("mnist") else None
    source, pixels, keys = family(name), hashlib.sha256(), hashlib.sha256()
    for value in source.values:
        pixels.update(source.images(value, "test", root).tobytes())
    for path in sorted((tmp_path / "transformed").iterdir()):
        keys.update(path.stem.encode())
    assert (pixels.hexdigest()[:16], keys.hexdigest()[:16]) == PIXELS_AND_KEYS[name]


def test_the_reference_is_the_training_value_that_changes_an_image_least():
    assert family("mnist-rotation").reference("contiguous") == 0
    assert family("mnist-rotation").reference("sparse") == 0
    assert family("mnist-rotation").reference("interleaved") == -20
    assert family("mnist-scale").reference("sparse") == 1
    assert family("mnist-scanner").reference("contiguous") == 0
    assert family("mnist").reference("all") == 0


@pytest.mark.parametrize("axis", [ROTATION, SCALE, SKEW])
def test_the_neutral_value_leaves_images_alone(axis, rng):
    images = rng.integers(0, 256, (3, 28, 28), dtype=np.uint8)
    neutral = 1.0 if axis is SCALE else 0.0
    assert np.array_equal(warp(images, axis.matrix(neutral), axis.interpolation, 28), images)


def test_rotation_turns_counter_clockwise_about_the_centre(rng):
    images = rng.integers(0, 256, (2, 28, 28), dtype=np.uint8)
    turned = {
        degrees: warp(images, ROTATION.matrix(degrees), "nearest", 28) for degrees in (90, 180)
    }
    assert np.array_equal(turned[90], np.rot90(images, 1, axes=(1, 2)))
    assert np.array_equal(turned[180], images[:, ::-1, ::-1])


def test_scale_below_one_enlarges_and_pads_above():
    image = np.zeros((1, 28, 28), np.uint8)
    image[:, 10:18, 10:18] = 255
    areas = [
        (warp(image, SCALE.matrix(factor), "bilinear", 28) > 127).sum()
        for factor in (0.5, 1.0, 1.9)
    ]
    assert areas[0] == 4 * areas[1]
    assert areas[2] < areas[1] / 3


def test_skew_flips_past_ninety_degrees(rng):
    images = rng.integers(0, 256, (1, 28, 28), dtype=np.uint8)
    assert np.array_equal(warp(images, SKEW.matrix(-180), "nearest", 28), images[:, ::-1])


def test_transformed_images_are_made_once(tmp_path, monkeypatch):
    monkeypatch.setenv("METAVAE_CACHE", str(tmp_path))
    source = family("digits-rotation")
    first = source.images(20.0, "test")
    [kept] = (tmp_path / "transformed").iterdir()
    written = kept.stat().st_mtime_ns
    again = source.images(20.0, "test")
    assert np.array_equal(first, again)
    assert kept.stat().st_mtime_ns == written
    assert not first.flags.writeable


def test_a_damaged_or_unwritable_cache_costs_no_result(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("METAVAE_CACHE", str(tmp_path))
    source = family("digits-rotation")
    expected = np.array(source.images(20.0, "test"))
    [kept] = (tmp_path / "transformed").iterdir()
    kept.write_bytes(b"damaged")
    assert np.array_equal(source.images(20.0, "test"), expected)

    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("METAVAE_CACHE", str(blocked))
    assert np.array_equal(source.images(20.0, "test"), expected)
    assert "not cached" in caplog.text


def test_unknown_names_tell_the_nearest():
    with pytest.raises(UnknownName, match=r"no family 'mnist-rotatio'.*mnist-rotation"):
        family("mnist-rotatio")
    with pytest.raises(UnknownName, match=r"no split 'continuous'.*contiguous"):
        family("mnist-rotation").split("continuous")


def test_missing_mnist_is_one_error_that_names_every_place(tmp_path, monkeypatch):
    monkeypatch.setenv("METAVAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("METAVAE_DATA", str(tmp_path / "elsewhere"))
    serve_downloads_from(monkeypatch, "http://127.0.0.1:9")  # nobody listens on the discard port
    with pytest.raises(DataUnavailable) as caught:
        mnist.Mnist().load("train")
    message = str(caught.value)
    assert "\n" not in message
    for part in ("--data-root", "METAVAE_DATA", "elsewhere", "the cache", "download"):
        assert part in message


def test_a_folder_that_was_given_is_the_one_whatever_lies_elsewhere(
    mnist_root, tmp_path, monkeypatch
):
    monkeypatch.setenv("METAVAE_DATA", str(mnist_root))
    with pytest.raises(DataUnavailable, match=r"given/MNIST/raw has no train-images"):
        mnist.Mnist().load("train", tmp_path / "given")


def test_a_truncated_mnist_file_is_refused(tmp_path, monkeypatch):
    folder = tmp_path / mnist.RAW
    folder.mkdir(parents=True)
    for name in mnist._names():
        (folder / name).write_bytes(b"\0\0\x08\x03 cut short")
    with pytest.raises(DataUnavailable, match="truncated or damaged"):
        mnist.Mnist().load("train", tmp_path)


def test_mnist_is_read_as_lecun_wrote_it(mnist_root):
    images, labels = mnist.Mnist().load("train", mnist_root)
    assert images.shape == (60_000, 28, 28)
    assert labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    test_images, test_labels = mnist.Mnist().load("test", mnist_root)
    assert test_images.shape == (10_000, 28, 28)
    assert np.bincount(test_labels).tolist() == [
        980,
        1135,
        1032,
        1010,
        982,
        892,
        958,
        1028,
        974,
        1009,
    ]


def test_mnist_is_downloaded_with_checksums_where_it_is_nowhere(mnist_root, tmp_path, monkeypatch):
    """torchvision's own download, from a local server that holds the four compressed files."""
    pytest.importorskip("torchvision")
    served = tmp_path / "served"
    served.mkdir()
    checksums = compress_into(served, mnist_root / mnist.RAW)
    with serving(served) as url:
        serve_downloads_from(monkeypatch, url, checksums)
        monkeypatch.setenv("METAVAE_CACHE", str(tmp_path / "cache"))
        monkeypatch.delenv("METAVAE_DATA", raising=False)
        images, _ = mnist.Mnist().load("test")
        assert images.shape == (10_000, 28, 28)

        # A wrong checksum is refused, and nothing of it is left to be read.
        monkeypatch.setenv("METAVAE_CACHE", str(tmp_path / "other"))
        serve_downloads_from(monkeypatch, url, dict.fromkeys(checksums, "0" * 32))
        with pytest.raises(DataUnavailable, match="could it be downloaded"):
            mnist.Mnist().load("test")


def compress_into(target: Path, raw: Path) -> dict[str, str]:
    import gzip
    import hashlib

    checksums = {}
    for name in mnist._names():
        content = gzip.compress((raw / name).read_bytes(), compresslevel=1)
        (target / f"{name}.gz").write_bytes(content)
        checksums[f"{name}.gz"] = hashlib.md5(content).hexdigest()  # noqa: S324
    return checksums


class serving:  # noqa: N801 - used as a with statement
    """A local HTTP server over a folder; its address is what the block gets."""

    def __init__(self, folder: Path) -> None:
        handler = functools.partial(_Quiet, directory=os.fspath(folder))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)

    def __enter__(self) -> str:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_port}"

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def serve_downloads_from(
    monkeypatch: pytest.MonkeyPatch, url: str, checksums: dict[str, str] | None = None
) -> None:
    """Point torchvision's MNIST at another address, and at the checksums of what lies there."""
    datasets = pytest.importorskip("torchvision.datasets")
    monkeypatch.setattr(datasets.MNIST, "mirrors", [f"{url}/"])
    if checksums:
        monkeypatch.setattr(datasets.MNIST, "resources", list(checksums.items()))
