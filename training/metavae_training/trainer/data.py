"""Training images on the device, and batches whose contexts exclude their queries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from metavae_training.models.base import Batch
from metavae_training.models.sizes import draw_sizes
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


def check_data(recipe: Recipe, data_root: Path | None) -> None:
    """Raise BadRecipe where the distributions are too small for the settings, DataUnavailable."""
    recipe.check_images(len(family(recipe.family).labels("train", data_root)))


def load_corpus(recipe: Recipe, data_root: Path | None, device: torch.device) -> Corpus:
    """Read the training part of a recipe's training distributions onto the device.

    Raises BadRecipe where they are too few for its settings, DataUnavailable. The validation
    images are one slice of base images, held out of every distribution.
    """
    check_data(recipe, data_root)
    images = family(recipe.family).images_at(recipe.values, "train", data_root)
    count = len(images[0])
    order = np.random.default_rng(VALIDATION_SHUFFLE).permutation(count)
    held, kept = np.split(order, [recipe.validation_size])
    train, validation = (
        torch.stack(
            [torch.from_numpy(one[np.sort(rows)].reshape(len(rows), -1)) for one in images]
        ).to(device)
        for rows in (kept, held)
    )
    return Corpus(train, validation)


class Batches:
    """Batches of images [distribution, image, pixel]; a pass has each image as a query once.

    Every distribution has an order of its own; each set of queries has a context of its own, drawn
    from the images that are no queries of the batch. The last, smaller batch is left out.
    """

    def __init__(self, images: Tensor, *, batch_size: int, sets: int) -> None:
        distributions, count, _ = images.shape
        device = images.device
        self._images, self._sets = images, sets
        self._each = torch.arange(distributions, device=device)[:, None]
        self._rows = torch.arange(batch_size, device=device)
        self._order = torch.arange(count, device=device).repeat(distributions, 1)
        self.starts = range(0, count - batch_size + 1, batch_size)

    def shuffle(self, generator: torch.Generator) -> None:
        """Begin a pass: put the images in new orders."""
        _, count = self._order.shape
        for order in self._order:
            order.copy_(torch.randperm(count, generator=generator, device=order.device))

    def at(self, start: int | Tensor, size: int, generator: torch.Generator) -> Batch:
        """The batch of the pass that begins at one of `starts`, with contexts of `size` images.

        A `start` that is a tensor [] on the images' device is not read from it.
        """
        distributions, count = self._order.shape
        batch_size = len(self._rows)
        # Any position of the order except the batch's own: skip over it.
        positions = torch.randint(
            count - batch_size,
            (distributions, self._sets * size),
            generator=generator,
            device=self._order.device,
        )
        positions += batch_size * (positions >= start)
        queries = self._order.index_select(1, start + self._rows)
        context = self._order.gather(1, positions)
        return Batch(self._pixels(queries), self._pixels(context))

    def _pixels(self, rows: Tensor) -> Tensor:
        return self._images[self._each, rows].unflatten(1, (self._sets, -1)).float().div_(255)


def batches(
    images: Tensor,
    *,
    batch_size: int,
    sets: int,
    context_sizes: tuple[int, int],
    generator: torch.Generator,
) -> Iterator[Batch]:
    """One pass over images [distribution, image, pixel], see `Batches`."""
    source = Batches(images, batch_size=batch_size, sets=sets)
    source.shuffle(generator)
    sizes = draw_sizes(context_sizes, len(source.starts), generator)
    for start, size in zip(source.starts, sizes, strict=True):
        yield source.at(start, size, generator)
