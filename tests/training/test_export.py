"""Claims about export: the bundle is the checkpoint, and vouches for itself."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from metavae_training.cli import main
from metavae_training.exporting.export import export, model_of
from metavae_training.exporting.torch_embedder import TorchEmbedder
from metavae_training.trainer.fit import CHECKPOINT
from metavae_zoo.bundles.bundle import open_bundle
from metavae_zoo.embedding.embedder import OnnxEmbedder, golden_gap
from metavae_zoo.errors import BadBundle
from metavae_zoo.families import family

pytestmark = pytest.mark.training


def test_torch_and_onnx_runtime_agree_within_1e_5(checkpoint, bundle):
    torch_embedder = TorchEmbedder(model_of(checkpoint), bundle.card)
    onnx_embedder = OnnxEmbedder(bundle)
    images = family(bundle.card.family).images(60.0, "test")
    ours, theirs = (one.summarize(images[:200]) for one in (torch_embedder, onnx_embedder))
    assert golden_gap(ours.mean, theirs.mean) < 1e-5
    one, other = (
        embedder.embed(images[200:], ours) for embedder in (torch_embedder, onnx_embedder)
    )
    assert golden_gap(one.mean, other.mean) < 1e-5
    assert golden_gap(one.log_variance, other.log_variance) < 1e-5


def test_graphs_take_bytes_and_any_batch(bundle):
    for name in ("summarize.onnx", "encode.onnx"):
        graph = onnx.load(bundle.path / name).graph
        images = graph.input[0]
        assert images.type.tensor_type.elem_type == onnx.TensorProto.UINT8
        batch, *rest = images.type.tensor_type.shape.dim
        assert batch.dim_param
        assert [dim.dim_value for dim in rest] == [1, 28, 28]


def test_images_may_share_a_summary(bundle):
    images, summary = onnx.load(bundle.path / "encode.onnx").graph.input
    rows = [one.type.tensor_type.shape.dim[0].dim_param for one in (images, summary)]
    assert rows == ["rows", "contexts"]


def test_a_graph_does_not_tell_where_it_was_made(bundle):
    for path in (bundle.path / "encode.onnx", bundle.path / "summarize.onnx"):
        assert b".py" not in path.read_bytes()
        assert not any(node.metadata_props for node in onnx.load(path).graph.node)


def test_the_card_says_what_was_trained(checkpoint, bundle):
    card = bundle.card
    assert (card.family, card.split, card.seed) == (
        "digits-rotation",
        "contiguous",
        checkpoint.seed,
    )
    assert card.train_values == [float(value) for value in range(-180, 1, 20)]
    assert card.held_out_values == [float(value) for value in range(20, 161, 20)]
    assert card.parameters == {
        "summary_network": 784 * 784 + 784 + 784 * 400 + 400 + 400 * 400 + 400,
        "aggregation_network": 1184 * 400 + 400 + 400 * 400 + 400 + 400 * 80 + 80,
        "decoders": 10 * (40 * 400 + 400 + 400 * 400 + 400 + 400 * 784 + 784),
    }
    assert card.data_sha256 == family(card.family).data_sha256()


def test_a_graph_that_differs_from_torch_is_never_written(checkpoint, tmp_path, monkeypatch):
    whole = TorchEmbedder.embed

    def shifted(self, queries, summary=None):
        found = whole(self, queries, summary)
        found.mean[0, 0] += 1e-3
        return found

    monkeypatch.setattr(TorchEmbedder, "embed", shifted)
    with pytest.raises(BadBundle, match="differs from the exported golden outputs"):
        export(checkpoint, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_the_commands_train_and_export(tmp_path):
    run = CliRunner().invoke(
        main,
        ["run", "metavae-digits-scale-sparse", "--epochs", "1", "--device", "cpu", "--json",
         "--out", str(tmp_path)],
    )  # fmt: skip
    assert run.exit_code == 0, run.output
    assert json.loads(run.stdout)["checkpoint"] == str(tmp_path / CHECKPOINT)
    exported = CliRunner().invoke(main, ["export", str(tmp_path / CHECKPOINT), "--json"])
    assert exported.exit_code == 0, exported.output
    bundle = open_bundle(tmp_path / "metavae-digits-scale-sparse")
    assert json.loads(exported.stdout)["name"] == bundle.card.name
    assert np.isfinite(bundle.card.validation_elbo)

    checkpoint = str(tmp_path / CHECKPOINT)
    named = CliRunner().invoke(main, ["export", checkpoint, "--name", "my-digits"])
    assert named.exit_code == 0, named.output
    mine = open_bundle(tmp_path / "my-digits").card
    assert (mine.name, mine.recipe) == ("my-digits", bundle.card.recipe)
    bad = CliRunner().invoke(main, ["export", checkpoint, "--name", "../Mine"])
    assert bad.exit_code == 2
    assert "'../Mine' is no name of a model" in bad.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["run", "metavae-digits"], 1, "no recipe 'metavae-digits'"),
        (["run", "metavae-digits-scale-sparse", "--epochs", "-1"], 2, "--epochs"),
        (["export", "nothing.safetensors"], 1, "is not a metavae checkpoint"),
        (["export", "."], 1, "it is a folder). Give the checkpoint.safetensors"),
    ],
)
def test_bad_arguments_are_one_clear_line(arguments, code, says):
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == code
    assert says in result.stderr
    assert "Traceback" not in result.stderr


def test_cuda_is_refused_where_there_is_none():
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    result = CliRunner().invoke(main, ["run", "metavae-digits-scale-sparse", "--device", "cuda"])
    assert result.exit_code == 1
    assert "torch finds no CUDA device" in result.stderr
