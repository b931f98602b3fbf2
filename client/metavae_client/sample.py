"""The images and labels that a probe works on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from metavae_client.errors import BadSettings
from metavae_zoo.families import Family, Part, Split
from metavae_zoo.images import Images

if TYPE_CHECKING:
    from metavae_client.settings import ProbeSettings

PART_SEED: dict[Part, int] = {"train": 0, "test": 1}


@dataclass(frozen=True)
class Pick:
    """Images of one part of one distribution, by their rows there."""

    value: float
    part: Part
    rows: NDArray[np.intp]


class Sample:
    """What the settings leave of a family: its images, labels and seeded subsets.

    `order` maps a part to the seeded order in which subsets are taken from it, the same at every
    value; `classes` are all labels of the family. Raises BadSettings for sizes that the data
    cannot give, DataUnavailable.
    """

    def __init__(
        self, values: Family, split: Split, settings: ProbeSettings, data_root: Path | None
    ) -> None:
        self.family, self.split, self.seed = values, split, settings.seed
        self._data_root = data_root
        self._labels: dict[Part, NDArray[np.int64]] = {}
        self.order: dict[Part, NDArray[np.intp]] = {}
        for part, part_seed in PART_SEED.items():
            self._labels[part] = values.labels(part, data_root)
            available = len(self._labels[part])
            _check_sizes(settings, part, available)
            self.order[part] = np.random.default_rng([self.seed, part_seed]).permutation(available)
        self.classes = np.unique(self._labels["train"])
        most = settings.protocol.train_size(len(self.order["train"]), split)
        self.train_size = settings.train_size or most
        self.test_size = settings.test_size or len(self.order["test"])

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


def _check_sizes(settings: ProbeSettings, part: Part, available: int) -> None:
    sizes = {f"{part}_size": {"train": settings.train_size, "test": settings.test_size}[part]}
    for option, size in (sizes | {"context_size": settings.context_size}).items():
        if size is not None and size > available:
            raise BadSettings.of(
                option, f"is {size}, the {part} part of {settings.family} has {available} images"
            )
