"""Table 2: accuracy over the contiguous split, beside the paper's, floors and a ceiling."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from metavae_training.paper.aggregate import of_split, over_seeds, with_interval, with_seeds
from metavae_training.paper.ceiling import ceiling_cells
from metavae_training.paper.cells import probe_protocol
from metavae_training.paper.collect import collect, floor_cells, model_cells
from metavae_training.paper.figures import new_figure
from metavae_training.paper.methods import Method, all_methods, models
from metavae_training.paper.report import Report, left_out
from metavae_training.paper.results import Item
from metavae_training.paper.study import Study
from metavae_training.recipes import RECIPES, Recipe
from metavae_zoo import published
from metavae_zoo.markdown import markdown_table
from metavae_zoo.summary import CONTEXT_SIZE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


OWN_CONTEXT = (
    f"A context is {CONTEXT_SIZE} of the images of the same distribution and part, and serves all"
    " images of a draw, those in it included."
)


def table2(study: Study) -> Report:
    """Measure and show every model's mean accuracy over the held-out values of each family."""
    cells = [*model_cells(study), *floor_cells(study), *ceiling_cells(study)]
    collected = collect(study, cells, probe_protocol(study))
    methods = [one for one in all_methods(study.models) if one.of(collected.items)]
    return Report(
        title=f"Table 2: accuracy at the held-out values, {study.splits[0]} split",
        sections=[
            accuracy_table(collected.items, methods, study.families, study.splits[0]),
            protocol_note(study, ceiling=has_ceiling(collected.items)),
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
        columns.append([_cell(method.of(here)) for method in methods])
        paper = [published.table_2(method.model, family, split) for method in methods]
        if any(paper):
            head.append("paper")
            columns.append([f"{number:.3f}" if number else "" for number in paper])
    return markdown_table(head, list(zip(*columns, strict=True)))


def protocol_note(study: Study, *, context: str = OWN_CONTEXT, ceiling: bool = True) -> str:
    """What the accuracies are of; `context` says what contexts are, `ceiling` that there is one."""
    return (
        "Accuracy of a logistic regression that is fitted on the embeddings of"
        f" {study.train_size or 'all'} training images at each held-out value, and tested on those"
        f" of {study.test_size or 'all'} test images there; mean over the held-out values and"
        f" {study.draws} context draw{'s' * (study.draws > 1)} for each training seed."
        f" {context} ±: 95% interval over training seeds (Student's t), whose number is in"
        " brackets."
        f" {_storage(study)}{_closed_form(study)}"
        + " The supervised CNN is taught with the labels of each held-out value itself." * ceiling
        + f"\n\n{_unlike_the_paper(study)}"
    )


def _unlike_the_paper(study: Study) -> str:
    """Where probe and training are not the paper's."""
    recipe = study.recipe("metavae", study.families[0], study.splits[0])
    if recipe is None:
        return ""
    smallest, largest = recipe.context_sizes
    return (
        "Unlike the paper, which draws a context of 10 for each query and lets scikit-learn stop"
        " after 100 iterations: one context serves all queries of a draw, and there are up to 1,000"
        " iterations. MetaVAE and the paper's baselines are trained for"
        f" {recipe.epochs} epochs at a learning rate that falls from {recipe.learning_rate:g}, with"
        f" contexts of {smallest} to {largest} images and a weight of the KL that rises over the"
        f" first {recipe.kl_warm_up_epochs} epochs (paper: 100 epochs at 0.0002, contexts of 10, no"
        " rise)."
        " NS explains the images of its contexts, the others as many queries as a batch has."
    )


def has_ceiling(items: Sequence[Item]) -> bool:
    """Whether a table of these items has a row of the ceiling."""
    return any(item.kind == "ceiling" for item in items)


def _recipes(study: Study) -> Iterator[tuple[str, Recipe]]:
    """The label of every model compared, and one of its recipes."""
    for method in models(study.models):
        of_model = (recipe for recipe in RECIPES.values() if recipe.model == method.model)
        if (first := next(of_model, None)) is not None:
            yield method.label, first


def _storage(study: Study) -> str:
    """How the weights of what is measured are stored."""
    labels: dict[str, list[str]] = defaultdict(list)
    for label, recipe in _recipes(study):
        labels[recipe.weights].append(label)
    stored = "; ".join(f"{weights} for {', '.join(which)}" for weights, which in labels.items())
    return f"Models are measured as they are exported, their weights stored as {stored}."


def _closed_form(study: Study) -> str:
    """Which of the models have one seed alone."""
    labels = ", ".join(label for label, recipe in _recipes(study) if recipe.epochs == 0)
    return f" Fitted in closed form, the same for every seed: {labels}." if labels else ""


def _cell(items: Sequence[Item]) -> str:
    """Such as `0.885 ± 0.003 (3)`; without seeds where nothing is drawn."""
    drawn = any(item.seed is not None for item in items)
    return (with_seeds if drawn else with_interval)(over_seeds(items))


def _has_paper(study: Study) -> bool:
    return any(published.table_2("metavae", name, study.splits[0]) for name in study.families)


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
        axes.xaxis.grid(True, color="0.9", linewidth=0.6)
        axes.set_axisbelow(True)
    panels[0].set_yticks(range(rows), [method.label for method in methods])
    panels[0].set_ylim(max(rows, 1) - 0.5, -0.5)
    legend = {"model": ("o", "full"), "no model": ("o", "none")}
    if _has_paper(study):
        legend["paper"] = ("d", "none")
    for label, (marker, fill) in legend.items():
        panels[-1].plot(
            [], [], marker=marker, fillstyle=fill, color="0.4", linestyle="", label=label
        )
    figure.legend(loc="outside lower right", ncols=len(legend), frameon=False)
    figure.supxlabel("every panel has a range of its own", fontsize=8, x=0.01, ha="left")
    return figure


def _mark(axes: Axes, row: int, method: Method, items: Sequence[Item], paper: float | None) -> None:
    if ours := over_seeds(method.of(items)):
        axes.errorbar(
            ours.mean,
            row,
            xerr=ours.half_width,
            color=method.colour,
            marker="s" if method.kind == "ceiling" else "o",
            fillstyle="full" if method.kind == "model" else "none",
            markersize=5,
            capsize=2.5,
        )
    if paper:
        axes.plot(paper, row, marker="d", color="black", fillstyle="none", markersize=6, zorder=5)
