"""What NS, VHE and VHE with a VampPrior share: a latent c per set above a latent z per image.

    c ~ p(c),  z ~ p(z | c),  x ~ p(x | z, c),  with posteriors q(c | D) and q(z | c, x).

One decoder for all distributions. As in MetaVAE, D is seen through the mean of h over its
elements, and an image through the aggregation network, which takes c where MetaVAE's takes that
mean. An embedding is the mean of q(z | c, x) at the mean of q(c | D).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metavae_training.models.base import Model
from metavae_training.models.networks import AggregationNetwork, relu_mlp, summary_network
from metavae_training.models.objectives import DiagonalGaussian, Elbo, bernoulli_log_likelihood


class HierarchicalModel(Model):
    """The networks, the posteriors and the bound; what `elbo` binds to what is a model's own."""

    def __init__(
        self,
        *,
        distributions: int,
        pixels: int,
        latent_dim: int = 40,
        context_dim: int = 300,
        hidden: int = 400,
    ) -> None:
        super().__init__()
        self.feature_dim = hidden
        self.latent_dim = latent_dim
        self.log_likelihood = bernoulli_log_likelihood
        self.summary_network = summary_network(pixels, hidden)
        self.context_posterior = relu_mlp([hidden, 2 * context_dim])
        self.aggregation_network = AggregationNetwork(pixels, context_dim, hidden, latent_dim)
        self.latent_prior: nn.Module = relu_mlp([context_dim, hidden, hidden, 2 * latent_dim])
        self.decoder: nn.Module = relu_mlp([latent_dim + context_dim, hidden, hidden, pixels])

    def features(self, x: Tensor) -> Tensor:
        """Per-image features h(x), see `Model`."""
        return self.summary_network(x)

    def q_c(self, summary: Tensor) -> DiagonalGaussian:
        """q(c | D) from the mean feature of D: [..., feature] -> over [..., context]."""
        return DiagonalGaussian.of_parameters(self.context_posterior(summary))

    def posterior(self, x: Tensor, summary: Tensor) -> DiagonalGaussian:
        """q(z | c, x) at the mean of q(c | D), see `Model`."""
        return self.aggregation_network(x, self.q_c(summary).mean)

    def kl_c(self, q_c: DiagonalGaussian, c: Tensor) -> Tensor:
        """KL(q(c | D) || p(c)) in nats per set, [...]; `c` [..., context] is a sample of q(c | D).

        Here p(c) is standard normal and the KL exact.
        """
        return q_c.kl_to_standard_normal()

    def bound(
        self, x: Tensor, context: Tensor, kl_c_scale: float, generator: torch.Generator
    ) -> Elbo:
        """The terms for images x [D, set, image, pixel] given sets [D, set, element, pixel].

        One sample of c a set, one of z an image.
        """
        q_c = self.q_c(self.features(context).mean(dim=-2, keepdim=True))
        c = q_c.draw(generator)  # (D, set, 1, context)
        posterior = self.aggregation_network(x, c)
        z = posterior.draw(generator)
        p_z = DiagonalGaussian.of_parameters(self.latent_prior(c))
        decoded = self.decoder(torch.cat([z, c.expand(*z.shape[:-1], -1)], dim=-1))
        return Elbo(
            self.log_likelihood(x, decoded),
            posterior.kl_to(p_z),
            self.kl_c(q_c, c).expand(x.shape[:-1]),
            kl_c_scale,
        )
