"""Does the context pay? Transfer, see `transfer`; then the paper's probe.

The paper's probe asks the same models under right contexts, wrong ones, and more or fewer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from metavae_training.models import MODELS
from metavae_training.models.canonical.model import CanonicalModel
from metavae_training.paper.measure.collect import collect
from metavae_training.paper.measure.condition import RIGHT, Condition
from metavae_training.paper.measure.probed import ModelCell, model_cells
from metavae_training.paper.measure.probing import probe_protocol
from metavae_training.paper.measure.results import Item
from metavae_training.paper.measure.study import Study
from metavae_training.paper.pages.aggregate import over_seeds, with_seeds
from metavae_training.paper.pages.effects import (
    Question,
    balanced_means,
    of_whole_runs,
    paragraph,
)
from metavae_training.paper.pages.figures import (
    draw_line,
    draw_points,
    new_figure,
    quiet_grid,
    shared_legend,
)
from metavae_training.paper.pages.methods import Method, models
from metavae_training.paper.pages.notes import protocol_note
from metavae_training.paper.pages.report import Report, left_out
from metavae_training.paper.transfer.report import transfer, transfer_study
from metavae_training.paper.transfer.rows import chosen
from metavae_zoo.embedding.summary import CONTEXT_SIZE
from metavae_zoo.evaluation.statistics import interval_over_runs
from metavae_zoo.families import family as family_named
from metavae_zoo.markdown import markdown_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_KINDS = {
    "other": "another distribution's",
    "shuffled": "its own with shuffled pixels",
    "zeros": "a summary of zeros",
}
_BOTH = {
    Condition(kind, 0 if kind == "zeros" else CONTEXT_SIZE): label for kind, label in _KINDS.items()
}
_TEST = {Condition("own", CONTEXT_SIZE, kind): label for kind, label in _KINDS.items()}
_QUESTIONS = (
    Question("in fit and test", _BOTH),
    Question("in the test alone", _TEST),
)
_SIZES = (1, 2, 5, 10, 50, 100, 500)
_QUICK_SIZES = (1, 10, 100)
_CONTEXTS = (
    f"A context is {CONTEXT_SIZE} images, unless another number is given, of the same part of the"
    " data, and serves all images of a draw. Another distribution is that of the value a third of"
    " the family's list of values further on. Shuffled pixels are the right context's, in one"
    " order for all images. A summary of zeros comes from no image, and is not drawn. A classifier"
    " whose train and test images both have a wrong context is fitted under it: a shift that is the"
    " same for all images costs it nothing. Where the test images alone have one, the classifier is"
    " that of the right context."
)


def context(study: Study) -> Iterator[tuple[Study, Report]]:
    """The reports of both parts, transfer first; a part that nothing is chosen for is left out.

    Where nothing is measured a part is drawn up that has results; without any, BadResults is
    raised. Models of other settings than the recipes' are not asked to transfer.
    """
    of_transfer = transfer_study(study)
    linear = replace(
        study,
        models=tuple(name for name in study.models if _is_probed(name)),
        families=tuple(name for name in study.families if family_named(name).axis.name != "site"),
    )
    drawn, probed = (
        study.measure or (study.out / f"{part.name}.json").exists()
        for part in (of_transfer, linear)
    )
    if drawn and chosen(of_transfer) and not study.settings:
        yield of_transfer, transfer(of_transfer)
    if (probed or not drawn) and linear.models and linear.families:
        yield linear, right_and_wrong(linear)


def _is_probed(name: str) -> bool:
    """Whether the paper's probe asks a row: a model, and none that transfer asks alone."""
    return name in MODELS and not issubclass(MODELS[name], CanonicalModel)


def right_and_wrong(study: Study) -> Report:
    """Measure and show what contexts of other kinds and sizes do to the accuracy.

    Models that take no context are left out before anything is trained.
    """
    taking, without = (
        tuple(name for name in study.models if MODELS[name].takes_context() is takes)
        for takes in (True, False)
    )
    study = replace(study, models=taking)
    named = ", ".join(method.label for method in models(without))
    collected = collect(study, list(_cells(study)), probe_protocol(study))
    methods = [one for one in models(study.models) if one.of(collected.items)]
    # Each compares contexts on the same models: a run may have all kinds and not yet all sizes.
    kinds, sizes = (
        [
            item
            for method in methods
            for item in of_whole_runs(method.of(collected.items), conditions)
        ]
        for conditions in ([RIGHT, *_BOTH, *_TEST], _own(study))
    )
    return Report(
        title=f"Does the context matter? Accuracy at the held-out values, {study.splits[0]} split",
        sections=[
            paragraph(kinds, sizes, methods, study.families, RIGHT, _QUESTIONS, _own(study)),
            _kinds_table(kinds, methods, study.families),
            _sizes_table(sizes, methods, study),
            protocol_note(study, methods, context=_CONTEXTS),
            f"No context, and so neither trained nor shown: {named}." if without else "",
            left_out(collected),
        ],
        draw=lambda: _figure(kinds, sizes, methods, study),
        failed=collected.failed,
    )


