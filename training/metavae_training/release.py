"""Build a model of the zoo: train it with several seeds, export and measure it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from metavae_training.exporting.export import export
from metavae_training.recipes import Recipe, recipe
from metavae_training.trainer.device import choose_device
from metavae_training.trainer.fit import fit
from metavae_zoo.bundles.bundle import Bundle, check_replaceable, copy_bundle, open_bundle
from metavae_zoo.bundles.card import ModelCard, ProbeRecord, Results, SeedRecord
from metavae_zoo.errors import BadBundle
from metavae_zoo.evaluation.baselines import FLOORS
from metavae_zoo.evaluation.kept import kept_probe
from metavae_zoo.evaluation.settings import ProbeSettings
from metavae_zoo.evaluation.statistics import interval_over_runs
from metavae_zoo.evaluation.transfer import measure_transfer
from metavae_zoo.files import make_writable
from metavae_zoo.places import user_bundles


def build(
    name: str, *, seeds: int, contexts: int, device: str, runs: Path, out: Path | None
) -> Bundle:
    """Train `name` with seeds 0 to seeds - 1, and install the best with its results on the card.

    The best is the one with the highest validation ELBO, on held-out *images* of *training*
    values. Every seed is probed on all held-out values with all training and test images and
    `contexts` draws of a context; a model whose split holds no value out is not probed. Runs under
    `runs` that were interrupted go on; neither finished ones nor finished probes are repeated.
    Raises UnknownName for a model without a recipe, BadBundle where `out` has something else of
    that name.
    """
    chosen = recipe(name)
    target = (out or user_bundles()) / name
    if target.resolve() == (runs / name).resolve():
        raise BadBundle(
            f"{target} is where the training runs of {name} lie, and would take the bundle",
            hint="Give another folder, with --out or with --runs",
        )
    check_replaceable(target)  # now, not after hours of training
    make_writable(target.parent)
    trained = [_train(chosen, seed, device, runs) for seed in range(seeds)]
    shipped = max(trained, key=lambda bundle: bundle.card.validation_elbo)
    settings = ProbeSettings(chosen.family, chosen.split, contexts=contexts, floors=())
    probes = [_probe(bundle, settings) for bundle in trained if bundle.card.held_out_values]
    record = None
    if probes:
        record = probes[trained.index(shipped)]
        floors = _floors(shipped, record, settings, out or user_bundles())
        record = record.model_copy(update={"floors": floors})
    results = Results(
        probe=record,
        seeds=[
            SeedRecord(
                seed=bundle.card.seed,
                validation_elbo=bundle.card.validation_elbo,
                probe_accuracy=probe.accuracy.mean if probe else None,
            )
            for bundle, probe in zip(trained, probes or [None] * seeds, strict=True)
        ],
        accuracy_over_seeds=interval_over_runs([probe.accuracy.mean for probe in probes])
        if probes
        else None,
        shipped_seed=shipped.card.seed,
        chosen_by="highest validation ELBO; no held-out value is used",
        commands=[f"metavae-zoo build {name} --seeds {seeds} --contexts {contexts}"],
        transfer=measure_transfer(shipped) if shipped.card.site else [],
    )
    card = shipped.card.model_copy(update={"results": results})
    return copy_bundle(shipped, target, card=card)


def _train(chosen: Recipe, seed: int, device: str, runs: Path) -> Bundle:
    run = runs / chosen.name / f"seed-{seed}"
    trained = fit(chosen, out=run, seed=seed, device=choose_device(device), progress=True)
    return export(trained, run / chosen.name)


def _probe(bundle: Bundle, settings: ProbeSettings) -> ProbeRecord:
    return ProbeRecord.model_validate(kept_probe(bundle, settings)["record"])


def _floors(
    shipped: Bundle, record: ProbeRecord, settings: ProbeSettings, out: Path
) -> dict[str, float]:
    """Floors of the record's protocol, which depend on neither seed nor model.

    Those of another model of the same family, split and sizes that was built into `out` are
    taken from its card.
    """
    wanted = _conditions(shipped.card, record)
    for folder in sorted(out.glob("*/")):
        with suppress(BadBundle):
            card = open_bundle(folder).card
            probe = card.results.probe if card.results else None
            if probe and probe.floors and _conditions(card, probe) == wanted:
                return probe.floors
    return _probe(shipped, replace(settings, contexts=1, floors=FLOORS)).floors


def _conditions(card: ModelCard, record: ProbeRecord) -> tuple[object, ...]:
    """Everything that floors depend on."""
    of_card = (card.family, card.split, card.data_sha256, card.latent_dim)
    return (*of_card, record.seed, record.train_size, record.test_size)
