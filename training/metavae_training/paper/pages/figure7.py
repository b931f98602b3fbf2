"""Figure 7: accuracy against the held-out value, a panel per family and split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from metavae_training.paper.measure.ceiling import ceiling_cells
from metavae_training.paper.measure.collect import collect
from metavae_training.paper.measure.probed import floor_cells, model_cells
from metavae_training.paper.measure.probing import probe_protocol
from metavae_training.paper.measure.results import Item
from metavae_training.paper.measure.study import Study
from metavae_training.paper.pages.aggregate import by_value, of_split
from metavae_training.paper.pages.figures import draw_line, new_figure, quiet_grid, shared_legend
from metavae_training.paper.pages.methods import Method, all_methods
from metavae_training.paper.pages.notes import protocol_note
from metavae_training.paper.pages.report import Report, left_out
from metavae_training.paper.pages.table2 import accuracy_table
from metavae_zoo.families import family as family_named

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def figure7(study: Study) -> Report:
    """Measure and draw every model at every held-out value of every family and split."""
    cells = [*model_cells(study), *floor_cells(study), *ceiling_cells(study)]
    collected = collect(study, cells, probe_protocol(study))
    methods = [one for one in all_methods(study.models) if one.of(collected.items)]
    tables = [
        f"{split.capitalize()} split:\n\n"
        + accuracy_table(collected.items, methods, study.families, split)
        for split in study.splits
    ]
    return Report(
        title="Figure 7: accuracy at every held-out value",
        sections=[
            *tables,
            protocol_note(study, methods),
            _range_note(collected.items, methods, study),
            left_out(collected),
        ],
        draw=lambda: _figure(collected.items, methods, study),
        failed=collected.failed,
    )


def _figure(items: Sequence[Item], methods: Sequence[Method], study: Study) -> Figure:
    rows, columns = len(study.families), len(study.splits)
    figure = new_figure(1 + 3.1 * columns, 1 + 2.2 * rows)
    panels = figure.subplots(rows, columns, squeeze=False, sharey="row")
    for row, family in enumerate(study.families):
        bottom = _bottom(items, methods, study, family)
        for column, split in enumerate(study.splits):
            _panel(panels[row, column], items, methods, family, split, bottom)
        panels[row, 0].set_ylim(bottom=bottom)
        panels[row, 0].set_ylabel("accuracy")
    shared_legend(figure, columns=min(5, len(methods)))
    return figure


def _panel(
    axes: Axes,
    items: Sequence[Item],
    methods: Sequence[Method],
    family: str,
    split: str,
    bottom: float,
) -> None:
    source = family_named(family)
    for method in methods:
        curve = by_value(method.of(of_split(items, family, split)))
        if all(one.mean >= bottom for one in curve.values()):
            draw_line(axes, method, curve)
    axes.set_title(f"{family}, {split}", loc="left")
    axes.set_xlabel(f"held-out {source.axis.name} ({source.axis.unit})")
    quiet_grid(axes)


def _means(items: Sequence[Item], method: Method, study: Study, family: str) -> list[float]:
    """The points of a method's curves, of all splits."""
    curves = [by_value(method.of(of_split(items, family, split))) for split in study.splits]
    return [one.mean for curve in curves for one in curve.values()]


def _bottom(items: Sequence[Item], methods: Sequence[Method], study: Study, family: str) -> float:
    """Where a family's panels end: just below the models; 0 without models."""
    of_models = [
        mean
        for method in methods
        if method.kind == "model"
        for mean in _means(items, method, study, family)
    ]
    lowest = min(of_models, default=0.0)
    return max(0.0, lowest - 0.05 * (1 - lowest))


def _range_note(items: Sequence[Item], methods: Sequence[Method], study: Study) -> str:
    """Whose curves are left out of panels."""
    bottoms = {family: _bottom(items, methods, study, family) for family in study.families}
    below = [
        method.label
        for method in methods
        if any(
            mean < bottom
            for family, bottom in bottoms.items()
            for mean in _means(items, method, study, family)
        )
    ]
    return (
        "The panels of the figure have the range of the models; curves that reach below it are left"
        f" out of them: {', '.join(below)}."
        if below
        else ""
    )
