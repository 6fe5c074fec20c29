import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, DotProduct, WhiteKernel
from sklearn.linear_model import BayesianRidge

from priors import TaskShape
from priors.distributions import LogUniform
from priors.draw import Draw
from priors.linear import ConjugateLinearPrior, DirichletPrior, LinearPrior, StudentT


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def split(batch):
    """Context x and y, query x and y."""
    n = batch.n_context
    return batch.x[:, :n], batch.y[:, :n], batch.x[:, n:], batch.y[:, n:]


@pytest.mark.parametrize("n_context", [3, 20])
def test_posterior_agrees_with_a_gaussian_process_of_linear_kernel(n_context):
    prior = LinearPrior(weight_variance=2.0, bias_variance=3.0, noise=0.2)
    x, y, query, _ = (part[0] for part in split(prior.sample(TaskShape(1, 30, 5, n_context), generator=seeded())))
    kernel = ConstantKernel(2.0) * DotProduct((3.0 / 2.0) ** 0.5) + WhiteKernel(0.2)
    oracle = GaussianProcessRegressor(kernel, optimizer=None, alpha=0.0).fit(x.double().numpy(), y.double().numpy())
    mean, std = oracle.predict(query.double().numpy(), return_std=True)
    ours = prior.posterior(x, y, query)
    np.testing.assert_allclose(ours[0], mean, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(ours[1], std**2, rtol=1e-6)


def test_posterior_agrees_with_bayesian_ridge_at_the_precisions_it_found():
    x = torch.randn(40, 3, generator=seeded()).double()
    y = x @ torch.tensor([1.0, -2.0, 0.5]).double() + 0.3 * torch.randn(40, generator=seeded(1)).double()
    ridge = BayesianRidge(fit_intercept=False).fit(x[:30].numpy(), y[:30].numpy())
    prior = LinearPrior(weight_variance=float(1 / ridge.lambda_), bias_variance=0.0, noise=float(1 / ridge.alpha_))
    mean, variance = prior.posterior(x[:30], y[:30], x[30:])
    expected_mean, expected_std = ridge.predict(x[30:].numpy(), return_std=True)
    np.testing.assert_allclose(mean, expected_mean, rtol=1e-3, atol=1e-4)   # its last update of α and λ follows the weights
    np.testing.assert_allclose(variance.sqrt(), expected_std, rtol=1e-3)


@pytest.mark.parametrize("is_correlated", [False, True])
def test_targets_are_spread_as_the_posterior_says(is_correlated):
    prior = LinearPrior(0.5, 2.0, is_correlated, noise=0.3)
    x, y, query, target = split(prior.sample(TaskShape(3000, 8, 4, 7), generator=seeded()))
    mean, variance = prior.posterior(x, y, query)
    assert scipy.stats.kstest(((target - mean) / variance.sqrt()).flatten().numpy(), "norm").pvalue > 1e-3


def test_without_noise_the_error_is_that_of_the_minimum_norm_solution():
    """E[(y - ŷ)²] = d - n for x, w ~ N(0, I): n of d directions are known; none is left at n = d."""
    prior, d = LinearPrior(bias_variance=0.0, noise=0.0), 10
    for n in (0, 4, 9):
        x, y, query, target = split(prior.sample(TaskShape(4000, n + 1, d, n), generator=seeded(n)))
        mean, variance = prior.posterior(x, y, query)
        squared = (target - mean).square()
        assert abs(squared.mean() - (d - n)) < 4 * squared.std() / 4000**0.5
        assert abs(variance.mean() - (d - n)) < 4 * variance.std() / 4000**0.5 + 1e-9
    x, y, query, target = split(prior.sample(TaskShape(50, 16, d, 12), generator=seeded()))
    torch.testing.assert_close(prior.posterior(x, y, query)[0], target.double(), rtol=1e-3, atol=1e-3)


def test_hyper_parameters_are_drawn_for_every_task():
    prior = LinearPrior(weight_variance=LogUniform(0.1, 10.0), bias_variance=0.0, noise=LogUniform(1e-4, 1.0))
    batch = prior.sample(TaskShape(3000, 2, 3, 1), generator=seeded())
    expected = batch.x[:, 0].square().sum(1) * LogUniform(0.1, 10.0).mean + LogUniform(1e-4, 1.0).mean
    excess = batch.y[:, 0].square() - expected
    assert abs(excess.mean()) < 4 * excess.std() / 3000**0.5
    assert scipy.stats.kurtosis(batch.y[:, 0].numpy()) > 3          # scales vary between tasks


def test_correlated_features_have_unit_variance_and_correlate():
    x = LinearPrior(is_correlated=True).sample(TaskShape(300, 400, 5, 1), generator=seeded()).x
    assert (abs(x.square().mean((0, 1)) - 1) < 4 * (2 / (300 * 400)) ** 0.5).all()
    correlation = torch.stack([torch.corrcoef(task.T) for task in x])[:, ~torch.eye(5, dtype=torch.bool)]
    assert 0.2 < correlation.abs().mean() < 0.9


def test_conjugate_posterior_agrees_with_the_textbook_update():
    """Weight space, with the bias as one more feature: precision, location, rate after n rows."""
    prior = ConjugateLinearPrior(weight_variance=2.0, bias_variance=0.5, noise_shape=3.0, noise_rate=0.7)
    x, y, query, _ = (part[0].double() for part in split(prior.sample(TaskShape(1, 30, 4, 12), generator=seeded())))
    design, new = (torch.cat([v, torch.ones(len(v), 1).double()], dim=1) for v in (x, query))
    precision = design.T @ design + torch.diag(1 / torch.tensor([2.0, 2.0, 2.0, 2.0, 0.5]).double())
    location = torch.linalg.solve(precision, design.T @ y)
    rate = 0.7 + 0.5 * (y @ y - location @ precision @ location)
    scale = (rate / (3.0 + 6.0) * (1 + (new @ torch.linalg.inv(precision) * new).sum(1))).sqrt()
    result = prior.posterior(x, y, query)
    assert result.degrees_of_freedom == 2 * 3.0 + 12
    torch.testing.assert_close(result.location, new @ location)
    torch.testing.assert_close(result.scale, scale)


def test_conjugate_targets_are_spread_as_the_posterior_says():
    prior = ConjugateLinearPrior(noise_shape=1.5)
    x, y, query, target = split(prior.sample(TaskShape(3000, 5, 3, 4), generator=seeded()))
    result = prior.posterior(x, y, query)
    z = (target - result.location) / result.scale
    law = scipy.stats.t(result.degrees_of_freedom.item())
    assert scipy.stats.kstest(z.flatten().numpy(), law.cdf).pvalue > 1e-3
    expected = scipy.stats.t.logpdf(target.double(), law.args[0], result.location, result.scale)
    np.testing.assert_allclose(result.log_prob(target), expected, rtol=1e-9)


def test_student_t_integrates_to_one():
    law = StudentT(torch.tensor(3.0).double(), torch.tensor(1.0).double(), torch.tensor(2.0).double())
    grid = torch.linspace(-3000, 3000, 600_001).double()
    assert torch.trapezoid(law.log_prob(grid).exp(), grid).item() == pytest.approx(1, abs=1e-6)


def test_beta_bernoulli_posterior_of_one_column_is_counting():
    prior = DirichletPrior(n_levels=3, n_classes=2, concentration=0.5)
    x = torch.tensor([[0.0], [0.0], [0.0], [2.0]])
    y = torch.tensor([1, 1, 0, 0])
    result = prior.posterior(x, y, torch.tensor([[0.0], [1.0], [2.0]]))
    expected = torch.tensor([[1.5 / 4, 2.5 / 4], [0.5, 0.5], [1.5 / 2, 0.5 / 2]]).double()
    torch.testing.assert_close(result, expected)


def test_dirichlet_posterior_agrees_with_the_predictive_of_each_column_in_sequence():
    """The evidence of a column is the product of its one-step predictions; a slow loop over rows and columns."""
    prior = DirichletPrior(n_levels=3, n_classes=3, concentration=0.7)
    x, y = prior.draw(TaskShape(1, 12, 4, 11), Draw(seeded()))
    x, y = x[0], y[0]
    evidence, prediction = torch.ones(4).double(), torch.zeros(4, 3).double()
    for column in range(4):
        for row in range(12):
            same = [int(y[i]) for i in range(row) if x[i, column] == x[row, column]]
            step = torch.tensor([(0.7 + same.count(c)) / (2.1 + len(same)) for c in range(3)]).double()
            if row < 11:
                evidence[column] *= step[y[row]]
            else:
                prediction[column] = step
    expected = (evidence / evidence.sum()) @ prediction
    torch.testing.assert_close(prior.posterior(x[:11], y[:11], x[11:])[0], expected)


def test_labels_are_as_frequent_as_the_dirichlet_posterior_says():
    prior = DirichletPrior(n_levels=3, n_classes=3, concentration=0.5)
    x, y = prior.draw(TaskShape(6000, 13, 3, 12), Draw(seeded()))
    p = prior.posterior(x[:, :12], y[:, :12], x[:, 12:])[:, 0]
    error = torch.nn.functional.one_hot(y[:, 12], 3) - p
    for sure in (p > 0.6, p < 0.2, (p > 0.2) & (p < 0.6)):
        assert sure.sum() > 300
        assert abs(error[sure].mean()) < 4 * error[sure].std() / sure.sum() ** 0.5
    log_score = p.gather(1, y[:, 12:]).log()
    assert log_score.mean() > -np.log(3) + 0.1                      # and they can be predicted


def test_tiny_concentrations_give_deterministic_levels():
    prior = DirichletPrior(n_levels=2, n_classes=2, concentration=1e-4)
    x, y = prior.draw(TaskShape(50, 40, 1, 20), Draw(seeded()))
    for level in (0, 1):
        here = x[:, :, 0] == level
        share = (y * here).sum(1) / here.sum(1)
        assert ((share < 0.01) | (share > 0.99)).float().mean() > 0.9


@pytest.mark.parametrize("prior", [LinearPrior(), LinearPrior(is_correlated=True), ConjugateLinearPrior(), DirichletPrior()],
                         ids=repr)
def test_same_seed_gives_the_same_finite_batch(prior):
    for shape in (TaskShape(4, 30, 5, 15), TaskShape(2, 3, 40, 1)):
        first, second = (prior.sample(shape, generator=seeded()) for _ in range(2))
        assert torch.equal(first.x, second.x)
        assert torch.equal(first.y, second.y)
        assert first.x.isfinite().all()
        assert first.y.isfinite().all()
        assert (first.x != first.x[:, :1]).any(1).all()


@pytest.mark.parametrize(("make", "message"), [
    (lambda: LinearPrior(weight_variance=0.0), r"weight_variance=0.0 is not positive and finite; use weight_variance > 0"),
    (lambda: LinearPrior(noise=-0.1), r"noise=-0.1 is not at least 0"),
    (lambda: ConjugateLinearPrior(noise_shape=0.0), r"shape=0.0 of InverseGamma"),
    (lambda: DirichletPrior(n_levels=1), r"n_levels=1 leaves nothing to tell apart; use n_levels >= 2"),
    (lambda: DirichletPrior(concentration=0.0), r"concentration=0.0 is not positive"),
    (lambda: LinearPrior(noise=LogUniform(0.1, 1.0)).posterior(torch.ones(2, 1), torch.ones(2), torch.ones(1, 1)),
     r"noise=LogUniform\(low=0.1, high=1.0\) is a distribution"),
])
def test_errors_name_argument_value_and_remedy(make, message):
    with pytest.raises(ValueError, match=message):
        make()
