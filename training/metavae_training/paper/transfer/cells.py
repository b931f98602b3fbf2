"""Cells of the exam: numbers that are measured together, of one row and one family."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from metavae_training.paper.measure.cells import Cell
from metavae_training.paper.measure.condition import NONE, Condition, condition_of
from metavae_training.paper.measure.provenance import bundle_hash
from metavae_training.paper.measure.results import Item, Results
from metavae_training.paper.measure.study import Study
from metavae_training.paper.measure.trained import bundle_of
from metavae_training.paper.transfer.exam import Exam
from metavae_training.paper.transfer.rows import Row
from metavae_training.recipes import Recipe
from metavae_training.sweeps.jobs import Job
from metavae_zoo.bundles.bundle import Bundle
from metavae_zoo.embedding.embedder import OnnxEmbedder
from metavae_zoo.embedding.summary import CONTEXT_SIZE

PROBE = "transfer"
TRAIN_SIZE, TEST_SIZE = 2000, 2000
FEW_TEST = 500  # images that the second and later draws are tested on
FEW_LABELS = (20, 50, 200, 2000)
# Every image under a context of the reference site: what a model does with images as they come.
REFERENCE = Condition("reference", CONTEXT_SIZE)


class Asked(NamedTuple):
    """One number that a cell measures."""

    row: str
    condition: Condition
    value: float
    draw: int = 0
    labels: int | None = None

    @classmethod
    def of(cls, item: Item) -> Asked:
        """The number that an item is."""
        return cls(item.model, condition_of(item), item.value, item.draw, item.labels)


Numbers = dict[Asked, dict[str, float]]  # fields of the item: accuracy, error and its quantiles


def exam_of(study: Study, family: str) -> Exam:
    """The exam of a family, of the study's sizes."""
    return Exam(
        family,
        study.splits[0],
        study.train_size or TRAIN_SIZE,
        study.test_size or TEST_SIZE,
        study.data_root,
    )


def few_labels(study: Study) -> list[int]:
    """Numbers of labels at the reference site that there are images for."""
    return [labels for labels in FEW_LABELS if labels <= (study.train_size or TRAIN_SIZE)]


@dataclass(frozen=True)
class ExamCell(Cell):
    """Numbers of the exam that are measured together; `seed` is the training's."""

    study: Study
    row: Row
    family: str
    seed: int = 0

    def __str__(self) -> str:
        return f"transfer on {self.family}, {self.row.label}, {self.what}, seed {self.seed}"

    @property
    def exam(self) -> Exam:
        """The exam."""
        return exam_of(self.study, self.family)

    @property
    def recipe(self) -> Recipe | None:
        """The recipe of the trained model that is needed, None where none is."""
        return self.row.recipe_of(self.study, self.family)

    @property
    def job(self) -> Job | None:
        """The run that trains it."""
        return self.study.job(self.recipe, self.seed) if self.recipe else None

    @property
    def needs(self) -> str:
        """The row and its numbers; with a model the recipe."""
        return f"{self.recipe.name if self.recipe else self.row.label}, {self.what}"

    @property
    def part(self) -> str:
        """The family."""
        return self.family

    @property
    @abstractmethod
    def what(self) -> str:
        """Which numbers of the row."""

    @property
    def settings(self) -> Recipe | dict[str, Any]:
        """What the numbers depend on beside data and exam."""
        return self.recipe or {"row": self.row.name}

    @property
    def item_seed(self) -> int | None:
        """The seed that items have: None for rows that nothing is drawn for."""
        return self.seed if self.recipe else None

    @abstractmethod
    def asked(self) -> set[Asked]:
        """Every number that the cell measures."""

    @abstractmethod
    def numbers(self, bundle: Bundle | None) -> Numbers:
        """Measure them; `bundle` is of the trained model."""

    def found(self, results: Results) -> list[Item] | None:
        """The items, if all are there and of one bundle."""
        asked = self.asked()
        items = [
            item
            for row in {one.row for one in asked}
            for item in results.select(
                model=row,
                family=self.family,
                split=self.study.splits[0],
                seed=self.item_seed,
                probe=PROBE,
                **self.study.still_good(self.family, self.settings),
            )
            if Asked.of(item) in asked
        ]
        whole = {Asked.of(item) for item in items} == asked
        return items if whole and len({item.bundle_sha256 for item in items}) == 1 else None

    def measure(self) -> list[Item]:
        """Measure all items, in process."""
        bundle = bundle_of(self.job, self.study.data_root) if self.job else None
        made_by = self.study.made_by(self.family, self.settings)
        return [
            Item(
                kind=self.row.kind,
                model=one.row,
                family=self.family,
                split=self.study.splits[0],
                seed=self.item_seed,
                value=one.value,
                probe=PROBE,
                context=one.condition.context,
                test_context=one.condition.test_context,
                context_size=one.condition.size,
                draw=one.draw,
                labels=one.labels,
                bundle_sha256=bundle_hash(bundle.card.digest) if bundle else "",
                **_rounded(found),
                **made_by,
            )
            for one, found in self.numbers(bundle).items()
        ]


def _rounded(found: dict[str, float]) -> dict[str, Any]:
    return {name: round(number, 4) for name, number in found.items()}


def stated(embedder: OnnxEmbedder, site: Sequence[float]) -> dict[str, float]:
    """The quantiles of its error that a model states, by the names of an item's fields."""
    names = [parameter.name for parameter in embedder.card.site]
    return {
        name: float(number)
        for name, number in zip(names, site, strict=True)
        if name in ("error_50", "error_90", "error_95")
    }


def without_context(row: Row, exam: Exam) -> Iterator[Asked]:
    """The numbers of a row that takes no context."""
    return (Asked(row.name, NONE, value) for value in exam.held_out)
