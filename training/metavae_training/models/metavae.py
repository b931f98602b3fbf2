"""MetaVAE: one encoder for all distributions, one decoder per distribution (Eq. 11, Eq. 12)."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from metavae_training.models.base import Batch, Model
from metavae_training.networks import AggregationNetwork, ParallelDecoder, mlp
from metavae_training.objectives import DiagonalGaussian, Elbo, elbo


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
        self.summary_network = mlp([pixels, pixels, hidden, hidden], partial(nn.LeakyReLU, 0.2))
        self.aggregation_network = AggregationNetwork(pixels, hidden, latent_dim)
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
        noise = torch.randn(posterior.mean.shape, generator=generator, device=x.device)
        logits = self.decoders(posterior.sample(noise).flatten(1, 2)).view(x.shape)
        return elbo(x, logits.float(), posterior)
