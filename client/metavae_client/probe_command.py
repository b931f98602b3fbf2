"""`metavae-client probe`."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from metavae_client.errors import ModelNotNamed
from metavae_client.options import json_option, open_embedder, sample_options, server_options
from metavae_zoo.console import PATH
from metavae_zoo.embedding.summary import CONTEXT_SIZE
from metavae_zoo.evaluation.baselines import FLOORS
from metavae_zoo.evaluation.contexts import SOURCES, ContextFrom
from metavae_zoo.evaluation.protocols import PROTOCOLS, FewShot, Knn, Linear, Protocol
from metavae_zoo.evaluation.settings import CONTEXTS, ProbeSettings
from metavae_zoo.families import family


class Numbers(click.ParamType):
    """Whole numbers with commas between them."""

    name = "numbers"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Return the numbers of a text like `1,5,10`."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(int(number) for number in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of whole numbers like 1,5,10", param, ctx)


@click.command()
@click.option("--split", required=True, help="interleaved, sparse or contiguous.")
@click.option(
    "--family", "family_name", default="mnist-rotation", show_default=True, help="What varies."
)
@click.option(
    "--model",
    envvar="METAVAE_MODEL",
    show_envvar=True,
    help="Its name.  [default: the one that the server has; of several, or with --in-process,"
    " metavae-<family>-<split>]",
)
@server_options
@sample_options
@click.option(
    "--protocol",
    "protocol_name",
    type=click.Choice(list(PROTOCOLS)),
    default=Linear.name,
    show_default=True,
    help="How codes are judged, see above.",
)
@click.option(
    "--shots",
    type=Numbers(),
    help=f"few-shot: labels per class.  [default: {','.join(map(str, FewShot.shots))}]",
)
@click.option(
    "--label-draws",
    type=click.IntRange(1, 1000),
    help="few-shot: draws of labels, each with a new context, over which the intervals are."
    f"  [default: {FewShot.label_draws}]",
)
@click.option(
    "--neighbours",
    type=click.IntRange(1),
    help=f"knn: nearest neighbours that vote.  [default: {Knn.neighbours}]",
)
@click.option(
    "--train-size",
    type=click.IntRange(1),
    help="Train images per value.  [default: all; transfer: 60,000 over all training values]",
)
@click.option("--test-size", type=click.IntRange(1), help="Test images per value.  [default: all]")
@click.option(
    "--context-from",
    type=click.Choice(SOURCES),
    default="own",
    show_default=True,
    help="Contexts of the images' own distribution, or wrong ones: of another (a third of the"
    " family's values further on), of the reference (the training value that changes images least:"
    " what the model gives without a context of the images' own), the own with one shuffle of their"
    " pixels, a summary of zeros.",
)
@click.option(
    "--test-context-from",
    type=click.Choice(SOURCES),
    help="The same of the tested images alone, for classifiers that are fitted under the contexts"
    " of --context-from.  [default: as --context-from]",
)
@click.option(
    "--contexts",
    type=click.IntRange(1, 1000),
    help=f"Context draws, over which the intervals are.  [default: {CONTEXTS}]",
)
@click.option(
    "--context-size", type=click.IntRange(1), help=f"Images per context.  [default: {CONTEXT_SIZE}]"
)
@click.option("--floors/--no-floors", default=True, help="Raw pixels, PCA, random projection.")
@click.option(
    "--floor", "only", multiple=True, type=click.Choice(FLOORS), help="These floors and no others."
)
@click.option("--allow-seen", is_flag=True, help="Probe values that the model was trained on too.")
@click.option(
    "--plot",
    type=PATH,
    help="Draw accuracy against the value, or against several --shots: .png, .svg or .pdf.",
)
@json_option
def probe(
    split: str,
    family_name: str,
    model: str | None,
    url: str | None,
    token_file: Path | None,
    in_process: bool,
    protocol_name: str,
    shots: tuple[int, ...] | None,
    label_draws: int | None,
    neighbours: int | None,
    train_size: int | None,
    test_size: int | None,
    context_from: ContextFrom,
    test_context_from: ContextFrom | None,
    contexts: int | None,
    context_size: int | None,
    seed: int,
    floors: bool,
    only: tuple[str, ...],
    allow_seen: bool,
    data_root: Path | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Measure a model at the values that its split holds out.

    Classifiers are fitted on embeddings and scored on those of the test images at each held-out
    value; beside it the same on raw pixels, on PCA fitted to the training distributions, and on a
    random projection. The protocols:

    \b
    linear    the paper's: at each value, a logistic regression on its train images
    transfer  one logistic regression, fitted at the training values only
    few-shot  at each value, a logistic regression on few labels per class
    knn       at each value, the nearest neighbours among its train images
    """
    from metavae_zoo.evaluation.probe import run_probe
    from metavae_zoo.evaluation.reporting.plots import check_figure_path, save_plot
    from metavae_zoo.evaluation.reporting.table import probe_table

    family(family_name).split(split)  # an unknown name is told before a server is asked
    if plot:
        check_figure_path(plot, "plot")
    protocol = _protocol(protocol_name, shots=shots, label_draws=label_draws, neighbours=neighbours)
    if only and not floors:
        raise click.UsageError("give --floor or --no-floors, not both")
    only_zeros = context_from == "zeros" and test_context_from in ("zeros", None)
    _check_context_options(protocol, only_zeros, contexts, context_size)
    settings = ProbeSettings(
        family=family_name,
        split=split,
        protocol=protocol,
        train_size=train_size,
        test_size=test_size,
        contexts=CONTEXTS if contexts is None else contexts,
        context_size=CONTEXT_SIZE if context_size is None else context_size,
        context_from=context_from,
        test_context_from=test_context_from,
        seed=seed,
        floors=(only or FLOORS) if floors else (),
    )
    name = model or default_model(f"metavae-{family_name}-{split}", url, token_file, in_process)
    with open_embedder(name, url, token_file, in_process) as embedder:
        result = run_probe(
            embedder, settings, allow_seen=allow_seen, data_root=data_root, progress=True
        )
    click.echo(result.to_json() if as_json else probe_table(result))
    if plot:
        save_plot(result, plot)


def _protocol(name: str, **options: object) -> Protocol:
    """The protocol with the options that were given; wrong usage where one is another's."""
    given = {option: value for option, value in options.items() if value is not None}
    taken = {kind.name: {field.name for field in fields(kind)} for kind in PROTOCOLS.values()}
    for option in given.keys() - taken[name]:
        owners = " or ".join(owner for owner in taken if option in taken[owner])
        flag = option.replace("_", "-")
        raise click.UsageError(f"--{flag} is for --protocol {owners}, not for {name}")
    return PROTOCOLS[name](**given)


def _check_context_options(
    protocol: Protocol, only_zeros: bool, contexts: int | None, size: int | None
) -> None:
    """Wrong usage where a number was given that would say nothing."""
    if contexts is not None and protocol.own_draws is not None:
        raise click.UsageError(
            f"--contexts is not for --protocol {protocol.name}, which draws a context with each"
            " of its labels: give --label-draws"
        )
    for option, number in (("--contexts", contexts), ("--context-size", size)):
        if number is not None and only_zeros:
            raise click.UsageError(f"{option} is not for --context-from zeros, which has no images")


def default_model(usual: str, url: str | None, token_file: Path | None, in_process: bool) -> str:
    """The only model of the server; the usual one in process, or if the server has several."""
    if in_process:
        return usual
    from metavae_client.transport.catalogue import only_name  # httpx takes a while to load

    try:
        return only_name(url, token_file=token_file)
    except ModelNotNamed:
        return usual
