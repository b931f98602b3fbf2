"""Checkpoint -> bundle: two ONNX graphs, golden outputs, and a card."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from safetensors.numpy import save
from torch import Tensor, nn

from metavae_training.exporting.torch_embedder import TorchEmbedder
from metavae_training.exporting.weights import round_weights, store_weights
from metavae_training.models import Model
from metavae_training.models.canonical.model import CanonicalModel
from metavae_training.trainer.build import build_model
from metavae_training.trainer.checkpoint import Checkpoint, load_weights
from metavae_zoo import __version__
from metavae_zoo.bundles.bundle import ENCODE, GOLDEN, SITE, SUMMARIZE, Bundle, write_bundle
from metavae_zoo.bundles.card import ModelCard, SiteParameter
from metavae_zoo.embedding.embedder import OnnxEmbedder
from metavae_zoo.families import family

OPSET = 20
_GOLDEN_CONTEXT, _GOLDEN_QUERIES = 10, 8


class _Summarize(nn.Module):
    """uint8 images [N, C, H, W] -> per-image features [N, feature]."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model.features(_scaled(images))


class _Encode(nn.Module):
    """uint8 images [N, C, H, W] and pooled summaries -> mean, log-variance [N, latent].

    One summary [1, feature] for all images, or one per image [N, feature]. A model without a
    context takes images only.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, summary: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = _scaled(images)
        posterior = self.model.posterior(x, x[..., :0] if summary is None else summary)
        return posterior.mean, posterior.log_variance


class _SiteOf(nn.Module):
    """Pooled summaries [N, feature] of N contexts and their images [N, 1] -> sites [N, number]."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, summary: Tensor, count: Tensor) -> Tensor:
        return self.model.site(summary, count)


def _scaled(images: Tensor) -> Tensor:
    return images.to(torch.float32).flatten(1) / 255


def model_of(checkpoint: Checkpoint) -> Model:
    """The best weights of a checkpoint as a model, rounded to what its bundle stores."""
    source = family(checkpoint.recipe.family)
    model = build_model(
        checkpoint.recipe,
        distributions=len(checkpoint.recipe.values),
        pixels=int(np.prod(source.image_shape)),
        seed=checkpoint.seed,
    )
    load_weights(model, checkpoint.best)
    round_weights(model, checkpoint.recipe.weights)
    return model.eval()


def export(
    checkpoint: Checkpoint, out: Path, *, name: str | None = None, data_root: Path | None = None
) -> Bundle:
    """Write the bundle of a checkpoint's best weights to the folder `out`.

    It is called `name`, or else as its recipe.

    The golden outputs are torch's, of the weights as the recipe stores them. The bundle is loaded
    on ONNX Runtime and compared with them before it takes its place, as it is again whenever it is
    loaded to serve; raises BadBundle where they differ by more than 1e-5.
    """
    model = model_of(checkpoint)
    card = card_of(checkpoint, model)
    if name is not None:
        card = card.model_copy(update={"name": name})
    graphs = _graphs(model, card)
    return write_bundle(
        out,
        card,
        graphs | {GOLDEN: save(_golden(checkpoint, model, card, data_root))},
        verify=lambda bundle: OnnxEmbedder(bundle),
    )


def card_of(checkpoint: Checkpoint, model: Model) -> ModelCard:
    """The card of a checkpoint, without its files' hashes and measured results."""
    recipe = checkpoint.recipe
    source = family(recipe.family)
    split = source.split(recipe.split)
    return ModelCard(
        name=recipe.name,
        model=recipe.model,
        family=recipe.family,
        split=recipe.split,
        train_values=list(recipe.values),
        held_out_values=list(split.held_out_values),
        image_shape=source.image_shape,
        feature_dim=model.feature_dim,
        latent_dim=model.latent_dim,
        parameters=model.parameter_counts(),
        weights=recipe.weights,
        recipe=recipe.to_dict(),
        seed=checkpoint.seed,
        epochs_trained=checkpoint.best_epoch,
        validation_elbo=checkpoint.best_validation_elbo,
        validation_terms={k: v for k, v in checkpoint.best_validation.items() if k != "elbo"},
        data_sha256=checkpoint.data_sha256,
        licence="Apache-2.0",
        description=_description(type(model), recipe.family, recipe.split),
        metavae_version=__version__,
        files={},
        **_facts_of_sites(checkpoint, model),
    )


