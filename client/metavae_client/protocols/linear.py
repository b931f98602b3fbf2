"""The paper's protocol: a linear probe of its own at every held-out value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from metavae_client import classifiers
from metavae_client.classifiers import Codes, Fitted, Labels
from metavae_client.protocols.base import Protocol

if TYPE_CHECKING:
    from metavae_client.result import ProbeResult


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

    def note(self, result: ProbeResult) -> str:
        """How the probe differs from the paper's."""
        context = (
            f"each draw has one context of {result.context_size} images for all of its images,"
            " where the paper draws 10 per query; "
            if result.context_size
            else ""
        )
        return f"Unlike the paper's: {context}max_iter {classifiers.MAX_ITERATIONS:,}"
