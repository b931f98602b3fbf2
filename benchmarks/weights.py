"""What storing weights in fewer bytes costs: `python benchmarks/weights.py CHECKPOINT...`.

Each checkpoint is exported with its weights as they are, in half and in a quarter of the bytes.
How far that moves the codes, and what the probe makes of them, goes to a JSON file, with a table
beside it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import click
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from metavae_training.exporting.export import export
from metavae_training.paper.measure.distances import spread_of
from metavae_training.trainer.checkpoint import Checkpoint, load_checkpoint
from metavae_zoo.bundles.bundle import Bundle
from metavae_zoo.bundles.card import Weights
from metavae_zoo.commit import code_commit
from metavae_zoo.console import HELP_OPTIONS, ShowsErrors
from metavae_zoo.embedding.embedder import OnnxEmbedder
from metavae_zoo.embedding.summary import CONTEXT_SIZE
from metavae_zoo.evaluation.kept import kept_probe
from metavae_zoo.evaluation.settings import ProbeSettings
from metavae_zoo.families import family
from metavae_zoo.files import make_writable
from metavae_zoo.markdown import markdown_table
from publish import out_option, publish

SCHEMA = 1
RESULTS = Path(__file__).parent / "results" / "weights.json"
STORAGES: tuple[Weights, ...] = get_args(Weights)


@dataclass(frozen=True)
class Stored:
    """A model with its weights stored in one way, and what came of it."""

    model: str
    seed: int
    weights: Weights
    bytes: int
    moved: float  # root mean squared distance of codes from fp32's, as part of fp32's spread
    accuracies: dict[str, float]  # by held-out value


@click.command(cls=ShowsErrors, context_settings=HELP_OPTIONS)
@click.argument(
    "checkpoints", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path)
)
@click.option("--train-size", type=click.IntRange(1), help="Train images per value [default: all].")
@click.option("--test-size", type=click.IntRange(1), help="Test images per value [default: all].")
@out_option(RESULTS)
def main(
    checkpoints: tuple[Path, ...], train_size: int | None, test_size: int | None, out: Path
) -> None:
    """Export each CHECKPOINT with every storage of its weights, and probe all of them."""
    make_writable(out.parent)
    sizes = {"train_size": train_size, "test_size": test_size}
    runs = [load_checkpoint(path) for path in checkpoints]
    with TemporaryDirectory(prefix="metavae-") as scratch:
        # All before anything is probed, for minutes each: what cannot be exported shows now.
        exported = [
            _all_storages(run, Path(scratch) / str(number))
            for number, run in enumerate(tqdm(runs, "exports", disable=None))
        ]
        found = [
            stored
            for run, bundles in zip(runs, tqdm(exported, "models", disable=None), strict=True)
            for stored in _compared(run, bundles, sizes)
        ]
    result = {
        "schema": SCHEMA,
        "commit": code_commit(),
        "sizes": sizes,
        "stored": [vars(stored) for stored in found],
    }
    text = markdown(result)
    publish(out, result, text)
    click.echo(text)


def _all_storages(run: Checkpoint, folder: Path) -> dict[Weights, Bundle]:
    return {weights: _exported(run, weights, folder / weights) for weights in STORAGES}


def _compared(
    run: Checkpoint, bundles: dict[Weights, Bundle], sizes: dict[str, int | None]
) -> list[Stored]:
    codes = {weights: _codes(bundle) for weights, bundle in bundles.items()}
    spread = spread_of(codes["fp32"])
    return [
        Stored(
            model=run.recipe.name,
            seed=run.seed,
            weights=weights,
            bytes=bundle.size,
            moved=float(np.sqrt(((codes[weights] - codes["fp32"]) ** 2).sum(1).mean())) / spread,
            accuracies=_accuracies(bundle, sizes),
        )
        for weights, bundle in bundles.items()
    ]


def _exported(run: Checkpoint, weights: Weights, folder: Path) -> Bundle:
    recipe = run.recipe.changed({"weights": weights})
    return export(dataclasses.replace(run, recipe=recipe), folder / recipe.name)


def _codes(bundle: Bundle) -> NDArray[np.float64]:
    """Posterior means of test images at the first held-out value: [image, code]."""
    card = bundle.card
    images = family(card.family).images(card.held_out_values[0], "test", None)
    embedder = OnnxEmbedder(bundle)
    summary = embedder.summarize(images[:CONTEXT_SIZE]) if card.needs_context else None
    return embedder.embed(images[CONTEXT_SIZE:], summary).mean.astype(np.float64)


def _accuracies(bundle: Bundle, sizes: dict[str, int | None]) -> dict[str, float]:
    card = bundle.card
    settings = ProbeSettings(
        card.family,
        card.split,
        train_size=sizes.get("train_size"),
        test_size=sizes.get("test_size"),
        contexts=1,
        floors=(),
    )
    values = kept_probe(bundle, settings)["values"]
    return {f"{at['value']:g}": at["draws"][0] for at in values}


def markdown(result: dict[str, Any]) -> str:
    """The page that a result file becomes."""
    rows, plain = [], {}
    for stored in result["stored"]:
        accuracies = np.array(list(stored["accuracies"].values()))
        if stored["weights"] == "fp32":
            plain = {"bytes": stored["bytes"], "accuracies": accuracies}
        change = 100 * (accuracies - plain["accuracies"])
        rows.append(
            [
                f"{stored['model']}, seed {stored['seed']}",
                stored["weights"],
                f"{stored['bytes'] / 1e6:.1f} MB",
                f"{stored['moved']:.2%}",
                f"{accuracies.mean():.4f}",
                f"{change.mean():+.2f} ({change.min():+.2f} to {change.max():+.2f})",
            ]
        )
    head = ["model", "weights", "bundle", "codes move by", "accuracy", "change, points"]
    return f"""# What storing weights in fewer bytes costs

{markdown_table(head, rows)}

*Codes move by*: root mean squared L2 distance of the codes (posterior means) of test images from
those of fp32, divided by the spread of fp32's codes. *Accuracy*: of the linear probe, mean over the
held-out values, one context draw, {result["sizes"]["train_size"] or "all"} training images and
{result["sizes"]["test_size"] or "all"} test images a value. *Change*: from fp32, mean (lowest to
highest of the held-out values).

Made by `python benchmarks/weights.py` at commit {result["commit"]}.
"""


if __name__ == "__main__":
    main()
