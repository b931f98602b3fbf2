"""One classifier for all distributions: fitted at the training values, tested where none was seen.

It asks what the paper's protocol does not: whether a code means the same at every value.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from metavae_client import classifiers
from metavae_client.classifiers import Codes, Fitted, Labels
from metavae_client.protocols.base import Protocol
from metavae_client.sample import Pick, Sample
from metavae_client.trial import Trial
from metavae_zoo.families import Split

if TYPE_CHECKING:
    from metavae_client.result import ProbeResult

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

    def train_size(self, available: int, split: Split) -> int:
        """An even share of MOST_IMAGES, or what is there."""
        return min(available, MOST_IMAGES // len(split.train_values))

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

    def images(self, result: ProbeResult) -> str:
        """How many images there were."""
        return (
            f"{result.train_size:,} train images at each of {len(result.train_values)} training"
            f" values, {result.test_size:,} test images per held-out value"
        )

    def note(self, result: ProbeResult) -> str:
        """What was fitted, and which images contexts are of."""
        contexts = (
            "contexts are of images that are neither fitted on nor tested, where the part has"
            f" {result.context_size} such images left, else of all; "
            if result.context_size
            else ""
        )
        return (
            "One logistic regression for all values, fitted on"
            f" {result.train_size * len(result.train_values):,} images of the training values"
            f" ({MOST_IMAGES:,} spread evenly, or what is there, unless --train-size is given);"
            f" {contexts}max_iter {classifiers.MAX_ITERATIONS:,}"
        )
