"""The closed form of a wavelet code: what two distortions of an image share the most."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from metavae_training.models.moments import moments

_RIDGE = 1.0  # times the mean variance of a feature


class Coded(Protocol):
    """The parts of a model that start from a code: linear paths to `latent_dim` numbers and back.

    mean: [feature]; scale: []; directions: [feature, variate]; log_variance: [latent];
    log_noise: [variate].
    """

    latent_dim: int
    mean: Tensor
    scale: Tensor
    directions: Tensor
    linear_path: nn.Linear
    log_variance: nn.Parameter
    decoder_path: nn.Linear
    log_noise: nn.Parameter


@dataclass(frozen=True)
class WaveletCode:
    """Standardised features and their first canonical variates.

    mean: [feature]; scale: []; directions: [feature, variate], of unit variance on unscaled
    features; correlation of the two views: [variate], the largest first.
    """

    mean: Tensor
    scale: Tensor
    directions: Tensor
    correlation: Tensor

    @torch.no_grad()
    def start(self, model: Coded) -> None:
        """Start the linear paths of a model, and what stands beside them, from this code."""
        model.mean.copy_(self.mean)
        model.scale.copy_(self.scale)
        model.directions.copy_(self.directions / model.scale)
        # A code that explains the share `kept` of its variate's variance leaves the rest open.
        kept = self.correlation[: model.latent_dim]
        weight = model.directions[:, : model.latent_dim] * kept.sqrt()
        model.linear_path.weight.copy_(weight.T)
        model.linear_path.bias.zero_()
        model.log_variance.copy_((1 - kept).log())
        model.decoder_path.weight.zero_()
        model.decoder_path.weight.diagonal().copy_(kept.sqrt())
        model.decoder_path.bias.zero_()
        model.log_noise.zero_()
        model.log_noise[: model.latent_dim] = (1 - kept).log()


def fit_code(views: Iterable[Tensor], variates: int) -> WaveletCode:
    """The closed form, from chunks of the features of two views side by side, [image, 2 feature].

    Probabilistic canonical correlation analysis (Bach and Jordan, 2005).
    """
    means, covariance = moments(views)
    size = len(means) // 2
    total = (covariance[:size, :size] + covariance[size:, size:]) / 2
    shared = covariance[:size, size:]
    directions, correlation = canonical_directions(total, (shared + shared.T) / 2, variates)
    return WaveletCode(
        mean=(means[:size] + means[size:]) / 2,
        scale=total.diagonal().mean().rsqrt(),
        directions=directions,
        correlation=correlation,
    )


def canonical_directions(total: Tensor, shared: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Directions [feature, count] of unit variance whose two views correlate the most.

    total: covariance of a view, shared: of one view with the other, [feature, feature]. Returns
    the directions and their correlations [count], the largest first; a ridge keeps directions of
    little variance from being chosen for what is noise.
    """
    size = len(total)
    ridge = _RIDGE * total.diagonal().mean()
    lower = torch.linalg.cholesky(total + ridge * torch.eye(size, dtype=total.dtype).to(total))
    whitened = torch.linalg.solve_triangular(lower, shared, upper=False)
    whitened = torch.linalg.solve_triangular(lower, whitened.T, upper=False)
    _, vectors = torch.linalg.eigh((whitened + whitened.T) / 2)
    kept = vectors[:, -count:].flip(1)
    directions = torch.linalg.solve_triangular(lower.T, kept, upper=True)
    directions = directions / (directions * (total @ directions)).sum(0).sqrt()
    correlation = (directions * (shared @ directions)).sum(0)
    return directions, correlation.clamp(1e-3, 1 - 1e-3)
