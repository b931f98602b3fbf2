"""Few labels: how much of a class a handful of its codes tells."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from metavae_zoo.evaluation import classifiers
from metavae_zoo.evaluation.classifiers import Codes, Fitted, Labels
from metavae_zoo.evaluation.errors import BadSettings
from metavae_zoo.evaluation.protocols.base import Protocol, Sizes
from metavae_zoo.evaluation.sample import Pick, Sample
from metavae_zoo.evaluation.trial import Trial

_LABELS = 2  # spawn key of the label draws


@dataclass(frozen=True)
class FewShot(Protocol):
    """At each held-out value, a logistic regression fitted on `shots` labelled images per class.

    Labels are drawn `label_draws` times, each time with a new context: the same base images at
    every value, those of fewer shots among those of more. Raises BadSettings for shots that do
    not ascend from 1 or more, and for no draws.
    """

    name: ClassVar[str] = "few-shot"
    shots: tuple[int, ...] = (1, 5, 10)
    label_draws: int = 10

    def __post_init__(self) -> None:
        ascending = all(fewer < more for fewer, more in pairwise((0, *self.shots)))
        if not self.shots or not ascending:
            raise BadSettings.of(
                "shots",
                f"is {','.join(map(str, self.shots))}, expected ascending numbers of 1 or more",
            )
        if self.label_draws < 1:
            raise BadSettings.of("label_draws", f"is {self.label_draws}, expected 1 or more")

    @property
    def title(self) -> str:
        """What an accuracy is of."""
        return "a linear probe of few labels"

    @property
    def labels_per_class(self) -> tuple[int | None, ...]:
        """The shots."""
        return self.shots

    @property
    def own_draws(self) -> int | None:
        """The label draws."""
        return self.label_draws

    def trials(self, sample: Sample, draw: int) -> Iterator[Trial]:
        """One trial per held-out value, of as many classifiers as there are shots."""
        for value in sample.split.held_out_values:
            whole = self.train(sample, value)
            by_class = _drawn_by_class(sample, whole, draw)
            fit_on = tuple(
                (Pick(value, "train", np.sort(np.concatenate([rows[:k] for rows in by_class]))),)
                for k in self.shots
            )
            yield Trial(fit_on, test_at=(value,))

    def fit(self, codes: Codes, labels: Labels) -> Fitted:
        """Fit a logistic regression."""
        return classifiers.logistic_regression(codes, labels)

    def check(self, sample: Sample) -> None:
        """Raise BadSettings where a class has fewer images than shots."""
        whole = self.train(sample, sample.split.held_out_values[0])
        fewest = min(map(len, _drawn_by_class(sample, whole, 0)))
        if self.shots[-1] > fewest:
            raise BadSettings(
                f"--shots has {self.shots[-1]}, but a class of the train part has {fewest} of its"
                f" {sample.train_size} images",
                hint="Give fewer --shots, or a larger --train-size",
                field="shots",
            )
        super().check(sample)

    def images(self, sizes: Sizes) -> str:
        """How many images there were."""
        return (
            f"labels drawn among {sizes.train:,} train images, {sizes.test:,} test images per value"
        )

    def note(self, sizes: Sizes) -> str:
        """What was fitted."""
        return (
            f"Logistic regressions, fitted on {_listed(self.shots)} labelled images per class of a"
            f" held-out value; max_iter {classifiers.MAX_ITERATIONS:,}"
        )


def _listed(shots: tuple[int, ...]) -> str:
    """Such as `1, 5 or 10`."""
    *fewer, most = map(str, shots)
    return f"{', '.join(fewer)} or {most}" if fewer else most


def _drawn_by_class(sample: Sample, pick: Pick, draw: int) -> list[NDArray[np.intp]]:
    """For each class of the data its rows in `pick`, in the order in which `draw` takes them."""
    seed = np.random.SeedSequence(sample.seed, spawn_key=(_LABELS, draw))
    rows = np.random.default_rng(seed).permutation(pick.rows)
    labels = sample.labels(Pick(pick.value, pick.part, rows))
    return [rows[labels == label] for label in sample.classes]
