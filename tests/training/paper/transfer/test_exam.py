"""Claims about the exam: what is fitted on, tested and given as contexts."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from metavae_training.paper.transfer.exam import Exam
from metavae_training.paper.transfer.wrong import WRONG_SIZE, wrong_context, wrong_kinds
from metavae_zoo.families import Part


@pytest.fixture(scope="module")
def exam() -> Exam:
    return Exam("digits-rotation", "contiguous", train_size=100, test_size=200)


@pytest.mark.parametrize(("part", "size"), [("train", 100), ("test", 100), ("test", 20)])
def test_a_context_has_no_image_that_is_fitted_on_or_tested(exam: Exam, part: Part, size: int):
    for value in exam.trained if part == "train" else exam.held_out:
        for draw in range(3):
            context = exam.context_rows(value, part, size, draw)
            assert len(set(context.tolist())) == size
            assert not set(context) & set(exam.rows(value, part))


def test_draws_and_sites_have_contexts_of_their_own(exam: Exam):
    drawn = [
        tuple(exam.context_rows(value, "test", 10, draw))
        for value in exam.held_out[:3]
        for draw in range(2)
    ]
    assert len(set(drawn)) == len(drawn)
    assert drawn[1] == tuple(exam.context_rows(exam.held_out[0], "test", 10, 1))


def test_training_sites_share_no_base_image_where_there_are_enough(exam: Exam):
    for one, other in combinations(exam.trained, 2):
        assert not set(exam.rows(one, "train")) & set(exam.rows(other, "train"))


def test_half_of_the_test_part_is_left_for_contexts():
    greedy = Exam("digits-rotation", "contiguous", train_size=10_000, test_size=10_000)
    held_out = greedy.held_out[0]
    assert len(greedy.rows(held_out, "test")) == 250
    assert len(greedy.apart(held_out, "test", 100)) == 250


def test_few_labels_are_balanced_and_grow(exam: Exam):
    labels = exam.labels("train", exam.rows(exam.reference, "train"))
    twenty, fifty = (exam.few(count, draw=0) for count in (20, 50))
    assert np.bincount(labels[twenty]).tolist() == [2] * 10
    assert len(fifty) == 50
    assert set(twenty) <= set(fifty)
    assert set(exam.few(20, draw=1)) != set(twenty)


def test_wrong_contexts_are_of_their_kind(exam: Exam):
    value = exam.held_out[0]
    kinds = {kind: wrong_context(exam, kind, value, 0) for kind in wrong_kinds(exam)}
    right = kinds[""]
    assert {one.shape for one in kinds.values()} == {(WRONG_SIZE, 1, 28, 28)}
    assert "foreign" not in kinds  # there is no other data set of digits
    assert not kinds["blank"].any()
    assert (kinds["inverted"] == 255 - right).all()
    assert (kinds["repeated"] == right[0]).all()
    assert (kinds["mixed"][: WRONG_SIZE // 2] == right[: WRONG_SIZE // 2]).all()
    assert (
        np.sort(kinds["shuffled"].reshape(WRONG_SIZE, -1)) == np.sort(right.reshape(WRONG_SIZE, -1))
    ).all()
    everything = exam.source.images(value, "test")
    labels = exam.source.labels("test")
    for image in kinds["class 7"]:
        (found,) = np.flatnonzero((everything == image).all((1, 2, 3)))[:1]
        assert labels[found] == 7
