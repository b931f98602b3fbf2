"""The one training loop: maximise a model's ELBO, keep the checkpoint with the best validation.

A run is a function of its recipe, seed and device. Every epoch draws from a generator of its own,
seeded by (seed, epoch), so that a run that was killed goes on from its last checkpoint to the
same weights, bit for bit on the CPU, as one that was not.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from metavae_training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from metavae_training.data import Corpus, batches, load_corpus
from metavae_training.models import MODELS, Model
from metavae_training.recipes import Recipe
from metavae_zoo.errors import DeviceUnavailable, MetavaeError
from metavae_zoo.families import family

logger = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.safetensors"
LOG = "log.jsonl"
_SAVE_INTERVAL = 30.0  # seconds; a saved epoch is resumed from, so this costs time, never results


class RunMismatch(MetavaeError):
    """A run folder holds a checkpoint of another recipe, seed or data set."""

    code = "run_mismatch"


class NotFinite(MetavaeError):
    """The loss became NaN or infinite; the last checkpoint is kept."""

    code = "not_finite"


def choose_device(name: str) -> torch.device:
    """Device of `auto`, `cpu` or `cuda`; raises DeviceUnavailable where CUDA is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise DeviceUnavailable(
            "--device cuda was asked for and torch finds no CUDA device",
            hint="Check `nvidia-smi`, or choose --device cpu",
        )
    return torch.device(name)


def cpu_has_bf16() -> bool:
    """Whether this processor multiplies matrices in bf16 itself."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def build_model(recipe: Recipe, *, distributions: int, pixels: int, seed: int) -> Model:
    """A freshly initialised model; the same weights for the same seed on every device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MODELS[recipe.model](
            distributions=distributions, pixels=pixels, **recipe.model_settings
        )


def fit(
    recipe: Recipe,
    *,
    out: Path,
    seed: int = 0,
    device: torch.device | None = None,
    data_root: Path | None = None,
    progress: bool = False,
) -> Checkpoint:
    """Train `recipe` into the folder `out`, going on from the checkpoint that it holds, if any.

    Writes `checkpoint.safetensors` (the latest and the best weights, all that resuming needs) and
    `log.jsonl` (one line an epoch). Returns the final checkpoint; raises RunMismatch for a folder
    of another run, NotFinite when the loss is no number.
    """
    device = device or torch.device("cpu")
    if recipe.precision == "bf16" and device.type == "cpu" and not cpu_has_bf16():
        logger.warning("this processor has no bf16 arithmetic: it is emulated, which is slow")
    corpus = load_corpus(recipe, data_root, device)
    data_sha256 = family(recipe.family).data_sha256(data_root)
    model = build_model(
        recipe, distributions=corpus.distributions, pixels=corpus.pixels, seed=seed
    ).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.learning_rate, fused=True)
    checkpoint = Checkpoint.start(recipe, seed=seed, data_sha256=data_sha256)

    path = out / CHECKPOINT
    if path.exists():
        found = load_checkpoint(path)
        _check_same_run(found, checkpoint, path)
        checkpoint = found
        checkpoint.restore(model, optimizer)
    out.mkdir(parents=True, exist_ok=True)
    _drop_log_after(out / LOG, checkpoint.epoch)

    queries_per_epoch = corpus.distributions * _usable(corpus.train.shape[1], recipe.batch_size)
    saved_at = -math.inf
    with _bar(recipe, checkpoint.epoch * queries_per_epoch, queries_per_epoch, progress) as bar:
        for epoch in range(checkpoint.epoch + 1, recipe.epochs + 1):
            started = time.monotonic()
            train_elbo = _train_epoch(model, optimizer, corpus, recipe, seed, epoch, bar)
            seconds = time.monotonic() - started
            validation_elbo = validate(model, corpus, recipe)
            checkpoint = checkpoint.after_epoch(epoch, validation_elbo, model, optimizer)
            line = {
                "epoch": epoch,
                "train_elbo": round(train_elbo, 4),
                "validation_elbo": round(validation_elbo, 4),
                "images_per_second": round(queries_per_epoch / seconds),
            }
            with (out / LOG).open("a") as log:
                log.write(json.dumps(line) + "\n")
            bar.set_postfix_str(f"epoch {epoch}/{recipe.epochs} ELBO {validation_elbo:.2f}")
            last = epoch == recipe.epochs
            if last or time.monotonic() - saved_at > _SAVE_INTERVAL:
                save_checkpoint(path, checkpoint)
                saved_at = time.monotonic()
    return checkpoint


