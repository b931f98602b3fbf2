"""The matrix products of a computation: counted, recorded, and run again on their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

_aten = torch.ops.aten
_PRODUCTS = {_aten.mm.default, _aten.addmm.default, _aten.bmm.default, _aten.baddbmm.default}


def count_flops(computation: Callable[[], Any]) -> int:
    """Floating-point operations of the matrix products in a computation, its backward included."""
    with FlopCounterMode(display=False) as counter:
        computation()
    return counter.get_total_flops()


@dataclass(frozen=True)
class Product:
    """One matrix product on operands of its own, into an output that is there already."""

    operator: Any
    operands: tuple[Any, ...]
    options: dict[str, Any]
    output: Tensor

    def __call__(self) -> None:
        """Multiply."""
        self.operator(*self.operands, **self.options, out=self.output)


class _Recorder(TorchDispatchMode):
    """Keeps a random copy of every matrix product that happens: operator, shapes, layout, type."""

    def __init__(self) -> None:
        super().__init__()
        self.products: list[Product] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func in _PRODUCTS:
            operands = tree_map_only(Tensor, _random_like, args)
            output = torch.empty_like(result)
            self.products.append(Product(func.overloadpacket.out, operands, kwargs, output))
        return result


def record_products(computation: Callable[[], Any]) -> list[Product]:
    """The matrix products of a computation, its backward included, in their order.

    Each on random operands of the same shape, memory layout and type, so that running them takes
    what they cost the computation, and nothing else of it.
    """
    with _Recorder() as recorder:
        computation()
    return recorder.products


def _random_like(tensor: Tensor) -> Tensor:
    # Through the flat storage: a transposed or expanded operand stays one.
    extent = 1 + sum(
        (size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )
    flat = torch.randn(extent, device=tensor.device).to(tensor.dtype)
    return flat.as_strided(tensor.shape, tensor.stride())
