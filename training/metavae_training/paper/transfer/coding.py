"""Queries of the exam in codes: by a model under contexts, or by a code that takes none."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metavae_training.paper.measure.condition import NONE, Condition
from metavae_training.paper.transfer.cells import stated
from metavae_training.paper.transfer.exam import Exam, Labels
from metavae_training.paper.transfer.undoing import warp_error
from metavae_zoo.embedding.embedder import OnnxEmbedder
from metavae_zoo.embedding.summary import Summary
from metavae_zoo.evaluation.classifiers import Codes, Fitted, logistic_regression
from metavae_zoo.families import Part
from metavae_zoo.images import Images

Encode = Callable[[Images], Codes]
Key = tuple[Part, float]  # a part, and a site of it
ImagesOf = Callable[[Exam, float, Part], Images]


@dataclass(frozen=True)
class Embedded:
    """Codes of a site's queries with their labels, and the site that was inferred."""

    codes: Codes
    labels: Labels
    site: NDArray[np.float32] | None = None

    def accuracy(self, fitted: Fitted) -> float:
        """The share of the queries that get their own label."""
        return fitted.accuracy(self.codes, self.labels)

    def part(self, places: NDArray[np.intp]) -> Embedded:
        """Some of them."""
        return Embedded(self.codes[places], self.labels[places])


@dataclass(frozen=True)
class Sitting:
    """A model that takes the exam."""

    embedder: OnnxEmbedder
    exam: Exam

    def summary(
        self, value: float, part: Part, condition: Condition, draw: int, source: float
    ) -> Summary | None:
        """The summary of a context for the queries at a site, of the images of `source`."""
        if condition == NONE or not self.embedder.card.needs_context:
            return None
        rows = self.exam.context_rows(value, part, condition.size, draw, source)
        return self.summarized(self.exam.images(source, part, rows))

    def summarized(self, context: Images) -> Summary:
        """The summary of these images."""
        return self.embedder.summarize(context)

    def embedded(
        self, value: float, part: Part, summary: Summary | None, most: int | None = None
    ) -> Embedded:
        """The queries at a site, given the summary of their context."""
        rows = self.exam.rows(value, part, most)
        images = self.exam.images(value, part, rows)
        codes = self.embedder.embed(images, summary).mean
        of_site = self.embedder.card.site and summary is not None and part == "test"
        site = self.embedder.site(summary) if of_site and summary else None
        return Embedded(codes, self.exam.labels(part, rows), site)

    def said(self, value: float, one: Embedded) -> dict[str, float]:
        """The true error of the inferred warp, and the quantiles of it that were stated."""
        if one.site is None:
            return {}
        matrix = self.exam.source.axis.matrix(value)
        error = warp_error(matrix, self.embedder.card, one.site)
        return {"error": error, **stated(self.embedder, one.site.tolist())}


def fit_in(pool: ThreadPoolExecutor, parts: list[Embedded]) -> Future[Fitted]:
    """The classifier of these, fitted in the pool."""
    codes = np.concatenate([one.codes for one in parts])
    return pool.submit(logistic_regression, codes, np.concatenate([one.labels for one in parts]))


def as_they_are(exam: Exam, value: float, part: Part) -> Images:
    """The queries at a site."""
    return exam.images(value, part, exam.rows(value, part))


def queries_of(
    pool: ThreadPoolExecutor, exam: Exam, code: Encode, images: ImagesOf = as_they_are
) -> dict[Key, Embedded]:
    """All queries of the exam in codes."""

    def of_site(part: Part, value: float) -> Embedded:
        labels = exam.labels(part, exam.rows(value, part))
        return Embedded(code(images(exam, value, part)), labels)

    sites: dict[Part, tuple[float, ...]] = {"train": exam.trained, "test": exam.held_out}
    keys: list[Key] = [(part, value) for part, values in sites.items() for value in values]
    return dict(zip(keys, pool.map(lambda key: of_site(*key), keys), strict=True))
