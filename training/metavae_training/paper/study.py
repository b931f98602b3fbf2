"""What one `metavae-train paper` command compares, how it measures, and where things are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metavae_training.jobs import Job
from metavae_training.paper.provenance import MadeBy, MadeOf, RecipeHash, data_hash, hash_of
from metavae_training.recipes import RECIPES, Recipe
from metavae_zoo.commit import code_commit

PAPERS_MODEL = "metavae"  # which its tables are about

QUICK_EPOCHS = 10
QUICK_TRAIN_SIZE = 300
QUICK_TEST_SIZE = 200


@dataclass(frozen=True)
class Study:
    """The options of a command.

    `seeds` is the number of training runs of each model (0, 1, ...), `draws` the number of context
    draws for each. `train_size` and `test_size` count images per value, None being all. Where
    `train` is false, nothing is trained but what takes no epochs (closed forms, untrained
    encoders), and where `measure` is, nothing is made or measured: what the results have already is
    drawn up. A `quick` study trains and measures little; its results
    have a name of their own.
    """

    experiment: str
    families: tuple[str, ...]
    splits: tuple[str, ...]
    models: tuple[str, ...]
    seeds: int
    draws: int
    runs: Path
    out: Path
    train_size: int | None = None
    test_size: int | None = None
    device: str = "auto"
    workers: int | None = None
    data_root: Path | None = None
    train: bool = True
    measure: bool = True
    quick: bool = False

    @property
    def name(self) -> str:
        """What the files of the results are called."""
        return f"{self.experiment}-quick" if self.quick else self.experiment

    @property
    def sizes(self) -> dict[str, int | str]:
        """Images per value, as a results file states them."""
        return {"train_size": self.train_size or "all", "test_size": self.test_size or "all"}

    def recipe(self, model: str, family: str, split: str) -> Recipe | None:
        """The recipe of a model over a split; None where there is none."""
        found = RECIPES.get(f"{model}-{family}-{split}")
        if found is None or not self.quick:
            return found
        return found.changed({"epochs": min(found.epochs, QUICK_EPOCHS)})

    def job(self, recipe: Recipe, seed: int) -> Job:
        """The training run of a recipe and a seed; an untrained model has a place of its own."""
        root = self.runs / "quick" if self.quick else self.runs
        if recipe.epochs == 0 and RECIPES[recipe.name].epochs > 0:
            root = root / "untrained"
        return Job(recipe, seed, root / recipe.name / f"seed-{seed}")

    def made_by(self, family: str, settings: Recipe | dict[str, Any] | None) -> MadeBy:
        """What an item says of recipe (or other settings), data and code."""
        return {**self.made_of(family, settings), "commit": code_commit()}

    def made_of(self, family: str, settings: Recipe | dict[str, Any] | None) -> MadeOf:
        """What an item says of recipe (or other settings) and data."""
        return {
            "data_sha256": data_hash(family, self.data_root),
            "recipe_sha256": _hash(settings),
        }

    def still_good(
        self, family: str, settings: Recipe | dict[str, Any] | None
    ) -> MadeOf | RecipeHash:
        """What an item must say to be drawn up.

        Where nothing is measured the data set need not be there: items of any data are good.
        """
        if not self.measure:
            return {"recipe_sha256": _hash(settings)}
        return self.made_of(family, settings)


def _hash(settings: Recipe | dict[str, Any] | None) -> str:
    fields = settings.to_dict() if isinstance(settings, Recipe) else settings
    return hash_of(fields) if fields is not None else ""
