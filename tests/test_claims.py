"""The standing claims about every embedder: torch, ONNX Runtime in process, a real TorchServe.

Each claim is a parity test too: what holds for one of the three holds for all.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from metavae_client.remote import RemoteEmbedder
from metavae_training.exporting.export import model_of
from metavae_training.exporting.torch_embedder import TorchEmbedder
from metavae_zoo.bundles.bundle import Bundle
from metavae_zoo.embedding.embedder import SITE_TOLERANCE, Embedder, OnnxEmbedder
from metavae_zoo.embedding.summary import Summary
from metavae_zoo.errors import BadImages, BadSummary
from metavae_zoo.families import family

pytestmark = pytest.mark.server


@pytest.fixture(scope="module", params=["", "canonical_"], ids=["metavae", "canonical"])
def kind(request: pytest.FixtureRequest) -> str:
    """The model that makes the claims: what the names of its fixtures begin with."""
    return request.param


@pytest.fixture(scope="module")
def model_bundle(kind: str, request: pytest.FixtureRequest) -> Bundle:
    return request.getfixturevalue(f"{kind}bundle")


@pytest.fixture(scope="module", params=["torch", "onnx", "torchserve"])
def embedder(kind: str, model_bundle: Bundle, request: pytest.FixtureRequest) -> Iterator[Embedder]:
    card = model_bundle.card
    if request.param == "torch":
        yield TorchEmbedder(model_of(request.getfixturevalue(f"{kind}checkpoint")), card)
    elif request.param == "onnx":
        yield OnnxEmbedder(model_bundle)
    else:
        server = request.getfixturevalue(f"{kind}server")
        with RemoteEmbedder(server.url, card.name, token_file=server.token_file) as remote:
            yield remote


@pytest.fixture(scope="module")
def context() -> np.ndarray:
    """A sample of a distribution that the model was not trained on."""
    return family("digits-rotation").images(100.0, "train")[:150]


@pytest.fixture(scope="module")
def queries() -> np.ndarray:
    return family("digits-rotation").images(100.0, "test")[:60]


def assert_same(one, other):
    """Bit for bit."""
    assert_array_equal(one.mean, other.mean)
    assert_array_equal(one.log_variance, other.log_variance)


def test_an_embedding_is_a_posterior_of_finite_numbers(embedder, queries, context):
    embeddings = embedder.embed(queries, embedder.summarize(context))
    for values in (embeddings.mean, embeddings.log_variance):
        assert values.shape == (60, 40)
        assert values.dtype == np.float32
        assert np.isfinite(values).all()
    assert embeddings.mean.std() > 0.1


def test_the_order_of_the_context_does_not_matter(embedder, queries, context, rng):
    shuffled = embedder.summarize(rng.permutation(context))
    assert shuffled == embedder.summarize(context)
    assert_same(
        embedder.embed(queries, embedder.summarize(context)), embedder.embed(queries, shuffled)
    )


def test_the_content_of_the_context_matters(embedder, queries, context):
    other = family("digits-rotation").images(-100.0, "train")[:150]
    right, wrong = (
        embedder.embed(queries, embedder.summarize(images)).mean for images in (context, other)
    )
    # A hundred times what rounding could do.
    assert np.abs(right - wrong).max() > 1e-3


def test_many_at_once_equal_as_many_singles(embedder, queries, context):
    summary = embedder.summarize(context)
    at_once = embedder.embed(queries, summary)
    for index in range(0, len(queries), 7):
        single = embedder.embed(queries[index : index + 1], summary)
        assert_array_equal(single.mean[0], at_once.mean[index])
        assert_array_equal(single.log_variance[0], at_once.log_variance[index])


def test_any_batch_of_one_image_gives_the_same_bits(embedder, queries, context, rng):
    summary = embedder.summarize(context)
    alone = embedder.embed(queries[:1], summary).mean[0]
    crowd = rng.integers(0, 256, (300, 1, 28, 28), dtype=np.uint8)
    for position in (0, 3, 255, 256, 299):
        crowd[position] = queries[0]
    embedded = embedder.embed(crowd, summary).mean
    for position in (0, 3, 255, 256, 299):
        assert_array_equal(embedded[position], alone)


def test_merged_summaries_equal_the_summary_of_the_union(embedder, context):
    parts = [embedder.summarize(part) for part in np.split(context, [1, 40, 113])]
    assert parts[0].merge(*parts[1:]) == embedder.summarize(context)


def test_a_summary_per_row_equals_row_by_row(embedder, queries, context):
    summaries = [embedder.summarize(context[:20]), embedder.summarize(context[20:])]
    chosen = [summaries[index % 2] for index in range(len(queries))]
    mixed = embedder.embed(queries, chosen)
    for index in (0, 1, 31, 59):
        alone = embedder.embed(queries[index : index + 1], chosen[index])
        assert_array_equal(mixed.mean[index], alone.mean[0])


def test_bytes_and_their_fractions_are_one_image(embedder, queries, context):
    summary = embedder.summarize(context)
    assert_same(
        embedder.embed(queries, summary), embedder.embed((queries / 255).astype("f4"), summary)
    )


def test_the_three_embedders_agree(embedder, model_bundle, queries, context):
    reference = OnnxEmbedder(model_bundle)
    summary = embedder.summarize(context)
    expected = reference.summarize(context)
    np.testing.assert_allclose(summary.mean, expected.mean, rtol=0, atol=1e-5)
    found, wanted = embedder.embed(queries, summary), reference.embed(queries, expected)
    allowed = SITE_TOLERANCE if model_bundle.card.site else 1e-5
    tolerance = allowed if isinstance(embedder, TorchEmbedder) else 0
    np.testing.assert_allclose(found.mean, wanted.mean, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("part", ["context", "queries"])
@pytest.mark.parametrize(
    ("images", "says"),
    [
        (np.zeros((0, 28, 28), np.uint8), "is empty"),
        (np.zeros((2, 27, 28), np.uint8), r"shape \[2, 27, 28\]"),
        (np.zeros((2, 28, 28), np.int32), "type int32"),
        (np.full((2, 28, 28), np.nan, np.float32), "NaN"),
        (np.full((2, 28, 28), 1.5, np.float32), "expected 0 to 1"),
    ],
)
def test_bad_images_are_refused(embedder, context, part, images, says):
    summary = embedder.summarize(context[:2])
    use = embedder.summarize if part == "context" else partial(embedder.embed, summary=summary)
    with pytest.raises(BadImages, match=says):
        use(images)


def test_no_context_and_a_context_of_another_model_are_refused(embedder, queries, context):
    with pytest.raises(BadSummary, match="given a context set, and got none"):
        embedder.embed(queries)
    mine = embedder.summarize(context)
    foreign = Summary(mine.total, mine.count, "0" * 64)
    with pytest.raises(BadSummary, match="was made by model 000000000000"):
        embedder.embed(queries, foreign)
