"""One trial of a probe: classifiers fitted on some codes and tested on others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from metavae_zoo.evaluation.classifiers import Codes, Fitted, Labels
from metavae_zoo.evaluation.sample import Pick, Sample

Fit = Callable[[Codes, Labels], Fitted]


@dataclass(frozen=True)
class Trial:
    """Classifiers that are tested on the same images: the test parts at some held-out values.

    `fit_on` has what each of them is fitted on, one entry for each of its protocol's
    `labels_per_class`.
    """

    fit_on: tuple[tuple[Pick, ...], ...]
    test_at: tuple[float, ...]

    @property
    def picks(self) -> int:
        """How many picks are embedded."""
        return sum(map(len, self.fit_on)) + len(self.test_at)


@dataclass(frozen=True)
class Score:
    """Accuracy of a trial's `classifier`-th classifier at a value, and whether it converged."""

    classifier: int
    value: float
    accuracy: float
    converged: bool


@dataclass(frozen=True)
class EncodedTrial:
    """A trial in codes: what each classifier is fitted on, and what they are tested on by value."""

    fit_on: tuple[tuple[Codes, Labels], ...]
    test_on: dict[float, tuple[Codes, Labels]]

    @classmethod
    def of(cls, trial: Trial, sample: Sample, encode: Callable[[Pick], Codes]) -> EncodedTrial:
        """Encode the images of a trial."""
        return cls(
            tuple(
                (
                    np.concatenate([encode(pick) for pick in picks]),
                    np.concatenate([sample.labels(pick) for pick in picks]),
                )
                for picks in trial.fit_on
            ),
            {
                pick.value: (encode(pick), sample.labels(pick))
                for pick in map(sample.test, trial.test_at)
            },
        )

    def scores(self, fit: Fit) -> list[Score]:
        """Fit every classifier, and test it at every value."""
        return list(self._scores(fit))

    def _scores(self, fit: Fit) -> Iterator[Score]:
        for number, (codes, labels) in enumerate(self.fit_on):
            fitted = fit(codes, labels)
            for value, (test_codes, test_labels) in self.test_on.items():
                accuracy = fitted.accuracy(test_codes, test_labels)
                yield Score(number, value, accuracy, fitted.converged)
