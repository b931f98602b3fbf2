"""Items to means with 95% intervals over training seeds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from metavae_training.paper.measure.results import Item
from metavae_zoo.bundles.card import Interval
from metavae_zoo.evaluation.statistics import interval_over_runs, with_interval
from metavae_zoo.families import family as family_named

Number = Callable[[Item], float]


def of_split(items: Sequence[Item], family: str, split: str) -> list[Item]:
    """Items at the values that a split holds out.

    A ceiling belongs to every split that holds out its value; those of a seed that does not have
    all of a split's values are left out.
    """
    held_out = set(family_named(family).split(split).held_out_values)
    here = [item for item in items if item.family == family and item.value in held_out]
    values_of: dict[int | None, set[float]] = defaultdict(set)
    for item in here:
        if item.kind == "ceiling":
            values_of[item.seed].add(item.value)
    return [
        item
        for item in here
        if item.split == split or (item.kind == "ceiling" and values_of[item.seed] == held_out)
    ]


def accuracy(item: Item) -> float:
    """The accuracy of an item that has one."""
    assert item.accuracy is not None  # noqa: S101 - of every item but distances, see `Item`
    return item.accuracy


def seed_means(items: Sequence[Item], number: Number = accuracy) -> dict[int | None, float]:
    """Mean over values and context draws, for every training seed."""
    by_seed: dict[int | None, list[float]] = defaultdict(list)
    for item in items:
        by_seed[item.seed].append(number(item))
    return {seed: float(np.mean(numbers)) for seed, numbers in by_seed.items()}


def over_seeds(items: Sequence[Item], number: Number = accuracy) -> Interval | None:
    """Mean with its interval over training seeds; None where there is nothing."""
    means = seed_means(items, number)
    return interval_over_runs(list(means.values())) if means else None


def by_value(items: Sequence[Item], number: Number = accuracy) -> dict[float, Interval]:
    """Mean with its interval over training seeds at every value, ascending."""
    at: dict[float, list[Item]] = defaultdict(list)
    for item in items:
        at[item.value].append(item)
    means = {value: seed_means(at[value], number) for value in sorted(at)}
    return {value: interval_over_runs(list(means[value].values())) for value in means}


def in_a_table(items: Sequence[Item]) -> str:
    """Such as `0.885 ± 0.003 (3)`, over training seeds, or `0.885` where nothing has a seed."""
    drawn = any(item.seed is not None for item in items)
    found = over_seeds(items)
    return "" if found is None else (with_seeds if drawn else with_interval)(found)


def with_seeds(interval: Interval | None, digits: int = 3) -> str:
    """Such as `0.885 ± 0.003 (3)`, with the number of training seeds."""
    return f"{with_interval(interval, digits)} ({interval.n})" if interval else ""
