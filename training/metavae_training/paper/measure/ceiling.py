"""The ceiling: a small convolutional network taught with all labels of one held-out value.

No embedding that has not seen the value's labels is expected above it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from metavae_training.paper.measure.cells import Cell, complete
from metavae_training.paper.measure.results import Item, Results
from metavae_training.paper.measure.study import Study
from metavae_training.trainer.device import choose_device, memory_errors
from metavae_zoo.families import Part, family

CEILING = "cnn"

Augment = Callable[[Tensor, torch.Generator], Tensor]  # images [n, C, H, W] of 0-1 -> the same

_QUICK_STEPS = 60
_EVALUATED = 1000  # images at a time


@dataclass(frozen=True)
class Ceiling:
    """How the network is trained: Adam, its rate falling by half a cosine, without augmentation.

    2,400 steps of 100 are four passes over MNIST.
    """

    channels: tuple[int, int] = (16, 32)
    hidden: int = 128
    steps: int = 2400
    batch_size: int = 100
    learning_rate: float = 2e-3


@dataclass(frozen=True)
class CeilingCell(Cell):
    """The network's accuracy at one value; the same for every split that holds it out."""

    study: Study
    family: str
    value: float
    seed: int

    def __str__(self) -> str:
        return f"ceiling of {self.family} at {self.value:g}, seed {self.seed}"

    @property
    def needs(self) -> str:
        """The network, whatever the value."""
        return f"supervised CNN on {self.family}"

    @property
    def part(self) -> str:
        """The value."""
        return f"{self.value:g}"

    @property
    def settings(self) -> Ceiling:
        """How the network is trained."""
        return Ceiling(steps=_QUICK_STEPS) if self.study.quick else Ceiling()

    def found(self, results: Results) -> list[Item] | None:
        """The accuracy, if it is there."""
        items = results.select(
            kind="ceiling",
            family=self.family,
            value=self.value,
            seed=self.seed,
            **self.study.still_good(self.family, asdict(self.settings)),
        )
        return complete(items, [self.value], 1)

    def ready(self, study: Study) -> bool:
        """Whether the study trains: measuring it is training it."""
        return study.train

    def measure(self) -> list[Item]:
        """Train the network on the value's training images, and test it on its test images."""
        device = choose_device(self.study.device)
        hint = "Give --device cpu, or wait until others have left the device"
        with memory_errors(self, device, hint):
            accuracy = supervised_accuracy(
                self._part("train"),
                self._part("test"),
                self.settings,
                seed=self.seed,
                device=device,
            )
        return [
            Item(
                kind="ceiling",
                model=CEILING,
                family=self.family,
                split="",
                seed=self.seed,
                value=self.value,
                accuracy=accuracy,
                bundle_sha256="",
                **self.study.made_by(self.family, asdict(self.settings)),
            )
        ]

    def _part(self, part: Part) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        source, root = family(self.family), self.study.data_root
        size = {"train": self.study.train_size, "test": self.study.test_size}[part]
        labels = source.labels(part, root)
        rows = np.sort(np.random.default_rng(0).permutation(len(labels))[:size])
        return source.images(self.value, part, root)[rows], labels[rows]


def ceiling_cells(study: Study) -> Iterator[CeilingCell]:
    """Every value that one of the study's splits holds out, seed by seed."""
    if not study.has_references:
        return
    for seed in range(study.seeds):
        for name in study.families:
            splits = map(family(name).split, study.splits)
            for value in sorted({value for split in splits for value in split.held_out_values}):
                yield CeilingCell(study, name, value, seed)


def supervised_accuracy(
    train: tuple[NDArray[np.uint8], NDArray[np.int64]],
    test: tuple[NDArray[np.uint8], NDArray[np.int64]],
    settings: Ceiling,
    *,
    seed: int,
    device: torch.device,
) -> float:
    """Test accuracy of the network after training; images [N, C, H, W] and their labels [N]."""
    network = trained_network(train, settings, seed=seed, device=device)
    return accuracy_of(network, *test, device)


def trained_network(
    train: tuple[NDArray[np.uint8], NDArray[np.int64]],
    settings: Ceiling,
    *,
    seed: int,
    device: torch.device,
    augment: Augment | None = None,
) -> nn.Module:
    """The network after training, each batch changed by `augment`; images [N, C, H, W], labels."""
    images, labels = (torch.tensor(array, device=device) for array in train)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _network(settings, tuple(images.shape[1:])).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)
    for rows in _batches(len(images), settings, generator):
        rows = rows.to(device)
        optimizer.zero_grad(set_to_none=True)
        x = _pixels(images[rows])
        x = x if augment is None else augment(x, generator)
        F.cross_entropy(network(x), labels[rows]).backward()
        optimizer.step()
        schedule.step()
    return network


def _network(settings: Ceiling, shape: tuple[int, ...]) -> nn.Sequential:
    channels, height, width = shape
    first, second = settings.channels
    return nn.Sequential(
        nn.Conv2d(channels, first, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(first, second, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(second * (height // 4) * (width // 4), settings.hidden),
        nn.ReLU(),
        nn.Linear(settings.hidden, 10),
    )


def _batches(count: int, settings: Ceiling, generator: torch.Generator) -> Iterator[Tensor]:
    """Rows of each step: passes over all images, each in an order of its own."""
    left = torch.empty(0, dtype=torch.int64)
    for _ in range(settings.steps):
        while len(left) < settings.batch_size:
            left = torch.cat([left, torch.randperm(count, generator=generator)])
        yield left[: settings.batch_size]
        left = left[settings.batch_size :]


@torch.no_grad()
def accuracy_of(
    network: nn.Module, images: NDArray[np.uint8], labels: NDArray[np.int64], device: torch.device
) -> float:
    """The share of images [N, C, H, W] that the network gives their own labels."""
    correct = 0
    for start in range(0, len(images), _EVALUATED):
        rows = slice(start, start + _EVALUATED)
        pixels = _pixels(torch.tensor(images[rows], device=device))
        correct += int((network(pixels).argmax(-1).cpu() == torch.from_numpy(labels[rows])).sum())
    return correct / len(images)


def _pixels(images: Tensor) -> Tensor:
    return images.float() / 255
