"""Claims about the models, each against a value that is known otherwise."""

from __future__ import annotations

import dataclasses
import json
import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import (
    Categorical,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    kl_divergence,
)

from metavae_training.models import MODELS, Batch, Model
from metavae_training.models.hierarchical import HierarchicalModel
from metavae_training.models.objectives import DiagonalGaussian, Elbo
from metavae_training.models.vampprior import VampPriorVHE, mixture_log_density
from metavae_training.recipes import RECIPES, recipe
from metavae_training.trainer.build import build_model, build_optimizer
from metavae_training.trainer.epochs import train_step
from metavae_training.trainer.fit import LOG, fit

pytestmark = pytest.mark.training

PAPER = ("metavae", "vae", "vae-single", "neural-statistician", "vhe", "vhe-vampprior")
HIERARCHICAL = ("neural-statistician", "vhe", "vhe-vampprior")
LATENT = 2
PIXELS = 3
SET = 4  # images in a toy set
NOISE = 0.3  # variance of a toy pixel


def toy(name: str) -> Model:
    """A small model whose generative half is linear and Gaussian, and its encoder at random."""
    settings = {"hidden": 8, "latent_dim": LATENT}
    if name in HIERARCHICAL:
        settings["context_dim"] = 2
    if name == "vhe-vampprior":
        settings["pseudo_sets"] = 3
    torch.manual_seed(7)
    model = MODELS[name](distributions=2, pixels=PIXELS, **settings)
    model.log_likelihood = gaussian_log_likelihood  # type: ignore[assignment]
    if isinstance(model, HierarchicalModel):
        model.latent_prior = LinearPrior()
        model.decoder = nn.Linear(LATENT + 2, PIXELS, bias=False)
    elif name == "metavae":
        model.decoders = nn.Linear(LATENT, PIXELS, bias=False)
    else:
        model.decoder = nn.Linear(LATENT, PIXELS, bias=False)
    return model


