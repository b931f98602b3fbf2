"""The intensity table: which brightness of the reference a grey level of the site stands for.

Histogram specification in one pass. The histogram that is pooled over the context is of the site's
own frame. A site that shows digits larger has more ink, so the reference's histogram is corrected:
its share of ink times |det B|, the warp's change of area, and the rest is paper.
"""

from __future__ import annotations

import torch
from torch import Tensor

LEVELS = 256
KNOTS = 16  # the table is linear between them
STEP = (LEVELS - 1) // (KNOTS - 1)
_MOST_INK = 0.9  # a share of the frame: paper is left in any case
_THIN = 1e-6  # share of pixels below which a level counts as empty


def histogram(x: Tensor) -> Tensor:
    """Share of the pixels at each grey level: images [n, pixel] of 0-1 -> [n, 256]."""
    levels = (x * (LEVELS - 1)).round().to(torch.int64)
    share = torch.full_like(x, 1 / x.shape[1])
    return torch.zeros(x.shape[0], LEVELS, dtype=x.dtype, device=x.device).scatter_add(
        1, levels, share
    )


def table_at_knots(site: Tensor, reference: Tensor, area: Tensor) -> Tensor:
    """The table's values at its knots, brightness 0-1, monotone: [n, 16].

    site: pooled histograms [n, 256]; reference: the reference's histogram [256]; area: |det B| of
    the inferred warps [n].
    """
    paper = reference[0]
    ink = reference[1:] / (1 - paper).clamp(min=_THIN)
    covered = ((1 - paper) * area).clamp(max=_MOST_INK)[:, None]
    # Mid-ranks: how much of the image is darker, half of the level itself included.
    wanted = torch.cat(
        [(1 - covered) / 2, (1 - covered) + covered * (ink.cumsum(0) - ink / 2)], dim=1
    )
    found = (site.cumsum(1) - site / 2)[:, ::STEP]
    # A monotone piecewise linear inverse: each ramp is the way from one level to the next.
    ranks, steps = wanted[:, None, :-1], wanted.diff(dim=1)[:, None].clamp(min=_THIN)
    ramps = ((found[:, :, None] - ranks) / steps).clamp(0, 1)
    return ramps.sum(-1) / (LEVELS - 1)


def full_table(knots: Tensor) -> Tensor:
    """The table at all grey levels: knots [n, 16] -> [n, 256]."""
    level = torch.arange(LEVELS, dtype=knots.dtype, device=knots.device) / STEP
    positions = torch.arange(KNOTS, dtype=knots.dtype, device=knots.device)
    weights = (1 - (level[None] - positions[:, None]).abs()).clamp(min=0)
    return knots @ weights
