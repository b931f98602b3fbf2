"""Claims about the paragraph on contexts: it says what the items say, and no more."""

from __future__ import annotations

import pytest

from metavae_training.paper.measure.condition import Condition
from metavae_training.paper.pages.effects import (
    Question,
    balanced_means,
    effect,
    of_whole_runs,
    paragraph,
)
from metavae_training.paper.pages.methods import models

from .made import an_item

RIGHT, OTHER, ONE = Condition("own", 100), Condition("other", 100), Condition("own", 1)
TESTED = Condition("own", 100, "other")
FAMILIES = ["digits-rotation", "digits-skew"]


def items_of(model, accuracies, condition):
    """Items of every family, one per seed."""
    return [
        an_item(
            model=model,
            seed=seed,
            family=family,
            accuracy=accuracy,
            context=condition.context,
            test_context=condition.test_context,
            context_size=condition.size,
        )
        for seed, accuracy in enumerate(accuracies)
        for family in FAMILIES
    ]


def told(items):
    questions = [
        Question("in fit and test", {OTHER: "another distribution's"}),
        Question("in the test alone", {TESTED: "another distribution's"}),
    ]
    shown = models(["metavae", "vhe"])
    return paragraph(items, items, shown, FAMILIES, RIGHT, questions, [ONE, RIGHT])


def test_a_loss_that_every_seed_has_is_told_as_one():
    items = [
        *items_of("metavae", [0.90, 0.80, 0.70], RIGHT),
        *items_of("metavae", [0.80, 0.70, 0.60], OTHER),
        *items_of("metavae", [0.90, 0.80, 0.70], ONE),
        *items_of("vhe", [0.50, 0.60, 0.70], RIGHT),
        *items_of("vhe", [0.60, 0.50, 0.71], OTHER),
        *items_of("vhe", [0.20, 0.30, 0.40], TESTED),
    ]
    text = told(items)
    named = "A wrong context {} costs accuracy for {}: another distribution's."
    assert named.format("in fit and test", "MetaVAE") in text
    assert "No loss by a wrong context in fit and test is shown for VHE." in text
    assert named.format("in the test alone", "VHE") in text
    assert "MetaVAE has an accuracy of 0.800 ± 0.248 (3)" in text
    assert "in fit and test that changes by -0.1000 ± 0.0000 with another distribution's" in text
    assert "in the test alone that changes by -0.3000 ± 0.0000 with another distribution's" in text
    assert "From 1 to 100 right images it changes by +0.0000 ± 0.0000" in text
    # The one image of VHE, and MetaVAE's test alone.
    assert text.count("not measured") == 2


@pytest.mark.parametrize("seeds", [1, 2])
def test_fewer_than_three_seeds_show_neither_a_loss_nor_none(seeds):
    text = told([*items_of("vhe", [0.5] * seeds, RIGHT), *items_of("vhe", [0.1] * seeds, OTHER)])
    assert "more seeds to show whether a wrong context in fit and test costs accuracy: VHE." in text
    assert f"0.500 ({seeds})" in text
    assert "-0.4000 with another distribution's" in text


def test_nothing_measured_is_nothing_said():
    assert told([]) == ""


def test_families_count_the_same_and_seeds_without_all_of_them_are_left_out():
    many = [an_item(family="digits-rotation", value=float(v), accuracy=1.0) for v in range(9)]
    one = an_item(family="digits-skew", accuracy=0.0)
    partial = an_item(family="digits-skew", accuracy=0.9, seed=1)
    items = [*many, one, partial]
    assert balanced_means(items, FAMILIES) == [0.5]
    assert balanced_means(many, FAMILIES) == []


def test_where_no_seed_has_all_families_their_runs_are_one_number():
    right = [
        an_item(family="digits-rotation", seed=1, accuracy=0.9),
        an_item(family="digits-skew", seed=0, accuracy=0.7),
        an_item(family="digits-skew", seed=2, accuracy=0.5),
    ]
    assert balanced_means(right, FAMILIES) == [pytest.approx(0.75)]
    wrong = [
        an_item(family="digits-rotation", seed=1, accuracy=0.8),
        an_item(family="digits-skew", seed=0, accuracy=0.6),  # of which alone there are both
    ]
    change = effect(right, wrong, FAMILIES)
    assert change is not None
    assert (change.mean, change.half_width, change.n) == (pytest.approx(-0.1), None, 1)


def test_effects_are_paired_by_seed():
    before, after = [0.1, 0.9, 0.5, 0.4], [0.2, 1.0, 0.6]
    later = items_of("vhe", after, OTHER)[::-1]  # the order of items says nothing
    change = effect(items_of("vhe", before, RIGHT), later, FAMILIES)
    assert change is not None
    assert (change.mean, change.n) == (pytest.approx(0.1), 3)
    assert change.half_width == pytest.approx(0, abs=1e-9)
    assert effect(items_of("vhe", before, RIGHT), [], FAMILIES) is None


def test_conditions_are_compared_on_the_runs_that_have_all_of_them():
    right = items_of("vhe", [0.5, 0.6], RIGHT)
    one = [item for item in items_of("vhe", [0.5, 0.6], ONE) if item.family == FAMILIES[0]][1:]
    found = of_whole_runs([*right, *one], [RIGHT, ONE])
    whole = [item for item in right if item.seed == 1 or item.family == FAMILIES[1]]
    assert found == [*whole, *one]
