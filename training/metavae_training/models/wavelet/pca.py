"""Wavelet-PCA: probabilistic PCA of fixed wavelet features, in closed form, with no context."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metavae_training.models.base import FIRST, BadModelSetting, Batch, Model, Start
from metavae_training.models.moments import CHUNK, moments
from metavae_training.models.objectives import DiagonalGaussian, Elbo, gaussian_log_likelihood
from metavae_training.models.wavelet.transform import WaveletTransform


def check_latent_dim(latent_dim: int, wavelets: WaveletTransform) -> None:
    """Raise BadModelSetting for a code of no fewer numbers than there are wavelet features."""
    if latent_dim >= wavelets.features:
        raise BadModelSetting(
            f"latent_dim is {latent_dim}, expected fewer than the"
            f" {wavelets.features} wavelet features",
            hint="Give another latent_dim",
            field="latent_dim",
        )


class WaveletPCA(Model):
    """Probabilistic PCA of fixed wavelet features: no context, nothing trained by gradients.

    Tipping and Bishop (1999): features = mean + W z + noise; with W, the noise and the mean at
    their maximum likelihood the posterior of z has independent components and its mean is the
    principal components, each scaled to about unit variance.
    """

    feature_dim = 0
    starts_fitted = True

    def __init__(
        self,
        *,
        distributions: int,
        pixels: int,
        latent_dim: int = 40,
        scales: int = 2,
        orientations: int = 8,
    ) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.wavelets = WaveletTransform(pixels, scales=scales, orientations=orientations)
        check_latent_dim(latent_dim, self.wavelets)
        self.encoder = nn.Linear(self.wavelets.features, latent_dim)
        self.decoder = nn.Linear(latent_dim, self.wavelets.features)
        self.log_variance = nn.Parameter(torch.zeros(latent_dim))  # of the posterior
        self.log_noise = nn.Parameter(torch.zeros(()))

    @torch.no_grad()
    def initialise(self, images: Tensor, start: Start = FIRST) -> None:
        """Fit by maximum likelihood, all distributions together, see `Model`."""
        chunks = images.flatten(0, 1).split(CHUNK)
        mean, covariance = moments(self.wavelets(chunk.float() / 255) for chunk in chunks)
        values, vectors = torch.linalg.eigh(covariance)  # ascending
        kept, axes = values[-self.latent_dim :], vectors[:, -self.latent_dim :]
        noise = values[: -self.latent_dim].mean()
        loading = axes * (kept - noise).sqrt()
        self.encoder.weight.copy_((loading / kept).T)
        self.encoder.bias.copy_(-(loading / kept).T @ mean)
        self.decoder.weight.copy_(loading)
        self.decoder.bias.copy_(mean)
        self.log_variance.copy_((noise / kept).log())
        self.log_noise.copy_(noise.log())

    def features(self, x: Tensor) -> Tensor:
        """No features, see `Model`."""
        return x[..., :0]

    def posterior(self, x: Tensor, summary: Tensor) -> DiagonalGaussian:
        """q(z | x), see `Model`."""
        return self._posterior(self.wavelets(x))

    def elbo(self, batch: Batch, generator: torch.Generator) -> Elbo:
        """The bound on the log density of each query's wavelet features, in nats per image."""
        target = self.wavelets(batch.queries)
        posterior = self._posterior(target)
        decoded = self.decoder(posterior.draw(generator))
        log_likelihood = gaussian_log_likelihood(target, decoded, self.log_noise)
        return Elbo(log_likelihood, posterior.kl_to_standard_normal())

    def _posterior(self, features: Tensor) -> DiagonalGaussian:
        mean = self.encoder(features)
        return DiagonalGaussian(mean, torch.zeros_like(mean) + self.log_variance)
