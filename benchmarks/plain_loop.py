"""The baseline: a MetaVAE and its training step as they are usually written.

One module per network, a list of decoders, a Python loop over the distributions, and for every
query a context set of its own. The same networks, objective (Eq. 11), queries per step and
optimiser as metavae's own step, in float32; the images lie on the device as bytes and are indexed
there, so no time goes into a data loader. What makes metavae's step another one:

- queries share context sets, so that fewer images go through the summary network
  (an unbiased estimate of the same objective for the same sizes of context);
- all decoders are one batched matrix product, and all distributions one pass;
- bf16 arithmetic and a fused optimiser.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PlainMetaVAE(nn.Module):
    """One summary network, one aggregation network, and a decoder per distribution."""

    def __init__(
        self, *, distributions: int, pixels: int, latent_dim: int = 40, hidden: int = 400
    ) -> None:
        super().__init__()
        self.summary_network = nn.Sequential(
            nn.Linear(pixels, pixels),
            nn.LeakyReLU(0.2),
            nn.Linear(pixels, hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(hidden, hidden),
        )
        self.aggregation_network = nn.Sequential(
            nn.Linear(pixels + hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, 2 * latent_dim),
        )
        self.decoders = nn.ModuleList(
            nn.Sequential(
                nn.Linear(latent_dim, hidden),
                nn.ReLU(),
                nn.Linear(hidden, hidden),
                nn.ReLU(),
                nn.Linear(hidden, pixels),
            )
            for _ in range(distributions)
        )
        self.latent_dim = latent_dim

    def elbo(self, distribution: int, x: Tensor, contexts: Tensor, noise: Tensor) -> Tensor:
        """Evidence lower bound of each query of one distribution, in nats per image (Eq. 11).

        x: [query, pixel], contexts: [query, element, pixel], noise: [query, latent] standard
        normal; returns [query].
        """
        summary = self.summary_network(contexts).mean(dim=1)
        parameters = self.aggregation_network(torch.cat([x, summary], dim=1))
        mean, log_variance = parameters.chunk(2, dim=1)
        z = mean + torch.exp(0.5 * log_variance) * noise
        logits = self.decoders[distribution](z)
        log_likelihood = -F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(1)
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
        return log_likelihood - kl


def draw_contexts(images: Tensor, queries: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """A context set for each query, of images other than itself.

    images: [image, pixel], queries: [query] rows of it; returns [query, element, pixel].
    """
    contexts = []
    for query in queries:
        elements = torch.randint(
            len(images) - 1, (size,), generator=generator, device=images.device
        )
        elements += elements >= query  # skip over the query
        contexts.append(images[elements])
    return torch.stack(contexts)


def train_step(
    model: PlainMetaVAE,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    queries: Tensor,
    context_size: int,
    generator: torch.Generator,
) -> float:
    """One step up the sum over distributions of the mean ELBO; returns the mean before it.

    images: uint8 [distribution, image, pixel], queries: [distribution, query] rows of it.
    """
    optimizer.zero_grad()
    loss = torch.zeros((), device=images.device)
    for distribution, rows in enumerate(queries):
        own = images[distribution]
        x = own[rows].float() / 255
        contexts = draw_contexts(own, rows, context_size, generator).float() / 255
        noise = torch.randn(len(rows), model.latent_dim, generator=generator, device=images.device)
        loss = loss - model.elbo(distribution, x, contexts, noise).mean()
    loss.backward()
    optimizer.step()
    return -loss.item() / len(images)
