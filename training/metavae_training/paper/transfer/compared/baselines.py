"""Cells of baselines: codes without a context, adjusted by site, and the oracle's."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metavae_training.models.wavelet.distortion import RESCALING
from metavae_training.paper.measure.condition import NONE, Condition
from metavae_training.paper.transfer.cells import Asked, ExamCell, Numbers, without_context
from metavae_training.paper.transfer.coding import (
    Embedded,
    Encode,
    ImagesOf,
    as_they_are,
    fit_in,
    queries_of,
)
from metavae_training.paper.transfer.compared.adjusted import ADJUSTED
from metavae_training.paper.transfer.compared.closed_form import FITTED_IMAGES, ClosedForm
from metavae_training.paper.transfer.exam import Exam
from metavae_training.paper.transfer.rows import ADJUSTED_ROWS
from metavae_training.paper.transfer.undoing import true_site
from metavae_training.paper.transfer.workers import workers
from metavae_training.recipes import RECIPES, Recipe
from metavae_zoo.bundles.bundle import Bundle
from metavae_zoo.evaluation.classifiers import Codes, logistic_regression
from metavae_zoo.families import Part
from metavae_zoo.images import Images

ADJUSTED_SIZES, QUICK_ADJUSTED_SIZES = (2, 5, 10, 20, 50, 100), (10, 100)
_LATENT_DIM = 40

Place = tuple[Part, float, int, int]  # of a context: part, site, size, draw


@dataclass(frozen=True)
class PlainCell(ExamCell):
    """The closed-form code without a context, and adjusted by site in every way."""

    @property
    def what(self) -> str:
        """The row and its adjustments."""
        return "and adjusted by site"

    @property
    def settings(self) -> dict[str, Any]:
        """The closed form's."""
        return {"row": self.row.name, "fitted": FITTED_IMAGES, "rescaling": self.rescaling}

    @property
    def rescaling(self) -> float:
        """As in the recipe of `wavelet-metavae`."""
        return rescaling_of(RECIPES[f"wavelet-metavae-{self.family}-{self.study.splits[0]}"])

    @property
    def sizes(self) -> tuple[int, ...]:
        """Images whose codes the adjustments see."""
        return QUICK_ADJUSTED_SIZES if self.study.quick else ADJUSTED_SIZES

    def asked(self) -> set[Asked]:
        """The plain code once, each adjustment at every size and draw."""
        adjusted = {
            Asked(row.name, Condition("own", size), value, draw)
            for row in ADJUSTED_ROWS
            for size in self.sizes
            for value in self.exam.held_out
            for draw in range(self.study.draws)
        }
        return adjusted | set(without_context(self.row, self.exam))

    def numbers(self, bundle: Bundle | None) -> Numbers:
        """Embed every image once; classifiers are fitted once for each adjustment and size."""
        exam = self.exam
        with workers() as pool:
            code = pool.submit(_closed_form, exam, self.rescaling).result()
            queries = queries_of(pool, exam, code)
            fitted = fit_in(pool, [queries["train", value] for value in exam.trained])
            contexts = {
                place: pool.submit(_context_codes, exam, code, *place) for place in self._contexts()
            }
            found: Numbers = {
                Asked(self.row.name, NONE, value): {
                    "accuracy": queries["test", value].accuracy(fitted.result())
                }
                for value in exam.held_out
            }
            parts = [
                pool.submit(self._adjusted, row.name, size, queries, contexts)
                for row in ADJUSTED_ROWS
                for size in self.sizes
            ]
            for part in parts:
                found |= part.result()
            return found

    def _contexts(self) -> Iterator[Place]:
        for size in self.sizes:
            for value in self.exam.trained:
                yield "train", value, size, 0
            for value in self.exam.held_out:
                for draw in range(self.study.draws):
                    yield "test", value, size, draw

    def _adjusted(
        self,
        name: str,
        size: int,
        queries: dict[tuple[Part, float], Embedded],
        contexts: dict[Place, Future[NDArray[np.float64]]],
    ) -> Numbers:
        exam = self.exam
        of_trained = [contexts["train", value, size, 0].result() for value in exam.trained]
        adjust = ADJUSTED[name](of_trained)
        fitted = logistic_regression(
            np.concatenate(
                [
                    adjust(context, queries["train", value].codes.astype(np.float64))
                    for value, context in zip(exam.trained, of_trained, strict=True)
                ]
            ).astype(np.float32),
            np.concatenate([queries["train", value].labels for value in exam.trained]),
        )
        found: Numbers = {}
        for value in exam.held_out:
            for draw in range(self.study.draws):
                context = contexts["test", value, size, draw].result()
                whole = queries["test", value]
                codes = adjust(context, whole.codes.astype(np.float64)).astype(np.float32)
                here = replace(whole, codes=codes)
                asked = Asked(name, Condition("own", size), value, draw)
                found[asked] = {"accuracy": here.accuracy(fitted)}
        return found


