"""The exam: which images are fitted on, tested, and given as contexts.

The rows are those of `metavae-client probe --protocol transfer`, so that both give one number.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metavae_zoo.families import Family, Part, family
from metavae_zoo.images import Images

Rows = NDArray[np.intp]
Labels = NDArray[np.int64]  # [image]

_PART_SEED: dict[Part, int] = {"train": 0, "test": 1}
_SEED = 0  # of the probe
_LABELS = 3  # spawn key of the draws of few labels


@dataclass(frozen=True)
class Exam:
    """Images of a family's split, drawn from a seed.

    `train_size` and `test_size` are images per site, fewer where the data set has fewer: half of
    the test part is left for contexts in any case.
    """

    family: str
    split: str
    train_size: int
    test_size: int
    data_root: Path | None = None

    @cached_property
    def source(self) -> Family:
        """The family."""
        return family(self.family)

    @property
    def trained(self) -> tuple[float, ...]:
        """The sites that have labels."""
        return self.source.split(self.split).train_values

    @property
    def held_out(self) -> tuple[float, ...]:
        """The sites that are tested."""
        return self.source.split(self.split).held_out_values

    @property
    def reference(self) -> float:
        """The training site that changes images least."""
        return self.source.reference(self.split)

    def size(self, part: Part) -> int:
        """Images per site that are fitted on, or tested."""
        available = len(self._order[part])
        if part == "train":
            return min(self.train_size, available)
        return min(self.test_size, available // 2)

    def rows(self, value: float, part: Part, most: int | None = None) -> Rows:
        """Rows of the queries at a site, ascending; of the test part the first `most`.

        Training sites share no base image where there are enough; the tested ones share all.
        """
        order, size = self._order[part], self.size(part)
        if part == "test":
            return np.sort(order[:size][:most])
        start = self.trained.index(value) * size
        return np.sort(order.take(np.arange(start, start + size), mode="wrap"))

    def context_rows(
        self, value: float, part: Part, size: int, draw: int, source: float | None = None
    ) -> Rows:
        """Rows of a context of `size` images for the queries at a site, ascending.

        It is drawn from images that are no queries, where the part has enough of them; `source` is
        the site that the context is of, if not their own.
        """
        apart = self.apart(value, part, size)
        rng = self.rng(value if source is None else source, part, draw)
        return np.sort(apart[rng.choice(len(apart), size, replace=False)])

    def apart(self, value: float, part: Part, size: int) -> Rows:
        """Rows of a part that are no queries at a site; all rows where these are too few."""
        rows = np.arange(len(self._order[part]))
        apart = np.setdiff1d(rows, self.rows(value, part))
        return apart if len(apart) >= size else rows

    def rng(self, value: float, part: Part, draw: int) -> np.random.Generator:
        """The generator of a site's context; a draw depends on no other draw."""
        index = self.source.values.index(value)
        return np.random.default_rng([_SEED, index, _PART_SEED[part], draw])

    def images(self, value: float, part: Part, rows: Rows) -> Images:
        """Images [image, channel, row, column] of a site."""
        return self.source.images(value, part, self.data_root)[rows]

    def labels(self, part: Part, rows: Rows) -> Labels:
        """Their labels."""
        return self._labels[part][rows]

    def few(self, labels: int, draw: int) -> Rows:
        """Places, among the reference site's training rows, of so many of them with labels.

        As many of each class as of the next, where the site has them.
        """
        known = self.labels("train", self.rows(self.reference, "train"))
        seed = np.random.SeedSequence(_SEED, spawn_key=(_LABELS, draw))
        order = np.random.default_rng(seed).permutation(len(known))
        rank = np.empty(len(known), np.intp)
        for label in np.unique(known):
            of_class = order[known[order] == label]
            rank[of_class] = np.arange(len(of_class))
        return np.sort(np.argsort(rank, kind="stable")[:labels])

    @cached_property
    def _labels(self) -> dict[Part, Labels]:
        return {part: self.source.labels(part, self.data_root) for part in _PART_SEED}

    @cached_property
    def _order(self) -> dict[Part, Rows]:
        return {
            part: np.random.default_rng([_SEED, seed]).permutation(len(self._labels[part]))
            for part, seed in _PART_SEED.items()
        }
