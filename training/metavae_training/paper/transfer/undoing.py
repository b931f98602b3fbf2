"""Images with their site taken out: by the true parameters (the oracle), or by inferred ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metavae_zoo.bundles.card import ModelCard
from metavae_zoo.embedding.site import Site
from metavae_zoo.families import Family
from metavae_zoo.families.warp import Affine, centred_positions, sampling_weights
from metavae_zoo.images import Images

Brightness = NDArray[np.float32]  # 0-1, [image, pixel]

_LEAST_LIGHT = 0.1  # share of the brightness that is divided by
_LEAST_DEPTH = 0.1


@dataclass(frozen=True)
class Undoing:
    """How a site is taken out of its images.

    Ink is made of brightness in the site's own frame, `light` [pixel] divided out first; then the
    canonical image reads it at `positions` [2, pixel], in pixels from the centre.
    """

    positions: NDArray[np.float64]
    ink: Callable[[Brightness], Brightness]
    light: Brightness | None = None

    def __call__(self, images: Images) -> Images:
        """Canonical images, uint8 [image, 1, row, column]."""
        side = images.shape[-1]
        x, y = self.positions + (side - 1) / 2
        weights = sampling_weights((side, side), x, y, "bilinear")
        shown = images.reshape(len(images), -1).astype(np.float32) / np.float32(255)
        if self.light is not None:
            shown = shown / self.light
        canonical = (weights @ self.ink(shown.clip(0, 1)).T).T
        return np.rint(canonical.clip(0, 1) * 255).astype(np.uint8).reshape(images.shape)


def true_site(source: Family, value: float) -> Undoing:
    """What undoes the site at a value of a family, by the family's own parameters."""
    side = source.image_shape[-1]
    half = side / 2
    matrix = source.axis.matrix(value)
    site = source.axis.site(value)
    warp, origin = matrix[:, :2], matrix[:, 2:]
    # The site shows, at p, the reference at warp p + origin.
    read = np.linalg.solve(warp, centred_positions(side) - origin)
    tilt = np.array(site.get("perspective", (0.0, 0.0)))
    # A camera reads p at p / (1 + tilt p): solved for p.
    read = read / (1 - tilt @ (read / half)).clip(_LEAST_DEPTH)
    towards = np.array(site.get("light", (0.0, 0.0)))
    light = 1 - (math.hypot(*towards) / 2 + towards @ (centred_positions(side) / half) / 2)
    background, gamma = site.get("background", 0.0), site.get("gamma", 1.0)
    span = (1 - background) * site.get("contrast", 1.0)

    def ink(shown: Brightness) -> Brightness:
        paper = np.float32(background)
        return ((shown - paper) / np.float32(span)).clip(0, 1) ** np.float32(1 / gamma)

    return Undoing(read, ink, light.astype(np.float32).clip(_LEAST_LIGHT))


def inferred_site(card: ModelCard, numbers: NDArray[np.float32], side: int) -> Undoing:
    """What undoes the site that a model inferred; of models whose intensity is a table."""
    site = Site.of(card, numbers)
    read = site.warp.astype(np.float64) @ centred_positions(side) + site.shift[:, None]
    if site.perspective is not None:
        tilt = site.perspective.astype(np.float64)
        read = read / (1 - tilt @ (read / (side / 2))).clip(_LEAST_DEPTH)

    def ink(shown: Brightness) -> Brightness:
        if not len(site.levels):
            return shown
        return np.interp(shown * 255, site.levels, site.knots).astype(np.float32)

    return Undoing(read, ink)


def warp_error(matrix: Affine, card: ModelCard, numbers: NDArray[np.float32]) -> float:
    """The error |A B - I| (Frobenius) of the inferred warp B; A: the site's true warp."""
    inferred = Site.of(card, numbers).warp.astype(np.float64)
    return float(np.linalg.norm(matrix[:, :2] @ inferred - np.eye(2)))
