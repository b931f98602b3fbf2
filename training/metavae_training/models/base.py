"""What training, export and serving ask of a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from metavae_training.models.objectives import DiagonalGaussian, Elbo
from metavae_zoo.errors import MetavaeError


class BadModelSetting(MetavaeError):
    """A setting that a model cannot have over these data."""

    code = "bad_model_setting"


@dataclass(frozen=True)
class Start:
    """What a model starts from beside its training images.

    `reference` is the index of the distribution that sites are simulated from, `seed` the run's.
    """

    reference: int = 0
    seed: int = 0


FIRST = Start()


@dataclass(frozen=True)
class Batch:
    """Queries of all training distributions and the context sets they are embedded with.

    queries: [distribution, set, query, pixel], contexts: [distribution, set, element, pixel],
    pixels in [0, 1]. Queries of a set share its context and are no elements of it.
    """

    queries: Tensor
    contexts: Tensor


class Model(nn.Module, ABC):
    """An encoder g(D, x) = r(x, mean of h over D), trained by an evidence lower bound.

    `feature_dim` is the width of h, 0 for a model that takes no context; `latent_dim` the width
    of an embedding. `starts_fitted` tells that `initialise` fits the encoder in closed form, so
    that it starts the same for every seed.
    """

    feature_dim: int
    latent_dim: int
    starts_fitted: ClassVar[bool] = False

    @classmethod
    def takes_context(cls) -> bool:
        """Whether there is a context: without one, `feature_dim` is 0 whatever the settings."""
        return getattr(cls, "feature_dim", None) != 0

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """Per-image features h(x) of context elements: [..., pixel] -> [..., feature]."""

    @abstractmethod
    def posterior(self, x: Tensor, summary: Tensor) -> DiagonalGaussian:
        """q(z | D, x): x [..., pixel], summary [..., feature] -> over [..., latent]."""

    @abstractmethod
    def elbo(self, batch: Batch, generator: torch.Generator) -> Elbo:
        """Evidence lower bound of each query: terms of [distribution, set, query]."""

    def initialise(self, images: Tensor, start: Start = FIRST) -> None:
        """Set weights from the training images, uint8 [distribution, image, pixel].

        Called once, before the first epoch.
        """

    @property
    def site_parameters(self) -> list[tuple[str, str]]:
        """Name and unit of each number of `site`; empty for a model that infers no site."""
        return []

    def site(self, pooled: Tensor, count: Tensor) -> Tensor:
        """What the model infers of sites: [site, feature], images [site, 1] -> [site, number]."""
        raise NotImplementedError(f"{type(self).__name__} infers no site")

    def parameter_counts(self) -> dict[str, int]:
        """Numbers that are learned, by sub-network; those of none by their own names."""
        counts: dict[str, int] = defaultdict(int)
        for name, parameter in self.named_parameters():
            counts[name.split(".")[0]] += parameter.numel()
        return dict(counts)
