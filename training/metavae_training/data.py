"""Training images on the device, and batches whose contexts exclude their queries."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from metavae_training.models.base import Batch
from metavae_training.recipes import Recipe
from metavae_zoo.families import family

VALIDATION_SHUFFLE = 20200207  # which images validate: the same for every seed and model


@dataclass(frozen=True)
class Corpus:
    """All images of the training distributions, uint8 [distribution, image, pixel]."""

    train: Tensor
    validation: Tensor

    @property
    def distributions(self) -> int:
        """Number of training distributions."""
        return self.train.shape[0]

    @property
    def pixels(self) -> int:
        """Pixels of an image."""
        return self.train.shape[2]


def load_corpus(recipe: Recipe, data_root: Path | None, device: torch.device) -> Corpus:
    """Read the training part of a recipe's training distributions onto the device.

    Raises BadRecipe where they are too few for its settings, DataUnavailable. The validation
    images are one slice of base images, held out of every distribution.
    """
    source = family(recipe.family)
    images = source.images_at(recipe.values, "train", data_root)
    count = len(images[0])
    recipe.check_data(count)
    order = np.random.default_rng(VALIDATION_SHUFFLE).permutation(count)
    held, kept = np.split(order, [recipe.validation_size])
    train, validation = (
        torch.stack(
            [torch.from_numpy(one[np.sort(rows)].reshape(len(rows), -1)) for one in images]
        ).to(device)
        for rows in (kept, held)
    )
    return Corpus(train, validation)


def batches(
    images: Tensor,
    *,
    batch_size: int,
    sets: int,
    context_sizes: tuple[int, int],
    generator: torch.Generator,
) -> Iterator[Batch]:
    """One pass over images [distribution, image, pixel], each a query once per distribution.

    Every distribution has its own order; each set of queries has its own context, drawn from the
    images that are no queries of this step. The last, smaller batch is left out.
    """
    distributions, count, _ = images.shape
    device = images.device
    each = torch.arange(distributions, device=device)[:, None]
    order = torch.stack(
        [torch.randperm(count, generator=generator, device=device) for _ in range(distributions)]
    )
    low, high = context_sizes
    for start in range(0, count - batch_size + 1, batch_size):
        draw = torch.rand((), generator=generator, device=device).item()
        size = round(math.exp(math.log(low) + draw * (math.log(high) - math.log(low))))
        queries = order[:, start : start + batch_size]
        # Any position of the order except the batch's own: skip over it.
        positions = torch.randint(
            count - batch_size, (distributions, sets * size), generator=generator, device=device
        )
        positions += batch_size * (positions >= start)
        context = order.gather(1, positions)
        yield Batch(
            _pixels(images[each, queries]).unflatten(1, (sets, -1)),
            _pixels(images[each, context]).unflatten(1, (sets, -1)),
        )


def _pixels(images: Tensor) -> Tensor:
    return images.float().div_(255)
