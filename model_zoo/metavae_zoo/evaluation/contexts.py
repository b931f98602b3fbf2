"""The contexts that a probed model is given: the right ones, or wrong ones on purpose.

What wrong ones cost tells whether a model uses its context. A classifier that is fitted under wrong
ones loses nothing by a shift that is the same for all images; one that is fitted under right ones
and only tested under wrong ones does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from metavae_zoo.bundles.card import ModelCard
from metavae_zoo.embedding.embedder import Embedder
from metavae_zoo.embedding.summary import Summary
from metavae_zoo.evaluation.errors import BadSettings
from metavae_zoo.evaluation.sample import PART_SEED, Pick, Sample
from metavae_zoo.families import Part
from metavae_zoo.images import Images

ContextFrom = Literal["own", "other", "reference", "shuffled", "zeros"]
SOURCES: tuple[ContextFrom, ...] = get_args(ContextFrom)

_PIXELS = 1  # spawn key of the pixel permutation


class Contexts:
    """One context per distribution, part and draw, for one embedder, all of one source.

    `source` is `own` (of the same distribution), `other` (of the one at the value a third of the
    family's list of values further on, cyclic: half of the list on, every skew would be seen in a
    mirror), `reference` (of the training value that changes an image least, so that images are
    embedded as they come), `shuffled` (the own images, their pixels in one seeded disorder) or
    `zeros` (a summary of zeros, without images). A model that takes no context is given none.

    `queries` returns the images of a value and part that are embedded. Contexts are then drawn from
    the other base images, where the part has enough of them left; without it from all.
    """

    def __init__(
        self,
        embedder: Embedder,
        sample: Sample,
        size: int,
        source: ContextFrom = "own",
        *,
        queries: Callable[[float, Part], Pick] | None = None,
    ) -> None:
        self._embedder, self._sample, self._size, self._source = embedder, sample, size, source
        self._queries = queries
        self._needed = embedder.card.needs_context

    @property
    def size(self) -> int:
        """Images per context; 0 where there are none."""
        return self._size if self.vary else 0

    @property
    def vary(self) -> bool:
        """Whether one draw differs from the next."""
        return self._needed and self._source != "zeros"

    def value(self, value: float) -> float | None:
        """The value whose images are the context at `value`; None where there are none."""
        if not self.vary:
            return None
        if self._source == "reference":
            return self._sample.family.reference(self._sample.split.name)
        if self._source != "other":
            return value
        values = self._sample.family.values
        return values[(values.index(value) + len(values) // 3) % len(values)]

    def summary(self, value: float, part: Part, draw: int) -> Summary | None:
        """The summary that the images of `part` at `value` are embedded under, if there is one."""
        if not self._needed:
            return None
        images = self.images(value, part, draw)
        if images is None:
            card = self._embedder.card
            return Summary(np.zeros(card.feature_dim), 1, card.digest)
        return self._embedder.summarize(images)

    def images(self, value: float, part: Part, draw: int) -> Images | None:
        """The context's images, [N, C, H, W]; None where there are none."""
        source = self.value(value)
        if source is None:
            return None
        images = self._images(source, part, draw, self._rows(value, part))
        return self._shuffled(images) if self._source == "shuffled" else images

    def _rows(self, value: float, part: Part) -> NDArray[np.intp]:
        """The rows of a part that the context of the images at `value` is drawn from."""
        rows = np.arange(len(self._sample.order[part]))
        if self._queries is None:
            return rows
        apart = np.setdiff1d(rows, self._queries(value, part).rows)
        return apart if len(apart) >= self._size else rows

    def _images(self, value: float, part: Part, draw: int, rows: NDArray[np.intp]) -> Images:
        """A context set out of these rows of the part; its draw depends on no other draw."""
        pool = self._sample.pool(value, part)
        index = self._sample.family.values.index(value)
        rng = np.random.default_rng([self._sample.seed, index, PART_SEED[part], draw])
        # Sorted, because the pool is on disk; a context has no order.
        return pool[np.sort(rows[rng.choice(len(rows), self._size, replace=False)])]

    def _shuffled(self, images: Images) -> Images:
        rng = np.random.default_rng(np.random.SeedSequence(self._sample.seed, spawn_key=(_PIXELS,)))
        rows = images.reshape(*images.shape[:2], -1)  # [image, channel, pixel]
        return rows[..., rng.permutation(rows.shape[-1])].reshape(images.shape)


def check_sources(card: ModelCard, sources: Mapping[Part, ContextFrom]) -> None:
    """Raise BadSettings where a model that takes no context would be given a wrong one."""
    options: dict[Part, str] = {"train": "context_from", "test": "test_context_from"}
    for part, option in options.items():
        if sources[part] != "own" and not card.needs_context:
            flag = option.replace("_", "-")
            raise BadSettings(
                f"--{flag} is {sources[part]}, but model {card.name} embeds without a context",
                hint=f"Leave --{flag} out, or give a --model that takes a context",
                field=option,
            )
