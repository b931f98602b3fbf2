"""The model as every peer runs it, and the plainest wire there is: arrays one after another.

A raw request is float64 [S] total, int64 [1] count and uint8 [B, C, H, W] images; a raw reply is
float32 [B, Z] mean and float32 [B, Z] log-variance. The length of the body gives B.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metavae_zoo.bundles.bundle import open_bundle
from metavae_zoo.embedding.embedder import Embeddings, OnnxEmbedder
from metavae_zoo.embedding.summary import Summary

# What a peer's process finds in its environment.
BUNDLE, PORT, THREADS = "PEER_BUNDLE", "PEER_PORT", "PEER_THREADS"

RAW_TYPE = "application/octet-stream"


class Model:
    """The bundle that this process was given, on as many threads as it was given."""

    def __init__(self) -> None:
        bundle = open_bundle(Path(os.environ[BUNDLE]))
        self.card = bundle.card
        self._embedder = OnnxEmbedder(bundle, threads=int(os.environ[THREADS]))

    def embed(
        self, queries: NDArray[np.uint8], total: NDArray[np.float64], count: int
    ) -> Embeddings:
        """Embed images given one summary: queries [B, C, H, W], total [S]."""
        return self._embedder.embed(queries, Summary(total, count, self.card.digest))

    def answer(self, body: bytes) -> bytes:
        """The raw reply to a raw request."""
        width = self.card.feature_dim
        total = np.frombuffer(body, np.float64, width)
        [count] = np.frombuffer(body, np.int64, 1, offset=8 * width)
        queries = np.frombuffer(body, np.uint8, offset=8 * width + 8)
        found = self.embed(queries.reshape(-1, *self.card.image_shape), total, int(count))
        return found.mean.tobytes() + found.log_variance.tobytes()


def port() -> int:
    """Where this process is to listen, on loopback; it may also take the next few ports."""
    return int(os.environ[PORT])
