"""Claims about what ships trained: it is measured as it is, and nothing else passes for it."""

from __future__ import annotations

import dataclasses

import pytest

from metavae_training.paper.measure import trained
from metavae_training.paper.measure.trained import bundle_of, is_trained
from metavae_training.recipes import recipe
from metavae_training.sweeps.jobs import Job
from metavae_training.trainer.fit import fit
from metavae_zoo.bundles.bundle import copy_bundle
from metavae_zoo.bundles.index import find_bundle

SHIPPED = "metavae-digits-rotation-contiguous"


@pytest.fixture
def job(tmp_path) -> Job:
    return Job(recipe(SHIPPED), find_bundle(SHIPPED).card.seed, tmp_path / "run")


def test_a_model_that_ships_is_measured_without_training_in_the_runs_folder(job):
    assert is_trained(job, None)
    for _ in range(2):
        bundle = bundle_of(job, None)
        assert bundle.path == job.folder / SHIPPED
        assert bundle.card == find_bundle(SHIPPED).card
    assert not job.finished()


def test_another_model_left_in_the_folder_is_replaced(job):
    other = find_bundle("metavae-mnist-scale-contiguous")
    copy_bundle(other, job.folder / SHIPPED)
    assert bundle_of(job, None).card == find_bundle(SHIPPED).card


def test_another_seed_recipe_or_data_set_is_not_what_ships(job, monkeypatch):
    assert not is_trained(dataclasses.replace(job, seed=job.seed + 1), None)
    changed = job.recipe.changed({"learning_rate": 0.5})
    assert not is_trained(dataclasses.replace(job, recipe=changed), None)
    monkeypatch.setattr(trained, "data_hash", lambda family, root: "another")
    assert not is_trained(job, None)


def test_a_model_that_was_not_measured_may_not_be_trained_to_the_end(job, tmp_path, monkeypatch):
    shipped = find_bundle(SHIPPED)
    unmeasured = shipped.card.model_copy(update={"results": None})
    copy_bundle(shipped, tmp_path / "zoo" / SHIPPED, card=unmeasured)
    monkeypatch.setenv("METAVAE_ZOO", str(tmp_path / "zoo"))
    assert not is_trained(job, None)


def test_a_run_that_was_finished_on_other_data_is_not_measured_on_this(tmp_path, monkeypatch):
    done = Job(recipe("vae-single-digits-rotation-sparse").changed({"epochs": 1}), 0, tmp_path)
    fit(done.recipe, out=done.folder, seed=0)
    assert done.finished()
    assert is_trained(done, None)
    monkeypatch.setattr(trained, "data_hash", lambda family, root: "another")
    assert not is_trained(done, None)
