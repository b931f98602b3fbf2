"""The rows of the exam: what is compared, its recipe, and how it looks in print."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from metavae_training.paper.measure.results import Kind
from metavae_training.paper.measure.study import Study
from metavae_training.recipes import RECIPES, Recipe
from metavae_zoo.bundles.index import find_bundle
from metavae_zoo.errors import BadBundle, UnknownName

Takes = Literal["site", "context", "nothing"]

# A canonicaliser of a quick study: it learns little, in seconds.
_QUICK = {"sets": 1000, "steps": 300, "calibration_sets": 500}
_QUICK_SITES = 10


@dataclass(frozen=True)
class Row:
    """One row of the tables, by the name that items have as `model`.

    `recipe` is the pattern of its recipe's name, empty for a row without a trained model; `takes`
    what the embedder takes: a context whose site it infers, a context, or nothing.
    """

    name: str
    label: str
    kind: Kind = "model"
    recipe: str = ""
    takes: Takes = "nothing"
    colour: str = "#555555"
    marker: str = ""
    dashes: tuple[float, ...] = ()
    seeds: bool = False

    def recipe_of(self, study: Study, family: str) -> Recipe | None:
        """The recipe of the row's model for a family; None where there is none.

        A quick study trains canonicalisers alone: other models are those that ship.
        """
        name = self.recipe.format(
            dataset=family.partition("-")[0], family=family, split=study.splits[0]
        )
        found = RECIPES.get(name)
        if found is not None and study.quick and self.takes == "site":
            few = {"epochs": 1} if found.epochs else {}
            if "simulated_sites" in found.model_settings:
                few["simulated_sites"] = _QUICK_SITES
            return found.changed(_QUICK | few)
        return None if study.quick and _shipped_seed(name) is None else found

    def only_seed(self, study: Study, family: str) -> int:
        """The seed of a row that has one: of the model that ships, else 0."""
        recipe = self.recipe_of(study, family)
        return (_shipped_seed(recipe.name) if recipe else None) or 0


def _shipped_seed(name: str) -> int | None:
    """The seed of the zoo's model of this name; None where there is none."""
    try:
        return find_bundle(name).card.seed
    except (UnknownName, BadBundle):
        return None


ALL = Row(
    "canonical-wavelet-all",
    "canonical wavelet, one for all",
    recipe="canonical-wavelet-{dataset}",
    takes="site",
    colour="#0072B2",
    marker="o",
    seeds=True,
)
CAMERA = Row(
    "canonical-wavelet-all-camera",
    "canonical wavelet, one for all, camera prior",
    recipe="canonical-wavelet-{dataset}-camera-prior",
    takes="site",
    colour="#CC79A7",
    marker="s",
    dashes=(6, 2),
    seeds=True,
)
OWN = Row(
    "canonical-wavelet",
    "canonical wavelet, of the family",
    recipe="canonical-wavelet-{family}-{split}",
    takes="site",
)
METAVAE = Row(
    "canonical-metavae",
    "canonical MetaVAE, of the family",
    recipe="canonical-metavae-{family}-{split}",
    takes="site",
)
CANONICAL = (ALL, CAMERA, OWN, METAVAE)

_EARLIER: tuple[tuple[str, str, Takes], ...] = (
    ("metavae", "MetaVAE", "context"),
    ("vhe-vampprior", "VHE+VP", "context"),
    ("vhe", "VHE", "context"),
    ("neural-statistician", "NS", "context"),
    ("vae", "VAE (pooled)", "nothing"),
    ("wavelet-pca", "wavelet PCA", "nothing"),
    ("wavelet-metavae", "wavelet MetaVAE", "context"),
)
EARLIER = tuple(
    Row(model, label, recipe=f"{model}-{{family}}-{{split}}", takes=takes)
    for model, label, takes in _EARLIER
)

PIXELS = (
    Row("raw_pixels", "raw pixels", "floor"),
    Row("pca", "PCA-40", "floor"),
)
PLAIN = Row("wavelet", "wavelet code, no context", "floor", colour="#000000", dashes=(1.5, 1.5))
ADJUSTED_ROWS = (
    Row(
        "standardised", "wavelet code, standardised by site", "floor", colour="#E69F00", marker="^"
    ),
    Row("whitened", "wavelet code, whitened by site (CORAL)", "floor"),
    Row(
        "combat",
        "wavelet code, ComBat by site",
        "floor",
        colour="#56B4E9",
        marker="v",
        dashes=(4, 1.5, 1, 1.5),
    ),
)
ORACLE = Row("oracle", "oracle: the true site undone", "ceiling", colour="#009E73")
CNN = Row("cnn", "supervised CNN", "ceiling", colour="#888888", dashes=(5, 2))
CNN_AFFINE = Row("cnn-affine", "CNN, generic affine augmentation", "ceiling")
CNN_FAMILY = Row(
    "cnn-family",
    "CNN, augmented by the very family",
    "ceiling",
    colour="#D55E00",
    dashes=(6, 2, 1.5, 2),
)
CNN_CANONICAL = Row("cnn-canonical", "CNN on canonical images", "ceiling", takes="site")
NETWORKS = (CNN, CNN_AFFINE, CNN_FAMILY, CNN_CANONICAL)

ROWS = (*CANONICAL, ORACLE, *NETWORKS, PLAIN, *ADJUSTED_ROWS, *PIXELS, *EARLIER)


def chosen(study: Study) -> tuple[Row, ...]:
    """The rows that the study compares: those of its models, and what is named itself."""
    return tuple(
        row
        for row in ROWS
        if row.name in study.models or (row in (ALL, CAMERA) and OWN.name in study.models)
    )
