"""Every training run that has a name: a frozen configuration, and one dict that lists them all."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import asdict, field
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from metavae_training.models.wavelet.transform import MAX_SCALES
from metavae_zoo.bundles.card import WITH_SET_LATENT, Weights
from metavae_zoo.errors import MetavaeError, UnknownName
from metavae_zoo.families import FAMILIES, Family, family

Precision = Literal["fp32", "bf16"]
Size = Annotated[int, Field(ge=1, strict=True)]  # strict: true is no number
Epochs = Annotated[int, Field(ge=0, strict=True)]
Value = Annotated[float, Field(strict=True, allow_inf_nan=False)]


class BadRecipe(MetavaeError):
    """A recipe with settings that no run can have."""

    code = "bad_recipe"


class _Allowed(NamedTuple):
    """What a setting of a model may be, for the computer and for people."""

    type: TypeAdapter[Any]
    expected: str


def _up_to(most: int, of: str = "") -> _Allowed:
    adapter = TypeAdapter(Annotated[int, Field(ge=1, le=most, strict=True)])
    return _Allowed(adapter, f"a whole number{of}, 1 to {most}")


def _one_of(*texts: str) -> _Allowed:
    pattern = "|".join(texts)
    adapter = TypeAdapter(Annotated[str, Field(pattern=f"^({pattern})$", strict=True)])
    return _Allowed(adapter, f"one of {', '.join(texts)}")


_SIZE = _up_to(1_000_000)
_MODEL_SETTINGS = {
    **dict.fromkeys(("latent_dim", "context_dim", "hidden"), _SIZE),
    **dict.fromkeys(("pseudo_sets", "pseudo_set_size", "variates"), _SIZE),
    **dict.fromkeys(("sets", "steps", "calibration_sets"), _SIZE),
    "simulated_sites": _Allowed(
        TypeAdapter(Annotated[int, Field(ge=0, le=100_000, strict=True)]),
        "a whole number, 0 (the training sites themselves) to 100000",
    ),
    "prior": _one_of("affine", "camera"),
    "intensity": _one_of("auto", "none", "histogram", "stretch"),
    "reference": _Allowed(
        TypeAdapter(Annotated[float | None, Field(allow_inf_nan=False, strict=True)]),
        "a training value, or null for the one that changes an image least",
    ),
    "orientations": _up_to(180),
    "scales": _up_to(MAX_SCALES, " of octaves"),
    "rescaling": _Allowed(
        TypeAdapter(Annotated[float, Field(ge=0, lt=1, strict=True)]),
        "a number of 0 or more, below 1",
    ),
    "kl_c_scale": _Allowed(
        TypeAdapter(Annotated[float | None, Field(ge=0, allow_inf_nan=False, strict=True)]),
        "a number of 0 or more, or null for Eq. 13's 1/N",
    ),
}


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
    model_settings: dict[str, Any] = field(default_factory=dict)
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
        for setting, value in self.model_settings.items():
            if setting not in _MODEL_SETTINGS:
                continue  # `build_model` knows which there are
            allowed = _MODEL_SETTINGS[setting]
            try:
                allowed.type.validate_python(value)
            except ValidationError:
                raise self._bad(setting, value, allowed.expected) from None
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
            return values.index(min(values, key=family(self.family).axis.change))
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
            setting = str(first["loc"][0])
            expected = _EXPECTED.get(setting, f"{first['msg'][0].lower()}{first['msg'][1:]}")
            raise BadRecipe(
                f"recipe {fields.get('name')}: {setting} is {fields.get(setting)!r}; {expected}",
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


def _schedule(source: Family) -> dict[str, Any]:
    if source.name.startswith("digits"):
        # 1,297 training images: more passes, a smaller validation slice.
        return {
            "epochs": 200,
            "kl_warm_up_epochs": 200,
            "validation_size": 197,
            "precision": "fp32",
        }
    return {}


def _most_ordinary(source: Family, split: str) -> float:
    """The training value whose images are the least transformed."""
    return min(source.split(split).train_values, key=source.axis.change)


# The paper's models: the same networks, context sizes and schedule for each, the weight of the KL
# rising to the end of it.
_PAPER = ("metavae", "vae", "vae-single", *WITH_SET_LATENT)


def _wavelet_schedules(source: Family) -> dict[str, dict[str, Any]]:
    """Of the models that start from a closed form: what they differ in from the paper's."""
    epochs = 20 if source.name.startswith("digits") else 4
    # Neighbouring scales are as little as 5.6% apart: distortions stay below that.
    settings = {"rescaling": 0.05} if source.axis.name == "scale" else {}
    return {
        "wavelet-pca": {"epochs": 0, "precision": "fp32"},
        "wavelet-metavae": {
            "epochs": epochs,
            "kl_warm_up_epochs": 0,
            "learning_rate": 3e-4,
            "model_settings": settings,
        },
    }


# The few images of digits need no more to be learned by heart.
_DIGITS_CANONICALISER = {"sets": 16_000, "steps": 8_000, "calibration_sets": 4_000}
_SIMULATED_SITES = 200


def _canonical_settings(source: Family, prior: str) -> dict[str, Any]:
    """Settings of a canonicaliser over a data set."""
    size = _DIGITS_CANONICALISER if source.name.startswith("digits") else {}
    # Under uneven light no one table is right for the whole frame.
    return size | ({"prior": prior, "intensity": "stretch"} if prior == "camera" else {})


def _canonical_schedules(source: Family) -> dict[str, dict[str, Any]]:
    """Of the models in the canonical frame; sites of cameras are simulated for their family."""
    prior = "camera" if source.axis.name == "site" and source.name.endswith("camera") else "affine"
    settings = _canonical_settings(source, prior)
    return {
        "canonical-wavelet": {"epochs": 0, "precision": "fp32", "model_settings": settings},
        "canonical-metavae": {"model_settings": settings},
    }


def _recipes() -> Iterator[Recipe]:
    for source in FAMILIES.values():
        for split in source.axis.splits:
            if not source.split(split).held_out_values:
                yield from _for_every_family(source, split)
                continue
            changes: dict[str, dict[str, Any]] = {model: {} for model in _PAPER}
            # The baselines are shipped for comparison: a quarter of the bytes is enough.
            changes |= {model: {"weights": "int8"} for model in WITH_SET_LATENT}
            changes["vae-single"] = {"train_values": (_most_ordinary(source, split),)}
            changes |= _wavelet_schedules(source) | _canonical_schedules(source)
            for model, change in changes.items():
                name = f"{model}-{source.name}-{split}"
                yield Recipe(name, model, source.name, split, **_schedule(source) | change)


def _for_every_family(source: Family, split: str) -> Iterator[Recipe]:
    """One canonical model of each prior, of simulated sites, for every family of a data set."""
    for prior, suffix in (("affine", ""), ("camera", "-camera-prior")):
        name = f"canonical-wavelet-{source.name}{suffix}"
        settings = {"simulated_sites": _SIMULATED_SITES} | _canonical_settings(source, prior)
        change = {"epochs": 0, "precision": "fp32", "model_settings": settings}
        yield Recipe(name, "canonical-wavelet", source.name, split, **_schedule(source) | change)


RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in _recipes()}


def recipe(name: str) -> Recipe:
    """Return the recipe of this name, or raise UnknownName with the nearest one."""
    try:
        return RECIPES[name]
    except KeyError:
        raise UnknownName("recipe", name, RECIPES, "`metavae-train list` shows all") from None