@torch.no_grad()
def validate(model: Model, corpus: Corpus, recipe: Recipe) -> float:
    """Mean ELBO of the validation images over all training distributions, in nats per image.

    The same images, contexts and noise for every model and seed.
    """
    model.eval()
    generator = _generator(corpus.validation.device, 0, 0)
    size = min(500, corpus.validation.shape[1] // 2)
    terms = [
        model.elbo(batch, generator).value().mean().item()
        for batch in batches(
            corpus.validation,
            batch_size=size,
            sets=1,
            context_sizes=recipe.context_sizes,
            generator=generator,
        )
    ]
    return float(np.mean(terms))


def _train_epoch(
    model: Model,
    optimizer: torch.optim.Optimizer,
    corpus: Corpus,
    recipe: Recipe,
    seed: int,
    epoch: int,
    bar: tqdm,
) -> float:
    model.train()
    device = corpus.train.device
    generator = _generator(device, seed, epoch)
    total = torch.zeros((), device=device)
    steps = corpus.train.shape[1] // recipe.batch_size
    before = (epoch - 1) * steps
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16")
    epoch_batches = batches(
        corpus.train,
        batch_size=recipe.batch_size,
        sets=recipe.context_sets,
        context_sizes=recipe.context_sizes,
        generator=generator,
    )
    for step, batch in enumerate(epoch_batches, before):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step, recipe.epochs * steps)
        optimizer.zero_grad(set_to_none=True)
        with autocast:
            elbo = model.elbo(batch, generator)
        # Each decoder sees only its own distribution: the sum over distributions gives it the
        # gradient of an ordinary VAE, and the encoder the sum of all.
        loss = -elbo.value(kl_weight(recipe, step, steps)).mean() * corpus.distributions
        loss.backward()
        optimizer.step()
        total += elbo.value().detach().mean()
        bar.update(corpus.distributions * recipe.batch_size)
    mean = total.item() / steps
    if not np.isfinite(mean):
        raise NotFinite(
            f"the ELBO of epoch {epoch} is {mean}",
            hint="Lower the recipe's learning_rate; the last checkpoint is kept",
        )
    return mean


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """The step's learning rate: half a cosine from the recipe's own down to 0."""
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * step / steps))


def kl_weight(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """The step's weight of the KL term: rises from 0 to 1 over the recipe's warm-up."""
    warm_up = recipe.kl_warm_up_epochs * steps_per_epoch
    return min(1.0, step / warm_up) if warm_up else 1.0


def _generator(device: torch.device, seed: int, epoch: int) -> torch.Generator:
    state = int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0])
    return torch.Generator(device).manual_seed(state >> 1)


def _usable(count: int, batch_size: int) -> int:
    return count // batch_size * batch_size


def _check_same_run(found: Checkpoint, wanted: Checkpoint, path: Path) -> None:
    for what in ("recipe", "seed", "data_sha256"):
        here, there = getattr(wanted, what), getattr(found, what)
        if here != there:
            raise RunMismatch(
                f"{path} holds a run with {what} {there}, asked for {here}",
                hint="Give another --out folder, or delete this one",
            )


def _drop_log_after(path: Path, epoch: int) -> None:
    """Forget logged epochs that were not saved: they are trained again."""
    if path.exists():
        # One line an epoch; a line that was cut short is of an epoch that was not saved.
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:epoch]))


@contextmanager
def _bar(recipe: Recipe, initial: int, per_epoch: int, progress: bool) -> Iterator[tqdm]:
    with tqdm(
        total=recipe.epochs * per_epoch,
        initial=initial,
        desc=recipe.name,
        unit=" images",
        unit_scale=True,
        disable=None if progress else True,
        smoothing=0.05,
        mininterval=0.5,
    ) as bar:
        yield bar
