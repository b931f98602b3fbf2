"""What is measured: a cell is one model (or floor) under one condition, at all held-out values."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from metavae_training.jobs import Job
from metavae_training.paper.condition import NONE, RIGHT, Condition, condition_of
from metavae_training.paper.provenance import bundle_hash
from metavae_training.paper.results import Item, Results
from metavae_training.paper.study import Study
from metavae_training.paper.trained import bundle_of, is_trained
from metavae_training.recipes import Recipe
from metavae_zoo.commands import probe_command
from metavae_zoo.families import family

SEEDLESS_FLOORS = ("raw_pixels", "pca")
PROJECTION = "random_projection"
UNTRAINED = {"metavae": "untrained", "wavelet-metavae": "untrained-wavelet-metavae"}


class Cell(ABC):
    """Numbers that are measured together, and the training run that they need."""

    seed: int

    @property
    def job(self) -> Job | None:
        """The training run; None where there is none."""
        return None

    @abstractmethod
    def __str__(self) -> str:
        """What the cell is, for people."""

    @property
    def needs(self) -> str:
        """What has to be trained for it, for people, whatever the seed."""
        return self.job.recipe.name if self.job else ""

    @property
    def values(self) -> tuple[float, ...]:
        """The values that it is of; empty where it is of all that a split holds out."""
        return ()

    @abstractmethod
    def found(self, results: Results) -> list[Item] | None:
        """The cell's items, if all of them are there and still good."""

    def ready(self, study: Study) -> bool:
        """Whether what the cell needs is trained."""
        return self.job is None or is_trained(self.job, study.data_root)

    @abstractmethod
    def measure(self) -> list[Item]:
        """Measure all of the cell's items; raises MetavaeError."""


@dataclass(frozen=True)
class TrainedCell(Cell):
    """A cell of one trained model."""

    study: Study
    recipe: Recipe
    seed: int

    @property
    def job(self) -> Job:
        """The run that trains the model."""
        return self.study.job(self.recipe, self.seed)


@dataclass(frozen=True)
class ModelCell(TrainedCell):
    """A trained model's accuracy at every held-out value, given contexts of one kind."""

    condition: Condition = RIGHT

    def __str__(self) -> str:
        given = "" if self.condition == RIGHT else f", context {self.condition}"
        return f"{self.job}{given}"

    def found(self, results: Results) -> list[Item] | None:
        """Items of this context, or those of a model that takes none."""
        items = results.select(
            kind="model",
            model=self.recipe.model,
            family=self.recipe.family,
            split=self.recipe.split,
            seed=self.seed,
            **self.study.still_good(self.recipe.family, self.recipe),
        )
        of_context = [*self.condition.of(items), *NONE.of(items)]
        return complete(of_context, held_out(self.recipe), self.study.draws)

    def measure(self) -> list[Item]:
        """Probe the model by the client's command."""
        found = probe(self.study, self.job, self.condition, floors=())
        return model_items(self.study, self.job, found, self.condition)


