"""From a recipe to its model and optimiser, with all settings that the recipe leaves unsaid."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from metavae_training.models import MODELS, Model
from metavae_training.recipes import BadRecipe, Recipe
from metavae_zoo.errors import UnknownName


def build_model(recipe: Recipe, *, distributions: int, pixels: int, seed: int) -> Model:
    """A freshly initialised model; the same weights for the same seed on every device.

    Raises BadRecipe, as `check_settings`.
    """
    check_settings(recipe)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MODELS[recipe.model](
            distributions=distributions, pixels=pixels, **recipe.model_settings
        )


def check_settings(recipe: Recipe) -> None:
    """Raise BadRecipe for settings that the recipe's model does not have."""
    settings = _defaults(recipe.model)
    if unknown := sorted(set(recipe.model_settings) - set(settings)):
        raise BadRecipe(
            f"recipe {recipe.name} has no setting {unknown[0]!r}",
            hint=f"The settings of model {recipe.model} are {', '.join(sorted(settings))};"
            " `metavae-train list --json` shows the recipe's own",
            field=unknown[0],
        )


def model_settings(recipe: Recipe) -> dict[str, Any]:
    """All settings that the recipe's model has, the defaults with the recipe's own over them."""
    return _defaults(recipe.model) | recipe.model_settings


def all_settings(recipe: Recipe) -> dict[str, Any]:
    """The recipe as JSON holds it, with all settings of its model: what a run depends on."""
    return recipe.to_dict() | {"model_settings": model_settings(recipe)}


def _defaults(model: str) -> dict[str, Any]:
    if model not in MODELS:
        raise UnknownName("model", model, MODELS, f"the models are {', '.join(MODELS)}")
    parameters = inspect.signature(MODELS[model]).parameters.values()
    return {one.name: one.default for one in parameters if one.default is not one.empty}


def build_optimizer(model: Model, recipe: Recipe) -> torch.optim.Optimizer:
    """Adam, every parameter updated by one fused kernel; on a GPU its step can be recorded."""
    on_gpu = any(parameter.is_cuda for parameter in model.parameters())
    rate = recipe.learning_rate
    return torch.optim.Adam(
        model.parameters(),
        lr=torch.tensor(rate, device="cuda") if on_gpu else rate,
        fused=True,
        capturable=on_gpu,
    )
