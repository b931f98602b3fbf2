"""The contexts that a model is measured under: right ones, or wrong ones on purpose."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from metavae_training.paper.measure.results import Item
from metavae_zoo.embedding.summary import CONTEXT_SIZE

_NOT_DRAWN = {"none", "zeros"}


class Condition(NamedTuple):
    """Where contexts come from, and how many images they have.

    `test_context` is where those of the tested images come from, None for the same; `context` is
    then of the images that classifiers are fitted on.
    """

    context: str
    size: int
    test_context: str | None = None

    def __str__(self) -> str:
        """Such as `own 100`, `zeros` or `own 100 tested under other`."""
        tested = f"tested under {self.test_context}" if self.test_context else ""
        return " ".join(filter(None, [self.context, str(self.size or ""), tested]))

    @property
    def drawn(self) -> bool:
        """Whether one draw differs from the next."""
        return not {self.context, self.test_context or self.context} <= _NOT_DRAWN

    def of(self, items: Iterable[Item]) -> list[Item]:
        """Items that were measured under these contexts."""
        return [item for item in items if condition_of(item) == self]


RIGHT = Condition("own", CONTEXT_SIZE)
NONE = Condition("none", 0)  # of models that take no context


def condition_of(item: Item) -> Condition:
    """The contexts that an item was measured under."""
    return Condition(item.context, item.context_size, item.test_context)
