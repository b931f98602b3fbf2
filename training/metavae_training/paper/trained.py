"""From a finished training run to the bundle that is measured."""

from __future__ import annotations

from pathlib import Path

from metavae_training.checkpoint import load_checkpoint
from metavae_training.export import export
from metavae_training.jobs import Job
from metavae_zoo.bundle import Bundle, open_bundle
from metavae_zoo.errors import BadBundle


def bundle_of(job: Job, data_root: Path | None) -> Bundle:
    """The bundle of a finished run's best weights, exported where it is not there yet."""
    path = job.folder / job.recipe.name
    try:
        bundle = open_bundle(path)
        if _is_of(bundle, job):
            return bundle
    except BadBundle:
        pass  # none yet, or half a one
    return export(load_checkpoint(job.checkpoint), path, data_root=data_root)


def _is_of(bundle: Bundle, job: Job) -> bool:
    saved, card = job.saved(), bundle.card
    return saved is not None and (
        card.recipe,
        card.seed,
        card.epochs_trained,
        card.validation_elbo,
        card.data_sha256,
    ) == (
        job.recipe.to_dict(),
        job.seed,
        saved.best_epoch,
        saved.best_validation_elbo,
        saved.data_sha256,
    )
