"""MetaVAE: one encoder for all distributions, one decoder per distribution (Eq. 11, Eq. 12)."""

from __future__ import annotations

import torch
from torch import Tensor

from metavae_training.models.base import Batch, Model
from metavae_training.models.networks import AggregationNetwork, ParallelDecoder, summary_network
from metavae_training.models.objectives import DiagonalGaussian, Elbo, bernoulli_log_likelihood


class MetaVAE(Model):
    """The meta-amortised VAE with the MLP widths of the released code.

    The summary network h is applied to each context element and averaged; the aggregation
    network r takes an image beside that mean.
    """

    def __init__(
        self, *, distributions: int, pixels: int, latent_dim: int = 40, hidden: int = 400
    ) -> None:
        super().__init__()
        self.feature_dim = hidden
        self.latent_dim = latent_dim
        self.log_likelihood = bernoulli_log_likelihood
        self.summary_network = summary_network(pixels, hidden)
        self.aggregation_network = AggregationNetwork(pixels, hidden, hidden, latent_dim)
        self.decoders = ParallelDecoder(distributions, [latent_dim, hidden, hidden, pixels])

    def features(self, x: Tensor) -> Tensor:
        """Per-image features h(x), see `Model`."""
        return self.summary_network(x)

    def posterior(self, x: Tensor, summary: Tensor) -> DiagonalGaussian:
        """q(z | D, x), see `Model`."""
        return self.aggregation_network(x, summary)

    def elbo(self, batch: Batch, generator: torch.Generator) -> Elbo:
        """The MetaELBO's inner terms, [distribution, set, query] (Eq. 11)."""
        x = batch.queries
        # One summary per context set, for all queries of the set: (D, set, 1, feature).
        summary = self.features(batch.contexts).mean(dim=-2, keepdim=True)
        posterior = self.posterior(x, summary)
        decoded = self.decoders(posterior.draw(generator).flatten(1, 2)).view(x.shape)
        return Elbo(self.log_likelihood(x, decoded), posterior.kl_to_standard_normal())
