"""What needs no model: raw pixels, PCA and a random projection, the floors of a probe.

A model's embedding is worth its server only where it beats these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metavae_zoo.images import Images

FLOORS = ("raw_pixels", "pca", "random_projection")

Encode = Callable[[Images], NDArray[np.float32]]  # images -> codes, [image, code]

_CHUNK = 4096  # images at a time: bounds the float copy


@dataclass(frozen=True)
class Projection:
    """A linear map from pixels of 0-1 to codes; `matrix` is float32 [pixel, code]."""

    matrix: NDArray[np.float32]

    def __call__(self, images: Images) -> NDArray[np.float32]:
        """Codes of images, [image, code]."""
        return np.concatenate([pixels(chunk) @ self.matrix for chunk in _chunks(images)])


def pixels(images: Images) -> NDArray[np.float32]:
    """Images as rows of pixels of 0-1, [image, pixel]."""
    return images.reshape(len(images), -1).astype(np.float32) / np.float32(255)


def fit_pca(distributions: Iterable[Images], dimension: int) -> Projection:
    """The `dimension` leading principal components of all the distributions' images together.

    Codes are not centred: a logistic regression has its own intercept.
    """
    count, total, gram = 0, np.zeros(()), np.zeros(())
    for images in distributions:
        for chunk in _chunks(images):
            # Sums of products of bytes are whole numbers under 2^53: exact in any order.
            rows = chunk.reshape(len(chunk), -1).astype(np.float64)
            count, total, gram = count + len(rows), total + rows.sum(axis=0), gram + rows.T @ rows
    mean = total / count
    covariance = gram / count - np.outer(mean, mean)
    _, vectors = np.linalg.eigh(covariance)  # eigenvalues ascend
    return Projection(vectors[:, : -dimension - 1 : -1].astype(np.float32))


def random_projection(pixel_count: int, dimension: int, seed: int) -> Projection:
    """A Gaussian matrix that keeps squared lengths in expectation."""
    rng = np.random.default_rng(seed)
    matrix = rng.standard_normal((pixel_count, dimension)) / np.sqrt(dimension)
    return Projection(matrix.astype(np.float32))


def _chunks(images: Images) -> Iterable[Images]:
    return (images[start : start + _CHUNK] for start in range(0, len(images), _CHUNK))
