"""What is measured: two ways to take a training step, and the machine's matrix products.

A variant lives in one process, does one unit of its work when it is called, and tells how much
that was.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

import plain_loop
from metavae_training.recipes import Precision, Recipe
from metavae_training.trainer.build import build_model, build_optimizer
from metavae_training.trainer.data import Corpus
from metavae_training.trainer.epochs import Training
from plain_loop import PlainMetaVAE
from products import count_flops, record_products

CONTEXT_SIZE = 10  # of the plain loop: the paper's
_AHEAD = 10  # units of work before a GPU is waited for: seconds of it would fit into its queue
_TYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Work:
    """Work that was done: training images that were queries, operations of matrix products."""

    images: int
    flops: float


@dataclass(frozen=True)
class Turn:
    """Work and the seconds it took."""

    work: Work
    seconds: float

    @property
    def images_per_second(self) -> float:
        """Queries trained on per second."""
        return self.work.images / self.seconds

    @property
    def flops_per_second(self) -> float:
        """Operations of matrix products per second."""
        return self.work.flops / self.seconds


Variant = Callable[[], Work]


def take_turn(variant: Variant, seconds: float, device: torch.device) -> Turn:
    """Let a variant work for at least so many seconds."""
    _finish(device)
    images, flops, units, started = 0, 0.0, 0, time.perf_counter()
    while time.perf_counter() - started < seconds or not flops:
        work = variant()
        images, flops, units = images + work.images, flops + work.flops, units + 1
        if units % _AHEAD == 0:
            _finish(device)
    _finish(device)
    return Turn(Work(images, flops), time.perf_counter() - started)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class MetavaeStep:
    """metavae's own training step on batches of its own; images: uint8 [distribution, n, pixel]."""

    def __init__(self, recipe: Recipe, precision: Precision, images: Tensor) -> None:
        self._recipe = recipe = dataclasses.replace(recipe, precision=precision)
        distributions, _, pixels = images.shape
        model = build_model(recipe, distributions=distributions, pixels=pixels, seed=0)
        model.to(images.device).train()
        optimizer = build_optimizer(model, recipe)
        self._training = Training(model, optimizer, Corpus(images, images[:, :0]), recipe, seed=0)
        self._work = distributions * recipe.batch_size
        # Linear in the size of the contexts: counted at both ends of their range.
        self._flops_at_ends = [self.flops(size) for size in recipe.context_sizes]
        if images.is_cuda:
            self._record()
        self._steps = self._endless()

    def __call__(self) -> Work:
        """One step."""
        start, size = next(self._steps)
        self._training.take(start, size, 1.0)
        flops = float(np.interp(size, self._recipe.context_sizes, self._flops_at_ends))
        return Work(self._work, flops)

    def flops(self, context_size: int) -> int:
        """Operations of a step's matrix products with contexts of this size."""
        return count_flops(self.step_with(context_size))

    def step_with(self, context_size: int) -> Callable[[], object]:
        """A step whose contexts have this size, one operation after the other."""
        return lambda: self._training.step(0, context_size, 1.0)

    def _record(self) -> None:
        """Have the steps of all context sizes recorded, which else would be a part of turns."""
        smallest, largest = self._recipe.context_sizes
        for size in range(smallest, largest + 1):
            for _ in range(2):  # the first time a step is taken as it is
                self._training.take(0, size, 1.0)

    def _endless(self) -> Iterator[tuple[int, int]]:
        while True:
            yield from self._training.shuffled()


class PlainStep:
    """The plain loop's training step, with as many queries; images: uint8 [distribution, n, p]."""

    def __init__(self, recipe: Recipe, precision: Precision, images: Tensor) -> None:
        self._images, self._batch_size = images, recipe.batch_size
        distributions, count, pixels = images.shape
        self._model = PlainMetaVAE(
            distributions=distributions, pixels=pixels, **recipe.model_settings
        ).to(images.device)
        self._optimizer = torch.optim.Adam(self._model.parameters(), lr=recipe.learning_rate)
        self._generator = torch.Generator(images.device).manual_seed(0)
        self._size = min(CONTEXT_SIZE, count - 1)
        self._flops = count_flops(self._step)

    def __call__(self) -> Work:
        """One step."""
        self._step()
        return Work(len(self._images) * self._batch_size, self._flops)

    def _step(self) -> None:
        distributions, count, _ = self._images.shape
        queries = torch.randint(
            count,
            (distributions, self._batch_size),
            generator=self._generator,
            device=self._images.device,
        )
        plain_loop.train_step(
            self._model, self._optimizer, self._images, queries, self._size, self._generator
        )


class SameShapes:
    """The matrix products of metavae's step, and nothing else of it.

    Of four steps, whose contexts have the sizes at the middle of each quarter of what a recipe
    draws from.
    """

    def __init__(self, recipe: Recipe, precision: Precision, images: Tensor) -> None:
        step = MetavaeStep(recipe, precision, images)
        low, high = recipe.context_sizes
        sizes = [round(low * (high / low) ** quantile) for quantile in (1 / 8, 3 / 8, 5 / 8, 7 / 8)]
        self._products = [
            product for size in sizes for product in record_products(step.step_with(size))
        ]
        self._flops = sum(step.flops(size) for size in sizes)
        self._multiply = self._recorded() if images.is_cuda else self._each

    def __call__(self) -> Work:
        """Each product once."""
        self._multiply()
        return Work(0, self._flops)

    def _each(self) -> None:
        for product in self._products:
            product()

    def _recorded(self) -> Callable[[], None]:
        """All of them as a CUDA graph, which the training steps are too."""
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # what is recorded may not be on the default one
            self._each()  # chooses kernels
        stream.synchronize()
        with torch.cuda.graph(graph, stream=stream):
            self._each()
        return graph.replay


class Square:
    """One large square matrix product, what a data sheet's rate is of."""

    def __init__(self, recipe: Recipe, precision: Precision, images: Tensor) -> None:
        self.side = 8192 if images.device.type == "cuda" else 2048
        self._left, self._right, self._out = (
            torch.randn(self.side, self.side, device=images.device).to(_TYPES[precision])
            for _ in range(3)
        )

    def __call__(self) -> Work:
        """The product once."""
        torch.mm(self._left, self._right, out=self._out)
        return Work(0, 2 * self.side**3)


Key = tuple[str, Precision]  # a variant's name: its kind and its arithmetic

_Make = Callable[[Recipe, Precision, Tensor], Variant]

PLAIN = "plain loop"
STEPS: dict[str, _Make] = {PLAIN: PlainStep, "metavae": MetavaeStep}
PRODUCTS: dict[str, _Make] = {"same shapes": SameShapes, "square": Square}
