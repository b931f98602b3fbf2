"""What tables and figures compare: names for people, and looks that survive print.

Colours are Okabe and Ito's and Tol's, which colour-blind readers tell apart; markers and dashes
tell them apart without colour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from metavae_training.models import MODELS
from metavae_training.paper.measure.ceiling import CEILING
from metavae_training.paper.measure.probed import PROJECTION, UNTRAINED, untrained
from metavae_training.paper.measure.results import Item, Kind

Dashes = tuple[float, ...]  # lengths of strokes and gaps; () is a solid line


@dataclass(frozen=True)
class Method:
    """One row of a table, one line of a figure; `model` as items name it."""

    kind: Kind
    model: str
    label: str
    colour: str
    marker: str = ""
    dashes: Dashes = ()

    def of(self, items: Sequence[Item]) -> list[Item]:
        """The items of this method."""
        return [item for item in items if item.model == self.model]


_MODELS = (
    Method("model", "metavae", "MetaVAE", "#0072B2", "o"),
    Method("model", "vhe-vampprior", "VHE+VP", "#D55E00", "s", (6, 2)),
    Method("model", "vhe", "VHE", "#E69F00", "D", (6, 2, 1.5, 2)),
    Method("model", "neural-statistician", "NS", "#CC79A7", "^", (3, 1.5)),
    Method("model", "vae", "VAE (pooled)", "#009E73", "v", (1.5, 1.5)),
    Method("model", "vae-single", "VAE (one value)", "#56B4E9", "<", (8, 2, 2, 2)),
    Method("model", "wavelet-pca", "wavelet PCA", "#882255", "P", (4, 2)),
    Method("model", "wavelet-metavae", "wavelet MetaVAE", "#000000", "*"),
)
FLOORS = (
    Method("floor", "raw_pixels", "raw pixels", "#555555", "x", (5, 2)),
    Method("floor", "pca", "PCA-40", "#555555", "+", (1.5, 1.5)),
    Method("floor", PROJECTION, "random projection", "#999999", "1", (5, 2)),
    Method("floor", UNTRAINED, "untrained encoder", "#999999", "2", (1.5, 1.5)),
)
CEILING_METHOD = Method("ceiling", CEILING, "supervised CNN", "#555555")

_NEW = Method("model", "", "", "#666633", "X", (2, 1))


def models(names: Sequence[str]) -> list[Method]:
    """Methods of these models, the known ones first and in their order."""
    known = [method for method in _MODELS if method.model in names]
    new = [name for name in names if name not in {method.model for method in known}]
    return known + [
        Method("model", name, name, _NEW.colour, _NEW.marker, _NEW.dashes) for name in new
    ]


def starts(names: Sequence[str]) -> list[Method]:
    """The starts of those of the models that start fitted."""
    return [
        Method("floor", untrained(method.model), f"{method.label}, untrained", "#999999", "3")
        for method in models(names)
        if MODELS[method.model].starts_fitted
    ]


def all_methods(names: Sequence[str]) -> list[Method]:
    """Models, floors and the ceiling."""
    return [*models(names), *FLOORS, *starts(names), CEILING_METHOD]
