"""Encoders in closed form: fixed wavelet features, and 40 linear numbers of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from encoder.inner import Encode
from metavae_training.models.moments import moments
from metavae_training.models.wavelet.code import canonical_directions
from metavae_training.models.wavelet.distortion import RESCALING, distorted
from metavae_training.models.wavelet.transform import WaveletTransform
from metavae_zoo.embedding.summary import CONTEXT_SIZE

LATENT = 40

_CHUNK = 1000  # images
_ELASTIC = 1.5  # pixels that a control point of the elastic distortion moves, standard deviation
_FAINT = 1e-4  # as of the transform's own modulus


@dataclass(frozen=True)
class Closed:
    """Which features, what is done with a context, and which 40 directions.

    `directions`: principal components, those of unit variance (whitened), or the ones that two
    distortions of an image share the most (correlated).
    """

    scales: int = 2
    orientations: int = 8
    window: int = 4
    compress: bool = False
    second_order: bool = False
    context: Literal["unused", "centres", "standardises"] = "unused"
    directions: Literal["principal", "whitened", "correlated"] = "principal"
    elastic: bool = False

    @torch.no_grad()
    def fit(self, images: Tensor, rescaling: float = RESCALING) -> Encode:
        """Fit to images uint8 [value, image, pixel]; a distribution's own are its context.

        `rescaling` bounds the distortions, so that they make no judged value of a fitted one.
        """
        features = self._features(images.shape[-1])

        def seen(view: Tensor, context: Tensor) -> Tensor:
            return self._given(_by_chunks(features, view), _by_chunks(features, context))

        if self.directions == "correlated":
            generator = torch.Generator().manual_seed(0)
            views = [[self._distorted(one, rescaling, generator) for one in images] for _ in "ab"]
            means, covariance = moments(
                torch.cat([seen(view, view[:CONTEXT_SIZE]) for view in both], dim=1).double()
                for both in zip(*views, strict=True)
            )
            size = len(means) // 2
            mean, shared = means[:size], covariance[:size, size:]
            total = (covariance[:size, :size] + covariance[size:, size:]) / 2
            weight, correlation = canonical_directions(total, (shared + shared.T) / 2, LATENT)
            weight = weight * correlation.sqrt()
        else:
            mean, covariance = moments(seen(one, one[:CONTEXT_SIZE]).double() for one in images)
            values, vectors = torch.linalg.eigh(covariance)
            weight = vectors[:, -LATENT:]
            if self.directions == "whitened":
                weight = weight / values[-LATENT:].sqrt()
        kept_mean, kept = mean.float(), weight.float()
        return lambda view, context: (seen(view, context) - kept_mean) @ kept

    def _features(self, pixels: int) -> nn.Module:
        wavelets = WaveletTransform(
            pixels,
            scales=self.scales,
            orientations=self.orientations,
            window=self.window,
            compress=self.compress,
        )
        return SecondOrder(wavelets) if self.second_order else wavelets

    def _given(self, features: Tensor, context: Tensor) -> Tensor:
        """Features relative to the context's."""
        if self.context == "unused":
            return features
        centred = features - context.mean(0)
        return centred if self.context == "centres" else centred / (context.std(0) + 0.01)

    def _distorted(self, images: Tensor, rescaling: float, generator: torch.Generator) -> Tensor:
        side = round(images.shape[-1] ** 0.5)
        moved = distorted(images.float() / 255, side, generator, rescaling)
        moved = elastic(moved, side, generator) if self.elastic else moved
        return (moved * 255).round().clamp(0, 255).to(torch.uint8)


class SecondOrder(nn.Module):
    """First-order features, and coarse averages of the second (Bruna and Mallat, PAMI 2013).

    The moduli of an octave are filtered at every coarser octave; the moduli of that are averaged
    over the four quarters of the image.
    """

    def __init__(self, wavelets: WaveletTransform) -> None:
        super().__init__()
        self.first = wavelets
        self.filters = list(wavelets.buffers())

    def forward(self, x: Tensor) -> Tensor:
        """Images [image, pixel] -> features [image, feature]."""
        side = self.first.side
        images = x.reshape(-1, 1, side, side)
        second = []
        for octave, filters in enumerate(self.filters):
            moduli = _modulus(images, filters).flatten(0, 1)[:, None]
            for coarser in self.filters[octave + 1 :]:
                again = _modulus(moduli, coarser, stride=4)
                averages = F.adaptive_avg_pool2d(again, 2).sqrt()
                second.append(averages.reshape(len(images), -1))
        return torch.cat([self.first(x), *second], dim=1)


def _modulus(images: Tensor, filters: Tensor, stride: int = 1) -> Tensor:
    waves = F.conv2d(images, filters, padding=filters.shape[-1] // 2, stride=stride)
    real, imaginary = waves.chunk(2, dim=1)
    return (real.square() + imaginary.square() + _FAINT).sqrt()


def elastic(images: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Images [image, pixel] moved by a smooth random field (Simard et al., ICDAR 2003)."""
    points = _ELASTIC * 2 / side * torch.randn(len(images), 2, 4, 4, generator=generator)
    field = F.interpolate(points, (side, side), mode="bicubic", align_corners=True)
    identity = torch.eye(2, 3).expand(len(images), 2, 3)
    grid = F.affine_grid(identity, [len(images), 1, side, side], align_corners=False)
    moved = F.grid_sample(
        images.view(-1, 1, side, side), grid + field.permute(0, 2, 3, 1), align_corners=False
    )
    return moved.view(images.shape)


def pixel_components(images: Tensor) -> Encode:
    """The floor: principal components of the pixels themselves."""
    mean, covariance = moments(one.double() / 255 for one in images)
    _, vectors = torch.linalg.eigh(covariance)
    kept = vectors[:, -LATENT:]
    return lambda view, context: ((view.double() / 255 - mean) @ kept).float()


def _by_chunks(features: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([features(chunk.float() / 255) for chunk in images.split(_CHUNK)])
