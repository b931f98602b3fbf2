"""Training steps on a GPU as CUDA graphs.

A step of these models is some two hundred small kernels, and to launch them one by one takes
longer than to run them. Recorded once, they are launched all together.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

# A step at a start of a pass, with contexts of a size and a weight of the KL; returns its terms.
Step = Callable[[Tensor, int, Tensor], Tensor]


class StepGraphs:
    """A step for each context size: taken as it is once, then recorded, then replayed.

    What changes between steps of one size lies in tensors on the GPU: the start, the weight of
    the KL, the optimizer's learning rate, the generator's state. The graphs share their memory.
    """

    def __init__(self, step: Step, generator: torch.Generator) -> None:
        device = generator.device
        self._step, self._generator = step, generator
        self._start = torch.zeros((), dtype=torch.int64, device=device)
        self._kl_weight = torch.zeros((), device=device)
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()
        self._taken: set[int] = set()
        self._recorded: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}

    def __call__(self, start: int, size: int, kl_weight: float) -> Tensor:
        """Take a step."""
        self._start.fill_(start)
        self._kl_weight.fill_(kl_weight)
        here = torch.cuda.current_stream(self._start.device)
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):  # what is recorded may not be on the default one
            terms = self._take(size)
        here.wait_stream(self._stream)
        return terms.clone()

    def _take(self, size: int) -> Tensor:
        if size not in self._taken:  # allocates what stays, and chooses kernels
            self._taken.add(size)
            return self._step(self._start, size, self._kl_weight)
        if size not in self._recorded:
            self._recorded[size] = self._record(size)
        graph, terms = self._recorded[size]
        graph.replay()
        return terms

    def _record(self, size: int) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self._generator)
        with (
            _no_garbage_collection(),
            torch.cuda.graph(graph, pool=self._pool, stream=self._stream),
        ):
            terms = self._step(self._start, size, self._kl_weight)
        return graph, terms


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A graph of an earlier training that is freed while another is recorded would spoil that."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
