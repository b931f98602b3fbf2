"""The inner split: training values alone, some to fit encoders on and some to judge them at.

Model choice may see no held-out value. The values judged are those of the training values that lie
next to the held-out ones, with images that no encoder has seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metavae_zoo.embedding.summary import CONTEXT_SIZE
from metavae_zoo.evaluation.classifiers import logistic_regression
from metavae_zoo.families import Family
from metavae_zoo.images import Images

JUDGED = 3  # values

# An encoder: images and a context of the same distribution, uint8 [image, pixel] -> codes.
Encode = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Sizes:
    """Images per value: to fit encoders on, and to fit and test classifiers on."""

    encoder: int = 5_000
    train: int = 5_000
    test: int = 5_000


@dataclass(frozen=True)
class Inner:
    """A family's contiguous training values, the last ones of which are judged."""

    family: Family
    sizes: Sizes
    data_root: Path | None = None

    @property
    def fitted_values(self) -> tuple[float, ...]:
        """What encoders are fitted on."""
        return self.family.split("contiguous").train_values[:-JUDGED]

    @property
    def judged_values(self) -> tuple[float, ...]:
        """What they are judged at."""
        return self.family.split("contiguous").train_values[-JUDGED:]

    def fitted_images(self) -> Tensor:
        """The first images of every fitted value, uint8 [value, image, pixel]."""
        images = self._images(self.fitted_values)
        return torch.stack([_rows(one[: self.sizes.encoder]) for one in images])

    def accuracies(self, encode: Encode, pool: ThreadPoolExecutor) -> list[float]:
        """At each judged value, a logistic regression on codes: fitted, then tested.

        Classifiers see images of their own, the last of the training part, and each of the two
        sets has a context of its own.
        """
        fits = [pool.submit(fit) for fit in self._fits(encode)]
        return [fit.result() for fit in fits]

    def _fits(self, encode: Encode) -> Iterator[Callable[[], float]]:
        labels = self.family.labels("train", self.data_root)
        for images in self._images(self.judged_values):
            train, test = (
                (_codes(encode, images[rows], images[context]), labels[rows])
                for rows, context in self._parts()
            )
            yield partial(_accuracy, train, test)

    def _parts(self) -> Iterator[tuple[slice, slice]]:
        """Rows of the classifiers' train and test images, and of their contexts."""
        start = self.sizes.encoder
        for size in (self.sizes.train, self.sizes.test):
            end = start + size
            yield slice(start, end), slice(end, end + CONTEXT_SIZE)
            start = end + CONTEXT_SIZE

    def _images(self, values: Sequence[float]) -> list[Images]:
        return self.family.images_at(values, "train", self.data_root)


@torch.no_grad()
def _codes(encode: Encode, images: Images, context: Images) -> NDArray[np.float32]:
    of_context = _rows(context)
    chunks = _rows(images).split(1000)
    return torch.cat([encode(chunk, of_context) for chunk in chunks]).float().numpy()


def _accuracy(
    train: tuple[NDArray[np.float32], NDArray[np.int64]],
    test: tuple[NDArray[np.float32], NDArray[np.int64]],
) -> float:
    return logistic_regression(*train).accuracy(*test)


def _rows(images: Images) -> Tensor:
    return torch.from_numpy(np.array(images).reshape(len(images), -1))
