"""What one `metavae-train paper` command compares, how it measures, and where things are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metavae_training.paper.measure.provenance import MadeBy, MadeOf, RecipeHash, data_hash, hash_of
from metavae_training.recipes import Recipe, recipe_for
from metavae_training.recipes import recipe as named
from metavae_training.sweeps.jobs import Job
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
    drawn up. A `quick` study trains and measures little; its results have a name of their own.
    `settings` are what every recipe that trains is changed in; results of other settings are those
    of another protocol. `given_draws` and `given_families` say what was asked for, where a part of
    an experiment has other defaults.
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
    settings: Mapping[str, Any] = field(default_factory=dict)
    given_draws: int | None = None
    given_families: bool = True

    @property
    def name(self) -> str:
        """What the files of the results are called."""
        return f"{self.experiment}-quick" if self.quick else self.experiment

    @property
    def sizes(self) -> dict[str, int | str]:
        """Images per value, as a results file states them."""
        return {"train_size": self.train_size or "all", "test_size": self.test_size or "all"}

    @property
    def changes(self) -> dict[str, Any]:
        """What is trained otherwise than by the recipes, as a results file states it."""
        return {"settings": dict(self.settings)} if self.settings else {}

    @property
    def has_references(self) -> bool:
        """Whether floors and ceilings are measured: they do not depend on how models are trained.

        A study that changes how leaves them to the one that does not.
        """
        return not self.settings

    def recipe(self, model: str, family: str, split: str) -> Recipe | None:
        """The recipe of a model over a split; None where there is none."""
        found = recipe_for(model, family, split)
        if found is None or found.epochs == 0:
            return found
        settings = dict(self.settings)
        if self.quick:
            settings["epochs"] = min(settings.get("epochs", found.epochs), QUICK_EPOCHS)
        return found.changed(settings)

    def job(self, recipe: Recipe, seed: int) -> Job:
        """The training run of a recipe and a seed; an untrained model has a place of its own."""
        root = self.runs / "quick" if self.quick else self.runs
        if self.settings:
            root = root / settings_in_words(self.settings)
        if recipe.epochs == 0 and named(recipe.name).epochs > 0:
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


def settings_in_words(settings: Mapping[str, Any]) -> str:
    """Such as `epochs=100,kl_warm_up_epochs=0`, which can be the name of a folder."""
    texts = (f"{name}={json.dumps(settings[name])}" for name in sorted(settings))
    return ",".join(texts).replace(" ", "").replace("/", "_")


def _hash(settings: Recipe | dict[str, Any] | None) -> str:
    """Of a recipe, the model's defaults count as well."""
    if isinstance(settings, Recipe):
        from metavae_training.trainer.build import all_settings  # loads torch

        settings = all_settings(settings)
    return hash_of(settings) if settings is not None else ""
