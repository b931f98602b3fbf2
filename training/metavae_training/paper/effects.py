"""What a change of context does to an accuracy, paired by training seed, and the same in words."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from metavae_training.paper.aggregate import interval_of, seed_means
from metavae_training.paper.condition import Condition
from metavae_training.paper.methods import Method
from metavae_training.paper.results import Item
from metavae_zoo.card import Interval

Run = tuple[str, int | None]  # a family, and the seed of a training over it
Change = Callable[..., Interval | None]  # by a wrong context, at a confidence


class Question(NamedTuple):
    """Wrong contexts that are looked at together: what they are given to, and what each is."""

    given: str
    wrong: Mapping[Condition, str]


def common_runs(*groups: Sequence[Item]) -> set[Run]:
    """The training runs that every one of these groups has items of."""
    return set.intersection(*({(item.family, item.seed) for item in items} for items in groups))


def balanced_means(
    items: Sequence[Item], runs: Collection[Run], families: Sequence[str]
) -> list[float]:
    """Mean accuracy of each training seed that has a run of every family, which count the same.

    Where no seed has all families the runs of each are taken together, to one number: seeds of
    several families have nothing in common. Empty where a family has no run.
    """
    by_family = [
        seed_means([i for i in items if i.family == name and (name, i.seed) in runs])
        for name in families
    ]
    shared = [seed for seed in by_family[0] if all(seed in means for means in by_family)]
    if shared:
        return [float(np.mean([means[seed] for means in by_family])) for seed in shared]
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
    runs = common_runs(before, after)
    pairs = zip(
        balanced_means(before, runs, families), balanced_means(after, runs, families), strict=True
    )
    return interval_of([later - earlier for earlier, later in pairs], confidence)


def paragraph(
    items: Sequence[Item],
    methods: Sequence[Method],
    families: Sequence[str],
    right: Condition,
    questions: Sequence[Question],
    sizes: Sequence[Condition],
) -> str:
    """What the numbers say, model by model; nothing in it but what is in the items."""
    wrong = [condition for question in questions for condition in question.wrong]
    said: list[str] = []
    matters: dict[str, dict[str, bool | None]] = {question.given: {} for question in questions}
    for method in methods:
        here = {
            condition: condition.of(method.of(items))
            for condition in dict.fromkeys([right, *wrong, *sizes])
        }
        accuracy = balanced_means(here[right], common_runs(here[right]), families)
        if not accuracy:
            continue
        change = _change_from(here, right, families)
        for question in questions:
            matters[question.given][method.label] = _is_costly(question, change)
        growth = effect(here[sizes[0]], here[sizes[-1]], families)
        said.append(
            f"- {method.label} has an accuracy of {np.mean(accuracy):.3f} with"
            f" {right.size} right images."
            + "".join(f" {_answer(question, change)}" for question in questions)
            + f" From {sizes[0].size} to {sizes[-1].size} right images it changes by"
            f" {_words(growth)}."
        )
    verdicts = [one for given, answers in matters.items() for one in _verdict(given, answers)]
    how = (
        f"Means over {', '.join(families)}; changes are paired by training run, ± is their 95%"
        " interval over seeds. Where no seed has all families, the runs of each are one number."
    )
    return "\n".join([" ".join([*verdicts, how]), "", *said]) if said else ""


def _change_from(
    here: Mapping[Condition, Sequence[Item]], right: Condition, families: Sequence[str]
) -> Change:
    """What a wrong context changes of the accuracy under right ones."""

    def change(wrong: Condition, confidence: float = 0.95) -> Interval | None:
        return effect(here[right], here[wrong], families, confidence)

    return change


def _is_costly(question: Question, change: Change) -> bool | None:
    """Whether one of the wrong contexts costs accuracy more surely than seeds vary.

    None where no interval is known.
    """
    # Several looks for one claim: each is as much surer (Bonferroni).
    surer = 1 - 0.05 / max(1, len(question.wrong))
    sure = [change(condition, surer) for condition in question.wrong]
    highest = [one.mean + one.half_width for one in sure if one and one.half_width is not None]
    return min(highest) < 0 if highest else None


def _answer(question: Question, change: Change) -> str:
    """The change by each of the wrong contexts."""
    changes = [
        f"by {_words(change(condition))} with {label}"
        for condition, label in question.wrong.items()
    ]
    return f"With a wrong context {question.given} that changes {'; '.join(changes)}."


def _verdict(given: str, matters: Mapping[str, bool | None]) -> list[str]:
    """Which models lose accuracy by a wrong context that is given like this."""
    sentences = {
        True: "A wrong context {} costs accuracy for {}.",
        False: "No loss by a wrong context {} is shown for {}.",
        None: "It takes more seeds to show whether a wrong context {} costs accuracy: {}.",
    }
    return [
        sentence.format(given, ", ".join(labels))
        for answer, sentence in sentences.items()
        if (labels := [label for label, does in matters.items() if does is answer])
    ]


def _words(change: Interval | None) -> str:
    if change is None:
        return "an amount that was not measured"
    mean = f"{change.mean:+.3f}"
    if change.half_width is None:
        return f"{mean} ({'one seed' if change.n == 1 else f'{change.n} seeds'})"
    return f"{mean} ± {change.half_width:.3f}"
