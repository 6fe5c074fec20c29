"""The baselines and the arithmetic of benchmarks/gp_certificate.py and benchmarks/bnn_certificate.py."""

import importlib
import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch

from priors import BNNPrior, GPPrior, TaskShape
from priors.draw import Draw
from priors.gp import gp_posterior
from priors.gp_reference import sample_hyperparameters

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture
def benchmark(monkeypatch):
    """Imports a module of benchmarks/ by its name."""
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[2] / "benchmarks")
    return importlib.import_module


@pytest.fixture
def benchmark_with_numpyro(benchmark):
    pytest.importorskip("numpyro")
    return benchmark


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# Scores and gaps


def test_scores_are_kept_and_extended(benchmark, tmp_path):
    paired = benchmark("paired")
    asked = []

    def compute(task):
        asked.append(task)
        return {"nll": 10.0 * task}

    path = tmp_path / "scores.json"
    paired.TaskScores(path).fill("method", 3, compute)
    row = paired.TaskScores(path).fill("method", 5, compute)
    assert asked == [0, 1, 2, 3, 4]
    assert row["nll"] == [0, 10, 20, 30, 40]
    assert len(row["seconds"]) == 5
    assert paired.TaskScores(path).fill("method", 2, compute)["nll"] == [0, 10]
    assert set(json.loads(path.read_text())) == {"method"}


def test_bootstrap_interval_is_that_of_a_mean(benchmark):
    values = np.random.default_rng(0).normal(3.0, 2.0, size=400)
    mean, low, high = benchmark("paired").mean_and_interval(values)
    assert mean == pytest.approx(values.mean(), abs=1e-5)
    assert (high - low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.1)


def test_crps_of_a_gaussian_is_its_integral(benchmark):
    mean, std, y = 0.3, 1.7, -1.1
    below, _ = scipy.integrate.quad(lambda t: scipy.stats.norm(mean, std).cdf(t) ** 2, -20, y)
    above, _ = scipy.integrate.quad(lambda t: scipy.stats.norm(mean, std).sf(t) ** 2, y, 20)
    crps = benchmark("gp_certificate").gaussian_crps(*(torch.tensor(v, dtype=torch.float64) for v in (mean, std**2, y)))
    assert crps.item() == pytest.approx(below + above, rel=1e-6)


class ExactNetwork:
    """In the place of a network: the exact posterior with its variance multiplied."""

    def __init__(self, certificate, factor=1.0):
        self.certificate, self.factor = certificate, factor

    def posterior(self, x, y, x_query):
        mean, variance = GPPrior().posterior(x, y, x_query)
        normal = torch.distributions.Normal(mean, (self.factor * variance).sqrt())
        return SimpleNamespace(
            log_prob=lambda y: normal.log_prob(y.double()), cdf=lambda y: normal.cdf(y.double()),
            crps=lambda y: self.certificate.gaussian_crps(mean, self.factor * variance, y.double()),
        )


def test_the_exact_posterior_passes_the_certificate(benchmark):
    certificate = benchmark("gp_certificate")
    row = certificate.fixed_row(certificate.fixed_scores(ExactNetwork(certificate), GPPrior(), 5, 1, 200, seed=0))
    assert row["gap"] == [0, 0, 0]
    assert row["crps_gap"] == [0, 0, 0]
    assert row["pit_ks"] < 0.05
    for level, (share, low, high) in row["coverage"].items():
        assert abs(share - float(level)) < 2 * (high - low)


def test_the_gap_is_the_divergence(benchmark):
    """KL(N(0, 1) ‖ N(0, 4)) = ln 2 - 3/8, and the wider intervals cover more."""
    certificate = benchmark("gp_certificate")
    row = certificate.fixed_row(certificate.fixed_scores(ExactNetwork(certificate, 4.0), GPPrior(), 5, 1, 500, seed=0))
    assert row["gap"][1] - 0.01 < math.log(2) - 3 / 8 < row["gap"][2] + 0.01
    assert row["coverage"]["0.5"][0] == pytest.approx(2 * scipy.stats.norm.cdf(2 * scipy.stats.norm.ppf(0.75)) - 1, abs=0.04)


def test_more_tasks_begin_with_the_same(benchmark):
    reference = benchmark("reference_gp")
    few, many = (reference.draw_tasks(GPPrior(), 3, 2, count, seed=1) for count in (5, 150))
    assert torch.equal(few.x, many.x[:5])
    assert torch.equal(few.y, many.y[:5])


