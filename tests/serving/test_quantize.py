"""Claims about models computed in 8 bits: close to what they were, exact, never by surprise."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner
from numpy.testing import assert_array_equal
from onnx import helper, numpy_helper

from metavae_client.remote import RemoteEmbedder
from metavae_serving import cli as serve_cli
from metavae_serving import options
from metavae_serving.errors import NotMeasured
from metavae_serving.settings import ModelSettings, Settings
from metavae_serving.torchserve.archive import pack
from metavae_zoo import cli as zoo_cli
from metavae_zoo.bundles.bundle import Bundle, open_bundle
from metavae_zoo.bundles.index import find_bundle
from metavae_zoo.embedding.embedder import OnnxEmbedder
from metavae_zoo.embedding.int8 import quantize, quantized
from metavae_zoo.errors import BadBundle, BadSummary, DeviceUnavailable
from metavae_zoo.families import family

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


def test_a_bundle_in_int8_is_no_way_round(small, tmp_path):
    with pytest.raises(BadBundle, match="already"):
        pack([small], tmp_path / "store", Settings(models={small.card.name: INT8}))
    with pytest.raises(BadBundle, match="already"):
        pack([small], tmp_path / "store", Settings())


def test_what_is_there_is_never_replaced(bundle, tmp_path):
    before = {file.name: file.read_bytes() for file in bundle.files}
    words = ["quantize", f"{bundle.path}/", "--out"]
    done = CliRunner().invoke(serve_cli.main, [*words, str(bundle.path)])
    assert done.exit_code == 1
    assert "would be replaced" in done.output
    assert {file.name: file.read_bytes() for file in bundle.files} == before
    made = CliRunner().invoke(serve_cli.main, [*words, str(tmp_path / "new")])
    assert made.exit_code == 0, made.output
    assert open_bundle(tmp_path / "new").card.precision == "int8"


def test_int8_needs_no_device_to_be_named(measured, tmp_path, monkeypatch):
    monkeypatch.setattr(options, "best_device", lambda bundle: "cuda")
    words = ["pack", f"{measured.path}/", "--precision", "int8", "--store", str(tmp_path / "s")]
    done = CliRunner().invoke(serve_cli.main, words)
    assert done.exit_code == 0, done.output
    assert "for cpu" in done.output


def rewritten(folder, nodes: list, constants: dict, *, opset: int = 20) -> onnx.ModelProto:
    """The quantised graph of some nodes from x, float32 [N, 3], to y."""
    floats = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", floats, ["n", 3])],
        [helper.make_tensor_value_info("y", floats, ["n", 2])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    imports = [helper.make_opsetid("", opset)]
    path = folder / "g.onnx"
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), path)
    return onnx.load_from_string(quantized(path))


def run_graph(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    [found] = session.run(None, {"x": x})
    return np.asarray(found)


WEIGHTS = np.array([[1, -2], [0.5, 4], [-3, 0.25]], np.float32)


def test_rows_of_any_size_and_of_zeros_keep_their_own_scale(tmp_path):
    model = rewritten(tmp_path, [helper.make_node("Gemm", ["x", "w"], ["y"])], {"w": WEIGHTS})
    x = np.array([[0, 0, 0], [1e-36, 0, 0], [1e30, -1e30, 5e29], [1, 2, 3]], np.float32)
    found, expected = run_graph(model, x), x @ WEIGHTS
    assert_array_equal(found[0], [0, 0])
    for row, right in zip(found[2:], expected[2:], strict=True):
        assert abs(row - right).max() < 0.03 * abs(right).max()


def test_two_products_of_one_input_quantise_it_once(tmp_path):
    nodes = [
        helper.make_node("Gemm", ["x", "w", ""], ["a"]),
        helper.make_node("Gemm", ["x", "v"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    constants = {"w": WEIGHTS, "v": WEIGHTS[::-1].copy()}
    model = rewritten(tmp_path, nodes, constants)
    operations = [node.op_type for node in model.graph.node]
    assert operations.count("Round") == 1
    assert operations.count("MatMulInteger") == 2
    x = np.array([[1, 2, 3], [-3, 2, 1]], np.float32)
    expected = x @ WEIGHTS + x @ WEIGHTS[::-1]
    assert abs(run_graph(model, x) - expected).max() < 0.03 * abs(expected).max()


def test_a_graph_with_nothing_to_quantise_is_refused(tmp_path):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    with pytest.raises(BadBundle, match="Serve the model in fp32"):
        rewritten(tmp_path, nodes, {"w": WEIGHTS})
    nodes = [helper.make_node("Gemm", ["x", "w"], ["y"])]
    with pytest.raises(BadBundle, match="opset 17"):
        rewritten(tmp_path, nodes, {"w": WEIGHTS}, opset=17)


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
