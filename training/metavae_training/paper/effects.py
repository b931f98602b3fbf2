"""What a change of context does to an accuracy, paired by training seed, and the same in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from metavae_training.paper.aggregate import seed_means
from metavae_training.paper.condition import Condition
from metavae_training.paper.methods import Method
from metavae_training.paper.results import Item
from metavae_zoo.card import Interval
from metavae_zoo.statistics import confidence_interval

Seed = int | None


class Question(NamedTuple):
    """Wrong contexts that are looked at together: what they are given to, and what each is."""

    given: str
    wrong: Mapping[Condition, str]


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
    questions: Sequence[Question],
    sizes: Sequence[Condition],
) -> str:
    """What the numbers say, model by model; nothing in it but what is in the items."""
    wrong = [condition for question in questions for condition in question.wrong]
    said: list[str] = []
    matters: dict[str, dict[str, bool | None]] = {question.given: {} for question in questions}
    for method in methods:
        means = {
            condition: balanced_seed_means(condition.of(method.of(items)), families)
            for condition in dict.fromkeys([right, *wrong, *sizes])
        }
        if not means[right]:
            continue
        for question in questions:
            matters[question.given][method.label] = _is_costly(question, means, right)
        growth = effect(means[sizes[0]], means[sizes[-1]])
        said.append(
            f"- {method.label} has an accuracy of {np.mean(list(means[right].values())):.3f} with"
            f" {right.size} right images."
            + "".join(f" {_answer(question, means, right)}" for question in questions)
            + f" From {sizes[0].size} to {sizes[-1].size} right images it changes by"
            f" {_words(growth)}."
        )
    verdicts = [one for given, answers in matters.items() for one in _verdict(given, answers)]
    how = (
        f"Means over {', '.join(families)}; changes are paired by training seed, ± is their 95%"
        " interval over seeds."
    )
    return "\n".join([" ".join([*verdicts, how]), "", *said]) if said else ""


def _is_costly(
    question: Question, means: Mapping[Condition, Mapping[Seed, float]], right: Condition
) -> bool | None:
    """Whether one of the wrong contexts costs accuracy more surely than seeds vary.

    None where one seed alone, or nothing, is there.
    """
    # Several looks for one claim: each is as much surer (Bonferroni).
    surer = 1 - 0.05 / max(1, len(question.wrong))
    sure = [effect(means[right], means[condition], surer) for condition in question.wrong]
    known = any(change and change.half_width is not None for change in sure)
    return any(map(_is_loss, sure)) if known else None


def _answer(
    question: Question, means: Mapping[Condition, Mapping[Seed, float]], right: Condition
) -> str:
    """The change by each of the wrong contexts."""
    changes = [
        f"by {_words(effect(means[right], means[condition]))} with {label}"
        for condition, label in question.wrong.items()
    ]
    return f"With a wrong context {question.given} that changes {'; '.join(changes)}."


def _verdict(given: str, matters: Mapping[str, bool | None]) -> list[str]:
    """Which models lose accuracy by a wrong context that is given like this."""
    sentences = {
        True: "A wrong context {} costs accuracy for {}.",
        False: "No loss by a wrong context {} is shown for {}.",
        None: "It takes several seeds to show whether a wrong context {} costs accuracy: {}.",
    }
    return [
        sentence.format(given, ", ".join(labels))
        for answer, sentence in sentences.items()
        if (labels := [label for label, does in matters.items() if does is answer])
    ]


def _is_loss(change: Interval | None) -> bool:
    return (
        change is not None and change.half_width is not None and change.mean + change.half_width < 0
    )


def _words(change: Interval | None) -> str:
    if change is None:
        return "an amount that was not measured"
    mean = f"{change.mean:+.3f}"
    if change.half_width is None:
        return f"{mean} (one seed)"
    return f"{mean} ± {change.half_width:.3f}"
