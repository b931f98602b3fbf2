"""Probes of bundles by the client's command: by which protocol, and the numbers in its answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from metavae_training.jobs import Job
from metavae_training.paper.condition import Condition
from metavae_training.paper.study import Study
from metavae_training.paper.trained import bundle_of
from metavae_zoo.commands import probe_command


@dataclass(frozen=True)
class Probe:
    """How codes are judged: a protocol of `metavae-client probe`, and its settings."""

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

    def words(self, study: Study, condition: Condition) -> Iterator[object]:
        """The options of the command."""
        if self != LINEAR:
            yield from ("--protocol", self.protocol)
        if self.shots:
            yield from ("--shots", ",".join(map(str, self.shots)))
        for option in ("label_draws", "neighbours"):
            if number := getattr(self, option):
                yield from (_flag(option), number)
        if condition.context != "own":
            yield from ("--context-from", condition.context)
        if condition.test_context:
            yield from ("--test-context-from", condition.test_context)
        if condition.drawn and self.label_draws is None:
            yield from ("--contexts", study.draws)
        if condition.drawn:
            yield from ("--context-size", condition.size)


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
    """What `metavae-client probe` finds of a run's model; `floors` are measured beside it."""
    bundle = bundle_of(job, study.data_root)
    words: list[object] = ["--seed", seed, *probe.words(study, condition)]
    words += [word for name in floors for word in ("--floor", name)] or ["--no-floors"]
    for option in ("train_size", "test_size", "data_root"):
        if (given := getattr(study, option)) is not None:
            words += [_flag(option), given]
    return found_in(probe_command(bundle, *words))


def found_in(answer: dict[str, Any]) -> Found:
    """The numbers in the command's answer."""
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


def _flag(option: str) -> str:
    return f"--{option.replace('_', '-')}"
