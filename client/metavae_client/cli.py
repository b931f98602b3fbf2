"""`metavae-client`: embed with a served model, and probe it."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import click

from metavae_client import files
from metavae_client.remote import RemoteEmbedder, served_models
from metavae_client.sample import CONTEXT_SIZE, CONTEXTS, Protocol
from metavae_client.served import only_name
from metavae_zoo.card import ModelCard
from metavae_zoo.console import HELP_OPTIONS, Commands, version_option
from metavae_zoo.embedder import Embedder, Embeddings
from metavae_zoo.families import family

_Path = click.Path(path_type=Path)
_images = click.argument("images", nargs=-1, required=True, type=_Path)
_model = click.option(
    "--model",
    envvar="METAVAE_MODEL",
    help="Name of the served model.  [default: the one that the server has]",
)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for a program.")


def _server(command: Callable[..., None]) -> Callable[..., None]:
    """Options that say where the server is and how to get in."""
    for option in (
        click.option(
            "--token-file",
            type=_Path,
            help="TorchServe's key_file.json.  [default: the token in METAVAE_TOKEN, the file in"
            " METAVAE_TOKEN_FILE; for a server on this machine the default store's, then"
            " ./key_file.json]",
        ),
        click.option(
            "--url",
            envvar="METAVAE_URL",
            default="http://127.0.0.1:8080",
            show_default=True,
            show_envvar=True,
            help="The server's inference API.",
        ),
    ):
        command = option(command)
    return command


@click.group(cls=Commands, context_settings=HELP_OPTIONS)
@version_option
def main() -> None:
    """Embed images with a served model, and measure what the embeddings are worth.

    Start a server with `metavae-serve start NAME`.
    """


@main.command()
@click.argument("queries", nargs=-1, required=True, type=_Path)
@click.option("--context", multiple=True, type=_Path, help="Images of the same distribution.")
@click.option("--summary", type=_Path, help="Their summary, in place of --context.")
@click.option("--out", type=_Path, help="Write a .npy of means, or a .npz with log-variances.")
@_model
@_server
@_json
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

    Without --out the embeddings are printed, one line of numbers per image.
    """
    if context and summary:
        raise click.UsageError("give --context or --summary, not both")
    if out:
        files.check_output(out, ".npy", ".npz")
    name = model or only_name(url, token_file=token_file)
    with RemoteEmbedder(url, name, token_file=token_file, progress=True) as embedder:
        images = files.read_images(queries, embedder.card, field="queries")
        given = files.read_summary(summary) if summary else None
        if context:
            given = embedder.summarize(files.read_images(context, embedder.card, field="context"))
        embeddings = embedder.embed(images, given)
    if out:
        files.write_embeddings(out, embeddings)
    _print_embeddings(embeddings, embedder.card, out, as_json)


@main.command()
@_images
@click.option("--out", type=_Path, required=True, help="Where to write the summary, a .npz.")
@_model
@_server
@_json
def summarize(
    images: tuple[Path, ...],
    out: Path,
    model: str | None,
    url: str,
    token_file: Path | None,
    as_json: bool,
) -> None:
    """Summarise a context of IMAGES once, for any number of `embed --summary`."""
    files.check_output(out, ".npz")
    name = model or only_name(url, token_file=token_file)
    with RemoteEmbedder(url, name, token_file=token_file, progress=True) as embedder:
        context = files.read_images(images, embedder.card, field="context")
        summary = embedder.summarize(context)
    files.write_summary(out, summary)
    if as_json:
        click.echo(json.dumps({"out": str(out), "count": summary.count, "model": summary.model}))
    else:
        click.echo(f"wrote {out}: the summary of {summary.count} images by {name}")


@main.command()
@_server
@click.option(
    "--management-url",
    envvar="METAVAE_MANAGEMENT_URL",
    help="The server's management API, which listens on its own machine only."
    "  [default: the port after --url's]",
)
@_json
def models(url: str, token_file: Path | None, management_url: str | None, as_json: bool) -> None:
    """List the models that the server serves."""
    cards = served_models(url, management=management_url, token_file=token_file)
    if as_json:
        click.echo(json.dumps([card.model_dump(mode="json") for card in cards], indent=2))
        return
    for card in cards:
        shape = "x".join(map(str, card.image_shape))
        click.echo(f"{card.name}   images {shape}   embedding {card.latent_dim}")


