from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, Matern, WhiteKernel

import priors.gp
from priors import GPPrior, TaskShape
from priors.distributions import Gamma, LogUniform
from priors.draw import Draw
from priors.gp import Hyperparameters, draw_gp, gp_covariance, gp_posterior

KERNELS = {"rbf": RBF, "matern32": lambda scale: Matern(scale, nu=1.5), "matern52": lambda scale: Matern(scale, nu=2.5)}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("kernel", KERNELS)
def test_draws_have_the_covariance_of_the_kernel(kernel):
    """Correlate neighbouring targets over many tasks with the kernel at their distance."""
    prior = GPPrior(lengthscale=0.3, outputscale=2.0, noise=0.1, kernel=kernel)
    batch = prior.sample(TaskShape(20_000, 2, 1, 1), generator=seeded())
    expected = prior.covariance(batch.x, batch.x)[:, 0, 1]
    product = batch.y[:, 0] * batch.y[:, 1]
    # Products at all distances, and those at a distance where kernels differ most.
    for distant in (torch.ones_like(product, dtype=torch.bool), (batch.x[:, 0, 0] - batch.x[:, 1, 0]).abs() > 0.4):
        error = (product - expected)[distant]
        assert abs(error.mean()) < 4 * error.std() / len(error) ** 0.5
    variance = batch.y.square().mean()
    assert abs(variance - 2.1) < 4 * batch.y.square().std() / (2 * len(product)) ** 0.5


@pytest.mark.parametrize("kernel", KERNELS)
def test_rows_of_a_block_and_of_different_blocks_covary_as_the_kernel_says(kernel):
    """y is white after multiplication with the inverse factor of the whole covariance, over four blocks of rows."""
    rows = 3 * priors.gp._BLOCK + 7
    prior = GPPrior(lengthscale=0.2, outputscale=3.0, noise=1e-2, kernel=kernel)
    batch = prior.sample(TaskShape(64, rows, 2, 1), generator=seeded())
    covariance = prior.covariance(batch.x, batch.x) + 1e-2 * torch.eye(rows)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), batch.y.double().unsqueeze(-1), upper=False)
    assert scipy.stats.kstest(white.flatten().numpy(), "norm").pvalue > 1e-3
    lagged = (white[:, 1:] * white[:, :-1]).mean()
    assert abs(lagged) < 4 / (64 * (rows - 1)) ** 0.5


def test_blocks_give_the_product_with_the_cholesky_factor(monkeypatch):
    prior = GPPrior(noise=1e-2)
    shape = TaskShape(3, 150, 4, 1)
    blocks = prior.sample(shape, generator=seeded()).y
    monkeypatch.setattr(priors.gp, "_BLOCK", 1000)
    torch.testing.assert_close(blocks, prior.sample(shape, generator=seeded()).y, rtol=1e-5, atol=1e-5)


def test_tasks_taken_a_few_at_a_time_are_the_same_tasks(monkeypatch):
    prior, shape = GPPrior.with_hyperpriors(), TaskShape(5, 30, 2, 1)
    together = prior.sample(shape, generator=seeded()).y
    monkeypatch.setattr(priors.gp, "_CPU_ELEMENTS", 2 * 30**2)
    torch.testing.assert_close(together, prior.sample(shape, generator=seeded()).y)


