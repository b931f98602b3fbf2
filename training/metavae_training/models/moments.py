"""Statistics of more features than memory should hold at once."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

CHUNK = 1000  # images whose features are held at once


def moments(chunks: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean [feature] and covariance [feature, feature] of chunks [image, feature]; float64.

    Products are taken in the chunks' own precision, of differences from the first chunk's mean,
    and added in float64.
    """
    count, total, products = 0, torch.zeros(()), torch.zeros(())
    origin: Tensor | None = None
    for chunk in chunks:
        origin = chunk.mean(0) if origin is None else origin
        moved = chunk - origin
        count += len(moved)
        total = total + moved.double().sum(0)
        products = products + (moved.T @ moved).double()
    if origin is None:
        raise ValueError("no chunk was given")
    mean = total / count
    return origin + mean, products / count - torch.outer(mean, mean)
