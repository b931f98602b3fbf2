"""The threads that the exam's embeddings and fits run on."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from metavae_zoo.evaluation.classifiers import fitting_pool


@contextmanager
def workers() -> Iterator[ThreadPoolExecutor]:
    """The pool of the zoo's probes; each of its threads computes on one core in torch, too."""
    import torch

    before = torch.get_num_threads()
    try:
        with fitting_pool(lambda: torch.set_num_threads(1)) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)
