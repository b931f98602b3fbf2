"""`metavae-zoo build`, which the zoo finds as an entry point: it needs training."""

from __future__ import annotations

from pathlib import Path

import click

from metavae_zoo.cli import card_page
from metavae_zoo.console import HELP_OPTIONS, PATH, ShowsErrors
from metavae_zoo.stopping import stoppable


@click.command(cls=ShowsErrors, context_settings=HELP_OPTIONS)
@click.argument("name")
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True, help="Runs.")
@click.option(
    "--contexts",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    help="Context draws that each run is probed with.",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where to train.",
)
@click.option(
    "--runs",
    type=PATH,
    default=Path("runs"),
    show_default=True,
    help="Where training runs lie; runs that are there are resumed, finished ones kept.",
)
@click.option(
    "--out",
    type=PATH,
    help="Folder that takes the bundle [default: the user's zoo].",
)
def build(name: str, seeds: int, contexts: int, device: str, runs: Path, out: Path | None) -> None:
    """Train, export and measure model NAME, and put the results on its card.

    Trains the recipe of this name with several seeds, keeps the one with the best validation ELBO
    (no held-out value is looked at to choose), and probes every seed on the held-out values.
    """
    from metavae_training.release import build as build_model

    with stoppable(lambda: "every epoch that was saved and every probe that was finished is kept"):
        bundle = build_model(
            name, seeds=seeds, contexts=contexts, device=device, runs=runs, out=out
        )
    click.echo(card_page(bundle))