@dataclass(frozen=True)
class FloorCell(Cell):
    """What needs no training: an encoder as it starts, and floors that know nothing of encoders.

    Raw pixels, PCA and a random projection are measured beside MetaVAE's encoder, the first two
    with seed 0; the projection and the encoder are drawn anew by every seed. The encoder is given
    contexts like any model.
    """

    study: Study
    recipe: Recipe
    seed: int

    @property
    def job(self) -> Job:
        """The run of no epochs that makes the untrained encoder."""
        return self.study.job(self.recipe.changed({"epochs": 0}), self.seed)

    @property
    def _initialisation(self) -> dict[str, Any]:
        """What an untrained encoder depends on: nothing of how the recipe trains."""
        fields = self.recipe.to_dict()
        return {
            name: fields[name]
            for name in ("model", "family", "split", "model_settings", "train_values")
        }

    @property
    def _untrained(self) -> str:
        return UNTRAINED[self.recipe.model]

    @property
    def _names(self) -> tuple[str, ...]:
        if self.recipe.model != "metavae":
            return ()
        return (PROJECTION,) if self.seed else (*SEEDLESS_FLOORS, PROJECTION)

    @property
    def needs(self) -> str:
        """The untrained encoder, which is made for the floors alone."""
        if self.recipe.model != "metavae":
            return f"untrained {self.recipe.name}"
        return f"floors of {self.recipe.family} {self.recipe.split}"

    def __str__(self) -> str:
        return f"{self.needs}, seed {self.seed}"

    def found(self, results: Results) -> list[Item] | None:
        """Items of every floor."""
        family_name, values = self.recipe.family, held_out(self.recipe)
        items: list[Item] = []
        for name in (*self._names, self._untrained):
            settings = self._initialisation if name == self._untrained else None
            here = complete(
                results.select(
                    kind="floor",
                    model=name,
                    family=family_name,
                    split=self.recipe.split,
                    seed=None if name in SEEDLESS_FLOORS else self.seed,
                    **self.study.still_good(family_name, settings),
                ),
                values,
                self.study.draws,
            )
            if here is None:
                return None
            items += here
        return items

    def measure(self) -> list[Item]:
        """Probe the untrained encoder by the client's command, with the floors beside it."""
        found = probe(self.study, self.job, RIGHT, floors=self._names, seed=self.seed)
        untrained = model_items(self.study, self.job, found, RIGHT)
        made = self.study.made_of(self.recipe.family, self._initialisation)
        as_floor = {"kind": "floor", "model": self._untrained, **made}
        return [item.model_copy(update=as_floor) for item in untrained] + [
            Item(
                kind="floor",
                model=name,
                family=self.recipe.family,
                split=self.recipe.split,
                seed=None if name in SEEDLESS_FLOORS else self.seed,
                value=at["value"],
                accuracy=at["floors"][name],
                **self.study.made_of(self.recipe.family, None),
                bundle_sha256="",
                commit=found["commit"],
            )
            for at in found["values"]
            for name in self._names
        ]


def probe_protocol(study: Study) -> dict[str, Any]:
    """How accuracies are measured, as a results file states it."""
    return {"probe": "logistic regression at each held-out value", **study.sizes}


def probe(
    study: Study,
    job: Job,
    condition: Condition,
    *,
    floors: Sequence[str],
    seed: int = 0,
) -> dict[str, Any]:
    """What `metavae-client probe` finds of a run's model; `floors` are measured beside it."""
    bundle = bundle_of(job, study.data_root)
    words: list[object] = ["--seed", seed]
    if condition.context != "own":
        words += ["--context-from", condition.context]
    if condition.test_context:
        words += ["--test-context-from", condition.test_context]
    if condition.drawn:
        words += ["--contexts", study.draws, "--context-size", condition.size]
    words += [word for name in floors for word in ("--floor", name)] or ["--no-floors"]
    for option in ("train_size", "test_size", "data_root"):
        if (given := getattr(study, option)) is not None:
            words += [f"--{option.replace('_', '-')}", given]
    return probe_command(bundle, *words)


def model_items(study: Study, job: Job, found: dict[str, Any], condition: Condition) -> list[Item]:
    """The items of a probe; a model that takes no context has none."""
    given = NONE if found["context_from"] is None else condition
    return [
        Item(
            kind="model",
            model=job.recipe.model,
            family=job.recipe.family,
            split=job.recipe.split,
            seed=job.seed,
            value=at["value"],
            context=given.context,
            test_context=given.test_context,
            context_size=given.size,
            draw=draw,
            accuracy=accuracy,
            **study.made_of(job.recipe.family, job.recipe),
            bundle_sha256=bundle_hash(found["digest"]),
            commit=found["commit"],
        )
        for at in found["values"]
        for draw, accuracy in enumerate(at["draws"])
    ]


def held_out(recipe: Recipe) -> tuple[float, ...]:
    """The values that a recipe's split holds out."""
    return family(recipe.family).split(recipe.split).held_out_values


def complete(items: Iterable[Item], values: Sequence[float], draws: int) -> list[Item] | None:
    """Items of the first `draws` draws, if they are there at every value; else None.

    What has nothing to draw (no context, or one of zeros) has one draw.
    """
    items = [item for item in items if item.draw < draws]
    drawn = {(item.value, item.draw) for item in items}
    if not any(condition_of(item).drawn for item in items):
        draws = 1
    wanted = {(value, draw) for value in values for draw in range(draws)}
    return items if drawn >= wanted else None
