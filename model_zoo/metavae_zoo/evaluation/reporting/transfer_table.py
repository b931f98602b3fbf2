"""Transfer results of cards as tables: what a context gives at sites never seen."""

from __future__ import annotations

from collections.abc import Sequence

from metavae_zoo.bundles.card import Interval, ModelCard, TransferRecord
from metavae_zoo.evaluation.statistics import with_interval
from metavae_zoo.markdown import markdown_table


def headline(records: Sequence[TransferRecord]) -> str:
    """One line for a list of models: the smallest context, mean over the families; or nothing."""
    smallest = min((record.context_size for record in records), default=0)
    chosen = [record for record in records if record.context_size == smallest]
    if not chosen:
        return ""
    line = f"transfer {_mean([record.accuracy for record in chosen]):.3f}"
    without = [record.without_context for record in chosen if record.without_context]
    if len(without) == len(chosen):
        line += f", {_mean(without):.3f} without its {smallest} images"
    families = f" (mean of {len(chosen)} families)" if len(chosen) > 1 else ""
    return line + families


def transfer_lines(records: Sequence[TransferRecord], indent: str = "    ") -> list[str]:
    """A table in plain text: a row per family, without a context and with one of each size."""
    if not records:
        return []
    sizes, rows = _rows(records)
    head = ["family", "without", *(f"{size} images" for size in sizes), *_floors(records)]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    first = records[0]
    title = (
        f"  transfer to held-out sites: one classifier, labels of the training sites only;"
        f" {first.train_size} training and {first.test_size} test images a site"
    )
    table = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (head, *rows)
    ]
    return [title, *(indent + line for line in table)]


def transfer_table(cards: Sequence[ModelCard]) -> str:
    """The same of several models, in Markdown; empty where no card has a transfer result."""
    found = [(card.name, card.results.transfer) for card in cards if card.results]
    found = [(name, records) for name, records in found if records]
    if not found:
        return ""
    sizes = sorted({record.context_size for _, records in found for record in records})
    rows = []
    for name, records in found:
        _, lines = _rows(records, sizes)
        rows += [[f"`{name}`", *line] for line in lines]
    floors = _floors([record for _, records in found for record in records])
    head = ["model", "family", "without a context", *(f"{size} images" for size in sizes), *floors]
    return markdown_table(head, rows)


def _rows(
    records: Sequence[TransferRecord], sizes: Sequence[int] | None = None
) -> tuple[Sequence[int], list[list[str]]]:
    sizes = sizes or sorted({record.context_size for record in records})
    rows = []
    for family in dict.fromkeys(record.family for record in records):
        by_size = {record.context_size: record for record in records if record.family == family}
        first = next(iter(by_size.values()))
        accuracies = [
            with_interval(by_size[size].accuracy) if size in by_size else "" for size in sizes
        ]
        without = with_interval(first.without_context) if first.without_context else ""
        floors = [f"{first.floors[name]:.3f}" for name in first.floors]
        rows.append([family, without, *accuracies, *floors])
    return sizes, rows


def _floors(records: Sequence[TransferRecord]) -> list[str]:
    return ["PCA" if name == "pca" else name.replace("_", " ") for name in records[0].floors]


def _mean(intervals: Sequence[Interval]) -> float:
    return sum(interval.mean for interval in intervals) / len(intervals)