@pytest.mark.parametrize("kernel", KERNELS)
def test_posterior_agrees_with_scikit_learn(kernel):
    prior = GPPrior(lengthscale=0.4, outputscale=1.5, noise=0.01, kernel=kernel)
    batch = prior.sample(TaskShape(1, 30, 3, 20), generator=seeded(1))
    x, y = batch.x[0].double().numpy(), batch.y[0].double().numpy()
    oracle = GaussianProcessRegressor(
        ConstantKernel(1.5) * KERNELS[kernel](0.4) + WhiteKernel(0.01), optimizer=None, alpha=0.0
    ).fit(x[:20], y[:20])
    mean, std = oracle.predict(x[20:], return_std=True)
    ours = prior.posterior(batch.x[0, :20], batch.y[0, :20], batch.x[0, 20:])
    np.testing.assert_allclose(ours[0], mean, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(ours[1], std**2, rtol=1e-6)


def test_posterior_of_a_batch_takes_hyper_parameters_of_each_task():
    prior = GPPrior(LogUniform(0.2, 2.0), Gamma(2.0, 1.0), LogUniform(1e-3, 0.1), kernel="matern52", ard=True, mean=0.5)
    draw = Draw(seeded())
    x, y = draw.uniform(3, 25, 2), draw.normal(3, 25)
    hyper = prior.draw_hyperparameters(3, 2, draw)
    result = gp_posterior(x[:, :20], y[:, :20], x[:, 20:], kernel="matern52", **hyper._asdict())
    for task in range(3):
        length, scale, noise = (v[task].double().numpy() for v in hyper[:3])
        oracle = GaussianProcessRegressor(
            ConstantKernel(scale) * Matern(length, nu=2.5) + WhiteKernel(noise), optimizer=None, alpha=0.0
        ).fit(x[task, :20].double().numpy(), y[task, :20].double().numpy() - 0.5)
        mean, std = oracle.predict(x[task, 20:].double().numpy(), return_std=True)
        np.testing.assert_allclose(result.mean[task], mean + 0.5, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(result.variance[task], std**2, rtol=1e-5)
        assert result.log_marginal_likelihood[task].item() == pytest.approx(oracle.log_marginal_likelihood_value_, rel=1e-5)


def test_posterior_covers_as_often_as_it_says():
    """The probability of a target under its posterior predictive is uniform, with hyper-parameters drawn for each task."""
    prior = replace(GPPrior.with_hyperpriors(), noise=LogUniform(1e-3, 0.3), mean=LogUniform(0.1, 3.0))
    draw = Draw(seeded())
    x = draw.uniform(3000, 12, 2)
    hyper = prior.draw_hyperparameters(3000, 2, draw)
    y = draw_gp(x, prior.kernel, hyper, draw)
    result = gp_posterior(x[:, :11], y[:, :11], x[:, 11:], kernel=prior.kernel, **hyper._asdict())
    z = (y[:, 11:] - result.mean) / result.variance.sqrt()
    assert scipy.stats.kstest(z.flatten().numpy(), "norm").pvalue > 1e-3


def test_posterior_without_context_is_the_prior():
    result = gp_posterior(
        torch.zeros(2, 0, 3), torch.zeros(2, 0), torch.rand(2, 4, 3), lengthscale=1.0, outputscale=2.0, noise=0.5, mean=1.5
    )
    torch.testing.assert_close(result.mean, torch.full((2, 4), 1.5).double())
    torch.testing.assert_close(result.variance, torch.full((2, 4), 2.5).double())
    assert (result.log_marginal_likelihood == 0).all()


@pytest.mark.parametrize("kernel", KERNELS)
def test_marginal_likelihood_has_finite_gradients(kernel):
    """Also between equal points, where a distance has none."""
    x = torch.rand(10, 2, generator=seeded())[[0, 0, 1, 2, 3, 4, 5, 6]]
    logs = torch.zeros(4, dtype=torch.float64, requires_grad=True)

    def evidence(logs):
        length, scale, noise = logs[:2].exp(), logs[2].exp(), logs[3].exp()
        y = torch.linspace(-1, 1, 8)
        result = gp_posterior(x, y, x, kernel=kernel, lengthscale=length, outputscale=scale, noise=noise)
        return result.log_marginal_likelihood

    assert torch.autograd.gradcheck(evidence, logs)


def test_an_infinite_lengthscale_switches_a_feature_off():
    x = torch.rand(6, 3, generator=seeded())
    whole = gp_covariance(x, x, kernel="matern32", lengthscale=torch.tensor([0.3, torch.inf, 0.7]))
    part = gp_covariance(x[:, [0, 2]], x[:, [0, 2]], kernel="matern32", lengthscale=torch.tensor([0.3, 0.7]))
    torch.testing.assert_close(whole, part)


def test_hyper_parameters_are_drawn_for_every_task_and_feature():
    hyper = GPPrior.with_hyperpriors().draw_hyperparameters(20_000, 3, Draw(seeded()))
    assert hyper.lengthscale.shape == (20_000, 3)
    for sample, law in ((hyper.lengthscale, Gamma(3.0, 6.0)), (hyper.outputscale, Gamma(2.0, 0.15))):
        assert abs(sample.mean() - law.mean) < 4 * (law.variance / sample.numel()) ** 0.5
        assert sample.unique().numel() > 0.9 * sample.numel()
    isotropic = replace(GPPrior.with_hyperpriors(), ard=False).draw_hyperparameters(5, 3, Draw(seeded()))
    assert isotropic.lengthscale.shape == (5, 1)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("lengthscale", [1e-8, 1e-3, 100.0])
def test_extreme_hyper_parameters_give_finite_targets(kernel, lengthscale):
    prior = GPPrior(lengthscale=lengthscale, outputscale=100.0, noise=1e-12, kernel=kernel)
    batch = prior.sample(TaskShape(2, 200, 3, 100), generator=seeded())
    assert batch.y.isfinite().all()
    if lengthscale == 1e-8:                                         # white noise of variance 100
        assert batch.y.var() == pytest.approx(100, abs=4 * 100 * (2 / 400) ** 0.5)


def test_repeated_rows_can_be_factorised():
    x = torch.full((1, 130, 2), 0.25)
    hyper = Hyperparameters(torch.full((1, 1), 0.6), torch.ones(1), torch.zeros(1), torch.zeros(1))
    y = draw_gp(x, "rbf", hyper, Draw(seeded()))
    assert y.std() < 0.01                                           # only the jitter tells them apart


def test_posterior_of_a_distribution_of_hyper_parameters_is_refused():
    x, y = torch.rand(4, 2), torch.rand(4)
    with pytest.raises(ValueError, match=r"lengthscale=Gamma\(shape=3.0, rate=6.0\) is a distribution"):
        GPPrior.with_hyperpriors().posterior(x, y, x)


@pytest.mark.parametrize(("arguments", "message"), [
    ({"noise": -1}, r"noise=-1 is not positive"),
    ({"lengthscale": 0.0}, r"lengthscale=0.0 is not positive and finite; use lengthscale > 0"),
    ({"kernel": "matern12"}, r"kernel='matern12' is unknown; use one of 'rbf', 'matern32', 'matern52'"),
])
def test_errors_name_argument_value_and_remedy(arguments, message):
    with pytest.raises(ValueError, match=message):
        GPPrior(**arguments)
