"""Diagonal Gaussians, likelihoods and the evidence lower bound. Sign convention: every quantity
has the sign of its name, so training minimises `-elbo`."""

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

    @classmethod
    def of_parameters(cls, parameters: Tensor) -> DiagonalGaussian:
        """From a network's output [..., 2 * latent]: the means, then the log-variances."""
        # A network under autocast gives bf16; a KL needs all of float32.
        return cls(*parameters.float().chunk(2, dim=-1))

    def sample(self, noise: Tensor) -> Tensor:
        """Reparameterised draw from standard normal `noise` of the mean's shape."""
        return self.mean + torch.exp(0.5 * self.log_variance) * noise

    def draw(self, generator: torch.Generator) -> Tensor:
        """Reparameterised draw with noise of the generator."""
        shape, device = self.mean.shape, self.mean.device
        return self.sample(torch.randn(shape, generator=generator, device=device))

    def log_density(self, value: Tensor) -> Tensor:
        """log N(value; mean, variance) in nats, [...]; value: [..., latent]."""
        squared = (value - self.mean).square() * torch.exp(-self.log_variance)
        return -0.5 * (squared + self.log_variance + math.log(2 * math.pi)).sum(-1)

    def kl_to_standard_normal(self) -> Tensor:
        """KL(self || N(0, I)) in nats, [...]."""
        return 0.5 * (self.mean.square() + self.log_variance.exp() - 1 - self.log_variance).sum(-1)

    def kl_to(self, other: DiagonalGaussian) -> Tensor:
        """KL(self || other) in nats, [...]; the two are broadcast against each other."""
        log_ratio = self.log_variance - other.log_variance
        squared = (self.mean - other.mean).square() * torch.exp(-other.log_variance)
        return 0.5 * (squared + log_ratio.exp() - 1 - log_ratio).sum(-1)


def bernoulli_log_likelihood(x: Tensor, logits: Tensor) -> Tensor:
    """Log likelihood of pixels in [0, 1], in nats per image; x, logits: [..., pixel] -> [...].

    From logits, which is exact where probabilities would round to 0 or 1.
    """
    return -binary_cross_entropy_with_logits(logits.float(), x, reduction="none").sum(-1)


def gaussian_log_likelihood(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Log density of features under independent Gaussians, in nats per image: [...].

    x, mean: [..., feature]; log_variance is broadcast against them.
    """
    return DiagonalGaussian(mean.float(), log_variance.expand(x.shape)).log_density(x)


TERMS = ("elbo", "log_likelihood", "kl_z", "kl_c")  # of a bound, as logs and checkpoints name them


@dataclass(frozen=True)
class Elbo:
    """The terms of an evidence lower bound, in nats: [...], one per image (Eq. 11, Eq. 13).

    `log_likelihood` of an image under one sample of the posterior; `kl_z` of the image's own
    latent from its prior; `kl_c` of the latent that a whole set shares from its prior, in nats
    per set, of which an image bears the fraction `kl_c_scale`. Models without c have None.
    """

    log_likelihood: Tensor
    kl_z: Tensor
    kl_c: Tensor | None = None
    kl_c_scale: float = 0.0

    def value(self, kl_weight: float | Tensor = 1.0) -> Tensor:
        """The bound; with a `kl_weight` below 1, what training maximises during KL warm-up."""
        kl = self.kl_z if self.kl_c is None else self.kl_z + self.kl_c_scale * self.kl_c
        return self.log_likelihood - kl_weight * kl

    def means(self) -> Tensor:
        """The averages of TERMS: nats per image, KL(c) in nats per set."""
        kl_c = torch.zeros_like(self.kl_z) if self.kl_c is None else self.kl_c
        terms = (self.value(), self.log_likelihood, self.kl_z, kl_c)
        return torch.stack([term.detach().mean() for term in terms])
