"""How far codes move when images are transformed, and how far apart they are to begin with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metavae_training.models import MODELS
from metavae_training.paper.measure.cells import TrainedCell, complete
from metavae_training.paper.measure.condition import NONE, RIGHT, Condition
from metavae_training.paper.measure.provenance import bundle_hash
from metavae_training.paper.measure.results import Item, Results
from metavae_training.paper.measure.trained import bundle_of
from metavae_zoo.embedding.embedder import Embedder, OnnxEmbedder
from metavae_zoo.embedding.summary import CONTEXT_SIZE
from metavae_zoo.families import Family, family

Codes = NDArray[np.float64]  # [image, code]


@dataclass(frozen=True)
class DistanceCell(TrainedCell):
    """How far one model's codes move along one family, for every value of it."""

    varied: str

    def __str__(self) -> str:
        return f"{self.job}, {self.part}"

    @property
    def part(self) -> str:
        """The family that is varied."""
        return f"{self.varied} varied"

    @property
    def given(self) -> Condition:
        """The contexts of the base images and of those of every value."""
        return RIGHT if MODELS[self.recipe.model].takes_context() else NONE

    def found(self, results: Results) -> list[Item] | None:
        """Distance and spread at every value but that of the base images."""
        items = results.select(
            kind="distance",
            model=self.recipe.model,
            family=self.recipe.family,
            split=self.recipe.split,
            seed=self.seed,
            varied=self.varied,
            **self.study.still_good(self.recipe.family, self.recipe),
        )
        return complete(self.given.of(items), transformed_values(family(self.varied)), self._draws)

    @property
    def _draws(self) -> int:
        return self.study.draws if self.given.drawn else 1

    def measure(self) -> list[Item]:
        """Embed the test images of every value, in process."""
        embedder = OnnxEmbedder(bundle_of(self.job, self.study.data_root))
        return [
            Item(
                kind="distance",
                model=self.recipe.model,
                family=self.recipe.family,
                split=self.recipe.split,
                seed=self.seed,
                varied=self.varied,
                value=value,
                context=self.given.context,
                context_size=self.given.size,
                draw=draw,
                distance=distance,
                spread=spread,
                bundle_sha256=bundle_hash(embedder.card.digest),
                **self.study.made_by(self.recipe.family, self.recipe),
            )
            for draw in range(self._draws)
            for value, distance, spread in distances(
                embedder,
                family(self.varied),
                draw=draw,
                images=self.study.test_size,
                data_root=self.study.data_root,
            )
        ]


def distances(
    embedder: Embedder,
    varied: Family,
    *,
    draw: int = 0,
    images: int | None = None,
    data_root: Path | None = None,
) -> Iterator[tuple[float, float, float]]:
    """Yield (value, distance, spread) for every value of a family but the identity's.

    The distance is the mean over the test images (the first `images` of them) of the L2 distance
    between an image's code at the value and its code untransformed; each of the two distributions
    has a context of its own. The spread is that of the codes of the untransformed images.
    """

    def codes(value: float) -> Codes:
        everything = varied.images(value, "test", data_root)
        summary = None
        if embedder.card.needs_context:
            rng = np.random.default_rng([varied.values.index(value), draw])
            rows = np.sort(rng.choice(len(everything), CONTEXT_SIZE, replace=False))
            summary = embedder.summarize(everything[rows])
        return embedder.embed(everything[:images], summary).mean.astype(np.float64)

    base = codes(identity_value(varied))
    spread = spread_of(base)
    for value in transformed_values(varied):
        moved = np.linalg.norm(codes(value) - base, axis=1)
        yield value, float(moved.mean()), spread


def spread_of(codes: Codes) -> float:
    """Root mean squared L2 distance between the codes of two different images.

    Over all pairs i != j the mean of |z_i - z_j|^2 is twice the sum of the codes' variances
    (with n - 1), which spares the pairs.
    """
    return float(np.sqrt(2 * codes.var(axis=0, ddof=1).sum()))


def identity_value(varied: Family) -> float:
    """The value whose transform leaves images as they are."""
    return varied.axis.least_changing(varied.values)


def transformed_values(varied: Family) -> tuple[float, ...]:
    """All values but the identity's."""
    return tuple(value for value in varied.values if value != identity_value(varied))
