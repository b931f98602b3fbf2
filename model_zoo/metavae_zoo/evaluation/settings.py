"""What a probe measures and how: everything that its result depends on but the model."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from metavae_zoo.embedding.summary import CONTEXT_SIZE
from metavae_zoo.evaluation.baselines import FLOORS
from metavae_zoo.evaluation.contexts import ContextFrom
from metavae_zoo.evaluation.errors import BadSettings
from metavae_zoo.evaluation.protocols import Linear, Protocol
from metavae_zoo.evaluation.sample import Sample
from metavae_zoo.families import Part, family

CONTEXTS = 5


@dataclass(frozen=True)
class ProbeSettings:
    """A family, a split, and how the codes of its held-out values are judged.

    `train_size` and `test_size` take a seeded subset of each value's images; None takes all, or
    what the protocol bounds itself to. `contexts` is the number of context draws, each of
    `context_size` images without replacement; `context_from` says which images, and
    `test_context_from` which they are where classifiers are tested, None for the same. FewShot
    draws a context with each of its label draws instead. `floors` names those that stand beside
    the model. Raises BadSettings for a size below 1 and for an unknown floor.
    """

    family: str
    split: str
    protocol: Protocol = field(default_factory=Linear)
    train_size: int | None = None
    test_size: int | None = None
    contexts: int = CONTEXTS
    context_size: int = CONTEXT_SIZE
    context_from: ContextFrom = "own"
    test_context_from: ContextFrom | None = None
    seed: int = 0
    floors: tuple[str, ...] = FLOORS

    def sample(self, data_root: Path | None = None) -> Sample:
        """The images that the probe works on; raises BadSettings, UnknownName, DataUnavailable."""
        values = family(self.family)
        split = values.split(self.split)
        return Sample(
            values,
            split,
            seed=self.seed,
            train_size=self.train_size,
            test_size=self.test_size,
            context_size=self.context_size,
            most_train_images=self.protocol.most_train_images(split),
            data_root=data_root,
        )

    @property
    def sources(self) -> dict[Part, ContextFrom]:
        """Where the contexts of the images come from that are fitted on, and of those tested."""
        return {"train": self.context_from, "test": self.test_context_from or self.context_from}

    def __post_init__(self) -> None:
        for option in ("train_size", "test_size", "contexts", "context_size"):
            number = getattr(self, option)
            if number is not None and number < 1:
                raise BadSettings.of(option, f"is {number}, expected 1 or more")
        if self.seed < 0:
            raise BadSettings.of("seed", f"is {self.seed}, expected 0 or more")
        for name in self.floors:
            if name not in FLOORS:
                raise BadSettings.of("floor", f"is {name!r}, expected one of {', '.join(FLOORS)}")
