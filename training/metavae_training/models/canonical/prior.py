"""What sites may look like: the priors that sites are simulated from.

A prior knows no family. It is wide, it is a setting of the recipe, and it stands on the card.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_CANDIDATES = 4  # draws per site that is wanted: most of them are within the bounds


@dataclass(frozen=True)
class Prior:
    """Ranges of a site's parameters, uniform unless said otherwise.

    Warp: log of the geometric mean of its singular values, half the log of their ratio (small in a
    share `round_share` of the sites), bounds of each log singular value, two rotations of any
    angle, mirrored in half of the sites. `shift` is in pixels, in a share of the sites. Photometry:
    log gamma, contrast, background (brightness 0-1), standard deviation of the noise in half of
    the sites. Camera: light (brightness lost across the frame), blur (pixels), perspective (1 /
    half the side); 0 where the prior has none of it.
    """

    name: str
    log_size: tuple[float, float] = (-0.75, 0.85)
    half_log_ratio: float = 0.85
    round_share: float = 0.4
    round_half_log_ratio: float = 0.06
    log_singular: tuple[float, float] = (-0.85, 1.35)
    shift: float = 2.0
    shift_share: float = 0.6
    nearest_share: float = 0.5
    log_gamma: tuple[float, float] = (-1.0, 0.9)
    contrast: tuple[float, float] = (0.3, 1.0)
    background: tuple[float, float] = (0.0, 0.5)
    noise: float = 0.04
    noise_share: float = 0.5
    plain_share: float = 0.2
    light: float = 0.0
    light_share: float = 0.7
    blur: float = 0.0
    blur_share: float = 0.6
    perspective: float = 0.0
    perspective_share: float = 0.6

    @property
    def has_camera(self) -> bool:
        """Whether sites differ in light and perspective."""
        return self.light > 0

    def to_dict(self) -> dict[str, Any]:
        """The prior as a card holds it."""
        fields = dataclasses.asdict(self)
        return {key: list(one) if isinstance(one, tuple) else one for key, one in fields.items()}


PRIORS = {
    "affine": Prior("affine"),
    "camera": Prior("camera", light=0.55, blur=1.3, perspective=0.33),
}


@dataclass(frozen=True)
class Sites:
    """Parameters of simulated sites, float32; the site shows reference image I as I(A (p - t)).

    warp A: [site, 2, 2]; shift t, pixels: [site, 2]; nearest: bool [site], the interpolation;
    photometry: [site, 4], gamma, contrast, background, noise; light and perspective: [site, 2];
    blur: [site].
    """

    warp: Tensor
    shift: Tensor
    nearest: Tensor
    photometry: Tensor
    light: Tensor
    blur: Tensor
    perspective: Tensor

    def __len__(self) -> int:
        return len(self.warp)

    @property
    def camera(self) -> Tensor:
        """Perspective and light, [site, 4]."""
        return torch.cat([self.perspective, self.light], dim=1)


def draw_sites(prior: Prior, count: int, generator: torch.Generator) -> Sites:
    """`count` sites of the prior."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator)

    def among(share: float) -> Tensor:
        return (torch.rand(count, generator=generator) < share).float()

    photometry = torch.stack(
        [
            uniform(*prior.log_gamma).exp(),
            uniform(*prior.contrast),
            uniform(*prior.background),
            uniform(0, prior.noise) * among(prior.noise_share),
        ],
        dim=1,
    )
    # Some sites differ from the reference in geometry only.
    plain = among(prior.plain_share)[:, None]
    photometry = photometry * (1 - plain) + torch.tensor([1.0, 1.0, 0.0, 0.0]) * plain
    angle, strength = uniform(0, 2 * math.pi), uniform(0, prior.light) * among(prior.light_share)
    towards = torch.stack([angle.cos(), angle.sin()], dim=1)
    return Sites(
        warp=draw_warps(prior, count, generator),
        shift=uniform(-prior.shift, prior.shift, 2) * among(prior.shift_share)[:, None],
        nearest=among(prior.nearest_share) > 0,
        photometry=photometry,
        light=strength[:, None] * towards,
        blur=uniform(0, prior.blur) * among(prior.blur_share),
        perspective=uniform(-prior.perspective, prior.perspective, 2)
        * among(prior.perspective_share)[:, None],
    )


def draw_warps(prior: Prior, count: int, generator: torch.Generator) -> Tensor:
    """Warps [site, 2, 2] of the prior; draws beyond its bounds of singular values are left out."""
    found = torch.empty(0, 2, 2)
    while len(found) < count:
        draw = torch.rand(6, _CANDIDATES * count, generator=generator)
        size = prior.log_size[0] + (prior.log_size[1] - prior.log_size[0]) * draw[0]
        is_round = draw[1] < prior.round_share
        widest = torch.where(is_round, prior.round_half_log_ratio, prior.half_log_ratio)
        half = widest * draw[2]
        low, high = prior.log_singular
        inside = (size - half >= low) & (size + half <= high)
        before, after = rotations(2 * math.pi * draw[3]), rotations(2 * math.pi * draw[4])
        mirror = torch.where(draw[5] < 0.5, -1.0, 1.0)
        singular = torch.stack([(size - half).exp(), (size + half).exp() * mirror], dim=1)
        warps = before @ torch.diag_embed(singular) @ after
        found = torch.cat([found, warps[inside]])
    return found[:count]


def rotations(angles: Tensor) -> Tensor:
    """Rotation matrices [n, 2, 2] by angles [n], radians."""
    cosine, sine = angles.cos(), angles.sin()
    return torch.stack([cosine, -sine, sine, cosine], dim=1).view(-1, 2, 2)
