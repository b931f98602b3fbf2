"""Learning to invert simulated sites: the summary network h and the head f.

The loss of a set is the departure of what remains, in the reference's frame,

    sqrt(|A B - I|^2 + |A (s - t)|^2 / 49 + ... + .0009),

A and t of the simulated site, B and s inferred; with a camera, squared errors of perspective and
light besides. Sets are simulated once and kept as components of their images; steps draw sets and
context sizes from them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from metavae_training.bfloat16 import cpu_has_bf16
from metavae_training.models.canonical.network import Canonicaliser, stretched
from metavae_training.models.canonical.prior import Sites, draw_sites
from metavae_training.models.canonical.simulation import simulate
from metavae_training.models.sizes import draw_sizes
from metavae_training.models.wavelet.distortion import distorted
from metavae_zoo.embedding.summary import SITE_IMAGES

SET_SIZE = SITE_IMAGES  # of a simulated set
SMALLEST = 4  # images of a context in training
_SITES_AT_ONCE = 25
_BASIS_SETS = 500
_FEW_IMAGES = 5000  # of the reference: fewer are distorted anew in every set, against rote learning
_LITTLE = 0.5  # of the full distortion
_SETS_A_STEP = 64
_LEARNING_RATE, _WEIGHT_DECAY, _MOST_GRADIENT = 1e-3, 1e-3, 5.0
_SHIFT_WEIGHT, _FLOOR = 1 / 49, 9e-4
_ONE_KIND = 0.25  # share of sets that hold images of one kind only
KINDS = 40  # of images that resemble each other; stands in for labels, which are not asked for
_FEW = (1, 2, 4, 8)  # kinds in a set of few kinds; a class of digits has about four


@dataclass(frozen=True)
class Pool:
    """Images of the reference, float [image, pixel] of 0-1, and which resemble each other.

    kinds: [image], 0 to KINDS - 1.
    """

    images: Tensor
    kinds: Tensor

    def sets(self, count: int, size: int, one_kind: float, generator: torch.Generator) -> Tensor:
        """Rows [set, size]; a share `one_kind` of the sets draws from few kinds only."""
        rows = torch.randint(len(self.images), (count, size), generator=generator)
        for index in range(count):
            if torch.rand((), generator=generator) < one_kind:
                few = _FEW[index % len(_FEW)]
                chosen = torch.randint(KINDS, (few,), generator=generator)
                alike = torch.isin(self.kinds, chosen).nonzero()[:, 0]
                if len(alike):
                    rows[index] = alike[torch.randint(len(alike), (size,), generator=generator)]
        return rows


def pool_of(network: Canonicaliser, images: Tensor, seed: int) -> Pool:
    """A pool of images [image, pixel], clustered by their components."""
    from sklearn.cluster import MiniBatchKMeans

    with torch.no_grad():
        seen = torch.cat([network.components_of(chunk) for chunk in images.split(1000)])
    clusters = MiniBatchKMeans(min(KINDS, len(images)), random_state=seed % 2**32, batch_size=4096)
    kinds = clusters.fit_predict(seen.numpy())
    return Pool(images, torch.from_numpy(kinds.astype(np.int64)))


@dataclass(frozen=True)
class Sets:
    """Simulated sets: components [set, image, component] in half precision, and their sites."""

    components: Tensor
    warp: Tensor
    shift: Tensor
    camera: Tensor

    def __len__(self) -> int:
        return len(self.warp)


def simulated_images(
    network: Canonicaliser, pool: Pool, count: int, one_kind: float, generator: torch.Generator
) -> Iterator[tuple[Tensor, Sites]]:
    """Images [site, image, pixel] of simulated sites, some sites at a time."""
    for start in range(0, count, _SITES_AT_ONCE):
        sites = draw_sites(network.prior, min(_SITES_AT_ONCE, count - start), generator)
        rows = pool.sets(len(sites), SET_SIZE, one_kind, generator)
        images = pool.images[rows]
        if len(pool.images) < _FEW_IMAGES:
            images = distorted(images, network.side, generator, strength=_LITTLE)
        images = images.unflatten(-1, (network.side, network.side))
        yield simulate(images, sites, generator).flatten(2), sites


@torch.no_grad()
def simulate_sets(
    network: Canonicaliser,
    pool: Pool,
    count: int,
    generator: torch.Generator,
    *,
    one_kind: float = _ONE_KIND,
    bar: tqdm | None = None,
) -> Sets:
    """Simulate `count` sets of SET_SIZE images."""
    kept = network.components.shape[1] + network.pixel_components.shape[1]
    components = torch.empty(count, SET_SIZE, kept, dtype=torch.float16)
    drawn = []
    begin = 0
    for images, sites in simulated_images(network, pool, count, one_kind, generator):
        seen = network.components_of(images.flatten(0, 1))
        components[begin : begin + len(sites)] = seen.unflatten(0, (-1, SET_SIZE))
        drawn.append((sites.warp, sites.shift, sites.camera))
        begin += len(sites)
        if bar is not None:
            bar.update(len(sites))
    return Sets(components, *(torch.cat(parts) for parts in zip(*drawn, strict=True)))


@torch.no_grad()
def fit_basis(
    network: Canonicaliser, images: Tensor, sets: int, generator: torch.Generator
) -> None:
    """Set the principal components from simulated images, and the reference's histogram.

    From as many sets as will be simulated, _BASIS_SETS at most.
    """
    network.reference.copy_(
        torch.bincount((images * 255).round().long().flatten(), minlength=256) / images.numel()
    )
    everything = Pool(images, torch.zeros(len(images), dtype=torch.int64))
    seen = [
        stretched(shown.flatten(0, 1))
        for shown, _ in simulated_images(
            network, everything, min(sets, _BASIS_SETS), 0.0, generator
        )
    ]
    pixels = torch.cat(seen)
    waves = torch.cat([network.wavelets(chunk) for chunk in seen])
    for values, mean, components in (
        (waves, network.mean, network.components),
        (pixels, network.pixel_mean, network.pixel_components),
    ):
        mean.copy_(values.mean(0))
        variance, axes = torch.linalg.eigh(torch.cov(values.double().T))  # ascending
        kept = components.shape[1]
        # In half precision, which is how bundles store matrices.
        components.copy_((axes[:, -kept:] / variance[-kept:].mean().sqrt()).half())


def learn(
    network: Canonicaliser, sets: Sets, steps: int, generator: torch.Generator, bar: tqdm
) -> None:
    """Fit the summary network and the head to the sets, in `steps` steps."""
    trained = [*network.summary_network.parameters(), *network.head.parameters()]
    optimizer = torch.optim.AdamW(trained, _LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, 1e-6)
    fast = cpu_has_bf16()
    lately = 0.0
    for step in range(steps):
        chosen = torch.randint(len(sets), (_SETS_A_STEP,), generator=generator)
        [size] = draw_sizes((SMALLEST, SET_SIZE), 1, generator)
        images = torch.randperm(SET_SIZE, generator=generator)[:size]
        seen = sets.components[chosen[:, None], images]
        with torch.autocast("cpu", torch.bfloat16, enabled=fast):
            features = network.summary_network(seen.bfloat16() if fast else seen.float())
        loss = departure(network, features.float().mean(1), sets, chosen).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, _MOST_GRADIENT)
        optimizer.step()
        schedule.step()
        lately += 0.01 * (float(loss.detach()) - lately)
        if step % 50 == 0:
            bar.set_postfix_str(f"loss {lately:.3f}", refresh=False)
        bar.update()


def departure(network: Canonicaliser, pooled: Tensor, sets: Sets, chosen: Tensor) -> Tensor:
    """The loss of each of the `chosen` sets, [set]; pooled: their mean features."""
    site = network.site(pooled)
    warp = sets.warp[chosen]
    apart = torch.einsum("sij,sj->si", warp, site.shift - sets.shift[chosen])
    total = squared_warp_error(warp, site.warp) + _SHIFT_WEIGHT * apart.square().sum(1)
    if network.prior.has_camera:
        found = torch.cat([site.perspective, site.light], dim=1)
        total = total + (found - sets.camera[chosen]).square().sum(1)
    return (total + _FLOOR).sqrt()


def squared_warp_error(warp: Tensor, inverse: Tensor) -> Tensor:
    """|A B - I|^2, Frobenius: [set, 2, 2] twice -> [set]."""
    return (warp @ inverse - torch.eye(2)).square().sum((1, 2))
