"""The ceiling: the same two graphs on ONNX Runtime in processes of their own, with no server."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from metavae_serving.settings import ModelSettings
from metavae_zoo.bundles.bundle import open_bundle
from metavae_zoo.embedding.embedder import OnnxEmbedder
from metavae_zoo.embedding.graph import Device
from metavae_zoo.machine import usable_cores
from served.load import Run, repeat

_embedder: OnnxEmbedder | None = None


class Ceiling:
    """As many processes as the model has workers, each with as many threads, on its device."""

    def __init__(self, bundle: Path, settings: ModelSettings) -> None:
        self._processes = settings.workers
        threads = settings.threads or max(1, usable_cores() // settings.workers)
        self._pool = ProcessPoolExecutor(
            settings.workers,
            get_context("spawn"),
            initializer=_load,
            initargs=(bundle, threads, settings.device),
        )

    def run(self, queries: int, seconds: float) -> Run:
        """Embed as many queries, over and over, in all processes at once."""
        tasks = [self._pool.submit(_embed, queries, seconds) for _ in range(self._processes)]
        found = [task.result() for task in tasks]
        return Run(max(one.seconds for one in found), [t for one in found for t in one.latencies])

    def close(self) -> None:
        """End the processes."""
        self._pool.shutdown(cancel_futures=True)


def _load(bundle: Path, threads: int, device: Device) -> None:
    global _embedder
    _embedder = OnnxEmbedder(open_bundle(bundle), threads=threads, device=device)


def _embed(count: int, seconds: float) -> Run:
    assert _embedder is not None  # noqa: S101 - the pool has loaded it
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, *_embedder.card.image_shape), np.uint8)
    summary = _embedder.summarize(images[:100])
    return repeat(partial(_embedder.embed, images, summary), seconds)
