"""Build a model of the zoo: train, export and measure it through the commands that users have.

The zoo knows neither training nor client, so it calls their commands.
"""

from __future__ import annotations

from pathlib import Path

from metavae_zoo.bundle import Bundle, copy_bundle, open_bundle
from metavae_zoo.card import ProbeRecord, Results, SeedRecord
from metavae_zoo.commands import run_command
from metavae_zoo.errors import UnknownName
from metavae_zoo.places import user_bundles
from metavae_zoo.statistics import confidence_interval


def build(name: str, *, seeds: int, device: str, runs: Path, out: Path | None) -> Bundle:
    """Train `name` with seeds 0 to seeds - 1, and install the best with its results on the card.

    The best is the one with the highest validation ELBO, on held-out *images* of *training*
    values. Every seed is probed on all held-out values with all training and test images. Runs
    under `runs` that were interrupted go on; finished ones are not repeated. Raises UnknownName
    for a model without a recipe, CommandFailed where a command fails.
    """
    recipes = [recipe["name"] for recipe in run_command("metavae-train", "list", "--json")]
    if name not in recipes:
        raise UnknownName("recipe", name, recipes, "`metavae-train list` shows all")
    trained = [_train(name, seed, device, runs) for seed in range(seeds)]
    shipped = max(trained, key=lambda bundle: bundle.card.validation_elbo)
    # The floors depend on neither seed nor model: they are measured once.
    probes = [_probe(bundle, floors=bundle is shipped) for bundle in trained]
    record = probes[trained.index(shipped)]
    results = Results(
        probe=record,
        seeds=[
            SeedRecord(
                seed=bundle.card.seed,
                validation_elbo=bundle.card.validation_elbo,
                probe_accuracy=probe.accuracy.mean,
            )
            for bundle, probe in zip(trained, probes, strict=True)
        ],
        accuracy_over_seeds=confidence_interval([probe.accuracy.mean for probe in probes]),
        shipped_seed=shipped.card.seed,
        chosen_by="highest validation ELBO; no held-out value is used",
        commands=[f"metavae-zoo build {name} --seeds {seeds}"],
    )
    card = shipped.card.model_copy(update={"results": results})
    return copy_bundle(shipped, (out or user_bundles()) / name, card=card)


def _train(name: str, seed: int, device: str, runs: Path) -> Bundle:
    run = runs / name / f"seed-{seed}"
    arguments = [name, "--seed", seed, "--device", device, "--out", run]
    trained = run_command("metavae-train", "run", *arguments, "--json")
    run_command("metavae-train", "export", trained["checkpoint"], "--out", run / name, "--json")
    return open_bundle(run / name)


def _probe(bundle: Bundle, *, floors: bool) -> ProbeRecord:
    card = bundle.card
    arguments = ["--model", card.name, "--family", card.family, "--split", card.split]
    arguments += [] if floors else ["--no-floors"]
    found = run_command(
        "metavae-client", "probe", "--in-process", "--json", *arguments, zoo=bundle.path.parent
    )
    return ProbeRecord.model_validate(found["record"])
