"""Contexts that are wrong on purpose, or of few kinds."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from metavae_training.paper.transfer.exam import Exam
from metavae_zoo.families import FAMILIES
from metavae_zoo.images import Images

WRONG_SIZE = 20  # images
_PIXELS = 1  # spawn key of the disorder of pixels

NEIGHBOUR, MIXED, BLANK, SHUFFLED = "neighbour", "mixed", "blank", "shuffled"
FOREIGN, INVERTED, REPEATED = "foreign", "inverted", "repeated"
_OF_CLASS = "class "

WORDS = {
    "": "right: the site's own",
    NEIGHBOUR: "of the neighbouring site",
    MIXED: "half its own, half of another site",
    SHUFFLED: "its own with shuffled pixels",
    INVERTED: "its own, dark and bright exchanged",
    FOREIGN: "scikit-learn's digits under its transform",
    BLANK: "blank images of it",
    REPEATED: "one of its images, repeated",
}


def wrong_kinds(exam: Exam) -> list[str]:
    """The kinds of contexts for a family; "" is the right one."""
    kinds = [kind for kind in WORDS if kind != FOREIGN or _foreign_family(exam) is not None]
    classes = range(exam.source.dataset.classes)
    return [*kinds, *(f"{_OF_CLASS}{label}" for label in classes)]


def words_of(kind: str) -> str:
    """What a kind is, in words."""
    return WORDS.get(kind) or f"its own, all of {kind}"


def class_of(kind: str) -> str | None:
    """The one class that a context is of, or None."""
    return kind.removeprefix(_OF_CLASS) if kind.startswith(_OF_CLASS) else None


def wrong_context(exam: Exam, kind: str, value: float, draw: int) -> Images:
    """A context of this kind for the tested images at a site, uint8 [image, 1, row, column]."""
    size = WRONG_SIZE
    rows = exam.context_rows(value, "test", size, draw)
    own = exam.images(value, "test", rows)
    if kind == NEIGHBOUR:
        return exam.images(_further(exam, value, 1), "test", rows)
    if kind == MIXED:
        other = exam.images(_further(exam, value, len(exam.source.values) // 3), "test", rows)
        return np.concatenate([own[: size // 2], other[size // 2 :]])
    if kind == BLANK:
        side = exam.source.image_shape[-1]
        nothing = np.zeros((size, side, side), np.uint8)
        return exam.source.axis.render(nothing, value, "test", side)[:, None]
    if kind == SHUFFLED:
        return _shuffled(own)
    if kind == FOREIGN:
        return _foreign(exam, value, draw)
    if kind == INVERTED:
        return 255 - own
    if kind == REPEATED:
        return np.repeat(own[:1], size, axis=0)
    if (label := class_of(kind)) is not None:
        return exam.images(value, "test", _rows_of_class(exam, int(label), value, draw))
    return own


def _further(exam: Exam, value: float, steps: int) -> float:
    values = exam.source.values
    return values[(values.index(value) + steps) % len(values)]


def _shuffled(images: Images) -> Images:
    rng = np.random.default_rng(np.random.SeedSequence(0, spawn_key=(_PIXELS,)))
    rows = images.reshape(*images.shape[:2], -1)
    return rows[..., rng.permutation(rows.shape[-1])].reshape(images.shape)


def _foreign_family(exam: Exam) -> str | None:
    """The digits' family of the same transforms, for one of MNIST."""
    data, _, axis = exam.family.partition("-")
    name = f"digits-{axis}"
    return name if data == "mnist" and name in FAMILIES else None


def _foreign(exam: Exam, value: float, draw: int) -> Images:
    name = _foreign_family(exam)
    assert name is not None, "asked for by `wrong_kinds` alone"  # noqa: S101
    images = FAMILIES[name].images(value, "test", exam.data_root)
    rng = exam.rng(value, "test", draw)
    return images[np.sort(rng.choice(len(images), WRONG_SIZE, replace=False))]


def _rows_of_class(exam: Exam, label: int, value: float, draw: int) -> NDArray[np.intp]:
    """Rows of one class that are no queries, or of any where these are too few."""
    apart = exam.apart(value, "test", WRONG_SIZE)
    rows = apart[exam.labels("test", apart) == label]
    if len(rows) < WRONG_SIZE:
        everything = np.arange(len(exam.source.labels("test", exam.data_root)))
        rows = everything[exam.labels("test", everything) == label]
    drawn = exam.rng(value, "test", draw).choice(len(rows), WRONG_SIZE, replace=False)
    return np.sort(rows[drawn])


def everything_of(exam: Exam, draws: int) -> Iterator[tuple[str, float, int]]:
    """Every kind, site and draw."""
    for kind in wrong_kinds(exam):
        for value in exam.held_out:
            for draw in range(draws):
                yield kind, value, draw
