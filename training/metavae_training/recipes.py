"""Every training run that has a name: a frozen configuration, made when its name is asked for."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, field
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass
from typing_extensions import TypedDict

from metavae_zoo.bundles.card import WITH_SET_LATENT, Weights
from metavae_zoo.errors import MetavaeError, UnknownName
from metavae_zoo.families import FAMILIES, Family, family

Precision = Literal["fp32", "bf16"]
Size = Annotated[int, Field(ge=1, strict=True)]  # strict: true is no number
ModelSize = Annotated[int, Field(ge=1, le=1_000_000, strict=True)]
Epochs = Annotated[int, Field(ge=0, strict=True)]
Value = Annotated[float, Field(strict=True, allow_inf_nan=False)]


class BadRecipe(MetavaeError):
    """A recipe with settings that no run can have."""

    code = "bad_recipe"


class ModelSettings(TypedDict, total=False):
    """Settings of all models, with what each may be; a model has some of them.

    `reference` None is the training value that changes an image least, `simulated_sites` 0 the
    training sites themselves, `kl_c_scale` None Eq. 13's 1/N.
    """

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]  # see `check_settings`

    latent_dim: ModelSize
    context_dim: ModelSize
    hidden: ModelSize
    pseudo_sets: ModelSize
    pseudo_set_size: ModelSize
    variates: ModelSize
    sets: ModelSize
    steps: ModelSize
    calibration_sets: ModelSize
    simulated_sites: Annotated[int, Field(ge=0, le=100_000, strict=True)]
    prior: Literal["affine", "camera"]
    intensity: Literal["auto", "none", "histogram", "stretch"]
    reference: Value | None
    orientations: Annotated[int, Field(ge=1, le=180, strict=True)]
    scales: Annotated[int, Field(ge=1, le=4, strict=True)]  # octaves
    rescaling: Annotated[Value, Field(ge=0, lt=1)]
    kl_c_scale: Annotated[Value, Field(ge=0)] | None


# Which of them a model has, its constructor says: to a type checker they are a dict.
if TYPE_CHECKING:
    Settings = dict[str, Any]
else:
    Settings = ModelSettings


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Recipe:
    """What is trained, over what, and how.

    `train_values` are the distributions that are trained on, None for all that the split gives.
    `batch_size` is queries per distribution and step, split evenly into `context_sets` sets that
    share a context; `context_sizes` is the range that a step draws its context size from,
    log-uniformly. The learning rate falls from its start by half a cosine. The KL terms' weight
    rises linearly over `kl_warm_up_epochs`, which keeps latent dimensions from collapsing before
    the decoders use them. `validation_size` training images are held out of training, in every
    distribution, to choose the checkpoint. `weights` is how a bundle stores them. Raises
    ValidationError or BadRecipe for settings that no run can have.
    """

    name: str
    model: str
    family: str
    split: str
    model_settings: Settings = field(default_factory=dict)
    train_values: Annotated[tuple[Value, ...], Field(min_length=1)] | None = None
    epochs: Epochs = 12
    batch_size: Size = 100
    context_sets: Size = 4
    context_sizes: tuple[Size, Size] = (5, 50)
    learning_rate: Annotated[Value, Field(gt=0)] = 1e-3
    kl_warm_up_epochs: Epochs = 12
    validation_size: Annotated[int, Field(ge=2, strict=True)] = 5000
    precision: Precision = "bf16"
    weights: Weights = "fp16"

    def __post_init__(self) -> None:
        low, high = self.context_sizes
        if low > high:
            raise self._bad("context_sizes", self.context_sizes, "a smaller size, then a larger")
        if self.batch_size % self.context_sets:
            expected = f"a divisor of the batch_size, {self.batch_size}"
            raise self._bad("context_sets", self.context_sets, expected)
        if self.train_values and len(set(self.train_values)) < len(self.train_values):
            raise self._bad("train_values", self.train_values, "every value once")

    @property
    def values(self) -> tuple[float, ...]:
        """The values of the distributions that are trained on."""
        trained = family(self.family).split(self.split).train_values
        if self.train_values is None:
            return trained
        if outside := sorted(set(self.train_values) - set(trained)):
            raise self._bad("train_values", outside, f"values that the split trains on, {trained}")
        return self.train_values

    @property
    def reference(self) -> int:
        """The index among `values` of the site that sites are simulated from.

        Raises BadRecipe for a `reference` that is not trained on.
        """
        values = self.values
        wanted = self.model_settings.get("reference")
        if wanted is None:
            return values.index(family(self.family).axis.least_changing(values))
        if wanted not in values:
            raise self._bad("reference", wanted, f"a value that is trained on, {values}")
        return values.index(wanted)

    def check_images(self, images: int) -> None:
        """Raise BadRecipe where a distribution of so many images is too small for the settings."""
        left = images - self.validation_size
        needed = {
            "validation_size": (images - 1, self.validation_size),
            "batch_size": (left, self.batch_size),
            "context_sizes": (left - self.batch_size, self.context_sizes[1]),
        }
        for setting, (available, wanted) in needed.items():
            if wanted > available:
                raise self._bad(
                    setting,
                    getattr(self, setting),
                    f"at most what a distribution of {images} images leaves for it, {available}"
                    + ("" if setting == "validation_size" else " (validation_size has its part)"),
                )

    def to_dict(self) -> dict[str, Any]:
        """The recipe as JSON holds it."""
        return json.loads(json.dumps(asdict(self)))  # with lists for tuples, as it is read back

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Recipe:
        """The recipe that `to_dict` wrote; raises BadRecipe for anything else."""
        try:
            return cls(**fields)
        except ValidationError as error:
            first = error.errors()[0]
            setting, given = str(first["loc"][0]), fields
            if setting == "model_settings" and len(first["loc"]) > 1:
                setting, given = str(first["loc"][1]), fields[setting]
            expected = _EXPECTED.get(setting, f"{first['msg'][0].lower()}{first['msg'][1:]}")
            raise BadRecipe(
                f"recipe {fields.get('name')}: {setting} is {given.get(setting)!r}; {expected}",
                hint=f"Give another {setting}",
                field=setting,
            ) from error

    def changed(self, settings: dict[str, Any]) -> Recipe:
        """This recipe with other settings, of its own or of its model's; raises BadRecipe.

        Fewer epochs shorten a warm-up of the KL that is longer, unless one is given.
        """
        own = {one.name for one in dataclasses.fields(self)} - _FIXED
        fields = {name: value for name, value in settings.items() if name in own}
        others = {name: value for name, value in settings.items() if name not in own}
        if fixed := _FIXED & set(others):
            raise BadRecipe(
                f"recipe {self.name}: {min(fixed)} is part of what the recipe is",
                hint="Choose another recipe (`metavae-train list`), or leave the setting out",
                field=min(fixed),
            )
        changed = Recipe.from_dict(
            self.to_dict() | fields | {"model_settings": self.model_settings | others}
        )
        if 0 < changed.epochs < self.epochs and "kl_warm_up_epochs" not in fields:
            warm_up = min(self.kl_warm_up_epochs, changed.epochs)
            changed = dataclasses.replace(changed, kl_warm_up_epochs=warm_up)
        return changed

    def _bad(self, setting: str, given: object, expected: str) -> BadRecipe:
        return BadRecipe(
            f"recipe {self.name}: {setting} is {given}, expected {expected}",
            hint=f"Give another {setting}",
            field=setting,
        )


# Where pydantic's own words are of Python's types.
_EXPECTED = {
    "train_values": "expected a list of one value or more, such as [0, 20]",
    "context_sizes": "expected the smallest and the largest size, whole numbers of 1 or more, such"
    " as [5, 50]",
}
_FIXED = {"name", "model", "family", "split", "model_settings"}


# The paper's models: the same networks, context sizes and schedule for each, the weight of the KL
# rising to the end of it.
_PAPER = ("metavae", "vae", "vae-single", *WITH_SET_LATENT)
MODEL_NAMES = (*_PAPER, "wavelet-pca", "wavelet-metavae", "canonical-wavelet", "canonical-metavae")


class _Place(NamedTuple):
    """What a recipe's name stands for; `camera` tells a canonical model of the camera prior."""

    model: str
    family: str
    split: str
    camera: bool = False


