"""What is measured: a cell is numbers that are measured together, of a model or of a floor."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

from metavae_training.paper.measure.results import Item, Results
from metavae_training.paper.measure.study import Study
from metavae_training.paper.measure.trained import is_trained
from metavae_training.recipes import Recipe
from metavae_training.sweeps.jobs import Job
from metavae_zoo.families import family


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
    def part(self) -> str:
        """Which cell it is of those that have the same need and seed, for people."""
        return ""

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


def held_out(recipe: Recipe) -> tuple[float, ...]:
    """The values that a recipe's split holds out."""
    return family(recipe.family).split(recipe.split).held_out_values


def complete(
    items: Iterable[Item],
    values: Sequence[float],
    draws: int,
    shots: Sequence[int | None] = (None,),
) -> list[Item] | None:
    """Items of the first `draws` draws, if they are there for all values and shots; else None.

    Nor are they whole where they are of several bundles: a run that is trained again in another
    place is another one.
    """
    items = [item for item in items if item.draw < draws and item.shots in shots]
    there = {(item.shots, item.value, item.draw) for item in items}
    one_bundle = len({item.bundle_sha256 for item in items}) == 1
    return items if one_bundle and there >= set(product(shots, values, range(draws))) else None
