"""Encoders that are trained: wavelet-metavae as it ships, and with one thing changed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from encoder.inner import Encode
from metavae_training.models import Batch, Start, WaveletMetaVAE
from metavae_training.models.base import FIRST
from metavae_training.models.moments import CHUNK
from metavae_training.models.networks import AggregationNetwork, ParallelDecoder
from metavae_training.models.objectives import (
    DiagonalGaussian,
    Elbo,
    bernoulli_log_likelihood,
    gaussian_log_likelihood,
)
from metavae_training.recipes import Recipe
from metavae_training.trainer.build import build_optimizer
from metavae_training.trainer.data import Corpus
from metavae_training.trainer.epochs import Training

EPOCHS = 4  # of fewer images and values than the recipe's 4


@dataclass(frozen=True)
class Trained:
    """A model, its settings, and what its training changes in the recipe of wavelet-metavae."""

    model: type[WaveletMetaVAE] = WaveletMetaVAE
    settings: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)

    def fit(self, images: Tensor, recipe: Recipe) -> Encode:
        """Train on images uint8 [value, image, pixel] with seed 0."""
        recipe = recipe.changed({"epochs": EPOCHS} | self.recipe)
        corpus = Corpus(images, images[:, :0])
        torch.manual_seed(0)
        settings = recipe.model_settings | self.settings
        model = self.model(distributions=corpus.distributions, pixels=corpus.pixels, **settings)
        model.initialise(images)
        optimizer = build_optimizer(model, recipe)
        training = Training(model, optimizer, corpus, recipe, seed=0)
        with tqdm(disable=True) as bar:
            for epoch in range(1, recipe.epochs + 1):
                training.epoch(epoch, bar)
        model.eval()

        def encode(view: Tensor, context: Tensor) -> Tensor:
            summary = model.features(context.float() / 255).mean(0)
            return model.posterior(view.float() / 255, summary.expand(len(view), -1)).mean

        return encode


class Unaware(WaveletMetaVAE):
    """Every context says the same: nothing."""

    def features(self, x: Tensor) -> Tensor:
        """Per-image features, see `Model`."""
        return 0 * super().features(x)


class FeatureDecoder(WaveletMetaVAE):
    """An earlier form of the model: decoders explain all wavelet features, and start at random."""

    def __init__(self, *, distributions: int, hidden: int = 200, **rest: Any) -> None:
        super().__init__(distributions=distributions, hidden=hidden, **rest)
        size = self.wavelets.features
        self.decoders = ParallelDecoder(distributions, [self.latent_dim, hidden, hidden, size])
        self.feature_noise = nn.Parameter(torch.zeros(size))

    @torch.no_grad()
    def initialise(self, images: Tensor, start: Start = FIRST) -> None:
        """Start the noise from the features' variance as well, see `Model`."""
        super().initialise(images, start)
        few = images[:, : CHUNK // len(images)].flatten(0, 1)
        variance = self._standardised(few.float() / 255).var(0)
        self.feature_noise.copy_(variance.clamp(min=1e-3).log())

    def _bound(self, x: Tensor, posterior: DiagonalGaussian, generator: torch.Generator) -> Elbo:
        target = self._standardised(x)
        decoded = self.decoders(posterior.draw(generator).flatten(1, 2)).view(target.shape)
        log_likelihood = gaussian_log_likelihood(target, decoded, self.feature_noise)
        return Elbo(log_likelihood, posterior.kl_to_standard_normal())


class NoLinearPath(FeatureDecoder):
    """The networks alone: no linear path beside them, started at random as usual."""

    @torch.no_grad()
    def initialise(self, images: Tensor, start: Start = FIRST) -> None:
        """Start the linear path from nothing and keep it there, see `Model`."""
        super().initialise(images, start)
        self.linear_path.weight.zero_()
        self.linear_path.requires_grad_(False)
        self.log_variance.zero_()
        self.aggregation_network.out.reset_parameters()


class NoContext(Unaware, FeatureDecoder):
    """The earlier form under contexts that say nothing."""


class NoDistortion(FeatureDecoder):
    """The plain MetaELBO: the encoder sees the image that the decoder explains."""

    def elbo(self, batch: Batch, generator: torch.Generator) -> Elbo:
        """The bound's terms, see `Model`."""
        summary = self.features(batch.contexts).mean(dim=-2, keepdim=True)
        return self._bound(batch.queries, self.posterior(batch.queries, summary), generator)


class PixelDecoder(FeatureDecoder):
    """Decoders that explain the pixels of the image instead of its wavelet features."""

    def __init__(self, *, distributions: int, pixels: int, hidden: int = 200, **rest: Any) -> None:
        super().__init__(distributions=distributions, pixels=pixels, hidden=hidden, **rest)
        widths = [self.latent_dim, hidden, hidden, pixels]
        self.decoders = ParallelDecoder(distributions, widths)

    def _bound(self, x: Tensor, posterior: DiagonalGaussian, generator: torch.Generator) -> Elbo:
        logits = self.decoders(posterior.draw(generator).flatten(1, 2)).view(x.shape)
        return Elbo(bernoulli_log_likelihood(x, logits), posterior.kl_to_standard_normal())


class WeightedKL(FeatureDecoder):
    """The KL term counts `kl_weight` times (Higgins et al., ICLR 2017)."""

    def __init__(self, *, kl_weight: float, **rest: Any) -> None:
        super().__init__(**rest)
        self.kl_weight = kl_weight

    def elbo(self, batch: Batch, generator: torch.Generator) -> Elbo:
        """The bound's terms, see `Model`."""
        found = super().elbo(batch, generator)
        return Elbo(found.log_likelihood, self.kl_weight * found.kl_z)


class Modulated(FeatureDecoder):
    """The context scales and shifts every wavelet feature (Perez et al., AAAI 2018)."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.modulation = nn.Linear(self.feature_dim, 2 * self.wavelets.features)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def posterior(self, x: Tensor, summary: Tensor) -> DiagonalGaussian:
        """q(z | D, x), see `Model`."""
        gain, shift = self.modulation(summary).float().chunk(2, dim=-1)
        return self._posterior(self._standardised(x) * (1 + gain) + shift, summary)


class AttentionPooling(FeatureDecoder):
    """Context elements count by a learned weight: both sums are means, so pooling stays a mean."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        hidden, self.feature_dim = self.feature_dim, self.feature_dim + 1
        self.score = nn.Linear(hidden, 1)
        self.aggregation_network = AggregationNetwork(
            self.wavelets.features, hidden, hidden, self.latent_dim
        )
        nn.init.zeros_(self.aggregation_network.out.weight)
        nn.init.zeros_(self.aggregation_network.out.bias)

    def features(self, x: Tensor) -> Tensor:
        """Per-image features, see `Model`."""
        plain = super().features(x)
        weight = self.score(plain).float().clamp(-10, 10).exp()
        return torch.cat([weight * plain, weight], dim=-1)

    def posterior(self, x: Tensor, summary: Tensor) -> DiagonalGaussian:
        """q(z | D, x), see `Model`."""
        pooled = summary[..., :-1] / summary[..., -1:]
        return self._posterior(self._standardised(x), pooled)
