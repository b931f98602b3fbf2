"""Sizes of contexts, drawn log-uniformly: as many between 5 and 10 images as between 50 and 100."""

from __future__ import annotations

import math

import torch


def draw_sizes(context_sizes: tuple[int, int], count: int, generator: torch.Generator) -> list[int]:
    """So many context sizes, drawn log-uniformly from a range that includes its ends."""
    low, high = map(math.log, context_sizes)
    draws = torch.rand(count, generator=generator, device=generator.device)
    return [round(math.exp(low + draw * (high - low))) for draw in draws.tolist()]
