"""A finished experiment: a Markdown table and a figure, written and printed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from metavae_training.paper.measure.collect import Collected
from metavae_training.paper.measure.study import QUICK_EPOCHS, Study, settings_in_words
from metavae_training.paper.pages.figures import drawings
from metavae_zoo.files import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CONTEXT = ", context of "


@dataclass(frozen=True)
class Report:
    """What an experiment found: a title, paragraphs and tables in Markdown, and how to draw it.

    `failed` names what was tried and did not succeed. `more` are further figures, by the end of
    their files' names.
    """

    title: str
    sections: list[str]
    draw: Callable[[], Figure]
    failed: list[str]
    more: Mapping[str, Callable[[], Figure]] = field(default_factory=dict)


def left_out(collected: Collected) -> str:
    """What is not in the table, by reason and seeds; empty where nothing is left out."""
    lines = []
    for reason, parts in collected.left_out.items():
        by_seeds: dict[tuple[int, ...], list[str]] = defaultdict(list)
        for what, seeds in parts.items():
            by_seeds[tuple(sorted(seeds))].append(what)
        for seeds, named in sorted(by_seeds.items()):
            of_seeds = f", seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
            lines.append(f"- {reason}{of_seeds * bool(seeds)}: {', '.join(_by_model(named))}")
    return "\n".join(["Left out:", "", *lines]) if lines else ""


def _by_model(named: Sequence[str]) -> list[str]:
    """Contexts of one model in one entry: "NAME, contexts of 1 and 2"."""
    sizes: dict[str, list[str]] = defaultdict(list)
    for one in named:
        model, _, size = one.partition(_CONTEXT)
        sizes[model].append(size)
    entries = []
    for model, found in sizes.items():
        *others, last = found
        several = f", contexts of {', '.join(others)} and {last}" if others else f"{_CONTEXT}{last}"
        entries.append(model + (several if last else ""))
    return entries


def publish(study: Study, report: Report) -> str:
    """Write `NAME.md`, `NAME.png` and `NAME.svg` beside the results; return the text.

    Further figures are `NAME-MORE.png` and `.svg`.
    """
    notes = [_quick(study), _changed(study)]
    text = "\n\n".join([f"# {report.title}", *filter(None, [*notes, *report.sections])])
    figures = {study.name: report.draw}
    figures |= {f"{study.name}-{more}": draw for more, draw in report.more.items()}
    pictures = "\n\n".join(f"![{report.title}]({name}.png)" for name in figures)
    write_whole(study.out / f"{study.name}.md", f"{text}\n\n{pictures}\n".encode())
    for name, draw in figures.items():
        for suffix, content in drawings(draw).items():
            write_whole(study.out / f"{name}.{suffix}", content)
    return text


def _changed(study: Study) -> str:
    """What is not as in the recipes."""
    return (
        f"**Trained otherwise than by the recipes**: {settings_in_words(study.settings)}. What that"
        " does not concern, floors and the supervised CNN, is on the page of the recipes."
    ) * bool(study.settings)


def _quick(study: Study) -> str:
    """What a quick study is not."""
    return (
        f"**A quick version**, which shows that everything works: after at most {QUICK_EPOCHS}"
        " epochs a model has learned next to nothing. No conclusions can be drawn from its numbers."
    ) * study.quick