@dataclass(frozen=True)
class CodedCell(ExamCell):
    """Rows without a context: raw pixels, PCA, and the oracle's canonical images."""

    @property
    def what(self) -> str:
        """All there is."""
        return "without a context"

    def asked(self) -> set[Asked]:
        """Every held-out site."""
        return set(without_context(self.row, self.exam))

    @property
    def settings(self) -> dict[str, Any]:
        """The row, and how many images the oracle's code is fitted on."""
        fitted = {"fitted": FITTED_IMAGES} if self.row.kind == "ceiling" else {}
        return {"row": self.row.name, **fitted}

    def numbers(self, bundle: Bundle | None) -> Numbers:
        """Embed, fit, test."""
        exam = self.exam
        with workers() as pool:
            if self.row.kind == "ceiling":
                images = _oracle_images(exam)
                code = pool.submit(_closed_form, exam, rescaling_of(None), images).result()
                queries = queries_of(pool, exam, code, images)
            elif self.row.name == "pca":
                queries = queries_of(pool, exam, pool.submit(_principal_components, exam).result())
            else:
                queries = queries_of(pool, exam, _pixels)
            fitted = fit_in(pool, [queries["train", value] for value in exam.trained]).result()
            return {
                Asked(self.row.name, NONE, value): {
                    "accuracy": queries["test", value].accuracy(fitted)
                }
                for value in exam.held_out
            }


def _closed_form(exam: Exam, rescaling: float, images: ImagesOf = as_they_are) -> ClosedForm:
    """The closed form, fitted on an even share of every training site."""
    each = max(1, FITTED_IMAGES // len(exam.trained))
    taught = np.concatenate([images(exam, value, "train")[:each] for value in exam.trained])
    return ClosedForm(taught, rescaling=rescaling, latent_dim=_LATENT_DIM)


def rescaling_of(recipe: Recipe | None) -> float:
    """How much the closed form's distortions change sizes: the recipe's, or the usual."""
    return (recipe.model_settings if recipe else {}).get("rescaling", RESCALING)


def _context_codes(
    exam: Exam, code: Encode, part: Part, value: float, size: int, draw: int
) -> NDArray[np.float64]:
    rows = exam.context_rows(value, part, size, draw)
    return code(exam.images(value, part, rows)).astype(np.float64)


def _pixels(images: Images) -> Codes:
    return images.reshape(len(images), -1).astype(np.float32) / np.float32(255)


def _principal_components(exam: Exam) -> Encode:
    """The leading principal components of all training images, as of the client's baseline."""
    images = [exam.images(value, "train", exam.rows(value, "train")) for value in exam.trained]
    rows = chain.from_iterable(np.array_split(one, max(1, len(one) // 1000)) for one in images)
    count, total, gram = 0, np.zeros(()), np.zeros(())
    for chunk in rows:
        pixels = chunk.reshape(len(chunk), -1).astype(np.float64)
        count, total, gram = count + len(chunk), total + pixels.sum(0), gram + pixels.T @ pixels
    mean = total / count
    _, vectors = np.linalg.eigh(gram / count - np.outer(mean, mean))
    matrix = vectors[:, : -_LATENT_DIM - 1 : -1].astype(np.float32)
    return lambda images: _pixels(images) @ matrix


def _oracle_images(exam: Exam) -> ImagesOf:
    undoing = {value: true_site(exam.source, value) for value in (*exam.trained, *exam.held_out)}
    return lambda exam, value, part: undoing[value](as_they_are(exam, value, part))
