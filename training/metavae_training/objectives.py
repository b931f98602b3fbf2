"""Diagonal Gaussians and the evidence lower bound. Sign convention: every quantity has the sign
of its name, so training minimises `-elbo`."""

from __future__ import annotations

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


def bernoulli_log_likelihood(x: Tensor, logits: Tensor) -> Tensor:
    """Log likelihood of pixels in [0, 1], in nats per image; x, logits: [..., pixel] -> [...].

    From logits, which is exact where probabilities would round to 0 or 1.
    """
    return -binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)


@dataclass(frozen=True)
class Elbo:
    """The two terms of an evidence lower bound, in nats per image: [...] (Eq. 11, inner term).

    `log_likelihood` of one sample of the posterior, `kl` of the posterior from the prior.
    """

    log_likelihood: Tensor
    kl: Tensor

    def value(self, kl_weight: float = 1.0) -> Tensor:
        """The bound; with a `kl_weight` below 1, what training maximises during KL warm-up."""
        return self.log_likelihood - kl_weight * self.kl


def elbo(x: Tensor, logits: Tensor, posterior: DiagonalGaussian) -> Elbo:
    """Single-sample evidence lower bound of images; x, logits: [..., pixel]."""
    return Elbo(bernoulli_log_likelihood(x, logits), posterior.kl_to_standard_normal())
