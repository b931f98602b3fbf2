"""Claims about the drawn sites: their parameters, their splits, their pixels."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.ndimage import gaussian_filter

from metavae_zoo.cli import main
from metavae_zoo.errors import UnknownName
from metavae_zoo.families import family, scanner
from metavae_zoo.families.scanner import AFFINE, CAMERA, PLAIN, SCANNER, SiteAxis
from metavae_zoo.families.site import Site, render

KINDS = {"affine": AFFINE, "scanner": SCANNER, "camera": CAMERA}
NAMES = [f"{data}-{kind}" for data in ("digits", "mnist") for kind in KINDS]
INSIDE, OUTSIDE = range(36), range(36, 40)

# sha256, shortened, of all sites as JSON: what cards and caches hold stays what was drawn
DRAWN = {"affine": "93886f85631a4663", "scanner": "9784e8fa6f953534", "camera": "97b75fa464569493"}


@pytest.fixture
def images(rng):
    """Strokes: bright and dark pixels, nothing at the border."""
    found = np.zeros((6, 28, 28), np.uint8)
    found[:, 6:22, 6:22] = rng.integers(0, 256, (6, 16, 16))
    return found


def shown(images, side=28, **parameters) -> np.ndarray:
    return render(images, Site(**parameters), (0,), side)


# --- Sites


@pytest.mark.parametrize("name", NAMES)
def test_the_first_twenty_sites_train_and_the_last_twenty_are_held_out(name):
    source = family(name)
    assert source.axis.name == "site"
    assert source.values == tuple(map(float, range(40)))
    split = source.split("contiguous")
    assert split.train_values == source.values[:20]
    assert split.held_out_values == source.values[20:]
    assert list(source.axis.splits) == ["contiguous"]


@pytest.mark.parametrize("name", ["mnist", "digits"])
def test_a_plain_family_is_the_reference_alone(name):
    source = family(name)
    split = source.split("all")
    assert (source.axis.name, split.train_values, split.held_out_values) == ("site", (0.0,), ())
    assert source.reference("all") == 0


@pytest.mark.parametrize("kind", KINDS)
def test_sites_are_those_that_were_drawn(kind):
    axis = KINDS[kind]
    assert scanner.draw_sites(kind) == axis.sites
    drawn = json.dumps([axis.site(value) for value in axis.values])
    assert hashlib.sha256(drawn.encode()).hexdigest()[:16] == DRAWN[kind]


def test_a_site_has_the_same_warp_and_photometry_in_every_kind():
    for number in INSIDE:
        affine, scanned, camera = (axis.sites[number] for axis in KINDS.values())
        assert (affine.warp, affine.shift) == (scanned.warp, scanned.shift)
        optics = {"light": (0.0, 0.0), "blur": 0.0, "perspective": (0.0, 0.0)}
        assert dataclasses.replace(camera, **optics) == scanned


@pytest.mark.parametrize("kind", KINDS)
def test_sites_inside_the_prior_are_inside_it(kind):
    for site in KINDS[kind].sites[1:36]:
        assert not respects_outside(site)
        assert site.outside == ""


@pytest.mark.parametrize(
    ("kind", "respects"),
    [
        ("affine", ["shift", "ratio", "size", "ratio"]),
        ("scanner", ["shift", "ratio", "gamma", "noise"]),
        ("camera", ["shift", "ratio", "gamma", "noise"]),
    ],
)
def test_the_last_four_sites_are_outside_the_prior_in_one_stated_respect(kind, respects):
    axis, words = KINDS[kind], {"size": "geometric mean", "ratio": "half log-ratio"}
    for number, respect in zip(OUTSIDE, respects, strict=True):
        assert respects_outside(axis.sites[number]) == [respect]
        stated = axis.site(float(number))["outside"]
        assert words.get(respect, respect) in stated or stated == "shear of 2"
        assert number in axis.values[20:]


def respects_outside(site: Site) -> list[str]:
    """Where the site leaves the prior that the module's docstring states."""
    larger, smaller = np.linalg.svd(np.array(site.warp), compute_uv=False)
    size, ratio = math.log(larger * smaller) / 2, math.log(larger / smaller) / 2
    inside = {
        "size": -0.75 <= size <= 0.85,
        "ratio": ratio <= 0.85,
        "singular values": math.exp(-0.85) <= smaller <= larger <= math.exp(1.35),
        "shift": max(map(abs, site.shift)) <= 2,
        "gamma": -1 <= math.log(site.gamma) <= 0.9,
        "contrast": 0.3 <= site.contrast <= 1,
        "background": 0 <= site.background <= 0.5,
        "noise": 0 <= site.noise <= 0.04,
        "light": math.hypot(*site.light) <= 0.5,
        "blur": 0 <= site.blur <= 1.2,
        "perspective": max(map(abs, site.perspective)) <= 0.3,
    }
    return [respect for respect, within in inside.items() if not within]


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_survive_as_json(kind):
    axis = KINDS[kind]
    for value, site in zip(axis.values, axis.sites, strict=True):
        read: dict[str, Any] = json.loads(json.dumps(axis.site(value)))
        for name in ("shift", "light", "perspective"):
            read[name] = tuple(read[name])
        read["warp"] = tuple(map(tuple, read["warp"]))
        assert Site(**read) == site
    assert family("digits-rotation").axis.site(20.0) == {}


@pytest.mark.parametrize("axis", [*KINDS.values(), PLAIN])
def test_only_the_reference_changes_nothing(axis: SiteAxis):
    assert axis.change(0.0) == 0
    assert all(axis.change(value) > 0 for value in axis.values[1:])
    np.testing.assert_array_equal(axis.matrix(0.0), np.eye(2, 3))


