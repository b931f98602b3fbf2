"""The one training loop: maximise a model's ELBO, keep the checkpoint with the best validation.

A run is a function of its recipe, seed and device. Every epoch draws from a generator of its own,
seeded by (seed, epoch), so that a run that was killed goes on from its last checkpoint to the
same weights, bit for bit on the CPU, as one that was not.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Self

import torch
from tqdm import tqdm

from metavae_training.bfloat16 import cpu_has_bf16
from metavae_training.models import Model, Start
from metavae_training.recipes import Recipe
from metavae_training.trainer.build import build_model, build_optimizer, model_settings
from metavae_training.trainer.checkpoint import (
    CHECKPOINT,
    LOG,
    Checkpoint,
    Terms,
    load_checkpoint,
    save_checkpoint,
)
from metavae_training.trainer.data import Corpus, load_corpus
from metavae_training.trainer.device import OutOfMemory, memory_errors
from metavae_training.trainer.epochs import NotFinite, Training, validate
from metavae_zoo.errors import MetavaeError
from metavae_zoo.families import family
from metavae_zoo.files import locked_folder, write_whole

logger = logging.getLogger(__name__)

_SAVE_INTERVAL = 30.0  # seconds; what a kill takes is trained again to the same bits


class RunMismatch(MetavaeError):
    """A run folder holds a checkpoint of another recipe, seed or data set."""

    code = "run_mismatch"


class RunBusy(MetavaeError):
    """Another process is training into a run's folder."""

    code = "run_busy"


def fit(
    recipe: Recipe,
    *,
    out: Path,
    seed: int = 0,
    device: torch.device | None = None,
    data_root: Path | None = None,
    progress: bool = False,
    wait: bool = False,
) -> Checkpoint:
    """Train `recipe` into the folder `out`, going on from the checkpoint that it holds, if any.

    Writes `checkpoint.safetensors` (the latest and the best weights, all that resuming needs) and
    `log.jsonl` (one line an epoch, and one for the untrained model). Returns the final checkpoint;
    raises RunMismatch for a folder of another run, RunBusy while another process trains into it
    (whose end is waited for with `wait`), BadRecipe, NotFinite when the loss is no number,
    OutOfMemory.
    """
    device = device or torch.device("cpu")
    if recipe.precision == "bf16" and device.type == "cpu" and not cpu_has_bf16():
        logger.info("this processor has no bf16 arithmetic: products are computed in fp32")
    what, path = f"recipe {recipe.name}", out / CHECKPOINT
    start = partial(memory_errors, f"{what} with its images", device, _fewer(recipe))
    with start():
        corpus = load_corpus(recipe, data_root, device)
        model = build_model(
            recipe, distributions=corpus.distributions, pixels=corpus.pixels, seed=seed
        ).to(device)
    data_sha256 = family(recipe.family).data_sha256(data_root)
    optimizer = build_optimizer(model, recipe)
    checkpoint = Checkpoint.start(recipe, seed=seed, data_sha256=data_sha256)

    with _alone_in(out, wait=wait):
        with start():
            checkpoint = _begin(path, checkpoint, model, optimizer, corpus)
        log = _Log(out / LOG, checkpoint)
        training = Training(model, optimizer, corpus, recipe, seed)
        per_epoch = corpus.distributions * _usable(corpus.train.shape[1], recipe.batch_size)
        with (
            _kept(path),
            memory_errors(f"a step of {what}", device, _smaller(recipe)),
            _bar(recipe, checkpoint, per_epoch, progress) as bar,
            _Saver(path, checkpoint) as saver,
        ):
            # Epoch 0 is the untrained model: what training starts from, and the whole of a
            # recipe whose model is fitted in closed form.
            for epoch in range(checkpoint.epoch + 1, recipe.epochs + 1):
                started = time.monotonic()
                trained = training.epoch(epoch, bar) if epoch else {}
                seconds = time.monotonic() - started
                validation = validate(model, corpus, recipe, epoch)
                checkpoint = checkpoint.after_epoch(epoch, validation, model, optimizer)
                speed = {"queries_per_second": round(per_epoch / seconds)} if epoch else {}
                log.write(epoch, trained, validation, speed)
                state = f"epoch {epoch}/{recipe.epochs} ELBO {validation['elbo']:.2f}"
                bar.set_postfix_str(state)
                saver.take(checkpoint)
                if progress and bar.disable:  # a log file in place of a terminal
                    print(f"{recipe.name}: {state}", file=sys.stderr, flush=True)
    return checkpoint


def _begin(
    path: Path,
    start: Checkpoint,
    model: Model,
    optimizer: torch.optim.Optimizer,
    corpus: Corpus,
) -> Checkpoint:
    """The checkpoint at `path`, put back into model and optimizer; without one, `start`."""
    if not path.exists():
        model.initialise(corpus.train, Start(start.recipe.reference, start.seed))
        return start
    found = load_checkpoint(path)
    _check_same_run(found, start, path)
    found.restore(model, optimizer)
    return found