def _facts_of_sites(checkpoint: Checkpoint, model: Model) -> dict[str, Any]:
    """What a card says of drawn sites, and of a model that infers them."""
    recipe = checkpoint.recipe
    drawn = {
        f"{value:g}": site
        for value in family(recipe.family).values
        if (site := family(recipe.family).axis.site(value))
    }
    facts: dict[str, Any] = {"sites": drawn} if len(drawn) > 1 else {}
    if isinstance(model, CanonicalModel):
        facts |= {
            "site": [SiteParameter(name=n, unit=unit) for n, unit in model.site_parameters],
            "reference": recipe.values[recipe.reference],
            "prior": model.canonicaliser.describe(),
        }
    return facts


def _description(model: type[Model], family_name: str, split: str) -> str:
    first_line = (model.__doc__ or "").strip().splitlines()[0].rstrip(".")
    return f"{first_line}, trained over the {split} values of {family_name}."


def _graphs(model: Model, card: ModelCard) -> dict[str, bytes]:
    """The graphs of a model, by the names of their files."""
    images = torch.zeros((2, *card.image_shape), dtype=torch.uint8)
    pooled = torch.zeros(2, card.feature_dim)
    shown = {"images": images, "summary": pooled} if card.needs_context else {"images": images}
    graphs = {ENCODE: _graph(_Encode(model), card, shown, ["mean", "log_variance"])}
    if card.needs_context:
        graphs[SUMMARIZE] = _graph(_Summarize(model), card, {"images": images}, ["features"])
    if card.site:
        found = {"summary": pooled, "count": torch.ones(2, 1)}
        graphs[SITE] = _graph(_SiteOf(model), card, found, ["site"])
    return graphs


def _graph(
    module: nn.Module, card: ModelCard, inputs: dict[str, Tensor], outputs: list[str]
) -> bytes:
    rows = torch.export.Dim("rows", min=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            module,
            tuple(inputs.values()),
            input_names=list(inputs),
            output_names=outputs,
            dynamic_shapes=tuple({0: rows} for _ in inputs),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None  # noqa: S101 - None only when a file is written
    proto = program.model_proto
    _drop_traces(proto)
    for tensor in proto.graph.input:
        if tensor.name == "summary" and "images" in inputs:
            # A number of rows of its own: one summary may serve all images, and what depends on
            # it alone is computed once. The exporter takes two numbers that are equal or none.
            tensor.type.tensor_type.shape.dim[0].dim_param = "contexts"
    store_weights(proto.graph, card.weights)
    return proto.SerializeToString()


def _drop_traces(proto: onnx.ModelProto) -> None:
    """Take away what the exporter tells of the code: a graph is the same wherever it was made.

    Every node would carry its stack trace, with the paths of the machine.
    """
    graph = proto.graph
    del graph.value_info[:]  # shapes in between, which the runtime infers anew
    for part in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.ClearField("doc_string")


def _golden(
    checkpoint: Checkpoint, model: Model, card: ModelCard, data_root: Path | None
) -> dict[str, np.ndarray]:
    source = family(card.family)
    value = (card.held_out_values or card.train_values)[0]
    images = source.images(value, "test", data_root)
    context = np.ascontiguousarray(images[:_GOLDEN_CONTEXT])
    queries = np.ascontiguousarray(images[_GOLDEN_CONTEXT : _GOLDEN_CONTEXT + _GOLDEN_QUERIES])
    embedder = TorchEmbedder(model, card)
    summary = embedder.summarize(context) if card.needs_context else None
    embeddings = embedder.embed(queries, summary)
    golden = {
        "queries": queries,
        "mean": embeddings.mean,
        "log_variance": embeddings.log_variance,
    }
    if summary is None:
        return golden
    site = {"site": embedder.site(summary)} if card.site else {}
    return golden | {"context": context, "summary": summary.mean} | site
