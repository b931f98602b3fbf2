"""The closed-form wavelet code of `wavelet-metavae` before its training, without a context."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from metavae_training.models.wavelet.code import fit_code
from metavae_training.models.wavelet.distortion import distorted
from metavae_training.models.wavelet.transform import WaveletTransform
from metavae_zoo.evaluation.classifiers import Codes
from metavae_zoo.images import Images

FITTED_IMAGES = 20_000  # of all training sites together
_CHUNK = 500


class ClosedForm:
    """Images -> codes: what two distortions of an image share the most, fitted once.

    images: uint8 [image, 1, row, column]; `rescaling` bounds the distortions' change of size.
    """

    def __init__(self, images: Images, *, rescaling: float, latent_dim: int = 40) -> None:
        side = images.shape[-1]
        self._wavelets = WaveletTransform(
            side * side, scales=4, orientations=8, window=6, compress=True
        )
        generator = torch.Generator().manual_seed(0)

        def views() -> Iterator[Tensor]:
            for x in _chunks(images):
                two = [distorted(x, side, generator, rescaling) for _ in "ab"]
                yield torch.cat([self._wavelets(one) for one in two], dim=1)

        with torch.no_grad():
            code = fit_code(views(), latent_dim)
        self._mean = code.mean
        self._matrix = code.directions * code.correlation.sqrt()

    @torch.no_grad()
    def __call__(self, images: Images) -> Codes:
        """Codes [image, code]."""
        found = [(self._wavelets(x) - self._mean) @ self._matrix for x in _chunks(images)]
        return torch.cat(found).numpy().astype(np.float32)


def _chunks(images: Images) -> Iterator[Tensor]:
    for start in range(0, len(images), _CHUNK):
        yield torch.from_numpy(images[start : start + _CHUNK]).flatten(1).float() / 255
