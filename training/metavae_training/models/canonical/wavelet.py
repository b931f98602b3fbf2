"""The closed-form wavelet code in the canonical frame."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metavae_training.models.base import FIRST, Batch, Start
from metavae_training.models.canonical.model import CanonicalModel
from metavae_training.models.canonical.network import Intensity
from metavae_training.models.moments import CHUNK
from metavae_training.models.objectives import DiagonalGaussian, Elbo, gaussian_log_likelihood
from metavae_training.models.wavelet.code import fit_code
from metavae_training.models.wavelet.distortion import RESCALING, distorted
from metavae_training.models.wavelet.pca import check_latent_dim

_FITTED_IMAGES = 100_000  # that the code is fitted on, of all sites together


class CanonicalWavelet(CanonicalModel):
    """Wavelet code in the canonical frame: the context's site is inferred and taken out first.

    The code is that of `wavelet-metavae` before its training, fitted in closed form on canonical
    images: of the training sites, or with `simulated_sites` of so many simulated ones, so that one
    model serves every family of its data set.
    """

    starts_fitted = True
    mean: Tensor
    scale: Tensor
    directions: Tensor

    def __init__(
        self,
        *,
        distributions: int,
        pixels: int,
        latent_dim: int = 40,
        variates: int = 80,
        rescaling: float = RESCALING,
        prior: str = "affine",
        intensity: Intensity = "auto",
        sets: int = 46_000,
        steps: int = 19_000,
        calibration_sets: int = 16_000,
        simulated_sites: int = 0,
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
        self.feature_dim = self.canonicaliser.feature_dim
        self.variates = variates
        self.rescaling = rescaling
        self.simulated_sites = simulated_sites
        self.wavelets = self.canonicaliser.wavelets
        check_latent_dim(latent_dim, self.wavelets)
        size = self.wavelets.features
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("directions", torch.zeros(size, variates))
        self.linear_path = nn.Linear(size, latent_dim)
        self.log_variance = nn.Parameter(torch.zeros(latent_dim))
        self.decoder_path = nn.Linear(latent_dim, variates)
        self.log_noise = nn.Parameter(torch.zeros(variates))

    @torch.no_grad()
    def initialise(self, images: Tensor, start: Start = FIRST) -> None:
        """Learn the canonicaliser, then fit the code on canonical images; see `Model`."""
        with self.on_cpu():
            self._initialise(images.cpu(), start)

    def _initialise(self, images: Tensor, start: Start) -> None:
        self.learn_canonicaliser(images, start)
        generator = torch.Generator().manual_seed(start.seed)
        chunks = (
            self.simulated_chunks(images[start.reference], self.simulated_sites, generator)
            if self.simulated_sites
            else self.canonical_chunks(images, _FITTED_IMAGES, generator)
        )
        views = (
            torch.cat([self.wavelets(self._distorted(part, generator)) for _ in "ab"], dim=1)
            for chunk in chunks
            for part in chunk.split(CHUNK)
        )
        code = fit_code(views, self.variates)
        code.start(self)

    def features(self, x: Tensor) -> Tensor:
        """Per-image features h(x), see `Model`."""
        return self.site_features(x)

    def posterior(self, x: Tensor, summary: Tensor) -> DiagonalGaussian:
        """q(z | D, x), see `Model`."""
        return self._posterior(self.canonical(x, summary))

    def elbo(self, batch: Batch, generator: torch.Generator) -> Elbo:
        """The denoising bound on the canonical images' first variates, in nats per image."""
        x = self.canonical(batch.queries, self.pooled(batch))
        posterior = self._posterior(self._distorted(x, generator))
        target = self._standardised(x) @ self.directions
        decoded = self.decoder_path(posterior.draw(generator))
        log_likelihood = gaussian_log_likelihood(target, decoded, self.log_noise)
        return Elbo(log_likelihood, posterior.kl_to_standard_normal())

    def _posterior(self, x: Tensor) -> DiagonalGaussian:
        mean = self.linear_path(self._standardised(x)).float()
        return DiagonalGaussian(mean, torch.zeros_like(mean) + self.log_variance)

    def _standardised(self, x: Tensor) -> Tensor:
        return (self.wavelets(x) - self.mean) * self.scale

    def _distorted(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return distorted(x, self.wavelets.side, generator, self.rescaling)
