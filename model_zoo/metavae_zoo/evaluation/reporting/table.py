"""A probe's result as plain text."""

from __future__ import annotations

from metavae_zoo.evaluation.reporting.result import Measurement, ProbeResult, ValueResult
from metavae_zoo.evaluation.statistics import with_interval


def probe_table(result: ProbeResult) -> str:
    """The accuracies as a table, and under it what they are of.

    A row per held-out value and one for their mean, the floors beside the model; where there are
    several numbers of labels a column for each of them, the floors under the model.
    """
    several = len(result.measurements) > 1
    header, rows, means = (_by_shots if several else _by_floor)(result)
    widths = [max(map(len, column)) for column in zip(header, *rows, *means, strict=True)]
    rule = "─" * (sum(widths) + 3 * (len(widths) - 1))

    def line(cells: list[str]) -> str:
        return "   ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))

    return "\n".join(
        [
            f"{result.name}: accuracy of {'; '.join(title(result))}",
            "",
            line(header),
            rule,
            *map(line, rows),
            rule,
            *map(line, means),
            "",
            *_notes(result),
        ]
    )


def title(result: ProbeResult) -> list[str]:
    """What the accuracies are of; in a second part that they are under two kinds of contexts."""
    where = f"at the held-out values of {result.family}, {result.split} split"
    fitted, tested = result.context_from, result.test_context_from
    contexts = f"contexts: {fitted} where fitted, {tested} where tested"
    return [f"{result.protocol.title} {where}"] + [contexts] * (fitted != tested)


def floor_label(name: str, latent_dim: int) -> str:
    """A floor's name for people."""
    return {
        "raw_pixels": "raw pixels",
        "pca": f"PCA-{latent_dim}",
        "random_projection": "random projection",
    }[name]


def shots_label(shots: int | None) -> str:
    """How many labels a classifier had, for people."""
    return f"{shots} label{'s' * (shots != 1)} per class"


def protocol_line(result: ProbeResult) -> str:
    """What the numbers are of."""
    return f"{result.protocol.images(result.sizes)}, {_context(result)}, seed {result.seed}"


def _by_floor(result: ProbeResult) -> tuple[list[str], list[list[str]], list[list[str]]]:
    """Header, rows and rows of means."""
    [measurement] = result.measurements
    labels = [floor_label(name, result.latent_dim) for name in measurement.floors]

    def row(label: str, of: Measurement | ValueResult) -> list[str]:
        return [label, *map(with_interval, (of.accuracy, *of.floors.values()))]

    return (
        [result.axis, result.model, *labels],
        [row(f"{value.value:g}", value) for value in measurement.values],
        [row("mean", measurement)],
    )


def _by_shots(result: ProbeResult) -> tuple[list[str], list[list[str]], list[list[str]]]:
    """Likewise, for a result of several measurements."""
    measurements = result.measurements
    header = [result.axis, *(shots_label(one.labels_per_class) for one in measurements)]
    rows = [
        [f"{at_one[0].value:g}", *(with_interval(value.accuracy) for value in at_one)]
        for at_one in zip(*(one.values for one in measurements), strict=True)
    ]
    means = [[f"mean of {result.model}", *(with_interval(one.accuracy) for one in measurements)]]
    for name in measurements[0].floors:
        floors = (with_interval(one.floors[name]) for one in measurements)
        means.append([floor_label(name, result.latent_dim), *floors])
    return header, rows, means


def _context(result: ProbeResult) -> str:
    if result.context_from is None or result.test_context_from is None:
        return "no context"
    images = {
        "own": f"{result.context_size} images",
        "other": f"{result.context_size} images of another {result.axis}",
        "reference": f"{result.context_size} images of the reference",
        "shuffled": f"{result.context_size} images with shuffled pixels",
        "zeros": "a summary of zeros in place of a context",
    }
    fitted, tested = images[result.context_from], images[result.test_context_from]
    draws = f"{result.contexts} context draw{'s' * (result.contexts > 1)}"
    if fitted != tested:
        return f"{draws}: {fitted} where classifiers are fitted, {tested} where they are tested"
    return fitted if result.context_from == "zeros" else f"{draws} of {fitted}"


def _notes(result: ProbeResult) -> list[str]:
    notes = []
    if result.paper:
        notes.append(
            f"The paper's mean: {result.paper.accuracy:.3f} ({result.paper.source};"
            " 60,000 train and 10,000 test images)"
        )
    notes += [protocol_line(result), result.note]
    if result.test_context_from == "other":
        pairs = ", ".join(
            f"{value.context_value:g} for {value.value:g}"
            for value in result.measurements[0].values
        )
        notes.append(f"Contexts of tested images are of {result.axis} {pairs}")
    if result.draws > 1:
        notes.append(f"± is a 95% interval over the {result.draws} {_drawn(result)}")
    if not result.converged:
        notes.append("Some logistic regressions did not converge: their accuracies are too low")
    return notes


def _drawn(result: ProbeResult) -> str:
    """What is drawn anew from one draw to the next."""
    if result.protocol.own_draws is None:
        return "context draws"
    return "draws of labels" + (", each with a new context" if result.contexts > 1 else "")