@pytest.mark.parametrize("value", [-1.0, 40.0, 1.5, math.nan])
def test_a_site_that_does_not_exist_is_one_clear_error(value):
    for ask in (CAMERA.matrix, CAMERA.site, CAMERA.change):
        with pytest.raises(UnknownName, match=r"no site .*the sites are 0 to 39"):
            ask(value)


# --- Pixels


@pytest.mark.parametrize("name", ["digits-affine", "digits-scanner", "digits-camera", "digits"])
def test_site_0_is_the_data_set_as_it_is(name):
    source = family(name)
    for part in ("train", "test"):
        images, labels = source.dataset.load(part, None)
        assert np.array_equal(source.images(0.0, part)[:, 0], images)
        assert np.array_equal(source.labels(part), labels)


@pytest.mark.parametrize("name", ["digits-affine", "digits-scanner", "digits-camera"])
def test_no_held_out_site_equals_a_training_one_on_pixels(name):
    source = family(name)
    split = source.split("contiguous")
    seen = source.images_at(split.train_values, "test")
    for held in source.images_at(split.held_out_values, "test"):
        assert held.shape == (500, 1, 28, 28)
        for images in seen:
            assert (held != images).any(axis=(1, 2, 3)).mean() > 0.95


def test_an_image_has_the_same_bits_on_every_call_and_in_every_number(images):
    many = np.repeat(images, 1000, axis=0)  # more than is rendered at a time
    for value in (0.0, 3.0, 39.0):
        once = CAMERA.render(many[:5000], value, "train", 28)
        assert np.array_equal(CAMERA.render(many[:5000], value, "train", 28), once)
        assert np.array_equal(CAMERA.render(many[:7], value, "train", 28), once[:7])


def test_noise_is_another_one_at_every_site_and_part(images):
    blank = np.zeros_like(images)
    noisy = [n for n, site in enumerate(SCANNER.sites) if site.noise > 0.02]
    assert len(noisy) > 5
    drawn = []
    for number in noisy:
        for part in ("train", "test"):
            image = SCANNER.render(blank, float(number), part, 28) / 255
            deviation = image - SCANNER.sites[number].background
            assert np.std(deviation) == pytest.approx(SCANNER.sites[number].noise, rel=0.3)
            drawn.append(deviation.ravel())
    correlations = np.corrcoef(drawn) - np.eye(len(drawn))
    assert np.abs(correlations).max() < 0.1


def test_shift_moves_the_image_to_the_right_and_down(images):
    moved = shown(images, shift=(3.0, 1.0))
    assert np.array_equal(moved, np.roll(images, (1, 3), axis=(1, 2)))


def test_matrix_tells_where_a_site_reads_the_reference():
    for axis in KINDS.values():
        for value, site in zip(axis.values, axis.sites, strict=True):
            # The reference's centre is shown at the shift.
            centre = axis.matrix(value) @ [*site.shift, 1]
            np.testing.assert_allclose(centre, 0, atol=1e-12)
            np.testing.assert_array_equal(axis.matrix(value)[:, :2], site.warp)


def test_photometry_is_gamma_then_contrast_over_the_background(images):
    found = shown(images, gamma=1.5, contrast=0.6, background=0.2)
    expected = 0.2 + 0.8 * 0.6 * (images / 255) ** 1.5
    np.testing.assert_allclose(found / 255, expected, atol=0.51 / 255)


def test_light_falls_off_across_the_frame():
    white = np.full((1, 28, 28), 255, np.uint8)
    found = shown(white, light=(0.5, 0.0))[0] / 255
    positions = (np.arange(28) - 13.5) / 14
    np.testing.assert_allclose(found, [0.75 - 0.25 * positions] * 28, atol=0.51 / 255)


def test_blur_is_gaussian_with_a_replicated_border(images):
    images[:, :, 0] = 200
    expected = gaussian_filter(images.astype(float), (0, 1.1, 1.1), mode="nearest")
    np.testing.assert_allclose(shown(images, blur=1.1), expected, atol=0.51)


def test_perspective_reads_p_at_p_over_w_and_replicates_the_border():
    ramp = np.tile(np.arange(28, dtype=np.uint8) * 9, (1, 28, 1))
    h = np.array([-0.3, 0.2])
    found = shown(ramp, perspective=tuple(h))[0]
    y, x = (np.indices((28, 28)) - 13.5) / 14
    read = (x / (1 + h[0] * x + h[1] * y) * 14 + 13.5).clip(0, 27)
    np.testing.assert_allclose(found, read * 9, atol=0.51)
    assert (read == 27).any()  # the border was reached


# --- Cache and command line


def test_sites_are_cached_by_what_they_depend_on():
    axes = KINDS.values()
    keys = [repr(axis.fingerprint(value, "train")) for axis in axes for value in axis.values[1:]]
    assert len(set(keys)) == len(keys)
    references = {repr(axis.fingerprint(0.0, "train")) for axis in (*axes, PLAIN)}
    assert len(references) == 1  # one copy serves all
    assert CAMERA.fingerprint(39.0, "train") != CAMERA.fingerprint(39.0, "test")


@pytest.mark.parametrize(("name", "sites"), [("digits-camera", 40), ("digits", 1)])
def test_the_data_command_knows_the_families(name, sites):
    result = CliRunner().invoke(main, ["data", name])
    assert result.exit_code == 0, result.output
    assert f"1297 training and 500 test images at each of {sites} values" in result.output
