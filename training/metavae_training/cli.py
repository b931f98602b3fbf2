"""`metavae-train`: recipes to checkpoints to bundles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from metavae_training.options import DATA_ROOT, DEVICE, SETTINGS, THREADS
from metavae_training.paper.cli import paper
from metavae_training.trainer.allocator import keep_freed_memory
from metavae_zoo.console import HELP_OPTIONS, PATH, Commands, version_option
from metavae_zoo.stopping import end_with_starter, stoppable


@click.group(cls=Commands, context_settings=HELP_OPTIONS)
@version_option
def main() -> None:
    """Train metavae models over families of distributions and export them to ONNX.

    A run goes from a named recipe to a checkpoint, an export from a checkpoint to a bundle that
    `metavae-zoo add` takes up and `metavae-serve pack` serves.
    """
    keep_freed_memory()


@main.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print every recipe with its settings.")
def list_recipes(as_json: bool) -> None:
    """List the recipes, with how long each trains and on how many images at a step.

    A step sees `batch` images of every training distribution. A recipe of 0 epochs is computed in
    closed form, or learns a canonicaliser before its epochs.
    """
    from metavae_training.recipes import RECIPES

    if as_json:
        from metavae_training.trainer.build import all_settings

        click.echo(json.dumps([all_settings(recipe) for recipe in RECIPES.values()], indent=2))
        return
    width = max(map(len, RECIPES))
    for recipe in RECIPES.values():
        click.echo(f"{recipe.name:{width}}  {recipe.epochs:4d} epochs, batch {recipe.batch_size}")


@main.command()
@click.argument("recipe")
@DEVICE
@click.option(
    "--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Of everything."
)
@click.option(
    "--epochs",
    type=click.IntRange(0),
    help="Instead of the recipe's own number; 0 keeps the model as it is initialised. A warm-up of"
    " the KL that is longer ends with the training.",
)
@SETTINGS
@click.option(
    "--out",
    type=PATH,
    help="Folder of the run [default: runs/RECIPE/seed-SEED].",
)
@click.option("--threads", type=THREADS, help="CPU threads [default: all cores].")
@click.option(
    "--wait", is_flag=True, help="Where another process trains into the folder, wait for its end."
)
@DATA_ROOT
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def run(
    recipe: str,
    device: str,
    seed: int,
    epochs: int | None,
    settings: dict[str, Any],
    out: Path | None,
    threads: int | None,
    wait: bool,
    data_root: Path | None,
    as_json: bool,
) -> None:
    """Train RECIPE; started again on the same folder, it goes on where it was stopped.

    A run that was killed and resumed ends in the same weights, to the bit, as one that was not
    (on the CPU, with the same number of threads).
    """
    from metavae_training.recipes import recipe as recipe_named
    from metavae_training.sweeps.jobs import Job

    chosen = recipe_named(recipe)
    if epochs and chosen.epochs == 0:
        raise click.BadParameter(
            f"{recipe} is computed, and has no epochs to be trained for", param_hint="--epochs"
        )
    chosen = chosen.changed(settings | ({} if epochs is None else {"epochs": epochs}))

    import torch  # after the names are checked: it takes a second

    from metavae_training.trainer.device import choose_device
    from metavae_training.trainer.fit import fit

    if threads:
        torch.set_num_threads(threads)
    out = out or Path("runs") / recipe / f"seed-{seed}"
    job = Job(chosen, seed, out)
    if job.checkpoint.exists():
        click.echo(f"{out}: {job.state()}", err=True)
    with stoppable(lambda: f"{out}: {job.state()}"):
        end_with_starter()
        checkpoint = fit(
            chosen,
            out=out,
            seed=seed,
            device=choose_device(device),
            data_root=data_root,
            progress=True,
            wait=wait,
        )
    result = {
        "checkpoint": str(job.checkpoint),
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
@click.argument("patterns", metavar="PATTERN...", nargs=-1, required=True)
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True, help="0, 1, ...")
@click.option(
    "--workers",
    type=click.IntRange(1),
    help="Runs at once  [default: one per core; one on a GPU, give more where it has room].",
)
@click.option("--threads", type=THREADS, default=1, show_default=True, help="CPU threads of a run.")
@DEVICE
@click.option("--epochs", type=click.IntRange(0), help="Instead of the recipes' own numbers.")
@click.option(
    "--runs",
    type=PATH,
    default=Path("runs"),
    show_default=True,
    help="Folder of the runs, which are in RECIPE/seed-SEED.",
)
@DATA_ROOT
@click.option("--dry-run", is_flag=True, help="List what would be trained and what is finished.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON per run.")
def sweep(
    patterns: tuple[str, ...],
    seeds: int,
    workers: int | None,
    threads: int,
    device: str,
    epochs: int | None,
    runs: Path,
    data_root: Path | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Train every recipe that a PATTERN matches, such as '*-contiguous', with several seeds.

    Finished runs are not repeated, interrupted ones go on, and one that fails does not stop the
    others.
    """
    from metavae_training.sweeps.jobs import jobs_of, matching

    found = matching(patterns)
    if epochs is not None:  # of those that have any: others are computed
        found = [one.changed({"epochs": epochs}) if one.epochs else one for one in found]
    jobs = jobs_of(found, seeds, runs)
    if dry_run:
        for job in jobs:
            state = {"recipe": job.recipe.name, "seed": job.seed, "state": job.state()}
            click.echo(json.dumps(state) if as_json else f"{job}: {job.state()}")
        return

    from metavae_training.sweeps import sweep as sweeping  # loads torch

    def tell(outcome: sweeping.Outcome) -> None:
        with tqdm.external_write_mode():
            click.echo(json.dumps(outcome.to_dict()) if as_json else outcome)

    sweeping.check(
        sweeping.sweep(
            jobs, workers=workers, threads=threads, device=device, data_root=data_root, report=tell
        )
    )


def _model_name(context: click.Context, option: click.Parameter, name: str | None) -> str | None:
    """The name of a model, which becomes a folder's and an address's."""
    from pydantic import TypeAdapter, ValidationError

    from metavae_zoo.bundles.card import ModelName

    try:
        return name and TypeAdapter(ModelName).validate_python(name)
    except ValidationError:
        raise click.BadParameter(
            f"{name!r} is no name of a model: small letters and digits, in parts with a hyphen"
            " between them, 100 characters at most"
        ) from None


@main.command()
@click.argument("checkpoint", type=PATH)
@click.option("--out", type=PATH, help="Bundle folder [default: NAME, beside CHECKPOINT].")
@click.option(
    "--name",
    callback=_model_name,
    help="What the model is called, to be served beside others.  [default: as its recipe]",
)
@DATA_ROOT
@click.option("--json", "as_json", is_flag=True, help="Print the card as JSON.")
def export(
    checkpoint: Path, out: Path | None, name: str | None, data_root: Path | None, as_json: bool
) -> None:
    """Export the best weights of CHECKPOINT to a bundle of two ONNX graphs.

    ONNX Runtime must agree with torch within 1e-5 (1e-3 for models that infer a site), or nothing
    is written.
    """
    from metavae_training.exporting.export import export as export_bundle
    from metavae_training.trainer.checkpoint import load_checkpoint

    state = load_checkpoint(checkpoint)
    out = out or checkpoint.parent / (name or state.recipe.name)
    bundle = export_bundle(state, out, name=name, data_root=data_root)
    if as_json:
        click.echo(bundle.card.to_json())
    else:
        click.echo(f"{bundle.path}: {bundle.size / 1e6:.1f} MB, digest {bundle.card.digest[:12]}")


main.add_command(paper)
