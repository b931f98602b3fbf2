"""`metavae-client`: embed with a served model, and probe it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from metavae_client import files
from metavae_client.options import json_option, server_options
from metavae_client.probe_command import probe
from metavae_client.sites_command import sites
from metavae_zoo.bundles.card import ModelCard
from metavae_zoo.console import HELP_OPTIONS, PATH, Commands, version_option
from metavae_zoo.embedding.embedder import Embeddings, check_site
from metavae_zoo.embedding.site import Site, describe, doubts
from metavae_zoo.embedding.summary import Summary

if TYPE_CHECKING:
    from metavae_client.remote import RemoteEmbedder

_images = click.argument("images", nargs=-1, required=True, type=PATH)
_model = click.option(
    "--model",
    envvar="METAVAE_MODEL",
    show_envvar=True,
    help="Name of the served model.  [default: the one that the server has]",
)


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
@json_option
def embed(
    queries: tuple[Path, ...],
    context: tuple[Path, ...],
    summary: Path | None,
    out: Path | None,
    model: str | None,
    url: str,
    token_file: Path | None,
    as_json: bool,
) -> None:
    """Embed QUERIES given a context: .npy arrays, pictures or folders of pictures.

    Without --out the embeddings are printed, one line of numbers per image. A model that infers the
    context's site warns, on stderr, of a context that tells little of it.
    """
    if context and summary:
        raise click.UsageError("give --context or --summary, not both")
    if out:
        files.check_output(out, ".npy", ".npz")
    from metavae_client.remote import RemoteEmbedder
    from metavae_client.transport.catalogue import only_name

    name = model or only_name(url, token_file=token_file)
    with RemoteEmbedder(url, name, token_file=token_file, progress=True) as embedder:
        images, names = files.read_named_images(queries, embedder.card, field="queries")
        given = files.read_summary(summary) if summary else None
        if context:
            given = embedder.summarize(files.read_images(context, embedder.card, field="context"))
        embeddings = embedder.embed(images, given)
        if given is not None:
            _warn(_inferred(embedder, given), given.count)
    if out:
        files.write_embeddings(out, embeddings, names)
    if given is not None and not embedder.card.needs_context:
        click.echo(f"{name} takes no context: the one given changes nothing", err=True)
        given = None
    under = "no context" if given is None else f"a context of {given.count} images"
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
@json_option
def summarize(
    images: tuple[Path, ...],
    out: Path | None,
    show_site: bool,
    model: str | None,
    url: str,
    token_file: Path | None,
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
        context = files.read_images(images, embedder.card, field="context")
        summary = embedder.summarize(context)
        site = _inferred(embedder, summary)
    _warn(site, summary.count)
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
        click.echo(f"wrote {out}: the summary of {summary.count} images by {name}")
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


def _inferred(embedder: RemoteEmbedder, summary: Summary) -> Site | None:
    """The site of a context; None for a model that infers none."""
    if not embedder.card.site:
        return None
    return Site.of(embedder.card, embedder.site(summary))


def _warn(site: Site | None, count: int) -> None:
    """Print, on stderr, what makes the site of a context of `count` images doubtful."""
    for doubt in doubts(site, count) if site else []:
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
        of = f"{len(embeddings)} embeddings of {card.latent_dim} numbers"
        click.echo(f"wrote {out}: {of}, under {under}")
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
        for row in embeddings.mean:
            click.echo(" ".join(f"{number:.6g}" for number in row))
