"""MNIST in its original IDX files: found on this machine, else downloaded by torchvision."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metavae_zoo.errors import DataUnavailable, install
from metavae_zoo.families.parts import Part
from metavae_zoo.places import cache_folder

RAW = Path("MNIST", "raw")  # the layout of torchvision.datasets.MNIST

# Part -> (images, labels): file name and md5 of the uncompressed file.
FILES = {
    "train": (
        ("train-images-idx3-ubyte", "6bbc9ace898e44ae57da46a324031adb"),
        ("train-labels-idx1-ubyte", "a25bea736e30d166cdddb491f175f624"),
    ),
    "test": (
        ("t10k-images-idx3-ubyte", "2646ac647ad5339dbf082846283269ea"),
        ("t10k-labels-idx1-ubyte", "27ae3e4e09519cfbb04c329615203637"),
    ),
}


@dataclass(frozen=True)
class Mnist:
    """LeCun's 60,000 training and 10,000 test digits, 28x28 pixels of 256 grey levels.

    Looked for in the given data root, then METAVAE_DATA, then the user's cache, then downloaded
    there. Files whose checksum is not MNIST's are refused.
    """

    name: str = "mnist"
    side: int = 28
    classes: int = 10  # of labels, 0 to classes - 1

    def load(
        self, part: Part, data_root: Path | None = None
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Images [N, 28, 28] and labels [N]; raises DataUnavailable."""
        folder = find_mnist(data_root)
        (images, images_md5), (labels, labels_md5) = FILES[part]
        return (
            read_idx(folder / images, images_md5),
            read_idx(folder / labels, labels_md5).astype(np.int64),
        )

    def fingerprint(self, part: Part) -> str:
        """The checksum that `load` insists on."""
        return FILES[part][0][1]


def find_mnist(data_root: Path | None = None) -> Path:
    """Return the folder that holds the four IDX files, after downloading them if need be.

    It is looked for in METAVAE_DATA, then in the cache; DataUnavailable tells every place that was
    tried. Where `data_root` is given it must be there.
    """
    environment = os.environ.get("METAVAE_DATA")
    download_root = cache_folder() / "data"
    if data_root is not None:
        if missing := _missing(data_root):
            raise DataUnavailable(
                f"{data_root / RAW} has no {missing}",
                hint="Give a folder with the four IDX files under MNIST/raw, or leave --data-root"
                " out: MNIST is then looked for in METAVAE_DATA and the cache, or downloaded",
            )
        return data_root / RAW
    places = {
        "METAVAE_DATA": Path(environment) if environment else None,
        "the cache": download_root,
    }
    tried = []
    for origin, root in places.items():
        if root is None:
            tried.append(f"{origin} (not set)")
            continue
        missing = _missing(root)
        if not missing:
            return root / RAW
        tried.append(f"{origin} ({root / RAW} has no {missing})")
    try:
        _download(download_root)
    except Exception as error:  # torchvision lets network and checksum errors of many types out
        reason = " ".join(str(error).split())
        raise DataUnavailable(
            f"MNIST is neither on this machine nor could it be downloaded: tried"
            f" {', '.join(tried)}, then the download ({type(error).__name__}: {reason})",
            hint="Put the four IDX files under DIR/MNIST/raw and give DIR as --data-root or"
            " METAVAE_DATA, or use a digits-* family, which needs no data",
        ) from error
    return download_root / RAW


def _missing(root: Path) -> str:
    """The first of the four files that is not below `root`; empty if all are."""
    return next((name for name in _names() if not (root / RAW / name).is_file()), "")


def _names() -> list[str]:
    return [name for pair in FILES.values() for name, _ in pair]


def _download(root: Path) -> None:
    try:
        from torchvision.datasets import MNIST
    except ImportError as error:
        raise DataUnavailable("the download needs torchvision", hint=install("train")) from error
    root.mkdir(parents=True, exist_ok=True)
    MNIST(root, download=True)  # checks md5 sums, shows progress


@cache
def read_idx(path: Path, md5: str) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes; raises DataUnavailable if its checksum is another."""
    content = path.read_bytes()
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        raise DataUnavailable(
            f"{path} is truncated or damaged: {len(content)} bytes of md5 {found}, expected {md5}",
            hint="Delete it, so that it is downloaded again, or copy the original there; no other"
            " data than MNIST is read",
        )
    dimensions = content[3]
    shape = np.frombuffer(content, ">i4", count=dimensions, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
