"""What a probe found, and what the paper published."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from metavae_client.linear import MAX_ITERATIONS
from metavae_zoo.card import Interval, ProbeRecord
from metavae_zoo.statistics import confidence_interval

FLOORS = ("raw_pixels", "pca", "random_projection")


@dataclass(frozen=True)
class PublishedFigure:
    """A mean accuracy over held-out values, and where it stands."""

    accuracy: float
    source: str


_TABLE_2 = "Wu et al., AAAI 2020, Table 2"

# (model, family, split). The paper does not say which split its table is of; its Fig. 7 fits this.
PUBLISHED: dict[tuple[str, str, str], PublishedFigure] = {
    ("metavae", "mnist-rotation", "contiguous"): PublishedFigure(0.885, _TABLE_2),
    ("metavae", "mnist-scale", "contiguous"): PublishedFigure(0.893, _TABLE_2),
    ("metavae", "mnist-skew", "contiguous"): PublishedFigure(0.844, _TABLE_2),
}


@dataclass(frozen=True)
class ValueResult:
    """Accuracy at one held-out value: the model's per context draw, and the floors'.

    `floors` maps the names of FLOORS to accuracies; it is empty where none were asked for.
    """

    value: float
    draws: tuple[float, ...]
    floors: dict[str, float]

    @property
    def accuracy(self) -> Interval:
        """Mean over context draws, with its 95% interval."""
        return confidence_interval(self.draws)


@dataclass(frozen=True)
class ProbeResult:
    """A probe of one model over the held-out values of a split.

    `name` is the served model's, `model` its kind (`metavae`), `digest` its card's.

    `contexts` counts the context draws (1 for a model that takes no context). `converged` tells
    whether every logistic regression did. The same for a remote and an in-process embedder.
    """

    name: str
    model: str
    digest: str
    latent_dim: int
    family: str
    split: str
    axis: str
    unit: str
    seed: int
    train_size: int
    test_size: int
    contexts: int
    context_size: int
    values: tuple[ValueResult, ...]
    converged: bool
    paper: PublishedFigure | None

    @property
    def accuracy(self) -> Interval:
        """Mean over held-out values; the 95% interval is over context draws of that mean."""
        by_draw = np.array([value.draws for value in self.values]).mean(axis=0)
        return confidence_interval(by_draw.tolist())

    @property
    def differences(self) -> str:
        """How the probe differs from the paper's, in one line."""
        context = (
            f"each draw has one context of {self.context_size} images for all of its images, where"
            " the paper draws 10 per query; "
            if self.context_size
            else ""
        )
        return f"Unlike the paper's: {context}max_iter {MAX_ITERATIONS:,}"

    @property
    def floors(self) -> dict[str, float]:
        """Each floor's mean over held-out values."""
        names = self.values[0].floors
        return {
            name: float(np.mean([value.floors[name] for value in self.values])) for name in names
        }

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON holds it; `record` is what a model card holds of it."""
        return {
            "name": self.name,
            "model": self.model,
            "digest": self.digest,
            "latent_dim": self.latent_dim,
            "family": self.family,
            "split": self.split,
            "axis": self.axis,
            "unit": self.unit,
            "seed": self.seed,
            "train_size": self.train_size,
            "test_size": self.test_size,
            "contexts": self.contexts,
            "context_size": self.context_size,
            "converged": self.converged,
            "accuracy": self.accuracy.model_dump(),
            "floors": self.floors,
            "paper": self.paper and {"accuracy": self.paper.accuracy, "source": self.paper.source},
            "record": self.to_record().model_dump(),
            "values": [
                {
                    "value": value.value,
                    "accuracy": value.accuracy.model_dump(),
                    "draws": list(value.draws),
                    "floors": value.floors,
                }
                for value in self.values
            ],
        }

    def to_json(self) -> str:
        """The result for a program, without times or anything else that changes between runs."""
        return json.dumps(self.to_dict(), indent=2)

    def to_record(self) -> ProbeRecord:
        """The result as a model card holds it."""
        return ProbeRecord(
            protocol=(
                f"logistic regression on the embeddings of each held-out {self.axis} of"
                f" {self.family}, {self.split} split; context from the same distribution and part;"
                f" intervals over context draws. {self.differences}"
            ),
            seed=self.seed,
            train_size=self.train_size,
            test_size=self.test_size,
            contexts=self.contexts,
            context_size=self.context_size,
            accuracy=self.accuracy,
            per_value={f"{value.value:g}": value.accuracy for value in self.values},
            floors=self.floors,
            paper=self.paper.accuracy if self.paper else None,
        )
