"""What a probe found."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from metavae_zoo.bundles.card import Interval, ProbeRecord, TransferRecord
from metavae_zoo.evaluation.contexts import ContextFrom
from metavae_zoo.evaluation.protocols import Linear, Protocol, Sizes, Transfer
from metavae_zoo.evaluation.statistics import confidence_interval


@dataclass(frozen=True)
class PublishedFigure:
    """A mean accuracy over held-out values, and where it stands."""

    accuracy: float
    source: str


@dataclass(frozen=True)
class ValueResult:
    """Accuracy at one held-out value: the model's per draw, and the floors'.

    `context_value` is the value whose images were the context of the tested images, None where
    there was none.
    `floor_draws` maps the names of FLOORS to accuracies, per draw of labels where these are drawn;
    it is empty where no floors were asked for.
    """

    value: float
    context_value: float | None
    draws: tuple[float, ...]
    floor_draws: dict[str, tuple[float, ...]]

    @property
    def accuracy(self) -> Interval:
        """Mean over draws, with its 95% interval."""
        return confidence_interval(self.draws)

    @property
    def floors(self) -> dict[str, Interval]:
        """Each floor's mean over draws, with its 95% interval."""
        return {name: confidence_interval(draws) for name, draws in self.floor_draws.items()}

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "value": self.value,
            "accuracy": self.accuracy.model_dump(),
            "draws": list(self.draws),
            "floors": {name: floor.mean for name, floor in self.floors.items()},
            "floor_draws": {name: list(draws) for name, draws in self.floor_draws.items()},
            "context_value": self.context_value,
        }


@dataclass(frozen=True)
class Measurement:
    """Accuracies at all held-out values, of classifiers fitted on `labels_per_class` labels.

    None is all labels that there are.
    """

    labels_per_class: int | None
    values: tuple[ValueResult, ...]

    @property
    def accuracy(self) -> Interval:
        """Mean over held-out values; the 95% interval is over draws of that mean."""
        return _mean_over_values([value.draws for value in self.values])

    @property
    def floors(self) -> dict[str, Interval]:
        """Each floor's mean over held-out values; likewise."""
        return {
            name: _mean_over_values([value.floor_draws[name] for value in self.values])
            for name in self.values[0].floor_draws
        }

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "accuracy": self.accuracy.model_dump(),
            "floors": {name: floor.mean for name, floor in self.floors.items()},
            "values": [value.to_dict() for value in self.values],
        }


@dataclass(frozen=True)
class ProbeResult:
    """A probe of one model over the held-out values of a split.

    `name` is the served model's, `model` its kind (`metavae`), `digest` its card's.
    `measurements` has one for each of the protocol's `labels_per_class`.

    `train_size` counts the train images per value that there were to fit on, at the
    `train_values` for Transfer, else at the held-out ones. `contexts` counts the context draws
    (1 where they do not vary), `context_size` the images of each. `context_from` is the source of
    those that classifiers were fitted under, `test_context_from` of those that they were tested
    under; both are None for a model that takes no context. `converged` tells whether every
    classifier did. The same for a remote and an in-process embedder.
    """

    name: str
    model: str
    digest: str
    latent_dim: int
    family: str
    split: str
    axis: str
    unit: str
    protocol: Protocol
    seed: int
    train_size: int
    test_size: int
    train_values: tuple[float, ...]
    contexts: int
    context_size: int
    context_from: ContextFrom | None
    test_context_from: ContextFrom | None
    measurements: tuple[Measurement, ...]
    converged: bool
    paper: PublishedFigure | None

    @property
    def draws(self) -> int:
        """Over how many draws the model's intervals are."""
        return len(self.measurements[0].values[0].draws)

    @property
    def sizes(self) -> Sizes:
        """How many images there were."""
        return Sizes(self.train_size, self.test_size, self.context_size, len(self.train_values))

    @property
    def note(self) -> str:
        """What its protocol says about the result, in one line."""
        return self.protocol.note(self.sizes)

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON holds it; `record` is what a model card holds of it.

        A protocol of few labels has one measurement per entry of `by_shots`; of the others the
        only measurement stands beside the rest.
        """
        return {
            "name": self.name,
            "model": self.model,
            "digest": self.digest,
            "latent_dim": self.latent_dim,
            "family": self.family,
            "split": self.split,
            "axis": self.axis,
            "unit": self.unit,
            "protocol": self.protocol.name,
            **asdict(self.protocol),
            "note": self.note,
            "seed": self.seed,
            "train_size": self.train_size,
            "test_size": self.test_size,
            "train_values": list(self.train_values),
            "contexts": self.contexts,
            "context_size": self.context_size,
            "context_from": self.context_from,
            "test_context_from": self.test_context_from,
            "converged": self.converged,
            "paper": self.paper and {"accuracy": self.paper.accuracy, "source": self.paper.source},
            **self._measured(),
        }

    def to_json(self) -> str:
        """The result for a program, without times or anything else that changes between runs."""
        return json.dumps(self.to_dict(), indent=2)

    def to_record(self) -> ProbeRecord | None:
        """The result as a model card holds it; None unless it is by the paper's protocol."""
        wrong = {self.context_from, self.test_context_from} - {"own", None}
        if wrong or not isinstance(self.protocol, Linear):
            return None
        return ProbeRecord(
            protocol=(
                f"logistic regression on the embeddings of each held-out {self.axis} of"
                f" {self.family}, {self.split} split; context from the same distribution and part;"
                f" intervals over context draws. {self.note}"
            ),
            **self._recorded(),
            paper=self.paper.accuracy if self.paper else None,
        )

    def to_transfer_record(self) -> TransferRecord | None:
        """The result as a model card holds it; None unless it is of the transfer protocol."""
        if not isinstance(self.protocol, Transfer):
            return None
        return TransferRecord(
            family=self.family,
            split=self.split,
            **self._recorded(),
        )

    def _recorded(self) -> dict[str, Any]:
        """What both kinds of records hold of the only measurement."""
        [measurement] = self.measurements
        return {
            "seed": self.seed,
            "train_size": self.train_size,
            "test_size": self.test_size,
            "contexts": self.contexts,
            "context_size": self.context_size,
            "accuracy": measurement.accuracy,
            "per_value": {f"{one.value:g}": one.accuracy for one in measurement.values},
            "floors": {name: floor.mean for name, floor in measurement.floors.items()},
        }

    def _measured(self) -> dict[str, Any]:
        if self.measurements[0].labels_per_class is None:
            record, transfer = self.to_record(), self.to_transfer_record()
            return {
                "record": record and record.model_dump(),
                **({"transfer": transfer.model_dump()} if transfer else {}),
                **self.measurements[0].to_dict(),
            }
        return {
            "record": None,
            "by_shots": [
                {"shots": measurement.labels_per_class, **measurement.to_dict()}
                for measurement in self.measurements
            ],
        }


def _mean_over_values(draws: list[tuple[float, ...]]) -> Interval:
    """From accuracies [value][draw]."""
    return confidence_interval(np.array(draws).mean(axis=0).tolist())
