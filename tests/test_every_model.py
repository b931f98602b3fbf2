"""Every model is exported, served and probed through the same code: one server over them all."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.testing import assert_allclose, assert_array_equal

from metavae_client.cli import main
from metavae_client.remote import RemoteEmbedder
from metavae_training.exporting.export import export, model_of
from metavae_training.exporting.torch_embedder import TorchEmbedder
from metavae_training.models import MODELS
from metavae_training.recipes import recipe
from metavae_training.trainer.checkpoint import Checkpoint
from metavae_training.trainer.fit import fit
from metavae_zoo.bundles.bundle import Bundle
from metavae_zoo.embedding.embedder import SITE_TOLERANCE, OnnxEmbedder
from metavae_zoo.evaluation.probe import run_probe
from metavae_zoo.evaluation.settings import ProbeSettings
from metavae_zoo.families import family

pytestmark = pytest.mark.training

FAMILY, SPLIT = "digits-rotation", "sparse"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> dict[str, tuple[Checkpoint, Bundle]]:
    """Every model over digits, trained for an epoch and exported."""
    folder = tmp_path_factory.mktemp("models")
    found = {}
    for model in MODELS:
        chosen = recipe(f"{model}-{FAMILY}-{SPLIT}")
        if model.startswith("canonical-"):
            chosen = chosen.changed({"sets": 400, "steps": 200, "calibration_sets": 100})
        checkpoint = fit(
            dataclasses.replace(chosen, epochs=min(1, chosen.epochs)), out=folder / model
        )
        found[model] = checkpoint, export(checkpoint, folder / model / chosen.name)
    return found


@pytest.fixture(scope="module")
def server(trained, serve):
    with serve([bundle for _, bundle in trained.values()]) as running:
        yield running


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """A sample of a distribution that no model was trained on."""
    return family(FAMILY).images(100.0, "test")[:60]


@pytest.mark.parametrize("model", MODELS)
def test_torch_onnx_and_server_agree(model, trained, server, images):
    checkpoint, bundle = trained[model]
    here = OnnxEmbedder(bundle)
    torch_embedder = TorchEmbedder(model_of(checkpoint), bundle.card)
    with RemoteEmbedder(server.url, bundle.card.name, token_file=server.token_file) as remote:
        context = images[:20] if bundle.card.needs_context else None
        found = []
        for embedder in (here, torch_embedder, remote):
            summary = None if context is None else embedder.summarize(context)
            found.append(embedder.embed(images[20:], summary))
    assert np.isfinite(found[0].mean).all()
    assert found[0].mean.std() > 1e-3
    of_torch = SITE_TOLERANCE if bundle.card.site else 1e-5
    for one, tolerance in ((found[1], of_torch), (found[2], 0)):
        assert_allclose(one.mean, found[0].mean, rtol=tolerance, atol=tolerance)
        assert_allclose(one.log_variance, found[0].log_variance, rtol=tolerance, atol=tolerance)


def test_a_context_for_a_model_that_takes_none_is_said_to_change_nothing(
    trained, server, images, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    np.save("images.npy", images[:3])
    words = ["images.npy", "--model", trained["vae"][1].card.name, "--url", server.url]
    words += ["--token-file", str(server.token_file), "--json"]
    without = CliRunner().invoke(main, ["embed", *words])
    given = CliRunner().invoke(main, ["embed", *words, "--context", "images.npy"])
    assert given.exit_code == without.exit_code == 0
    assert given.stdout == without.stdout
    assert without.stderr == ""
    assert given.stderr.endswith("takes no context: the one given changes nothing\n")


@pytest.mark.parametrize("model", MODELS)
def test_an_embedding_does_not_depend_on_its_batch_nor_on_the_contexts_order(
    model, trained, images, rng
):
    embedder = OnnxEmbedder(trained[model][1])
    summary = None
    if embedder.card.needs_context:
        summary = embedder.summarize(images[:20])
        assert embedder.summarize(rng.permutation(images[:20])) == summary
    at_once = embedder.embed(images, summary)
    for index in (0, 7, 59):
        alone = embedder.embed(images[index : index + 1], summary)
        assert_array_equal(alone.mean[0], at_once.mean[index])
    if summary is not None:  # a row of its own for each image, not one for all
        one_each = embedder.embed(images, [summary] * len(images))
        assert_array_equal(one_each.mean, at_once.mean)


@pytest.mark.parametrize("model", MODELS)
def test_every_model_is_probed_alike(model, trained):
    bundle = trained[model][1]
    result = run_probe(
        OnnxEmbedder(bundle),
        ProbeSettings(FAMILY, SPLIT, train_size=100, test_size=50, contexts=2, floors=()),
    )
    assert len(result.measurements[0].values) == 13
    assert result.contexts == (2 if bundle.card.needs_context else 1)
    assert all(len(value.draws) == result.contexts for value in result.measurements[0].values)


@pytest.mark.parametrize("model", MODELS)
def test_cards_count_parameters_and_tell_how_weights_are_stored(model, trained):
    checkpoint, bundle = trained[model]
    card = bundle.card
    of_model = model_of(checkpoint)
    assert sum(card.parameters.values()) == sum(p.numel() for p in of_model.parameters())
    for name, part in of_model.named_children():
        assert card.parameters.get(name, 0) == sum(p.numel() for p in part.parameters())
    assert card.weights == checkpoint.recipe.weights
    matrices = sum(p.numel() for p in of_model.parameters() if p.dim() > 1)
    # A canonical model's bundle has its head twice, and principal components beside it.
    assert bundle.size < (6 if card.site else 4) * matrices