# Gaussian processes


@pytest.mark.parametrize("has_priors", [False, True])
def test_most_probable_hyperparameters_are_the_maximum_on_a_grid(benchmark, has_priors):
    reference = benchmark("reference_gp")
    batch = reference.draw_tasks(reference.PRIOR, 12, 1, 1, seed=3)
    x, y = batch.x[0, :12].double(), batch.y[0, :12].double()
    best = reference.most_probable(reference.PRIOR, x, y, has_priors=has_priors, generator=seeded())

    def objective(lengthscale, outputscale):               # (S,) each
        count = len(outputscale)
        data = [value.expand(count, *value.shape) for value in (x, y, x[:0])]
        value = gp_posterior(*data, kernel="matern52", lengthscale=lengthscale.unsqueeze(1), outputscale=outputscale,
                             noise=0.0).log_marginal_likelihood
        for law, at in ((reference.PRIOR.lengthscale, lengthscale), (reference.PRIOR.outputscale, outputscale)):
            if has_priors:
                value = value + torch.from_numpy(scipy.stats.gamma(law.shape, scale=1 / law.rate).logpdf(at.numpy()))
        return value

    values = torch.logspace(-2, 2.5, 80, dtype=torch.float64)
    on_grid = objective(*(axis.flatten() for axis in torch.meshgrid(values, values, indexing="ij"))).max()
    found = objective(best.lengthscale[:, 0], best.outputscale).item()
    assert on_grid - 1e-6 < found < on_grid + 1.0


def test_numpyro_has_the_density_of_the_gaussian_process(benchmark_with_numpyro):
    jax = pytest.importorskip("jax")
    from numpyro.infer.util import log_density

    reference = benchmark_with_numpyro("reference_gp")
    batch = reference.draw_tasks(reference.PRIOR, 10, 3, 1, seed=0)
    x, y = batch.x[0, :10].double(), batch.y[0, :10].double()
    lengthscale, outputscale = torch.tensor([0.4, 0.9, 0.2], dtype=torch.float64), torch.tensor(7.0, dtype=torch.float64)
    with jax.enable_x64(True):
        sites = {"lengthscale": lengthscale.numpy(), "outputscale": outputscale.numpy()}
        found = float(log_density(reference.numpyro_model(reference.PRIOR), (x.numpy(), y.numpy()), {}, sites)[0])
    expected = gp_posterior(x, y, x[:0], kernel="matern52", lengthscale=lengthscale, outputscale=outputscale,
                            noise=0.0).log_marginal_likelihood.item()
    expected += scipy.stats.gamma(3.0, scale=1 / 6).logpdf(lengthscale.numpy()).sum()
    expected += scipy.stats.gamma(2.0, scale=1 / 0.15).logpdf(7.0)
    assert found == pytest.approx(expected, rel=1e-8)


@pytest.mark.slow
def test_chains_agree_with_importance_sampling(benchmark_with_numpyro):
    reference = benchmark_with_numpyro("reference_gp")
    batch = reference.draw_tasks(reference.PRIOR, 8, 2, 1, seed=0)
    x, y = batch.x[0].double(), batch.y[0].double()
    hyper, r_hat = reference.GPChains(reference.PRIOR, 2, n_samples=500, n_chains=4).sample(x[:8], y[:8], seed=0)
    assert r_hat < 1.05
    draws = sample_hyperparameters(reference.PRIOR, x[:8], y[:8], generator=seeded(), n_draws=20_000)
    weight = draws.log_weight.exp()
    for name, column in (("lengthscale", 0), ("lengthscale", 1), ("outputscale", ...)):
        chain, exact = (getattr(each, name)[..., column] for each in (hyper, draws.hyper))
        mean = weight @ exact
        std = (weight @ (exact - mean).square()).sqrt()
        assert abs(chain.mean() - mean) < 0.2 * std                 # four standard errors of 400 independent draws
    by_chains = reference.predict(reference.PRIOR, hyper, x[:8], y[:8], x[8:]).log_prob(y[8:])
    torch.testing.assert_close(by_chains, draws.predict("matern52", x[:8], y[:8], x[8:]).log_prob(y[8:]), rtol=0, atol=0.15)


# Bayesian neural networks


