import subprocess
import sys

import pytest
import torch

pytest.importorskip("botorch")

from botorch.acquisition import (
    LogExpectedImprovement,
    UpperConfidenceBound,
    qExpectedImprovement,
    qKnowledgeGradient,
    qLogExpectedImprovement,
    qLogNoisyExpectedImprovement,
)
from botorch.acquisition.multi_objective.logei import qLogExpectedHypervolumeImprovement
from botorch.acquisition.objective import LinearMCObjective, ScalarizedPosteriorTransform
from botorch.exceptions.warnings import InputDataWarning
from botorch.optim import optimize_acqf
from botorch.sampling.get_sampler import get_sampler
from botorch.sampling.normal import IIDNormalSampler, SobolQMCNormalSampler
from botorch.utils.multi_objective.box_decompositions.non_dominated import FastNondominatedPartitioning

from estimators.acquisition import log_expected_hypervolume_improvement
from estimators.botorch import PFNModel, PFNPosterior
from estimators.hypervolume import non_dominated_boxes
from pfn import PFN, PFNConfig, load_pretrained

SMALL = {"task": "regression", "n_outputs": 64, "embed_dim": 16, "n_heads": 2, "n_layers": 2, "hidden_dim": 32}


def small_network(**config):
    """Random weights, larger than initial ones so that predictions depend on the data."""
    torch.manual_seed(0)
    network = PFN(PFNConfig(**(SMALL | {"row_features": 4, "normal_base": True} | config)))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return network


@pytest.fixture(scope="module")
def network():
    return small_network()


