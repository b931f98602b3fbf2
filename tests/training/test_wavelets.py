"""Claims about the wavelet features and the models that start from a closed form."""

from __future__ import annotations

import dataclasses
import fnmatch
from itertools import product

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from metavae_training.models import Batch, WaveletMetaVAE, WaveletPCA
from metavae_training.models.wavelet.code import canonical_directions
from metavae_training.models.wavelet.distortion import RESCALING, ROTATION, SHEAR, distorted
from metavae_training.models.wavelet.transform import WaveletTransform, gabor_filters
from metavae_training.recipes import RECIPES, recipe
from metavae_training.trainer.build import build_model
from metavae_training.trainer.data import batches, load_corpus
from metavae_training.trainer.fit import fit
from metavae_zoo.families import family
from metavae_zoo.families.axes import Axis

pytestmark = pytest.mark.training

PCA_RECIPE = recipe("wavelet-pca-digits-rotation-sparse")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def corpus():
    return load_corpus(PCA_RECIPE, None, CPU)


@pytest.fixture(scope="module")
def fitted(corpus) -> WaveletPCA:
    model = build_model(PCA_RECIPE, distributions=5, pixels=784, seed=0)
    assert isinstance(model, WaveletPCA)
    model.initialise(corpus.train)
    return model


def test_filters_are_blind_to_brightness_and_each_has_its_own_direction():
    filters = gabor_filters(0, 8)
    assert np.abs(filters.sum((1, 2))).max() < 1e-12
    np.testing.assert_allclose(np.abs(filters).sum((1, 2)), 1)
    # Gratings along each filter's direction: its own filter answers the most.
    row, column = np.mgrid[-4:5, -4:5]
    for own, angle in enumerate(np.pi * np.arange(8) / 8):
        grating = np.cos(3 * np.pi / 4 * (column * np.cos(angle) + row * np.sin(angle)))
        assert np.abs((filters * grating).sum((1, 2))).argmax() == own


def test_features_hardly_move_with_a_pixel_of_shift_and_a_turn_permutes_orientations():
    transform = WaveletTransform(784, scales=2, orientations=8)
    assert transform.features == 2 * 8 * 7 * 7
    torch.manual_seed(0)
    image = torch.zeros(1, 28, 28)
    image[0, 8:20, 12:15] = 1
    features = transform(image.flatten(1))
    shifted = transform(image.roll(1, dims=-1).flatten(1))
    pixels = (image - image.roll(1, dims=-1)).norm() / image.norm()
    assert (features - shifted).norm() / features.norm() < 0.6 * pixels
    turned = transform(torch.rot90(image, 1, dims=(1, 2)).flatten(1))
    energy, turned_energy = (one.view(2, 8, 49).mean(-1) for one in (features, turned))
    torch.testing.assert_close(turned_energy, energy.roll(4, dims=1), rtol=0.1, atol=1e-3)


def test_batches_of_any_shape_give_the_same_features():
    transform = WaveletTransform(784, scales=3, orientations=8)
    x = torch.rand(2, 3, 5, 784)
    torch.testing.assert_close(transform(x)[1, 2, 4], transform(x[1, 2, 4]))


def test_wavelet_pca_is_pca_with_components_of_about_unit_variance(fitted, corpus):
    images = corpus.train.flatten(0, 1)
    features = fitted.wavelets(images.float() / 255).double().numpy()
    reference = PCA(40, svd_solver="full").fit(features)
    codes = fitted.posterior(images.float() / 255, torch.zeros(0)).mean.detach().double().numpy()
    expected = reference.transform(features) / np.sqrt(reference.explained_variance_)
    ratio = codes[:, ::-1].std(0)
    correlation = [
        abs(np.corrcoef(one, other)[0, 1])
        for one, other in zip(codes[:, ::-1].T, expected.T, strict=True)
    ]
    assert min(correlation) > 0.9999
    assert (ratio < 1).all()
    assert (ratio > 0.8).all()


def test_wavelet_pcas_bound_is_the_exact_marginal(fitted, corpus):
    """Its posterior is exact, so the bound is the log density of probabilistic PCA."""
    images = corpus.train[:, :40].flatten(0, 1).float() / 255
    features = fitted.wavelets(images)
    batch = Batch(images[None, None], images[None, None, :1])
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        bound = torch.stack([fitted.elbo(batch, generator).value() for _ in range(200)])
        weight = fitted.decoder.weight.double()
        noise = fitted.log_noise.exp().double()
        covariance = weight @ weight.T + noise * torch.eye(len(weight), dtype=torch.float64)
        marginal = torch.distributions.MultivariateNormal(
            fitted.decoder.bias.double(), covariance
        ).log_prob(features.double())
    np.testing.assert_allclose(bound.mean(0).flatten(), marginal, rtol=0, atol=2)
    assert abs(float(bound.mean() - marginal.mean())) < 0.2


def test_a_model_in_closed_form_is_fitted_by_no_epoch(tmp_path):
    checkpoint = fit(PCA_RECIPE, out=tmp_path)
    assert checkpoint.epoch == checkpoint.best_epoch == 0
    again = fit(PCA_RECIPE, out=tmp_path)
    assert torch.equal(again.best["encoder.weight"], checkpoint.best["encoder.weight"])


