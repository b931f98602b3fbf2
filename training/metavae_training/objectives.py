"""Diagonal Gaussians and the evidence lower bound. Sign convention: every quantity has the sign
of its name, so training minimises `-elbo`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits


@dataclass(frozen=True)
class DiagonalGaussian:
    """A Gaussian with independent components; mean, log_variance: [..., latent]."""

    mean: Tensor
    log_variance: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """Reparameterised draw from standard normal `noise` of the mean's shape."""
        return self.mean + torch.exp(0.5 * self.log_variance) * noise

    def kl_to_standard_normal(self) -> Tensor:
        """KL(self || N(0, I)) in nats, [...]."""
        return 0.5 * (self.mean.square() + self.log_variance.exp() - 1 - self.log_variance).sum(-1)

    def log_density(self, z: Tensor) -> Tensor:
        """Log density at z in nats, [...]."""
        scaled = (z - self.mean).square() * torch.exp(-self.log_variance)
        return -0.5 * (scaled + self.log_variance + math.log(2 * math.pi)).sum(-1)


def bernoulli_log_likelihood(x: Tensor, logits: Tensor) -> Tensor:
    """Log likelihood of pixels in [0, 1], in nats per image; x, logits: [..., pixel] -> [...].

    From logits, which is exact where probabilities would round to 0 or 1.
    """
    return -binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)


def elbo(x: Tensor, logits: Tensor, posterior: DiagonalGaussian) -> Tensor:
    """Single-sample evidence lower bound, in nats per image (Eq. 11, inner term).

    x, logits: [..., pixel], posterior over [..., latent]; returns [...].
    """
    return bernoulli_log_likelihood(x, logits) - posterior.kl_to_standard_normal()
