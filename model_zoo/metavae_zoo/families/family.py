"""A family of distributions: one data set, one axis of variation, its splits."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from metavae_zoo.errors import UnknownName
from metavae_zoo.families.axes import Axis
from metavae_zoo.families.cache import cached_array
from metavae_zoo.families.parts import Part
from metavae_zoo.images import Images

_TRANSFORM_VERSION = 1  # raised when the meaning of a cached pixel changes


class Dataset(Protocol):
    """Labelled grey images that a family transforms; `train` and `test` share no image."""

    @property
    def name(self) -> str:
        """Short name, the first part of a family's."""
        ...

    @property
    def side(self) -> int:
        """Height and width of an image, in pixels."""
        ...

    @property
    def classes(self) -> int:
        """How many labels there are: 0 to `classes` - 1."""
        ...

    def load(
        self, part: Part, data_root: Path | None
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Images [N, side, side] and labels [N]; raises DataUnavailable."""
        ...

    def fingerprint(self, part: Part) -> str:
        """A hash of the part's images: what is made of them is cached under it."""
        ...


@dataclass(frozen=True)
class Split:
    """Which values of an axis are trained on, and which are held out."""

    name: str
    train_values: tuple[float, ...]
    held_out_values: tuple[float, ...]


@dataclass(frozen=True)
class Family:
    """Distributions that differ in one value: transformed versions of one data set."""

    name: str
    dataset: Dataset
    axis: Axis

    @property
    def values(self) -> tuple[float, ...]:
        """All values of the axis, ascending."""
        return self.axis.values

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return (1, self.dataset.side, self.dataset.side)

    def split(self, name: str) -> Split:
        """Return a split of the values, or raise UnknownName."""
        try:
            trained = self.axis.splits[name]
        except KeyError:
            raise UnknownName(
                "split", name, self.axis.splits, f"the splits are {', '.join(self.axis.splits)}"
            ) from None
        return Split(
            name,
            tuple(self.values[i] for i in trained),
            tuple(value for i, value in enumerate(self.values) if i not in trained),
        )

    def reference(self, split: str) -> float:
        """The training value of a split whose transform changes an image least."""
        return self.axis.least_changing(self.split(split).train_values)

    def images(self, value: float, part: Part, data_root: Path | None = None) -> Images:
        """All images of the distribution at `value`, [N, 1, H, W]; a cached read-only array."""
        return self.images_at([value], part, data_root)[0]

    def images_at(
        self, values: Sequence[float], part: Part, data_root: Path | None = None
    ) -> list[Images]:
        """All images of several distributions, in one order of base images."""
        source, _ = self.dataset.load(part, data_root)
        content = self.dataset.fingerprint(part)
        return [self._rendered(source, content, value, part) for value in values]

    def labels(self, part: Part, data_root: Path | None = None) -> NDArray[np.int64]:
        """Labels [N], the same for every value of the axis."""
        return self.dataset.load(part, data_root)[1]

    def data_sha256(self, data_root: Path | None = None) -> str:
        """Hash of the untransformed data set, images and labels of both parts."""
        digest = hashlib.sha256()
        for part in ("train", "test"):
            for array in self.dataset.load(part, data_root):
                digest.update(array.tobytes())
        return digest.hexdigest()

    def _rendered(
        self, source: NDArray[np.uint8], content: str, value: float, part: Part
    ) -> Images:
        key = hashlib.sha256(
            repr(
                (
                    _TRANSFORM_VERSION,
                    content,
                    source.shape,
                    *self.axis.fingerprint(value, part),
                    self.dataset.side,
                )
            ).encode()
        ).hexdigest()
        images = cached_array(key, lambda: self.axis.render(source, value, part, self.dataset.side))
        return images[:, None]
