"""Small random distortions of images, which a denoising encoder learns to look through.

They stay within what separates the values of a family, so that no distortion makes of a training
distribution a held-out one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

SHIFT = 1.5  # pixels, each way
ROTATION = math.radians(15)
RESCALING = 0.12  # of each side, unless a model says less
SHEAR = 0.15


def distorted(
    x: Tensor,
    side: int,
    generator: torch.Generator,
    rescaling: float = RESCALING,
    strength: float = 1.0,
) -> Tensor:
    """Each image moved, turned, scaled and sheared a little: [..., pixel] -> the same.

    `strength` is the share of the full distortion.
    """
    images = x.reshape(-1, 1, side, side).float()
    count, device = len(images), x.device
    draw = strength * (2 * torch.rand(6, count, generator=generator, device=device) - 1)
    angle, width, height = ROTATION * draw[0], 1 + rescaling * draw[1], 1 + rescaling * draw[2]
    cosine, sine, shear = angle.cos(), angle.sin(), SHEAR * draw[3]
    shift = SHIFT * 2 / side * draw[4:]  # affine_grid's image spans -1 to 1
    rows = [
        [cosine * width, cosine * shear - sine * height, shift[0]],
        [sine * width, sine * shear + cosine * height, shift[1]],
    ]
    matrices = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=1)
    with torch.autocast(device.type, enabled=False):
        grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
        moved = F.grid_sample(images, grid, align_corners=False)
    return moved.reshape(x.shape)
