"""The canonicaliser's network: features of images, the inferred site, the canonical image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metavae_training.models.canonical.intensity import (
    KNOTS,
    LEVELS,
    STEP,
    full_table,
    histogram,
    table_at_knots,
)
from metavae_training.models.canonical.prior import PRIORS
from metavae_training.models.canonical.simulation import frame
from metavae_training.models.networks import relu_mlp
from metavae_training.models.wavelet.transform import WaveletTransform

Intensity = Literal["auto", "none", "histogram", "stretch"]

QUANTILES = (0.5, 0.9, 0.95)
_WAVELET_COMPONENTS, _PIXEL_COMPONENTS = 400, 200
_LEAST_RANGE = 0.05  # brightness: a fainter image is not stretched any further
_SHIFT_UNIT = 5.0  # pixels: shifts are about 1 in the network's own unit
_CAMERA_UNIT = 0.3
_LEAST_CHANGE = 0.03  # of brightness, in the mean over pixels, for which a table is worth it
_NEAREST = 0.3  # of depth and brightness: what is divided by is no smaller
_CERTAINTY_WIDTH = 128


@dataclass(frozen=True)
class Site:
    """Inferred parameters of sites: the canonical image reads the site's at B q + s.

    warp B: [site, 2, 2]; shift s, pixels: [site, 2]; perspective, light: [site, 2], as in
    `simulation`.
    """

    warp: Tensor
    shift: Tensor
    perspective: Tensor
    light: Tensor

    @property
    def area(self) -> Tensor:
        """|det B|, [site]."""
        determinant = (
            self.warp[:, 0, 0] * self.warp[:, 1, 1] - self.warp[:, 0, 1] * self.warp[:, 1, 0]
        )
        return determinant.abs()


class Canonicaliser(nn.Module):
    """Infers a site from pooled features of its images, and takes it out of images.

    `prior` names the prior of `PRIORS` that it learns to invert. `intensity` says how brightness
    is brought to the reference's: by the pooled histogram's table, by stretching each canonical
    image to 0-1, or not at all; `auto` is the table, or none where `choose_table` finds that the
    training sites differ in geometry only. The weights come from `inversion` and `calibration`.
    Further training leaves them alone.
    """

    mean: Tensor
    components: Tensor
    pixel_mean: Tensor
    pixel_components: Tensor
    reference: Tensor
    correction: Tensor
    coverage: Tensor
    table_weight: Tensor

    def __init__(
        self,
        *,
        pixels: int,
        prior: str = "affine",
        intensity: Intensity = "auto",
        hidden: int = 384,
        width: int = 512,
    ) -> None:
        super().__init__()
        self.prior = PRIORS[prior]
        self.intensity = intensity
        self.side = math.isqrt(pixels)
        self.hidden = hidden
        self.wavelets = WaveletTransform(pixels, scales=4, orientations=8, window=6, compress=True)
        kept = min(_WAVELET_COMPONENTS, self.wavelets.features)
        kept_pixels = min(_PIXEL_COMPONENTS, pixels)
        self.register_buffer("mean", torch.zeros(self.wavelets.features))
        self.register_buffer("components", torch.zeros(self.wavelets.features, kept))
        self.register_buffer("pixel_mean", torch.zeros(pixels))
        self.register_buffer("pixel_components", torch.zeros(pixels, kept_pixels))
        self.register_buffer("reference", torch.zeros(LEVELS))  # the reference's histogram
        # What is added to each log quantile of the error, see `calibration`.
        self.register_buffer("correction", torch.zeros(len(QUANTILES)))
        # Share of simulated sets whose error is below each quantile: balanced, few kinds only.
        self.register_buffer("coverage", torch.zeros(2, len(QUANTILES)))
        # 1: the table is used, 0: brightness stays as it is.
        self.register_buffer("table_weight", torch.ones(()))
        self.summary_network = nn.Sequential(
            relu_mlp([kept + kept_pixels, hidden, hidden]), nn.ReLU()
        )
        camera = 4 if self.prior.has_camera else 0
        self.head = relu_mlp([hidden, width, width, width, 6 + camera])
        self.certainty = relu_mlp([hidden + 1, _CERTAINTY_WIDTH, _CERTAINTY_WIDTH, len(QUANTILES)])

    @property
    def has_table(self) -> bool:
        """Whether brightness goes through a table."""
        return self.intensity in ("auto", "histogram")

    @property
    def feature_dim(self) -> int:
        """Numbers of an image's features: the network's, then the histogram."""
        return self.hidden + LEVELS

    def components_of(self, x: Tensor) -> Tensor:
        """Principal components of wavelets and pixels of stretched images: [n, pixel] -> [n, f]."""
        x = stretched(x)
        waves = (self.wavelets(x) - self.mean) @ self.components
        return torch.cat([waves, (x - self.pixel_mean) @ self.pixel_components], dim=1)

    def features(self, x: Tensor) -> Tensor:
        """Features h(x) that are pooled, [n, pixel] -> [n, feature_dim]."""
        return torch.cat([self.summary_network(self.components_of(x)), histogram(x)], dim=1)

    def site(self, pooled: Tensor) -> Site:
        """The inferred site, from pooled features [site, hidden or more]."""
        found = self.head(pooled[:, : self.hidden])
        camera = found[:, 6:] if self.prior.has_camera else torch.zeros_like(found[:, :4])
        return Site(
            warp=found[:, :4].reshape(-1, 2, 2),
            shift=found[:, 4:6] * _SHIFT_UNIT,
            perspective=camera[:, :2] * _CAMERA_UNIT,
            light=camera[:, 2:] * _CAMERA_UNIT,
        )

    def error_quantiles(self, pooled: Tensor, count: Tensor) -> Tensor:
        """Quantiles of the error |A B - I| (Frobenius) of the inferred warp, [site, 3], ascending.

        count: images of the context, [site, 1].
        """
        found = self.certainty(torch.cat([pooled[:, : self.hidden], count.log()], dim=1))
        rising = torch.cat([found[:, :1], F.softplus(found[:, 1:])], dim=1).cumsum(1)
        return (rising + self.correction).exp()

    def knots(self, pooled: Tensor, site: Site) -> Tensor:
        """The intensity table at its knots, [site, 16], brightness 0-1."""
        levels = pooled[:, self.hidden : self.feature_dim]
        found = table_at_knots(levels, self.reference, site.area)
        unchanged = torch.linspace(0, 1, KNOTS, dtype=found.dtype, device=found.device)
        return unchanged + self.table_weight * (found - unchanged)

    @torch.no_grad()
    def choose_table(self, pooled: Tensor) -> None:
        """Leave brightness as it is where it hardly differs between sites, [site, feature].

        The criterion is the table's mean change of brightness, its median over the sites.
        """
        self.table_weight.fill_(1)
        levels = pooled[:, self.hidden : self.feature_dim]
        table = full_table(self.knots(pooled, self.site(pooled)))
        unchanged = torch.linspace(0, 1, LEVELS, device=table.device)
        change = (levels * (table - unchanged).abs()).sum(1)
        self.table_weight.fill_(float(change.median() > _LEAST_CHANGE))

    def canonical(self, x: Tensor, pooled: Tensor) -> Tensor:
        """Images x [n, pixel] in the reference's frame; pooled: [n, feature] or [1, feature]."""
        site = self.site(pooled)
        if self.has_table:
            x = looked_up(full_table(self.knots(pooled, site)), x)
        positions, light = self._read_at(site)
        # A grid for each image by arithmetic: one context may serve all images, and the exporter
        # takes two numbers of rows that were equal for one number.
        grid = positions + (x[:, 0] * 0)[:, None, None, None]
        images = x.reshape(-1, 1, self.side, self.side)
        # Beyond the frame lies paper: 0 once the table has made it so, else what the edge shows.
        padding = "border" if self.intensity == "stretch" else "zeros"
        moved = F.grid_sample(images, grid, padding_mode=padding, align_corners=False)
        moved = (moved[:, 0] / light).flatten(1)
        return stretched(moved) if self.intensity == "stretch" else moved.clamp(0, 1)

    def _read_at(self, site: Site) -> tuple[Tensor, Tensor]:
        """Where the canonical image reads, [site, side, side, 2], and the light there."""
        half = self.side / 2
        positions = torch.einsum("sij,hwj->shwi", site.warp, frame(self.side).to(site.warp))
        positions = positions + (site.shift / half)[:, None, None]
        if not self.prior.has_camera:
            return positions, torch.ones(1, 1, 1).to(positions)
        tilt = torch.einsum("shwj,sj->shw", positions, site.perspective)
        along = torch.einsum("shwj,sj->shw", positions, site.light)
        strength = (site.light.square().sum(1) + 1e-12).sqrt()[:, None, None]
        light = (1 - 0.5 * (strength + along)).clamp(min=_NEAREST)
        return positions / (1 - tilt).clamp(min=_NEAREST)[..., None], light

    @property
    def site_parameters(self) -> list[tuple[str, str]]:
        """Name and unit of each number of `site_row`."""
        named = [(f"warp_{row}{column}", "1") for row in "xy" for column in "xy"]
        named += [(f"shift_{axis}", "pixels") for axis in "xy"]
        if self.prior.has_camera:
            named += [(f"perspective_{axis}", "1 / half the side") for axis in "xy"]
            named += [(f"light_{axis}", "share of brightness over half the side") for axis in "xy"]
        if self.has_table:
            named += [(f"intensity_{STEP * knot}", "brightness 0-1") for knot in range(KNOTS)]
        return named + [(f"error_{round(100 * one)}", "1") for one in QUANTILES]

    def site_row(self, pooled: Tensor, count: Tensor) -> Tensor:
        """The inferred parameters of sites, [site, P]; pooled [site, feature], count [site, 1]."""
        site = self.site(pooled)
        parts = [site.warp.flatten(1), site.shift]
        if self.prior.has_camera:
            parts += [site.perspective, site.light]
        if self.has_table:
            parts.append(self.knots(pooled, site))
        return torch.cat([*parts, self.error_quantiles(pooled, count)], dim=1)

    def describe(self) -> dict[str, Any]:
        """The prior and the coverage of the error's quantiles, as a card holds them."""
        kinds = ("balanced", "few kinds")
        return {
            **self.prior.to_dict(),
            "intensity": self.intensity if self.table_weight else "none",
            "coverage": {
                kind: {f"{level:g}": round(float(row[at]), 4) for at, level in enumerate(QUANTILES)}
                for kind, row in zip(kinds, self.coverage, strict=True)
            },
        }


def stretched(x: Tensor) -> Tensor:
    """Images stretched one by one to 0-1, [n, pixel]."""
    low, high = x.amin(1, keepdim=True), x.amax(1, keepdim=True)
    return (x - low) / (high - low).clamp(min=_LEAST_RANGE)


def looked_up(table: Tensor, x: Tensor) -> Tensor:
    """Brightness of images [n, pixel] of 0-1 by tables [n or 1, 256]."""
    levels = (x * (LEVELS - 1)).round()
    # Where a table begins among all of them, from the tables themselves; see `canonical`.
    begins = ((table[:, :1] * 0 + 1).cumsum(0) - 1) * LEVELS
    return table.flatten()[(levels + begins).to(torch.int64)]
