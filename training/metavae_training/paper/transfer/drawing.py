"""The figures of the exam: transfer against the size of the context, and where it fails."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from metavae_training.paper.measure.condition import Condition
from metavae_training.paper.pages.figures import new_figure, quiet_grid, shared_legend
from metavae_training.paper.transfer.rows import (
    ADJUSTED_ROWS,
    ALL,
    CAMERA,
    CNN,
    CNN_FAMILY,
    ORACLE,
    PLAIN,
    Row,
)
from metavae_training.paper.transfer.tables import Found, high, low, mean_of, median
from metavae_training.paper.transfer.wrong import WRONG_SIZE, class_of
from metavae_zoo.embedding.site import UNSURE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = 3
_NONE_AT = 0.55  # where "no context" is drawn on the logarithmic axis
_ERRORS = (0.1, 0.2, 0.5, 1, 2)
_LEAST_ERROR, _LARGEST_ERROR = 0.06, 4
_TICKS = (1, 2, 5, 10, 20, 50, 100)

# Kinds of wrong contexts: letter or marker, colour. Digits are contexts of one class.
_KINDS = {
    "right": ("*", "#0072B2", "right"),
    "neighbour": ("D", "#E69F00", "neighbouring site"),
    "mixed": ("P", "#D55E00", "half another site's"),
    "shuffled": ("s", "#CC79A7", "shuffled pixels"),
    "inverted": ("v", "#56B4E9", "inverted"),
    "foreign": ("^", "#009E73", "other digits"),
    "blank": ("o", "#888888", "blank"),
    "repeated": ("X", "#000000", "one image repeated"),
}


def sizes_figure(found: Found, families: Sequence[str]) -> Figure:
    """A panel per family: the shade is between the 10th and 90th percentile of contexts."""
    figure, panels = _panels(families, 2.75)
    for axes, family in zip(panels, families, strict=False):
        for row in (PLAIN, CNN, CNN_FAMILY, ORACLE):
            _level(axes, found, row, family)
        for row in (ADJUSTED_ROWS[0], ADJUSTED_ROWS[2], CAMERA, ALL):
            _curve(axes, found, row, family)
        axes.set_xscale("log")
        axes.set_xlim(_NONE_AT * 0.85, 120)
        axes.set_xticks([_NONE_AT, *_TICKS], ["none", *map(str, _TICKS)])
        _frame(axes, family)
    _label(panels, "unlabelled images in the context")
    shared_legend(figure, columns=min(3, len(families)) or 1)
    return figure


def _panels(families: Sequence[str], height: float) -> tuple[Figure, list[Axes]]:
    columns = min(_COLUMNS, max(1, len(families)))
    rows = -(-max(1, len(families)) // columns)
    figure = new_figure(1 + 3.1 * columns, 1 + height * rows)
    panels = [axes for line in figure.subplots(rows, columns, squeeze=False) for axes in line]
    for axes in panels[len(families) :]:
        axes.set_visible(False)
    return figure, panels


def _frame(axes: Axes, family: str) -> None:
    """A panel of accuracies against what its logarithmic axis has."""
    axes.minorticks_off()
    axes.set_ylim(0, 1.03)
    axes.set_title(family, loc="left")
    quiet_grid(axes)


def _label(panels: Sequence[Axes], below: str) -> None:
    for axes in panels[::_COLUMNS]:
        axes.set_ylabel("transfer accuracy")
    for axes in panels[-_COLUMNS:]:
        axes.set_xlabel(below)


def _level(axes: Axes, found: Found, row: Row, family: str) -> None:
    """A row without a context: a level line."""
    accuracy = mean_of(found.under(row, family, 0))
    if accuracy is not None:
        style = _style(row)
        axes.axhline(accuracy, linewidth=1.1, zorder=2, **style)


def _curve(axes: Axes, found: Found, row: Row, family: str) -> None:
    sizes = found.sizes(row, family)
    at = {size: found.under(row, family, size) for size in sizes}
    if not any(at.values()):
        return
    main = row in (ALL, CAMERA)
    style = {"marker": row.marker, "markersize": 4, "zorder": 4 if row == ALL else 3} | _style(row)
    if none := at.pop(0, []):
        axes.plot(_NONE_AT, mean_of(none) or 0.0, **style | {"label": None, "linestyle": ""})
    means = [mean_of(items) or 0.0 for items in at.values()]
    axes.plot(list(at), means, linewidth=1.6 if main else 1, **style)
    if main:
        axes.fill_between(
            list(at),
            [low(items) for items in at.values()],
            [high(items) for items in at.values()],
            color=row.colour,
            alpha=0.18,
            linewidth=0,
            label="10th to 90th percentile of contexts" if row == ALL else None,
        )


def _style(row: Row) -> dict[str, Any]:
    style: dict[str, Any] = {"color": row.colour, "label": row.label}
    return style | ({"dashes": row.dashes} if row.dashes else {})


def failures_figure(found: Found, families: Sequence[str]) -> Figure:
    """Accuracy against the stated error: contexts that are wrong or of one class only.

    To the right of the dashed line the client warns: below it on the left are silent failures.
    """
    figure, panels = _panels(families, 2.6)
    kinds = found.kinds(ALL, families)
    for axes, family in zip(panels, families, strict=False):
        for kind in kinds:
            items = found.at(ALL, family, Condition("own", WRONG_SIZE, kind))
            told, accuracy = median(items, "error_90"), mean_of(items)
            if told is not None and accuracy is not None:
                _mark(axes, kind, min(max(told, _LEAST_ERROR), _LARGEST_ERROR), accuracy)
        axes.axvline(UNSURE, color="0.6", linewidth=0.9, dashes=(4, 2), zorder=1)
        axes.text(UNSURE * 1.06, 0.03, "warned", fontsize=7, color="0.45")
        axes.text(UNSURE / 1.06, 0.03, "not warned", fontsize=7, color="0.45", ha="right")
        axes.set_xscale("log")
        axes.set_xlim(_LEAST_ERROR, _LARGEST_ERROR)
        axes.set_xticks(_ERRORS, [f"{error:g}" for error in _ERRORS])
        _frame(axes, family)
    _label(panels, "error stated (90% quantile)")
    panels[0].plot([], [], marker="$7$", linestyle="", color="0.25", label="of one class only")
    shared_legend(figure, columns=min(5, 2 * len(families)) or 1)
    return figure


def _mark(axes: Axes, kind: str, told: float, accuracy: float) -> None:
    if (label := class_of(kind)) is not None:
        axes.plot(told, accuracy, marker=f"${label}$", markersize=6, color="0.25", linestyle="")
        return
    marker, colour, words = _KINDS[kind]
    axes.plot(told, accuracy, marker=marker, color=colour, markersize=6, linestyle="", label=words)
