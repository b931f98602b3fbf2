"""One classifier for all distributions: fitted at the training values, tested where none was seen.

It asks what the paper's protocol does not: whether a code means the same at every value.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from metavae_zoo.evaluation import classifiers
from metavae_zoo.evaluation.classifiers import Codes, Fitted, Labels
from metavae_zoo.evaluation.protocols.base import Protocol, Sizes
from metavae_zoo.evaluation.sample import Pick, Sample
from metavae_zoo.evaluation.trial import Trial
from metavae_zoo.families import Split

MOST_IMAGES = 60_000  # to fit on where no size is asked for: as many as the linear probe has


@dataclass(frozen=True)
class Transfer(Protocol):
    """One logistic regression, fitted on all training values, tested at each held-out one."""

    name: ClassVar[str] = "transfer"
    contexts_apart: ClassVar[bool] = True

    @property
    def title(self) -> str:
        """What an accuracy is of."""
        return "a transferred linear probe"

    def most_train_images(self, split: Split) -> int:
        """An even share of MOST_IMAGES."""
        return MOST_IMAGES // len(split.train_values)

    def train(self, sample: Sample, value: float) -> Pick:
        """A training value's share: no base image serves two values where there are enough."""
        order, size = sample.order["train"], sample.train_size
        start = sample.split.train_values.index(value) * size
        rows = order.take(np.arange(start, start + size), mode="wrap")
        return Pick(value, "train", np.sort(rows))

    def trials(self, sample: Sample, draw: int) -> Iterator[Trial]:
        """One trial for all values."""
        split = sample.split
        seen = tuple(self.train(sample, value) for value in split.train_values)
        yield Trial(fit_on=(seen,), test_at=split.held_out_values)

    def fit(self, codes: Codes, labels: Labels) -> Fitted:
        """Fit a logistic regression."""
        return classifiers.logistic_regression(codes, labels)

    def images(self, sizes: Sizes) -> str:
        """How many images there were."""
        return (
            f"{sizes.train:,} train images at each of {sizes.train_values} training"
            f" values, {sizes.test:,} test images per held-out value"
        )

    def note(self, sizes: Sizes) -> str:
        """What was fitted, and which images contexts are of."""
        contexts = (
            "contexts are of images that are neither fitted on nor tested, where the part has"
            f" {sizes.context} such images left, else of all; "
            if sizes.context
            else ""
        )
        return (
            "One logistic regression for all values, fitted on"
            f" {sizes.train * sizes.train_values:,} images of the training values"
            f" ({MOST_IMAGES:,} spread evenly, or what is there, unless --train-size is given);"
            f" {contexts}max_iter {classifiers.MAX_ITERATIONS:,}"
        )
