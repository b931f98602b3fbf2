"""Cells of probes: a trained model, or what needs no training, at a split's held-out values."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from metavae_training.models import MODELS
from metavae_training.paper.measure.cells import TrainedCell, complete, held_out
from metavae_training.paper.measure.condition import NONE, RIGHT, Condition
from metavae_training.paper.measure.probing import LINEAR, Found, Probe, run_probe
from metavae_training.paper.measure.provenance import bundle_hash
from metavae_training.paper.measure.results import Item, Kind, Results
from metavae_training.paper.measure.study import PAPERS_MODEL, Study
from metavae_training.recipes import Recipe
from metavae_training.sweeps.jobs import Job
from metavae_training.trainer.build import all_settings

SEEDLESS_FLOORS = ("raw_pixels", "pca")
PROJECTION = "random_projection"
UNTRAINED = "untrained"


class Subject(NamedTuple):
    """What is probed: an encoder, or a floor that the client measures `beside` it.

    `settings` are what its numbers depend on, None where that is nothing.
    """

    kind: Kind
    model: str
    seed: int | None
    condition: Condition
    settings: Recipe | dict[str, Any] | None
    beside: bool = False


@dataclass(frozen=True)
class ProbedCell(TrainedCell):
    """Accuracies at every held-out value, by one probe and under contexts of one kind."""

    condition: Condition = RIGHT
    probe: Probe = LINEAR

    @property
    @abstractmethod
    def subjects(self) -> tuple[Subject, ...]:
        """What is probed together."""

    @property
    def probe_seed(self) -> int:
        """The seed of what the probe draws: images, contexts, labels."""
        return 0

    @property
    def part(self) -> str:
        """The probe, or the contexts where that is the paper's."""
        both = [self.probe.name, self.condition != RIGHT and str(self.condition)]
        return " ".join(filter(None, both)) or str(RIGHT)

    @property
    def given(self) -> Condition:
        """The contexts as the encoder takes them: it may take none."""
        return self.condition if MODELS[self.recipe.model].takes_context() else NONE

    def found(self, results: Results) -> list[Item] | None:
        """Items of every subject."""
        items: list[Item] = []
        for subject in self.subjects:
            here = self._of(subject, results)
            if here is None:
                return None
            items += here
        return items

    def measure(self) -> list[Item]:
        """Probe the encoder by the client's command, with the floors beside it."""
        floors = [subject.model for subject in self.subjects if subject.beside]
        found = run_probe(
            self.study, self.job, self.probe, self.condition, floors=floors, seed=self.probe_seed
        )
        return [item for subject in self.subjects for item in self._items(subject, found)]

    def _of(self, subject: Subject, results: Results) -> list[Item] | None:
        items = results.select(
            kind=subject.kind,
            model=subject.model,
            family=self.recipe.family,
            split=self.recipe.split,
            seed=subject.seed,
            probe=self.probe.name,
            **self.study.still_good(self.recipe.family, subject.settings),
        )
        return complete(
            subject.condition.of(items),
            held_out(self.recipe),
            self.probe.draws(self.study, subject.condition),
            self.probe.all_shots,
        )

    def _items(self, subject: Subject, found: Found) -> Iterator[Item]:
        for at in found.accuracies:
            for draw, accuracy in enumerate(
                at.floors[subject.model] if subject.beside else at.encoder
            ):
                yield Item(
                    kind=subject.kind,
                    model=subject.model,
                    family=self.recipe.family,
                    split=self.recipe.split,
                    seed=subject.seed,
                    value=at.value,
                    probe=self.probe.name,
                    shots=at.shots,
                    context=subject.condition.context,
                    test_context=subject.condition.test_context,
                    context_size=subject.condition.size,
                    draw=draw,
                    accuracy=accuracy,
                    **self.study.made_of(self.recipe.family, subject.settings),
                    bundle_sha256="" if subject.beside else bundle_hash(found.digest),
                    commit=found.commit,
                )


@dataclass(frozen=True)
class ModelCell(ProbedCell):
    """A trained model's accuracies."""

    def __str__(self) -> str:
        return f"{self.job}, {self.part}"

    @property
    def subjects(self) -> tuple[Subject, ...]:
        """The model."""
        return (Subject("model", self.recipe.model, self.seed, self.given, self.recipe),)


@dataclass(frozen=True)
class FloorCell(ProbedCell):
    """What needs no training: an encoder as it starts, and floors that know nothing of encoders.

    Everything that is drawn, the encoder, the floors and the probe's own draws, is of the seed.
    """

    floors: tuple[str, ...] = ()

    @property
    def job(self) -> Job:
        """The run of no epochs that makes the untrained encoder."""
        return self.study.job(self.recipe.changed({"epochs": 0}), self.seed)

    @property
    def subjects(self) -> tuple[Subject, ...]:
        """The floors, and the encoder, which depends on nothing of how its recipe trains."""
        beside = [
            Subject("floor", name, None if name in SEEDLESS_FLOORS else self.seed, NONE, None, True)
            for name in self.floors
        ]
        fields = all_settings(self.recipe)
        start = {
            name: fields[name]
            for name in ("model", "family", "split", "model_settings", "train_values")
        }
        name = untrained(self.recipe.model)
        return (*beside, Subject("floor", name, self.seed, self.given, start))

    @property
    def probe_seed(self) -> int:
        """The encoder's seed, which draws the random projection too."""
        return self.seed

    @property
    def needs(self) -> str:
        """The untrained encoder, which may be made for the floors alone."""
        if not self.floors:
            return f"untrained {self.recipe.name}"
        return f"floors of {self.recipe.family} {self.recipe.split}"

    def __str__(self) -> str:
        return f"{self.needs}, seed {self.seed}, {self.part}"


def untrained(model: str) -> str:
    """What items call an encoder before its training.

    One of random weights is much like another, whatever the model; one that starts fitted is not.
    """
    return f"{UNTRAINED}-{model}" if MODELS[model].starts_fitted else UNTRAINED


def model_cells(
    study: Study, condition: Condition = RIGHT, probe: Probe = LINEAR
) -> Iterator[ModelCell]:
    """Every model, seed by seed, of every split and family; splits come in the study's order.

    What is fitted in closed form, in no epochs, is the same for every seed: it has seed 0 alone.
    """
    for split in study.splits:
        for seed in range(study.seeds):
            for family in study.families:
                for model in study.models:
                    recipe = study.recipe(model, family, split)
                    if recipe and (seed == 0 or recipe.epochs > 0):
                        yield ModelCell(study, recipe, seed, condition, probe)


def floor_cells(study: Study, probe: Probe = LINEAR) -> Iterator[FloorCell]:
    """The floors of every split and family, and the starts of the models that training starts from.

    Floors are measured beside the paper's encoder at random weights, those without a seed with seed
    0. A start that is fitted in closed form is the same for every seed: it has seed 0 alone.
    """
    if not study.has_references:
        return
    for split in study.splits:
        for family in study.families:
            if recipe := study.recipe(PAPERS_MODEL, family, split):
                for seed in range(study.seeds):
                    floors = (PROJECTION,) if seed else (*SEEDLESS_FLOORS, PROJECTION)
                    yield FloorCell(study, recipe, seed, probe=probe, floors=floors)
            for model in study.models:
                recipe = study.recipe(model, family, split)
                if recipe and recipe.epochs > 0 and MODELS[model].starts_fitted:
                    yield FloorCell(study, recipe, 0, probe=probe)
