"""How a benchmark leaves what it found: every number in a JSON file, and the page beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from metavae_zoo.files import write_whole


def out_option(results: Path | Mapping[str, Path]) -> Callable[[Any], Any]:
    """`--out`: by default the `results` of the project, or of the device where they are several.

    Its value is None where they are several and none is given.
    """
    path = click.Path(dir_okay=False, path_type=Path)
    if isinstance(results, Path):
        where = f"benchmarks/results/{results.name}"
        return click.option("--out", type=path, default=results, show_default=where)
    names = ", ".join(f"{path.name} on {device}" for device, path in results.items())
    return click.option("--out", type=path, help=f"[default: {names}, in benchmarks/results]")


def publish(out: Path, result: dict[str, Any], page: str) -> None:
    """Write `result` to `out` and its page beside it, each whole or not at all."""
    write_whole(out, (json.dumps(result, indent=1) + "\n").encode())
    write_whole(out.with_suffix(".md"), page.encode())
