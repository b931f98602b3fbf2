"""The tables of the exam's page."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from metavae_training.paper.measure.condition import NONE, Condition, condition_of
from metavae_training.paper.measure.results import Item
from metavae_training.paper.pages.aggregate import accuracy, in_a_table
from metavae_training.paper.transfer.cells import FEW_LABELS, REFERENCE
from metavae_training.paper.transfer.rows import ALL, CAMERA, ROWS, Row
from metavae_training.paper.transfer.wrong import WRONG_SIZE, words_of
from metavae_zoo.families import family as family_named
from metavae_zoo.markdown import markdown_table

ERRORS = ("error_50", "error_90", "error_95")
_TOLD = (0.5, 0.9, 0.95)


class Found:
    """The exam's items, by row, family and contexts."""

    def __init__(self, items: Iterable[Item]) -> None:
        self._of: dict[tuple[str, str, Condition, int | None], list[Item]] = defaultdict(list)
        for item in items:
            self._of[item.model, item.family, condition_of(item), item.labels].append(item)

    def at(
        self, row: Row, family: str, condition: Condition, labels: int | None = None
    ) -> list[Item]:
        """Items of a row under contexts of a kind."""
        return self._of.get((row.name, family, condition, labels), [])

    def under(self, row: Row, family: str, size: int) -> list[Item]:
        """Items under right contexts of a size, or without any; 0: images as they come."""
        none = self.at(row, family, NONE)
        if size == 0:
            return none or self.at(row, family, REFERENCE)
        return self.at(row, family, Condition("own", size)) or none

    def takes_context(self, row: Row) -> bool:
        """Whether any item of the row has a context."""
        return any(name == row.name and condition != NONE for name, _, condition, _ in self._of)

    def sizes(self, row: Row, family: str) -> list[int]:
        """Sizes of right contexts that the row was measured under, and 0."""
        return sorted(
            {
                0 if condition == REFERENCE else condition.size
                for name, where, condition, labels in self._of
                if (name, where, labels) == (row.name, family, None)
                and (condition == REFERENCE or condition == Condition("own", condition.size))
            }
        )

    def kinds(self, row: Row, families: Sequence[str]) -> list[str]:
        """Kinds of wrong contexts that were measured, in their order."""
        found = [
            condition.test_context
            for name, where, condition, _ in self._of
            if name == row.name and where in families and condition.test_context
        ]
        order = ["right", "neighbour", "mixed", "shuffled", "inverted", "foreign", "blank"]
        return sorted(set(found), key=lambda kind: (kind not in order, _place(order, kind), kind))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; empty without rows."""
    return markdown_table(head, rows) if rows else ""


def _place(order: Sequence[str], kind: str) -> int:
    return order.index(kind) if kind in order else len(order)


def headline(found: Found, families: Sequence[str], size: int) -> str:
    """Rows against families at one size of the context; what takes none only beside size 10."""
    rows = []
    for row in ROWS:
        if row in (ALL, CAMERA) and size == 10:
            rows.append([f"{row.label}, no context", *_cells(found, row, families, 0)])
        if size == 10 or found.takes_context(row):
            rows.append([row.label, *_cells(found, row, families, size)])
    rows = [row for row in rows if any(row[1:])]
    return _table([f"context of {size}", *families], rows)


def _cells(found: Found, row: Row, families: Sequence[str], size: int) -> list[str]:
    return [in_a_table(found.under(row, family, size)) for family in families]


def sizes_table(found: Found, row: Row, families: Sequence[str]) -> str:
    """Mean, tenth percentile of contexts and the worst context, by size."""
    sizes = sorted({size for family in families for size in found.sizes(row, family)})
    rows = []
    for family in families:
        cells = [spread_in_words(found.under(row, family, size), size) for size in sizes]
        if any(cells):
            rows.append([family, *cells])
    named = ["none" if size == 0 else str(size) for size in sizes]
    return _table(["images in the context", *named], rows)


def spread_in_words(items: Sequence[Item], size: int) -> str:
    """Such as `0.982 (0.975, 0.931)`; of contexts of none the mean alone."""
    if not items:
        return ""
    mean = f"{_mean(items):.3f}"
    if size == 0:
        return mean
    return f"{mean} ({low(items):.3f}, {min(map(accuracy, items)):.3f})"


def low(items: Sequence[Item]) -> float:
    """The tenth percentile over contexts at each site, mean over sites."""
    return _quantile(items, 0.1)


def high(items: Sequence[Item]) -> float:
    """The ninetieth percentile over contexts at each site, mean over sites."""
    return _quantile(items, 0.9)


def _quantile(items: Sequence[Item], share: float) -> float:
    return float(np.mean([np.quantile(of_site, share) for of_site in _by_value(items).values()]))


def worst_sites(found: Found, rows: Sequence[Row], families: Sequence[str]) -> str:
    """The site that is classified worst, of each row and family, under contexts of 10 and 100."""
    table = []
    for row in rows:
        for size in (10, 100):
            cells = [_worst(found.under(row, family, size)) for family in families]
            if any(cells) and (size == 10 or found.takes_context(row)):
                contexts = f"context of {size}" if found.takes_context(row) else "no context"
                table.append([row.label, contexts, *cells])
    return _table(["worst site", "", *families], table)


def _worst(items: Sequence[Item]) -> str:
    if not items:
        return ""
    means = {value: float(np.mean(of_site)) for value, of_site in _by_value(items).items()}
    value = min(means, key=lambda one: means[one])
    return f"{means[value]:.3f} (at {value:g})"


def labels_table(found: Found, row: Row, families: Sequence[str]) -> str:
    """Labels at the reference site alone."""
    rows = []
    for size in (10, 100):
        for labels in FEW_LABELS:
            items = [found.at(row, family, Condition("own", size), labels) for family in families]
            cells = [in_a_table(one) for one in items]
            if any(cells):
                rows.append([f"{labels:,}", str(size), *cells])
    return _table(["labels", "context", *families], rows)


def wrong_table(found: Found, row: Row, families: Sequence[str]) -> str:
    """Accuracy and the median of the stated 90% error, by kind of context."""
    rows = []
    for kind in found.kinds(row, families):
        cells = []
        for family in families:
            items = found.at(row, family, Condition("own", WRONG_SIZE, kind))
            told = median(items, "error_90")
            cells.append(f"{_mean(items):.3f}, {told:.2g}" if items and told else "")
        rows.append([words_of("" if kind == "right" else kind), *cells])
    return _table([f"context of {WRONG_SIZE}", *families], rows)


def coverage_table(found: Found, row: Row, families: Sequence[str]) -> str:
    """The share of contexts whose true error is below each stated quantile."""
    rows = []
    for family in families:
        for size in found.sizes(row, family):
            if size in (3, 5, 10, 20, 100) and (items := found.under(row, family, size)):
                rows.append([family, str(size), *(f"{one:.2f}" for one in coverage(items))])
    head = ["sites held out", "context", *(f"below the {told:.0%} quantile" for told in _TOLD)]
    return _table(head, rows)


def coverage(items: Sequence[Item]) -> list[float]:
    """The share of contexts whose true error is below the 50, 90 and 95% quantiles stated."""
    return [
        float(np.mean([_number(item, "error") <= _number(item, name) for item in items]))
        for name in ERRORS
    ]


def sites_table(found: Found, row: Row, family: str) -> str:
    """Every held-out site: accuracy, true and stated error, in what it is outside the prior."""
    axis = family_named(family).axis
    sizes = [size for size in (10, 100) if found.under(row, family, size)]
    by_size = {size: found.under(row, family, size) for size in sizes}
    values = sorted({item.value for items in by_size.values() for item in items})
    rows = []
    for value in values:
        cells = []
        for items in by_size.values():
            here = [item for item in items if item.value == value]
            cells += [
                f"{_mean(here):.3f}",
                f"{median(here, 'error') or 0:.2g}",
                f"{median(here, 'error_90') or 0:.2g}",
            ]
        outside = axis.site(value).get("outside", "")
        rows.append([f"{value:g}", *cells, f"outside the prior: {outside}" if outside else ""])
    head = [f"{axis.name}, {axis.unit}"]
    for size in sizes:
        head += [f"n = {size}: accuracy", "error", "90% stated"]
    return _table([*head, ""], rows)


def median(items: Sequence[Item], field: str) -> float | None:
    """The median of a field over items; None where none has it."""
    numbers = [getattr(item, field) for item in items if getattr(item, field) is not None]
    return float(np.median(numbers)) if numbers else None


def mean_of(items: Sequence[Item]) -> float | None:
    """Mean accuracy over seeds, sites and contexts; None where nothing was measured."""
    return _mean(items) if items else None


def _number(item: Item, field: str) -> float:
    number = getattr(item, field)
    return float("nan") if number is None else number


def _by_value(items: Sequence[Item]) -> dict[float, list[float]]:
    """Accuracies at each site."""
    found: dict[float, list[float]] = defaultdict(list)
    for item in items:
        found[item.value].append(accuracy(item))
    return dict(sorted(found.items()))


def _mean(items: Sequence[Item]) -> float:
    return float(np.mean([accuracy(item) for item in items]))
