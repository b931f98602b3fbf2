"""How a bundle stores its weights: as they are, or in half or a quarter of the bytes.

Rounding happens once, to the torch model, before it is exported: what is served is then the
rounded model, and the 1e-5 between torch and ONNX Runtime holds whatever the storage. The graph
stores a rounded matrix in the small type and widens it when it is loaded, without loss.
"""

from __future__ import annotations

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import Tensor, nn

from metavae_zoo.bundles.card import Weights

_SMALL = 1024  # numbers: what is smaller stays float32
_STEPS = 127  # of int8, each way


@torch.no_grad()
def round_weights(model: nn.Module, weights: Weights) -> None:
    """Round a model's matrices, in place, to numbers that `weights` can store.

    `int8`: each row gets a step of its own, a power of two, of which it holds -127 to 127.
    """
    for parameter in model.parameters():
        if parameter.dim() < 2 or parameter.numel() < _SMALL:
            continue
        if weights == "fp16":
            parameter.copy_(parameter.half().float())
        elif weights == "int8":
            parameter.copy_(_on_grid(parameter))


def store_weights(graph: onnx.GraphProto, weights: Weights) -> None:
    """Store the matrices of an exported graph, whose weights were rounded, in the small type."""
    if weights == "fp32":
        return
    narrow = {"fp16": _halves, "int8": _bytes}[weights]
    kept, widening = [], []
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        matrix = values.dtype == np.float32 and values.ndim >= 2 and values.size >= _SMALL
        tensors, nodes = (narrow(tensor.name, values) if matrix else None) or ([tensor], [])
        kept += tensors
        widening += nodes
    nodes = [*widening, *graph.node]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(kept)
    graph.node.extend(nodes)


Stored = tuple[list[onnx.TensorProto], list[onnx.NodeProto]]


def _halves(name: str, values: NDArray[np.float32]) -> Stored | None:
    halves = values.astype(np.float16)
    if not np.array_equal(halves.astype(np.float32), values):
        return None  # a constant of the graph that was not rounded
    stored = numpy_helper.from_array(halves, f"{name}_fp16")
    return [stored], [helper.make_node("Cast", [stored.name], [name], to=onnx.TensorProto.FLOAT)]


def _bytes(name: str, values: NDArray[np.float32]) -> Stored | None:
    # The exporter may have transposed a matrix: its rows are then its columns.
    for axis in (-1, -2):
        step = _steps(values, axis)
        counts = values / step
        if np.array_equal(counts, np.rint(counts)):
            stored = numpy_helper.from_array(counts.astype(np.int8), f"{name}_int8")
            steps = numpy_helper.from_array(step, f"{name}_step")
            wide = f"{name}_wide"
            return [stored, steps], [
                helper.make_node("Cast", [stored.name], [wide], to=onnx.TensorProto.FLOAT),
                helper.make_node("Mul", [wide, steps.name], [name]),
            ]
    return None


def _steps(values: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """The smallest power of two, per row along `axis`, whose 127-fold is not exceeded."""
    largest = np.maximum(np.abs(values).max(axis=axis, keepdims=True), np.float32(2.0**-60))
    return np.exp2(np.ceil(np.log2(largest / _STEPS))).astype(np.float32)


def _on_grid(parameter: Tensor) -> Tensor:
    values = parameter.cpu().numpy()
    step = _steps(values, -1)
    return torch.from_numpy(np.clip(np.rint(values / step), -_STEPS, _STEPS) * step)
