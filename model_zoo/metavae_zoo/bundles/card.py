"""The model card: the only place where the facts about a model stand."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from metavae_zoo.errors import BadBundle
from metavae_zoo.parsing import parse_json

SCHEMA = 4  # the newest schema that is read; a card is written in the oldest that holds it
_SCHEMA_WITHOUT_SITES = 3
Weights = Literal["fp32", "fp16", "int8"]
Precision = Literal["fp32", "int8"]

RESTORE = (
    "Delete its folder and bring it back: `metavae-zoo pull NAME`; a model that came with metavae,"
    " by installing metavae again (in a clone: `git checkout` of its folder)"
)


# Models with a latent c for the whole set beside each image's own.
WITH_SET_LATENT = ("neural-statistician", "vhe", "vhe-vampprior")

# What a model may be called: it becomes the name of a folder, of an archive and of an address.
ModelName = Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=100)]


_NEW_FIELDS = ("site", "reference", "prior", "sites")  # of schema 4


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Accuracy = Annotated[float, Field(ge=0, le=1, strict=True)]  # a share of test images


class Interval(_Frozen):
    """A mean with the half-width of its 95% interval, over `n` repetitions."""

    mean: float
    half_width: float | None
    n: int


class ProbeRecord(_Frozen):
    """A linear probe as it was measured: protocol, accuracy per held-out value, floors.

    `accuracy` and the entries of `floors` are means over held-out values; `per_value` maps a
    held-out value to the accuracy there. The interval of `over` is named: seeds, or contexts.
    """

    protocol: str
    seed: int
    train_size: int
    test_size: int
    contexts: int
    context_size: int
    accuracy: Interval
    per_value: dict[str, Interval]
    floors: dict[str, float]
    paper: float | None = None


class TransferRecord(_Frozen):
    """One transfer result: a classifier fitted at the training sites, tested at held-out ones.

    `accuracy` is the mean over the held-out values of `family`, its interval is over context draws;
    `per_value` maps a held-out value to the accuracy there. `without_context` is the accuracy of
    the same model when every image is embedded with a context of the reference site, so as it
    comes. `floors` are the accuracies of the baselines, `over_seeds` the mean over training seeds.
    """

    family: str
    split: str
    seed: int
    train_size: int
    test_size: int
    contexts: int
    context_size: int
    accuracy: Interval
    per_value: dict[str, Interval]
    without_context: Interval | None = None
    floors: dict[str, float]
    over_seeds: Interval | None = None


class SeedRecord(_Frozen):
    """One training seed: its validation ELBO, which chooses the shipped seed, and its accuracy.

    `probe_accuracy` is None for a model whose split holds no value out.
    """

    seed: int
    validation_elbo: float
    probe_accuracy: float | None = None


class Results(_Frozen):
    """What was measured of a model, by the commands that are named.

    `probe` and `accuracy_over_seeds` are None for a model whose split holds no value out.
    `int8` is the same probe of the model computed in 8 bits, where that was measured. `transfer`
    has a record for each family and context size.
    """

    probe: ProbeRecord | None = None
    seeds: list[SeedRecord]
    accuracy_over_seeds: Interval | None = None
    shipped_seed: int
    chosen_by: str
    commands: list[str]
    int8: ProbeRecord | None = None
    transfer: list[TransferRecord] = []


class SiteParameter(_Frozen):
    """One number of the output `site`: its name and its unit."""

    name: str
    unit: str


class ModelCard(_Frozen):
    """Everything that is known of a model; see DESIGN for who reads what.

    `image_shape` is (channels, height, width), `feature_dim` the width of a context summary (0
    for a model that takes no context), `latent_dim` the width of an embedding. `weights` is how
    the graphs store matrices. `validation_elbo`, in nats per image, is of training's own weights in
    fp32, before they are rounded to be stored; `validation_terms` are what it consists of
    (`log_likelihood`, `kl_z`, and `kl_c` per set), in nats: a KL of 0 is a collapse. `precision` is
    what the graphs compute matrix products in, `results` are of the model as it is stored, but for
    the validation ELBO that chose the seed. `files` maps the bundle's other files to their sha256.

    `site` lists the numbers of the output `site` in order, which `metavae_zoo.embedding.site`
    reads; it is empty for a model that infers no site. `reference` is the value of the site that
    training sites were simulated from, `prior` the settings of that simulation. `sites` maps the
    values of a family whose sites were drawn from a seed to what was drawn.
    """

    schema_version: int = SCHEMA
    name: ModelName
    model: str
    family: str
    split: str
    train_values: list[float]
    held_out_values: list[float]
    image_shape: tuple[int, int, int]
    feature_dim: int = Field(ge=0)
    latent_dim: int = Field(ge=1)
    parameters: dict[str, int]
    weights: Weights = "fp32"
    precision: Precision = "fp32"
    recipe: dict[str, Any]
    seed: int
    epochs_trained: int
    validation_elbo: float
    validation_terms: dict[str, float] = {}
    data_sha256: str
    licence: str
    description: str
    metavae_version: str
    files: dict[str, str]
    results: Results | None = None
    site: list[SiteParameter] = []
    reference: float | None = None
    prior: dict[str, Any] = {}
    sites: dict[str, dict[str, Any]] = {}

    @model_validator(mode="after")
    def _check_site(self) -> ModelCard:
        names = [parameter.name for parameter in self.site]
        if len(set(names)) < len(names):
            raise ValueError("two numbers of `site` have the same name")
        if names and not self.needs_context:
            raise ValueError("the model takes no context, and infers a site from it")
        return self

    @property
    def needs_context(self) -> bool:
        """Whether the model embeds given a context set."""
        return self.feature_dim > 0

    @property
    def terms(self) -> dict[str, float]:
        """`validation_terms` without the KL(c) of 0 that models without a c have there."""
        return {
            name: nats
            for name, nats in self.validation_terms.items()
            if name != "kl_c" or nats or self.model in WITH_SET_LATENT
        }

    @property
    def digest(self) -> str:
        """Hash of the model's graphs: two models with one digest give the same embeddings."""
        return _digest(tuple(self.files.items()))

    def to_json(self) -> str:
        """The card as `card.json` holds it, in the oldest schema that has all its fields."""
        if self._has_sites:
            card = self.model_copy(update={"schema_version": SCHEMA})
            return card.model_dump_json(indent=2) + "\n"
        card = self.model_copy(update={"schema_version": _SCHEMA_WITHOUT_SITES})
        without: dict[str, Any] = dict.fromkeys(_NEW_FIELDS, True)
        if self.results is not None:
            without["results"] = {"transfer"}
        return card.model_dump_json(indent=2, exclude=without) + "\n"

    @property
    def _has_sites(self) -> bool:
        """Whether a field has content that schema 3 does not know."""
        if any(getattr(self, name) not in ([], {}, None) for name in _NEW_FIELDS):
            return True
        results = self.results
        return results is not None and (
            bool(results.transfer)
            or None in (results.probe, results.accuracy_over_seeds)
            or any(seed.probe_accuracy is None for seed in results.seeds)
        )

    @classmethod
    def from_json(cls, text: str | bytes, *, source: str) -> ModelCard:
        """Read a card; `source` names it in errors.

        Raises BadBundle for text that is no card and for a card of a newer schema.
        """
        try:
            fields = parse_json(text)
            version = fields["schema_version"]
        except (ValueError, KeyError, TypeError) as error:
            reason = f"{error}" if isinstance(error, ValueError) else "no schema_version in it"
            raise BadBundle(f"{source} is not a model card ({reason})", hint=RESTORE) from error
        if not isinstance(version, int) or version > SCHEMA:
            raise BadBundle(
                f"{source} has schema version {version!r}, this metavae reads up to {SCHEMA}",
                hint="Upgrade metavae: `git pull` in its clone",
            )
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise BadBundle(
                f"{source} is not a model card: {where}: {first['msg']}",
                hint=RESTORE,
            ) from error


@lru_cache  # asked for with every summary
def _digest(files: tuple[tuple[str, str], ...]) -> str:
    graphs = {name: sha256 for name, sha256 in files if name.endswith(".onnx")}
    return hashlib.sha256(json.dumps(graphs, sort_keys=True).encode()).hexdigest()
