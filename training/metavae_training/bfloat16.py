"""bf16 matrix products on a processor that has none: fp32 products of the same numbers.

torch's own way without the instructions is some thirty times slower than fp32. A product of two
bf16 numbers is exact in fp32, hardware too adds them up in fp32 and rounds the sum to bf16: so
fp32 products, rounded, are the same arithmetic but for the order of the additions.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten
# What linear layers and batched products are made of, forward and backward.
_PRODUCTS = frozenset(
    {_aten.mm.default, _aten.addmm.default, _aten.bmm.default, _aten.baddbmm.default}
)


def cpu_has_bf16() -> bool:
    """Whether this processor multiplies matrices in bf16 itself."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def bf16_products(device: torch.device) -> AbstractContextManager[object]:
    """Inside, bf16 products on `device` are fast: by its own instructions, or by fp32 ones."""
    if device.type != "cpu" or cpu_has_bf16():
        return nullcontext()
    return Fp32Products()


class Fp32Products(TorchDispatchMode):
    """Computes products of bf16 matrices in fp32 and rounds them, also those of a backward pass."""

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """See `torch.utils._python_dispatch`: called for every operation below autograd."""
        kwargs = kwargs or {}
        if func not in _PRODUCTS or not all(_is_bf16(one) for one in args):
            return func(*args, **kwargs)
        return func(*(one.float() for one in args), **kwargs).bfloat16()


def _is_bf16(argument: object) -> bool:
    return isinstance(argument, Tensor) and argument.dtype is torch.bfloat16
