"""How sure an inferred site is: quantiles of its error, learned on sets that were kept apart.

The network that infers the site stays as it is. A small network beside it sees the same pooled
features and the size of the context, and gives quantiles of the log error by the pinball loss. It
learns from balanced sets, from sets of few kinds of images, and from sets that have no site to
find (blank, noise, shuffled pixels, jigsaws), whose error is stated as NO_SITE. Last, each
quantile is moved by a constant, so that it covers its share of further sets (conformalised
quantile regression, Romano, Patterson and Candes, NeurIPS 2019).
"""

from __future__ import annotations

import torch
from torch import Tensor
from tqdm import tqdm

from metavae_training.models.canonical.inversion import (
    SET_SIZE,
    Pool,
    simulated_images,
    squared_warp_error,
)
from metavae_training.models.canonical.network import QUANTILES, Canonicaliser
from metavae_training.models.sizes import draw_sizes

NO_SITE = 2.0  # error of a warp that says nothing
_STEPS = (300, 3000)  # at least, at most; between them a quarter of the sets
_ONE_KIND = 0.5
_NO_SITE_SHARE = 0.15
_SETS_A_STEP = 512
_LEARNING_RATE, _WEIGHT_DECAY = 1e-3, 1e-2
_MEASURED_SIZES = (5, 10, 20, 40)


def calibration_steps(sets: int) -> int:
    """Steps that `calibrate` takes on `sets` sets."""
    least, most = _STEPS
    return min(most, max(least, sets // 4))


def calibrate(
    network: Canonicaliser, pool: Pool, sets: int, generator: torch.Generator, bar: tqdm
) -> None:
    """Fit the error's quantiles on `sets` sets of the pool, which no weight has seen."""
    features, warps = _observed(network, pool, sets, _ONE_KIND, generator)
    empty = _without_site(network, pool, max(100, int(_NO_SITE_SHARE * sets)), generator)
    everything = torch.cat([features, empty])
    del features, empty
    optimizer = torch.optim.AdamW(
        network.certainty.parameters(), _LEARNING_RATE, weight_decay=_WEIGHT_DECAY
    )
    steps = calibration_steps(sets)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, 1e-6)
    levels = torch.tensor(QUANTILES)
    for _ in range(steps):
        chosen = torch.randint(len(everything), (_SETS_A_STEP,), generator=generator)
        [size] = draw_sizes((1, SET_SIZE), 1, generator)
        images = torch.randperm(SET_SIZE, generator=generator)[:size]
        pooled = everything[chosen[:, None], images].float().mean(1)
        error = torch.full((len(chosen),), NO_SITE)
        has_site = chosen < len(warps)
        error[has_site] = _error(network, pooled[has_site], warps[chosen[has_site]])
        stated = network.error_quantiles(pooled, torch.full((len(pooled), 1), float(size)))
        missed = error.log()[:, None] - stated.log()
        loss = torch.maximum(levels * missed, (levels - 1) * missed).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        bar.update()
    _correct(network, pool, max(200, sets // 4), generator)
    for row, one_kind in enumerate((0.0, 1.0)):
        missed = _missed(network, pool, max(200, sets // 8), one_kind, generator)
        network.coverage[row] = (missed <= 0).float().mean(0)


def _correct(network: Canonicaliser, pool: Pool, sets: int, generator: torch.Generator) -> None:
    """Move each quantile by a constant factor, so that it covers its share of fresh sets."""
    missed = _missed(network, pool, sets, _ONE_KIND, generator)
    for level, share in enumerate(QUANTILES):
        network.correction[level] = missed[:, level].quantile(share)


@torch.no_grad()
def _missed(
    network: Canonicaliser, pool: Pool, sets: int, one_kind: float, generator: torch.Generator
) -> Tensor:
    """Log error less each stated log quantile, of fresh sets of several sizes: [set, quantile]."""
    features, warps = _observed(network, pool, sets, one_kind, generator)
    missed = []
    for size in _MEASURED_SIZES:
        pooled = features[:, :size].float().mean(1)
        stated = network.error_quantiles(pooled, torch.full((sets, 1), float(size)))
        missed.append(_error(network, pooled, warps).log()[:, None] - stated.log())
    return torch.cat(missed)


@torch.no_grad()
def _observed(
    network: Canonicaliser, pool: Pool, count: int, one_kind: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Features of the images of simulated sets [set, image, hidden], and the sets' warps."""
    features, warps = [], []
    for images, sites in simulated_images(network, pool, count, one_kind, generator):
        features.append(_hidden(network, images))
        warps.append(sites.warp)
    return torch.cat(features), torch.cat(warps)


@torch.no_grad()
def _without_site(
    network: Canonicaliser, pool: Pool, count: int, generator: torch.Generator
) -> Tensor:
    """Features of sets that have no site to find, [set, image, hidden]."""
    side, found = network.side, []
    for index, (images, _) in enumerate(simulated_images(network, pool, count, 0.0, generator)):
        kind = index % 4
        if kind == 0:  # blank, with the grain of a sensor in half of them
            level = torch.rand(len(images), 1, 1, generator=generator)
            grainy = torch.rand(len(images), 1, 1, generator=generator) < 0.5
            made = level + 0.02 * grainy * torch.randn(images.shape, generator=generator)
        elif kind == 1:  # noise
            made = torch.rand(images.shape, generator=generator)
        elif kind == 2:  # shuffled pixels
            made = images[..., torch.randperm(images.shape[-1], generator=generator)]
        else:  # jigsaws: the ink of the reference in shapes that are not the reference's
            squares = images.unflatten(-1, (side, side)).roll(side // 2, dims=-2)
            left, right = squares.roll(1, dims=1)[..., side // 2 :], squares[..., : side // 2]
            made = torch.cat([left, right], dim=-1).flatten(2)
        found.append(_hidden(network, (made.clamp(0, 1) * 255).round() / 255))
    return torch.cat(found)


def _hidden(network: Canonicaliser, images: Tensor) -> Tensor:
    """The summary network's features of sets, [set, image, pixel] -> half [set, image, hidden]."""
    seen = network.summary_network(network.components_of(images.flatten(0, 1)))
    return seen.half().unflatten(0, images.shape[:2])


@torch.no_grad()
def _error(network: Canonicaliser, pooled: Tensor, warps: Tensor) -> Tensor:
    return squared_warp_error(warps, network.site(pooled).warp).sqrt().clamp(max=NO_SITE)
