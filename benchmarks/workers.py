"""A process for each variant: its peak memory is its own, and turns can alternate.

A process that waits for its turn sleeps and holds no core.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from machine import memory_in_use, peak_memory
from metavae_training.recipes import Precision, Recipe
from metavae_training.trainer.allocator import keep_freed_memory
from variants import PLAIN, PRODUCTS, STEPS, Key, Turn, Variant, take_turn


@dataclass(frozen=True)
class Job:
    """What a process is to measure; `images` is an array file, uint8 [distribution, n, pixel]."""

    kind: str
    precision: Precision
    recipe: Recipe
    images: Path
    device: str
    threads: int


class Worker:
    """A variant in a process of its own."""

    def __init__(self, job: Job) -> None:
        self.key: Key = (job.kind, job.precision)
        self._process = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
        self._ready = self._process.submit(_prepare, job)

    def wait(self) -> None:
        """Return when it is ready for turns."""
        self._ready.result()

    def turn(self, seconds: float) -> Turn:
        """Let it work; one turn at a time, over all workers."""
        return self._process.submit(_turn, seconds).result()

    def memory(self) -> dict[str, int]:
        """Bytes of the process at its peak, and with its images but before its model."""
        return self._process.submit(_memory).result()

    def __enter__(self) -> Worker:
        """The worker itself, which ends with the block."""
        return self

    def __exit__(self, *error: object) -> None:
        """End the process."""
        self._process.shutdown()


@dataclass(frozen=True)
class _Here:
    """What the process of a worker holds."""

    variant: Variant
    device: torch.device
    memory_before: int


_here: list[_Here] = []


def _prepare(job: Job) -> None:
    if job.kind != PLAIN:
        keep_freed_memory()  # as `metavae-train` does, and to the products' good as well
    torch.set_num_threads(job.threads)
    device = torch.device(job.device)
    images = torch.from_numpy(np.load(job.images)).to(device)
    before = memory_in_use(device)
    variant = (STEPS | PRODUCTS)[job.kind](job.recipe, job.precision, images)
    take_turn(variant, 0, device)  # the first step allocates, and chooses kernels
    _here.append(_Here(variant, device, before))


def _turn(seconds: float) -> Turn:
    here = _here[0]
    return take_turn(here.variant, seconds, here.device)


def _memory() -> dict[str, int]:
    here = _here[0]
    return {"peak_bytes": peak_memory(here.device), "before_bytes": here.memory_before}
