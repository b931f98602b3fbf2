"""A fixed wavelet transform: what an encoder sees in place of pixels.

First-order scattering (Bruna and Mallat, PAMI 2013): complex Gabor filters at several orientations
and octaves, their modulus, and a local average, which a small shift or deformation hardly moves.
Nothing in it is learned.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

_STRIDE = 2  # the modulus is smooth: every second pixel carries it
_STEP = 4  # pixels between averages
_WIDTH = 0.8  # standard deviation of the finest envelope, in pixels
_FREQUENCY = 3 * math.pi / 4  # of the finest filters, radians per pixel
_SLANT = 0.5  # an envelope is 1 / _SLANT times longer along the wave's crests
_RADII = (4, 6, 8, 13)  # of the filters, in pixels; the widest no longer fit all of their envelope
_FAINT = 1e-4  # squared modulus below which a wave counts as none: roots are steep at 0


class WaveletTransform(nn.Module):
    """Images [..., pixel] of 0-1 -> averaged moduli [..., feature].

    Averages are over squares of `window` pixels a side, 4 pixels apart; with `compress` their
    square roots are given, which lets faint strokes count beside bold ones. Works in float32
    whatever autocast says.
    """

    def __init__(
        self,
        pixels: int,
        *,
        scales: int,
        orientations: int,
        window: int = _STEP,
        compress: bool = False,
    ) -> None:
        super().__init__()
        self.window = window
        self.compress = compress
        self.side = math.isqrt(pixels)
        self.orientations = orientations
        self.features = scales * orientations * ((self.side - window) // _STEP + 1) ** 2
        for octave in range(scales):
            filters = gabor_filters(octave, orientations)
            parts = np.concatenate([filters.real, filters.imag])[:, None].astype(np.float32)
            self.register_buffer(f"filters_{octave}", torch.from_numpy(parts), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Features of images."""
        images = x.reshape(-1, 1, self.side, self.side)
        with torch.autocast(x.device.type, enabled=False):
            scales = [self._modulus(images.float(), filters) for filters in self.buffers()]
            features = torch.cat(scales, dim=1)
            features = features.sqrt() if self.compress else features
        return features.reshape(*x.shape[:-1], self.features)

    def _modulus(self, images: Tensor, filters: Tensor) -> Tensor:
        waves = F.conv2d(images, filters, padding=filters.shape[-1] // 2, stride=_STRIDE)
        real, imaginary = waves.split(self.orientations, dim=1)
        modulus = (real.square() + imaginary.square() + _FAINT).sqrt()
        return F.avg_pool2d(modulus, self.window // _STRIDE, _STEP // _STRIDE).flatten(1)


def gabor_filters(octave: int, orientations: int) -> NDArray[np.complex128]:
    """Gabor filters [orientation, row, column], each blind to a constant image, of unit L1 norm."""
    width, frequency = _WIDTH * 2**octave, _FREQUENCY / 2**octave
    radius = _RADII[octave]
    row, column = np.mgrid[-radius : radius + 1, -radius : radius + 1].astype(float)
    filters = []
    for angle in np.pi * np.arange(orientations) / orientations:
        along = column * np.cos(angle) + row * np.sin(angle)
        across = row * np.cos(angle) - column * np.sin(angle)
        envelope = np.exp(-(along**2 + (_SLANT * across) ** 2) / (2 * width**2))
        wave = np.exp(1j * frequency * along)
        blind = envelope * (wave - (envelope * wave).sum() / envelope.sum())
        filters.append(blind / np.abs(blind).sum())
    return np.stack(filters)
