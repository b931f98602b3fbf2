"""VAE: one encoder and one decoder that know of no distribution (the singly amortised baseline).

Trained on all training distributions together (`vae`) or on one of them (`vae-single`); which,
the recipe says.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metavae_training.models.base import Batch, Model
from metavae_training.models.networks import Encoder, relu_mlp
from metavae_training.models.objectives import DiagonalGaussian, Elbo, bernoulli_log_likelihood


class VAE(Model):
    """The variational autoencoder, with the widths of MetaVAE's networks and no context."""

    feature_dim = 0

    def __init__(
        self, *, distributions: int, pixels: int, latent_dim: int = 40, hidden: int = 400
    ) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.log_likelihood = bernoulli_log_likelihood
        self.encoder = Encoder(pixels, hidden, latent_dim)
        self.decoder = relu_mlp([latent_dim, hidden, hidden, pixels])

    def features(self, x: Tensor) -> Tensor:
        """No features, see `Model`."""
        return x[..., :0]

    def posterior(self, x: Tensor, summary: Tensor) -> DiagonalGaussian:
        """q(z | x), see `Model`."""
        return self.encoder(x)

    def elbo(self, batch: Batch, generator: torch.Generator) -> Elbo:
        """The bound of each query, [distribution, set, query]; contexts are not looked at."""
        x = batch.queries
        posterior = self.encoder(x)
        decoded = self.decoder(posterior.draw(generator))
        return Elbo(self.log_likelihood(x, decoded), posterior.kl_to_standard_normal())