class LinearPrior(nn.Module):
    """p(z | c) with a mean that is linear in c and a variance of 0.5."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Linear(2, LATENT, bias=False)

    def forward(self, c: Tensor) -> Tensor:
        mean = self.mean(c)
        return torch.cat([mean, torch.full_like(mean, math.log(0.5))], dim=-1)


def gaussian_log_likelihood(x: Tensor, mean: Tensor) -> Tensor:
    return Normal(mean, NOISE**0.5).log_prob(x).sum(-1)


def log_marginal(model: Model, sets: Tensor) -> Tensor:
    """log p of sets [D, S, SET, pixel] under a toy, exactly: [D, S]."""
    eye = torch.eye(PIXELS)
    if not isinstance(model, HierarchicalModel):
        weight = next(model.get_submodule(DECODER[type(model).__name__]).parameters())
        covariance = weight @ weight.T + NOISE * eye
        return MultivariateNormal(torch.zeros(PIXELS), covariance).log_prob(sets).sum(-1)
    assert isinstance(model.latent_prior, LinearPrior)
    assert isinstance(model.decoder, nn.Linear)
    of_z, of_c = model.decoder.weight.split([LATENT, 2], dim=1)
    through_c = of_z @ model.latent_prior.mean.weight + of_c
    own = 0.5 * of_z @ of_z.T + NOISE * eye
    if isinstance(model, VampPriorVHE):
        # A mixture over pseudo-sets: each component is Gaussian.
        prior = model.q_c(model.features(model.pseudo_inputs.clamp(0, 1)).mean(-2))
        components = [
            set_density(through_c, own, mean, log_variance.exp(), sets)
            for mean, log_variance in zip(prior.mean, prior.log_variance, strict=True)
        ]
        return torch.stack(components).logsumexp(0) - math.log(len(components))
    return set_density(through_c, own, torch.zeros(2), torch.ones(2), sets)


DECODER = {"MetaVAE": "decoders", "VAE": "decoder"}


def set_density(
    through_c: Tensor, own: Tensor, mean: Tensor, variance: Tensor, sets: Tensor
) -> Tensor:
    """log N of whole sets: their images share c ~ N(mean, variance), seen through a matrix."""
    shared = through_c @ torch.diag(variance) @ through_c.T
    covariance = torch.block_diag(*[own] * SET) + shared.repeat(SET, SET)
    joint = MultivariateNormal((through_c @ mean).repeat(SET), covariance)
    return joint.log_prob(sets.flatten(-2))


@pytest.mark.parametrize("name", PAPER)
def test_the_bound_is_below_the_marginal_of_a_linear_gaussian_toy(name):
    model = toy(name)
    generator = torch.Generator().manual_seed(0)
    sets = torch.rand(2, 3, SET, PIXELS, generator=generator)
    batch = Batch(sets, sets if name == "neural-statistician" else torch.rand(2, 3, SET, PIXELS))
    with torch.no_grad():
        draws = [model.elbo(batch, generator).value().sum(-1) for _ in range(4000)]
        bound, marginal = torch.stack(draws).mean(0), log_marginal(model, sets)
    assert (bound < marginal).all()


@pytest.mark.parametrize("name", PAPER)
def test_training_brings_the_bound_of_a_toy_near_its_marginal(name):
    """Were the bound of something else, its maximum would lie elsewhere."""
    model = toy(name)
    for part in ("decoder", "decoders", "latent_prior"):
        if hasattr(model, part):
            getattr(model, part).requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    sets = torch.rand(2, 3, SET, PIXELS, generator=generator)
    batch = Batch(sets, sets)  # c is of the very images, so that a bound can be tight
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 3e-3)

    def gap(draws: int) -> float:
        with torch.no_grad():
            bounds = [model.elbo(batch, generator).value().sum(-1) for _ in range(draws)]
            return float((log_marginal(model, sets) - torch.stack(bounds).mean(0)).mean())

    before = gap(1000)
    for _ in range(600):
        optimizer.zero_grad()
        (-model.elbo(batch, generator).value().mean()).backward()
        optimizer.step()
    after = gap(4000)
    assert 0 < after < 0.35 * before


@pytest.mark.parametrize(
    ("name", "nats"),
    [*((name, 50) for name in PAPER), ("wavelet-metavae", 5)],  # which starts near its optimum
)
def test_training_improves_the_selection_metric(name, nats, tmp_path):
    short = dataclasses.replace(
        RECIPES[f"{name}-digits-rotation-sparse"], epochs=3, kl_warm_up_epochs=0
    )
    checkpoint = fit(short, out=tmp_path)
    lines = [json.loads(line) for line in (tmp_path / LOG).read_text().splitlines()]
    elbos = [line["validation_elbo"] for line in lines]
    assert [line["epoch"] for line in lines] == [0, 1, 2, 3]
    assert elbos[3] > elbos[0] + nats
    assert checkpoint.best_validation_elbo == pytest.approx(max(elbos), abs=1e-3)


@pytest.mark.parametrize("name", [*PAPER, "wavelet-metavae"])
def test_every_parameter_is_trained(name):
    """Networks that the bound does not reach, or only by what it does not learn from, would not."""
    settings = RECIPES[f"{name}-digits-rotation-sparse"]
    model = build_model(settings, distributions=2, pixels=784, seed=0)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (2, 300, 784), generator=generator, dtype=torch.uint8)
    model.initialise(images)
    optimizer = build_optimizer(model, settings)
    rows = images[:, :240].float().div(255).unflatten(1, (4, -1))
    for _ in range(2):  # what starts at 0 lets nothing through at first
        train_step(model, optimizer, Batch(rows, rows.flip(0)), generator, "fp32", 1.0)
    unmoved = [
        at
        for at, parameter in model.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.any())
    ]
    assert unmoved == []
    assert any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("name", [*PAPER, "wavelet-metavae"])
def test_the_bound_is_the_sum_of_its_logged_terms(name, tmp_path):
    fit(dataclasses.replace(RECIPES[f"{name}-digits-rotation-sparse"], epochs=1), out=tmp_path)
    line = json.loads((tmp_path / LOG).read_text().splitlines()[-1])
    without_c = line["validation_log_likelihood"] - line["validation_kl_z"]
    if name in HIERARCHICAL:
        assert line["validation_kl_c"] > 0
        assert line["validation_elbo"] < without_c
    else:
        assert line["validation_kl_c"] == 0
        assert line["validation_elbo"] == pytest.approx(without_c, abs=1e-3)


@pytest.mark.parametrize("name", HIERARCHICAL)
@pytest.mark.parametrize("size", [3, 7])
def test_an_image_bears_one_nth_of_kl_c(name, size):
    """Eq. 13, with N the size of the set that c is inferred from."""
    elbo = elbo_of_toy(name, size)
    assert elbo.kl_c is not None
    expected = elbo.log_likelihood - elbo.kl_z - elbo.kl_c / size
    torch.testing.assert_close(elbo.value(), expected)
    warm = elbo.log_likelihood - 0.25 * (elbo.kl_z + elbo.kl_c / size)
    torch.testing.assert_close(elbo.value(0.25), warm)


@pytest.mark.parametrize("name", HIERARCHICAL)
def test_kl_z_is_of_the_posterior_to_the_prior_that_c_gives(name):
    """Both Gaussians and their divergence by hand, at the sample of c that the bound draws."""
    torch.manual_seed(0)
    model = MODELS[name](distributions=2, pixels=PIXELS, hidden=8)
    assert isinstance(model, HierarchicalModel)
    queries, contexts = torch.rand(2, 1, 6, PIXELS), torch.rand(2, 1, 4, PIXELS)
    elbo = model.elbo(Batch(queries, contexts), torch.Generator().manual_seed(0))
    x = contexts if name == "neural-statistician" else queries
    pooled = model.summary_network(contexts).mean(dim=-2, keepdim=True)
    c = model.q_c(pooled).draw(torch.Generator().manual_seed(0))
    posterior, prior = (
        normal(gaussian)
        for gaussian in (
            model.aggregation_network(x, c),
            DiagonalGaussian.of_parameters(model.latent_prior(c)),
        )
    )
    torch.testing.assert_close(elbo.kl_z, kl_divergence(posterior, prior).sum(-1))


def normal(gaussian: DiagonalGaussian) -> Normal:
    return Normal(gaussian.mean, (0.5 * gaussian.log_variance).exp())


def test_the_vampprior_is_the_mixture_of_what_its_pseudo_sets_give():
    """KL(c) against torch's own mixture, of posteriors made by hand from three pseudo-sets."""
    torch.manual_seed(0)
    model = MODELS["vhe-vampprior"](
        distributions=1, pixels=PIXELS, hidden=8, context_dim=4, pseudo_sets=3, pseudo_set_size=2
    )
    assert isinstance(model, VampPriorVHE)
    torch.nn.init.uniform_(model.pseudo_inputs)
    q_c = DiagonalGaussian(torch.randn(7, 4), torch.randn(7, 4))
    c = q_c.draw(torch.Generator().manual_seed(0))
    features = model.summary_network(model.pseudo_inputs).mean(dim=1)
    parts = DiagonalGaussian.of_parameters(model.context_posterior(features))
    prior = MixtureSameFamily(Categorical(torch.ones(3)), Independent(normal(parts), 1))
    expected = normal(q_c).log_prob(c).sum(-1) - prior.log_prob(c)
    torch.testing.assert_close(model.kl_c(q_c, c), expected, rtol=1e-4, atol=1e-4)


