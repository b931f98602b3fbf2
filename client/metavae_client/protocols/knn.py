"""Nearest neighbours: what distances between codes are worth, without a fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from metavae_client import classifiers
from metavae_client.classifiers import Codes, Fitted, Labels
from metavae_client.errors import BadSettings
from metavae_client.protocols.base import Protocol
from metavae_client.sample import Sample

if TYPE_CHECKING:
    from metavae_client.result import ProbeResult


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

    def note(self, result: ProbeResult) -> str:
        """How neighbours are found."""
        return "Nearest by the Euclidean distance of codes, unscaled; each neighbour has one vote"