def _own(study: Study) -> list[Condition]:
    return [Condition("own", size) for size in (_QUICK_SIZES if study.quick else _SIZES)]


def _cells(study: Study) -> Iterator[ModelCell]:
    """Every model under every condition, the right context first."""
    for condition in dict.fromkeys([RIGHT, *_BOTH, *_TEST, *_own(study)]):
        yield from model_cells(study, condition)


def _kinds_table(items: Sequence[Item], methods: Sequence[Method], families: Sequence[str]) -> str:
    own = "its own distribution's"
    labels = {RIGHT: (own, own)}
    labels |= {condition: (label, label) for condition, label in _BOTH.items()}
    labels |= {condition: (own, label) for condition, label in _TEST.items()}
    rows = []
    for method in methods:
        for condition, (fitted, tested) in labels.items():
            here = condition.of(method.of(items))
            by_family = [[item for item in here if item.family == family] for family in families]
            numbers = [with_seeds(over_seeds(one)) for one in by_family]
            rows.append([method.label, fitted, tested, *numbers])
    return markdown_table(["", "context in the fit", "in the test", *families], rows)


def _sizes_table(items: Sequence[Item], methods: Sequence[Method], study: Study) -> str:
    conditions = _own(study)
    rows = []
    for method in methods:
        means = [balanced_means(one.of(method.of(items)), study.families) for one in conditions]
        cells = [with_seeds(interval_over_runs(one) if one else None) for one in means]
        rows.append([method.label, *cells])
    sizes = [str(condition.size) for condition in conditions]
    table = markdown_table(["images in the context", *sizes], rows)
    return f"Mean over the families, against the size of the right context:\n\n{table}"


def _figure(
    kinds: Sequence[Item], sizes: Sequence[Item], methods: Sequence[Method], study: Study
) -> Figure:
    """Accuracy against the size of the right context; below, under right and wrong contexts.

    The last row, where test images alone have wrong ones, has a range of its own.
    """
    columns = len(study.families)
    figure = new_figure(1 + 3.1 * columns, 8.2)
    panels = figure.subplots(3, columns, squeeze=False)
    for column, family in enumerate(study.families):
        here = [item for item in kinds if item.family == family]
        of_sizes = [item for item in sizes if item.family == family]
        panels[1, column].sharey(panels[0, column])
        _draw_sizes(panels[0, column], of_sizes, methods, _own(study))
        _draw_kinds(panels[1, column], here, methods, [RIGHT, *_BOTH], "context in fit and test")
        _draw_kinds(panels[2, column], here, methods, [RIGHT, *_TEST], "context in the test alone")
        panels[0, column].set_title(family, loc="left")
    for row in panels:
        row[0].set_ylabel("accuracy")
    shared_legend(figure, columns=len(methods) or 1)
    return figure


def _draw_sizes(
    axes: Axes, items: Sequence[Item], methods: Sequence[Method], conditions: Sequence[Condition]
) -> None:
    for method in methods:
        at = {one.size: over_seeds(one.of(method.of(items))) for one in conditions}
        draw_line(axes, method, {size: one for size, one in at.items() if one})
    axes.set_xscale("log")
    axes.set_xticks([one.size for one in conditions], [str(one.size) for one in conditions])
    axes.minorticks_off()
    axes.set_xlabel("images in the context")
    quiet_grid(axes)


def _draw_kinds(
    axes: Axes,
    items: Sequence[Item],
    methods: Sequence[Method],
    kinds: Sequence[Condition],
    label: str,
) -> None:
    for row, method in enumerate(methods):
        aside = 0.1 * (row - (len(methods) - 1) / 2)
        at = [over_seeds(kind.of(method.of(items))) for kind in kinds]
        draw_points(axes, method, {x + aside: one for x, one in enumerate(at) if one})
    axes.set_xticks(range(len(kinds)), [kind.test_context or kind.context for kind in kinds])
    axes.set_xlim(-0.5, len(kinds) - 0.5)
    axes.set_xlabel(label)
    quiet_grid(axes)
