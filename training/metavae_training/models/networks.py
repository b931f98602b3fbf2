"""The trunks that every model is made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metavae_training.models.objectives import DiagonalGaussian


def mlp(widths: Sequence[int], activation: Callable[[], nn.Module]) -> nn.Sequential:
    """Linear layers of these widths with an activation between each two, none at the end."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), activation()]
    return nn.Sequential(*layers[:-1])


def relu_mlp(widths: Sequence[int]) -> nn.Sequential:
    """An `mlp` with ReLU."""
    return mlp(widths, nn.ReLU)


def summary_network(pixels: int, hidden: int) -> nn.Sequential:
    """h: an image to its features, [..., pixel] -> [..., hidden]; widths of the released code."""
    return mlp([pixels, pixels, hidden, hidden], partial(nn.LeakyReLU, 0.2))


class Encoder(nn.Module):
    """Posterior of z from an image alone: [..., pixel] -> over [..., latent]."""

    def __init__(self, pixels: int, hidden: int, latent_dim: int) -> None:
        super().__init__()
        self.layers = relu_mlp([pixels, hidden, hidden, 2 * latent_dim])

    def forward(self, x: Tensor) -> DiagonalGaussian:
        """Posterior over [..., latent]."""
        return DiagonalGaussian.of_parameters(self.layers(x))


class AggregationNetwork(nn.Module):
    """r(x, summary): posterior of z from an image beside what is known of its context.

    x: [..., pixel], summary: [..., summary], broadcast against each other. The first layer is one
    linear map of concat(x, summary), applied to its two halves apart, so that a summary that many
    images share is mapped once.
    """

    def __init__(self, pixels: int, summary_dim: int, hidden: int, latent_dim: int) -> None:
        super().__init__()
        self.pixels = pixels
        self.joint = nn.Linear(pixels + summary_dim, hidden)
        self.hidden = nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, 2 * latent_dim)

    def forward(self, x: Tensor, summary: Tensor) -> DiagonalGaussian:
        """Posterior over [..., latent]."""
        of_x, of_summary = self.joint.weight.split(
            [self.pixels, self.joint.in_features - self.pixels], dim=1
        )
        joint = F.relu(F.linear(x, of_x, self.joint.bias) + F.linear(summary, of_summary))
        return DiagonalGaussian.of_parameters(self.out(F.relu(self.hidden(joint))))


class ParallelLinear(nn.Module):
    """One linear layer per distribution, all applied in one batched matrix product.

    [distribution, row, inputs] -> [distribution, row, outputs]; each layer is initialised as
    `nn.Linear` is.
    """

    def __init__(self, distributions: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(distributions, inputs, outputs))
        self.bias = nn.Parameter(torch.empty(distributions, 1, outputs))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weights and biases anew."""
        bound = 1 / math.sqrt(self.weight.shape[1])
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """Apply layer i to x[i]."""
        return torch.baddbmm(self.bias, x, self.weight)


class ParallelDecoder(nn.Module):
    """One decoder p(x | z) per distribution: logits of pixels, or means of features.

    [distribution, row, latent] -> [distribution, row, output].
    """

    def __init__(self, distributions: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            ParallelLinear(distributions, inputs, outputs) for inputs, outputs in pairwise(widths)
        )

    def forward(self, z: Tensor) -> Tensor:
        """Decode z[i] with decoder i."""
        *hidden, last = self.layers
        for layer in hidden:
            z = F.relu(layer(z))
        return last(z)