def test_the_scale_of_kl_c_is_a_setting():
    elbo = elbo_of_toy("vhe", 5, kl_c_scale=1.0)
    assert elbo.kl_c is not None
    torch.testing.assert_close(elbo.value(), elbo.log_likelihood - elbo.kl_z - elbo.kl_c)


def elbo_of_toy(name: str, context_size: int, **settings: float) -> Elbo:
    torch.manual_seed(0)
    model = MODELS[name](distributions=2, pixels=PIXELS, hidden=8, **settings)
    batch = Batch(torch.rand(2, 1, 6, PIXELS), torch.rand(2, 1, context_size, PIXELS))
    return model.elbo(batch, torch.Generator().manual_seed(0))


def test_the_statistician_explains_the_set_that_it_saw_and_no_other():
    torch.manual_seed(0)
    model = MODELS["neural-statistician"](distributions=1, pixels=PIXELS, hidden=8)
    contexts = torch.rand(1, 2, 5, PIXELS)
    values = [
        model.elbo(Batch(queries, contexts), torch.Generator().manual_seed(0)).value()
        for queries in (torch.zeros(1, 2, 4, PIXELS), torch.ones(1, 2, 4, PIXELS))
    ]
    torch.testing.assert_close(values[0], values[1], rtol=0, atol=0)
    assert values[0].shape == (1, 2, 5)


