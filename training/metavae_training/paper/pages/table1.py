"""Table 1: how far the code of a digit moves when the digit is transformed.

As published, and divided by the spread of the codes: whoever shrinks all codes wins the raw
numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from metavae_training.paper.measure.collect import collect
from metavae_training.paper.measure.distances import DistanceCell
from metavae_training.paper.measure.probed import model_cells
from metavae_training.paper.measure.results import Item
from metavae_training.paper.measure.study import Study
from metavae_training.paper.pages.aggregate import over_seeds, with_seeds
from metavae_training.paper.pages.figures import new_figure
from metavae_training.paper.pages.methods import Method, models
from metavae_training.paper.pages.notes import INTERVALS, unlike_the_paper
from metavae_training.paper.pages.report import Report, left_out
from metavae_zoo.bundles.card import Interval
from metavae_zoo.embedding.summary import CONTEXT_SIZE
from metavae_zoo.evaluation.reporting import published
from metavae_zoo.markdown import markdown_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANELS_IN_A_ROW = 4  # more cannot be read on a printed page


def table1(study: Study) -> Report:
    """Measure and show the distances of every model whose recipes are all trained."""
    split = study.splits[0]
    collected = collect(study, distance_cells(study), distance_protocol(study))
    items = [item for item in collected.items if item.split == split]
    methods = [one for one in models(study.models) if _is_whole(one.of(items), study.families)]
    return Report(
        title=f"Table 1: distances between codes, {split} split",
        sections=[
            _table(items, methods, study, relative=False),
            _table(items, methods, study, relative=True),
            _note(study),
            left_out(collected),
        ],
        draw=lambda: _figure(items, methods, study),
        failed=collected.failed,
    )


def distance_cells(study: Study) -> list[DistanceCell]:
    """Every model over every family, each along all families."""
    return [
        DistanceCell(study, cell.recipe, cell.seed, varied)
        for cell in model_cells(study)
        for varied in study.families
    ]


def distance_protocol(study: Study) -> dict[str, Any]:
    """How distances are measured, as a results file states it."""
    distance = "L2 between posterior means of test images"
    return {"distance": distance, "test_size": study.sizes["test_size"], **study.changes}


def _is_whole(items: Sequence[Item], families: Sequence[str]) -> bool:
    return {(item.family, item.varied) for item in items} == {
        (trained, varied) for trained in families for varied in families
    }


def _number(item: Item, relative: bool) -> float:
    assert item.distance is not None  # noqa: S101 - of every distance cell
    assert item.spread is not None  # noqa: S101
    return item.distance / item.spread if relative else item.distance


def _interval(items: Sequence[Item], trained: str, varied: str, relative: bool) -> Interval | None:
    here = [item for item in items if (item.family, item.varied) == (trained, varied)]
    return over_seeds(here, lambda item: _number(item, relative))


def _table(items: Sequence[Item], methods: Sequence[Method], study: Study, relative: bool) -> str:
    """A row per model and family trained on, a column per family varied; the paper's beside it."""
    families = study.families
    head = ["divided by the spread" if relative else "L2 distance", "trained on", *families]
    rows = []
    for method in methods:
        for trained in families:
            cells = [
                with_seeds(_interval(method.of(items), trained, varied, relative), digits=2)
                for varied in families
            ]
            rows.append([method.label, trained, *cells])
            paper = [_paper(method, study, trained, varied) for varied in families]
            if any(paper) and not relative:
                rows.append(
                    ["paper", trained, *(f"{number:.2f}" if number else "" for number in paper)]
                )
    return markdown_table(head, rows)


def _note(study: Study) -> str:
    return (
        "Mean L2 distance between the codes (posterior means) of a test image as it is and of its"
        f" transformed versions, over {study.sizes['test_size']} test images, all values of the"
        f" varied family but the identity, and {study.draws} context draw{'s' * (study.draws > 1)}."
        f" Each distribution has a context of its own, of {CONTEXT_SIZE} images."
        " The spread of a model's codes is the root mean squared L2 distance between the codes of"
        " two different untransformed images, sqrt(2 Σ_k var z_k): a little more than their mean"
        " distance. Rows: the family trained on;"
        f" columns: the family varied. {INTERVALS} Paper: {published.TABLE_1_SOURCE}."
        f"\n\n{unlike_the_paper(study, probe=False)}"
    )


def _figure(items: Sequence[Item], methods: Sequence[Method], study: Study) -> Figure:
    """A matrix per model and measure, its numbers written in, and the paper's below them."""
    families = study.families
    columns = min(_PANELS_IN_A_ROW, max(1, len(methods)))
    rows = max(1, math.ceil(len(methods) / columns))
    figure = new_figure(1.2 + 2.1 * columns, 0.3 + 2.5 * 2 * rows)
    panels = figure.subplots(2 * rows, columns, squeeze=False)
    short = [name.split("-", 1)[1] for name in families]
    for relative, block in ((False, panels[:rows]), (True, panels[rows:])):
        matrices = [_matrix(method.of(items), families, relative) for method in methods]
        # Of all models, which can then be compared; pale enough for the numbers on it.
        darkest = 2.2 * max((float(np.nanmax(matrix)) for matrix in matrices), default=0.0)
        for axes, method, matrix in zip(block.flat, methods, matrices, strict=False):
            _draw_matrix(axes, matrix, darkest)
            if not relative:
                for (x, y), number in _published(method, study).items():
                    axes.text(x, y + 0.32, f"({number:.2f})", ha="center", va="center", fontsize=7)
            axes.set_title(method.label, loc="left")
            axes.set_xticks(range(len(families)), short, rotation=30)
            axes.set_yticks(range(len(families)), short if axes in block[:, 0] else [])
        for axes in block.flat[len(methods) :]:
            axes.set_axis_off()
        for axes in block[:, 0]:
            measure = "divided by the spread" if relative else "L2 distance"
            axes.set_ylabel(f"{measure}\ntrained on")
    has_paper = any(_published(method, study) for method in methods)
    figure.supxlabel("varied" + "; in brackets: the paper's distance" * has_paper, fontsize=9)
    return figure


def _matrix(items: Sequence[Item], families: Sequence[str], relative: bool) -> NDArray[np.float64]:
    """Means: a row per family trained on, a column per family varied."""

    def mean(trained: str, varied: str) -> float:
        interval = _interval(items, trained, varied, relative)
        return interval.mean if interval else float("nan")

    return np.array([[mean(trained, varied) for varied in families] for trained in families])


def _published(method: Method, study: Study) -> dict[tuple[int, int], float]:
    """The paper's distances, by their column and row of the matrix."""
    return {
        (x, y): number
        for y, trained in enumerate(study.families)
        for x, varied in enumerate(study.families)
        if (number := _paper(method, study, trained, varied))
    }


def _paper(method: Method, study: Study, trained: str, varied: str) -> float | None:
    return published.table_1(method.model, trained, varied, study.splits[0])


def _draw_matrix(axes: Axes, matrix: NDArray[np.float64], darkest: float) -> None:
    axes.imshow(matrix, cmap="Greys", vmin=0, vmax=darkest)
    for (y, x), number in np.ndenumerate(matrix):
        axes.text(x, y, f"{number:.2f}", ha="center", va="center")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
