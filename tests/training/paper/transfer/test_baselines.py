"""Claims about what stands beside a model: adjusted codes, the oracle, augmentation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from metavae_training.paper.transfer.compared.adjusted import ADJUSTED, combat, standardised
from metavae_training.paper.transfer.compared.networks import drawn_from_the_family, generic_affine
from metavae_training.paper.transfer.exam import Exam
from metavae_training.paper.transfer.undoing import true_site
from metavae_zoo.families import family

# Two sites of three images and three codes, and what neuroCombat 0.2.12 makes of them.
SITES = [
    np.array([[1.0, 2.0, 0.5], [0.0, 1.0, 1.5], [2.0, 4.0, 0.0]]),
    np.array([[5.0, 1.0, 3.0], [3.0, 0.0, 2.0], [6.0, 2.5, 3.5]]),
]
COMBAT = [
    [
        [2.6914446, 1.7793957, 1.5218795],
        [1.8141376, 0.9291176, 2.3827322],
        [3.5687515, 3.4799519, 1.0914531],
    ],
    [
        [3.2479512, 1.2935059, 1.9719151],
        [1.6604049, 0.4869364, 1.1679496],
        [4.0417243, 2.50336, 2.3738979],
    ],
]


def test_combat_is_neurocombats():
    adjust = combat(SITES)
    assert np.allclose(
        [adjust(site, site) for site in SITES], COMBAT, atol=1e-4
    )  # to which both iterate


@pytest.mark.parametrize("name", ADJUSTED)
def test_sites_that_differ_in_location_and_scale_become_alike(name: str):
    rng = np.random.default_rng(0)
    sites = [scale * rng.normal(size=(500, 4)) + 3 * scale for scale in (1, 2, 0.5)]
    adjust = ADJUSTED[name](sites[:2])
    held_out = adjust(sites[2][:250], sites[2][250:])
    seen = adjust(sites[0], sites[0])
    assert np.allclose(held_out.mean(0), seen.mean(0), atol=0.4)
    assert np.allclose(held_out.std(0), seen.std(0), rtol=0.3)


def test_two_equal_images_are_no_division_by_nothing():
    rng = np.random.default_rng(0)
    adjust = standardised([rng.normal(size=(10, 4))])
    assert np.isfinite(adjust(np.ones((2, 4)), rng.normal(size=(5, 4)))).all()


@pytest.mark.parametrize("name", ["digits-rotation", "digits-scanner", "digits-camera"])
def test_the_oracle_undoes_a_site(name: str):
    source = family(name)
    plain = source.images(source.reference("contiguous"), "test")[:50].astype(float)
    gaps = []
    for value in source.split("contiguous").held_out_values[:8]:
        site = source.images(value, "test")[:50]
        undone = true_site(source, value)(site).astype(float)
        gaps.append(np.abs(undone - plain).mean() / np.abs(site - plain).mean())
    assert np.median(gaps) < 0.6


def test_the_oracle_leaves_the_reference_as_it_is():
    source = family("digits-scanner")
    images = source.images(0.0, "test")[:20]
    assert (true_site(source, 0.0)(images) == images).all()


@pytest.mark.parametrize("name", ["digits-scale", "digits-scanner"])
def test_new_sites_of_a_family_are_drawn_with_their_labels(name: str):
    exam = Exam(name, "contiguous", train_size=30, test_size=30)
    images, labels = drawn_from_the_family(exam)
    assert images.shape == (30 * len(exam.trained), 1, 28, 28)
    assert len(labels) == len(images)
    assert (drawn_from_the_family(exam)[0] == images).all()


def test_generic_augmentation_keeps_shape_and_range():
    x = torch.rand(20, 1, 28, 28)
    moved = generic_affine(x, torch.Generator().manual_seed(0))
    assert moved.shape == x.shape
    assert float(moved.min()) >= 0
    assert float(moved.max()) <= 1
    assert not torch.equal(moved, x)
