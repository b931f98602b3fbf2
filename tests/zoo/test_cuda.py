"""Claims about a GPU: embeddings are those of the CPU, within what is stated, in any batch.

The CPU promises bits; a GPU takes sums in another order, which changes with the rows of a run.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from metavae_zoo.bundles.bundle import CARD, ENCODE, open_bundle
from metavae_zoo.bundles.index import find_bundle, shipped_bundles
from metavae_zoo.embedding.embedder import (
    GOLDEN_TOLERANCE,
    TF32_TOLERANCE,
    OnnxEmbedder,
    golden_gap,
)
from metavae_zoo.embedding.graph import BUCKETS, CHUNK, BucketGraph, open_graph
from metavae_zoo.families import family

pytestmark = pytest.mark.usefixtures("cuda")

TOLERANCE = GOLDEN_TOLERANCE["cuda"]
MODELS = [
    "metavae-digits-rotation-contiguous",
    "metavae-mnist-rotation-contiguous",
    "neural-statistician-mnist-rotation-contiguous",
    "vae-mnist-rotation-contiguous",
    "vhe-mnist-rotation-contiguous",
    "vhe-vampprior-mnist-rotation-contiguous",
    "wavelet-metavae-mnist-rotation-contiguous",
    "wavelet-pca-mnist-rotation-contiguous",
]
# One row, every bucket of rows and its neighbours, and more than one run holds.
COUNTS = sorted({1, *(size + near for size in BUCKETS[1:] for near in (-1, 0, 1)), 2 * CHUNK + 5})


@pytest.fixture(scope="module", params=MODELS)
def pair(request, cuda) -> tuple[OnnxEmbedder, OnnxEmbedder]:
    """A model that ships on the CPU, and on the GPU."""
    bundle = find_bundle(request.param)
    return OnnxEmbedder(bundle), OnnxEmbedder(bundle, device="cuda")


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    """More digits than a run holds."""
    images = family("digits-rotation").images(60.0, "train")
    return np.concatenate([np.rot90(images, turn, axes=(-2, -1)) for turn in range(4)])


@pytest.fixture
def queries(digits, rng) -> np.ndarray:
    """Digits, and noise that no model was made for."""
    noise = rng.integers(0, 256, (2 * CHUNK + 5, *digits.shape[1:]), np.uint8)
    noise[::2] = digits[: len(noise[::2])]
    return noise


def summary_of(embedder: OnnxEmbedder, context: np.ndarray):
    return embedder.summarize(context) if embedder.card.needs_context else None


def assert_near(found, expected, tolerance: float = TOLERANCE):
    for name in ("mean", "log_variance"):
        gap = golden_gap(getattr(found, name), getattr(expected, name))
        assert gap <= tolerance, f"{name} differs by {gap:.2g}"


def test_embeddings_are_those_of_the_cpu_for_any_number_of_images(pair, queries, digits):
    cpu, gpu = pair
    expected = cpu.embed(queries, summary_of(cpu, digits[:150]))
    summary = summary_of(gpu, digits[:150])
    for count in COUNTS:
        found = gpu.embed(queries[:count], summary)
        assert found.mean.dtype == np.float32
        assert golden_gap(found.mean, expected.mean[:count]) <= TOLERANCE, count
        assert golden_gap(found.log_variance, expected.log_variance[:count]) <= TOLERANCE, count


def test_bytes_and_their_fractions_are_one_image(pair, queries, digits):
    _, gpu = pair
    summary = summary_of(gpu, digits[:50])
    one, other = (
        gpu.embed(queries[:33], summary),
        gpu.embed(queries[:33] / np.float32(255), summary),
    )
    assert_near(other, one, 0)


def test_the_same_request_has_the_same_bits_again(pair, queries, digits):
    _, gpu = pair
    first = gpu.embed(queries[:100], summary_of(gpu, digits[:50]))
    gpu.embed(queries[100:1000], summary_of(gpu, digits[50:99]))
    assert_near(gpu.embed(queries[:100], summary_of(gpu, digits[:50])), first, 0)


def test_an_image_alone_is_near_the_image_in_any_batch(pair, queries, digits):
    _, gpu = pair
    summary = summary_of(gpu, digits[:50])
    for count in (8, 100, CHUNK, len(queries)):
        together = gpu.embed(queries[:count], summary)
        for index in (0, count // 2, count - 1):
            alone = gpu.embed(queries[index : index + 1], summary)
            assert golden_gap(alone.mean[0], together.mean[index]) <= TOLERANCE
            assert golden_gap(alone.log_variance[0], together.log_variance[index]) <= TOLERANCE


def test_a_contexts_order_and_chunking_change_no_more_than_is_stated(pair, queries, digits, rng):
    cpu, gpu = pair
    if not gpu.card.needs_context:
        pytest.skip("a model without contexts")
    context = digits[: 2 * CHUNK + 5]
    expected = cpu.summarize(context)
    parts = [gpu.summarize(part) for part in np.split(context, [1, 40, 900, 2000])]
    found = [
        gpu.summarize(context),
        gpu.summarize(rng.permutation(context)),
        parts[0].merge(*parts[1:]),
    ]
    for summary in found:
        assert summary.count == len(context)
        assert golden_gap(summary.mean, expected.mean) <= TOLERANCE
        assert_near(gpu.embed(queries[:60], summary), cpu.embed(queries[:60], expected))


def test_a_summary_goes_from_a_gpu_to_a_cpu_and_back(pair, queries, digits):
    cpu, gpu = pair
    if not gpu.card.needs_context:
        pytest.skip("a model without contexts")
    expected = cpu.embed(queries[:60], cpu.summarize(digits[:150]))
    assert_near(cpu.embed(queries[:60], gpu.summarize(digits[:150])), expected)
    assert_near(gpu.embed(queries[:60], cpu.summarize(digits[:150])), expected)


def test_a_summary_per_image_is_that_images_own(pair, queries, digits):
    cpu, gpu = pair
    if not gpu.card.needs_context:
        pytest.skip("a model without contexts")
    summaries = [gpu.summarize(digits[at : at + 40]) for at in (0, 400, 800)]
    for count in (7, 33, 700):
        mixed = [summaries[index % 3] for index in range(count)]
        found = gpu.embed(queries[:count], mixed)
        assert_near(found, cpu.embed(queries[:count], mixed))
        one = gpu.embed(queries[:count], [summaries[0]] * count)
        assert_near(one, gpu.embed(queries[:count], summaries[0]))


@pytest.mark.parametrize(
    "name", sorted(path.parent.name for path in shipped_bundles().glob(f"[!.]*/{CARD}"))
)
def test_every_model_that_ships_gives_its_golden_embeddings(name):
    OnnxEmbedder(open_bundle(shipped_bundles() / name), device="cuda")


def test_tf32_is_within_its_own_tolerance_and_used_only_when_asked_for(pair, queries, digits):
    if torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("this GPU has no TF32")
    cpu, gpu = pair
    fast = OnnxEmbedder(find_bundle(cpu.card.name), device="cuda", tf32=True)
    expected = cpu.embed(queries, summary_of(cpu, digits[:150]))
    found = fast.embed(queries, summary_of(fast, digits[:150]))
    exact = gpu.embed(queries, summary_of(gpu, digits[:150]))
    assert_near(found, expected, TF32_TOLERANCE)
    # Without it the mean error is that of the order of sums, a thousandth of TF32's rounding.
    errors = [np.abs(one.mean - expected.mean).mean() for one in (exact, found)]
    assert errors[0] < 0.1 * errors[1]


def test_a_gpus_bits_are_not_those_of_an_earlier_run_in_the_same_buffers(pair, queries, digits):
    _, gpu = pair
    summary = summary_of(gpu, digits[:50])
    first = gpu.embed(queries[:8], summary)
    kept = first.mean.copy()
    gpu.embed(queries[8:16], summary)
    assert_array_equal(first.mean, kept)


@pytest.mark.parametrize("name", MODELS)
def test_recorded_kernels_give_what_they_give_one_by_one(name, queries, rng):
    bundle = find_bundle(name)
    plain = open_graph(bundle.path / ENCODE, device="cuda", recorded=False)
    recorded = open_graph(bundle.path / ENCODE, device="cuda")
    assert isinstance(recorded, BucketGraph)
    assert recorded.recorded
    for rows in (*BUCKETS, 3, 3, 100, 1):  # a bucket again, with other images
        first = rng.integers(0, len(queries) - rows)
        inputs = {"images": queries[first : first + rows]}
        if bundle.card.needs_context:
            summaries = rng.standard_normal((rows, bundle.card.feature_dim))
            inputs["summary"] = summaries.astype(np.float32)
        for found, expected in zip(recorded.run(inputs), plain.run(inputs), strict=True):
            assert golden_gap(found, expected) <= TOLERANCE
