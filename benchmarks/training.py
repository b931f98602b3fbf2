"""How fast metavae trains: `python benchmarks/training.py`.

In one run on one machine, turn by turn: metavae's own training step in fp32 and bf16, the plain
loop that it replaces, and the machine's rate of matrix products, of the step's own shapes and of
a large square. Writes every turn to a JSON file, and a table beside it.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
import torch
from tqdm import tqdm

from machine import describe_machine, has_bf16
from metavae_training.options import THREADS
from metavae_training.recipes import Recipe, recipe
from metavae_training.trainer.data import load_corpus
from metavae_training.trainer.device import choose_device
from metavae_zoo.console import HELP_OPTIONS, ShowsErrors
from metavae_zoo.errors import DataUnavailable, MetavaeError
from metavae_zoo.files import make_writable
from publish import out_option, publish
from report import TARGETS, markdown, summarise, table
from variants import PLAIN, STEPS, Key, Turn
from workers import Job, Worker

SCHEMA = 2
MNIST, DIGITS = "metavae-mnist-rotation-contiguous", "metavae-digits-rotation-contiguous"
RESULTS = {
    "cpu": Path(__file__).parent / "results" / "training.json",
    "cuda": Path(__file__).parent / "results" / "training-cuda.json",
}

# What is divided by one another takes turns one after another.
VARIANTS: list[Key] = [
    (PLAIN, "fp32"),
    ("metavae", "fp32"),
    ("same shapes", "fp32"),
    ("square", "fp32"),
    ("metavae", "bf16"),
    ("same shapes", "bf16"),
    ("square", "bf16"),
]


@click.command(cls=ShowsErrors, context_settings=HELP_OPTIONS)
@click.option("--recipe", "name", help=f"[default: {MNIST}, or {DIGITS} where MNIST is not]")
@click.option("--threads", type=THREADS, help="CPU threads [default: all cores].")
@click.option("--device", type=click.Choice(list(RESULTS)), default="cpu", show_default=True)
@click.option(
    "--seconds", type=click.FloatRange(0), default=5.0, show_default=True, help="Of each turn."
)
@click.option("--repeats", type=click.IntRange(1), default=7, show_default=True, help="Turns each.")
@out_option(RESULTS)
def main(
    name: str | None,
    threads: int | None,
    device: str,
    seconds: float,
    repeats: int,
    out: Path | None,
) -> None:
    """Measure metavae's training step against a plain loop and the machine's matrix products.

    Every time is taken on this machine in this run, in turns that alternate; ratios are of turns
    of the same round. Run it on a machine that does nothing else.
    """
    out = out or RESULTS[device]
    make_writable(out.parent)
    place = choose_device(device)
    threads = threads or torch.get_num_threads()
    torch.set_num_threads(threads)
    chosen, images = _load(name)
    result: dict[str, Any] = {
        "schema": SCHEMA,
        "machine": describe_machine(place, threads),
        "recipe": chosen.to_dict(),
        "images": list(images.shape),
        "turn_seconds": seconds,
        "targets": TARGETS[device],
    }
    result |= summarise(*_measure(chosen, images, place, threads, seconds, repeats))
    shown = table(result)
    publish(out, result, markdown(result))
    click.echo(f"{shown}\n\nwritten to {out}")


def _load(name: str | None) -> tuple[Recipe, np.ndarray]:
    """The recipe and its training images, uint8 [distribution, image, pixel]."""
    chosen = recipe(name or MNIST)
    if chosen.model != "metavae":
        raise MetavaeError(
            f"recipe {chosen.name} trains a {chosen.model}, and the plain loop is a MetaVAE's",
            hint=f"Give a recipe of a metavae, such as {DIGITS}",
        )
    try:
        corpus = load_corpus(chosen, None, torch.device("cpu"))
    except DataUnavailable as error:
        if name:
            raise
        click.echo(f"{error.message}: {DIGITS} is measured instead", err=True)
        return _load(DIGITS)
    return chosen, corpus.train.numpy()


def _measure(
    chosen: Recipe,
    images: np.ndarray,
    device: torch.device,
    threads: int,
    seconds: float,
    repeats: int,
) -> tuple[dict[Key, list[Turn]], dict[Key, dict[str, int]]]:
    """All turns of every variant, and the memory of its process."""
    variants = [key for key in VARIANTS if key[1] == "fp32" or has_bf16(device)]
    with TemporaryDirectory() as scratch, ExitStack() as stack:
        whole, few = Path(scratch, "images.npy"), Path(scratch, "few.npy")
        np.save(whole, images)
        np.save(few, images[:, : 3 * (chosen.batch_size + chosen.context_sizes[1])])
        workers = []
        for kind, precision in variants:
            # A training step reads images from everywhere; products need their shapes only.
            file = whole if kind in STEPS else few
            job = Job(kind, precision, chosen, file, device.type, threads)
            workers.append(stack.enter_context(Worker(job)))
        for worker in tqdm(workers, "starting", unit=" processes", disable=None):
            worker.wait()
        turns: dict[Key, list[Turn]] = {key: [] for key in variants}
        for _ in tqdm(range(repeats), "measuring", unit=" rounds", disable=None):
            for worker in workers:
                turns[worker.key].append(worker.turn(seconds))
        memory = {worker.key: worker.memory() for worker in workers}
    return turns, memory


if __name__ == "__main__":
    main()
