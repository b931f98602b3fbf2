"""What the figures share: a quiet frame, and lines that are told apart without colour."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

from metavae_training.paper.pages.methods import Method
from metavae_zoo.bundles.card import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "metavae",  # in place of random ids: the same items give the same bytes
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.fontsize": 8,
}


def drawings(draw: Callable[[], Figure]) -> dict[str, bytes]:
    """A figure as the files of its formats, without dates."""
    from matplotlib import rc_context

    files = {}
    with rc_context(_STYLE):
        figure = draw()
        for suffix, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
            with BytesIO() as file:
                figure.savefig(file, format=suffix, metadata=metadata)
                files[suffix] = file.getvalue()
    return files


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=200, layout="constrained")


def draw_line(axes: Axes, method: Method, intervals: Mapping[float, Interval]) -> None:
    """A method's mean accuracies with a band of their intervals; a thin line for no model."""
    if not intervals:
        return
    is_model = method.kind == "model"
    style: dict[str, Any] = {
        "color": method.colour,
        "marker": method.marker,
        "markersize": 4.5 if is_model else 4,
        "linewidth": 1.6 if is_model else 0.9,
        "zorder": 3 if is_model else 2,
        "label": method.label,
    }
    if method.dashes:
        style["dashes"] = method.dashes
    values = list(intervals)
    axes.plot(values, [one.mean for one in intervals.values()], **style)
    if is_model:
        axes.fill_between(
            values,
            [max(0, one.mean - (one.half_width or 0)) for one in intervals.values()],
            [min(1, one.mean + (one.half_width or 0)) for one in intervals.values()],
            color=method.colour,
            alpha=0.18,
            linewidth=0,
        )


def draw_points(axes: Axes, method: Method, intervals: Mapping[float, Interval]) -> None:
    """A method's means with bars of their intervals, for places that have no order."""
    axes.errorbar(
        list(intervals),
        [one.mean for one in intervals.values()],
        yerr=[one.half_width or 0 for one in intervals.values()],  # no bar of one seed alone
        color=method.colour,
        marker=method.marker,
        markersize=4.5,
        linestyle="",
        capsize=2,
        linewidth=1.2,
    )


def draw_mark(axes: Axes, row: float, method: Method, interval: Interval, size: float = 5) -> None:
    """A method's mean accuracy with its interval in a row of its own, full for models alone."""
    axes.errorbar(
        interval.mean,
        row,
        xerr=interval.half_width,
        color=method.colour,
        marker="s" if method.kind == "ceiling" else "o",
        fillstyle="full" if method.kind == "model" else "none",
        markersize=size,
        capsize=2.5,
    )


def method_rows(axes: Axes, methods: Sequence[Method]) -> None:
    """Rows of methods, the first above, over pale vertical lines."""
    axes.set_yticks(range(len(methods)), [method.label for method in methods])
    axes.set_ylim(max(len(methods), 1) - 0.5, -0.5)
    axes.xaxis.grid(True, color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)


def legend_of_rows(figure: Figure, more: Mapping[str, tuple[str, str]], *notes: str) -> None:
    """What the marks of rows are, with `more` markers and fills; each panel has its own range."""
    axes = figure.axes[-1]
    legend = {"model": ("o", "full"), "no model": ("o", "none"), **more}
    for label, (marker, fill) in legend.items():
        axes.plot([], [], marker=marker, fillstyle=fill, color="0.4", linestyle="", label=label)
    figure.legend(loc="outside lower right", ncols=len(legend), frameon=False)
    note = "\n".join(["every panel has a range of its own", *notes])
    figure.supxlabel(note, fontsize=8, x=0.01, ha="left")


def quiet_grid(axes: Axes) -> None:
    """Pale horizontal lines behind everything."""
    axes.yaxis.grid(True, color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)


def shared_legend(figure: Figure, columns: int) -> None:
    """One legend below all panels, with every label once."""
    handles = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if handles:
        figure.legend(
            handles.values(),
            handles.keys(),
            loc="outside lower center",
            ncols=columns,
            frameon=False,
            handlelength=3.2,
        )
