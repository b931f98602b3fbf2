"""Nearest neighbours: what distances between codes are worth, without a fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from metavae_zoo.evaluation import classifiers
from metavae_zoo.evaluation.classifiers import Codes, Fitted, Labels
from metavae_zoo.evaluation.errors import BadSettings
from metavae_zoo.evaluation.protocols.base import Protocol, Sizes
from metavae_zoo.evaluation.sample import Sample


@dataclass(frozen=True)
class Knn(Protocol):
    """At each held-out value, the majority among the nearest codes of its train part.

    Raises BadSettings for fewer than 1 neighbour.
    """

    name: ClassVar[str] = "knn"
    neighbours: int = 5

    def __post_init__(self) -> None:
        if self.neighbours < 1:
            raise BadSettings.of("neighbours", f"is {self.neighbours}, expected 1 or more")

    @property
    def title(self) -> str:
        """What an accuracy is of."""
        return f"{self.neighbours} nearest neighbour{'s' * (self.neighbours > 1)}"

    def fit(self, codes: Codes, labels: Labels) -> Fitted:
        """Keep the codes."""
        return classifiers.nearest_neighbours(codes, labels, self.neighbours)

    def check(self, sample: Sample) -> None:
        """Raise BadSettings where there are fewer train images than neighbours."""
        if self.neighbours > sample.train_size:
            raise BadSettings.of(
                "neighbours",
                f"is {self.neighbours}, the train part has {sample.train_size} images",
            )
        super().check(sample)

    def note(self, sizes: Sizes) -> str:
        """How neighbours are found."""
        return "Nearest by the Euclidean distance of codes, unscaled; each neighbour has one vote"
