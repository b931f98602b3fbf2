"""On a processor without bf16 the products of a step are the same numbers, by way of fp32."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from metavae_training.bfloat16 import Fp32Products, bf16_products, cpu_has_bf16

ULP = 2.0**-8  # of bf16, relative: what another order of additions can change in one rounding


def gradients_of_a_step(inputs: Tensor) -> list[Tensor]:
    """Output and gradients of a linear layer and a batched product under autocast."""
    torch.manual_seed(0)
    layer = nn.Linear(64, 32)
    weights = torch.randn(3, 32, 16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = torch.bmm(layer(inputs), weights)
    outputs.float().square().mean().backward()
    found = (outputs.detach(), layer.weight.grad, layer.bias.grad, weights.grad)
    return [one.float() for one in found if one is not None]


def test_a_step_has_the_outputs_and_gradients_of_torchs_own_bf16():
    inputs = torch.rand(3, 20, 64, generator=torch.Generator().manual_seed(1))
    theirs = gradients_of_a_step(inputs)
    with Fp32Products():
        ours = gradients_of_a_step(inputs)
    assert len(ours) == 4
    for own, other in zip(ours, theirs, strict=True):
        assert (own - other).abs().max() <= 2 * ULP * other.abs().max()


def test_a_product_is_rounded_once():
    """In bf16 256 + 1 is 256: two roundings would lose every 1 of this sum."""
    ones = torch.ones(1, 129, dtype=torch.bfloat16)
    column = torch.tensor([256.0] + [1.0] * 128, dtype=torch.bfloat16)[:, None]
    with Fp32Products():
        product = ones @ column
    assert product.dtype is torch.bfloat16
    assert product.item() == 384


def test_products_of_other_types_are_left_alone():
    left, right = torch.randn(4, 5), torch.randn(5, 6)
    expected = left @ right
    with Fp32Products():
        assert torch.equal(left @ right, expected)


@pytest.mark.skipif(not cpu_has_bf16(), reason="this processor has no bf16")
def test_a_processors_own_bf16_is_used():
    assert not isinstance(bf16_products(torch.device("cpu")), Fp32Products)
