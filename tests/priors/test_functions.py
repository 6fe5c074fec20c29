from itertools import combinations

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.linear_model import LogisticRegression

from priors import TaskShape
from priors.functions import (
    DecisionTreePrior,
    GaussianMixture,
    LinearClassificationPrior,
    MixtureOfRegressionsPrior,
    QuadraticPrior,
    SparseLinearPrior,
    TwoLayerNetPrior,
)

PRIORS = [
    SparseLinearPrior(), SparseLinearPrior(noise=0.1), MixtureOfRegressionsPrior(), QuadraticPrior(), DecisionTreePrior(),
    LinearClassificationPrior(), TwoLayerNetPrior(),
]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def split(batch):
    """Context x and y, query x and y."""
    n = batch.n_context
    return batch.x[:, :n], batch.y[:, :n], batch.x[:, n:], batch.y[:, n:]


def mixture_cdf(mixture, y):
    z = (y.double().unsqueeze(-2) - mixture.component_mean) / mixture.component_variance.sqrt()
    return (mixture.log_weight.exp().unsqueeze(-1) * torch.special.ndtr(z)).sum(-2)


def test_sparse_posterior_agrees_with_a_loop_over_supports():
    """Each support is a Gaussian model of the targets with covariance x_S x_Sᵀ + noise·I."""
    prior = SparseLinearPrior(sparsity=2, noise=0.3)
    x, y, query, _ = (part[0].double() for part in split(prior.sample(TaskShape(1, 12, 5, 8), generator=seeded())))
    evidence, means, variances = [], [], []
    for support in combinations(range(5), 2):
        context, new = x[:, support], query[:, support]
        covariance = (context @ context.T + 0.3 * torch.eye(8)).numpy()
        cross = (new @ context.T).numpy()
        evidence.append(scipy.stats.multivariate_normal(cov=covariance).pdf(y.numpy()))
        means.append(cross @ np.linalg.solve(covariance, y.numpy()))
        explained = np.einsum("mn,mn->m", cross, np.linalg.solve(covariance, cross.T).T)
        variances.append(new.square().sum(1).numpy() + 0.3 - explained)
    weight = np.array(evidence) / np.sum(evidence)
    result = prior.posterior(x, y, query)
    np.testing.assert_allclose(result.log_weight.exp(), weight, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(result.mean, weight @ means, rtol=1e-6)
    second = weight @ (np.array(variances) + np.square(means))
    np.testing.assert_allclose(result.variance, second - (weight @ means) ** 2, rtol=1e-6)


@pytest.mark.parametrize("prior", [SparseLinearPrior(sparsity=2, noise=0.5), MixtureOfRegressionsPrior(noise=2.0)], ids=repr)
def test_targets_are_spread_as_the_mixture_posterior_says(prior):
    x, y, query, target = split(prior.sample(TaskShape(3000, 7, 6, 6), generator=seeded()))
    mixture = prior.posterior(x, y, query)
    assert scipy.stats.kstest(mixture_cdf(mixture, target).flatten().numpy(), "uniform").pvalue > 1e-3
    squared = (target - mixture.mean).square()
    error = squared - mixture.variance
    assert abs(error.mean()) < 4 * error.std() / 3000**0.5


def test_sparse_posterior_finds_the_support_with_half_the_rows_that_least_squares_needs():
    x, y, query, target = split(SparseLinearPrior().sample(TaskShape(100, 14, 20, 10), generator=seeded()))
    mixture = SparseLinearPrior().posterior(x, y, query)
    error = (mixture.mean - target).square().mean(1)
    assert (error < 1e-4).float().mean() > 0.95
    norm = (query.double() @ torch.linalg.pinv(x.double()) @ y.double().unsqueeze(2)).squeeze(2)
    assert (norm - target).square().mean() > 100 * error.mean()


def test_sparse_weights_are_as_many_as_asked():
    x, y, *_ = split(SparseLinearPrior(sparsity=3).sample(TaskShape(50, 30, 6, 25), generator=seeded()))
    w = (torch.linalg.pinv(x.double()) @ y.double().unsqueeze(2)).squeeze(2)
    assert ((w.abs() > 1e-4).sum(1) == 3).all()
    few = SparseLinearPrior(sparsity=3).sample(TaskShape(2, 5, 2, 4), generator=seeded())
    assert SparseLinearPrior().posterior(*split(few)[:3]).mean.shape == (2, 1)


def test_exponential_weights_agree_with_a_loop_over_components():
    prior = MixtureOfRegressionsPrior(n_components=4, noise=1.0)
    x, y, query, _ = (part[0] for part in split(prior.sample(TaskShape(1, 6, 3, 4), generator=seeded())))
    w = prior.regressors(3)
    density = np.array([scipy.stats.norm.pdf(y.numpy(), (x @ w_k).numpy()).prod() for w_k in w])
    expected = density / density.sum() @ (w @ query.T).numpy()
    np.testing.assert_allclose(prior.posterior(x, y, query).mean, expected, rtol=1e-5)


def test_known_regressors_stay_the_same_and_belong_to_the_seed():
    prior = MixtureOfRegressionsPrior(noise=0.0)
    assert torch.equal(prior.regressors(4), prior.regressors(4))
    assert not torch.equal(prior.regressors(4), MixtureOfRegressionsPrior(seed=1).regressors(4))
    batch = prior.sample(TaskShape(200, 3, 4, 2), generator=seeded())
    fits = torch.einsum("brf,kf->bkr", batch.x, prior.regressors(4))
    match = ((fits - batch.y.unsqueeze(1)).abs() < 1e-4).all(2)
    assert (match.sum(1) == 1).all()
    assert scipy.stats.chisquare(match.sum(0).numpy()).pvalue > 1e-3


def test_quadratic_targets_have_the_variance_of_their_definition_and_the_posterior_of_theirs():
    prior = QuadraticPrior(noise=0.2)
    x, y, query, target = split(prior.sample(TaskShape(3000, 5, 6, 4), generator=seeded()))
    second = target.square()
    assert abs(second.mean() - 6.2) < 4 * second.std() / 3000**0.5
    mean, variance = prior.posterior(x, y, query)
    assert scipy.stats.kstest(((target - mean) / variance.sqrt()).flatten().numpy(), "norm").pvalue > 1e-3


def test_linear_classes_are_separable():
    batch = LinearClassificationPrior().sample(TaskShape(10, 60, 4, 30), generator=seeded())
    for x, y in zip(batch.x.numpy(), batch.y.numpy(), strict=True):
        assert LogisticRegression(C=1e6, max_iter=5000).fit(x, y).score(x, y) == 1.0


def test_trees_look_at_signs_only():
    batch = DecisionTreePrior().sample(TaskShape(20, 400, 4, 200), generator=seeded())
    for x, y in zip(batch.x, batch.y, strict=True):
        cell = ((x > 0) * torch.tensor([1, 2, 4, 8])).sum(1)
        for one in cell.unique():
            assert (y[cell == one] == y[cell == one][0]).all()
        assert 2 <= len(y.unique()) <= 16


def test_trees_split_on_all_coordinates_alike():
    """The last one included."""
    batch = DecisionTreePrior(depth=1).sample(TaskShape(2000, 60, 5, 30), generator=seeded())
    left, right = batch.y.unsqueeze(2) == batch.y[:, :1].unsqueeze(2), (batch.x > 0) == (batch.x[:, :1] > 0)
    splits = (left == right).all(1)                                 # (B, F): the target changes with the sign of this one
    assert (splits.sum(1) == 1).all()
    assert scipy.stats.chisquare(splits.sum(0).numpy()).pvalue > 1e-3


def test_leaves_of_trees_are_standard_normal():
    y = DecisionTreePrior().sample(TaskShape(4000, 1, 3, 0), generator=seeded()).y
    assert scipy.stats.kstest(y.flatten().numpy(), "norm").pvalue > 1e-3


def test_networks_have_the_covariance_of_the_arc_cosine_kernel():
    prior = TwoLayerNetPrior(width=7)
    batch = prior.sample(TaskShape(20_000, 3, 2, 1), generator=seeded())
    difference = batch.y.unsqueeze(2) * batch.y.unsqueeze(1) - prior.covariance(batch.x, batch.x)
    standard_error = difference.std(0) / 20_000**0.5
    assert (difference.mean(0).abs() < 4.5 * standard_error).all()
    np.testing.assert_allclose(
        prior.covariance(batch.x, batch.x).diagonal(dim1=1, dim2=2), batch.x.square().sum(2), rtol=1e-5
    )


def test_best_linear_predictor_errs_as_much_as_it_says_and_less_than_others():
    prior = TwoLayerNetPrior(width=20)
    x, y, query, target = split(prior.sample(TaskShape(3000, 16, 4, 15), generator=seeded()))
    mean, expected = prior.best_linear_predictor(x, y, query)
    error = (target - mean).square() - expected
    assert abs(error.mean()) < 4 * error.std() / 3000**0.5
    ridge = torch.linalg.solve(x.mT @ x + torch.eye(4), x.mT @ y.unsqueeze(2))
    others = [(query @ ridge).squeeze(2), torch.zeros_like(target)]
    for other in others:
        excess = (target - other).square() - (target - mean).square()
        assert excess.mean() > 4 * excess.std() / 3000**0.5


def test_mixture_density_integrates_to_one():
    weight = torch.tensor([0.3, 0.7]).double()
    mixture = GaussianMixture(weight.log(), torch.tensor([[-1.0], [2.0]]).double(), torch.tensor([[0.1], [4.0]]).double())
    grid = torch.linspace(-20, 20, 40_001).double()
    one_point = GaussianMixture(
        mixture.log_weight, mixture.component_mean.expand(2, len(grid)), mixture.component_variance.expand(2, len(grid))
    )
    density = one_point.log_prob(grid).exp()
    assert torch.trapezoid(density, grid).item() == pytest.approx(1, abs=1e-9)
    assert torch.trapezoid(grid * density, grid).item() == pytest.approx(mixture.mean.item(), abs=1e-9)
    second = torch.trapezoid(grid.square() * density, grid).item()
    assert second - mixture.mean.item() ** 2 == pytest.approx(mixture.variance.item(), abs=1e-8)


@pytest.mark.parametrize("prior", PRIORS, ids=repr)
@pytest.mark.parametrize("shape", [TaskShape(3, 40, 8, 20), TaskShape(1, 2, 1, 1), TaskShape(2, 12, 40, 5)], ids=str)
def test_same_seed_gives_the_same_finite_batch(prior, shape):
    first, second = (prior.sample(shape, generator=seeded()) for _ in range(2))
    assert torch.equal(first.x, second.x)
    assert torch.equal(first.y, second.y)
    assert first.x.isfinite().all()
    assert first.y.isfinite().all()
    assert first.x.dtype == torch.float32


@pytest.mark.parametrize(("make", "message"), [
    (lambda: SparseLinearPrior(sparsity=0), r"sparsity=0 leaves no weight; use sparsity >= 1"),
    (lambda: SparseLinearPrior(noise=-1.0), r"noise=-1.0 is no variance; use noise >= 0"),
    (lambda: SparseLinearPrior(sparsity=10).posterior(torch.ones(2, 40), torch.ones(2), torch.ones(1, 40)),
     r"10 of 40 features have 847660528 supports to sum over; use tasks with at most 20000"),
    (lambda: MixtureOfRegressionsPrior(n_components=0), r"n_components=0 leaves no regression; use n_components >= 1"),
    (lambda: DecisionTreePrior(depth=0), r"depth=0 is out of range; use 1 <= depth <= 16"),
    (lambda: TwoLayerNetPrior(width=0), r"width=0 leaves no hidden unit; use width >= 1"),
])
def test_errors_name_argument_value_and_remedy(make, message):
    with pytest.raises(ValueError, match=message):
        make()
