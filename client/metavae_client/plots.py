"""Pictures of a probe, after Fig. 7 of the paper."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from metavae_client.errors import BadFile
from metavae_client.result import FLOORS, ProbeResult
from metavae_client.table import floor_label, protocol_line, with_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg", ".pdf")

# Okabe and Ito's colours, which colour-blind readers tell apart; dashes tell them apart in print.
_MODEL = "#0072B2"
_PAPER = "#000000"
_FLOOR_STYLES: dict[str, tuple[str, tuple[float, ...]]] = {
    "raw_pixels": ("#D55E00", (6, 2)),
    "pca": ("#009E73", (6, 2, 1, 2)),
    "random_projection": ("#767676", (2, 1.5)),
}


def save_plot(result: ProbeResult, path: Path) -> None:
    """Write the plot to `path`, a .png, .svg or .pdf. Raises BadFile."""
    from matplotlib import rc_context

    check_plot_path(path)
    try:
        # No date, no random ids: two runs write the same bytes.
        metadata = {".png": None, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
        with rc_context({"font.size": 9, "svg.hashsalt": "metavae"}):
            _draw(result).savefig(path, metadata=metadata[path.suffix.lower()])
    except OSError as error:
        raise BadFile(
            f"{path} cannot be written ({error.strerror})",
            hint="Give another --plot",
            field="plot",
        ) from error


def check_plot_path(path: Path) -> None:
    """Raise BadFile for a path that `save_plot` could not write, before the work is done."""
    if path.suffix.lower() not in FORMATS:
        raise BadFile(
            f"{path} has no ending of a picture, expected {', '.join(FORMATS)}",
            hint="Give a --plot like probe.png",
            field="plot",
        )
    if not path.parent.is_dir():
        raise BadFile(
            f"{path} cannot be written (there is no folder {path.parent})",
            hint="Make the folder, or give another --plot",
            field="plot",
        )


def _draw(result: ProbeResult) -> Figure:
    from matplotlib.figure import Figure

    values = [value.value for value in result.values]
    figure = Figure(figsize=(6.4, 4.0), dpi=200, layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    _draw_model(axes, result, values)
    _draw_floors(axes, result, values)
    axes.set_xticks(values, [f"{value:g}" for value in values])
    axes.set_xlabel(f"held-out {result.axis} ({result.unit})")
    axes.set_ylabel("accuracy of a linear probe")
    axes.yaxis.grid(True, color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_title(result.name, loc="left", fontsize=10.5, pad=18)
    axes.text(
        0,
        1.03,
        f"linear probe at the held-out values of {result.family}, {result.split} split",
        transform=axes.transAxes,
        fontsize=8,
        color="0.3",
    )
    axes.annotate(
        protocol_line(result),
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


def _draw_model(axes: Axes, result: ProbeResult, values: list[float]) -> None:
    means = [value.accuracy.mean for value in result.values]
    half_widths = [value.accuracy.half_width or 0.0 for value in result.values]
    axes.plot(
        values,
        means,
        color=_MODEL,
        marker="o",
        markersize=4.5,
        linewidth=2,
        label=f"{result.model}\nmean {with_interval(result.accuracy)}",
        zorder=3,
    )
    if any(half_widths):
        bounds = list(zip(means, half_widths, strict=True))
        axes.fill_between(
            values,
            [mean - half for mean, half in bounds],
            [mean + half for mean, half in bounds],
            color=_MODEL,
            alpha=0.2,
            linewidth=0,
        )


def _draw_floors(axes: Axes, result: ProbeResult, values: list[float]) -> None:
    for name in FLOORS:
        if name in result.floors:
            colour, dashes = _FLOOR_STYLES[name]
            axes.plot(
                values,
                [value.floors[name] for value in result.values],
                color=colour,
                dashes=dashes,
                linewidth=1.4,
                label=f"{floor_label(name, result.latent_dim)}\nmean {result.floors[name]:.3f}",
            )
    if result.paper:
        axes.axhline(
            result.paper.accuracy,
            color=_PAPER,
            linestyle=(0, (1, 2)),
            linewidth=1.2,
            label=f"the paper\nmean {result.paper.accuracy:.3f}",
        )
