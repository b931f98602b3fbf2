"""`metavae-client`: embed with a served model, and probe it."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from metavae_client import files
from metavae_client.options import json_option, server_options
from metavae_client.probe_command import probe
from metavae_client.sites_command import sites
from metavae_zoo.bundles.card import ModelCard
from metavae_zoo.console import HELP_OPTIONS, PATH, Commands, version_option
from metavae_zoo.embedding.embedder import Embeddings, check_site
from metavae_zoo.embedding.site import Site, describe, doubts
from metavae_zoo.embedding.summary import Summary
from metavae_zoo.images import Images

if TYPE_CHECKING:
    from metavae_client.remote import RemoteEmbedder

_images = click.argument("images", nargs=-1, required=True, type=PATH)
_model = click.option(
    "--model",
    envvar="METAVAE_MODEL",
    show_envvar=True,
    help="Name of the served model.  [default: the one that the server has]",
)


def _reading_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say how files become images, as the argument `reading`."""

    @click.option(
        "--background",
        type=click.IntRange(0, 255),
        default=0,
        show_default=True,
        help="Brightness that shows where a picture is transparent: 0 is black.",
    )
    @click.option("--invert", is_flag=True, help="Exchange dark and light, as for ink on paper.")
    @click.option("--recursive", is_flag=True, help="Look into the folders of folders, too.")
    @functools.wraps(command)
    def with_reading(*args: Any, background: int, invert: bool, recursive: bool, **given: Any):
        return command(*args, reading=files.Reading(background, invert, recursive), **given)

    return with_reading


@click.group(cls=Commands, context_settings=HELP_OPTIONS)
@version_option
def main() -> None:
    """Embed images with a served model, and measure what the embeddings are worth.

    Start a server with `metavae-serve start NAME`.
    """


main.add_command(probe)
main.add_command(sites)


@main.command()
@click.argument("queries", nargs=-1, required=True, type=PATH)
@click.option(
    "--context",
    multiple=True,
    type=PATH,
    help="Images of the same distribution: one file or folder, repeatable.",
)
@click.option("--summary", type=PATH, help="Their summary, in place of --context.")
@click.option(
    "--out",
    type=PATH,
    help="Write a .npy of means, or a .npz of mean, log_variance and image, its file.",
)
@_model
@server_options
@_reading_options
@json_option
def embed(
    queries: tuple[Path, ...],
    context: tuple[Path, ...],
    summary: Path | None,
    out: Path | None,
    model: str | None,
    url: str | None,
    token_file: Path | None,
    reading: files.Reading,
    as_json: bool,
) -> None:
    """Embed QUERIES given a context: .npy arrays, pictures or folders of pictures.

    Without --out the embeddings are printed: a line per image, its name and its numbers, with tabs
    between them. A model that infers the context's site warns, on stderr, of a context that tells
    little of it, and of queries that show nothing once the site is taken out.
    """
    if context and summary:
        raise click.UsageError("give --context or --summary, not both")
    if out:
        files.check_output(out, ".npy", ".npz")
    from metavae_client.remote import RemoteEmbedder
    from metavae_client.transport.catalogue import only_name

    name = model or only_name(url, token_file=token_file)
    with RemoteEmbedder(url, name, token_file=token_file, progress=True) as embedder:
        found = _read(queries, embedder, "queries", reading)
        images, names = found.images, found.names
        given = files.read_summary(summary) if summary else None
        shown = None
        if context:
            shown = _read(context, embedder, "context", reading).images
            given = embedder.summarize(shown)
        embeddings = embedder.embed(images, given)
        site = _inferred(embedder, given) if given is not None else None
    if given is not None:
        _warn(site, given.count if shown is None else shown)
    _warn_of_blanks(images, site, embedder.card)
    if out:
        files.write_embeddings(out, embeddings, names)
    if given is not None and not embedder.card.needs_context:
        click.echo(f"{name} takes no context: the one given changes nothing", err=True)
        given = None
    under = "no context" if given is None else f"a context of {_count(given.count)}"
    _print_embeddings(embeddings, names, embedder.card, out, under, as_json)


