"""The images and labels that a probe works on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metavae_zoo.evaluation.errors import BadSettings
from metavae_zoo.families import Family, Part, Split
from metavae_zoo.images import Images

PART_SEED: dict[Part, int] = {"train": 0, "test": 1}


@dataclass(frozen=True)
class Pick:
    """Images of one part of one distribution, by their rows there."""

    value: float
    part: Part
    rows: NDArray[np.intp]


class Sample:
    """The images and labels of a family that a probe works on, and seeded subsets of them.

    Sizes are images per value; None takes all, of the train part `most_train_images` at most.

    `order` maps a part to the seeded order in which subsets are taken from it, the same at every
    value; `classes` are all labels of the family. Raises BadSettings for sizes that the data
    cannot give, DataUnavailable.
    """

    def __init__(
        self,
        values: Family,
        split: Split,
        *,
        seed: int = 0,
        train_size: int | None = None,
        test_size: int | None = None,
        context_size: int = 1,
        most_train_images: int | None = None,
        data_root: Path | None = None,
    ) -> None:
        self.family, self.split, self.seed = values, split, seed
        self._data_root = data_root
        self._labels: dict[Part, NDArray[np.int64]] = {}
        self.order: dict[Part, NDArray[np.intp]] = {}
        asked = {"train_size": train_size, "test_size": test_size, "context_size": context_size}
        for part, part_seed in PART_SEED.items():
            self._labels[part] = values.labels(part, data_root)
            available = len(self._labels[part])
            for option in (f"{part}_size", "context_size"):
                size = asked[option]
                if size is not None and size > available:
                    there = f"the {part} part of {values.name} has {available} images"
                    raise BadSettings.of(option, f"is {size}, {there}")
            self.order[part] = np.random.default_rng([seed, part_seed]).permutation(available)
        self.classes = np.unique(self._labels["train"])
        available = len(self.order["train"])
        self.train_size = train_size or min(most_train_images or available, available)
        self.test_size = test_size or len(self.order["test"])

    def train(self, value: float) -> Pick:
        """The train images at a value: the same base images at every value."""
        return Pick(value, "train", np.sort(self.order["train"][: self.train_size]))

    def test(self, value: float) -> Pick:
        """The test images at a value: the same base images at every value."""
        return Pick(value, "test", np.sort(self.order["test"][: self.test_size]))

    def images(self, pick: Pick) -> Images:
        """The images of a pick, [image, channel, row, column]."""
        return self.pool(pick.value, pick.part)[pick.rows]

    def labels(self, pick: Pick) -> NDArray[np.int64]:
        """The labels of a pick, [image]."""
        return self._labels[pick.part][pick.rows]

    def pool(self, value: float, part: Part) -> Images:
        """All images of a part at a value."""
        return self.family.images(value, part, self._data_root)