def test_pseudo_inputs_are_images():
    """What training takes out of [0, 1] counts as the end that it has passed."""
    model = MODELS["vhe-vampprior"](distributions=1, pixels=PIXELS, hidden=8, pseudo_sets=5)
    assert isinstance(model, VampPriorVHE)
    q_c = model.q_c(model.features(torch.rand(2, 4, PIXELS)).mean(-2))
    outside = 4 * torch.rand(model.pseudo_inputs.shape) - 2

    def kl(pseudo_inputs: Tensor) -> Tensor:
        with torch.no_grad():
            model.pseudo_inputs.copy_(pseudo_inputs)
            return model.kl_c(q_c, q_c.mean)

    assert ((outside < 0) | (outside > 1)).any()
    torch.testing.assert_close(kl(outside), kl(outside.clamp(0, 1)))
    assert not torch.allclose(kl(outside), kl(outside.clamp(0.2, 0.8)))


def test_the_vampprior_starts_as_stated_and_is_a_mixture_of_posteriors():
    model = build_model(
        recipe("vhe-vampprior-mnist-rotation-contiguous"), distributions=10, pixels=784, seed=0
    )
    assert isinstance(model, VampPriorVHE)
    assert model.pseudo_inputs.shape == (500, 1, 784)
    assert model.pseudo_inputs.mean().item() == pytest.approx(0.05, abs=1e-3)
    assert model.pseudo_inputs.std().item() == pytest.approx(0.01, abs=1e-3)

    torch.manual_seed(0)
    components = DiagonalGaussian(5 + torch.randn(6, 300), torch.randn(6, 300) - 2)
    value = 5 + torch.randn(2, 3, 300)
    each = torch.stack(
        [
            Normal(mean, (0.5 * log_variance).exp()).log_prob(value).sum(-1)
            for mean, log_variance in zip(components.mean, components.log_variance, strict=True)
        ]
    )
    torch.testing.assert_close(
        mixture_log_density(components, value), each.logsumexp(0) - math.log(6), rtol=1e-4, atol=0.1
    )


def test_all_models_see_images_and_contexts_through_the_same_networks():
    """What the comparison is of: the objective, not the size of a trunk."""
    models = {
        name: build_model(
            recipe(f"{name}-mnist-rotation-contiguous"), distributions=10, pixels=784, seed=0
        )
        for name in PAPER
    }
    summaries = {
        name: [tuple(p.shape) for p in model.get_submodule("summary_network").parameters()]
        for name, model in models.items()
        if model.feature_dim
    }
    assert set(summaries) == {"metavae", *HIERARCHICAL}
    for one, other in pairwise(summaries.values()):
        assert one == other
    assert all(model.latent_dim == 40 for model in models.values())


def test_settings_are_the_same_for_all_models_of_a_family():
    fields = [
        {
            name: value
            for name, value in RECIPES[f"{model}-mnist-skew-sparse"].to_dict().items()
            if name not in ("name", "model", "train_values", "weights")
        }
        for model in PAPER
    ]
    assert all(one == fields[0] for one in fields)


def test_the_singly_amortised_vae_is_trained_on_one_ordinary_distribution():
    chosen = {name: one.values for name, one in RECIPES.items() if one.model == "vae-single"}
    assert all(len(values) == 1 for values in chosen.values())
    assert chosen["vae-single-mnist-rotation-contiguous"] == (0.0,)
    assert chosen["vae-single-mnist-scale-contiguous"] == (1.0,)
    assert chosen["vae-single-mnist-skew-interleaved"] in ((-20.0,), (20.0,))
