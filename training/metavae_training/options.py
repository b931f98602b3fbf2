"""Options that several commands of `metavae-train` have."""

from __future__ import annotations

from typing import Any

import click

from metavae_zoo.console import PATH
from metavae_zoo.parsing import parse_json

THREADS = click.IntRange(1, 512)  # more than that, and OpenMP takes the process down

DATA_ROOT = click.option(
    "--data-root",
    type=PATH,
    help="Folder that holds MNIST/raw.  [default: METAVAE_DATA, else the cache, else downloaded]",
)


def _settings(
    context: click.Context, option: click.Parameter, words: tuple[str, ...]
) -> dict[str, Any]:
    """`SETTING=VALUE` words as a dict; values are JSON, or else plain strings."""
    settings = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise click.BadParameter(f"{word!r} is not SETTING=VALUE")
        try:
            settings[name] = parse_json(value)
        except ValueError:
            settings[name] = value
    return settings


SETTINGS = click.option(
    "--set",
    "settings",
    metavar="SETTING=VALUE",
    multiple=True,
    callback=_settings,
    help="Another setting of the recipe or its model, such as `--set batch_size=50`; repeatable."
    " `metavae-train list --json` shows all of them with their values.",
)

DEVICE = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="`cuda` is refused where there is none; `auto` takes it where there is one.",
)
