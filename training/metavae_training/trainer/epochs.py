"""Passes over the training images, and one over the validation images."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from metavae_training.bfloat16 import bf16_products
from metavae_training.models import Batch, Model
from metavae_training.models.objectives import TERMS, Elbo
from metavae_training.models.sizes import draw_sizes
from metavae_training.recipes import Precision, Recipe
from metavae_training.trainer.checkpoint import Terms
from metavae_training.trainer.cuda_graphs import StepGraphs
from metavae_training.trainer.data import Batches, Corpus, batches
from metavae_zoo.errors import MetavaeError

_VALIDATION_BATCH = 500  # queries of a distribution
_VALIDATION_SET = 20  # of them that share a context
_CHECK_INTERVAL = 50  # steps between looks for a loss that is no number: a look waits for a GPU


class NotFinite(MetavaeError):
    """The bound became NaN or infinite."""

    code = "not_finite"


@torch.no_grad()
def validate(model: Model, corpus: Corpus, recipe: Recipe, epoch: int) -> Terms:
    """ELBO and its terms over the validation images of all training distributions, in nats.

    The same images and contexts for every model, seed and epoch, and the same noise for every seed
    and epoch of a model; see `Elbo.means`. Raises NotFinite.
    """
    model.eval()
    device, count = corpus.validation.device, corpus.validation.shape[1]
    drawn, noise = (_seed(torch.Generator(device), 0, 0, stream) for stream in range(2))
    # Many sets: a model may score the elements of contexts, not queries.
    queries = min(_VALIDATION_SET, count // 2)
    sets = max(1, min(_VALIDATION_BATCH, count // 2) // queries)
    terms = [
        model.elbo(batch, noise).means()
        for batch in batches(
            corpus.validation,
            batch_size=sets * queries,
            sets=sets,
            context_sizes=recipe.context_sizes,
            generator=drawn,
        )
    ]
    means = _averaged(terms)
    if not all(map(math.isfinite, means.values())):
        raise _not_finite(f"the validation ELBO is {means['elbo']} after epoch {epoch}", epoch)
    return means


class Training:
    """Passes over the training images, a step after the other.

    What a pass draws depends on seed and epoch only. On a GPU steps are replayed, see `StepGraphs`.
    """

    def __init__(
        self,
        model: Model,
        optimizer: torch.optim.Optimizer,
        corpus: Corpus,
        recipe: Recipe,
        seed: int,
    ) -> None:
        self._model, self._optimizer = model, optimizer
        self._corpus, self._recipe, self._seed = corpus, recipe, seed
        self._batches = Batches(
            corpus.train, batch_size=recipe.batch_size, sets=recipe.context_sets
        )
        device = corpus.train.device
        self._generator = torch.Generator(device)
        on_gpu = device.type == "cuda"
        self.take = StepGraphs(self.step, self._generator) if on_gpu else self.step

    def epoch(self, number: int, bar: tqdm) -> Terms:
        """Pass number `number`, from 1; returns the bound's terms, averaged over its steps.

        Raises NotFinite.
        """
        self._model.train()
        _seed(self._generator, self._seed, number)
        recipe, steps = self._recipe, len(self._batches.starts)
        before = (number - 1) * steps
        terms: list[Tensor] = []
        for step, (start, size) in enumerate(self.shuffled(), before):
            _set_learning_rate(self._optimizer, learning_rate(recipe, step, recipe.epochs * steps))
            terms.append(self.take(start, size, kl_weight(recipe, step, steps)))
            bar.update(self._corpus.distributions * recipe.batch_size)
            if len(terms) % _CHECK_INTERVAL == 0 or len(terms) == steps:
                _check_finite(terms[-_CHECK_INTERVAL:], number, step)
        return _averaged(terms)

    def shuffled(self) -> Iterator[tuple[int, int]]:
        """Begin a pass: the starts of its batches, and a context size for each."""
        self._batches.shuffle(self._generator)
        starts = self._batches.starts
        sizes = draw_sizes(self._recipe.context_sizes, len(starts), self._generator)
        return zip(starts, sizes, strict=True)

    def step(self, start: int | Tensor, size: int, kl_weight: float | Tensor) -> Tensor:
        """The step at one of the starts of a pass; returns TERMS before it, averaged."""
        batch = self._batches.at(start, size, self._generator)
        elbo = train_step(
            self._model, self._optimizer, batch, self._generator, self._recipe.precision, kl_weight
        )
        return elbo.means()


def train_step(
    model: Model,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    generator: torch.Generator,
    precision: Precision,
    kl_weight: float | Tensor,
) -> Elbo:
    """One step of every distribution at once; returns the batch's bound before it."""
    device = batch.queries.device
    optimizer.zero_grad(set_to_none=True)
    in_bf16 = precision == "bf16"
    with bf16_products(device) if in_bf16 else nullcontext():
        with torch.autocast(device.type, torch.bfloat16, enabled=in_bf16):
            elbo = model.elbo(batch, generator)
        # Each decoder sees only its own distribution: the sum over distributions gives it the
        # gradient of an ordinary VAE, and the encoder the sum of all.
        loss = -elbo.value(kl_weight).mean() * len(batch.queries)
        loss.backward()
    optimizer.step()
    return elbo


def _set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def _check_finite(terms: list[Tensor], epoch: int, last_step: int) -> None:
    """Raise NotFinite that names the first step whose ELBO is none; one look for many steps."""
    elbos = torch.stack(terms)[:, 0].tolist()
    for step, elbo in enumerate(elbos, last_step + 1 - len(elbos)):
        if not math.isfinite(elbo):
            raise _not_finite(f"the ELBO is {elbo} at step {step + 1}, in epoch {epoch}", epoch)


def _not_finite(what: str, epoch: int) -> NotFinite:
    """The error of an epoch; 0 is that of the untrained model."""
    lower = "Lower the recipe's learning_rate (`--set learning_rate=...`), and give another --out"
    untrained = "That is before the first step: give the model other settings"
    return NotFinite(what, hint=lower if epoch else untrained)


def _averaged(terms: list[Tensor]) -> Terms:
    means = torch.stack(terms).double().mean(0).tolist()
    return dict(zip(TERMS, means, strict=True))


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """The step's learning rate: half a cosine from the recipe's own down to 0."""
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * step / steps))


def kl_weight(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """The step's weight of the KL term: rises from 0 to 1 over the recipe's warm-up."""
    warm_up = recipe.kl_warm_up_epochs * steps_per_epoch
    return min(1.0, step / warm_up) if warm_up else 1.0


def _seed(generator: torch.Generator, *seeds: int) -> torch.Generator:
    state = int(np.random.SeedSequence(seeds).generate_state(1, np.uint64)[0])
    return generator.manual_seed(state >> 1)
