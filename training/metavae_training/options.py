"""Options that several commands of `metavae-train` have."""

from __future__ import annotations

import click

from metavae_zoo.console import PATH

THREADS = click.IntRange(1, 512)  # more than that, and OpenMP takes the process down

DATA_ROOT = click.option(
    "--data-root",
    type=PATH,
    help="Folder that holds MNIST/raw.  [default: METAVAE_DATA, else the cache, else downloaded]",
)

DEVICE = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="`cuda` is refused where there is none; `auto` takes it where there is one.",
)
