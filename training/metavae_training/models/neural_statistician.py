"""The Neural Statistician (Edwards and Storkey, ICLR 2017): the exact bound of a whole set."""

from __future__ import annotations

import torch

from metavae_training.models.base import Batch
from metavae_training.models.hierarchical import HierarchicalModel
from metavae_training.models.objectives import Elbo


class NeuralStatistician(HierarchicalModel):
    """The Neural Statistician: a latent c per set, inferred from the very set that is explained.

    Its bound is on log p(D), so the set that q(c | D) sees is the one that is decoded: the
    batch's contexts, whose sizes vary as they do for every other model. Queries are not used.
    """

    def elbo(self, batch: Batch, generator: torch.Generator) -> Elbo:
        """The bound on log p(D), shared among the images of D: [distribution, set, element]."""
        size = batch.contexts.shape[-2]
        return self.bound(batch.contexts, batch.contexts, 1 / size, generator)
