"""A torch model as an `Embedder`: what the exported graphs are compared with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from metavae_training.models import Model
from metavae_zoo.bundles.card import ModelCard
from metavae_zoo.embedding.embedder import (
    Embeddings,
    check_site,
    check_summary,
    pooled_rows,
    site_count,
)
from metavae_zoo.embedding.summary import Summary
from metavae_zoo.images import as_images

_ROWS = 256  # every product has this many rows: its bits then do not depend on the batch


class TorchEmbedder:
    """An `Embedder` with a model's own weights, on the CPU."""

    def __init__(self, model: Model, card: ModelCard) -> None:
        self.card = card
        self._model = model.eval()

    @torch.no_grad()
    def summarize(self, context: ArrayLike) -> Summary:
        """Summarise a context set; see `Embedder`."""
        images = as_images(context, self.card.image_shape, field="context")
        parts = [
            Summary.of_features(
                self._model.features(_pixels(chunk)).numpy()[: len(chunk)], self.card.digest
            )
            for chunk in _chunks(images)
        ]
        return parts[0].merge(*parts[1:])

    @torch.no_grad()
    def site(self, summary: Summary) -> NDArray[np.float32]:
        """The parameters of the context's site, float32 [P]; see `OnnxEmbedder.site`."""
        check_site(self.card)
        check_summary(self.card, summary)
        pooled = torch.from_numpy(summary.mean[None])
        sites = self._model.site(pooled, torch.full((1, 1), float(site_count(summary))))
        return sites[0].numpy()

    @torch.no_grad()
    def embed(
        self, queries: ArrayLike, summary: Summary | Sequence[Summary] | None = None
    ) -> Embeddings:
        """Embed queries; see `Embedder`."""
        images = as_images(queries, self.card.image_shape, field="queries")
        pooled = pooled_rows(self.card, summary, len(images))
        rows = np.broadcast_to(pooled, (len(images), pooled.shape[1]))
        means, log_variances = [], []
        for chunk, row in zip(_chunks(images), _chunks(rows), strict=True):
            posterior = self._model.posterior(_pixels(chunk), _padded(row))
            means.append(posterior.mean.numpy()[: len(chunk)])
            log_variances.append(posterior.log_variance.numpy()[: len(chunk)])
        return Embeddings(np.concatenate(means), np.concatenate(log_variances))


def _chunks(rows: NDArray) -> list[NDArray]:
    return [rows[start : start + _ROWS] for start in range(0, len(rows), _ROWS)]


def _padded(rows: NDArray) -> Tensor:
    """Rows [N, ...] as a tensor of _ROWS rows, zeros below."""
    padded = np.zeros((_ROWS, *rows.shape[1:]), rows.dtype)
    padded[: len(rows)] = rows
    return torch.from_numpy(padded)


def _pixels(images: NDArray[np.uint8]) -> Tensor:
    return _padded(images).flatten(1).float() / 255
