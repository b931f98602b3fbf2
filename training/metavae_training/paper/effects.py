"""What a change of context does to an accuracy, paired by training seed, and the same in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from metavae_training.paper.aggregate import seed_means
from metavae_training.paper.methods import Method
from metavae_training.paper.results import Item
from metavae_zoo.card import Interval
from metavae_zoo.statistics import confidence_interval

Seed = int | None


class Condition(NamedTuple):
    """Where a context comes from, and how many images it has."""

    context: str
    size: int


def of_condition(items: Sequence[Item], condition: Condition) -> list[Item]:
    """Items that were given such a context."""
    return [item for item in items if (item.context, item.context_size) == condition]


def balanced_seed_means(items: Sequence[Item], families: Sequence[str]) -> dict[Seed, float]:
    """Mean accuracy of each training seed, every family counting the same.

    Seeds that do not have every family are left out.
    """
    by_family = [seed_means([i for i in items if i.family == family]) for family in families]
    shared = [seed for seed in by_family[0] if all(seed in means for means in by_family)]
    return {seed: float(np.mean([means[seed] for means in by_family])) for seed in shared}


def effect(
    before: Mapping[Seed, float], after: Mapping[Seed, float], confidence: float = 0.95
) -> Interval | None:
    """Mean change of accuracy with its interval, over the seeds that have both."""
    changes = [after[seed] - before[seed] for seed in before if seed in after]
    return confidence_interval(changes, confidence) if changes else None


def paragraph(
    items: Sequence[Item],
    methods: Sequence[Method],
    families: Sequence[str],
    right: Condition,
    wrong: Mapping[Condition, str],
    sizes: Sequence[Condition],
) -> str:
    """What the numbers say, model by model; nothing in it but what is in the items."""
    said: list[str] = []
    matters: dict[str, bool | None] = {}
    for method in methods:
        means = {
            condition: balanced_seed_means(of_condition(method.of(items), condition), families)
            for condition in dict.fromkeys([right, *wrong, *sizes])
        }
        if not means[right]:
            continue
        changes = {
            label: effect(means[right], means[condition]) for condition, label in wrong.items()
        }
        # Several looks for one claim: each is as much surer (Bonferroni).
        surer = 1 - 0.05 / max(1, len(wrong))
        sure = [effect(means[right], means[condition], surer) for condition in wrong]
        known = any(change and change.half_width is not None for change in sure)
        matters[method.label] = any(map(_is_loss, sure)) if known else None
        growth = effect(means[sizes[0]], means[sizes[-1]])
        said.append(
            f"- {method.label} has an accuracy of {np.mean(list(means[right].values())):.3f} with"
            f" {right.size} right images; that changes {_listed(changes)}. From {sizes[0].size} to"
            f" {sizes[-1].size} right images it changes by {_words(growth)}."
        )
    how = (
        f"Means over {', '.join(families)}; changes are paired by training seed, ± is their 95%"
        " interval over seeds."
    )
    return "\n".join([" ".join([*_verdict(matters), how]), "", *said]) if said else ""


def _verdict(matters: Mapping[str, bool | None]) -> list[str]:
    """Which models lose accuracy by a wrong context, more surely than seeds vary."""
    sentences = {
        True: "A wrong context costs accuracy for {}.",
        False: "No loss by a wrong context is shown for {}.",
        None: "One seed alone cannot show whether a wrong context costs accuracy: {}.",
    }
    return [
        sentence.format(", ".join(labels))
        for answer, sentence in sentences.items()
        if (labels := [label for label, does in matters.items() if does is answer])
    ]


def _is_loss(change: Interval | None) -> bool:
    return (
        change is not None and change.half_width is not None and change.mean + change.half_width < 0
    )


def _listed(changes: Mapping[str, Interval | None]) -> str:
    return "; ".join(f"by {_words(change)} with {label}" for label, change in changes.items())


def _words(change: Interval | None) -> str:
    if change is None:
        return "an amount that was not measured"
    mean = f"{change.mean:+.3f}"
    if change.half_width is None:
        return f"{mean} (one seed)"
    return f"{mean} ± {change.half_width:.3f}"
