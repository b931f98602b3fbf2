"""The paper's protocol: a linear probe of its own at every held-out value."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from metavae_client import classifiers
from metavae_client.classifiers import Codes, Fitted, Labels
from metavae_client.protocols.base import Protocol
from metavae_client.sample import Sample
from metavae_client.trial import Trial

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

    def trials(self, sample: Sample, draw: int) -> Iterator[Trial]:
        """One trial per held-out value."""
        for value in sample.split.held_out_values:
            yield Trial(fit_on=((self.train(sample, value),),), test_at=(value,))

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
