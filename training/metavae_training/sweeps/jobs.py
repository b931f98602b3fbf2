"""What a sweep trains: recipes that a pattern names, with seeds, each in a folder of its own."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metavae_training.recipes import RECIPES, Recipe
from metavae_training.trainer.checkpoint import (
    CHECKPOINT,
    LOG,
    BadCheckpoint,
    Checkpoint,
    load_checkpoint,
)
from metavae_zoo.errors import UnknownName
from metavae_zoo.parsing import parse_json

SPLITS = ("contiguous", "interleaved", "sparse")  # what is trained first


@dataclass(frozen=True)
class Job:
    """One training run: a recipe, a seed, and the folder that it is in."""

    recipe: Recipe
    seed: int
    folder: Path

    def __str__(self) -> str:
        listed = ", ".join(f"{name}={value}" for name, value in changes(self.recipe).items())
        changed = f" ({listed})" if listed else ""
        return f"{self.recipe.name}{changed} seed {self.seed}"

    @property
    def checkpoint(self) -> Path:
        """The file that the run ends in."""
        return self.folder / CHECKPOINT

    def saved(self) -> Checkpoint | None:
        """What the run has come to, without weights; None where nothing of it is there."""
        if not self.checkpoint.exists():
            return None
        found = load_checkpoint(self.checkpoint, tensors=False)
        return found if (found.recipe, found.seed) == (self.recipe, self.seed) else None

    def finished(self) -> bool:
        """Whether all epochs are there, of this very recipe and seed."""
        return self.state() == "finished"

    def state(self) -> str:
        """What is there of the run, in words."""
        if not self.checkpoint.exists():
            return "to train"
        try:
            saved = self.saved()
        except BadCheckpoint:
            return "damaged"
        if saved is None:
            return "another run's folder"
        if saved.epoch >= self.recipe.epochs:
            return "finished"
        return f"epoch {saved.epoch} of {self.recipe.epochs}"

    def epochs_logged(self) -> int:
        """Epochs that the log tells of."""
        try:
            last = (self.folder / LOG).read_text().splitlines()[-1]
            return int(parse_json(last)["epoch"])
        except (OSError, IndexError, ValueError, KeyError, TypeError):  # none yet, or half a line
            return 0


def matching(patterns: Sequence[str]) -> list[Recipe]:
    """Recipes whose name matches a glob pattern, contiguous ones first; raises UnknownName."""
    for pattern in patterns:
        if not fnmatch.filter(RECIPES, pattern):
            raise UnknownName("recipe", pattern, RECIPES, "`metavae-train list` shows all")
    found = [
        RECIPES[name]
        for name in RECIPES
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    ]
    return sorted(found, key=_split_order)


def jobs_of(recipes: Sequence[Recipe], seeds: int, runs: Path) -> list[Job]:
    """A job per recipe and seed: one seed of all recipes of a split, then the next."""
    jobs = [
        Job(recipe, seed, runs / recipe.name / f"seed-{seed}")
        for seed in range(seeds)
        for recipe in recipes
    ]
    return sorted(jobs, key=lambda job: _split_order(job.recipe))


def _split_order(recipe: Recipe) -> int:
    return SPLITS.index(recipe.split)


def changes(recipe: Recipe) -> dict[str, Any]:
    """The settings in which a recipe differs from the one under its name."""
    named, given = RECIPES[recipe.name].to_dict(), recipe.to_dict()
    of_model, given_of_model = named.pop("model_settings"), given.pop("model_settings")
    pairs = {**given, **given_of_model}
    known = {**named, **of_model}
    return {name: value for name, value in pairs.items() if known.get(name, ...) != value}


def settings(recipe: Recipe) -> dict[str, Any]:
    """The settings that make a recipe of the one under its name, by `Recipe.changed`.

    The warm-up is always among them: left out, it would follow from the epochs.
    """
    return {"kl_warm_up_epochs": recipe.kl_warm_up_epochs} | changes(recipe)
