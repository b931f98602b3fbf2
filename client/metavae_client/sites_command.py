"""`metavae-client sites`."""

from __future__ import annotations

import os
import textwrap
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from metavae_client.options import json_option, server_options
from metavae_zoo.bundles.card import Interval, ModelCard
from metavae_zoo.console import PATH
from metavae_zoo.embedding.embedder import check_site
from metavae_zoo.embedding.site import describe
from metavae_zoo.evaluation.reporting.table import protocol_line
from metavae_zoo.evaluation.settings import ProbeSettings
from metavae_zoo.evaluation.statistics import with_interval
from metavae_zoo.families import family
from metavae_zoo.families.mnist import FILES, RAW
from metavae_zoo.places import cache_folder

if TYPE_CHECKING:
    from metavae_client.sites import SiteEmbedder, SitesResult

_DRAWS = 1
_SIZE = 10  # images of a context
_LONGEST = 88  # characters of what was inferred


@click.command()
@click.option(
    "--family",
    "family_name",
    help="What varies from site to site.  [default: mnist-scanner or digits-scanner, by the"
    " data set of --model; without --model by whether MNIST is on this machine]",
)
@click.option("--split", default="contiguous", show_default=True, help="Which sites are held out.")
@click.option(
    "--model",
    envvar="METAVAE_MODEL",
    show_envvar=True,
    help="A model that infers sites.  [default: canonical-wavelet-<data set>]",
)
@server_options
@click.option("--in-process", is_flag=True, help="Run the zoo's model here, without a server.")
@click.option(
    "--context-size",
    type=click.IntRange(1),
    default=_SIZE,
    show_default=True,
    help="Unlabelled images of a site.",
)
@click.option(
    "--contexts",
    type=click.IntRange(1, 1000),
    default=_DRAWS,
    show_default=True,
    help="Context draws, over which the intervals are.",
)
@click.option(
    "--train-size",
    type=click.IntRange(1),
    help="Labelled images per training site.  [default: 2,000, or what there is]",
)
@click.option(
    "--test-size",
    type=click.IntRange(1),
    help="Test images per held-out site.  [default: 2,000, or what there is]",
)
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True)
@click.option(
    "--data-root",
    type=PATH,
    help="Folder that holds MNIST/raw.  [default: METAVAE_DATA, else the cache, else downloaded]",
)
@click.option(
    "--picture",
    type=PATH,
    help="Draw sites as they come and as the model sees them: .png, .svg or .pdf.",
)
@click.option("--rows", type=click.IntRange(1, 40), help="Sites in the --picture.  [default: 6]")
@json_option
def sites(
    family_name: str | None,
    split: str,
    model: str | None,
    url: str,
    token_file: Path | None,
    in_process: bool,
    context_size: int,
    contexts: int,
    train_size: int | None,
    test_size: int | None,
    seed: int,
    data_root: Path | None,
    picture: Path | None,
    rows: int | None,
    as_json: bool,
) -> None:
    """Measure what a few unlabelled images give at sites never seen.

    One classifier is fitted on embeddings of labelled images at the training sites, and tested at
    each held-out site: without (every image under a context of the reference site, so as it comes)
    and with a context of the site's own images. This is `probe --protocol transfer`, run twice.
    """
    from metavae_client.picture import ROWS, check_picture_path, save_picture
    from metavae_client.sites import compare_sites

    if family_name:
        family(family_name).split(split)  # an unknown name is told before a server is asked
    if rows and not picture:
        raise click.UsageError("--rows is for --picture, which was not given")
    if picture:
        check_picture_path(picture)
    name = model or f"canonical-wavelet-{data_set_of(family_name, data_root)}"
    with _embedder(name, url, token_file, in_process) as embedder:
        check_site(embedder.card)
        settings = ProbeSettings(
            family=family_name or _scanner(embedder.card),
            split=split,
            train_size=train_size,
            test_size=test_size,
            contexts=contexts,
            context_size=context_size,
            seed=seed,
        )
        result = compare_sites(embedder, settings, data_root=data_root, progress=True)
    click.echo(result.to_json() if as_json else sites_table(result))
    if picture:
        save_picture(result, picture, rows or ROWS)


def sites_table(result: SitesResult) -> str:
    """The accuracies as a table: a row per held-out site, the mean and the worst below."""
    run, size = result.with_context, result.with_context.context_size
    rows = [_row(f"{one.value:g}", *one.accuracies, describe(one.site)) for one in result.sites]
    without, with_context = result.worst
    means = _row("mean", *result.means)
    worst = _row(
        "worst",
        without.without,
        with_context.with_context,
        f"{run.axis} {without.value:g} without, {with_context.value:g} with",
    )
    header = [run.axis, "without", "with", f"inferred from {size} image{'s' * (size != 1)}"]
    widths = [max(map(len, column)) for column in zip(header, *rows, means, worst, strict=True)]
    rule = "─" * (sum(widths[:3]) + 9 + min(_LONGEST, widths[3]))

    def lines(row: list[str]) -> list[str]:
        *numbers, words = row
        cells = "   ".join(cell.rjust(width) for cell, width in zip(numbers, widths, strict=False))
        first, *others = textwrap.wrap(words, _LONGEST) or [""]
        return [f"{cells}   {first}".rstrip(), *(" " * (len(cells) + 3) + one for one in others)]

    return "\n".join(
        [
            f"{run.name}: accuracy of {run.protocol.title} at the held-out values of {run.family},"
            f" {run.split} split",
            "",
            *lines(header),
            rule,
            *(line for row in rows for line in lines(row)),
            rule,
            *lines(means),
            *lines(worst),
            "",
            *_notes(result),
        ]
    )


def _row(label: str, without: Interval, with_context: Interval, words: str = "") -> list[str]:
    return [label, with_interval(without), with_interval(with_context), words]


def _notes(result: SitesResult) -> list[str]:
    run = result.with_context
    notes = [
        f"{protocol_line(run)}. Without: every image under a context of the reference site,"
        f" {run.axis} {result.reference:g}, so as it comes",
        run.note,
    ]
    if run.draws > 1:
        notes.append(f"± is a 95% interval over the {run.draws} context draws; the first is shown")
    if not result.converged:
        notes.append("Some logistic regressions did not converge: their accuracies are too low")
    return notes


def data_set_of(family_name: str | None, data_root: Path | None = None) -> str:
    """The data set of the family; where none is named MNIST if it is here, else the digits."""
    if family_name:
        return family(family_name).dataset.name
    return "mnist" if _has_mnist(data_root) else "digits"


def _has_mnist(data_root: Path | None) -> bool:
    """Whether MNIST is on this machine; nothing is downloaded."""
    environment = os.environ.get("METAVAE_DATA")
    places = [Path(environment)] if environment else []
    places = [data_root] if data_root else [*places, cache_folder() / "data"]
    names = [name for pair in FILES.values() for name, _ in pair]
    return any(all((place / RAW / name).is_file() for name in names) for place in places)


def _scanner(card: ModelCard) -> str:
    """The family of the model's data set whose sites are scanners."""
    return f"{family(card.family).dataset.name}-scanner"


def _embedder(
    name: str, url: str, token_file: Path | None, in_process: bool
) -> AbstractContextManager[SiteEmbedder]:
    if not in_process:
        from metavae_client.remote import RemoteEmbedder  # httpx takes a while to load

        return RemoteEmbedder(url, name, token_file=token_file)
    from metavae_zoo.bundles.index import find_bundle
    from metavae_zoo.embedding.embedder import OnnxEmbedder

    return nullcontext(OnnxEmbedder(find_bundle(name)))
