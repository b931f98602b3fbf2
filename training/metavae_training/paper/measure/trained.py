"""From a finished training run, or a model that ships trained, to the bundle that is measured."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from metavae_training.exporting.export import export
from metavae_training.paper.measure.provenance import data_hash
from metavae_training.sweeps.jobs import Job
from metavae_training.trainer.checkpoint import load_checkpoint
from metavae_zoo.bundles.bundle import Bundle, copy_bundle, open_bundle
from metavae_zoo.bundles.index import find_bundle
from metavae_zoo.errors import BadBundle, UnknownName


def is_trained(job: Job, data_root: Path | None) -> bool:
    """Whether the run is finished on this data, or the zoo has the model that it ends in."""
    return _finished(job, data_root) or _shipped(job, data_root) is not None


def bundle_of(job: Job, data_root: Path | None) -> Bundle:
    """The bundle of a trained job, in the job's folder.

    It is of a finished run's best weights, exported where that is not done yet; of a job that has
    no finished run it is a copy of the zoo's.
    """
    path = job.folder / job.recipe.name
    if not _finished(job, data_root) and (shipped := _shipped(job, data_root)):
        digest = shipped.card.digest
        return _kept(path, lambda kept: kept.card.digest == digest) or copy_bundle(shipped, path)
    return _kept(path, lambda kept: _is_of(kept, job)) or export(
        load_checkpoint(job.checkpoint), path, data_root=data_root
    )


def _finished(job: Job, data_root: Path | None) -> bool:
    """Whether the run has ended, and was on the data that there is now."""
    saved = job.saved() if job.finished() else None
    return saved is not None and _same_data(saved.data_sha256, job, data_root)


def _same_data(sha256: str, job: Job, data_root: Path | None) -> bool:
    return sha256.startswith(data_hash(job.recipe.family, data_root))


def _kept(path: Path, good: Callable[[Bundle], bool]) -> Bundle | None:
    """The bundle that is there already, if it is a good one."""
    with suppress(BadBundle):  # none yet, or half a one
        bundle = open_bundle(path)
        return bundle if good(bundle) else None
    return None


def _shipped(job: Job, data_root: Path | None) -> Bundle | None:
    """The zoo's model of this very recipe, seed and data, trained to the end and measured."""
    try:
        bundle = find_bundle(job.recipe.name)
    except (UnknownName, BadBundle):
        return None
    card = bundle.card
    is_it = (card.recipe, card.seed) == (job.recipe.to_dict(), job.seed)
    if not is_it or card.results is None:
        return None
    return bundle if _same_data(card.data_sha256, job, data_root) else None


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