def data(*batch, n=20, d=3, m=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(*batch, n, d, generator=generator, dtype=torch.float64)
    return x, torch.stack([(x - 0.3 - 0.2 * i).square().sum(-1) for i in range(m)], dim=-1)


def points(*shape, seed=1):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# The model


@pytest.mark.parametrize("config", [{}, {"row_features": 0, "normal_base": False}], ids=["rows", "cells"])
def test_predictions_are_the_networks(config):
    """Outputs, t-batches and points are queries and tasks of one call: the same as one call for each."""
    network = small_network(**config).eval()
    (x, y), query = data(m=2), points(2, 4, 5, 3)
    posterior = PFNModel(x, y, network).posterior(query)
    assert posterior.mean.shape == posterior.variance.shape == (2, 4, 5, 2)
    assert posterior.mean.dtype == torch.float64
    for output in range(2):
        alone = network.posterior(x[None].float(), y[None, :, output].float(), query.view(1, -1, 3).float())
        torch.testing.assert_close(
            posterior.mean[..., output].flatten().float(), alone.mean.detach().flatten(), rtol=1e-4, atol=1e-4
        )


def test_each_batch_of_data_has_predictions_of_its_own(network):
    x, y = data(3, 2, m=2)
    for leading in ((), (2,), (3, 2), (5, 3, 2), (3, 1)):
        query = points(*leading, 4, 3)
        posterior = PFNModel(x, y, network).posterior(query)
        assert posterior.mean.shape == (*torch.broadcast_shapes(leading, (3, 2)), 4, 2)
        alone = PFNModel(x[2, 1], y[2, 1], network).posterior(query.expand(*posterior.mean.shape[:-1], 3)[..., 2, 1, :, :])
        torch.testing.assert_close(posterior.mean[..., 2, 1, :, :], alone.mean, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(posterior.variance[..., 2, 1, :, :], alone.variance, rtol=1e-4, atol=1e-5)


def test_a_single_set_of_data_broadcasts_over_batches(network):
    x, y = data(1)
    query = points(4, 2, 3)
    torch.testing.assert_close(
        PFNModel(x, y, network).posterior(query).mean, PFNModel(x[0], y[0], network).posterior(query).mean
    )


@pytest.mark.parametrize("scaling", ["context", "cube"])
def test_units_of_the_outcomes_do_not_matter(scaling):
    """They are standardised in float64, before the network sees them: at 1e9 ± 1, float32 would see no differences."""
    network = small_network(scaling=scaling)
    (x, y), query = data(), points(5, 1, 3)
    plain, moved = (PFNModel(x, values, network).posterior(query) for values in (y, 3 * y + 1e9))
    torch.testing.assert_close(moved.mean - 1e9, 3 * plain.mean, rtol=0, atol=1e-4)
    torch.testing.assert_close(moved.variance, 9 * plain.variance, rtol=1e-4, atol=0)


def test_a_network_of_fixed_units_sees_the_outcomes_as_they_are():
    x, y = data(d=2)
    posterior = PFNModel(x, y + 1, "gp").posterior(x.unsqueeze(1))
    alone = load_pretrained("gp").posterior(x[None].float(), y.T.float() + 1, x[None].float())
    torch.testing.assert_close(posterior.mean.flatten().float(), alone.mean.flatten(), rtol=1e-4, atol=1e-4)


def test_constant_outcomes_give_finite_predictions(network):
    x, y = data()
    posterior = PFNModel(x, torch.full_like(y, 7.0), network).posterior(points(2, 1, 3))
    assert posterior.mean.isfinite().all()
    assert (posterior.variance > 0).all()


def test_conditioning_is_a_model_of_all_data(network):
    (x, y), (more_x, more_y) = data(m=2), data(n=3, m=2, seed=5)
    conditioned = PFNModel(x, y, network).condition_on_observations(more_x, more_y)
    joint = PFNModel(torch.cat([x, more_x]), torch.cat([y, more_y]), network)
    query = points(4, 1, 3)
    torch.testing.assert_close(conditioned.posterior(query).mean, joint.posterior(query).mean)


def test_fantasies_are_batches_of_models(network):
    model = PFNModel(*data(), network)
    fantasies = model.fantasize(points(4, 2, 3), SobolQMCNormalSampler(torch.Size([8]), seed=0))
    assert fantasies.batch_shape == (8, 4)
    assert fantasies.train_X.shape == (8, 4, 22, 3)
    assert fantasies.posterior(points(4, 1, 3)).mean.shape == (8, 4, 1, 1)


def test_outputs_can_be_selected(network):
    (x, y), query = data(m=3), points(4, 2, 3)
    model = PFNModel(x, y, network)
    expected = model.posterior(query).mean[..., [2, 0]]
    assert torch.equal(model.posterior(query, output_indices=[2, 0]).mean, expected)
    torch.testing.assert_close(model.subset_output([2, 0]).posterior(query).mean, expected, rtol=1e-5, atol=1e-5)
    assert (model.num_outputs, model.batch_shape) == (3, ())


def test_the_callers_network_is_left_alone_and_conditioning_does_not_copy_it_again(network):
    assert network.training
    model = PFNModel(*data(), network)
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert model.condition_on_observations(*data(n=1)).network is model.network


def test_a_model_can_change_its_precision(network):
    (x, y), query = data(), points(4, 1, 3)
    model = PFNModel(x.float(), y.float(), network)
    before = model.posterior(query.float()).mean
    assert before.dtype == torch.float32
    torch.testing.assert_close(model.double().posterior(query).mean.float(), before, rtol=1e-3, atol=1e-3)


# The posterior


def test_a_weight_on_one_output_scales_it(network):
    (x, y), query = data(m=2), points(4, 1, 3)
    model = PFNModel(x, y, network)
    transform = ScalarizedPosteriorTransform(torch.tensor([0.0, -2.0], dtype=torch.float64), offset=1.0)
    posterior, plain = model.posterior(query, posterior_transform=transform), model.posterior(query)
    torch.testing.assert_close(posterior.mean, 1 - 2 * plain.mean[..., 1:])
    torch.testing.assert_close(posterior.variance, 4 * plain.variance[..., 1:])
    with pytest.raises(NotImplementedError, match="combine 2 outputs"):
        plain.scaled(torch.ones(2))


def test_draws_have_the_posteriors_moments_and_quantiles(network):
    posterior = PFNModel(*data(m=2), network).posterior(points(3, 2, 3))
    torch.manual_seed(0)
    draws = posterior.rsample(torch.Size([2, 10_000]))
    assert draws.shape == (2, 10_000, 3, 2, 2)
    draws = draws.flatten(0, 1)
    error = posterior.variance.sqrt() / 20_000**0.5
    assert ((draws.mean(0) - posterior.mean).abs() < 4 * error).all()
    q = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    quantiles = posterior.quantile(q)
    assert quantiles.shape == (3, 3, 2, 2)
    for share, value in zip(q, quantiles, strict=True):
        assert ((draws <= value).double().mean(0) - share).abs().max() < 4 * 0.5 / 20_000**0.5
        assert torch.equal(posterior.quantile(share), value)


def test_density_is_the_derivative_of_the_distribution(network):
    posterior = PFNModel(*data(m=2), network).posterior(points(3, 1, 3))
    value = torch.tensor([0.1, 0.6], dtype=torch.float64)
    density = posterior.density(value)
    assert density.shape == (2, 3, 1, 2)
    for v, d in zip(value, density, strict=True):
        slope = (posterior.bars.cdf(v + 1e-7) - posterior.bars.cdf(v - 1e-7)) / 2e-7
        torch.testing.assert_close(d, slope, rtol=1e-4, atol=1e-6)
        assert torch.equal(posterior.density(v), d)


def test_extreme_base_samples_give_finite_draws_in_float32(network):
    x, y = (values.float() for values in data())
    posterior = PFNModel(x, y, network).posterior(points(1, 3).float())
    base = torch.tensor([-40.0, -6.0, 6.0, 40.0]).view(4, 1, 1)
    draws = posterior.rsample_from_base_samples(torch.Size([4]), base)
    assert draws.dtype == torch.float32
    assert draws.isfinite().all()
    assert (draws.diff(dim=0) > 0).all()


def test_gradient_of_draws_agrees_with_differences(network):
    """In float64 throughout; a draw lies inside a bar, where its quantile is smooth."""
    model = PFNModel(*data(), network).double()
    base = torch.tensor([-1.3, 0.2, 2.1], dtype=torch.float64).view(3, 1, 1, 1)

    def draws(query):
        return model.posterior(query).rsample_from_base_samples(torch.Size([3]), base)

    # normal_base rounds the decoder's mean to float32
    assert torch.autograd.gradcheck(draws, points(1, 1, 3).requires_grad_(), eps=1e-3, atol=2e-3, rtol=2e-2)


def test_botorch_finds_a_sampler(network):
    posterior = PFNModel(*data(), network).posterior(points(5, 2, 3))
    sampler = get_sampler(posterior, torch.Size([16]), seed=0)
    assert isinstance(sampler, SobolQMCNormalSampler)
    assert torch.equal(sampler(posterior), get_sampler(posterior, torch.Size([16]), seed=0)(posterior))
    many = PFNPosterior(posterior.bars.affine(torch.ones(5, 2, 20_000, dtype=torch.float64)))
    assert isinstance(get_sampler(many, torch.Size([2]), seed=0), IIDNormalSampler)


# Acquisition functions


def proposed(acquisition, q=1, raw_samples=64, maxiter=30):
    torch.manual_seed(0)
    bounds = torch.tensor([[0.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    return optimize_acqf(
        acquisition, bounds=bounds, q=q, num_restarts=3, raw_samples=raw_samples, options={"maxiter": maxiter}
    )


@pytest.fixture(scope="module")
def bowl():
    """The bundled Gaussian process network on 20 values of a smooth function with its maximum at (0.3, 0.3)."""
    x, y = data(d=2)
    return PFNModel(x, 1 - 6 * y, "gp"), x, 1 - 6 * y


@pytest.mark.filterwarnings("ignore:Optimization failed:RuntimeWarning")
@pytest.mark.parametrize(
    "make",
    [
        lambda model, x, y: qLogExpectedImprovement(model, best_f=y.max()),
        lambda model, x, y: qLogNoisyExpectedImprovement(model, X_baseline=x, prune_baseline=True),
        lambda model, x, y: LogExpectedImprovement(model, best_f=y.max()),
        lambda model, x, y: UpperConfidenceBound(model, beta=1.0),
    ],
    ids=["qLogEI", "qLogNEI", "LogEI", "UCB"],
)
def test_acquisition_functions_find_the_maximum(make, bowl):
    candidate, value = proposed(make(*bowl))
    assert value.isfinite()
    assert (candidate - 0.3).abs().max() < 0.2


@pytest.mark.filterwarnings("ignore:Optimization failed:RuntimeWarning")      # of a line search, at a kink of the draws
def test_knowledge_gradient_runs_through_fantasies(bowl):
    candidate, value = proposed(qKnowledgeGradient(bowl[0], num_fantasies=2), raw_samples=4, maxiter=3)
    assert candidate.shape == (1, 2)
    assert value.isfinite()


@pytest.mark.filterwarnings("ignore:Optimization failed:RuntimeWarning")
def test_batches_run(bowl):
    model, _, y = bowl
    candidates, value = proposed(qLogExpectedImprovement(model, best_f=y.max()), q=2, raw_samples=16, maxiter=10)
    assert candidates.shape == (2, 2)
    assert value.isfinite()


@pytest.mark.filterwarnings("ignore::botorch.exceptions.warnings.NumericsWarning")   # they advise its logarithm
def test_monte_carlo_improvement_is_the_exact_one(network):
    x, y = data()
    model, query = PFNModel(x, y, network), points(6, 1, 3)
    acquisition = qExpectedImprovement(model, best_f=0.4, sampler=SobolQMCNormalSampler(torch.Size([2**14]), seed=0))
    exact = model.posterior(query).bars.expected_improvement(0.4)[:, 0, 0]
    torch.testing.assert_close(acquisition(query), exact, rtol=5e-3, atol=1e-4)


def test_monte_carlo_hypervolume_improvement_is_the_exact_one(network):
    """Theirs maximises raw outcomes, ours minimises their negatives."""
    x, y = data(m=2)
    model, query = PFNModel(x, y, network), points(6, 1, 3)
    reference = y.min(0).values - 0.1
    acquisition = qLogExpectedHypervolumeImprovement(
        model, ref_point=reference.tolist(), partitioning=FastNondominatedPartitioning(reference, Y=y),
        sampler=SobolQMCNormalSampler(torch.Size([2**11]), seed=0), fat=False, tau_relu=1e-8, tau_max=1e-5,
    )
    bars = model.posterior(query).bars
    objectives = [PFNPosterior(bars).scaled(w).bars.affine(-1.0) for w in torch.eye(2, dtype=torch.float64)]
    objectives = [type(o)(o.borders.reshape(1, -1), o.log_mass[:, 0, 0]) for o in objectives]
    exact = log_expected_hypervolume_improvement(objectives, non_dominated_boxes(-y.numpy(), -reference.numpy()))
    torch.testing.assert_close(acquisition(query).exp(), exact.exp(), rtol=2e-2, atol=1e-4)


def test_linear_objectives_combine_outputs(network):
    model = PFNModel(*data(m=2), network)
    weights = torch.tensor([1.0, -0.5], dtype=torch.float64)
    acquisition = qLogExpectedImprovement(model, best_f=0.0, objective=LinearMCObjective(weights))
    assert acquisition(points(4, 1, 3)).isfinite().all()


# Mistakes


def test_bad_data_are_refused(network):
    x, y = data()
    with pytest.raises(ValueError, match=r"train_Y \(20,\); expected"):
        PFNModel(x, y[:, 0], network)
    with pytest.raises(ValueError, match="must be finite"):
        PFNModel(x, y.log().sub(torch.inf), network)
    with pytest.raises(ValueError, match="classifies"):
        PFNModel(x, y, "classifier")
    with pytest.raises(ValueError, match=r"5 features, but the network was validated up to \d"):
        PFNModel(*data(d=5), "gp")
    with pytest.raises(NotImplementedError, match="pass a bool"):
        PFNModel(x, y, network).posterior(x, observation_noise=y)
    with pytest.warns(InputDataWarning, match=r"from .* to .*, the network expects 0 to 1"):
        PFNModel(10 * x, y, network)


def test_without_botorch_the_error_names_the_extra():
    code = "import sys; sys.modules['botorch'] = None; import estimators.botorch"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert 'pip install "pfnkit[botorch]"' in result.stderr.splitlines()[-1]
