"""Images as a canonical model sees them: the inferred site taken out, in numpy.

canonical(q) = T(x(B q + s)), with B and s the site's warp and shift and T its intensity table. The
model does the same inside `encode.onnx`; this view is for pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from metavae_zoo.embedding.site import Site
from metavae_zoo.families.warp import centred_positions, sampling_weights
from metavae_zoo.images import Images, as_images

Intensity = Literal["histogram", "stretch", "none"]

_NEAREST = 0.3  # lower bound of depth and brightness, before a division by them
_LEAST_RANGE = 0.05  # lower bound of the brightness range that is stretched to 0-1


def canonical_images(
    images: ArrayLike, site: Site, *, intensity: Intensity | None = None
) -> NDArray[np.float32]:
    """Return images in the reference's frame, brightness 0-1, [N, H, W].

    images: [N, H, W] or [N, 1, H, W], uint8 of 0-255 or float32 of 0-1. `intensity` says how the
    model brings brightness to the reference's: by the site's table (`histogram`; zeros beyond the
    frame), by a stretch of each image to 0-1 (`stretch`; the border continued beyond the frame), or
    not at all (`none`). None: by the table where the site has a table, else by a stretch. Raises
    BadImages.
    """
    array = np.asarray(images)
    side = max((1, *array.shape[-1:]))
    shown = as_images(array, (1, side, side), field="images")
    intensity = intensity or ("histogram" if len(site.knots) else "stretch")
    brightness = _brightness(shown, site, table=intensity == "histogram")
    x, y = _read_at(site, side)
    if intensity == "stretch":
        x, y = x.clip(0, side - 1), y.clip(0, side - 1)
    read = sampling_weights((side, side), x, y, "bilinear") @ brightness.T
    moved = np.asarray(read, np.float32).T / _light(site, side)
    moved = _stretched(moved) if intensity == "stretch" else moved.clip(0, 1)
    return np.ascontiguousarray(moved.reshape(-1, side, side), np.float32)


def intensity_of(prior: Mapping[str, Any]) -> Intensity | None:
    """How a model brings brightness to the reference's, by its card's prior; None: not said."""
    found = prior.get("intensity")
    return found if found in ("histogram", "stretch", "none") else None


def _brightness(images: Images, site: Site, *, table: bool) -> NDArray[np.float32]:
    """Brightness 0-1 of images [N, 1, H, W], after the site's table if wanted: [N, H·W]."""
    levels = np.arange(256, dtype=np.float32)
    by_level = np.interp(levels, site.levels, site.knots) if table else levels / 255
    return by_level.astype(np.float32)[images.reshape(len(images), -1)]


def _read_at(site: Site, side: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where each canonical pixel reads its image: x and y from the first pixel, [H·W] each."""
    positions = _positions(site, side)
    if site.perspective is not None:
        depth = 1 - site.perspective.astype(np.float64) @ positions / (side / 2)
        positions = positions / depth.clip(_NEAREST)
    x, y = positions + (side - 1) / 2
    return x, y


def _light(site: Site, side: int) -> NDArray[np.float32] | np.float32:
    """The share of the light that falls where each canonical pixel reads, [H·W]."""
    if site.light is None:
        return np.float32(1)
    along = site.light.astype(np.float64) @ _positions(site, side) / (side / 2)
    share = 1 - (np.hypot(*site.light) + along) / 2
    return share.clip(_NEAREST).astype(np.float32)


def _positions(site: Site, side: int) -> NDArray[np.float64]:
    """B q + s of each canonical pixel q, in pixels from the centre, [2, H·W]."""
    return site.warp.astype(np.float64) @ centred_positions(side) + site.shift[:, None]


def _stretched(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Images [N, H·W], each stretched to 0-1."""
    low, high = images.min(1, keepdims=True), images.max(1, keepdims=True)
    return (images - low) / (high - low).clip(_LEAST_RANGE)
