"""Canonicalisers that were learned, kept in the cache under what they were learned from.

Models of several families that share their reference's images, prior and seed share one. The two
steps, to invert sites and to calibrate, are kept each: a stopped run repeats only its own step.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from tqdm import tqdm

from metavae_training.models.canonical import calibration, inversion
from metavae_training.models.canonical.network import Canonicaliser
from metavae_zoo.files import locked_folder, write_whole
from metavae_zoo.places import cache_folder

logger = logging.getLogger(__name__)

# Raised when the same settings would learn something else.
_INVERSION_VERSION, _CALIBRATION_VERSION = 1, 1
LEAST_IMAGES = 100  # of the reference
_CHOSEN = "table_weight"
_APART = 0.1  # share of the reference's images that only calibrate
_INVERT, _CALIBRATE = 1, 2  # streams of random numbers


@dataclass(frozen=True)
class Schedule:
    """How long a canonicaliser learns: simulated sets, steps, and sets that calibrate it."""

    sets: int = 46_000
    steps: int = 19_000
    calibration_sets: int = 16_000


def learn_canonicaliser(
    network: Canonicaliser, reference: Tensor, schedule: Schedule, seed: int
) -> None:
    """Set the weights of `network` from images of the reference, uint8 [image, pixel].

    What was learned before from the same images, settings and seed is taken from the cache. While
    another process learns it, that is waited for.
    """
    order = torch.randperm(len(reference), generator=_generator(seed, 0))
    images = reference[order]
    apart = max(1, round(_APART * len(images)))
    folder = cache_folder() / "canonicalisers" / _key(network, reference, schedule, seed)
    folder.mkdir(parents=True, exist_ok=True)
    with locked_folder(folder), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inverted = folder / "inverts-sites.safetensors"
        _kept(network, inverted, lambda: _invert(network, images[apart:], schedule, seed))
        made_by = f"{schedule.calibration_sets}-{_CALIBRATION_VERSION}"
        calibrated = folder / f"calibrated-{made_by}.safetensors"
        _kept(network, calibrated, lambda: _calibrate(network, images[:apart], schedule, seed))


def _kept(network: Canonicaliser, path: Path, learn: Callable[[], None]) -> None:
    """Take the weights at `path`, or learn and keep them."""
    try:
        kept = load_file(path)
    except (OSError, SafetensorError):  # none yet, or a damaged file
        kept = {}
    shapes = {name: value.shape for name, value in _learned(network).items()}
    if {name: value.shape for name, value in kept.items()} == shapes:
        network.load_state_dict(kept | {_CHOSEN: network.table_weight})
        return
    learn()
    try:
        write_whole(path, save(_learned(network)))
    except OSError as error:
        logger.warning("the canonicaliser is not cached: %s", error)


def _invert(network: Canonicaliser, images: Tensor, schedule: Schedule, seed: int) -> None:
    generator = _generator(seed, _INVERT)
    for part in (network.summary_network, network.head, network.certainty):
        for layer in part.modules():
            if isinstance(layer, torch.nn.Linear):
                layer.reset_parameters()
    floats = images.float() / 255
    inversion.fit_basis(network, floats, schedule.sets, generator)
    pool = inversion.pool_of(network, floats, seed)
    with _bar("simulate sites", schedule.sets) as bar:
        sets = inversion.simulate_sets(network, pool, schedule.sets, generator, bar=bar)
    with _bar("learn to invert them", schedule.steps) as bar:
        inversion.learn(network, sets, schedule.steps, generator, bar)


def _calibrate(network: Canonicaliser, images: Tensor, schedule: Schedule, seed: int) -> None:
    pool = inversion.pool_of(network, images.float() / 255, seed)
    generator = _generator(seed, _CALIBRATE)
    with _bar("calibrate", calibration.calibration_steps(schedule.calibration_sets)) as bar:
        calibration.calibrate(network, pool, schedule.calibration_sets, generator, bar)


def _key(network: Canonicaliser, reference: Tensor, schedule: Schedule, seed: int) -> str:
    shapes = {name: list(value.shape) for name, value in _learned(network).items()}
    learned = [schedule.sets, schedule.steps, seed]
    made_of = [_INVERSION_VERSION, network.prior.to_dict(), learned, shapes]
    digest = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode())
    digest.update(reference.numpy().tobytes())
    return digest.hexdigest()


def _learned(network: Canonicaliser) -> dict[str, Tensor]:
    """What is learned here: all but the choice of each model on its training sites."""
    return {name: value for name, value in network.state_dict().items() if name != _CHOSEN}


def _generator(seed: int, stream: int) -> torch.Generator:
    return torch.Generator().manual_seed(1_000_003 * seed + stream)


def _bar(does: str, total: int) -> tqdm:
    return tqdm(total=total, desc=does, disable=None, mininterval=0.5)
