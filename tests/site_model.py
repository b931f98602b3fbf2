"""A tiny model that infers a site, made by hand: its graphs are sums that a test can follow."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper
from safetensors.numpy import load, save

from metavae_zoo.bundles.bundle import ENCODE, GOLDEN, SITE, SUMMARIZE, Bundle, write_bundle
from metavae_zoo.bundles.card import ModelCard, SiteParameter
from metavae_zoo.embedding.embedder import OnnxEmbedder

FEATURES, LATENT, SIDE = 5, 3, 28
LEVELS = range(0, 256, 17)
NAMES = (
    *("warp_xx", "warp_xy", "warp_yx", "warp_yy", "shift_x", "shift_y"),
    *(f"intensity_{level}" for level in LEVELS),
    *("error_50", "error_90", "error_95"),
)


def rotation(degrees: float) -> NDArray[np.float32]:
    """The warp of a site that is rotated counter-clockwise as seen: y points down."""
    angle = np.deg2rad(-degrees)
    rows = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return np.array(rows, np.float32)


def parameters() -> list[SiteParameter]:
    """The site of the card."""
    return [SiteParameter(name=name, unit="1") for name in NAMES]


def numbers(
    warp: NDArray | None = None,
    shift: tuple[float, float] = (0, 0),
    knots: NDArray | None = None,
    errors: tuple[float, float, float] = (0.05, 0.1, 0.2),
) -> NDArray[np.float32]:
    """A site as a model gives it; the reference unless told otherwise."""
    warp = np.eye(2) if warp is None else warp
    knots = np.array(LEVELS) / 255 if knots is None else knots
    return np.concatenate([np.ravel(warp), shift, knots, errors]).astype(np.float32)


def write_site_bundle(path: Path) -> Bundle:
    """Write its bundle: rotated by 43 degrees, 1.2 times larger; sure for 20 images, not for 1.

    Each quantile of the error is its base over the root of the count, and the shift in x changes
    with the summary.
    """
    graphs = {
        SUMMARIZE: _summarize().SerializeToString(),
        ENCODE: _encode().SerializeToString(),
        SITE: _site().SerializeToString(),
    }
    card = _card()
    rng = np.random.default_rng(0)
    golden = {
        "context": rng.integers(0, 256, (10, 1, SIDE, SIDE), np.uint8),
        "queries": rng.integers(0, 256, (8, 1, SIDE, SIDE), np.uint8),
    }

    def embed(bundle: Bundle) -> None:
        embedder = OnnxEmbedder(bundle, check_golden=False)
        summary = embedder.summarize(golden["context"])
        found = embedder.embed(golden["queries"], summary)
        golden.update(mean=found.mean, log_variance=found.log_variance, summary=summary.mean)
        golden.update(site=embedder.site(summary))

    write_bundle(path, card, {**graphs, GOLDEN: save({})}, verify=embed)
    return write_bundle(path, card, {**graphs, GOLDEN: save(golden)}, verify=OnnxEmbedder)


def change_golden(bundle: Bundle, **arrays: NDArray | None) -> Bundle:
    """The bundle with other golden outputs (None: without), hashed and not compared."""
    files = {name: (bundle.path / name).read_bytes() for name in bundle.card.files}
    golden = load(files[GOLDEN]) | arrays
    files[GOLDEN] = save({name: array for name, array in golden.items() if array is not None})
    return write_bundle(bundle.path, bundle.card, files, verify=lambda _: None)


def _card() -> ModelCard:
    return ModelCard(
        name="by-hand",
        model="canonical-wavelet",
        family="digits",
        split="all",
        train_values=[0.0],
        held_out_values=[],
        image_shape=(1, SIDE, SIDE),
        feature_dim=FEATURES,
        latent_dim=LATENT,
        parameters={},
        recipe={},
        seed=0,
        epochs_trained=0,
        validation_elbo=-1.0,
        data_sha256="0" * 64,
        licence="Apache-2.0",
        description="Made by hand.",
        metavae_version="0",
        files={},
        site=parameters(),
        reference=0.0,
        prior={"name": "affine", "rotation": [-180.0, 180.0]},
    )


@dataclasses.dataclass
class _Graph:
    """An ONNX graph in the making."""

    nodes: list = dataclasses.field(default_factory=list)
    weights: list = dataclasses.field(default_factory=list)

    def constant(self, array: NDArray) -> str:
        name = f"constant_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def add(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        output = output or f"value_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def pixels(self) -> str:
        floats = self.add("Cast", "images", to=TensorProto.FLOAT)
        scaled = self.add("Div", floats, self.constant(np.array(255, np.float32)))
        return self.add("Flatten", scaled, axis=1)

    def product(self, rows: str, inputs: int, outputs: int, scale: float = 1.0) -> str:
        rng = np.random.default_rng(len(self.weights))
        weights = scale * rng.normal(size=(inputs, outputs)) / inputs**0.5
        return self.add("MatMul", rows, self.constant(weights.astype(np.float32)))

    def model(self, inputs: Mapping[str, tuple[Any, list]], outputs: dict[str, list]) -> ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "by-hand",
            [helper.make_tensor_value_info(name, *one) for name, one in inputs.items()],
            [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
                for name, shape in outputs.items()
            ],
            self.weights,
        )
        opset = [helper.make_opsetid("", 20)]
        return helper.make_model(graph, opset_imports=opset, ir_version=10)


_IMAGES = (TensorProto.UINT8, ["rows", 1, SIDE, SIDE])


def _summarize() -> ModelProto:
    graph = _Graph()
    graph.add("Tanh", graph.product(graph.pixels(), SIDE * SIDE, FEATURES), output="features")
    return graph.model({"images": _IMAGES}, {"features": ["rows", FEATURES]})


def _encode() -> ModelProto:
    graph = _Graph()
    own = graph.product(graph.pixels(), SIDE * SIDE, LATENT)
    graph.add("Add", own, graph.product("summary", FEATURES, LATENT), output="mean")
    graph.add("Neg", "mean", output="log_variance")
    summary = (TensorProto.FLOAT, ["contexts", FEATURES])
    outputs = {name: ["rows", LATENT] for name in ("mean", "log_variance")}
    return graph.model({"images": _IMAGES, "summary": summary}, outputs)


def _site() -> ModelProto:
    graph = _Graph()
    only_shift = np.zeros((FEATURES, len(NAMES)), np.float32)
    only_shift[:, NAMES.index("shift_x")] = 1
    shift = graph.add("MatMul", "summary", graph.constant(only_shift))
    fixed = numbers(1.2 * rotation(43), errors=(0, 0, 0))
    sure = graph.add("Add", shift, graph.constant(fixed[None]))
    root = graph.add("Sqrt", "count")
    errors = numbers(np.zeros((2, 2)), knots=np.zeros(len(LEVELS)), errors=(0.3, 0.6, 0.7))
    graph.add("Add", sure, graph.add("Div", graph.constant(errors[None]), root), output="site")
    inputs = {"summary": (TensorProto.FLOAT, ["rows", FEATURES])}
    inputs["count"] = (TensorProto.FLOAT, ["rows", 1])
    return graph.model(inputs, {"site": ["rows", len(NAMES)]})
