"""The Variational Homoencoder (Hewitt et al., UAI 2018), as Eq. 13 states it."""

from __future__ import annotations

import torch

from metavae_training.models.base import Batch
from metavae_training.models.hierarchical import HierarchicalModel
from metavae_training.models.objectives import Elbo


class VariationalHomoencoder(HierarchicalModel):
    """The Variational Homoencoder: a latent c per set, inferred from a sample beside the image.

    An image bears `kl_c_scale` of KL(c); None stands for Eq. 13's 1/N, with N the size of the
    context set (the released code uses 1).
    """

    def __init__(
        self,
        *,
        distributions: int,
        pixels: int,
        latent_dim: int = 40,
        context_dim: int = 300,
        hidden: int = 400,
        kl_c_scale: float | None = None,
    ) -> None:
        super().__init__(
            distributions=distributions,
            pixels=pixels,
            latent_dim=latent_dim,
            context_dim=context_dim,
            hidden=hidden,
        )
        self.kl_c_scale = kl_c_scale

    def elbo(self, batch: Batch, generator: torch.Generator) -> Elbo:
        """The bound of each query given its context, [distribution, set, query] (Eq. 13)."""
        scale = 1 / batch.contexts.shape[-2] if self.kl_c_scale is None else self.kl_c_scale
        return self.bound(batch.queries, batch.contexts, scale, generator)
