"""Which contexts reach the embedder: the right ones, and every kind of wrong one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from metavae_zoo.embedding.summary import Summary
from metavae_zoo.evaluation.contexts import SOURCES, Contexts
from metavae_zoo.evaluation.errors import BadSettings
from metavae_zoo.evaluation.probe import run_probe
from metavae_zoo.evaluation.protocols import FewShot, Knn, Linear, Transfer
from metavae_zoo.families import family

DIGITS = family("digits-rotation")
HELD_OUT = DIGITS.split("contiguous").held_out_values
WRONG = [source for source in SOURCES if source != "own"]


@pytest.fixture
def given(spy, small):
    """The contexts that a probe has its model summarise, in their order."""

    def contexts(source, **settings):
        watched = spy()
        run_probe(watched, replace(small, context_from=source, floors=(), **settings))
        return watched.summarized

    return contexts


def assert_of(context, value, part):
    pool = {image.tobytes() for image in DIGITS.images(value, part)}
    assert {image.tobytes() for image in context} <= pool


def test_own_contexts_are_of_the_value_and_part_and_new_at_every_draw(given):
    contexts = given("own")
    assert len(contexts) == 2 * len(HELD_OUT) * 2
    per_draw = [contexts[: len(contexts) // 2], contexts[len(contexts) // 2 :]]
    for first, second in zip(*per_draw, strict=True):
        assert not np.array_equal(first, second)
    places = [(value, part) for value in HELD_OUT for part in ("train", "test")]
    for context, (value, part) in zip(per_draw[0], places, strict=True):
        assert len(context) == 20
        assert_of(context, value, part)


def further_on(value: float) -> float:
    """A third of a turn."""
    return (value + 120 + 180) % 360 - 180


def test_other_contexts_are_of_the_value_a_third_of_the_list_further_on(given, local, small):
    places = [(value, part) for value in HELD_OUT for part in ("train", "test")]
    for context, (value, part) in zip(given("other", contexts=1), places, strict=True):
        assert_of(context, further_on(value), part)
    result = run_probe(local, replace(small, context_from="other", contexts=1, floors=()))
    told = {value.value: value.context_value for value in result.measurements[0].values}
    assert told == {value: further_on(value) for value in HELD_OUT}


def test_another_value_is_never_the_own_one_in_any_family(local, small):
    for name in ("digits-rotation", "digits-scale", "digits-skew"):
        values = family(name)
        settings = replace(small, family=name)
        sample = settings.sample()
        others = [Contexts(local, sample, 5, "other").value(value) for value in values.values]
        assert sorted(other for other in others if other is not None) == list(values.values)
        assert all(value != other for value, other in zip(values.values, others, strict=True))


def test_another_skew_is_no_mirror_image_of_the_own_one(local, small):
    """But for those two of its eighteen values that have one at that distance."""
    values = family("digits-skew")
    sample = replace(small, family="digits-skew").sample()
    contexts = Contexts(local, sample, 5, "other")

    def shape(value: float | None) -> np.ndarray:
        assert value is not None
        return np.abs(values.axis.matrix(value))

    mirrored = {
        value for value in values.values if np.allclose(shape(value), shape(contexts.value(value)))
    }
    assert mirrored == {-60.0, 120.0}


def test_shuffled_contexts_are_the_own_ones_in_one_disorder_of_their_pixels(given):
    own, shuffled = (np.concatenate(given(source)) for source in ("own", "shuffled"))
    assert own.shape == shuffled.shape
    assert not np.array_equal(own, shuffled)

    def pixel_columns(images):
        """What each pixel is in all images, whatever the order of pixels."""
        return sorted(column.tobytes() for column in images.reshape(len(images), -1).T)

    assert pixel_columns(own) == pixel_columns(shuffled)


def test_the_disorder_is_seeded(given):
    one, again, other = (given("shuffled", contexts=1, seed=seed)[0] for seed in (0, 0, 1))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("protocol", [Linear(), Transfer(), FewShot((1,), label_draws=2)])
def test_zeros_are_a_summary_without_images_and_need_one_draw(spy, small, protocol):
    watched = spy()
    settings = replace(small, protocol=protocol, context_from="zeros", floors=())
    result = run_probe(watched, settings)
    assert watched.summarized == []
    nothing = Summary(np.zeros(watched.card.feature_dim), 1, watched.card.digest)
    assert {summary for _, summary in watched.embedded} == {nothing}
    assert (result.contexts, result.context_size, result.context_from) == (1, 0, "zeros")
    assert {value.context_value for value in result.measurements[0].values} == {None}


@pytest.mark.parametrize("source", WRONG)
def test_a_wrong_context_changes_the_model_and_not_its_floors(local, small, result, source):
    wrong = run_probe(local, replace(small, context_from=source))
    assert wrong.measurements[0].accuracy != result.measurements[0].accuracy
    assert wrong.measurements[0].floors == result.measurements[0].floors


@pytest.mark.parametrize("protocol", [Linear(), Transfer(), FewShot((1,), label_draws=2), Knn(3)])
def test_wrong_contexts_of_tested_images_alone_leave_what_is_fitted_on_as_it_is(
    spy, small, protocol
):
    tested = {image.tobytes() for value in HELD_OUT for image in DIGITS.images(value, "test")}

    def summaries(**sources):
        """What images are embedded by: those that are fitted on, and those that are tested."""
        watched = spy()
        run_probe(watched, replace(small, protocol=protocol, contexts=1, floors=(), **sources))
        totals = {"fitted": set(), "tested": set()}
        for images, summary in watched.embedded:
            first = images[0].tobytes()
            totals["tested" if first in tested else "fitted"].add((first, summary.total.tobytes()))
        return totals

    right = summaries()
    wrong = summaries(context_from="other")
    mixed = summaries(test_context_from="other")
    assert mixed == {"fitted": right["fitted"], "tested": wrong["tested"]}
    assert mixed["tested"].isdisjoint(right["tested"])


def test_a_test_under_zeros_still_draws_the_contexts_of_the_fit(local, small):
    settings = replace(small, test_context_from="zeros", floors=())
    result = run_probe(local, settings)
    assert (result.contexts, result.context_size) == (2, 20)
    assert (result.context_from, result.test_context_from) == ("own", "zeros")
    assert {value.context_value for value in result.measurements[0].values} == {None}


@pytest.mark.parametrize("size", [1, 37])
def test_a_context_has_as_many_images_as_asked(given, size):
    assert {len(context) for context in given("own", context_size=size, contexts=1)} == {size}


@pytest.mark.parametrize("source", WRONG)
def test_a_model_without_a_context_cannot_be_given_a_wrong_one(contextless, small, source):
    with pytest.raises(BadSettings, match=f"--context-from is {source}, .* without a context"):
        run_probe(contextless, replace(small, context_from=source))
    with pytest.raises(BadSettings, match=f"--test-context-from is {source}, .* without a context"):
        run_probe(contextless, replace(small, test_context_from=source))
    assert contextless.embedded == []


def test_contexts_of_the_reference_are_of_the_value_that_changes_images_least(given, local, small):
    for context, part in zip(given("reference", contexts=1), ("train", "test") * 8, strict=True):
        assert_of(context, 0.0, part)
    settings = replace(small, context_from="reference", contexts=1, floors=())
    result = run_probe(local, settings)
    assert {value.context_value for value in result.measurements[0].values} == {0.0}


def base_rows(images, value, part):
    """Which base images these are."""
    rows = {image.tobytes(): row for row, image in enumerate(DIGITS.images(value, part))}
    return {rows[image.tobytes()] for image in images}


@pytest.mark.parametrize("source", ["own", "reference"])
def test_contexts_of_transfer_share_no_base_image_with_what_is_embedded(spy, small, source):
    watched = spy()
    settings = replace(small, protocol=Transfer(), context_from=source, contexts=1, floors=())
    run_probe(watched, settings)
    split = DIGITS.split("contiguous")
    places = [(value, "train") for value in split.train_values]
    places += [(value, "test") for value in split.held_out_values]
    asked = zip(places, watched.summarized, watched.embedded, strict=True)
    for (value, part), context, (queries, _) in asked:
        of_context = 0.0 if source == "reference" else value
        embedded = base_rows(queries, value, part)
        assert base_rows(context, of_context, part).isdisjoint(embedded)


def test_transfer_draws_from_all_images_where_too_few_are_left(spy, small):
    watched = spy()
    settings = replace(small, protocol=Transfer(), test_size=None, contexts=1, floors=())
    result = run_probe(watched, settings)
    tested = len(DIGITS.split("contiguous").held_out_values)
    for context, (queries, _) in zip(
        watched.summarized[-tested:], watched.embedded[-tested:], strict=True
    ):
        assert {one.tobytes() for one in context} <= {one.tobytes() for one in queries}
    assert "neither fitted on nor tested, where the part has 20 such images left" in result.note


def test_the_linear_probe_draws_its_contexts_from_all_images_as_ever(given, small):
    contexts = given("own", contexts=1)
    value = HELD_OUT[0]
    pool = DIGITS.images(value, "train")
    rng = np.random.default_rng([small.seed, DIGITS.values.index(value), 0, 0])
    rows = np.sort(rng.choice(len(pool), 20, replace=False))
    assert np.array_equal(contexts[0], pool[rows])
