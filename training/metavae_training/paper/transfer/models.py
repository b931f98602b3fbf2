"""Cells of models: under contexts of every size, and under wrong ones."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass

from metavae_training.paper.measure.condition import NONE, Condition
from metavae_training.paper.transfer.cells import (
    FEW_TEST,
    REFERENCE,
    Asked,
    ExamCell,
    Numbers,
    few_labels,
)
from metavae_training.paper.transfer.coding import Embedded, Sitting, fit_in
from metavae_training.paper.transfer.rows import ALL, CAMERA
from metavae_training.paper.transfer.workers import workers
from metavae_training.paper.transfer.wrong import WRONG_SIZE, everything_of, wrong_context
from metavae_zoo.bundles.bundle import Bundle
from metavae_zoo.embedding.embedder import OnnxEmbedder
from metavae_zoo.evaluation.classifiers import Fitted
from metavae_zoo.families import Part

FEW_LABELS_AT = (10, 100)  # context sizes


@dataclass(frozen=True)
class ModelCell(ExamCell):
    """A model under contexts of one size, fitted and tested; size 0: of the reference site."""

    size: int = 0

    @property
    def what(self) -> str:
        """The contexts."""
        return f"context of {self.size or 'none'}"

    @property
    def condition(self) -> Condition:
        """Where contexts come from."""
        if self.row.takes == "nothing":
            return NONE
        return Condition("own", self.size) if self.size else REFERENCE

    @property
    def draws(self) -> int:
        """Contexts of each tested site."""
        return self.study.draws if self.condition.context == "own" else 1

    @property
    def labels(self) -> list[int]:
        """Numbers of labels at one site that are asked as well."""
        of_row = self.row in (ALL, CAMERA) and self.size in FEW_LABELS_AT
        return few_labels(self.study) if of_row else []

    def asked(self) -> set[Asked]:
        """Every held-out site, draw and number of labels."""
        return {
            Asked(self.row.name, self.condition, value, draw, labels)
            for value in self.exam.held_out
            for draw in range(self.draws)
            for labels in (None, *self.labels)
        }

    def numbers(self, bundle: Bundle | None) -> Numbers:
        """Fit once, under contexts of the first draw; test under every draw's.

        The first draw is tested on all test images, the later ones on the first FEW_TEST.
        """
        assert bundle is not None  # noqa: S101 - a row with a recipe
        sitting = Sitting(OnnxEmbedder(bundle, threads=1), self.exam)
        reference = self.exam.reference

        def codes(value: float, part: Part, draw: int) -> Embedded:
            source = reference if self.condition == REFERENCE else value
            summary = sitting.summary(value, part, self.condition, draw, source)
            return sitting.embedded(value, part, summary, FEW_TEST if draw else None)

        with workers() as pool:
            trained = list(pool.map(lambda value: codes(value, "train", 0), self.exam.trained))
            one = trained[self.exam.trained.index(reference)]
            fits: dict[int | None, list[Future[Fitted]]] = {
                None: [fit_in(pool, trained)] * self.draws
            }
            for labels in self.labels:
                few = [self.exam.few(labels, draw) for draw in range(self.draws)]
                fits[labels] = [fit_in(pool, [one.part(rows)]) for rows in few]
            tested = {
                (value, draw): pool.submit(codes, value, "test", draw)
                for draw in range(self.draws)
                for value in self.exam.held_out
            }
            own = self.condition.context == "own"
            return {
                Asked(self.row.name, self.condition, value, draw, labels): {
                    "accuracy": embedded.result().accuracy(of_labels[draw].result()),
                    **(sitting.said(value, embedded.result()) if own and labels is None else {}),
                }
                for labels, of_labels in fits.items()
                for (value, draw), embedded in tested.items()
            }


@dataclass(frozen=True)
class WrongCell(ExamCell):
    """A model under wrong contexts at the tested sites, fitted under right ones."""

    @property
    def what(self) -> str:
        """The contexts."""
        return f"wrong contexts of {WRONG_SIZE}"

    @property
    def draws(self) -> int:
        """Contexts of each kind and site."""
        return min(self.study.draws, 2)

    def asked(self) -> set[Asked]:
        """Every kind, site and draw."""
        everything = everything_of(self.exam, self.draws)
        return {self._asked(kind, value, draw) for kind, value, draw in everything}

    def numbers(self, bundle: Bundle | None) -> Numbers:
        """Fit once under right contexts; every tested site's images are the first FEW_TEST."""
        assert bundle is not None  # noqa: S101 - a row with a recipe
        sitting = Sitting(OnnxEmbedder(bundle, threads=1), self.exam)
        right = Condition("own", WRONG_SIZE)

        def fitted_on(value: float) -> Embedded:
            summary = sitting.summary(value, "train", right, 0, value)
            return sitting.embedded(value, "train", summary)

        def tested(kind: str, value: float, draw: int) -> Embedded:
            context = wrong_context(self.exam, kind, value, draw)
            return sitting.embedded(value, "test", sitting.summarized(context), FEW_TEST)

        with workers() as pool:
            fitted = fit_in(pool, list(pool.map(fitted_on, self.exam.trained)))
            found = {
                (kind, value, draw): pool.submit(tested, kind, value, draw)
                for kind, value, draw in everything_of(self.exam, self.draws)
            }
            return {
                self._asked(kind, value, draw): {
                    "accuracy": one.result().accuracy(fitted.result()),
                    **sitting.said(value, one.result()),
                }
                for (kind, value, draw), one in found.items()
            }

    def _asked(self, kind: str, value: float, draw: int) -> Asked:
        # The right one has a name, too: sizes are compared apart from kinds.
        condition = Condition("own", WRONG_SIZE, kind or "right")
        return Asked(self.row.name, condition, value, draw)
