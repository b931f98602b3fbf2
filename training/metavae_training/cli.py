"""`metavae-train`: recipes to checkpoints to bundles."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from metavae_zoo.console import HELP_OPTIONS, Commands, version_option

_DATA_ROOT = click.option(
    "--data-root",
    type=click.Path(path_type=Path),
    help="Folder that holds MNIST/raw; else METAVAE_DATA, else the cache, else downloaded there.",
)


@click.group(cls=Commands, context_settings=HELP_OPTIONS)
@version_option
def main() -> None:
    """Train metavae models over families of distributions and export them to ONNX.

    A run goes from a named recipe to a checkpoint, an export from a checkpoint to a bundle that
    `metavae-zoo add` takes up and `metavae-serve pack` serves.
    """


@main.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print every recipe with its settings.")
def list_recipes(as_json: bool) -> None:
    """List the recipes."""
    from metavae_training.recipes import RECIPES

    if as_json:
        click.echo(json.dumps([recipe.to_dict() for recipe in RECIPES.values()], indent=2))
        return
    width = max(map(len, RECIPES))
    for recipe in RECIPES.values():
        click.echo(f"{recipe.name:{width}}  {recipe.epochs:4d} epochs of {recipe.batch_size}")


@main.command()
@click.argument("recipe")
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="`cuda` is refused where there is none; `auto` takes it where there is one.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of everything.")
@click.option("--epochs", type=click.IntRange(1), help="Instead of the recipe's own number.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder of the run [default: runs/RECIPE/seed-SEED].",
)
@click.option("--threads", type=click.IntRange(1), help="CPU threads [default: all cores].")
@_DATA_ROOT
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def run(
    recipe: str,
    device: str,
    seed: int,
    epochs: int | None,
    out: Path | None,
    threads: int | None,
    data_root: Path | None,
    as_json: bool,
) -> None:
    """Train RECIPE; started again on the same folder, it goes on where it was stopped.

    A run that was killed and resumed ends in the same weights, to the bit, as one that was not
    (on the CPU, with the same number of threads).
    """
    import torch

    from metavae_training.fit import CHECKPOINT, choose_device, fit
    from metavae_training.recipes import recipe as recipe_named

    chosen = recipe_named(recipe)
    if epochs:
        chosen = dataclasses.replace(chosen, epochs=epochs)
    if threads:
        torch.set_num_threads(threads)
    out = out or Path("runs") / recipe / f"seed-{seed}"
    checkpoint = fit(
        chosen,
        out=out,
        seed=seed,
        device=choose_device(device),
        data_root=data_root,
        progress=True,
    )
    result = {
        "checkpoint": str(out / CHECKPOINT),
        "epochs": checkpoint.epoch,
        "best_epoch": checkpoint.best_epoch,
        "validation_elbo": checkpoint.best_validation_elbo,
    }
    if as_json:
        click.echo(json.dumps(result))
    else:
        click.echo(
            f"{result['checkpoint']}: epoch {checkpoint.best_epoch} of {checkpoint.epoch} is best,"
            f" validation ELBO {checkpoint.best_validation_elbo:.3f} nats per image"
        )


@main.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), help="Bundle folder [default: beside CHECKPOINT]."
)
@_DATA_ROOT
@click.option("--json", "as_json", is_flag=True, help="Print the card as JSON.")
def export(checkpoint: Path, out: Path | None, data_root: Path | None, as_json: bool) -> None:
    """Export the best weights of CHECKPOINT to a bundle of two ONNX graphs.

    ONNX Runtime must agree with torch within 1e-5, or nothing is written.
    """
    from metavae_training.checkpoint import load_checkpoint
    from metavae_training.export import export as export_bundle

    state = load_checkpoint(checkpoint)
    bundle = export_bundle(state, out or checkpoint.parent / state.recipe.name, data_root=data_root)
    if as_json:
        click.echo(bundle.card.to_json())
    else:
        click.echo(f"{bundle.path}: {bundle.size / 1e6:.1f} MB, digest {bundle.card.digest[:12]}")
