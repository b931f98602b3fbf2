"""What a probe measures, and the images that it measures on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metavae_client.errors import BadProtocol
from metavae_zoo.families import Family, Part
from metavae_zoo.images import Images

CONTEXTS = 5
CONTEXT_SIZE = 100

_PART_SEED: dict[Part, int] = {"train": 0, "test": 1}


@dataclass(frozen=True)
class Protocol:
    """What is probed and how; everything that a result depends on but the model.

    `train_size` and `test_size` take a seeded subset, the same at every value; None takes all.
    `contexts` is the number of context draws, each of `context_size` images without replacement.
    Raises BadProtocol for a size below 1.
    """

    family: str
    split: str
    train_size: int | None = None
    test_size: int | None = None
    contexts: int = CONTEXTS
    context_size: int = CONTEXT_SIZE
    seed: int = 0
    floors: bool = True

    def __post_init__(self) -> None:
        for option in ("train_size", "test_size", "contexts", "context_size"):
            number = getattr(self, option)
            if number is not None and number < 1:
                raise _bad_size(option, f"is {number}, expected 1 or more")
        if self.seed < 0:
            raise _bad_size("seed", f"is {self.seed}, expected 0 or more")


class Sample:
    """The images and labels that a protocol picks from a family; the same ones at every value.

    `labels` maps a part to labels [image]. Raises BadProtocol for sizes that the data cannot
    give, DataUnavailable.
    """

    def __init__(self, values: Family, protocol: Protocol, data_root: Path | None) -> None:
        self._family = values
        self._protocol = protocol
        self.seed = protocol.seed
        self._data_root = data_root
        self._rows: dict[Part, NDArray[np.intp]] = {}
        self.labels: dict[Part, NDArray[np.int64]] = {}
        for part in _PART_SEED:
            labels = values.labels(part, data_root)
            self._rows[part] = _subset(len(labels), part, protocol)
            self.labels[part] = labels[self._rows[part]]
        if len(np.unique(self.labels["train"])) < 2:
            raise _bad_size(
                "train_size", f"{len(self.labels['train'])} gives images of one class only"
            )

    def at(self, value: float, part: Part) -> Drawn:
        """The distribution at `value`, as this sample sees it."""
        pool = self._family.images(value, part, self._data_root)
        seed = (self._protocol.seed, self._family.values.index(value), _PART_SEED[part])
        return Drawn(pool, self._rows[part], self._protocol.context_size, seed)


@dataclass(frozen=True)
class Drawn:
    """One part of one distribution: the images that are probed, and contexts on demand."""

    pool: Images
    rows: NDArray[np.intp]
    context_size: int
    seed: tuple[int, int, int]

    @property
    def images(self) -> Images:
        """The images that are probed, [image, channel, row, column]."""
        return self.pool[self.rows]

    def context(self, draw: int) -> Images:
        """A context set out of all images of the part; its draw depends on no other draw."""
        rng = np.random.default_rng([*self.seed, draw])
        # Sorted, because the pool is on disk; a context has no order.
        return self.pool[np.sort(rng.choice(len(self.pool), self.context_size, replace=False))]


def _subset(available: int, part: Part, protocol: Protocol) -> NDArray[np.intp]:
    size = {"train": protocol.train_size, "test": protocol.test_size}[part]
    for option, number in ((f"{part}_size", size), ("context_size", protocol.context_size)):
        if number is not None and number > available:
            raise _bad_size(
                option,
                f"is {number}, the {part} part of {protocol.family} has {available} images",
            )
    rng = np.random.default_rng([protocol.seed, _PART_SEED[part]])
    return np.sort(rng.permutation(available)[:size])


def _bad_size(field: str, problem: str) -> BadProtocol:
    option = f"--{field.replace('_', '-')}"
    return BadProtocol(f"{option} {problem}", hint=f"Give another {option}", field=field)
