"""VHE with a VampPrior (Tomczak and Welling, AISTATS 2018): p(c) is a mixture of posteriors."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from metavae_training.models.objectives import DiagonalGaussian
from metavae_training.models.vhe import VariationalHomoencoder


class VampPriorVHE(VariationalHomoencoder):
    """The Variational Homoencoder with p(c) the mean of q(c | U) over learned pseudo-sets U.

    `pseudo_inputs`: images [pseudo-set, element, pixel], kept in [0, 1]. A set is seen through
    the mean of its features only; that a pseudo-set has one element is a restriction of ours, for a
    mean of several images' features need not be that of one image.
    """

    def __init__(
        self,
        *,
        distributions: int,
        pixels: int,
        latent_dim: int = 40,
        context_dim: int = 300,
        hidden: int = 400,
        kl_c_scale: float | None = None,
        pseudo_sets: int = 500,
        pseudo_set_size: int = 1,
    ) -> None:
        super().__init__(
            distributions=distributions,
            pixels=pixels,
            latent_dim=latent_dim,
            context_dim=context_dim,
            hidden=hidden,
            kl_c_scale=kl_c_scale,
        )
        shape = (pseudo_sets, pseudo_set_size, pixels)
        self.pseudo_inputs = nn.Parameter(torch.normal(0.05, 0.01, shape))

    def kl_c(self, q_c: DiagonalGaussian, c: Tensor) -> Tensor:
        """Monte Carlo estimate of KL(q(c | D) || p(c)) from one sample, in nats per set, [...]."""
        pseudo = self.q_c(self.features(self.pseudo_inputs.clamp(0, 1)).mean(dim=-2))
        return q_c.log_density(c) - mixture_log_density(pseudo, c)


def mixture_log_density(components: DiagonalGaussian, value: Tensor) -> Tensor:
    """log of the mean over K of N(value; mean_k, variance_k), in nats: [..., latent] -> [...].

    components: over [K, latent].
    """
    mean, log_variance = components.mean, components.log_variance
    # A matrix product in place of [..., K, latent] differences, centred so that the squares that
    # cancel are small, and in float32: squares of 300 numbers do not survive bf16.
    with torch.autocast(value.device.type, enabled=False):
        centre = mean.detach().mean(0)
        mean, value = mean - centre, value - centre
        precision = torch.exp(-log_variance)
        squared = (
            value.square() @ precision.T
            - 2 * value @ (mean * precision).T
            + (mean.square() * precision).sum(-1)
        )
        log_normaliser = (log_variance + math.log(2 * math.pi)).sum(-1)
        each = -0.5 * (squared + log_normaliser)
        return each.logsumexp(-1) - math.log(len(mean))
