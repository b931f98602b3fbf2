"""scikit-learn's handwritten digits, enlarged to 28x28: a data set that needs no download."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metavae_zoo.families.parts import Part
from metavae_zoo.families.warp import warp

TEST_IMAGES = 500  # the last ones, mostly by writers that the first 1,297 do not hold


@dataclass(frozen=True)
class Digits:
    """1,797 digits of 8x8 pixels and 17 grey levels, as 28x28 images of 256 levels.

    Enlarged bilinearly to 22x22 and centred, which leaves the margin that MNIST has, so that a
    rotated digit keeps its corners. The first 1,297 train, the last 500 test.
    """

    name: str = "digits"
    side: int = 28
    classes: int = 10  # of labels, 0 to classes - 1

    def load(
        self, part: Part, data_root: Path | None = None
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Images [N, 28, 28] and labels [N]."""
        images, labels = _enlarged(self.side)
        rows = slice(None, -TEST_IMAGES) if part == "train" else slice(-TEST_IMAGES, None)
        return images[rows], labels[rows]

    def fingerprint(self, part: Part) -> str:
        """Hash of the part's images."""
        return hashlib.sha256(self.load(part)[0].tobytes()).hexdigest()


@cache
def _enlarged(side: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    grey = np.rint(images.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    shrink = 8 / 22
    return (
        warp(grey, np.array([[shrink, 0, 0], [0, shrink, 0]]), "bilinear", side),
        labels.astype(np.int64),
    )
