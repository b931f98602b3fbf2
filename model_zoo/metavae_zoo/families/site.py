"""Parameters of a drawn site, and images as the site shows them.

Images are rendered in this order: warp and shift in one bilinear resampling (0 outside), gamma,
background + (1 - background) * contrast * ink, perspective (bilinear, replicated border), light,
Gaussian blur, noise, clip to 0-1, round to 8 bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from metavae_zoo.families.warp import (
    Affine,
    centred_positions,
    resampling_weights,
    sampling_weights,
)

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Pair = tuple[float, float]

RENDER_VERSION = 1  # raised when the meaning of a rendered pixel changes

_CHUNK = 4096  # images at a time: bounds the float copies


@dataclass(frozen=True)
class Site:
    """Parameters of one site; the defaults show an image as it is.

    warp, shift: the site's image at p (pixels from the centre, x to the right, y down) shows the
    reference at warp @ (p - shift). perspective h, light l: with p in units of half the side from
    the centre, the image at p is read at p / (1 + h·p), and multiplied by 1 - (|l| / 2 + l·p / 2),
    so that l points to the dark side. blur: standard deviation in pixels. noise: standard
    deviation. outside: the respect in which the site lies outside the prior, "" for none.
    """

    warp: tuple[Pair, Pair] = ((1.0, 0.0), (0.0, 1.0))
    shift: Pair = (0.0, 0.0)
    gamma: float = 1.0
    contrast: float = 1.0
    background: float = 0.0
    noise: float = 0.0
    perspective: Pair = (0.0, 0.0)
    light: Pair = (0.0, 0.0)
    blur: float = 0.0
    outside: str = ""

    @property
    def matrix(self) -> Affine:
        """The output-to-input matrix [2, 3] of warp and shift, see `warp`."""
        warp, shift = np.array(self.warp), np.array(self.shift)
        return np.column_stack([warp, 0 - warp @ shift])  # 0 - ...: no negative zero

    @property
    def change(self) -> float:
        """Sum of the parameters' distances from the identity's; 0 only for the identity."""
        distances = (
            float(np.linalg.norm(self.matrix - np.eye(2, 3))),
            math.log(self.gamma),
            1 - self.contrast,
            self.background,
            self.noise,
            math.hypot(*self.perspective),
            math.hypot(*self.light),
            self.blur,
        )
        return sum(map(abs, distances))


def render(
    images: NDArray[np.uint8], site: Site, noise_seed: Sequence[int], side: int
) -> NDArray[np.uint8]:
    """Images [N, H, W] as a site shows them, [N, side, side].

    The noise of an image depends on `noise_seed` and its place among the images alone.
    """
    count, height, width = images.shape
    weights = resampling_weights((height, width), site.matrix, "bilinear", side)
    rng = np.random.default_rng(noise_seed)
    shown = np.empty((count, side, side), np.uint8)
    for start in range(0, count, _CHUNK):
        chunk = images[start : start + _CHUNK].reshape(-1, height * width)
        ink = _resampled(weights, chunk.astype(np.float32) / np.float32(255))
        light = _photographed(_printed(ink, site), site)
        if site.noise:
            light += np.float32(site.noise) * rng.standard_normal(light.shape, np.float32)
        shown[start : start + _CHUNK] = np.rint(light.clip(0, 1) * 255).reshape(-1, side, side)
    return shown


def _printed(ink: NDArray[np.float32], site: Site) -> NDArray[np.float32]:
    """Brightness [n, pixel] of ink 0-1: gamma, contrast and background."""
    if site.gamma != 1:
        ink = ink.clip(0, 1) ** np.float32(site.gamma)
    span = (1 - site.background) * site.contrast
    return np.float32(site.background) + np.float32(span) * ink


def _photographed(brightness: NDArray[np.float32], site: Site) -> NDArray[np.float32]:
    """Brightness [n, side²] through perspective, light and blur."""
    side = math.isqrt(brightness.shape[1])
    positions = centred_positions(side) / (side / 2)
    if any(site.perspective):
        read = positions / (1 + np.array(site.perspective) @ positions) * (side / 2)
        # A replicated border: positions outside the frame are read at its edge.
        x, y = (read + (side - 1) / 2).clip(0, side - 1)
        brightness = _resampled(sampling_weights((side, side), x, y, "bilinear"), brightness)
    if any(site.light):
        falloff = math.hypot(*site.light) / 2 + np.array(site.light) @ positions / 2
        brightness = brightness * (1 - falloff).astype(np.float32)
    if site.blur:
        from scipy.ndimage import gaussian_filter1d

        square = brightness.reshape(-1, side, side)
        for axis in (1, 2):
            square = np.asarray(
                gaussian_filter1d(square, site.blur, axis, mode="nearest"), np.float32
            )
        brightness = square.reshape(-1, side * side)
    return brightness


def _resampled(weights: csr_array, images: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.ascontiguousarray((weights @ images.T).T)
