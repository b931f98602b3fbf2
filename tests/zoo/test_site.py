"""Claims about the site that a model infers: its numbers, its words, its doubts."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from safetensors.numpy import load_file

from metavae_zoo.bundles.bundle import GOLDEN, open_bundle
from metavae_zoo.embedding.embedder import OnnxEmbedder
from metavae_zoo.embedding.site import UNSURE, Site, describe, doubts
from metavae_zoo.embedding.summary import Summary
from metavae_zoo.errors import BadBundle, BadSummary, NoSite

from ..site_model import LEVELS, NAMES, change_golden, numbers, rotation

SURE = ", sure to 4 degrees"
MIRROR = np.diag([-1.0, 1.0])


@pytest.fixture(scope="module")
def embedder(site_bundle) -> OnnxEmbedder:
    return OnnxEmbedder(site_bundle)


@pytest.fixture
def site(site_bundle):
    """Makes a Site of numbers."""

    def make(*args: Any, **parts: Any) -> Site:
        return Site.of(site_bundle.card, numbers(*args, **parts))

    return make


def images(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, 28, 28), np.uint8)


def test_a_site_has_the_numbers_of_its_card_by_name(site, site_bundle):
    found = site(2 * rotation(90), shift=(3, -4))
    assert_allclose(found.warp, [[0, 2], [-2, 0]], atol=1e-6)
    assert_array_equal(found.shift, [3, -4])
    assert found.perspective is None
    assert found.light is None
    assert_array_equal(found.levels, LEVELS)
    assert found.errors == pytest.approx({0.5: 0.05, 0.9: 0.1, 0.95: 0.2})
    assert tuple(found.numbers) == NAMES


@pytest.mark.parametrize("width", [0, len(NAMES) - 1, len(NAMES) + 1])
def test_another_number_of_numbers_is_refused(site_bundle, width):
    with pytest.raises(BadBundle, match=f"expected {len(NAMES)} numbers"):
        Site.of(site_bundle.card, np.zeros(width))


def test_a_card_of_other_names_is_refused(site_bundle):
    card = site_bundle.card.model_copy(update={"site": site_bundle.card.site[1:]})
    with pytest.raises(BadBundle, match=r"cannot be read.*warp_xx"):
        Site.of(card, numbers()[1:])


@pytest.mark.parametrize("degrees", [-179, -90, -43, -3, 3, 43, 90, 179])
def test_a_rotation_is_told_as_it_is_seen(site, degrees):
    direction = "counter-clockwise" if degrees > 0 else "clockwise"
    expected = f"rotated by {abs(degrees)} degrees {direction}"
    assert describe(site(rotation(degrees))) == expected + SURE
    mirrored = rotation(degrees) @ MIRROR
    assert describe(site(mirrored)) == f"mirrored left to right, {expected}{SURE}"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "as the reference"),
        ({"warp": rotation(1) * 1.02, "shift": (0.1, 0.2)}, "as the reference"),
        ({"warp": 1.2 * np.eye(2)}, "1.2 times larger"),
        ({"warp": np.eye(2) / 1.5}, "1.5 times smaller"),
        ({"warp": np.diag([2.0, 0.5])}, "stretched 4 times along 0 degrees"),
        ({"warp": np.diag([1.0, 1.4])}, "1.2 times larger, stretched 1.4 times along 90 degrees"),
        (
            {"warp": rotation(30) @ np.diag([2.0, 0.5]) @ rotation(-30)},
            "stretched 4 times along 30 degrees",
        ),
        ({"warp": MIRROR}, "mirrored left to right"),
        ({"warp": np.diag([1.0, -1.0])}, "mirrored left to right, rotated by 180 degrees"),
        ({"shift": (0.9, -1.2)}, "moved by 1.5 pixels"),
        ({"knots": np.clip(np.array(LEVELS) / 102, 0, 1)}, "contrast .4"),
        ({"knots": 1 - np.array(LEVELS) / 255}, "dark and bright exchanged"),
    ],
)
def test_what_differs_from_the_reference_is_told_and_nothing_else(site, changes, expected):
    said = describe(site(**changes))
    assert said.startswith(expected)
    if "180 degrees" not in expected:  # either direction
        assert said == expected + SURE


@pytest.mark.parametrize("degrees", [0, 3, 60, 180])
def test_sure_to_is_the_rotation_of_that_error(site, degrees):
    error = float(np.linalg.norm(rotation(degrees) - np.eye(2)))
    assert site(errors=(0, error, 3)).sure_to == pytest.approx(degrees, abs=0.05)
    assert site(errors=(0, 9, 9)).sure_to == pytest.approx(180)


def test_a_sure_site_of_enough_images_has_no_doubts(site):
    assert doubts(site(), 5) == []


def test_few_images_and_a_large_error_are_doubted_with_the_error_to_expect(site):
    [few] = doubts(site(), 1)
    assert few.startswith("a context of 1 image says little of its site")
    assert "give 10 images, better 20" in few
    unsure = site(errors=(0.3, UNSURE + 0.1, 1))
    [doubt] = doubts(unsure, 100)
    assert doubt.startswith("the site is not sure")
    assert "of another kind than the model's" in doubt
    for said in (doubt, *doubts(unsure, 4)):
        assert "an error of the warp of 0.3, and in one case of ten above 0.6 (24 degrees)" in said


@pytest.mark.parametrize(
    ("changes", "doubted"),
    [
        ({"errors": (0.3, UNSURE + 0.1, 1)}, "one case of ten above 0.6"),
        (
            {"warp": 0.1 * np.eye(2)},
            "more than any that the model was trained on (0.26 to 2.3 times",
        ),
        ({"warp": np.diag([1, 4])}, "more than any that the model was trained on"),
        ({"warp": np.zeros((2, 2))}, "more than any that the model was trained on"),
        ({"knots": np.zeros(16)}, "dark on light"),
        ({"knots": np.array(LEVELS) / 510}, "invert all of them"),
    ],
)
def test_a_site_that_cannot_be_relied_on_is_said_to_be_unsure(site_bundle, changes, doubted):
    prior = {"log_singular": [-0.85, 1.35]}
    card = site_bundle.card.model_copy(update={"prior": prior})
    unsure = Site.of(card, numbers(**changes))
    assert describe(unsure).startswith("not sure: ")
    [doubt] = doubts(unsure, 20)
    assert doubted in doubt


def test_an_embedder_infers_the_site_of_a_summary(embedder, site_bundle):
    one, many = (
        Site.of(site_bundle.card, embedder.site(embedder.summarize(images(n)))) for n in (1, 25)
    )
    assert describe(many).startswith("rotated by 43 degrees counter-clockwise, 1.2 times larger")
    assert one.errors[0.5] == pytest.approx(5 * many.errors[0.5])
    assert len(doubts(one, 1)) == 1
    assert doubts(many, 25) == []


def test_a_site_ignores_the_order_of_its_context_and_how_it_was_merged(embedder):
    context = images(30)
    whole = embedder.site(embedder.summarize(context))
    parts = [embedder.summarize(context[rows]) for rows in (slice(20, 30), slice(0, 20))]
    assert_array_equal(embedder.site(parts[0].merge(parts[1])), whole)


def test_a_model_without_a_site_says_so(bundle):
    embedder = OnnxEmbedder(bundle)
    with pytest.raises(NoSite, match="infers no site") as error:
        embedder.site(embedder.summarize(images(2)))
    assert error.value.code == "no_site"
    with pytest.raises(NoSite):
        Site.of(bundle.card, [])


def test_a_summary_that_is_not_the_models_has_no_site(embedder):
    digest = embedder.card.digest
    width = embedder.card.feature_dim
    for summary in (
        Summary(np.zeros(width), 1, "another"),
        Summary(np.zeros(width + 1), 1, digest),
        Summary(np.zeros(width), 0, digest),
        Summary(np.full(width, np.nan), 1, digest),
    ):
        with pytest.raises(BadSummary):
            embedder.site(summary)


def test_a_golden_site_is_compared_to_its_own_tolerance(site_bundle, tmp_path):
    mine = open_bundle(shutil.copytree(site_bundle.path, tmp_path / "by-hand"))
    golden = load_file(mine.path / GOLDEN)["site"]
    OnnxEmbedder(change_golden(mine, site=golden + np.float32(5e-5)))
    with pytest.raises(BadBundle, match=r"site differs from the exported golden outputs by 0\.001"):
        OnnxEmbedder(change_golden(mine, site=golden + np.float32(1e-3)))
    with pytest.raises(BadBundle, match=r"cannot be compared|site differs"):
        OnnxEmbedder(change_golden(mine, site=golden[1:]))


def test_a_bundle_without_a_golden_site_is_still_opened(site_bundle, tmp_path):
    mine = open_bundle(shutil.copytree(site_bundle.path, tmp_path / "by-hand"))
    OnnxEmbedder(change_golden(mine, site=None))
