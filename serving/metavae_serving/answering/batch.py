"""A batch of requests through a model: each graph is run for the images of all of them together."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from metavae_serving.answering.metrics import BATCH, CONTEXT, Meter
from metavae_zoo.bundles.card import ModelCard
from metavae_zoo.embedding.embedder import OnnxEmbedder, check_site, pooled_rows
from metavae_zoo.embedding.summary import Summary
from metavae_zoo.errors import MetavaeError
from metavae_zoo.images import Images, as_images
from metavae_zoo.protocol.wire import EmbedRequest

Outputs = dict[str, NDArray]
Rows = tuple[Images, NDArray[np.float32]]  # images to embed, and the summary of each


def embed_batch(
    embedder: OnnxEmbedder, requests: Sequence[EmbedRequest], meter: Meter
) -> list[Outputs | MetavaeError]:
    """What each request asked for, or what is wrong with it, in their order.

    On the CPU the bits are those of each request alone.
    """
    jobs = [_Job(embedder.card, request) for request in requests]

    asked = [(job, job.context) for job in jobs if job.context is not None and not job.error]
    if asked:
        began = time.perf_counter()
        summaries = embedder.summarize_each([context for _, context in asked])
        meter.since(began, "summarize")
        for (job, context), summary in zip(asked, summaries, strict=True):
            meter.observe(CONTEXT, value=len(context))
            job.take_summary(summary)

    given = [(job, job.rows) for job in jobs if job.rows is not None]
    if given:
        began = time.perf_counter()
        embeddings = embedder.embed_each([rows for _, rows in given])
        meter.since(began, "encode")
        for (job, _), one in zip(given, embeddings, strict=True):
            job.outputs |= {"embedding": one.mean, "log_variance": one.log_variance}

    of_sites = [(job, job.site_of) for job in jobs if job.site_of is not None and not job.error]
    if of_sites:
        began = time.perf_counter()
        for job, summaries in of_sites:
            job.take_site(embedder, summaries)
        meter.since(began, "site")

    if images := sum(len(context) for _, context in asked) + sum(len(rows[0]) for _, rows in given):
        meter.observe(BATCH, value=images)
    return [job.error or job.outputs for job in jobs]


class _Job:
    """A request on its way: compared with the model at once, before anything is run."""

    def __init__(self, card: ModelCard, request: EmbedRequest) -> None:
        self._card = card
        self.error: MetavaeError | None = None
        self.outputs: Outputs = {}
        self.context: Images | None = None
        self.rows: Rows | None = None
        self.site_of: Summary | list[Summary] | None = None  # the summaries whose site is asked for
        self._queries: Images | None = None
        self._asks_site = "site" in request.outputs
        try:
            if self._asks_site:
                check_site(card)
            self.context = self._images(request.context, "context")
            self._queries = self._images(request.queries, "queries")
            if self.context is None:
                self._pool(request.summaries())
        except MetavaeError as error:
            self.error = error

    def take_summary(self, summary: Summary | MetavaeError) -> None:
        """What became of the context."""
        if isinstance(summary, MetavaeError):
            self.error = summary
            return
        self.outputs = {"summary": summary.total, "count": np.array([summary.count], np.int64)}
        self._pool(summary)

    def take_site(self, embedder: OnnxEmbedder, summaries: Summary | list[Summary]) -> None:
        """Infer the site, [P], or one for each of several summaries, [B, P]."""
        try:
            if isinstance(summaries, Summary):
                self.outputs["site"] = embedder.site(summaries)
            else:
                self.outputs["site"] = np.stack([embedder.site(summary) for summary in summaries])
        except MetavaeError as error:
            self.error = error

    def _images(self, array: NDArray | None, field: str) -> Images | None:
        return None if array is None else as_images(array, self._card.image_shape, field=field)

    def _pool(self, summary: Summary | list[Summary] | None) -> None:
        if self._asks_site:
            self.site_of = summary
        if self._queries is not None:
            self.rows = self._queries, pooled_rows(self._card, summary, len(self._queries))
