"""Simulated sites: what a site of the prior makes of images of the reference."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from metavae_training.models.canonical.prior import Sites

_BLUR_RADIUS = 4  # pixels: three standard deviations of the widest blur


def frame(side: int, device: torch.device | None = None) -> Tensor:
    """Positions (x, y) of pixels [side, side, 2], in units of half the side from the centre."""
    line = (torch.arange(side, dtype=torch.float32, device=device) - (side - 1) / 2) * (2 / side)
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x, y], dim=-1)


def simulate(images: Tensor, sites: Sites, generator: torch.Generator) -> Tensor:
    """Images [site, image, side, side] of 0-1 as their sites show them, rounded to 8 bits."""
    count, each, side, _ = images.shape
    half = side / 2
    # A site shows I(A (p - t)): the grid of positions that are read.
    origin = -torch.einsum("sij,sj->si", sites.warp, sites.shift) / half
    grid = torch.einsum("sij,hwj->shwi", sites.warp, frame(side)) + origin[:, None, None]
    # The images of a site are channels: they share its grid.
    smooth = F.grid_sample(images, grid, align_corners=False)
    sharp = F.grid_sample(images, grid, mode="nearest", align_corners=False)
    ink = torch.where(sites.nearest[:, None, None, None], sharp, smooth).clamp(0, 1)

    gamma, contrast, background, noise = sites.photometry.T[..., None, None, None]
    shown = background + (1 - background) * contrast * ink**gamma
    if sites.light.any() or sites.blur.any() or sites.perspective.any():
        shown = shown * brightness(frame(side), sites.light)[:, None]
        shown = blurred(shown, sites.blur)
        shown = F.grid_sample(
            shown,
            seen_through(frame(side), sites.perspective),
            align_corners=False,
            padding_mode="border",
        )
    shown = shown + noise * torch.randn(count, each, side, side, generator=generator)
    return (shown.clamp(0, 1) * 255).round() / 255


def brightness(positions: Tensor, light: Tensor) -> Tensor:
    """The share of the light that falls on positions: [..., 2] and [site, 2] -> [site, ...].

    1 at the brightest end of the frame's inscribed circle, 1 - |light| at the other.
    """
    along = torch.einsum("...j,sj->s...", positions, light)
    return 1 - 0.5 * (light.norm(dim=1).view(-1, *[1] * (along.dim() - 1)) + along)


def seen_through(positions: Tensor, perspective: Tensor) -> Tensor:
    """Where a camera that is tilted reads positions [..., 2]: p / (1 + h p), [site, ..., 2]."""
    depth = 1 + torch.einsum("...j,sj->s...", positions, perspective)
    return positions / depth[..., None]


def blurred(images: Tensor, deviation: Tensor) -> Tensor:
    """Images [site, image, side, side], each site's under a Gaussian blur of its own, in pixels."""
    offsets = torch.arange(-_BLUR_RADIUS, _BLUR_RADIUS + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (offsets / deviation.clamp(min=0.1)[:, None]) ** 2)
    kernel = kernel / kernel.sum(1, keepdim=True)
    sites = len(images)
    rows = images.transpose(0, 1)  # sites are channels, each with its kernel
    pad = (_BLUR_RADIUS,) * 4
    rows = F.pad(rows, pad, mode="replicate")
    rows = F.conv2d(rows, kernel[:, None, None, :], groups=sites)
    rows = F.conv2d(rows, kernel[:, None, :, None], groups=sites)
    return rows.transpose(0, 1)