@cache
def _places() -> dict[str, _Place]:
    """Every recipe's name, family by family and split by split."""
    found = {}
    for source in FAMILIES.values():
        for split in source.axis.splits:
            if source.split(split).held_out_values:
                for model in MODEL_NAMES:
                    found[f"{model}-{source.name}-{split}"] = _Place(model, source.name, split)
            else:  # one canonical model of each prior, for every family of a data set
                name = f"canonical-wavelet-{source.name}"
                found[name] = _Place("canonical-wavelet", source.name, split)
                found[f"{name}-camera-prior"] = _Place(*found[name][:3], camera=True)
    return found


def _make(name: str, place: _Place) -> Recipe:
    source = family(place.family)
    # 1,297 training images: more passes, a smaller validation slice.
    digits = {"epochs": 200, "kl_warm_up_epochs": 200, "validation_size": 197, "precision": "fp32"}
    schedule = digits if source.name.startswith("digits") else {}
    return Recipe(name, *place[:3], **schedule | _changes(place, source))


def _changes(place: _Place, source: Family) -> dict[str, Any]:
    """Where a recipe differs from that of the paper's model over the same data."""
    digits = source.name.startswith("digits")
    match place.model:
        case model if model in WITH_SET_LATENT:
            return {"weights": "int8"}  # shipped for comparison: a quarter of the bytes is enough
        case "vae-single":
            return {"train_values": (source.reference(place.split),)}
        case "wavelet-pca":
            return {"epochs": 0, "precision": "fp32"}
        case "wavelet-metavae":
            # Neighbouring scales are as little as 5.6% apart: augmentations stay below that.
            settings = {"rescaling": 0.05} if source.axis.name == "scale" else {}
            schedule = {"epochs": 20 if digits else 4, "kl_warm_up_epochs": 0}
            return schedule | {"learning_rate": 3e-4, "model_settings": settings}
        case "canonical-wavelet" | "canonical-metavae" as model:
            # The few images of digits need no more to be learned by heart.
            few = {"sets": 16_000, "steps": 8_000, "calibration_sets": 4_000}
            settings = dict(few) if digits else {}
            if place.camera or source.name.endswith("camera"):
                # Under uneven light no single table is right for the whole frame.
                settings |= {"prior": "camera", "intensity": "stretch"}
            if not source.split(place.split).held_out_values:
                settings["simulated_sites"] = 200
            schedule = {"epochs": 0, "precision": "fp32"} if model == "canonical-wavelet" else {}
            return schedule | {"model_settings": settings}
    return {}


class _Recipes(Mapping[str, Recipe]):
    """Every recipe by its name; a recipe is made when it is asked for."""

    def __getitem__(self, name: str) -> Recipe:
        return _make(name, _places()[name])

    def __iter__(self) -> Iterator[str]:
        return iter(_places())

    def __len__(self) -> int:
        return len(_places())


RECIPES = _Recipes()


def recipe(name: str) -> Recipe:
    """Return the recipe of this name, or raise UnknownName with the nearest one."""
    try:
        return RECIPES[name]
    except KeyError:
        raise UnknownName("recipe", name, RECIPES, "`metavae-train list` shows all") from None


def recipe_for(model: str, family: str, split: str) -> Recipe | None:
    """The recipe of a model over a family's split; None where there is none."""
    return RECIPES.get(f"{model}-{family}-{split}")
