"""Claims about the view of images in the reference's frame: it is what the model computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from metavae_training.models.canonical.network import Canonicaliser
from metavae_zoo.bundles.card import ModelCard, SiteParameter
from metavae_zoo.embedding.embedder import OnnxEmbedder
from metavae_zoo.embedding.site import Site
from metavae_zoo.embedding.site_view import canonical_images, intensity_of
from metavae_zoo.errors import BadImages
from metavae_zoo.families import family

from ..site_model import numbers, rotation

SIDE = 28


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    return np.array(family("digits-scanner").images(3.0, "test")[:40])


@pytest.fixture
def card(site_bundle) -> ModelCard:
    return site_bundle.card


def inferred(network: Canonicaliser, pooled: torch.Tensor, card: ModelCard) -> Site:
    """The site of the network's own output, by a card that lists it."""
    named = [SiteParameter(name=name, unit=unit) for name, unit in network.site_parameters]
    row = network.site_row(pooled, torch.tensor([[10.0]]))[0]
    return Site.of(card.model_copy(update={"site": named}), row.numpy())


@pytest.mark.parametrize("prior", ["affine", "camera"])
@pytest.mark.parametrize("intensity", ["histogram", "stretch", "none"])
@torch.no_grad()
def test_the_view_is_what_the_canonicaliser_computes(digits, card, prior, intensity):
    torch.manual_seed(0)
    network = Canonicaliser(pixels=SIDE * SIDE, prior=prior, intensity=intensity)
    bias = list(network.head.parameters())[-1]
    # A warp that moves and turns by much, and some perspective and light.
    start = [0.8, -0.7, 0.6, 0.9, 0.3, -0.4, 0.9, -0.6, 0.7, 1.1]
    bias.copy_(torch.tensor(start[: len(bias)]))
    x = torch.from_numpy(digits).flatten(1).float() / 255
    network.reference.copy_(network.features(x)[:, network.hidden :].mean(0).flip(0))
    pooled = network.features(x[:10]).mean(0, keepdim=True)
    expected = network.canonical(x, pooled).view(-1, SIDE, SIDE).numpy()
    site = inferred(network, pooled, card)
    found = canonical_images(digits, site, intensity=intensity)
    assert found.dtype == np.float32
    assert_allclose(found, expected, rtol=0, atol=2e-4)
    if intensity != "none":
        assert_array_equal(canonical_images(digits, site), found)


def test_the_reference_site_leaves_images_as_they_are(digits, card):
    found = canonical_images(digits, Site.of(card, numbers()))
    assert_allclose(found, digits[:, 0] / 255, atol=1e-6)


def test_a_quarter_turn_is_turned_back_and_a_move_moved_back(digits, card):
    turned = np.rot90(digits, axes=(2, 3))  # counter-clockwise as seen
    found = canonical_images(turned, Site.of(card, numbers(rotation(90))))
    assert_allclose(found, digits[:, 0] / 255, atol=1e-5)
    moved = np.roll(digits, (2, -3), (2, 3))
    found = canonical_images(moved, Site.of(card, numbers(shift=(-3, 2))))
    assert_allclose(found[:, 4:-4, 4:-4], digits[:, 0, 4:-4, 4:-4] / 255, atol=1e-6)


def test_images_come_in_any_form_of_images(digits, site_bundle):
    embedder = OnnxEmbedder(site_bundle)
    site = Site.of(site_bundle.card, embedder.site(embedder.summarize(digits)))
    expected = canonical_images(digits, site)
    assert_array_equal(canonical_images(digits[:, 0], site), expected)
    assert_array_equal(canonical_images((digits / 255).astype(np.float32), site), expected)


@pytest.mark.parametrize("shape", [(), (28,), (28, 28), (2, 27, 28), (0, 28, 28), (2, 3, 28, 28)])
def test_no_images_are_refused(card, shape):
    with pytest.raises(BadImages):
        canonical_images(np.zeros(shape, np.uint8), Site.of(card, numbers()))


def test_the_prior_of_a_card_says_how_brightness_is_mapped():
    assert intensity_of({"name": "camera", "intensity": "stretch"}) == "stretch"
    assert intensity_of({}) is None
    assert intensity_of({"intensity": "of another version"}) is None
