"""The changes that were tried, in order, each on top of an earlier one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from encoder.closed import Closed
from encoder.trained import (
    EPOCHS,
    AttentionPooling,
    FeatureDecoder,
    Modulated,
    NoContext,
    NoDistortion,
    NoLinearPath,
    PixelDecoder,
    Trained,
    Unaware,
    WeightedKL,
)
from metavae_training.models import WaveletMetaVAE


@dataclass(frozen=True)
class Change:
    """One row: what was changed, in which row's encoder, what came of it, and whether it stayed.

    `on` is another change's name, empty for the first. `encoder` None stands for the floor.
    """

    name: str
    label: str
    on: str
    encoder: Closed | Trained | None
    kept: bool = False


_START = Closed()
_WHITENED = replace(_START, directions="whitened")
_ROOTS = replace(_WHITENED, compress=True)
_THREE = replace(_ROOTS, scales=3)
_FOUR = replace(_THREE, scales=4)
_WIDE = replace(_FOUR, window=6)
_SHARED = replace(_WIDE, directions="correlated")


def _trained(
    name: str, label: str, model: type[WaveletMetaVAE] = FeatureDecoder, **changed: Any
) -> Change:
    """A change to the model's earlier form."""
    return Change(name, label, "feature-decoder", Trained(model, **changed))


CHANGES: tuple[Change, ...] = (
    Change("pixels", "PCA-40 of pixels", "", None),
    Change("wavelets", "PCA-40 of wavelets, 8 orientations x 2 octaves", "pixels", _START, True),
    Change("whitened", "components of unit variance", "wavelets", _WHITENED, True),
    Change("roots", "square roots of the averages", "whitened", _ROOTS, True),
    Change("three", "3 octaves", "roots", _THREE, True),
    Change("four", "4 octaves", "three", _FOUR, True),
    Change("wide", "averages over overlapping squares of 6 pixels", "four", _WIDE, True),
    Change(
        "second-order",
        "second-order features beside the first",
        "wide",
        replace(_WIDE, second_order=True),
    ),
    Change("twelve", "12 orientations", "wide", replace(_WIDE, orientations=12)),
    Change("shared", "canonical correlations of two distortions, not PCA", "wide", _SHARED, True),
    Change("elastic", "elastic distortions as well", "shared", replace(_SHARED, elastic=True)),
    Change(
        "centred",
        "features relative to the context's mean",
        "shared",
        replace(_SHARED, context="centres"),
    ),
    Change(
        "standardised",
        "features relative to the context's mean and deviation",
        "shared",
        replace(_SHARED, context="standardises"),
    ),
    Change(
        "feature-decoder",
        "MetaVAE's networks beside it, trained to explain wavelet features",
        "shared",
        Trained(FeatureDecoder),
        True,
    ),
    _trained("no-context", "the networks without a context", NoContext),
    _trained("no-linear-path", "the networks alone", NoLinearPath),
    _trained("no-distortion", "trained without distortions", NoDistortion),
    _trained("pixel-decoder", "decoders of pixels", PixelDecoder),
    _trained("kl-third", "KL weight 0.3", WeightedKL, settings={"kl_weight": 0.3}),
    _trained("kl-triple", "KL weight 3", WeightedKL, settings={"kl_weight": 3.0}),
    _trained(
        "larger-contexts",
        "contexts of 20 to 200 images, not 5 to 50",
        recipe={"context_sizes": [20, 200]},
    ),
    _trained("attention", "attention pooling", AttentionPooling),
    _trained("modulated", "features scaled and shifted by the context", Modulated),
    _trained("longer", "twice as many epochs", recipe={"epochs": 2 * EPOCHS}),
    Change(
        "networks",
        "canonical variates explained, the decoders too started in closed form",
        "feature-decoder",
        Trained(),
        True,
    ),
    Change("unaware", "the networks without a context", "networks", Trained(Unaware)),
)
