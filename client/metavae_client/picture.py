"""The picture of `metavae-client sites`: unseen sites as they come and as the model sees them."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from metavae_client.sites import SHOWN, SiteResult, SitesResult, evenly_spaced
from metavae_zoo.embedding.site import describe
from metavae_zoo.evaluation.reporting.plots import save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROWS = 6  # sites, where nobody gives another number

_DPI = 224
# Inches. An image of 28 pixels has three dots a pixel.
_IMAGE = 0.375
_GAP = _IMAGE / 14  # between images
_BLOCK = SHOWN * _IMAGE + (SHOWN - 1) * _GAP
_LEFT, _RIGHT, _TOP, _BOTTOM = 0.35, 0.35, 1.6, 0.72
_COLUMN = 0.44  # between blocks
_ROW = 0.83
_NUMBER = 0.74  # from one accuracy to the other
_CONTEXT_COLUMNS = 5
_CAPTION = 170  # characters of a line of 8 points
_NOTE = 165  # characters of a line of 7.5 points

_WITH = "#0072B2"  # Okabe and Ito's blue
_WITHOUT = "#6E6E6E"
_INK, _QUIET = "#1A1A1A", "#5A5A5A"

_SMALL_NUMBERS = "no,one,two,three,four,five,six,seven,eight,nine,ten,eleven,twelve"


def save_picture(result: SitesResult, path: Path, rows: int = ROWS) -> None:
    """Write the picture to `path`, a .png, .svg or .pdf, with `rows` of the sites.

    Raises BadFile.
    """
    save_figure(lambda: _draw(result, evenly_spaced(result.sites, rows)), path, "picture")


def headline(result: SitesResult) -> tuple[str, str, str, str, str]:
    """The result as one sentence, in five parts; the second and fourth are the accuracies."""
    run = result.with_context
    without, with_context = (short(one.mean) for one in result.means)
    fitted, size = len(run.train_values), run.context_size
    return (
        f"A classifier fitted at {in_words(fitted)} site{'s' * (fitted != 1)},"
        " at sites it has never seen: ",
        without,
        " without, ",
        with_context,
        f" with {in_words(size)} unlabelled image{'s' * (size != 1)} of the site",
    )


def short(accuracy: float) -> str:
    """An accuracy of two digits, such as .95, or 1.00."""
    return f"{accuracy:.2f}".removeprefix("0")


def in_words(number: int) -> str:
    """A number up to twelve in words, a larger one in digits."""
    words = _SMALL_NUMBERS.split(",")
    return words[number] if number < len(words) else f"{number:,}"


@dataclass(frozen=True)
class _Page:
    """A figure that is measured in inches from its upper left corner."""

    figure: Figure
    width: float
    height: float

    def text(self, x: float, y: float, words: str, **style: Any) -> None:
        """Write `words` with their baseline at y."""
        self.figure.text(x / self.width, 1 - y / self.height, words, **style)

    def images(self, x: float, y: float, width: float, images: NDArray, columns: int) -> None:
        """Show images of 0-1, dark ink on white, from the corner (x, y) on."""
        sheet = _sheet(images, columns)
        height = width * sheet.shape[0] / sheet.shape[1]
        box = (x / self.width, 1 - (y + height) / self.height)
        axes = self.figure.add_axes((*box, width / self.width, height / self.height))
        axes.imshow(sheet, cmap="gray_r", vmin=0, vmax=1, aspect="auto")
        axes.axis("off")

    def arrow(self, x: float, y: float, length: float) -> None:
        """Draw a thin arrow to the right."""
        from matplotlib.patches import FancyArrowPatch

        ends = [(at / self.width, 1 - y / self.height) for at in (x, x + length)]
        style = {"arrowstyle": "->", "mutation_scale": 9, "linewidth": 1.1, "color": _WITHOUT}
        self.figure.add_artist(FancyArrowPatch(*ends, shrinkA=0, shrinkB=0, **style))

    def sentence(self, x: float, y: float, parts: Sequence[tuple[str, dict]]) -> None:
        """Write parts of a line one after another, each in its own style."""
        from matplotlib.offsetbox import AnchoredOffsetbox, HPacker, TextArea

        line = HPacker(
            children=[TextArea(words, textprops=style) for words, style in parts],
            align="baseline",
            pad=0,
            sep=0,
        )
        place = (x / self.width, 1 - y / self.height)
        self.figure.add_artist(
            AnchoredOffsetbox(
                "lower left",
                child=line,
                pad=0,
                borderpad=0,
                frameon=False,
                bbox_to_anchor=place,
                bbox_transform=self.figure.transFigure,
            )
        )


def _draw(result: SitesResult, sites: Sequence[SiteResult]) -> Figure:
    from matplotlib.figure import Figure

    context = 0.29 * _BLOCK
    came = _LEFT
    given = came + _BLOCK + _COLUMN
    seen = given + context + _COLUMN
    numbers = seen + _BLOCK + 0.38
    width = numbers + 2 * _NUMBER + 0.2 + _RIGHT
    height = _TOP + _ROW * len(sites) + _BOTTOM
    page = _Page(Figure(figsize=(width, height), dpi=_DPI), width, height)
    _write_title(page, result)
    size = result.with_context.context_size
    images = f"{in_words(size)} image{'s' * (size != 1)}"
    headings = {came: "as the images come", given: images, seen: "as the model sees them"}
    for x, words in headings.items():
        page.text(x, _TOP - 0.14, words, fontsize=9.5, color=_QUIET)
    for x, words, colour in ((0, "without", _WITHOUT), (_NUMBER, "with", _WITH)):
        page.text(numbers + x, _TOP - 0.14, words, fontsize=9.5, color=colour)
    for row, site in enumerate(sites):
        y = _TOP + row * _ROW
        middle = y + _IMAGE / 2
        page.images(came, y, _BLOCK, site.shown / 255, SHOWN)
        page.images(given, y, context, site.context[:10] / 255, _CONTEXT_COLUMNS)
        page.arrow(given + context + 0.12, middle, _COLUMN - 0.24)
        page.images(seen, y, _BLOCK, site.seen, SHOWN)
        before, after = short(site.without.mean), short(site.with_context.mean)
        page.text(numbers, middle, before, fontsize=17, color=_WITHOUT, va="center")
        bold = {"fontsize": 22, "color": _WITH, "weight": "bold", "va": "center"}
        page.text(numbers + _NUMBER, middle, after, **bold)
        _write_caption(page, came, y + _IMAGE + 0.17, site, result.with_context.axis)
    _write_note(page, result, len(sites))
    return page.figure


def _write_title(page: _Page, result: SitesResult) -> None:
    first, without, between, with_context, last = headline(result)
    page.text(_LEFT, 0.56, first.rstrip(), fontsize=17, color=_INK)
    plain = {"fontsize": 17, "color": _INK}
    page.sentence(
        _LEFT,
        0.99,
        [
            (without, plain | {"color": _WITHOUT, "weight": "bold"}),
            (between, plain),
            (with_context, plain | {"color": _WITH, "weight": "bold"}),
            (last, plain),
        ],
    )


def _write_caption(page: _Page, x: float, y: float, site: SiteResult, axis: str) -> None:
    inferred = describe(site.site).replace(" degrees", "°")
    words = textwrap.shorten(f"{axis} {site.value:g}: {inferred}", _CAPTION, placeholder=" …")
    page.text(x, y, words, fontsize=8, color=_QUIET)


def _write_note(page: _Page, result: SitesResult, rows: int) -> None:
    run, sites = result.with_context, len(result.sites)
    which = f"{rows} of the {sites}" if rows < sites else f"All {sites}"
    note = (
        f"{which} held-out sites of {run.family}, from the most accurate to the least; the"
        f" sentence above is about all {sites}. Model: {run.name}; {run.train_size:,} training"
        f" images at each of {len(run.train_values)} sites, {run.test_size:,} test images a site;"
        f" means over {run.contexts} context{'s' * (run.contexts != 1)} of a site, the first of"
        f" which is shown; seed {run.seed}. Images are drawn dark on light."
        " Without: under a context of the reference site, so as the images come."
    )
    lines = textwrap.wrap(note, _NOTE)
    for number, line in enumerate(lines):
        y = page.height - 0.3 - 0.15 * (len(lines) - 1 - number)
        page.text(_LEFT, y, line, fontsize=7.5, color=_QUIET)


def _sheet(images: NDArray, columns: int) -> NDArray[np.float32]:
    """Images [N, H, W] side by side in rows, with blank space between them."""
    count, height, width = images.shape
    columns = min(columns, count)
    gap = max(1, width // 14)
    rows = math.ceil(count / columns)
    shape = (rows * (height + gap) - gap, columns * (width + gap) - gap)
    sheet = np.full(shape, np.nan, np.float32)
    for number, image in enumerate(images):
        row, column = divmod(number, columns)
        top, left = row * (height + gap), column * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet
