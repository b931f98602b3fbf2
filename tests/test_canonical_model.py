"""What the product is for: a classifier of the sites with labels works at a site never seen."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.testing import assert_allclose, assert_array_equal

from metavae_client.cli import main
from metavae_client.remote import RemoteEmbedder
from metavae_training.exporting.export import model_of
from metavae_training.exporting.torch_embedder import TorchEmbedder
from metavae_zoo.embedding.embedder import SITE_TOLERANCE, OnnxEmbedder
from metavae_zoo.embedding.int8 import quantize
from metavae_zoo.embedding.site import UNSURE, Site, doubts
from metavae_zoo.evaluation.probe import run_probe
from metavae_zoo.evaluation.protocols import Transfer
from metavae_zoo.evaluation.settings import ProbeSettings
from metavae_zoo.families import family

FAMILY = "digits-rotation"


@pytest.fixture(scope="module")
def remote(canonical_server, canonical_bundle):
    name = canonical_bundle.card.name
    with RemoteEmbedder(
        canonical_server.url, name, token_file=canonical_server.token_file
    ) as embedder:
        yield embedder


@pytest.fixture(scope="module")
def turned() -> np.ndarray:
    """Images of a site that no model has seen."""
    return family(FAMILY).images(60.0, "test")


def test_a_few_unlabelled_images_make_an_unseen_site_usable(remote):
    """Through the real server: 30 points above the same model without a context of the site."""
    accuracy = {}
    for source in ("reference", "own"):
        settings = ProbeSettings(
            FAMILY,
            "contiguous",
            protocol=Transfer(),
            train_size=200,
            test_size=300,
            contexts=1,
            context_size=20,  # the model has learned for a minute only
            context_from=source,
            floors=(),
        )
        accuracy[source] = run_probe(remote, settings).measurements[0].accuracy.mean
    assert accuracy["own"] > accuracy["reference"] + 0.3
    assert accuracy["own"] > 0.75


def test_embedders_infer_the_same_site(canonical_checkpoint, canonical_bundle, remote, turned):
    here = OnnxEmbedder(canonical_bundle)
    summary = here.summarize(turned[:30])
    expected = here.site(summary)
    assert_array_equal(remote.site(remote.summarize(turned[:30])), expected)
    torch_embedder = TorchEmbedder(model_of(canonical_checkpoint), canonical_bundle.card)
    assert_allclose(torch_embedder.site(summary), expected, rtol=1e-3, atol=SITE_TOLERANCE)


def test_a_person_is_told_how_a_site_is_turned(canonical_server, turned, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("images.npy", turned[:100])
    words = ["summarize", "images.npy", "--site", "--url", canonical_server.url]
    words += ["--token-file", str(canonical_server.token_file)]
    said = CliRunner().invoke(main, words)
    assert said.exit_code == 0, said.output
    assert "rotated by" in said.stdout
    assert "sure" in said.stdout
    numbers = json.loads(CliRunner().invoke(main, [*words, "--json"]).stdout)["site"]
    assert 0 < numbers["error_50"] < numbers["error_90"] < numbers["error_95"]
    angle = np.degrees(np.arctan2(-numbers["warp_yx"], numbers["warp_xx"]))
    assert abs(angle - 60) < 25


@pytest.mark.parametrize("context", ["one image", "blank", "repeated", "inverted", "noise"])
def test_a_context_that_says_little_is_told_and_gives_finite_embeddings(
    context, canonical_bundle, turned, rng
):
    embedder = OnnxEmbedder(canonical_bundle)
    images = {
        "one image": turned[:1],
        "blank": np.zeros((10, 28, 28), np.uint8),
        "repeated": np.repeat(turned[:1], 10, axis=0),
        "inverted": 255 - turned[:10],
        "noise": rng.integers(0, 256, (10, 28, 28), dtype=np.uint8),
    }[context]
    summary = embedder.summarize(images)
    embeddings = embedder.embed(turned[20:40], summary)
    assert np.isfinite(embeddings.mean).all()
    assert np.isfinite(embeddings.log_variance).all()
    site = Site.of(embedder.card, embedder.site(summary))
    if context in ("one image", "blank", "noise"):
        assert doubts(site, summary.count)
    if context in ("blank", "noise"):
        assert site.errors[0.9] > UNSURE


def test_a_blank_query_has_a_finite_embedding(canonical_bundle, turned):
    embedder = OnnxEmbedder(canonical_bundle)
    summary = embedder.summarize(turned[:10])
    for level in (0, 128, 255):
        queries = np.full((3, 28, 28), level, np.uint8)
        assert np.isfinite(embedder.embed(queries, summary).mean).all()


def test_a_canonical_model_is_quantised_and_keeps_its_site(canonical_bundle, turned, tmp_path):
    small = OnnxEmbedder(quantize(canonical_bundle, tmp_path / "int8"))
    whole = OnnxEmbedder(canonical_bundle)
    found, wanted = (one.site(one.summarize(turned[:50])) for one in (small, whole))
    assert_allclose(found[:4], wanted[:4], atol=0.1)
    queries = turned[50:150]
    codes = [one.embed(queries, one.summarize(turned[:50])).mean for one in (small, whole)]
    apart = np.linalg.norm(codes[0] - codes[1], axis=1)
    assert np.median(apart) < 0.25 * np.median(np.linalg.norm(codes[1], axis=1))