@contextmanager
def _alone_in(out: Path, *, wait: bool) -> Iterator[None]:
    """Hold the run folder's lock; raises RunBusy, unless it may `wait`."""
    out.mkdir(parents=True, exist_ok=True)
    busy = RunBusy(
        f"another process is training in {out}",
        hint="Wait until it has ended (--wait does so), or train into another folder",
    )
    with locked_folder(out, None if wait else busy):
        yield


class _Saver:
    """Saves at most every _SAVE_INTERVAL, and the last checkpoint however the run ends."""

    def __init__(self, path: Path, checkpoint: Checkpoint) -> None:
        self._path = path
        self._latest = self._saved = checkpoint
        self._saved_at = -math.inf

    def __enter__(self) -> Self:
        return self

    def take(self, checkpoint: Checkpoint) -> None:
        """The state after one more epoch."""
        self._latest = checkpoint
        if time.monotonic() - self._saved_at > _SAVE_INTERVAL:
            self._save()

    def __exit__(self, *_: object) -> None:
        if self._latest is not self._saved:
            self._save()

    def _save(self) -> None:
        save_checkpoint(self._path, self._latest)
        self._saved, self._saved_at = self._latest, time.monotonic()


@contextmanager
def _kept(checkpoint: Path) -> Iterator[None]:
    """Add to a failed run's error that its last checkpoint is kept, where there is one."""
    try:
        yield
    except (NotFinite, OutOfMemory) as error:
        if checkpoint.exists():
            error.hint += "; the last good checkpoint is kept"
        raise


def _usable(count: int, batch_size: int) -> int:
    return count // batch_size * batch_size


def _check_same_run(found: Checkpoint, wanted: Checkpoint, path: Path) -> None:
    kept, asked = ({**one.recipe.to_dict(), "seed": one.seed} for one in (found, wanted))
    differences = [
        f"{setting} {kept.get(setting)!r}, asked for {asked.get(setting)!r}"
        for setting in kept | asked
        if kept.get(setting) != asked.get(setting)
    ]
    if found.data_sha256 != wanted.data_sha256:
        differences.append(f"data {found.data_sha256[:12]}, asked for {wanted.data_sha256[:12]}")
    if differences:
        raise RunMismatch(
            f"{path} holds another run, with {'; '.join(differences)}",
            hint="Train into another folder, or delete this one",
        )


class _Log:
    """One line of JSON an epoch; forgets epochs that were not saved: they are trained again."""

    def __init__(self, path: Path, checkpoint: Checkpoint) -> None:
        self._path = path
        if path.exists():
            # The first line is of epoch 0; one that was cut short was not saved.
            text = path.read_text(errors="replace")
            kept = "".join(text.splitlines(keepends=True)[: checkpoint.epoch + 1])
            if kept != text:
                write_whole(path, kept.encode())

    def write(self, epoch: int, train: Terms, validation: Terms, speed: dict[str, int]) -> None:
        """Add an epoch; a term's name says of which part it is, such as train_kl_z."""
        parts = {"train": train, "validation": validation}
        terms = {
            f"{part}_{name}": round(value, 4)
            for part, named in parts.items()
            for name, value in named.items()
        }
        with self._path.open("a") as log:
            log.write(json.dumps({"epoch": epoch} | terms | speed) + "\n")


def _fewer(recipe: Recipe) -> str:
    """Which settings to lower where images and model do not fit."""
    # Of its settings, those that are sizes.
    sizes = [name for name, value in model_settings(recipe).items() if type(value) is int]
    return (
        f"Give fewer train_values ({len(recipe.values)}) or lower sizes of the model"
        f" ({', '.join(sizes)}), by --set and with another --out"
    )


def _smaller(recipe: Recipe) -> str:
    """Which settings to lower where a step does not fit."""
    low, high = recipe.context_sizes
    return (
        f"Lower batch_size ({recipe.batch_size}) or context_sizes ({low} to {high}), such as"
        f" `metavae-train run {recipe.name} {_half(recipe)}` with another --out"
    )


def _half(recipe: Recipe) -> str:
    """Options for about half the batch size, in as many sets or, where it is small, in one."""
    half = recipe.batch_size // 2
    if half >= recipe.context_sets:
        return f"--set batch_size={half // recipe.context_sets * recipe.context_sets}"
    return f"--set batch_size={max(1, half)} --set context_sets=1"


def _bar(recipe: Recipe, checkpoint: Checkpoint, per_epoch: int, progress: bool) -> tqdm:
    return tqdm(
        total=recipe.epochs * per_epoch,
        initial=max(checkpoint.epoch, 0) * per_epoch,
        desc=recipe.name,
        unit=" images",
        unit_scale=True,
        disable=None if progress else True,
        smoothing=0.05,
        mininterval=0.5,
    )