@main.command()
@_images
@click.option(
    "--out", type=PATH, help="Where to write the summary, a .npz; required without --site."
)
@click.option(
    "--site",
    "show_site",
    is_flag=True,
    help="Print what the model infers of the images' site: how it differs from the reference that"
    " the model was trained on (rotation, size, contrast), and how sure that is. For models whose"
    " card lists a site.",
)
@_model
@server_options
@_reading_options
@json_option
def summarize(
    images: tuple[Path, ...],
    out: Path | None,
    show_site: bool,
    model: str | None,
    url: str | None,
    token_file: Path | None,
    reading: files.Reading,
    as_json: bool,
) -> None:
    """Summarise a context of IMAGES once, for any number of `embed --summary`.

    With --site it also says what the model infers of their site; --json then has the numbers by the
    names on the model's card. A model that infers a site warns, on stderr, of a context that tells
    little of it.
    """
    if out:
        files.check_output(out, ".npz")
    elif not show_site:
        raise click.UsageError("Missing option '--out' (or --site)")
    from metavae_client.remote import RemoteEmbedder
    from metavae_client.transport.catalogue import only_name

    name = model or only_name(url, token_file=token_file)
    with RemoteEmbedder(url, name, token_file=token_file, progress=True) as embedder:
        if show_site:
            check_site(embedder.card)
        context = _read(images, embedder, "context", reading).images
        summary = embedder.summarize(context)
        site = _inferred(embedder, summary)
    _warn(site, context)
    told: dict[str, object] = {"count": summary.count, "model": summary.model}
    if out:
        files.write_summary(out, summary)
        told = {"out": str(out)} | told
    if site is not None and show_site:
        told |= {"site": site.numbers, "description": describe(site)}
    if as_json:
        click.echo(json.dumps(told))
        return
    if out:
        click.echo(f"wrote {out}: the summary of {_count(summary.count)} by {name}")
    if "description" in told:
        click.echo(told["description"])


@main.command()
@server_options
@click.option(
    "--management-url",
    envvar="METAVAE_MANAGEMENT_URL",
    help="The server's management API, which listens on its own machine only."
    "  [default: the port after --url's]",
)
@json_option
def models(url: str, token_file: Path | None, management_url: str | None, as_json: bool) -> None:
    """List the models that the server serves."""
    from metavae_client.remote import served_models

    cards = served_models(url, management=management_url, token_file=token_file)
    if as_json:
        click.echo(json.dumps([card.model_dump(mode="json") for card in cards], indent=2))
        return
    for card in cards:
        shape = "x".join(map(str, card.image_shape))
        click.echo(f"{card.name}   images {shape}   embedding {card.latent_dim}")


_AT_ONCE = 1000  # images
_FAINT = 0.05  # of the reference's brightness: less than that is paper


def _distinct(images: Images) -> int:
    """How many different images there are: one that is repeated tells no more of its site."""
    return len({image.tobytes() for image in images})


def _warn_of_blanks(images: Images, site: Site | None, card: ModelCard) -> None:
    """Print, on stderr, how many of the queries the model sees nothing of."""
    from metavae_zoo.embedding.site_view import canonical_images, intensity_of

    blank = 0
    for start in range(0, len(images), _AT_ONCE):
        seen, faint = images[start : start + _AT_ONCE], 0.0
        if site is not None:
            intensity = intensity_of(card.prior)
            seen, faint = canonical_images(seen, site, intensity=intensity), _FAINT
        blank += int((np.ptp(seen.reshape(len(seen), -1), axis=1) <= faint).sum())
    if blank:
        click.echo(
            f"Warning: {blank} of {len(images)} queries show nothing"
            + (" once the site is taken out" if site else "")
            + ": their embeddings are that of an empty image",
            err=True,
        )


def _count(images: int) -> str:
    return f"{images} image{'s' * (images != 1)}"


def _read(
    paths: Sequence[Path], embedder: RemoteEmbedder, field: str, reading: files.Reading
) -> files.FileImages:
    """Read images; what was passed over is said on stderr."""
    found = files.read_images(paths, embedder.card, field=field, reading=reading)
    if found.passed_over:
        few = "1 file is" if found.passed_over == 1 else f"{found.passed_over} files are"
        click.echo(f"{field}: {few} passed over, being no pictures", err=True)
    return found


def _inferred(embedder: RemoteEmbedder, summary: Summary) -> Site | None:
    """The site of a context; None for a model that infers none."""
    if not embedder.card.site:
        return None
    return Site.of(embedder.card, embedder.site(summary))


def _warn(site: Site | None, context: Images | int) -> None:
    """Print, on stderr, what makes the site of a context doubtful; context: images or a count."""
    if site is None:
        return
    count = context if isinstance(context, int) else _distinct(context)
    if not isinstance(context, int) and count < len(context):
        click.echo(
            f"Warning: of the {_count(len(context))} of the context {count} differ; one that is"
            " repeated tells nothing more of its site",
            err=True,
        )
    for doubt in doubts(site, count):
        click.echo(f"Warning: {doubt}", err=True)


def _print_embeddings(
    embeddings: Embeddings,
    names: Sequence[str],
    card: ModelCard,
    out: Path | None,
    under: str,
    as_json: bool,
) -> None:
    if out and not as_json:
        click.echo(
            f"wrote {out}: {len(embeddings)} embeddings of {card.latent_dim} numbers, under {under}"
        )
    elif as_json:
        found = {"model": card.name, "digest": card.digest, "count": len(embeddings)}
        if out:
            found["out"] = str(out)
        else:
            found["image"] = list(names)
            found["embedding"] = embeddings.mean.tolist()
            found["log_variance"] = embeddings.log_variance.tolist()
        click.echo(json.dumps(found))
    else:
        for image, row in zip(names, embeddings.mean, strict=True):
            numbers = (f"{number:.6g}" for number in row)
            click.echo("\t".join([click.format_filename(image), *numbers]))
