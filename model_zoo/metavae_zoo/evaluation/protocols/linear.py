"""The paper's protocol: a linear probe of its own at every held-out value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from metavae_zoo.evaluation import classifiers
from metavae_zoo.evaluation.classifiers import Codes, Fitted, Labels
from metavae_zoo.evaluation.protocols.base import Protocol, Sizes


@dataclass(frozen=True)
class Linear(Protocol):
    """At each held-out value, a logistic regression fitted on its train part."""

    name: ClassVar[str] = "linear"

    @property
    def title(self) -> str:
        """What an accuracy is of."""
        return "a linear probe"

    def fit(self, codes: Codes, labels: Labels) -> Fitted:
        """Fit a logistic regression."""
        return classifiers.logistic_regression(codes, labels)

    def note(self, sizes: Sizes) -> str:
        """How the probe differs from the paper's."""
        context = (
            f"each draw has one context of {sizes.context} images for all of its images,"
            " where the paper draws 10 per query; "
            if sizes.context
            else ""
        )
        return f"Unlike the paper's: {context}max_iter {classifiers.MAX_ITERATIONS:,}"
