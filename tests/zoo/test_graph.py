"""Claims about graphs on a device: padding to a bucket of rows changes no row.

A GPU is not needed: its class runs on buffers of the CPU here.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from numpy.testing import assert_array_equal

from metavae_zoo.bundles.bundle import ENCODE
from metavae_zoo.embedding import graph
from metavae_zoo.embedding.graph import BucketGraph, PlainGraph, open_graph
from metavae_zoo.errors import DeviceUnavailable


@pytest.fixture(scope="module")
def path(bundle):
    return bundle.path / ENCODE


@pytest.fixture
def inputs(bundle, rng):
    card = bundle.card
    return lambda rows: {
        "images": rng.integers(0, 256, (rows, *card.image_shape), np.uint8),
        "summary": rng.normal(size=(rows, card.feature_dim)).astype(np.float32),
    }


def test_rows_in_a_bucket_are_the_rows_alone(path, inputs, monkeypatch):
    monkeypatch.setattr(graph, "BUCKETS", (1, 8, 32))
    session = graph._session(path, "cpu", 1)
    plain, padded = PlainGraph(session), BucketGraph(session, "cpu")
    for rows in (32, 1, 5, 8, 9, 2):  # after a full bucket, a part of it: nothing is left over
        given = inputs(rows)
        for expected, found in zip(plain.run(given), padded.run(given), strict=True):
            assert_array_equal(found, expected, strict=True)


def test_a_reply_is_not_changed_by_the_next_run(path, inputs, monkeypatch):
    monkeypatch.setattr(graph, "BUCKETS", (8,))
    padded = BucketGraph(graph._session(path, "cpu", 1), "cpu")
    first = padded.run(inputs(8))
    kept = [output.copy() for output in first]
    padded.run(inputs(8))
    for output, before in zip(first, kept, strict=True):
        assert_array_equal(output, before)


def test_one_summary_for_all_images_gives_the_bits_of_one_per_image(
    path, inputs, monkeypatch, tmp_path
):
    monkeypatch.setattr(graph, "BUCKETS", (8, 32))
    session = graph._session(path, "cpu", 1)
    graphs = [
        PlainGraph(session),
        BucketGraph(session, "cpu"),
        _of_an_earlier_version(path, tmp_path),
    ]
    for rows in (30, 1, 7):
        per_image = inputs(rows)
        per_image["summary"][:] = per_image["summary"][0]
        one = per_image | {"summary": per_image["summary"][:1]}
        expected = graphs[0].run(per_image)
        for each in graphs:
            for output, wanted in zip(each.run(one), expected, strict=True):
                assert_array_equal(output, wanted, strict=True)


def _of_an_earlier_version(path, folder):
    """The graph as earlier versions exported it: images and summaries have one number of rows."""
    model = onnx.load(path)
    for tensor in model.graph.input:
        tensor.type.tensor_type.shape.dim[0].dim_param = "rows"
    onnx.save(model, folder / "earlier.onnx")
    earlier = PlainGraph(graph._session(folder / "earlier.onnx", "cpu", 1))
    assert earlier._repeats
    return earlier


@pytest.mark.parametrize(("tf32", "recorded"), [(False, True), (True, True), (False, False)])
def test_cuda_is_asked_for_tf32_and_recording_only_where_they_are_wanted(
    path, monkeypatch, tf32, recorded
):
    asked = []

    def session(path, options, providers):
        asked.extend(providers)
        raise RuntimeError("no GPU is needed to see what one is asked for")

    monkeypatch.setattr("onnxruntime.InferenceSession", session)
    monkeypatch.setattr("onnxruntime.preload_dlls", lambda: None)
    with pytest.raises(DeviceUnavailable, match="no session could be made"):
        open_graph(path, device="cuda", tf32=tf32, recorded=recorded)
    assert {provider for provider, _ in asked} == {"CUDAExecutionProvider"}
    assert {options["use_tf32"] for _, options in asked} == {"1" if tf32 else "0"}
    # What cannot be recorded is tried without.
    recordings = [options["enable_cuda_graph"] for _, options in asked]
    assert recordings == (["1", "0"] if recorded else ["0"])
    with pytest.raises(DeviceUnavailable, match="TF32 was asked for on cpu"):
        open_graph(path, device="cpu", tf32=True)


def test_the_cpu_runs_as_many_rows_as_there_are(path):
    assert isinstance(open_graph(path, device="cpu", threads=1), PlainGraph)
