"""Claims about requests that are answered together: the bits of each alone, one run a graph."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from metavae_serving.answering.batch import embed_batch
from metavae_serving.answering.metrics import Meter
from metavae_zoo.embedding.embedder import OnnxEmbedder
from metavae_zoo.embedding.graph import PlainGraph
from metavae_zoo.embedding.summary import LIMIT, Summary
from metavae_zoo.errors import MetavaeError
from metavae_zoo.protocol.wire import EmbedRequest, decode_request, encode_request


@pytest.fixture(scope="module")
def embedder(bundle) -> OnnxEmbedder:
    return OnnxEmbedder(bundle, threads=1)


@pytest.fixture(scope="module")
def request_of(embedder):
    """Builds a request of a kind, with its images drawn by a seed."""
    shape = embedder.card.image_shape

    def build(kind: str, queries: int, context: int, seed: int) -> EmbedRequest:
        rng = np.random.default_rng(seed)

        def images(count: int):
            return rng.integers(0, 256, (count, *shape), np.uint8)

        contexts = images(context)
        inputs = {
            "summarise": lambda: {"context": contexts},
            "both": lambda: {"queries": images(queries), "context": contexts},
            "summary": lambda: {
                "queries": images(queries),
                "summary": embedder.summarize(contexts),
            },
            "summaries": lambda: {
                "queries": images(queries),
                "summary": [embedder.summarize(images(1 + row % 3)) for row in range(queries)],
            },
            "no context": lambda: {"queries": images(queries)},
            "wrong size": lambda: {"queries": images(queries)[..., 1:], "context": contexts},
            "other model": lambda: {
                "queries": images(queries),
                "summary": Summary(np.zeros(embedder.card.feature_dim), 1, "another"),
            },
        }[kind]()
        body, headers = encode_request(**inputs)
        return decode_request(body, int(headers["Inference-Header-Content-Length"]))

    return build


GOOD = ("summarise", "both", "summary", "summaries")
BAD = ("no context", "wrong size", "other model")
DRAWN = st.tuples(
    st.sampled_from(GOOD + BAD), st.integers(1, 40), st.integers(1, 40), st.integers(0, 9)
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=st.lists(DRAWN, min_size=1, max_size=8))
def test_a_batch_is_its_requests_alone_bit_for_bit_and_each_fails_alone(
    embedder, request_of, drawn
):
    requests = [request_of(*one) for one in drawn]
    together = embed_batch(embedder, requests, Meter("m"))
    for (kind, *_), request, found in zip(drawn, requests, together, strict=True):
        [alone] = embed_batch(embedder, [request], Meter("m"))
        if isinstance(alone, MetavaeError):
            assert kind in BAD
            assert isinstance(found, MetavaeError)
            assert str(found) == str(alone)
            continue
        assert kind in GOOD
        assert isinstance(found, dict)
        assert found.keys() == alone.keys()
        for name, array in alone.items():
            assert_array_equal(found[name], array, strict=True)


def test_a_batch_is_one_run_of_each_graph(embedder, request_of, monkeypatch):
    runs = []

    def counted(graph, inputs, run=PlainGraph.run):
        runs.append(len(inputs["images"]))
        return run(graph, inputs)

    requests = [request_of(kind, 10, 20, seed) for seed, kind in enumerate(GOOD * 2)]
    monkeypatch.setattr(PlainGraph, "run", counted)
    embed_batch(embedder, requests, Meter("m"))
    assert runs == [2 * (20 + 20), 2 * (10 + 10 + 10)]


def test_requests_with_one_context_share_the_row_of_its_summary(embedder, request_of, monkeypatch):
    rows = []

    def counted(graph, inputs, run=PlainGraph.run):
        rows.append(len(inputs["summary"]))
        return run(graph, inputs)

    one, same, another = (request_of("summary", 5, 9, seed) for seed in (0, 0, 1))
    monkeypatch.setattr(PlainGraph, "run", counted)
    embed_batch(embedder, [one, same], Meter("m"))
    embed_batch(embedder, [one, same, another], Meter("m"))
    assert rows == [1, 15]


def test_a_context_beyond_the_exact_range_fails_alone(embedder, request_of, monkeypatch):
    def huge_where_black(graph, inputs, run=PlainGraph.run):
        outputs = run(graph, inputs)
        if "summary" not in inputs:
            black = inputs["images"].reshape(len(inputs["images"]), -1).max(axis=1) == 0
            outputs[0] = np.where(black[:, None], np.float32(LIMIT), outputs[0])
        return outputs

    monkeypatch.setattr(PlainGraph, "run", huge_where_black)
    black = np.zeros((3, *embedder.card.image_shape), np.uint8)
    good, bad = request_of("both", 3, 4, 0), EmbedRequest({}, queries=black, context=black)
    [before, failed, after] = embed_batch(embedder, [good, bad, good], Meter("m"))
    assert isinstance(failed, MetavaeError)
    assert failed.code == "bad_summary"
    assert isinstance(before, dict)
    assert isinstance(after, dict)
    assert_array_equal(before["embedding"], after["embedding"])


@pytest.fixture(scope="module")
def site_embedder(site_bundle) -> OnnxEmbedder:
    return OnnxEmbedder(site_bundle, threads=1)


def asked(**inputs) -> EmbedRequest:
    body, headers = encode_request(**inputs)
    return decode_request(body, int(headers["Inference-Header-Content-Length"]))


def outputs_of(found) -> dict:
    assert isinstance(found, dict), found
    return found


def test_a_site_has_the_same_bits_alone_and_in_any_batch(site_embedder, rng):
    images = rng.integers(0, 256, (40, 28, 28), np.uint8)
    summaries = [site_embedder.summarize(images[: 1 + row]) for row in range(30)]
    requests = [
        asked(context=images, outputs=["site"]),
        asked(context=images[:3], queries=images, outputs=["embedding", "site"]),
        asked(summary=summaries, outputs=["site"]),
        asked(summary=summaries[5], outputs=["site"]),
        asked(queries=images[:30], summary=summaries, outputs=["site", "log_variance"]),
        asked(context=images),
    ]
    together = [outputs_of(one) for one in embed_batch(site_embedder, requests, Meter("m"))]
    whole = site_embedder.site(site_embedder.summarize(images))
    each = np.stack([site_embedder.site(summary) for summary in summaries])
    assert_array_equal(together[0]["site"], whole, strict=True)
    assert_array_equal(together[1]["site"], each[2], strict=True)
    assert_array_equal(together[2]["site"], each, strict=True)
    assert_array_equal(together[3]["site"], each[5], strict=True)
    assert_array_equal(together[4]["site"], each, strict=True)
    assert "site" not in together[5]
    for request, found in zip(requests, together, strict=True):
        [alone] = embed_batch(site_embedder, [request], Meter("m"))
        assert outputs_of(alone).keys() == found.keys()
        for name, array in outputs_of(alone).items():
            assert_array_equal(found[name], array, strict=True)


def test_a_summary_without_a_site_fails_alone(site_embedder, rng):
    images = rng.integers(0, 256, (4, 28, 28), np.uint8)
    good = site_embedder.summarize(images)
    bad = Summary(good.total, good.count, "another")
    requests = [asked(summary=one, outputs=["site"]) for one in (good, bad, good)]
    first, failed, last = embed_batch(site_embedder, requests, Meter("m"))
    assert isinstance(failed, MetavaeError)
    assert failed.code == "bad_summary"
    assert_array_equal(outputs_of(first)["site"], outputs_of(last)["site"], strict=True)
    none = Summary(good.total, 0, good.model)
    several = asked(summary=[good, none], outputs=["site"])
    [failed] = embed_batch(site_embedder, [several], Meter("m"))
    assert isinstance(failed, MetavaeError)


def test_a_model_that_infers_no_site_refuses_before_anything_is_run(embedder, monkeypatch):
    monkeypatch.setattr(PlainGraph, "run", lambda graph, inputs: pytest.fail("a graph was run"))
    [refused] = embed_batch(
        embedder, [asked(context=np.zeros((2, 28, 28), np.uint8), outputs=["site"])], Meter("m")
    )
    assert isinstance(refused, MetavaeError)
    assert refused.code == "no_site"
