"""A probe's result as plain text."""

from __future__ import annotations

from metavae_client.result import FLOORS, ProbeResult
from metavae_zoo.card import Interval


def probe_table(result: ProbeResult) -> str:
    """A row per held-out value and one for their mean; then the paper's figure and the protocol."""
    names = [name for name in FLOORS if name in result.floors]
    header = [result.axis, result.model, *(floor_label(name, result.latent_dim) for name in names)]
    rows = [
        [
            f"{value.value:g}",
            with_interval(value.accuracy),
            *(f"{value.floors[name]:.3f}" for name in names),
        ]
        for value in result.values
    ]
    mean = [
        "mean",
        with_interval(result.accuracy),
        *(f"{result.floors[name]:.3f}" for name in names),
    ]
    widths = [max(map(len, column)) for column in zip(header, mean, *rows, strict=True)]
    rule = "─" * (sum(widths) + 3 * (len(widths) - 1))

    def line(cells: list[str]) -> str:
        return "   ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))

    return "\n".join(
        [
            f"{result.name}: accuracy of a linear probe at the held-out values of"
            f" {result.family}, {result.split} split",
            "",
            line(header),
            rule,
            *map(line, rows),
            rule,
            line(mean),
            "",
            *_notes(result),
        ]
    )


def floor_label(name: str, latent_dim: int) -> str:
    """A floor's name for people."""
    return {
        "raw_pixels": "raw pixels",
        "pca": f"PCA-{latent_dim}",
        "random_projection": "random projection",
    }[name]


def with_interval(accuracy: Interval) -> str:
    """Such as `0.885 ± 0.003`."""
    if accuracy.half_width is None:
        return f"{accuracy.mean:.3f}"
    return f"{accuracy.mean:.3f} ± {accuracy.half_width:.3f}"


def protocol_line(result: ProbeResult) -> str:
    """What the numbers are of."""
    contexts = (
        f"{result.contexts} context draw{'s' * (result.contexts > 1)} of"
        f" {result.context_size} images"
        if result.context_size
        else "no context"
    )
    return (
        f"{result.train_size:,} train and {result.test_size:,} test images per value,"
        f" {contexts}, seed {result.seed}"
    )


def _notes(result: ProbeResult) -> list[str]:
    notes = []
    if result.paper:
        notes.append(
            f"The paper's mean: {result.paper.accuracy:.3f} ({result.paper.source};"
            " 60,000 train and 10,000 test images)"
        )
    notes += [protocol_line(result), result.differences]
    if result.contexts > 1:
        notes.append(f"± is a 95% interval over the {result.contexts} context draws")
    if not result.converged:
        notes.append("Some logistic regressions did not converge: their accuracies are too low")
    return notes
