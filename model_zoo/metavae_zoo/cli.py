"""`metavae-zoo`: the models that exist, and what is known of them."""

from __future__ import annotations

import json
from importlib.metadata import EntryPoints, entry_points
from pathlib import Path

import click

from metavae_zoo.bundles.bundle import Bundle
from metavae_zoo.bundles.card import Interval, ModelCard, Results, TransferRecord
from metavae_zoo.console import HELP_OPTIONS, PATH, Commands, version_option
from metavae_zoo.errors import BadBundle
from metavae_zoo.evaluation.reporting.transfer_table import headline, transfer_lines, transfer_table
from metavae_zoo.markdown import markdown_table
from metavae_zoo.stopping import stoppable


class _AndPlugins(Commands):
    """Commands of this package, and those that installed packages add as entry points.

    An entry point of the group `metavae_zoo.commands` names a click command.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every name."""
        return sorted({*super().list_commands(ctx), *_plugins().names})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a name; of a plugin, it is imported."""
        own = super().get_command(ctx, cmd_name)
        if own is None and cmd_name in _plugins().names:
            return _plugins()[cmd_name].load()
        return own


def _plugins() -> EntryPoints:
    return entry_points(group="metavae_zoo.commands")


@click.group(cls=_AndPlugins, context_settings=HELP_OPTIONS)
@version_option
def main() -> None:
    """List, fetch, verify and build metavae models.

    A model is a bundle: a folder of ONNX graphs, golden outputs and a card. Bundles are looked
    for in METAVAE_ZOO (else the user's data folder), then among those that ship with metavae.
    Every read is verified against the sha256 sums on the card.
    """


@main.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
@click.option("--markdown", is_flag=True, help="Print measured results as a Markdown table.")
def list_models(as_json: bool, markdown: bool) -> None:
    """List every model that is here (yours, or one that ships) or can be pulled.

    Beside a model stands its transfer to sites never seen, where that was measured, else the linear
    probe that is fitted anew at every held-out value.
    """
    from metavae_zoo.bundles.index import listings

    found = listings()
    if markdown:
        cards = [one.card for one in found if one.card]
        click.echo("\n\n".join(filter(None, [transfer_table(cards), results_table(cards)])))
        return
    if as_json:
        rows = [
            {
                "name": one.name,
                "size": one.size,
                "origin": one.origin,
                "here": one.card is not None,
                "problem": one.problem,
                "accuracy": accuracy.mean if (accuracy := _accuracy(one.card)) else None,
                "transfer": [record.model_dump() for record in _transfer(one.card)],
            }
            for one in found
        ]
        click.echo(json.dumps(rows, indent=2))
        return
    width = max((len(one.name) for one in found), default=0)
    for one in found:
        accuracy = _accuracy(one.card)
        probe = f"linear probe {_interval(accuracy)}" if accuracy else ""
        click.echo(
            f"{one.name:{width}}  {one.size / 1e6:5.1f} MB  "
            f"{'damaged' if one.problem else one.origin:7}  "
            f"{headline(_transfer(one.card)) or probe or one.problem}".rstrip()
        )


@main.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print the whole card as JSON.")
def show(name: str, as_json: bool) -> None:
    """Show the card of model NAME and its measured results."""
    from metavae_zoo.bundles.index import find_bundle

    bundle = find_bundle(name)
    click.echo(bundle.card.to_json() if as_json else card_page(bundle))


@main.command()
@click.argument("name")
def pull(name: str) -> None:
    """Bring model NAME onto this machine, verified."""
    from metavae_zoo.bundles.index import pull as pull_bundle

    click.echo(pull_bundle(name, progress=True).path)


@main.command()
@click.argument("names", metavar="[NAME]...", nargs=-1)
def verify(names: tuple[str, ...]) -> None:
    """Check bundles: every file's sha256, and the golden outputs on ONNX Runtime.

    Without NAME, every model that is on this machine.
    """
    from metavae_zoo.bundles.index import find_bundle, local_names
    from metavae_zoo.embedding.embedder import OnnxEmbedder

    damaged = 0
    for name in names or local_names():
        try:
            bundle = find_bundle(name)
            OnnxEmbedder(bundle)
        except BadBundle as error:  # the others are still worth knowing about
            damaged += 1
            click.echo(f"Error: {error}", err=True)
        else:
            click.echo(f"{name}: {len(bundle.files)} files and the golden outputs are as exported")
    if damaged:
        raise SystemExit(1)


@main.command()
@click.argument("name")
@click.option(
    "--out",
    type=PATH,
    help="Folder that takes the bundle [default: the user's zoo].",
)
def quantize(name: str, out: Path | None) -> None:
    """Measure what int8 costs model NAME in accuracy, and put it on its card.

    The probe is the card's own. `metavae-serve pack --precision int8` serves models of which that
    is known.
    """
    from metavae_zoo.bundles.index import find_bundle
    from metavae_zoo.evaluation.int8_cost import measure_int8

    with stoppable(lambda: "nothing was changed", hint="The same command begins anew"):
        bundle = measure_int8(find_bundle(name), out=out)
    click.echo(card_page(bundle))


@main.command()
@click.argument("folder", type=PATH)
@click.option("--replace", is_flag=True, help="Take the place of a model of the same name.")
def add(folder: Path, replace: bool) -> None:
    """Take the bundle in FOLDER into this machine's zoo, verified.

    It is known by the name on its card, which `metavae-train export --name` gives.
    """
    from metavae_zoo.bundles.index import add as add_bundle

    click.echo(add_bundle(folder, replace=replace).path)


@main.command()
@click.argument("name")
def remove(name: str) -> None:
    """Delete model NAME, which was pulled, built or added, from this machine's zoo."""
    from metavae_zoo.bundles.index import remove as remove_bundle

    click.echo(f"removed {remove_bundle(name)}")


@main.command()
@click.argument("family")
@click.option(
    "--data-root",
    type=PATH,
    help="Folder that holds MNIST/raw.  [default: METAVAE_DATA, else the cache, else downloaded]",
)
def data(family: str, data_root: Path | None) -> None:
    """Find the images of FAMILY, or download them (checksums, progress)."""
    from metavae_zoo.families import family as family_named

    found = family_named(family)
    sizes = [len(found.labels(part, data_root)) for part in ("train", "test")]
    click.echo(
        f"{family}: {sizes[0]} training and {sizes[1]} test images at each of"
        f" {len(found.values)} values, data sha256 {found.data_sha256(data_root)[:12]}"
    )


@main.command()
@click.argument("folder", type=PATH)
@click.option("--url", help="Address that will serve FOLDER [default: bundles ship with metavae].")
def index(folder: Path, url: str | None) -> None:
    """Print the index of the bundles in FOLDER, for publishing them.

    Save it as a file, and let METAVAE_INDEX name that file where `pull` is called.
    """
    from metavae_zoo.bundles.index import index_of

    click.echo(index_of(folder, url), nl=False)


def results_table(cards: list[ModelCard]) -> str:
    """Measured probes as a Markdown table, from the cards alone."""
    floors = {"raw_pixels": "raw pixels", "pca": "PCA-40", "random_projection": "random projection"}
    head = ["model", "probe accuracy", "training seeds", *floors.values()]
    head += ["paper", "KL(z)", "KL(c)", "int8"]
    rows = []
    for card in cards:
        if card.results is None or card.results.probe is None:
            continue
        probe = card.results.probe
        over_seeds = card.results.accuracy_over_seeds
        rows.append(
            [
                f"`{card.name}`",
                _interval(probe.accuracy),
                f"{_interval(over_seeds)} ({over_seeds.n})"
                if over_seeds and over_seeds.n > 1
                else "1",
                *(f"{probe.floors[floor]:.4f}" for floor in floors),
                f"{probe.paper:.3f}" if probe.paper else "",
                *(_nats(card, term) for term in ("kl_z", "kl_c")),
                _change_in_int8(card.results),
            ]
        )
    return markdown_table(head, rows)


def _nats(card: ModelCard, term: str) -> str:
    """A term of the validation ELBO; nothing where the model, or an old card, has none."""
    return f"{card.terms[term]:.1f}" if term in card.terms else ""


def _change_in_int8(results: Results) -> str:
    """What computing in 8 bits adds to the accuracy; nothing where it was not measured."""
    if results.int8 is None or results.probe is None:
        return ""
    change = round(results.int8.accuracy.mean - results.probe.accuracy.mean, 4)
    return f"{change + 0.0:+.4f}"  # and no negative zero


def _transfer(card: ModelCard | None) -> list[TransferRecord]:
    return card.results.transfer if card and card.results else []


def _accuracy(card: ModelCard | None) -> Interval | None:
    return card.results.accuracy_over_seeds if card and card.results else None


def _interval(interval: Interval) -> str:
    spread = f" ± {interval.half_width:.4f}" if interval.half_width is not None else ""
    return f"{interval.mean:.4f}{spread}"


def card_page(bundle: Bundle) -> str:
    """A card as a person reads it."""
    card = bundle.card
    facts = {
        "family": f"{card.family}, {card.split} split",
        "trained on": " ".join(f"{value:g}" for value in card.train_values),
        "held out": " ".join(f"{value:g}" for value in card.held_out_values) or "none",
        "images": "x".join(map(str, card.image_shape)),
        "embedding": f"{card.latent_dim} numbers",
        "context": f"summary of {card.feature_dim} numbers" if card.needs_context else "none",
        "parameters": ", ".join(f"{part} {n:,}" for part, n in card.parameters.items()),
        "weights": f"stored as {card.weights}, computed in {card.precision}",
        "training": f"seed {card.seed}, best epoch {card.epochs_trained},"
        f" validation ELBO {card.validation_elbo:.3f} nats per image"
        + "".join(f", {term} {nats:.2f}" for term, nats in card.terms.items()),
        "data sha256": card.data_sha256[:12],
        "digest": card.digest[:12],
        "licence": card.licence,
        "folder": f"{bundle.path} ({bundle.size / 1e6:.1f} MB)",
    }
    if card.site:
        facts["site"] = "inferred from the context: " + _site_names(card)
    if card.reference is not None:
        facts["reference"] = f"{card.reference:g}, the site that training sites were simulated from"
    if card.prior:
        facts["prior"] = ", ".join(f"{name} {_shown(value)}" for name, value in card.prior.items())
    if card.sites:
        facts["sites"] = f"{len(card.sites)}, drawn from a seed; --json lists them"
    lines = [card.name, card.description, ""]
    lines += [f"  {key:12} {value}" for key, value in facts.items()]
    if card.results:
        lines += ["", *transfer_lines(card.results.transfer)] if card.results.transfer else []
        lines += _probe_lines(card.results)
    return "\n".join(lines)


def _site_names(card: ModelCard) -> str:
    """The names of the output `site`, where those of one kind stand once: "warp (4), ..."."""
    kinds = [parameter.name.partition("_")[0] for parameter in card.site]
    return ", ".join(f"{kind} ({kinds.count(kind)})" for kind in dict.fromkeys(kinds))


def _shown(value: object) -> str:
    """A setting of the prior; a range as "0.5 to 2"."""
    if isinstance(value, list) and all(isinstance(one, int | float) for one in value):
        return " to ".join(f"{one:g}" for one in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _probe_lines(results: Results) -> list[str]:
    """The linear probe as a person reads it; nothing for a model that was not probed."""
    if (probe := results.probe) is None:
        return []
    lines = [
        "",
        f"  linear probe of the held-out values, {probe.train_size} training and"
        f" {probe.test_size} test images, contexts of {probe.context_size}",
        f"    {'this model':24} {_interval(probe.accuracy)} over {probe.accuracy.n} contexts",
    ]
    if (over := results.accuracy_over_seeds) is not None:
        lines.append(
            f"    {'mean over training seeds':24} {_interval(over)} over {len(results.seeds)}"
        )
    if int8 := results.int8:
        change = _change_in_int8(results)
        lines.append(f"    {'this model in int8':24} {_interval(int8.accuracy)}, {change}")
    lines += [f"    {floor:24} {value:.4f}" for floor, value in probe.floors.items()]
    if probe.paper is not None:
        lines.append(f"    {'paper':24} {probe.paper:.3f}")
    return lines
