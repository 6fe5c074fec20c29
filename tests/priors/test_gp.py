import numpy as np
import pytest
import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

from priors import GPPrior, TaskShape


def test_draws_have_the_covariance_of_the_kernel():
    """Correlate neighbouring targets over many tasks with the kernel at their distance."""
    prior = GPPrior(lengthscale=0.3, outputscale=2.0, noise=0.1)
    batch = prior.sample(TaskShape(20_000, 2, 1, 1), generator=torch.Generator().manual_seed(0))
    expected = prior.kernel(batch.x, batch.x)[:, 0, 1]
    product = batch.y[:, 0] * batch.y[:, 1]
    tolerance = 4 * (product - expected).std() / len(product) ** 0.5
    assert abs((product - expected).mean()) < tolerance
    variance = batch.y.square().mean()
    assert abs(variance - 2.1) < 4 * batch.y.square().std() / (2 * len(product)) ** 0.5


def test_posterior_agrees_with_scikit_learn():
    prior = GPPrior(lengthscale=0.4, outputscale=1.5, noise=0.01)
    batch = prior.sample(TaskShape(1, 30, 3, 20), generator=torch.Generator().manual_seed(1))
    x, y = batch.x[0].double().numpy(), batch.y[0].double().numpy()
    oracle = GaussianProcessRegressor(
        ConstantKernel(1.5) * RBF(0.4) + WhiteKernel(0.01), optimizer=None, alpha=0.0
    ).fit(x[:20], y[:20])
    mean, std = oracle.predict(x[20:], return_std=True)
    ours = prior.posterior(batch.x[0, :20], batch.y[0, :20], batch.x[0, 20:])
    np.testing.assert_allclose(ours[0], mean, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(ours[1], std**2, rtol=1e-6)


def test_rejects_a_noise_that_is_not_positive():
    with pytest.raises(ValueError, match=r"noise=-1 is not positive"):
        GPPrior(noise=-1)
