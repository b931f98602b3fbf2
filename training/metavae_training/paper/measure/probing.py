"""Probes of bundles: by which protocol, and the numbers that they find."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

from metavae_training.paper.measure.condition import Condition
from metavae_training.paper.measure.study import Study
from metavae_training.paper.measure.trained import bundle_of
from metavae_training.sweeps.jobs import Job
from metavae_zoo.bundles.card import ModelCard
from metavae_zoo.evaluation.contexts import ContextFrom
from metavae_zoo.evaluation.kept import kept_probe
from metavae_zoo.evaluation.protocols import PROTOCOLS, Protocol
from metavae_zoo.evaluation.settings import ProbeSettings


@dataclass(frozen=True)
class Probe:
    """How codes are judged: a protocol of `PROTOCOLS`, and its settings."""

    protocol: str = "linear"
    shots: tuple[int, ...] = ()
    label_draws: int | None = None
    neighbours: int | None = None

    @property
    def name(self) -> str | None:
        """What items call it: None for the paper's."""
        return None if self == LINEAR else self.protocol

    @property
    def all_shots(self) -> tuple[int | None, ...]:
        """Labels per class, one for each number that it finds; None is all that there are."""
        return self.shots or (None,)

    def draws(self, study: Study, condition: Condition) -> int:
        """How many draws there are under contexts of a kind."""
        return self.label_draws or (study.draws if condition.drawn else 1)

    def made(self) -> Protocol:
        """The protocol with its settings."""
        of_protocol = ("shots", "label_draws", "neighbours")
        given = {name: one for name in of_protocol if (one := getattr(self, name))}
        return PROTOCOLS[self.protocol](**given)

    def settings(
        self, study: Study, condition: Condition, card: ModelCard, floors: Sequence[str], seed: int
    ) -> ProbeSettings:
        """The settings of a probe of the card's model under contexts of a kind."""
        settings = ProbeSettings(
            family=card.family,
            split=card.split,
            protocol=self.made(),
            train_size=study.train_size,
            test_size=study.test_size,
            context_from=cast(ContextFrom, condition.context),
            test_context_from=cast(ContextFrom | None, condition.test_context),
            seed=seed,
            floors=tuple(floors),
        )
        if not condition.drawn:
            return settings
        draws = study.draws if self.label_draws is None else settings.contexts
        return replace(settings, contexts=draws, context_size=condition.size)


LINEAR = Probe()


class Accuracies(NamedTuple):
    """What a probe found at one value, draw by draw."""

    shots: int | None
    value: float
    encoder: list[float]
    floors: dict[str, list[float]]


class Found(NamedTuple):
    """What a probe found: of which bundle, by which code, and the numbers."""

    digest: str
    commit: str
    accuracies: list[Accuracies]


def run_probe(
    study: Study,
    job: Job,
    probe: Probe,
    condition: Condition,
    *,
    floors: Sequence[str] = (),
    seed: int = 0,
) -> Found:
    """What a probe of a run's model finds; `floors` are measured beside it."""
    bundle = bundle_of(job, study.data_root)
    settings = probe.settings(study, condition, bundle.card, floors, seed)
    return found_in(kept_probe(bundle, settings, data_root=study.data_root))


def found_in(answer: dict[str, Any]) -> Found:
    """The numbers of a result, see `ProbeResult.to_dict`."""
    accuracies = [
        Accuracies(one.get("shots"), at["value"], at["draws"], at["floor_draws"])
        for one in answer.get("by_shots", [answer])
        for at in one["values"]
    ]
    return Found(answer["digest"], answer["commit"], accuracies)


def probe_protocol(study: Study) -> dict[str, Any]:
    """How accuracies of the paper's probe are measured, as a results file states it."""
    probe = "logistic regression at each held-out value"
    return {"probe": probe, **study.sizes, **study.changes}
