"""What a change of context does to an accuracy, paired by training seed, and the same in words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from metavae_training.paper.measure.condition import Condition
from metavae_training.paper.measure.results import Item
from metavae_training.paper.pages.aggregate import seed_means, with_seeds
from metavae_training.paper.pages.methods import Method
from metavae_zoo.bundles.card import Interval
from metavae_zoo.evaluation.statistics import interval_over_runs

Run = tuple[str, int | None]  # a family, and the seed of a training over it
Change = Callable[..., Interval | None]  # by a wrong context, at a confidence


class Question(NamedTuple):
    """Wrong contexts that are looked at together: what they are given to, and what each is."""

    given: str
    wrong: Mapping[Condition, str]


def balanced_means(items: Sequence[Item], families: Sequence[str]) -> list[float]:
    """Mean accuracy of each training seed that has a run of every family, which count the same.

    In the seeds' order. Where no seed has all families the runs of each are taken together, to one
    number: seeds of several families have nothing in common. Empty where a family has no run.
    """
    by_family = [seed_means([i for i in items if i.family == name]) for name in families]
    if shared := set.intersection(*map(set, by_family)):
        ordered = sorted(shared, key=lambda seed: -1 if seed is None else seed)
        return [float(np.mean([means[seed] for means in by_family])) for seed in ordered]
    if all(by_family):
        return [float(np.mean([np.mean(list(means.values())) for means in by_family]))]
    return []


def effect(
    before: Sequence[Item],
    after: Sequence[Item],
    families: Sequence[str],
    confidence: float = 0.95,
) -> Interval | None:
    """Mean change of accuracy with its interval, over the runs that have both."""
    runs = _common_runs(before, after)
    earlier, later = (
        balanced_means([item for item in items if _run(item) in runs], families)
        for items in (before, after)
    )
    changes = [new - old for old, new in zip(earlier, later, strict=True)]
    return interval_over_runs(changes, confidence) if changes else None


def of_whole_runs(items: Sequence[Item], conditions: Iterable[Condition]) -> list[Item]:
    """Items of the runs that have every condition, so that these are compared on the same models.

    A family of which no run has all of them keeps what it has.
    """
    whole = _common_runs(*(condition.of(items) for condition in conditions))
    families = {family for family, _ in whole}
    return [item for item in items if _run(item) in whole or item.family not in families]


def _run(item: Item) -> Run:
    return item.family, item.seed


def _common_runs(*groups: Sequence[Item]) -> set[Run]:
    """The training runs that every one of these groups has items of."""
    return set.intersection(*(set(map(_run, items)) for items in groups))


def paragraph(
    kinds: Sequence[Item],
    grown: Sequence[Item],
    methods: Sequence[Method],
    families: Sequence[str],
    right: Condition,
    questions: Sequence[Question],
    sizes: Sequence[Condition],
) -> str:
    """What the numbers say, model by model; nothing in it but what is in the items.

    `kinds` are of right contexts and of the questions' wrong ones, `grown` of right ones of the
    `sizes`, smallest first.
    """
    wrong = [condition for question in questions for condition in question.wrong]
    said: list[str] = []
    matters: dict[str, dict[str, list[str] | None]] = {question.given: {} for question in questions}
    for method in methods:
        here = {
            condition: condition.of(method.of(kinds))
            for condition in dict.fromkeys([right, *wrong])
        }
        accuracy = balanced_means(here[right], families)
        if not accuracy:
            continue
        change = _change_from(here, right, families)
        for question in questions:
            matters[question.given][method.label] = _costly(question, change)
        smallest, largest = (one.of(method.of(grown)) for one in (sizes[0], sizes[-1]))
        growth = effect(smallest, largest, families)
        said.append(
            f"- {method.label} has an accuracy of {with_seeds(interval_over_runs(accuracy))} with"
            f" {right.size} right images."
            + "".join(f" {_answer(question, change)}" for question in questions)
            + f" From {sizes[0].size} to {sizes[-1].size} right images it changes by"
            f" {_words(growth)}."
        )
    verdicts = [one for given, answers in matters.items() for one in _verdict(given, answers)]
    how = (
        f"Means over {', '.join(families)}; changes are paired by training run, ± is their 95%"
        " interval over seeds, whose number is in brackets. That a wrong context costs accuracy is"
        " said where it is that sure of all wrong contexts of a question together (Bonferroni): one"
        " interval alone may exclude 0 and not be enough. Where no seed has all families, the"
        " runs of each are one number. Kinds of contexts are compared on the runs that have all of"
        " them, and so are sizes."
    )
    return "\n".join([" ".join([*verdicts, how]), "", *said]) if said else ""


def _change_from(
    here: Mapping[Condition, Sequence[Item]], right: Condition, families: Sequence[str]
) -> Change:
    """What a wrong context changes of the accuracy under right ones."""

    def change(wrong: Condition, confidence: float = 0.95) -> Interval | None:
        return effect(here[right], here[wrong], families, confidence)

    return change


def _costly(question: Question, change: Change) -> list[str] | None:
    """Which of the wrong contexts cost accuracy more surely than seeds vary.

    None where no interval is known.
    """
    # Several looks for one claim: each is as much surer (Bonferroni).
    surer = 1 - 0.05 / max(1, len(question.wrong))
    highest = {
        label: found.mean + found.half_width
        for condition, label in question.wrong.items()
        if (found := change(condition, surer)) and found.half_width is not None
    }
    return [label for label, most in highest.items() if most < 0] if highest else None


def _answer(question: Question, change: Change) -> str:
    """The change by each of the wrong contexts."""
    changes = [
        f"by {_words(change(condition))} with {label}"
        for condition, label in question.wrong.items()
    ]
    return f"With a wrong context {question.given} that changes {'; '.join(changes)}."


def _verdict(given: str, matters: Mapping[str, list[str] | None]) -> list[str]:
    """Which models lose accuracy by a wrong context that is given like this, and by which."""
    found = [
        f"A wrong context {given} costs accuracy for {label}: {', '.join(costly)}."
        for label, costly in matters.items()
        if costly
    ]
    if labels := [label for label, costly in matters.items() if costly == []]:
        found.append(f"No loss by a wrong context {given} is shown for {', '.join(labels)}.")
    if labels := [label for label, costly in matters.items() if costly is None]:
        found.append(
            f"It takes more seeds to show whether a wrong context {given} costs accuracy:"
            f" {', '.join(labels)}."
        )
    return found


def _words(change: Interval | None) -> str:
    if change is None:
        return "an amount that was not measured"
    around = "" if change.half_width is None else f" ± {change.half_width:.4f}"
    return f"{change.mean:+.4f}{around}"
