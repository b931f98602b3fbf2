"""Graphs whose matrix products are computed in 8 bits, quantised as they run, row by row.

ONNX Runtime's own dynamic quantisation takes one scale for all rows of a run: an embedding then
depends on what it is batched with. Here every row has its own, and products and sums of whole
numbers are exact, so the bits are those of the row alone, on every processor. Weights have 7 bits,
which keeps the 16-bit sums of older processors from overflowing; the bytes of an image are taken
as they are.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file, save

from metavae_zoo.bundles.bundle import GOLDEN, SITE, Bundle, write_bundle
from metavae_zoo.embedding.embedder import OnnxEmbedder
from metavae_zoo.errors import BadBundle

_WEIGHT_STEPS = 63  # each way
_ZERO = 128  # the byte that stands for 0 where numbers can be negative
_OPSET = 18  # whose reductions take axes as an input
_SMALLEST = np.float32(1e-30)  # a scale: a row of zeros must not be divided by 0


def quantize(bundle: Bundle, path: Path) -> Bundle:
    """Write to `path` the bundle of the same model in 8 bits, checked as any.

    Another model to clients: its summaries are not those of the model that it is made of. Its
    golden outputs are those of its own graphs. Raises BadBundle for a model that is in 8 bits
    already or has nothing to compute so, and where something is at `path`.
    """
    card = bundle.card
    if card.precision != "fp32":
        raise BadBundle(
            f"{card.name} at {bundle.path} is in {card.precision} already",
            hint="Give the model that it was made of",
        )
    if path.exists():
        raise BadBundle(
            f"{path} is there already, and would be replaced",
            hint="Give a folder that does not exist yet",
        )
    graphs = {
        name: quantized(bundle.path / name)
        for name in card.files
        if name.endswith(".onnx") and name != SITE
    }
    if card.site:  # a tiny graph, which stays in fp32
        graphs[SITE] = (bundle.path / SITE).read_bytes()
    golden = load_file(bundle.path / GOLDEN)
    changed = card.model_copy(update={"precision": "int8", "results": None})
    with TemporaryDirectory() as scratch:
        untested = {**graphs, GOLDEN: save(golden)}
        made = write_bundle(Path(scratch, "made"), changed, untested, verify=lambda _: None)
        embedder = OnnxEmbedder(made, check_golden=False)
        summary = embedder.summarize(golden["context"]) if card.needs_context else None
        found = embedder.embed(golden["queries"], summary)
    golden |= {"mean": found.mean, "log_variance": found.log_variance}
    if summary is not None:
        golden["summary"] = summary.mean
        if card.site:
            golden["site"] = embedder.site(summary)
    return write_bundle(path, changed, {**graphs, GOLDEN: save(golden)}, verify=OnnxEmbedder)


def quantized(graph: Path) -> bytes:
    """The ONNX file at `graph` with its large matrix products in 8 bits."""
    model = _folded(graph)
    rewriter = _Rewriter(model.graph)
    nodes = [new for node in model.graph.node for new in rewriter.rewritten(node)]
    opset = max(one.version for one in model.opset_import)
    if not rewriter.constants or opset < _OPSET:
        raise BadBundle(
            f"{graph} has no matrix product with weights, or is of opset {opset}, expected one or"
            f" more, in opset {_OPSET} or later",
            hint="Serve the model in fp32",
        )
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(rewriter.constants.values())
    _drop_unused(model.graph)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _folded(graph: Path) -> onnx.ModelProto:
    """The graph with everything computed that depends on no input: weights become plain float32."""
    with TemporaryDirectory() as scratch:
        options = onnxruntime.SessionOptions()
        level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.graph_optimization_level = level
        options.optimized_model_filepath = str(Path(scratch, "folded.onnx"))
        options.log_severity_level = 3
        onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        model = onnx.load(options.optimized_model_filepath)
    of_onnx = [one for one in model.opset_import if one.domain == ""]
    del model.opset_import[:]
    model.opset_import.extend(of_onnx)
    return model


class _Rewriter:
    """Replaces the nodes of one graph; `constants` are the initializers that they need, by name."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.constants: dict[str, TensorProto] = {}
        self._producers = {name: node for node in graph.node for name in node.output}
        self._weights = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
        self._bytes = {
            one.name for one in graph.input if one.type.tensor_type.elem_type == TensorProto.UINT8
        }
        self._rows: dict[str, tuple[str, str | None, str, list[onnx.NodeProto]]] = {}

    def rewritten(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """The nodes in place of `node`: itself, unless it is a product with weights."""
        weights = self._weights.get(node.input[1]) if node.op_type == "Gemm" else None
        settings = {one.name: helper.get_attribute_value(one) for one in node.attribute}
        plain = all(settings.get(name, 1.0) == 1.0 for name in ("alpha", "beta"))
        if weights is None or not plain or settings.get("transA"):
            return [node]
        return self._product(node, weights.T if settings.get("transB") else weights)

    def _product(self, node: onnx.NodeProto, weights: NDArray[np.float32]) -> list[onnx.NodeProto]:
        name = node.output[0]
        step = np.maximum(np.abs(weights).max(axis=0), _SMALLEST) / np.float32(_WEIGHT_STEPS)
        counts = self._constant(f"{name}_weights", np.rint(weights / step).astype(np.int8))
        rows, scale, zero, nodes = self._in_bytes(node.input[0])
        if scale is None:  # bytes of an image, each a 255th
            step = step / np.float32(255)
        steps = self._constant(f"{name}_steps", step.astype(np.float32))
        nodes += [
            helper.make_node("MatMulInteger", [rows, counts, zero], [f"{name}_sums"]),
            helper.make_node("Cast", [f"{name}_sums"], [f"{name}_counts"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{name}_counts", steps], [f"{name}_stepped"]),
        ]
        product = f"{name}_stepped"
        if scale is not None:
            nodes.append(helper.make_node("Mul", [product, scale], [f"{name}_scaled"]))
            product = f"{name}_scaled"
        bias = [one for one in node.input[2:] if one]
        nodes.append(helper.make_node("Add" if bias else "Identity", [product, *bias], [name]))
        return nodes

    def _in_bytes(self, name: str) -> tuple[str, str | None, str, list[onnx.NodeProto]]:
        """A tensor as bytes: name, scale of each row (None: a 255th), zero, and new nodes."""
        if name in self._rows:
            return (*self._rows[name][:3], [])
        found = self._image(name) or self._quantized(name)
        self._rows[name] = found
        return found

    def _image(self, name: str) -> tuple[str, None, str, list[onnx.NodeProto]] | None:
        """The bytes that `name` is made of, where it is an image's pixels flattened, over 255."""
        divide = self._producers.get(name)
        if divide is None or divide.op_type != "Div":
            return None
        by = self._weights.get(divide.input[1])
        if by is None or by.size != 1 or by.item() != 255:
            return None
        flatten = self._producers.get(divide.input[0])
        if flatten is None or flatten.op_type != "Reshape":
            return None
        cast = self._producers.get(flatten.input[0])
        if cast is None or cast.op_type != "Cast" or cast.input[0] not in self._bytes:
            return None
        reshape = onnx.NodeProto()
        reshape.CopyFrom(flatten)
        reshape.name, reshape.input[0], reshape.output[0] = "", cast.input[0], f"{name}_bytes"
        return reshape.output[0], None, self._constant("zero_0", np.uint8(0)), [reshape]

    def _quantized(self, name: str) -> tuple[str, str, str, list[onnx.NodeProto]]:
        producer = self._producers.get(name)
        positive = producer is not None and producer.op_type == "Relu"
        zero = 0 if positive else _ZERO
        axes = self._constant("last_axis", np.array([-1], np.int64))
        most = self._constant(f"most_{zero}", np.float32(255 - zero))
        smallest = self._constant("smallest", _SMALLEST)
        largest = name if positive else f"{name}_sizes"
        nodes = [] if positive else [helper.make_node("Abs", [name], [largest])]
        nodes += [
            helper.make_node("ReduceMax", [largest, axes], [f"{name}_largest"], keepdims=1),
            helper.make_node("Div", [f"{name}_largest", most], [f"{name}_step"]),
            helper.make_node("Max", [f"{name}_step", smallest], [f"{name}_scale"]),
            helper.make_node("Div", [name, f"{name}_scale"], [f"{name}_ratio"]),
            helper.make_node("Round", [f"{name}_ratio"], [f"{name}_whole"]),
        ]
        whole = f"{name}_whole"
        if zero:
            shift = self._constant("shift", np.float32(zero))
            nodes.append(helper.make_node("Add", [whole, shift], [f"{name}_shifted"]))
            whole = f"{name}_shifted"
        nodes.append(helper.make_node("Cast", [whole], [f"{name}_bytes"], to=TensorProto.UINT8))
        constant = self._constant(f"zero_{zero}", np.uint8(zero))
        return f"{name}_bytes", f"{name}_scale", constant, nodes

    def _constant(self, name: str, value: NDArray | np.generic) -> str:
        self.constants[name] = numpy_helper.from_array(np.asarray(value), name)
        return name


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Take away nodes and initializers that no output depends on."""
    needed = {one.name for one in graph.output}
    nodes = []
    for node in reversed(graph.node):
        if needed & set(node.output):
            nodes.append(node)
            needed |= set(node.input)
    kept = [one for one in graph.initializer if one.name in needed]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(nodes))
    graph.initializer.extend(kept)