def test_directions_are_those_that_two_views_share():
    """Features 0 and 1 are the same in both views, the others are noise of larger variance."""
    torch.manual_seed(0)
    shared = torch.randn(20_000, 2, dtype=torch.float64)
    views = [torch.cat([shared, 2 * torch.randn(20_000, 4).double()], dim=1) for _ in "ab"]
    total = sum(view.T @ view for view in views) / 40_000
    cross = views[0].T @ views[1] / 20_000
    directions, correlation = canonical_directions(torch.as_tensor(total), (cross + cross.T) / 2, 2)
    assert (correlation > 0.95).all()
    assert directions[2:].abs().max() < 0.05
    unit = directions.T @ torch.as_tensor(total) @ directions
    torch.testing.assert_close(unit.diagonal(), torch.ones(2, dtype=torch.float64))


def test_distortions_are_small_and_repeat_under_one_seed():
    image = torch.zeros(1, 28, 28)
    image[0, 10:18, 10:18] = 1
    x = image.flatten(1).expand(500, -1)
    moved = distorted(x, 28, torch.Generator().manual_seed(0))
    again = distorted(x, 28, torch.Generator().manual_seed(0))
    assert torch.equal(moved, again)
    assert not torch.equal(moved[0], moved[1])
    column = torch.arange(28.0).repeat(28)
    centre = (moved * column).sum(1) / moved.sum(1)
    assert (centre - 13.5).abs().max() < 2
    # A scale of up to 1.12 each way, and what shear adds.
    assert (moved.sum(1) / 64).min() > 0.7
    assert (moved.sum(1) / 64).max() < 1.4


def test_the_networks_of_wavelet_metavae_start_from_zero_and_use_the_context_when_trained(
    corpus,
):
    short = dataclasses.replace(recipe("wavelet-metavae-digits-rotation-sparse"), epochs=2)
    model = build_model(short, distributions=5, pixels=784, seed=0)
    assert isinstance(model, WaveletMetaVAE)
    model.initialise(corpus.train)
    x = corpus.train[0, :50].float() / 255
    one, other = torch.zeros(model.feature_dim), torch.ones(model.feature_dim)
    assert torch.equal(model.posterior(x, one).mean, model.posterior(x, other).mean)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    for batch in batches(
        corpus.train, batch_size=100, sets=4, context_sizes=(5, 50), generator=generator
    ):
        optimizer.zero_grad()
        (-model.elbo(batch, generator).value().mean()).backward()
        optimizer.step()
    assert not torch.equal(model.posterior(x, one).mean, model.posterior(x, other).mean)


@pytest.mark.parametrize("moved", [0.0, 0.3])
def test_wavelet_metavaes_bound_is_below_the_marginal_of_the_canonical_variates(corpus, moved):
    """Its decoders are linear at the start, so that the marginal is known: a Gaussian.

    That holds for any encoder: as it starts, and with its parameters moved at random.
    """
    short = recipe("wavelet-metavae-digits-rotation-sparse")
    model = build_model(short, distributions=5, pixels=784, seed=0)
    assert isinstance(model, WaveletMetaVAE)
    model.initialise(corpus.train)
    generator = torch.Generator().manual_seed(0)
    x = corpus.train[:, :6].float()[:, None] / 255  # [distribution, set, image, pixel]
    with torch.no_grad():
        for parameter in (model.linear_path.weight, model.linear_path.bias, model.log_variance):
            spread = parameter.std(correction=0) + 0.1
            parameter += moved * spread * torch.randn(parameter.shape, generator=generator)
        batch = Batch(x, x)
        draws = [model.elbo(batch, generator).value() for _ in range(300)]
        bound = torch.stack(draws).double().mean(0)
        weight = model.decoder_path.weight.double()
        covariance = weight @ weight.T + model.log_noise.double().exp().diag()
        variates = model._standardised(x) @ model.directions
        marginal = torch.distributions.MultivariateNormal(
            model.decoder_path.bias.double(), covariance
        ).log_prob(variates.double())
    assert (bound < marginal).all()
    assert marginal.mean() - bound.mean() > 1, "the encoder sees distorted images"


# Drawn sites lie as near each other as they were drawn: the claim is of values on a line.
ON_A_LINE = [
    name
    for name in fnmatch.filter(RECIPES, "wavelet-metavae-*")
    if family(RECIPES[name].family).axis.name != "site"
]


@pytest.mark.parametrize("name", ON_A_LINE)
def test_no_distortion_makes_a_held_out_distribution_of_a_training_one(name):
    recipe = RECIPES[name]
    source, rescaling = family(recipe.family), recipe.model_settings.get("rescaling", RESCALING)
    for value, other in product(recipe.values, source.split(recipe.split).held_out_values):
        assert not reaches(source.axis, value, other, rescaling), (value, other)


def test_a_distortion_that_does_reach_another_value_is_noticed():
    scale = family("mnist-scale").axis
    assert reaches(scale, 1.2, 1.3, 0.12)
    assert not reaches(scale, 1.2, 1.3, 0.05)
    assert reaches(family("mnist-rotation").axis, 0.0, 0.0, 0.0)


def reaches(axis: Axis, value: float, other: float, rescaling: float) -> bool:
    """Whether some distortion of images at a value gives those at the other one.

    An image at a value samples the base image at M p, its distortion at M A p.
    """
    change = np.linalg.inv(axis.matrix(value)[:, :2]) @ axis.matrix(other)[:, :2]
    angle, width = np.arctan2(change[1, 0], change[0, 0]), np.hypot(*change[:, 0])
    turn_back = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    shear, height = turn_back @ change[:, 1]
    within = [
        abs(angle) <= ROTATION,
        abs(width - 1) <= rescaling,
        abs(height - 1) <= rescaling,
        abs(shear) <= SHEAR,
    ]
    return all(within)
