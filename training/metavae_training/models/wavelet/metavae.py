"""MetaVAE on wavelet features, trained to look through small distortions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metavae_training.models.base import FIRST, BadModelSetting, Batch, Model, Start
from metavae_training.models.moments import CHUNK
from metavae_training.models.networks import AggregationNetwork, ParallelDecoder, relu_mlp
from metavae_training.models.objectives import DiagonalGaussian, Elbo, gaussian_log_likelihood
from metavae_training.models.wavelet.code import fit_code
from metavae_training.models.wavelet.distortion import RESCALING, distorted
from metavae_training.models.wavelet.pca import check_latent_dim
from metavae_training.models.wavelet.transform import WaveletTransform

_FITTED_IMAGES = 100_000  # that the linear path is started from, of all distributions together


class WaveletMetaVAE(Model):
    """MetaVAE on fixed wavelet features, with a linear path beside the networks.

    The encoder sees a distorted image and its decoders explain the image itself (the denoising
    bound of Im et al., AAAI 2017, under the MetaELBO, Eq. 11). What they explain is the image's
    first `variates` canonical variates: the directions of its wavelet features, of unit variance,
    that two distortions of one image share the most. So a code spends none of its numbers on what
    a small distortion changes, nor on pixel detail.

    Encoder and decoders each have a linear path, which starts from probabilistic canonical
    correlation analysis (Bach and Jordan, 2005), in closed form; the networks beside them start
    from zero. The encoder's see the image beside the pooled context.
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
        hidden: int = 200,
        scales: int = 4,
        orientations: int = 8,
        variates: int = 80,
        rescaling: float = RESCALING,
    ) -> None:
        super().__init__()
        self.feature_dim = hidden
        self.latent_dim = latent_dim
        self.variates = variates
        self.rescaling = rescaling
        self.wavelets = WaveletTransform(
            pixels, scales=scales, orientations=orientations, window=6, compress=True
        )
        check_latent_dim(latent_dim, self.wavelets)
        size = self.wavelets.features
        if not latent_dim <= variates <= size:
            raise BadModelSetting(
                f"variates is {variates}, expected {latent_dim} (latent_dim) to {size}, the number"
                " of wavelet features",
                hint="Give another variates",
                field="variates",
            )
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("scale", torch.ones(()))
        self.linear_path = nn.Linear(size, latent_dim)
        self.log_variance = nn.Parameter(torch.zeros(latent_dim))
        self.summary_network = relu_mlp([size, hidden, hidden])
        self.aggregation_network = AggregationNetwork(size, hidden, hidden, latent_dim)
        self.register_buffer("directions", torch.zeros(size, variates))
        self.decoder_path = nn.Linear(latent_dim, variates)
        self.decoders = ParallelDecoder(distributions, [latent_dim, hidden, hidden, variates])
        self.log_noise = nn.Parameter(torch.zeros(variates))
        for last in (self.aggregation_network.out, self.decoders.layers[-1]):
            for parameter in last.parameters():
                nn.init.zeros_(parameter)

    @torch.no_grad()
    def initialise(self, images: Tensor, start: Start = FIRST) -> None:
        """Standardise, and fit the linear paths to two distortions of each image; see `Model`."""
        generator = torch.Generator(images.device).manual_seed(0)
        count = max(1, min(images.shape[1], _FITTED_IMAGES // len(images)))
        chunks = images[:, :count].flatten(0, 1).split(CHUNK)
        code = fit_code((self._two_views(chunk, generator) for chunk in chunks), self.variates)
        code.start(self)

    def features(self, x: Tensor) -> Tensor:
        """Per-image features h(x), see `Model`."""
        return self.summary_network(self._standardised(x))

    def posterior(self, x: Tensor, summary: Tensor) -> DiagonalGaussian:
        """q(z | D, x), see `Model`."""
        return self._posterior(self._standardised(x), summary)

    def elbo(self, batch: Batch, generator: torch.Generator) -> Elbo:
        """The denoising MetaELBO's inner terms, [distribution, set, query].

        The density is of the canonical variates, in nats per image.
        """
        x = batch.queries
        summary = self.features(batch.contexts).mean(dim=-2, keepdim=True)
        return self._bound(x, self.posterior(self._distorted(x, generator), summary), generator)

    def _bound(self, x: Tensor, posterior: DiagonalGaussian, generator: torch.Generator) -> Elbo:
        """The terms for images whose codes have these posteriors."""
        with torch.autocast(x.device.type, enabled=False):
            target = self._standardised(x) @ self.directions
        z = posterior.draw(generator)
        networks = self.decoders(z.flatten(1, 2)).view(target.shape)
        decoded = self.decoder_path(z).float() + networks.float()
        log_likelihood = gaussian_log_likelihood(target, decoded, self.log_noise)
        return Elbo(log_likelihood, posterior.kl_to_standard_normal())

    def _posterior(self, seen: Tensor, summary: Tensor) -> DiagonalGaussian:
        networks = self.aggregation_network(seen, summary)
        return DiagonalGaussian(
            self.linear_path(seen).float() + networks.mean,
            self.log_variance + networks.log_variance,
        )

    def _standardised(self, x: Tensor) -> Tensor:
        return (self.wavelets(x) - self.mean) * self.scale

    def _two_views(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Features of two distortions of each image, side by side."""
        x = images.float() / 255
        return torch.cat([self.wavelets(self._distorted(x, generator)) for _ in "ab"], dim=1)

    def _distorted(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return distorted(x, self.wavelets.side, generator, self.rescaling)
