"""Harder probes than the paper's: one classifier for all values, few labels, nearest neighbours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from metavae_training.paper.measure.collect import collect
from metavae_training.paper.measure.probed import ProbedCell, floor_cells, model_cells
from metavae_training.paper.measure.probing import Probe
from metavae_training.paper.measure.results import Item
from metavae_training.paper.measure.study import Study
from metavae_training.paper.pages.aggregate import in_a_table, over_seeds
from metavae_training.paper.pages.figures import draw_mark, legend_of_rows, method_rows, new_figure
from metavae_training.paper.pages.methods import Method, all_methods
from metavae_training.paper.pages.notes import OWN_CONTEXT, measured_note, unlike_the_paper
from metavae_training.paper.pages.report import Report, left_out
from metavae_zoo.markdown import markdown_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TRANSFER_IMAGES = 60_000  # that the client fits on in all, where no number is given

_TRANSFER = Probe("transfer")
_NEAREST = Probe("knn", neighbours=5)
_SHOTS = (1, 5, 10)
_LABEL_DRAWS, _QUICK_LABEL_DRAWS = 10, 2


class Column(NamedTuple):
    """One number of one probe."""

    label: str
    probe: Probe
    shots: int | None = None

    def of(self, items: Sequence[Item]) -> list[Item]:
        """The items that have it."""
        return [item for item in items if (item.probe, item.shots) == (self.probe.name, self.shots)]


def probes(study: Study) -> Report:
    """Measure and show every model and floor by harder probes."""
    collected = collect(study, list(probe_cells(study)), probes_protocol(study))
    items = collected.items
    methods = [one for one in all_methods(study.models) if one.of(items)]
    tables = [f"{family}:\n\n{_table(items, methods, study, family)}" for family in study.families]
    return Report(
        title=f"Harder probes: accuracy at the held-out values, {study.splits[0]} split",
        sections=[
            *tables,
            measured_note(methods, f"{_what(study)} {OWN_CONTEXT}"),
            unlike_the_paper(study, probe=False),
            left_out(collected),
        ],
        draw=lambda: _figure(items, methods, study),
        failed=collected.failed,
    )


def _few_labels(study: Study) -> Probe:
    draws = _QUICK_LABEL_DRAWS if study.quick else _LABEL_DRAWS
    return Probe("few-shot", shots=_SHOTS, label_draws=draws)


def _columns(study: Study) -> dict[str, list[Column]]:
    """The numbers of each probe, by what it is called."""
    few = _few_labels(study)
    neighbours = f"{_NEAREST.neighbours} nearest neighbours"
    return {
        "transfer": [Column("transfer", _TRANSFER)],
        "few labels": [Column(f"{shots} label{'s' * (shots > 1)}", few, shots) for shots in _SHOTS],
        neighbours: [Column(neighbours, _NEAREST)],
    }


def probe_cells(study: Study) -> Iterator[ProbedCell]:
    """Every model and floor, probe by probe, the quickest first."""
    for probe in (_few_labels(study), _NEAREST, _TRANSFER):
        yield from model_cells(study, probe=probe)
        yield from floor_cells(study, probe)


def probes_protocol(study: Study) -> dict[str, Any]:
    """How the accuracies are measured, as a results file states it."""
    few = _few_labels(study)
    return {
        "probe": "transfer; few-shot; knn",
        "label_draws": few.label_draws,
        "neighbours": _NEAREST.neighbours,
        **study.sizes,
        **study.changes,
    }


def _what(study: Study) -> str:
    few, size = _few_labels(study), study.train_size
    contexts = f"{study.draws} context draw{'s' * (study.draws > 1)}"
    share = f"{TRANSFER_IMAGES:,} training images, or what is there, spread over the"
    if size:
        share = f"{size} training images at each of the"
    return (
        "Mean accuracy over the held-out values and the draws for each training seed. Transfer: one"
        f" logistic regression for all values, fitted on the embeddings of {share} training"
        f" values; {contexts}."
        f" Labels: at each held-out value a logistic regression on so many labelled images of each"
        f" class, out of {size or 'all'} training images; {few.label_draws} draws of labels, each"
        " with a new context. All models, raw pixels and PCA have the same draws of labels, which ±"
        " is not over; the random projection and the untrained encoder have those of their seed."
        f" Neighbours: at each held-out value the majority of the {_NEAREST.neighbours} nearest of"
        f" {size or 'all'} training images, by the Euclidean distance of codes; {contexts}. All are"
        f" tested on {study.test_size or 'all'} test images at each held-out value."
    )


def _table(items: Sequence[Item], methods: Sequence[Method], study: Study, family: str) -> str:
    columns = [column for of_probe in _columns(study).values() for column in of_probe]
    here = [item for item in items if item.family == family]
    rows = [
        [method.label, *(in_a_table(column.of(method.of(here))) for column in columns)]
        for method in methods
    ]
    return markdown_table(["", *(column.label for column in columns)], rows)


def _figure(items: Sequence[Item], methods: Sequence[Method], study: Study) -> Figure:
    """A panel per probe and family, a row per method."""
    columns, families = _columns(study), study.families
    height = 0.6 + 0.21 * len(methods)
    figure = new_figure(2.2 + 2.4 * len(families), 0.5 + height * len(columns))
    panels = figure.subplots(len(columns), len(families), sharey=True, squeeze=False)
    for row, (title, of_probe) in zip(panels, columns.items(), strict=True):
        for axes, family in zip(row, families, strict=True):
            here = [item for item in items if item.family == family]
            _panel(axes, here, methods, of_probe)
            method_rows(axes, methods)
            axes.set_title(f"{family}, {title}", loc="left")
            shots = ", ".join(str(column.shots) for column in of_probe if column.shots)
            axes.set_xlabel("accuracy" + f" with {shots} labels per class" * bool(shots))
    legend_of_rows(figure, {}, "the larger a mark, the more labels")
    return figure


def _panel(
    axes: Axes, items: Sequence[Item], methods: Sequence[Method], columns: Sequence[Column]
) -> None:
    for row, method in enumerate(methods):
        for number, column in enumerate(columns):
            aside = number - (len(columns) - 1) / 2
            if interval := over_seeds(column.of(method.of(items))):
                draw_mark(axes, row + 0.2 * aside, method, interval, size=5 + 1.5 * aside)
