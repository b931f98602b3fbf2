"""Every training run that has a name: a frozen configuration, and one dict that lists them all."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from metavae_zoo.errors import UnknownName
from metavae_zoo.families import FAMILIES

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class Recipe:
    """What is trained, over what, and how.

    `batch_size` is queries per distribution and step, split evenly into `context_sets` sets that
    share a context; `context_sizes` is the range that a step draws its context size from,
    log-uniformly. The learning rate falls from its start by half a cosine. The KL term's weight
    rises linearly over `kl_warm_up_epochs`, which keeps latent dimensions from collapsing before
    the decoders use them. `validation_size` training images are held out of training, in every
    distribution, to choose the checkpoint.
    """

    name: str
    model: str
    family: str
    split: str
    model_settings: dict[str, Any] = field(default_factory=dict)
    epochs: int = 12
    batch_size: int = 100
    context_sets: int = 4
    context_sizes: tuple[int, int] = (5, 50)
    learning_rate: float = 1e-3
    kl_warm_up_epochs: int = 12
    validation_size: int = 5000
    precision: Precision = "bf16"

    def to_dict(self) -> dict[str, Any]:
        """The recipe as JSON holds it."""
        return {**asdict(self), "context_sizes": list(self.context_sizes)}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Recipe:
        """The recipe that `to_dict` wrote."""
        return cls(**{**fields, "context_sizes": tuple(fields["context_sizes"])})


def _metavae(family: str, split: str) -> Recipe:
    name = f"metavae-{family}-{split}"
    if family.startswith("digits"):
        # 1,297 training images: more passes, a smaller validation slice.
        return Recipe(
            name,
            "metavae",
            family,
            split,
            epochs=200,
            kl_warm_up_epochs=200,
            validation_size=197,
            precision="fp32",
        )
    return Recipe(name, "metavae", family, split)


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        _metavae(family.name, split) for family in FAMILIES.values() for split in family.axis.splits
    )
}


def recipe(name: str) -> Recipe:
    """Return the recipe of this name, or raise UnknownName with the nearest one."""
    try:
        return RECIPES[name]
    except KeyError:
        raise UnknownName("recipe", name, RECIPES, "`metavae-train list` shows all") from None
