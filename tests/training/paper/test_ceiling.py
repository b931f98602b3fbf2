"""Claims about the ceiling: the network learns what it is taught, the same every time."""

from __future__ import annotations

import pytest
import torch

from metavae_training.paper.measure.ceiling import Ceiling, supervised_accuracy
from metavae_zoo.families import family

pytestmark = pytest.mark.training

QUICK = Ceiling(steps=80)


@pytest.fixture(scope="module")
def parts():
    source = family("digits-rotation")
    return [(source.images(60.0, part)[:], source.labels(part)) for part in ("train", "test")]


def accuracy(parts, seed):
    train, test = parts
    return supervised_accuracy(train, test, QUICK, seed=seed, device=torch.device("cpu"))


def test_the_network_learns_and_repeats_under_its_seed(parts):
    first = accuracy(parts, seed=0)
    assert first > 0.8
    assert accuracy(parts, seed=0) == first
    assert accuracy(parts, seed=1) != first


def test_labels_of_the_wrong_images_teach_nothing(parts):
    (images, labels), test = parts
    assert accuracy([(images, labels[::-1].copy()), test], seed=0) < 0.4
