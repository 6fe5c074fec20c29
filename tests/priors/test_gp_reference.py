import math

import numpy as np
import pytest
import scipy.stats
import torch

from priors import GPPrior, TaskShape
from priors.distributions import Gamma, Uniform
from priors.gp import gp_posterior
from priors.gp_reference import sample_hyperparameters

HYPER = GPPrior.with_hyperpriors()


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def one_task(prior, n, n_features, seed=0):
    """x, y, x_query, y_query, in float64; five queries."""
    batch = prior.sample(TaskShape(1, n + 5, n_features, n), generator=seeded(seed))
    x, y = batch.x[0].double(), batch.y[0].double()
    return x[:n], y[:n], x[n:], y[n:]


def test_known_hyperparameters_give_the_exact_posterior():
    prior = GPPrior(noise=0.01)
    x, y, x_query, y_query = one_task(prior, 8, 2)
    draws = sample_hyperparameters(prior, x, y, generator=seeded(), n_draws=100)
    exact = gp_posterior(x, y, x_query, lengthscale=0.6, outputscale=1.0, noise=0.01)
    normal = torch.distributions.Normal(exact.mean, exact.variance.sqrt())
    predictive = draws.predict("rbf", x, y, x_query)
    torch.testing.assert_close(predictive.log_prob(y_query), normal.log_prob(y_query))
    torch.testing.assert_close(predictive.mean, exact.mean)
    assert draws.log_evidence == pytest.approx(exact.log_marginal_likelihood.item())


def quadrature(prior, task, name, values, weights):
    """Log evidence and log predictive density of the queries; the hyper-parameter `name` takes `values` (S,)."""
    x, y, x_query, y_query = task
    count = len(values)
    hyper = {"lengthscale": prior.lengthscale, "outputscale": prior.outputscale, "noise": prior.noise}
    hyper[name] = values.unsqueeze(1) if name == "lengthscale" else values
    posterior = gp_posterior(*(v.expand(count, *v.shape) for v in (x, y, x_query)), kernel=prior.kernel, **hyper)
    log_weight = weights.log() + posterior.log_marginal_likelihood
    density = torch.distributions.Normal(posterior.mean, posterior.variance.sqrt()).log_prob(y_query)
    evidence = log_weight.logsumexp(0)
    return evidence.item(), ((log_weight - evidence).unsqueeze(1) + density).logsumexp(0)


@pytest.mark.parametrize("n_rounds", [0, 3])
def test_agrees_with_quadrature_over_the_lengthscale(n_rounds):
    prior = GPPrior(lengthscale=Gamma(3.0, 6.0), noise=0.01)
    task = one_task(prior, 10, 1)
    log_values = torch.linspace(math.log(1e-3), math.log(6.0), 4001, dtype=torch.float64)
    values = log_values.exp()
    weights = torch.from_numpy(scipy.stats.gamma(3.0, scale=1 / 6.0).pdf(values.numpy())) * values * log_values.diff()[0]
    evidence, log_prob = quadrature(prior, task, "lengthscale", values, weights)
    draws = sample_hyperparameters(prior, *task[:2], generator=seeded(), n_draws=20_000, n_rounds=n_rounds)
    tolerance = 4 * draws.effective_size**-0.5
    assert draws.log_evidence == pytest.approx(evidence, abs=tolerance)
    predicted = draws.predict(prior.kernel, *task[:3]).log_prob(task[3])
    torch.testing.assert_close(predicted, log_prob, rtol=0, atol=tolerance)


@pytest.mark.parametrize("true_noise", [1e-6, 0.05])
def test_noise_has_an_atom_at_the_floor_and_a_density_above(true_noise):
    """Half of the law Gamma(0.05, 1) is below 1e-6; quadrature over the rest, and one more point for the atom."""
    law = Gamma(0.05, 1.0)
    task = one_task(GPPrior(noise=true_noise), 6, 1)
    prior = GPPrior(noise=law)
    log_values = torch.linspace(math.log(1e-6), math.log(30.0), 4001, dtype=torch.float64)
    above = torch.from_numpy(scipy.stats.gamma(0.05).pdf(log_values.exp().numpy())) * log_values.exp() * log_values.diff()[0]
    values = torch.cat([torch.tensor([1e-6], dtype=torch.float64), log_values.exp()])
    weights = torch.cat([torch.tensor([scipy.stats.gamma(0.05).cdf(1e-6)]), above])
    assert weights.sum().item() == pytest.approx(1, abs=1e-3)
    evidence, log_prob = quadrature(prior, task, "noise", values, weights)
    draws = sample_hyperparameters(prior, *task[:2], generator=seeded(), n_draws=20_000)
    assert draws.log_evidence == pytest.approx(evidence, abs=0.05)
    torch.testing.assert_close(draws.predict("rbf", *task[:3]).log_prob(task[3]), log_prob, rtol=0, atol=0.05)


def test_noise_that_is_improbable_a_priori_is_found():
    x = torch.rand(30, 1, generator=seeded(), dtype=torch.float64)
    y = torch.sin(4 * x[:, 0]) + 0.5 * torch.randn(30, generator=seeded(1), dtype=torch.float64)
    draws = sample_hyperparameters(HYPER, x, y, generator=seeded())
    is_above = draws.hyper.noise > 2e-6 * draws.hyper.outputscale
    assert draws.log_weight[is_above].exp().sum() > 0.99
    assert draws.effective_size > 50
    assert draws.log_weight.exp() @ draws.hyper.noise == pytest.approx(0.25, abs=0.1)


def test_adaptation_raises_the_effective_size():
    sizes = {}
    for n_rounds in (0, 3):
        tasks = [one_task(HYPER, 30, 3, seed) for seed in range(5)]
        sizes[n_rounds] = [
            sample_hyperparameters(HYPER, x, y, generator=seeded(), n_rounds=n_rounds, n_draws=2048).effective_size
            for x, y, _, _ in tasks
        ]
    assert min(sizes[3]) > 500
    assert np.mean(sizes[3]) > 5 * np.mean(sizes[0])


def test_same_seed_gives_the_same_draws():
    x, y, _, _ = one_task(HYPER, 10, 2)
    first, second = (sample_hyperparameters(HYPER, x, y, generator=seeded(), n_draws=64) for _ in range(2))
    assert torch.equal(first.log_weight, second.log_weight)
    assert torch.equal(first.hyper.lengthscale, second.hyper.lengthscale)


def test_laws_other_than_gamma_are_refused():
    prior = GPPrior(lengthscale=Uniform(0.1, 1.0))
    with pytest.raises(ValueError, match="lengthscale=Uniform"):
        sample_hyperparameters(prior, torch.rand(3, 1), torch.rand(3), generator=seeded())
