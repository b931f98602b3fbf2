"""Embedders travel: they are cloned, pickled, sent to workers and put into scikit-learn's hands."""

from __future__ import annotations

import copy
import json
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline

from metavae_client.remote import RemoteEmbedder
from metavae_zoo.embedding.embedder import OnnxEmbedder
from metavae_zoo.families import family


@pytest.fixture(params=["in process", "remote"])
def embedder(request, bundle, fake):
    if request.param == "in process":
        return OnnxEmbedder(bundle, threads=1)
    return RemoteEmbedder(fake.url, bundle.card.name, max_images_per_request=100)


@pytest.fixture
def codes(local, images):
    return local.embed(images[:5], local.summarize(images[:20])).mean


def means(embedder, images):
    return embedder.fit(images[:20]).transform(images[:5])


def test_fit_takes_the_context_and_transform_embeds_under_it(embedder, images, codes):
    assert np.array_equal(means(embedder, images), codes)
    cloned: Any = clone(embedder)
    assert np.array_equal(cloned.fit_transform(images[:20])[:5], codes)


def test_a_clone_has_the_parameters_and_is_not_fitted(embedder, images):
    cloned: Any = clone(embedder.fit(images[:20]))
    assert cloned.get_params().keys() == embedder.get_params().keys()
    assert not hasattr(cloned, "summary_")


@pytest.mark.parametrize(
    "travel",
    [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))],  # noqa: S301
    ids=["copy", "pickle"],
)
def test_a_copy_embeds_as_the_first_and_keeps_its_fit(embedder, images, codes, travel):
    there = travel(embedder.fit(images[:20]))
    assert np.array_equal(there.transform(images[:5]), codes)


def test_parameters_can_be_set(bundle, fake):
    embedder = RemoteEmbedder(fake.url, "another")
    assert embedder.set_params(model=bundle.card.name, concurrency=2) is embedder
    assert (embedder.card, embedder.concurrency) == (bundle.card, 2)


def test_spawned_processes_embed(embedder, images, codes):
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        found = pool.submit(embedder.fit(images[:20]).transform, images[:5]).result(timeout=120)
    assert np.array_equal(found, codes)


def test_workers_of_joblib_embed(embedder, images, codes):
    embedder.fit(images[:20])
    work = (joblib.delayed(embedder.transform)(images[at : at + 5]) for at in (0, 0))
    for found in joblib.Parallel(n_jobs=2)(work):
        assert np.array_equal(np.asarray(found), codes)


def test_embeddings_are_cross_validated(embedder):
    digits = family("digits-rotation")
    images, labels = digits.images(0.0, "train")[:200], digits.labels("train")[:200]
    pipeline = make_pipeline(embedder, LogisticRegression(max_iter=1000))
    scores = cross_val_score(pipeline, images, labels, cv=2, n_jobs=2)
    assert scores.min() > 0.1, "of ten classes, by a model that was trained for seconds"


def test_a_pickle_has_the_path_of_a_token_and_not_the_token(fake, local, tmp_path):
    file = tmp_path / "key_file.json"
    file.write_text(json.dumps({"inference": {"key": "a-secret-token"}}))
    fake.accepted_token = "a-secret-token"
    with RemoteEmbedder(fake.url, local.card.name, token_file=file) as embedder:
        _ = embedder.card
        pickled = pickle.dumps(embedder)
    assert b"secret" not in pickled
    with pickle.loads(pickled) as there:  # noqa: S301
        assert there.card == local.card
