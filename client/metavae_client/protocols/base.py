"""What every protocol of a probe answers: what is fitted on which images, and tested where."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from metavae_client.classifiers import Codes, Fitted, Labels
from metavae_client.errors import BadSettings
from metavae_client.sample import Pick, Sample
from metavae_client.trial import Trial
from metavae_zoo.families import Split

if TYPE_CHECKING:
    from metavae_client.result import ProbeResult


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

    def train_size(self, available: int, split: Split) -> int:
        """Train images per value where none are asked for, out of those available."""
        return available

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

    def images(self, result: ProbeResult) -> str:
        """How many images there were, for people."""
        return f"{result.train_size:,} train and {result.test_size:,} test images per value"

    @abstractmethod
    def note(self, result: ProbeResult) -> str:
        """What else a reader of the result must know, in one line."""
