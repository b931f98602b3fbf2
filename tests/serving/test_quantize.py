"""Claims about models computed in 8 bits: close to what they were, exact, never by surprise."""

from __future__ import annotations

import onnx
import pytest
from click.testing import CliRunner
from numpy.testing import assert_array_equal

from metavae_client.remote import RemoteEmbedder
from metavae_serving import cli as serve_cli
from metavae_serving.archive import pack
from metavae_serving.errors import NotMeasured
from metavae_serving.quantize import quantize
from metavae_serving.settings import ModelSettings, Settings
from metavae_zoo import cli as zoo_cli
from metavae_zoo.bundle import Bundle, open_bundle
from metavae_zoo.embedder import OnnxEmbedder
from metavae_zoo.errors import BadBundle, BadSummary, DeviceUnavailable
from metavae_zoo.families import family
from metavae_zoo.index import find_bundle

INT8 = ModelSettings(precision="int8")
SHIPPED = [
    "metavae-mnist-rotation-contiguous",
    "neural-statistician-mnist-rotation-contiguous",
    "vae-mnist-rotation-contiguous",
    "wavelet-metavae-mnist-rotation-contiguous",
    "wavelet-pca-mnist-rotation-contiguous",
]


@pytest.fixture(scope="module")
def small(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The model in 8 bits."""
    return quantize(bundle, tmp_path_factory.mktemp("int8") / bundle.card.name)


@pytest.fixture(scope="module")
def digits(bundle: Bundle):
    return family(bundle.card.family).images(60.0, "test")


@pytest.mark.parametrize("name", SHIPPED)
def test_codes_move_by_little_of_their_spread(name, tmp_path, rng):
    source = find_bundle(name)
    made = quantize(source, tmp_path / name)
    images = rng.integers(0, 256, (64, *source.card.image_shape)).astype("u1")
    found = []
    for one in (source, made):
        embedder = OnnxEmbedder(one)
        summary = embedder.summarize(images[:20]) if one.card.needs_context else None
        found.append(embedder.embed(images, summary).mean)
    full, eight = found
    assert 0 < abs(eight - full).mean() < 0.05 * full.std()
    assert made.size < source.size or source.card.weights == "int8"


def test_products_are_really_computed_in_8_bits(small):
    operations = [
        node.op_type
        for name in ("encode.onnx", "summarize.onnx")
        for node in onnx.load(small.path / name).graph.node
    ]
    assert operations.count("MatMulInteger") == 7
    assert "Gemm" not in operations


def test_an_image_has_the_same_bits_alone_and_in_any_batch(small, digits):
    embedder = OnnxEmbedder(small)
    summary = embedder.summarize(digits[:50])
    together = embedder.embed(digits, summary)
    for index in (0, 7, len(digits) - 1):
        alone = embedder.embed(digits[index : index + 1], summary)
        assert_array_equal(alone.mean[0], together.mean[index])
        assert_array_equal(alone.log_variance[0], together.log_variance[index])


def test_a_context_has_the_same_bits_in_any_order_and_chunking(small, digits, rng):
    embedder = OnnxEmbedder(small)
    whole = embedder.summarize(digits)
    assert embedder.summarize(digits[rng.permutation(len(digits))]) == whole
    assert embedder.summarize(digits[:9]).merge(embedder.summarize(digits[9:])) == whole


def test_it_is_another_model_to_summaries(bundle, small, digits):
    assert small.card.digest != bundle.card.digest
    with pytest.raises(BadSummary, match="model"):
        OnnxEmbedder(small).embed(digits, OnnxEmbedder(bundle).summarize(digits))


def test_a_model_in_8_bits_is_not_quantised_again(small, tmp_path):
    with pytest.raises(BadBundle, match="already"):
        quantize(small, tmp_path / "again")


def test_int8_is_refused_where_nobody_has_measured_what_it_costs(bundle, tmp_path):
    store = tmp_path / "store"
    with pytest.raises(NotMeasured, match=f"metavae-zoo quantize {bundle.card.name}"):
        pack([bundle], store, Settings(models={bundle.card.name: INT8}))
    words = ["pack", f"{bundle.path}/", "--precision", "int8", "--device", "cpu"]
    done = CliRunner().invoke(serve_cli.main, [*words, "--store", str(store)])
    assert done.exit_code == 1
    assert "has not been measured" in done.output
    assert not store.exists()


def test_int8_is_refused_on_a_gpu(bundle, tmp_path):
    settings = ModelSettings(precision="int8", device="cuda")
    with pytest.raises(DeviceUnavailable, match="CPU alone"):
        pack([bundle], tmp_path / "store", Settings(models={bundle.card.name: settings}))


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A model that ships, with what int8 costs measured by the command."""
    folder = tmp_path_factory.mktemp("measured")
    name = "metavae-digits-rotation-contiguous"
    done = CliRunner().invoke(zoo_cli.main, ["quantize", name, "--out", str(folder)])
    assert done.exit_code == 0, done.output
    assert "in int8" in done.output
    return open_bundle(folder / name)


def test_what_it_costs_stands_on_the_card_by_the_cards_own_probe(measured):
    shipped = find_bundle(measured.card.name).card.results
    results = measured.card.results
    assert shipped is not None
    assert results is not None
    assert results.int8 is not None
    assert results.probe == shipped.probe
    for setting in ("protocol", "seed", "train_size", "test_size", "contexts", "context_size"):
        assert getattr(results.int8, setting) == getattr(results.probe, setting), setting
    assert set(results.int8.per_value) == set(results.probe.per_value)
    assert abs(results.int8.accuracy.mean - results.probe.accuracy.mean) < 0.02
    assert results.commands[-1] == f"metavae-zoo quantize {measured.card.name}"


def test_a_server_packed_for_int8_answers_as_the_quantised_bundle_in_process(
    measured, serve, tmp_path, digits
):
    name = measured.card.name
    local = OnnxEmbedder(quantize(measured, tmp_path / name))
    with (
        serve([measured], **{name: INT8}) as server,
        RemoteEmbedder(server.url, name, token_file=server.token_file) as remote,
    ):
        assert remote.card.precision == "int8"
        summary = remote.summarize(digits[:30])
        assert summary == local.summarize(digits[:30])
        found, expected = remote.embed(digits, summary), local.embed(digits, summary)
    assert_array_equal(found.mean, expected.mean)
    assert_array_equal(found.log_variance, expected.log_variance)
