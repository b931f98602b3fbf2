"""Claims about the objectives, each against a value that is known otherwise."""

from __future__ import annotations

import math

import torch
from torch.distributions import Bernoulli, Normal, kl_divergence

from metavae_training.models import Batch, MetaVAE
from metavae_training.models.objectives import DiagonalGaussian, bernoulli_log_likelihood


def test_kl_and_samples_are_those_of_torch_distributions():
    torch.manual_seed(0)
    mean, log_variance = torch.randn(7, 5), torch.randn(7, 5)
    gaussian = DiagonalGaussian(mean, log_variance)
    reference = Normal(mean, (0.5 * log_variance).exp())
    standard = Normal(torch.zeros(5), torch.ones(5))
    torch.testing.assert_close(
        gaussian.kl_to_standard_normal(), kl_divergence(reference, standard).sum(-1)
    )
    other = Normal(torch.randn(7, 5), torch.rand(7, 5) + 0.1)
    to = DiagonalGaussian(other.mean, 2 * other.stddev.log())
    torch.testing.assert_close(gaussian.kl_to(to), kl_divergence(reference, other).sum(-1))
    torch.testing.assert_close(to.kl_to(gaussian), kl_divergence(other, reference).sum(-1))
    noise = torch.randn(7, 5)
    torch.testing.assert_close(gaussian.sample(noise), reference.mean + reference.stddev * noise)


def test_likelihood_is_bernoullis_on_binary_pixels_and_finite_at_any_logit():
    torch.manual_seed(0)
    x = torch.randint(0, 2, (3, 11)).float()
    logits = torch.randn(3, 11)
    torch.testing.assert_close(
        bernoulli_log_likelihood(x, logits), Bernoulli(logits=logits).log_prob(x).sum(-1)
    )
    assert bernoulli_log_likelihood(x, (2 * x - 1) * 1e4).abs().max() == 0


def test_elbo_meets_the_marginal_of_a_linear_gaussian_at_the_exact_posterior_only():
    """x = w z + noise of variance s: log p(x) and the posterior are known in closed form."""
    torch.manual_seed(0)
    w, s, x = torch.tensor(1.7), torch.tensor(0.3), torch.tensor(0.8)
    marginal = Normal(0.0, (w**2 + s).sqrt()).log_prob(x)
    variance = 1 / (1 + w**2 / s)
    exact = DiagonalGaussian((variance * w / s * x).reshape(1), variance.log().reshape(1))
    noise = torch.randn(200_000, 1)

    def bound(posterior: DiagonalGaussian) -> torch.Tensor:
        z = posterior.sample(noise)
        likelihood = Normal(w * z, s.sqrt()).log_prob(x)
        return likelihood.mean() - posterior.kl_to_standard_normal()

    torch.testing.assert_close(bound(exact), marginal, atol=5e-3, rtol=0)
    for shift, widen in ((0.3, 0.0), (0.0, 1.0), (-0.2, -0.7)):
        off = DiagonalGaussian(exact.mean + shift, exact.log_variance + widen)
        assert bound(off) < marginal - 0.02


def test_metavae_elbo_stays_below_the_marginal_likelihood():
    """With one latent number the marginal is an integral that a fine grid gives exactly."""
    torch.manual_seed(0)
    model = MetaVAE(distributions=2, pixels=12, latent_dim=1, hidden=8)
    with torch.no_grad():
        for weights in model.decoders.parameters():
            weights.mul_(3)  # decoders that depend on z, so that the bound is not trivial
    x = torch.rand(2, 1, 4, 12)
    batch = Batch(x, torch.rand(2, 1, 6, 12))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        elbo = torch.stack([model.elbo(batch, generator).value() for _ in range(3000)]).mean(0)
        grid = torch.linspace(-8, 8, 4001)
        logits = model.decoders(grid[None, :, None].expand(2, -1, -1))  # (2, grid, pixel)
        every = logits[:, None].expand(-1, 4, -1, -1)  # (2, query, grid, pixel)
        likelihood = bernoulli_log_likelihood(x[:, 0, :, None].expand_as(every), every)
        joint = likelihood + Normal(0.0, 1.0).log_prob(grid)
        marginal = torch.logsumexp(joint, -1) + math.log(16 / 4000)
    assert (elbo[:, 0] < marginal).all()