@main.command()
@click.option("--split", required=True, help="interleaved, sparse or contiguous.")
@click.option(
    "--family", "family_name", default="mnist-rotation", show_default=True, help="What varies."
)
@click.option(
    "--model", envvar="METAVAE_MODEL", help="Its name.  [default: metavae-<family>-<split>]"
)
@_server
@click.option("--in-process", is_flag=True, help="Run the zoo's model here, without a server.")
@click.option(
    "--train-size", type=click.IntRange(1), help="Train images per value.  [default: all]"
)
@click.option("--test-size", type=click.IntRange(1), help="Test images per value.  [default: all]")
@click.option(
    "--contexts",
    type=click.IntRange(1),
    default=CONTEXTS,
    show_default=True,
    help="Context draws, over which the intervals are.",
)
@click.option(
    "--context-size",
    type=click.IntRange(1),
    default=CONTEXT_SIZE,
    show_default=True,
    help="Images per context.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--floors/--no-floors", default=True, help="Raw pixels, PCA, random projection.")
@click.option("--allow-seen", is_flag=True, help="Probe values that the model was trained on too.")
@click.option("--data-root", type=_Path, help="Folder that holds MNIST/raw (METAVAE_DATA).")
@click.option("--plot", type=_Path, help="Draw accuracy against the value: .png, .svg or .pdf.")
@_json
def probe(
    split: str,
    family_name: str,
    model: str | None,
    url: str,
    token_file: Path | None,
    in_process: bool,
    train_size: int | None,
    test_size: int | None,
    contexts: int,
    context_size: int,
    seed: int,
    floors: bool,
    allow_seen: bool,
    data_root: Path | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Measure a model at the values that its split holds out.

    At each value a logistic regression is fitted on the embeddings of the train images, and
    scored on those of the test images; beside it the same on raw pixels, on PCA fitted to the
    training distributions, and on a random projection.
    """
    from metavae_client.plots import check_plot_path, save_plot
    from metavae_client.probe import linear_probe
    from metavae_client.table import probe_table

    family(family_name).split(split)  # an unknown name is told before a server is asked
    if plot:
        check_plot_path(plot)
    protocol = Protocol(
        family=family_name,
        split=split,
        train_size=train_size,
        test_size=test_size,
        contexts=contexts,
        context_size=context_size,
        seed=seed,
        floors=floors,
    )
    name = model or f"metavae-{family_name}-{split}"
    with _embedder(name, url, token_file, in_process) as embedder:
        result = linear_probe(
            embedder, protocol, allow_seen=allow_seen, data_root=data_root, progress=True
        )
    click.echo(result.to_json() if as_json else probe_table(result))
    if plot:
        save_plot(result, plot)


def _embedder(
    name: str, url: str, token_file: Path | None, in_process: bool
) -> AbstractContextManager[Embedder]:
    if not in_process:
        return RemoteEmbedder(url, name, token_file=token_file)
    from metavae_zoo.embedder import OnnxEmbedder
    from metavae_zoo.index import find_bundle

    return nullcontext(OnnxEmbedder(find_bundle(name)))


def _print_embeddings(
    embeddings: Embeddings, card: ModelCard, out: Path | None, as_json: bool
) -> None:
    if out and not as_json:
        click.echo(f"wrote {out}: {len(embeddings)} embeddings of {card.latent_dim} numbers")
    elif as_json:
        found = {"model": card.name, "digest": card.digest, "count": len(embeddings)}
        if out:
            found["out"] = str(out)
        else:
            found["embedding"] = embeddings.mean.tolist()
            found["log_variance"] = embeddings.log_variance.tolist()
        click.echo(json.dumps(found))
    else:
        for row in embeddings.mean:
            click.echo(" ".join(f"{number:.6g}" for number in row))
