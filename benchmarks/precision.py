"""What bf16 costs in what is learnt: `python benchmarks/precision.py`.

A recipe is trained to its end in fp32 and in bf16, with several seeds. The validation ELBOs and
their differences, seed by seed, go to a JSON file, with a table beside it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from machine import describe_machine
from metavae_training.recipes import Precision, Recipe, recipe
from metavae_training.sweeps.jobs import Job
from metavae_training.sweeps.sweep import check, sweep
from metavae_training.trainer.checkpoint import Checkpoint
from metavae_training.trainer.device import choose_device
from metavae_zoo.console import HELP_OPTIONS, ShowsErrors
from metavae_zoo.evaluation.statistics import interval_over_runs
from metavae_zoo.files import make_writable
from metavae_zoo.markdown import markdown_table
from publish import out_option, publish

SCHEMA = 1
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")
RESULTS = Path(__file__).parent / "results" / "precision.json"
_EMULATED = """ The
processor has no bf16 of its own: products of bf16 numbers were computed in fp32 and rounded, which
is the same arithmetic but for the order of the additions."""


@click.command(cls=ShowsErrors, context_settings=HELP_OPTIONS)
@click.option("--recipe", "name", default="metavae-mnist-scale-contiguous", show_default=True)
@click.option("--seeds", type=click.IntRange(2), default=3, show_default=True)
@click.option("--epochs", type=click.IntRange(1), help="[default: the recipe's]")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto")
@click.option("--workers", type=click.IntRange(1), help="Runs at once [default: one per core].")
@click.option(
    "--runs",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("runs/precision"),
    show_default=True,
    help="Folder of the trainings; those that are finished there are not repeated.",
)
@out_option(RESULTS)
def main(
    name: str,
    seeds: int,
    epochs: int | None,
    device: str,
    workers: int | None,
    runs: Path,
    out: Path,
) -> None:
    """Train a recipe in fp32 and in bf16, and compare the validation ELBOs seed by seed.

    A seed's two trainings start at the same weights and draw the same batches, contexts and noise.
    Validation is in fp32 for both, so what is compared is what was learnt. An interrupted
    comparison goes on where it was.
    """
    make_writable(out.parent)
    chosen = recipe(name)
    if epochs:
        chosen = chosen.changed({"epochs": epochs})
    jobs = [
        _job(chosen, precision, seed, runs) for seed in range(seeds) for precision in PRECISIONS
    ]
    check(
        sweep(
            jobs,
            workers=workers,
            device=device,
            report=lambda outcome: print(outcome, file=sys.stderr),
        )
    )
    result = {
        "schema": SCHEMA,
        "machine": describe_machine(choose_device(device), threads=1),
        "recipe": chosen.to_dict(),
        "validation": {
            precision: [_trained(job).best_validation for job in jobs if _is_in(job, precision)]
            for precision in PRECISIONS
        },
    }
    text = markdown(result)
    publish(out, result, text)
    click.echo(text)


def _job(chosen: Recipe, precision: Precision, seed: int, runs: Path) -> Job:
    return Job(
        chosen.changed({"precision": precision}), seed, runs / precision / chosen.name / f"{seed}"
    )


def _is_in(job: Job, precision: Precision) -> bool:
    return job.recipe.precision == precision


def _trained(job: Job) -> Checkpoint:
    saved = job.saved()
    assert saved is not None  # noqa: S101 - the sweep has succeeded
    return saved


def markdown(result: dict[str, Any]) -> str:
    """The page that a result file becomes."""
    fp32, bf16 = (result["validation"][precision] for precision in PRECISIONS)
    differences = [ours["elbo"] - theirs["elbo"] for ours, theirs in zip(bf16, fp32, strict=True)]
    over_seeds = interval_over_runs(differences)
    rows = [
        [
            str(seed),
            *(f"{one['elbo']:.2f} ({one['kl_z']:.1f})" for one in (fp32[seed], bf16[seed])),
            f"{difference:+.2f}",
        ]
        for seed, difference in enumerate(differences)
    ]
    mean = [f"{sum(one['elbo'] for one in of) / len(of):.2f}" for of in (fp32, bf16)]
    around = "" if over_seeds.half_width is None else f" ± {over_seeds.half_width:.2f}"
    rows.append(["mean", *mean, f"{over_seeds.mean:+.2f}{around}"])
    recipe_of, machine = result["recipe"], result["machine"]
    emulated = "" if machine["bf16"] else _EMULATED
    return f"""# What bf16 costs in what is learnt

{markdown_table(["training seed", "fp32", "bf16", "bf16 - fp32"], rows)}

Validation ELBO in nats per image, and KL(z) in brackets, of `{recipe_of["name"]}` after
{recipe_of["epochs"]} epochs. ±: 95% interval over training seeds (Student's t), paired by seed:
both trainings start at the same weights and draw the same batches, contexts and noise. Validation
is in fp32 for both.{emulated}

Made by `python benchmarks/precision.py` at commit {machine["commit"]}, on
{machine["gpu"] or machine["processor"]}.
"""


if __name__ == "__main__":
    main()