class RecordingDraw(Draw):
    """Keeps its normal draws."""

    def normal(self, *size):
        drawn = super().normal(*size)
        self.normals.append(drawn)
        return drawn


def test_numpyro_has_the_networks_of_the_prior(benchmark_with_numpyro):
    """The prior's own draws of the weights, put into NumPyro's model, give the prior's own logits."""
    import jax
    from numpyro.handlers import seed, substitute, trace

    reference = benchmark_with_numpyro("reference_bnn")
    prior = reference.PRIOR
    draw = RecordingDraw(seeded())
    object.__setattr__(draw, "normals", [])
    x = torch.randn(1, 20, 8, generator=seeded(1))
    logits = prior._draw_outputs(x, 2, draw)[0]
    w1, _, b1, _, w2, _, b2, _ = (value[0] for value in draw.normals)       # the others are of noise, which is 0
    weights = {"w1": w1, "b1": b1[0], "w2": w2, "b2": b2[0]}
    assert {name: tuple(value.shape) for name, value in weights.items()} == reference.sites(prior, 8)
    weights = {name: value.numpy() for name, value in weights.items()}
    model = seed(substitute(reference.numpyro_model(prior, 8), weights), jax.random.PRNGKey(0))
    traced = trace(model).get_trace(x[0].numpy())
    np.testing.assert_allclose(traced["y"]["fn"].base_dist.logits, logits.log_softmax(-1), rtol=1e-4, atol=1e-4)
    for name in weights:
        law = traced[name]["fn"].base_dist
        assert (float(np.max(law.mean)), float(np.min(law.variance)), float(np.max(law.variance))) == (0, 1, 1)


def test_a_task_has_the_labels_of_its_logits(benchmark_with_numpyro):
    """Labels of the prior are class indices of the logits: none is renamed where both classes occur."""
    prior = BNNPrior(1, 64, 1.0, "tanh", noise_std=0.0, output_noise_std=0.0, target="softmax")
    assert prior == benchmark_with_numpyro("reference_bnn").PRIOR
    draw = RecordingDraw(seeded())
    object.__setattr__(draw, "normals", [])
    task = prior.sample(TaskShape(1, 300, 8, 100), generator=seeded())
    again = draw.normal(1, 300, 8)
    torch.testing.assert_close(task.x, again)
    logits = prior._draw_outputs(again, 2, draw)
    sure = (logits[..., 0] - logits[..., 1]).abs() > 12
    assert sure.sum() > 20
    assert torch.equal(logits.argmax(2)[sure], task.y[sure])


def test_probabilities_are_averaged_not_their_logarithms(benchmark_with_numpyro):
    reference = benchmark_with_numpyro("reference_bnn")
    generator = seeded()
    sizes = reference.sites(reference.PRIOR, 8)
    weights = {name: torch.randn(5, *size, generator=generator).numpy() for name, size in sizes.items()}
    x = torch.randn(7, 8, generator=generator).numpy()
    each = [np.exp(reference.log_probabilities({name: value[s] for name, value in weights.items()}, x)) for s in range(5)]
    np.testing.assert_allclose(np.exp(reference.averaged(weights, x)), np.mean(each, 0), rtol=1e-4, atol=1e-6)


# The sampler


@pytest.mark.slow
def test_chains_have_the_moments_of_a_conjugate_posterior(benchmark_with_numpyro):
    """y = w·x + ε with w and ε standard normal: w is N(Σxy / (1 + Σx²), 1 / (1 + Σx²))."""
    import numpyro
    from numpyro import distributions as dist

    def model(x, y):
        numpyro.sample("y", dist.Normal(x * numpyro.sample("w", dist.Normal(0, 1)), 1), obs=y)

    x, y = np.array([0.5, -1.0, 2.0]), np.array([1.0, 0.3, 2.5])
    chains = benchmark_with_numpyro("nuts").NUTS(model, {"w": ()}, 2000, 500, n_chains=2, is_double=True)
    draws = chains.sample(x, y, seed=0)["w"]
    assert draws.shape == (2, 2000)
    assert chains.compile_seconds > 0
    variance = 1 / (1 + x @ x)
    assert draws.mean() == pytest.approx(variance * (x @ y), abs=4 * (variance / 1000) ** 0.5)
    assert draws.var() == pytest.approx(variance, rel=4 * (2 / 1000) ** 0.5)
    assert np.array_equal(draws, chains.sample(x, y, seed=0)["w"])
