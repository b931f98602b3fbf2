"""Pictures of a probe, after Fig. 7 of the paper."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from metavae_zoo.bundles.card import Interval
from metavae_zoo.errors import BadFile
from metavae_zoo.evaluation.reporting.result import Measurement, ProbeResult, ValueResult
from metavae_zoo.evaluation.reporting.table import floor_label, protocol_line, title
from metavae_zoo.evaluation.statistics import with_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg", ".pdf")

# Okabe and Ito's colours, which colour-blind readers tell apart; dashes tell them apart in print.
_MODEL = "#0072B2"
_PAPER = "#000000"
_LINE = 110  # characters that fit the figure's width
_FLOOR_STYLES: dict[str, tuple[str, tuple[float, ...]]] = {
    "raw_pixels": ("#D55E00", (6, 2)),
    "pca": ("#009E73", (6, 2, 1, 2)),
    "random_projection": ("#767676", (2, 1.5)),
}


def save_plot(result: ProbeResult, path: Path) -> None:
    """Write the plot to `path`, a .png, .svg or .pdf. Raises BadFile."""
    save_figure(lambda: _draw(result), path, "plot", font_size=9)


def save_figure(
    draw: Callable[[], Figure], path: Path, option: str, *, font_size: float = 10
) -> None:
    """Draw a figure and write it to the `path` that a command's `option` named.

    Two runs write the same bytes. Raises BadFile.
    """
    from matplotlib import rc_context

    check_figure_path(path, option)
    try:
        # No date, no random ids.
        metadata = {".png": None, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
        with rc_context({"font.size": font_size, "svg.hashsalt": "metavae"}):
            draw().savefig(path, metadata=metadata[path.suffix.lower()])
    except OSError as error:
        raise BadFile(
            f"{path} cannot be written ({error.strerror})",
            hint=f"Give another --{option}",
            field=option,
        ) from error


def check_figure_path(path: Path, option: str) -> None:
    """Raise BadFile for a path that `save_figure` could not write, before the work is done."""
    if path.suffix.lower() not in FORMATS:
        raise BadFile(
            f"{path} has no ending of a picture, expected {', '.join(FORMATS)}",
            hint=f"Give a --{option} like sites.png",
            field=option,
        )
    if not path.parent.is_dir():
        raise BadFile(
            f"{path} cannot be written (there is no folder {path.parent})",
            hint=f"Make the folder, or give another --{option}",
            field=option,
        )


@dataclass(frozen=True)
class _Curve:
    """Accuracies over the horizontal axis, and how they look."""

    label: str
    accuracies: list[Interval]
    colour: str
    dashes: tuple[float, ...] = ()  # none: the model's own line

    @property
    def means(self) -> list[float]:
        return [accuracy.mean for accuracy in self.accuracies]

    @property
    def half_widths(self) -> list[float]:
        return [accuracy.half_width or 0.0 for accuracy in self.accuracies]


def _draw(result: ProbeResult) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), dpi=200, layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    (_draw_over_shots if len(result.measurements) > 1 else _draw_over_values)(axes, result)
    axes.set_ylabel(f"accuracy of {result.protocol.title}")
    axes.yaxis.grid(True, color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    heading = title(result)
    axes.set_title(result.name, loc="left", fontsize=10.5, pad=7 + 11 * len(heading))
    axes.text(
        0,
        1.03,
        "\n".join(heading),
        transform=axes.transAxes,
        fontsize=8,
        color="0.3",
    )
    axes.annotate(
        textwrap.fill(protocol_line(result), _LINE),
        (0, 0),
        (0, -36),
        xycoords="axes fraction",
        textcoords="offset points",
        va="top",
        fontsize=7,
        color="0.4",
    )
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.02), frameon=False, fontsize=8)
    return figure


def _draw_over_values(axes: Axes, result: ProbeResult) -> None:
    [measurement] = result.measurements
    values = [value.value for value in measurement.values]
    for curve in _curves(result, measurement.values, measurement):
        _draw_curve(axes, values, curve)
    axes.set_xticks(values, [f"{value:g}" for value in values])
    axes.set_xlabel(f"held-out {result.axis} ({result.unit})")
    if result.paper:
        axes.axhline(
            result.paper.accuracy,
            color=_PAPER,
            linestyle=(0, (1, 2)),
            linewidth=1.2,
            label=f"the paper\nmean {result.paper.accuracy:.3f}",
        )


def _draw_over_shots(axes: Axes, result: ProbeResult) -> None:
    """Means over the held-out values."""
    shots = [float(one.labels_per_class or 0) for one in result.measurements]
    for curve in _curves(result, result.measurements):
        _draw_curve(axes, shots, curve)
    axes.set_xscale("log")
    axes.set_xticks(shots, [f"{number:g}" for number in shots])
    axes.xaxis.minorticks_off()
    axes.set_xlabel(f"labels per class; mean over {len(result.measurements[0].values)} values")


def _curves(
    result: ProbeResult,
    points: Sequence[ValueResult | Measurement],
    mean: Measurement | None = None,
) -> Iterator[_Curve]:
    """The model's curve, then the floors'; `mean` is told in their labels."""
    names = list(points[0].floors)

    def label(name: str, accuracy: Interval | None) -> str:
        return name + (f"\nmean {with_interval(accuracy)}" if accuracy else "")

    yield _Curve(
        label(result.model, mean and mean.accuracy), [one.accuracy for one in points], _MODEL
    )
    for name in names:
        yield _Curve(
            label(floor_label(name, result.latent_dim), mean and mean.floors[name]),
            [one.floors[name] for one in points],
            *_FLOOR_STYLES[name],
        )


def _draw_curve(axes: Axes, places: list[float], curve: _Curve) -> None:
    if curve.dashes:
        style = {"dashes": curve.dashes, "linewidth": 1.4}
    else:
        style = {"marker": "o", "markersize": 4.5, "linewidth": 2, "zorder": 3}
    axes.plot(places, curve.means, color=curve.colour, label=curve.label, **style)
    if not any(curve.half_widths):
        return
    if curve.dashes:  # bars, because several bands would hide each other
        axes.errorbar(
            places,
            curve.means,
            curve.half_widths,
            fmt="none",
            ecolor=curve.colour,
            elinewidth=0.8,
            capsize=2,
        )
        return
    bounds = list(zip(curve.means, curve.half_widths, strict=True))
    axes.fill_between(
        places,
        [mean - half for mean, half in bounds],
        [mean + half for mean, half in bounds],
        color=curve.colour,
        alpha=0.2,
        linewidth=0,
    )
