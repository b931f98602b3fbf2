"""What each protocol fits on and tests on, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from metavae_zoo.evaluation.classifiers import MAX_ITERATIONS, fitting_pool, nearest_neighbours
from metavae_zoo.evaluation.errors import BadSettings
from metavae_zoo.evaluation.probe import run_probe
from metavae_zoo.evaluation.protocols import FewShot, Knn, Protocol, Transfer
from metavae_zoo.evaluation.sample import Sample
from metavae_zoo.evaluation.settings import ProbeSettings
from metavae_zoo.families import family
from metavae_zoo.images import Images

DIGITS = family("digits-rotation")


def sample_of(settings: ProbeSettings, protocol: Protocol) -> Sample:
    return replace(settings, protocol=protocol).sample()


def contents(*arrays: Images) -> set[bytes]:
    return {image.tobytes() for images in arrays for image in images}


def test_transfer_never_fits_on_a_held_out_value(spy, small):
    watched = spy()
    run_probe(watched, replace(small, protocol=Transfer(), contexts=1))
    split = DIGITS.split("contiguous")
    fitted_on = [DIGITS.images(value, "train") for value in split.train_values]
    tested_on = [DIGITS.images(value, "test") for value in split.held_out_values]
    asked = [images for images, _ in watched.embedded]
    assert len(asked) == len(fitted_on) + len(tested_on)
    for images, pool in zip(asked, fitted_on + tested_on, strict=True):
        assert contents(images) <= contents(pool)


def test_transfer_gives_every_image_a_context_of_its_own_distribution(spy, small):
    watched = spy()
    run_probe(watched, replace(small, protocol=Transfer(), contexts=1, floors=()))
    split = DIGITS.split("contiguous")
    pools = [DIGITS.images(value, "train") for value in split.train_values]
    pools += [DIGITS.images(value, "test") for value in split.held_out_values]
    for context, pool, (_, summary) in zip(
        watched.summarized, pools, watched.embedded, strict=True
    ):
        assert contents(context) <= contents(pool)
        assert summary == watched.embedder.summarize(context)


def test_transfer_is_one_plain_classifier_spelled_out(contextless, small):
    result = run_probe(contextless, replace(small, protocol=Transfer(), floors=()))
    sample = sample_of(small, Transfer())
    picks = [Transfer().train(sample, value) for value in sample.split.train_values]
    model = LogisticRegression(max_iter=MAX_ITERATIONS)
    with fitting_pool():
        model.fit(
            np.concatenate([contextless.embed(sample.images(pick)).mean for pick in picks]),
            np.concatenate([sample.labels(pick) for pick in picks]),
        )
        for value in result.measurements[0].values:
            test = sample.test(value.value)
            codes = contextless.embed(sample.images(test)).mean
            assert value.draws == (model.score(codes, sample.labels(test)),)


def test_transfer_shows_no_base_image_at_two_values_where_there_are_enough(small):
    sample = sample_of(replace(small, train_size=129), Transfer())
    shares = [set(Transfer().train(sample, value).rows) for value in sample.split.train_values]
    assert [len(share) for share in shares] == [129] * 10
    assert all(one.isdisjoint(other) for one, other in combinations(shares, 2))


def test_transfer_shows_every_image_at_every_value_where_all_are_asked_for(small):
    sample = sample_of(replace(small, train_size=1297), Transfer())
    for value in sample.split.train_values:
        assert np.array_equal(Transfer().train(sample, value).rows, np.arange(1297))


@pytest.mark.parametrize(("name", "most"), [("mnist-rotation", 6_000), ("mnist-scale", 7_500)])
def test_transfer_is_bounded_where_no_size_is_asked_for(name, most):
    assert Transfer().most_train_images(family(name).split("contiguous")) == most


def test_transfer_takes_what_there_is_of_a_small_data_set(small):
    settings = replace(small, family="digits-skew", train_size=None)
    assert sample_of(settings, Transfer()).train_size == 1297


def test_accuracy_rises_with_the_number_of_labels(contextless, small):
    settings = replace(small, protocol=FewShot((1, 4, 16), 3), train_size=400, floors=())
    found = [one.accuracy for one in run_probe(contextless, settings).measurements]
    assert [accuracy.n for accuracy in found] == [3] * 3
    assert found[0].mean + 0.1 < found[1].mean < found[2].mean


def test_few_shot_fits_on_as_many_labels_per_class_as_asked_and_keeps_them_for_more(small):
    sample = sample_of(small, FewShot())
    for trial in FewShot((1, 4)).trials(sample, draw=0):
        [[one], [four]] = trial.fit_on
        assert np.bincount(sample.labels(one)).tolist() == [1] * 10
        assert np.bincount(sample.labels(four)).tolist() == [4] * 10
        assert set(one.rows) < set(four.rows) <= set(sample.train(one.value).rows)


def test_labels_are_drawn_anew_by_draw_and_seed_and_are_the_same_at_every_value(small):
    def rows(seed: int, draw: int) -> list[list[int]]:
        sample = sample_of(replace(small, seed=seed, train_size=None), FewShot())
        trials = FewShot((2,)).trials(sample, draw)
        return [trial.fit_on[0][0].rows.tolist() for trial in trials]

    first = rows(seed=0, draw=0)
    assert first == rows(seed=0, draw=0)
    assert all(at_value == first[0] for at_value in first)
    assert first[0] != rows(seed=0, draw=1)[0]
    assert first[0] != rows(seed=1, draw=0)[0]


def test_each_draw_of_labels_has_a_context_of_its_own(spy, small):
    watched = spy()
    protocol = FewShot((1,), label_draws=3)
    result = run_probe(watched, replace(small, protocol=protocol, floors=()))
    # A train and a test context per draw and held-out value.
    assert len(contents(*(context[None] for context in watched.summarized))) == 3 * 8 * 2
    assert (result.contexts, result.draws) == (3, 3)
    assert result.measurements[0].accuracy.n == 3


@pytest.mark.parametrize("shots", [(0,), (5, 1), (2, 2), (-1, 2), ()])
def test_shots_that_do_not_ascend_from_one_are_refused(shots):
    with pytest.raises(BadSettings, match="--shots"):
        FewShot(shots)


def test_no_draws_of_labels_are_refused():
    with pytest.raises(BadSettings, match="--label-draws is 0"):
        FewShot(label_draws=0)


def test_more_shots_than_a_class_has_images_are_refused_before_anything_is_embedded(spy, small):
    watched = spy()
    with pytest.raises(BadSettings, match=r"--shots has 30, .* of its 100 images.*--train-size"):
        run_probe(watched, replace(small, protocol=FewShot((1, 30))))
    assert watched.embedded == []


def test_an_image_is_its_own_nearest_neighbour(local, images):
    labels = DIGITS.labels("train")
    codes = local.embed(images, local.summarize(images)).mean
    with fitting_pool():
        assert nearest_neighbours(codes, labels, 1).accuracy(codes, labels) == 1.0


def test_all_neighbours_together_vote_for_the_most_frequent_class(contextless, small):
    result = run_probe(contextless, replace(small, protocol=Knn(100), floors=()))
    sample = sample_of(small, Knn(100))
    most = np.bincount(sample.labels(sample.train(20.0))).argmax()
    expected = float((sample.labels(sample.test(20.0)) == most).mean())
    assert {value.draws for value in result.measurements[0].values} == {(expected,)}


@pytest.mark.parametrize(("neighbours", "words"), [(0, "is 0"), (101, "is 101, .* 100 images")])
def test_neighbours_that_there_are_not_are_refused(local, small, neighbours, words):
    with pytest.raises(BadSettings, match=f"--neighbours {words}"):
        run_probe(local, replace(small, protocol=Knn(neighbours)))
