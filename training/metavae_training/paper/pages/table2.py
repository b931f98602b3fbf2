"""Table 2: accuracy over the contiguous split, beside the paper's, floors and a ceiling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from metavae_training.paper.measure.ceiling import ceiling_cells
from metavae_training.paper.measure.collect import collect
from metavae_training.paper.measure.probed import floor_cells, model_cells
from metavae_training.paper.measure.probing import probe_protocol
from metavae_training.paper.measure.results import Item
from metavae_training.paper.measure.study import PAPERS_MODEL, Study
from metavae_training.paper.pages.aggregate import in_a_table, of_split, over_seeds
from metavae_training.paper.pages.figures import draw_mark, legend_of_rows, method_rows, new_figure
from metavae_training.paper.pages.methods import Method, all_methods
from metavae_training.paper.pages.notes import protocol_note
from metavae_training.paper.pages.report import Report, left_out
from metavae_zoo.evaluation.reporting import published
from metavae_zoo.markdown import markdown_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def table2(study: Study) -> Report:
    """Measure and show every model's mean accuracy over the held-out values of each family."""
    cells = [*model_cells(study), *floor_cells(study), *ceiling_cells(study)]
    collected = collect(study, cells, probe_protocol(study))
    methods = [one for one in all_methods(study.models) if one.of(collected.items)]
    return Report(
        title=f"Table 2: accuracy at the held-out values, {study.splits[0]} split",
        sections=[
            accuracy_table(collected.items, methods, study.families, study.splits[0]),
            protocol_note(study, methods),
            f"Paper: {published.TABLE_2_SOURCE}." if _has_paper(study) else "",
            left_out(collected),
        ],
        draw=lambda: _figure(collected.items, methods, study),
        failed=collected.failed,
    )


def accuracy_table(
    items: Sequence[Item], methods: Sequence[Method], families: Sequence[str], split: str
) -> str:
    """A row per method that has items; a column per family, and the paper's beside it."""
    by_family = {family: of_split(items, family, split) for family in families}
    methods = [one for one in methods if any(one.of(here) for here in by_family.values())]
    head, columns = [""], [[method.label for method in methods]]
    for family, here in by_family.items():
        head.append(family)
        columns.append([in_a_table(method.of(here)) for method in methods])
        paper = [published.table_2(method.model, family, split) for method in methods]
        if any(paper):
            head.append("paper")
            columns.append([f"{number:.3f}" if number else "" for number in paper])
    return markdown_table(head, list(zip(*columns, strict=True)))


def _has_paper(study: Study) -> bool:
    return any(published.table_2(PAPERS_MODEL, name, study.splits[0]) for name in study.families)


def _figure(items: Sequence[Item], methods: Sequence[Method], study: Study) -> Figure:
    """A panel per family, a row per method: ours with its interval, the paper's as a diamond."""
    rows = len(methods)
    figure = new_figure(2.2 + 2.4 * len(study.families), 1.1 + 0.26 * rows)
    panels = figure.subplots(1, len(study.families), sharey=True, squeeze=False)[0]
    for axes, family in zip(panels, study.families, strict=True):
        here = [item for item in items if item.family == family]
        for row, method in enumerate(methods):
            _mark(axes, row, method, here, published.table_2(method.model, family, study.splits[0]))
        axes.set_title(family, loc="left")
        axes.set_xlabel("accuracy")
        method_rows(axes, methods)
    legend_of_rows(figure, {"paper": ("d", "none")} if _has_paper(study) else {})
    return figure


def _mark(axes: Axes, row: int, method: Method, items: Sequence[Item], paper: float | None) -> None:
    if ours := over_seeds(method.of(items)):
        draw_mark(axes, row, method, ours)
    if paper:
        axes.plot(paper, row, marker="d", color="black", fillstyle="none", markersize=6, zorder=5)
