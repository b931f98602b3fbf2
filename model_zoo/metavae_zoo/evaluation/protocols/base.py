"""What every protocol of a probe answers: what is fitted on which images, and tested where."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from metavae_zoo.evaluation.classifiers import Codes, Fitted, Labels
from metavae_zoo.evaluation.errors import BadSettings
from metavae_zoo.evaluation.sample import Pick, Sample
from metavae_zoo.evaluation.trial import Trial
from metavae_zoo.families import Split


@dataclass(frozen=True)
class Sizes:
    """How many images a probe had: per value, per context, and the number of training values."""

    train: int
    test: int
    context: int
    train_values: int


@dataclass(frozen=True)
class Protocol(ABC):
    """A way to judge codes by classifiers; its fields are its own settings.

    A model and the floors beside it go through the same trials; only the codes differ.
    """

    name: ClassVar[str]
    contexts_apart: ClassVar[bool] = False  # whether a context shares no image with its queries

    @property
    @abstractmethod
    def title(self) -> str:
        """What an accuracy is of, for people."""

    @property
    def labels_per_class(self) -> tuple[int | None, ...]:
        """One entry for each result that the protocol has; None is all labels that there are."""
        return (None,)

    @property
    def own_draws(self) -> int | None:
        """How many draws there are, whatever the context; None where only contexts are drawn."""
        return None

    def most_train_images(self, split: Split) -> int | None:
        """Train images per value where no number is asked for; None is all."""
        return None

    def train(self, sample: Sample, value: float) -> Pick:
        """The train images at a value that classifiers, or PCA, may be fitted on."""
        return sample.train(value)

    def trials(self, sample: Sample, draw: int) -> Iterator[Trial]:
        """The trials of one draw, which together test every held-out value once.

        Of most protocols one for each, fitted on the train part there.
        """
        for value in sample.split.held_out_values:
            yield Trial(fit_on=((self.train(sample, value),),), test_at=(value,))

    @abstractmethod
    def fit(self, codes: Codes, labels: Labels) -> Fitted:
        """Fit the protocol's classifier."""

    def check(self, sample: Sample) -> None:
        """Raise BadSettings where the sample is too small to be fitted on."""
        for trial in self.trials(sample, 0):
            for picks in trial.fit_on:
                labels = np.concatenate([sample.labels(pick) for pick in picks])
                found = len(np.unique(labels))
                if found < len(sample.classes):
                    raise BadSettings.of(
                        "train_size",
                        f"{sample.train_size} gives images of {found} of {len(sample.classes)}"
                        " classes only",
                    )

    def images(self, sizes: Sizes) -> str:
        """How many images there were, for people."""
        return f"{sizes.train:,} train and {sizes.test:,} test images per value"

    @abstractmethod
    def note(self, sizes: Sizes) -> str:
        """What else a reader of the result must know, in one line."""
