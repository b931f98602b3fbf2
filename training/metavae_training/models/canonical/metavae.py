"""The paper's MetaVAE in the canonical frame."""

from __future__ import annotations

import torch
from torch import Tensor

from metavae_training.models.base import FIRST, Batch, Start
from metavae_training.models.canonical.model import CanonicalModel
from metavae_training.models.canonical.network import Intensity
from metavae_training.models.networks import AggregationNetwork, ParallelDecoder, summary_network
from metavae_training.models.objectives import DiagonalGaussian, Elbo, bernoulli_log_likelihood


class CanonicalMetaVAE(CanonicalModel):
    """The meta-amortised VAE on canonical images: the context's site is taken out first.

    Networks, bound (Eq. 11) and decoders are `metavae`'s. The summary network sees the context as
    it comes, the aggregation network the canonical image, and decoder i explains the canonical
    images of training site i. So the bound is on canonical images.
    """

    def __init__(
        self,
        *,
        distributions: int,
        pixels: int,
        latent_dim: int = 40,
        hidden: int = 400,
        prior: str = "affine",
        intensity: Intensity = "auto",
        sets: int = 46_000,
        steps: int = 19_000,
        calibration_sets: int = 16_000,
        reference: float | None = None,
    ) -> None:
        super().__init__(
            pixels=pixels,
            prior=prior,
            intensity=intensity,
            sets=sets,
            steps=steps,
            calibration_sets=calibration_sets,
            reference=reference,
        )
        self.latent_dim = latent_dim
        self.feature_dim = self.canonicaliser.feature_dim + hidden
        self.log_likelihood = bernoulli_log_likelihood
        self.summary_network = summary_network(pixels, hidden)
        self.aggregation_network = AggregationNetwork(pixels, hidden, hidden, latent_dim)
        self.decoders = ParallelDecoder(distributions, [latent_dim, hidden, hidden, pixels])

    def initialise(self, images: Tensor, start: Start = FIRST) -> None:
        """Learn the canonicaliser, see `Model`."""
        with self.on_cpu():
            self.learn_canonicaliser(images.cpu(), start)

    def features(self, x: Tensor) -> Tensor:
        """The canonicaliser's features, then the summary network's, see `Model`."""
        return torch.cat([self.site_features(x), self.summary_network(x).float()], dim=-1)

    def posterior(self, x: Tensor, summary: Tensor) -> DiagonalGaussian:
        """q(z | D, x), see `Model`."""
        return self._posterior(self.canonical(x, summary), summary)

    def elbo(self, batch: Batch, generator: torch.Generator) -> Elbo:
        """The MetaELBO's inner terms for canonical images, [distribution, set, query] (Eq. 11)."""
        summary = self.pooled(batch)
        x = self.canonical(batch.queries, summary)
        posterior = self._posterior(x, summary)
        decoded = self.decoders(posterior.draw(generator).flatten(1, 2)).view(x.shape)
        return Elbo(self.log_likelihood(x, decoded), posterior.kl_to_standard_normal())

    def _posterior(self, x: Tensor, summary: Tensor) -> DiagonalGaussian:
        return self.aggregation_network(x, summary[..., self.canonicaliser.feature_dim :])
