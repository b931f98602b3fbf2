"""What each change to the encoder gave: `python benchmarks/encoder_changes.py`.

Every encoder that was tried on the way to wavelet-metavae, fitted and judged on training values
alone. Writes every accuracy to a JSON file, which is the place to go on from after a stop, and a
page with the table beside it; the project's own goes to docs/.
"""

from __future__ import annotations

from pathlib import Path

import click
import torch
from tqdm import tqdm

from encoder.changes import CHANGES, Change
from encoder.closed import pixel_components
from encoder.inner import Encode, Inner, Sizes
from encoder.report import markdown
from encoder.results import Results
from encoder.trained import Trained
from metavae_training.options import THREADS
from metavae_training.recipes import recipe
from metavae_training.trainer.allocator import keep_freed_memory
from metavae_zoo.console import HELP_OPTIONS, ShowsErrors
from metavae_zoo.evaluation.classifiers import fitting_pool
from metavae_zoo.families import family
from metavae_zoo.files import write_whole

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "encoder-changes.json"
PAGE = ROOT / "docs" / "encoder-changes.md"
_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(cls=ShowsErrors, context_settings=HELP_OPTIONS)
@click.option(
    "--data",
    type=click.Choice(["mnist", "digits"]),
    default="mnist",
    show_default=True,
    help="digits: a quick look, on few and small images; give an --out.",
)
@click.option(
    "--change",
    "names",
    type=click.Choice([change.name for change in CHANGES]),
    metavar="NAME",
    multiple=True,
    help="Only this one; repeatable.",
)
@click.option("--threads", type=THREADS, help="CPU threads [default: all cores].")
@click.option("--out", type=_FILE, default=RESULTS, show_default=True)
@click.option("--page", type=_FILE, help="[default: OUT.md; of the project's own results, docs/]")
def main(
    data: str, names: tuple[str, ...], threads: int | None, out: Path, page: Path | None
) -> None:
    """Judge every change to the encoder inside the training values, and write the table.

    What OUT holds of the same encoders is not measured again.
    """
    keep_freed_memory()
    torch.set_num_threads(threads or torch.get_num_threads())
    sizes = Sizes() if data == "mnist" else Sizes(encoder=500, train=350, test=200)
    inners = [Inner(family(f"{data}-{axis}"), sizes) for axis in ("rotation", "scale", "skew")]
    results = Results(out, inners)
    todo = [
        (change, inner)
        for change in CHANGES
        for inner in inners
        if (not names or change.name in names) and not results.has(change, inner)
    ]
    with fitting_pool() as pool, tqdm(todo, disable=None) as bar:
        for change, inner in bar:
            bar.set_postfix_str(f"{change.name}, {inner.family.name}")
            results.add(change, inner, inner.accuracies(_fitted(change, inner), pool))
    shown = out.resolve()
    source = shown.relative_to(ROOT) if shown.is_relative_to(ROOT) else shown
    page = page or (PAGE if shown == RESULTS else out.with_suffix(".md"))
    text = markdown(results.to_dict(), str(source))
    write_whole(page, text.encode())
    click.echo(text)


def _fitted(change: Change, inner: Inner) -> Encode:
    images = inner.fitted_images()
    if change.encoder is None:
        return pixel_components(images)
    shipped = recipe(f"wavelet-metavae-{inner.family.name}-contiguous")
    if isinstance(change.encoder, Trained):
        return change.encoder.fit(images, shipped)
    return change.encoder.fit(images, **shipped.model_settings)


if __name__ == "__main__":
    main()
