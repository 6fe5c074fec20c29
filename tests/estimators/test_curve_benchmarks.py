"""The oracles, baselines, curves and scores of the learning-curve benchmarks."""

import argparse
import importlib
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from estimators.learning_curves import LearningCurveExtrapolator
from pfn import PFN
from pfn.recipes import learning_curve
from priors.curve_families import FAMILIES

pytest.importorskip("emcee")
STEPS = np.arange(1, 101)


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[2] / "benchmarks")
    return importlib.import_module


@pytest.fixture
def mcmc(benchmark):
    return benchmark("curve_mcmc")


@pytest.fixture
def baselines(benchmark):
    return benchmark("curve_baselines")


@pytest.fixture
def data(benchmark):
    return benchmark("curve_data")


@pytest.fixture
def real(benchmark):
    return benchmark("learning_curves_real")


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return PFN(replace(learning_curve().model, embed_dim=32, n_layers=2, n_heads=2, hidden_dim=64, n_outputs=64)).eval()


def parameters(n=4000, seed=0):
    return np.random.default_rng(seed).standard_normal((n, 13))


def noisy_curve(std=0.05, seed=0):
    return 0.7 - 0.4 * STEPS**-0.6 + std * np.random.default_rng(seed).standard_normal(100)


# Oracles


def test_curves_are_sums_of_the_released_families(mcmc):
    theta = mcmc.natural(parameters(50))
    named = {name: torch.from_numpy(theta[:, [i]]) for i, name in enumerate(mcmc.PARAMETERS)}
    t = torch.arange(1, 101).double()
    expected = (
        named["w1"] * FAMILIES["pow3"].formula(t, named["c1"], named["a1"], named["ln α"].exp())
        + named["w2"] * FAMILIES["janoschek"].formula(t, named["a2"], named["b2"], named["ln κ"].exp(), named["ln δ"].exp())
        + named["w3"] * FAMILIES["ilog2"].formula(t, named["c3"], named["a3"])
    )
    np.testing.assert_allclose(mcmc.curves(theta, np.log(STEPS), 1 / np.log(STEPS + 1)), expected, rtol=1e-9, atol=1e-12)


def test_parameters_have_the_distributions_of_the_prior(mcmc):
    theta = mcmc.natural(parameters())
    for column, (low, high) in enumerate(mcmc.UNIFORM.values()):
        assert stats.kstest(theta[:, column], stats.uniform(low, high - low).cdf).pvalue > 1e-3
    for column, (mean, std) in enumerate(mcmc.NORMAL.values(), start=len(mcmc.UNIFORM)):
        assert stats.kstest(theta[:, column], stats.norm(mean, std).cdf).pvalue > 1e-3
    np.testing.assert_allclose(mcmc.standard(theta), parameters(), atol=1e-6)


def test_log_density_is_prior_times_likelihood_in_both_coordinates(mcmc):
    z, y = parameters(), noisy_curve()[:10]
    theta = mcmc.natural(z)
    f = mcmc.curves(theta, np.log(STEPS), 1 / np.log(STEPS + 1))
    inside = np.flatnonzero(mcmc.is_admissible(f))
    expected = stats.norm.logpdf(y, f[:, :10], np.exp(theta[:, -1:])).sum(1) + stats.norm.logpdf(z).sum(1)
    found = mcmc.Posterior(STEPS[:10], y, 100)(z)
    np.testing.assert_allclose(np.diff(found[inside]), np.diff(expected[inside]), rtol=1e-9, atol=1e-8)
    found_natural = mcmc.Posterior(STEPS[:10], y, 100, is_natural=True)(theta)
    jacobian = -0.5 * (z[:, :9] ** 2).sum(1)                                 # of Φ, up to a constant
    np.testing.assert_allclose(found[inside] - found_natural[inside], jacobian[inside], atol=1e-8)


def test_what_the_prior_rejects_has_no_density(mcmc):
    z = parameters()
    f = mcmc.curves(mcmc.natural(z), np.log(STEPS), 1 / np.log(STEPS + 1))
    density = mcmc.Posterior(STEPS[:10], noisy_curve()[:10], 100)(z)
    rejected = (f.min(1) < -0.01) | (f.max(1) > 1.01) | (f[:, -1] <= f[:, 0])
    assert rejected.sum() > 1000
    assert np.isneginf(density[rejected]).all()
    outside = mcmc.natural(z[~rejected][:1])
    outside[0, 2] = 1.001
    assert np.isneginf(mcmc.Posterior(STEPS[:10], noisy_curve()[:10], 100, is_natural=True)(outside)).all()


@pytest.mark.parametrize("as_domhan", [False, True])
def test_walkers_start_where_the_density_is(mcmc, as_domhan):
    y = noisy_curve()[:20]
    start = mcmc.MCMC(n_bank=2000).start(STEPS[:20], y, 40, np.random.default_rng(0), as_domhan)
    density = mcmc.Posterior(STEPS[:20], y, 100)
    assert start.shape == (40, 13)
    assert len(np.unique(start, axis=0)) == 40
    assert (density(start) > density(parameters()).max() - 20).all()


@pytest.mark.parametrize("cut", [10, 20])
def test_mcmc_agrees_with_importance_sampling(mcmc, cut):
    y, query = noisy_curve(), STEPS[cut:]
    sampled, ess = mcmc.ImportanceSampler(30_000).predict(STEPS[:cut], y[:cut], query)
    assert ess > 100
    found = mcmc.MCMC(n_bank=5000).predict(STEPS[:cut], y[:cut], query, setting=mcmc.Setting(steps=1500, burn_in=500))
    assert found.log_prob(y[cut:]).mean() == pytest.approx(sampled.log_prob(y[cut:]).mean(), abs=0.06)
    for q in (0.1, 0.5, 0.9):
        np.testing.assert_allclose(sampled.cdf(found.quantile(q)), q, atol=0.08)


def test_one_walker_at_a_time_gives_the_same_chain(mcmc):
    y, sampler, setting = noisy_curve()[:20], mcmc.MCMC(n_bank=500), mcmc.Setting(walkers=30, steps=12, burn_in=2)
    together, alone = (
        sampler.predict(STEPS[:20], y, STEPS[20:], setting=setting, vectorize=vectorize) for vectorize in (True, False))
    np.testing.assert_allclose(together.f, alone.f, rtol=1e-9)


def test_importance_weights_integrate_the_noise_out(mcmc):
    sampler, y = mcmc.ImportanceSampler(200), noisy_curve(0.1)
    mixture, _ = sampler.predict(STEPS[:5], y[:5], STEPS[5::30])
    log_std = np.linspace(-9, 1, 1001)
    misfit = ((sampler._curves[:, :5] - y[:5]) ** 2).sum(1)[:, None]
    joint = np.exp(-0.5 * (log_std + 4) ** 2 - 5 * log_std - 0.5 * misfit * np.exp(-2 * log_std))
    at = np.full(4, 0.6)
    expected = np.einsum("is,isq->q", joint / joint.sum(),
                         stats.norm.cdf(at, sampler._curves[:, None, 5::30], np.exp(log_std)[:, None]))
    np.testing.assert_allclose(mixture.cdf(at), expected, atol=2e-3)


def test_mixture_is_a_distribution(mcmc):
    rng = np.random.default_rng(0)
    f, std = rng.random((5, 3)), 0.1 + rng.random((5, 1))
    mixture = mcmc.NormalMixture(f, std, np.log(np.array([[0.1], [0.2], [0.3], [0.3], [0.1]])))
    for q in (0.05, 0.5, 0.95):
        np.testing.assert_allclose(mixture.cdf(mixture.quantile(q)), q, atol=1e-6)
    for step in range(3):
        below = integrate.quad(lambda y, step=step: np.exp(mixture.log_prob(np.full(3, y))[step]), -20, 0.4)[0]
        assert below == pytest.approx(mixture.cdf(np.full(3, 0.4))[step], abs=1e-7)


# Baselines


def test_least_squares_baselines_recover_their_own_curves(baselines):
    t, later = STEPS[:20].astype(float), STEPS[20:].astype(float)
    exponent = baselines.EXPONENTS[60]
    power, linear = (lambda t: 0.8 - 0.5 * t**-exponent), (lambda t: 0.1 + 0.1 * np.log(t))
    for name, curve in (("power law", power), ("linear in log t", linear)):
        prediction = baselines.BASELINES[name](t, curve(t), later)
        np.testing.assert_allclose(prediction.f[0], curve(later), atol=1e-6)
        assert np.all(prediction.std >= baselines.SMALLEST_STD)


def test_power_law_agrees_with_a_general_optimiser(baselines):
    from scipy.optimize import curve_fit

    t, y = STEPS[:30].astype(float), noisy_curve(0.01)[:30]
    (c, a, exponent), _ = curve_fit(lambda t, c, a, exponent: c - a * t**-exponent, t, y, p0=(0.7, 0.3, 0.5))
    prediction = baselines.power_law(t, y, np.array([50.0, 100.0]))
    np.testing.assert_allclose(prediction.f[0], c - a * np.array([50.0, 100.0]) ** -exponent, atol=2e-3)


def test_linear_baseline_has_the_predictive_variance_of_regression(baselines):
    t, later = np.arange(1.0, 9), np.array([20.0, 80.0])
    y = 0.2 + 0.1 * np.log(t) + 0.05 * np.random.default_rng(0).standard_normal(8)
    fit = stats.linregress(np.log(t), y)
    squares = ((y - fit.intercept - fit.slope * np.log(t)) ** 2).sum() / 6
    far = (np.log(later) - np.log(t).mean()) ** 2 / ((np.log(t) - np.log(t).mean()) ** 2).sum()
    prediction = baselines.linear_in_log(t, y, later)
    np.testing.assert_allclose(prediction.f[0], fit.intercept + fit.slope * np.log(later))
    np.testing.assert_allclose(prediction.std[0] ** 2, squares * (1 + 1 / 8 + far))


def test_levels_and_spreads_of_the_simple_rules(baselines):
    t, later = np.arange(1.0, 7), np.array([7.0, 10.0])
    y = np.array([0.1, 0.5, 0.3, 0.7, 0.6, 0.5])
    last, best, walk = (baselines.BASELINES[name](t, y, later) for name in ("last value", "best so far", "random walk"))
    assert [np.unique(prediction.f).tolist() for prediction in (last, walk, best)] == [[0.5], [0.5], [0.7]]
    np.testing.assert_allclose(last.std, math.sqrt((0.2**2 + 0.1**2) / 2))
    np.testing.assert_allclose(walk.std[0] ** 2, np.mean(np.diff(y) ** 2) * np.array([1, 4]))


@pytest.mark.parametrize("n_observed", [1, 2, 3])
def test_baselines_take_short_and_constant_curves(baselines, n_observed):
    for predict in baselines.BASELINES.values():
        prediction = predict(STEPS[:n_observed].astype(float), np.full(n_observed, 0.4), np.array([50.0, 100.0]))
        np.testing.assert_allclose(prediction.f, 0.4)
        assert (prediction.std >= baselines.SMALLEST_STD).all()


# Curves


def test_curve_sets_are_complete_and_within_their_bounds(data):
    sets = data.all_sets()
    assert len(sets) == 29
    for curves in sets:
        low, high = curves.bounds
        seen = np.isfinite(curves.values)
        assert ((curves.values >= low) & (curves.values <= high))[seen].all()
        assert (np.diff(seen.astype(int), axis=1) <= 0).all(), "a run that diverged stays so"
        assert curves.complete().sum() >= 20
        assert curves.hyperparameters.shape == (len(curves.values), len(curves.names))
        assert np.isfinite(curves.hyperparameters).all()
        assert curves.values.shape[1] == len(curves.steps) <= 200
    assert sum(path.stat().st_size for path in data.FOLDER.iterdir()) < 1.5e6


def test_parts_share_no_table(data):
    first, second = ({task.split("-")[1] for task in part} for part in (data.DEVELOPMENT, data.HELD_OUT))
    assert not first & second
    assert all(curves.is_development for curves in data.all_sets("development"))
    assert len(data.all_sets("development")) + len(data.all_sets("held out")) == 29


def test_unknown_sets_are_named(data):
    with pytest.raises(ValueError, match=r"no mlp-iris\.npz"):
        data.load("mlp-iris/accuracy")
    with pytest.raises(ValueError, match="no metric 'mse'"):
        data.load("mlp-digits/mse")


def test_training_anew_gives_the_stored_curves(data):
    start, _, _ = data.ALGORITHMS["sgd"]
    index, stored = 3, data.load("sgd-digits/accuracy")
    seed = 1000 * (data.DEVELOPMENT + data.HELD_OUT).index("sgd-digits") + index
    table = data.table("digits")
    drawn, predictions = start(np.random.default_rng(seed), table, seed)
    scores = data.scores(predictions, table[3], 3)
    np.testing.assert_allclose(list(drawn.values()), stored.hyperparameters[index], rtol=1e-6)
    np.testing.assert_allclose(scores["accuracy"], stored.values[index, :3], atol=0.005)


def test_scores_end_where_a_run_diverges(data):
    y = np.array([0, 1, 1])
    good, bad = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]), np.full((3, 2), np.nan)
    rows = data.scores([good, bad, good], y, 4)
    np.testing.assert_allclose(rows["accuracy"], [2 / 3, np.nan, np.nan, np.nan])
    np.testing.assert_allclose(rows["log_loss"][0], -np.log([0.9, 0.8, 0.4]).mean())


# Scores


def one_step_set(data, values, minimize, bounds):
    return data.CurveSet("toy/metric", "metric", minimize, bounds, np.arange(1.0, values.shape[1] + 1), values,
                         np.zeros((len(values), 0)), ())


@pytest.mark.parametrize(("minimize", "bounds"), [(False, (0, 1)), (True, (0, math.inf)), (True, (0, 1))])
def test_mixture_densities_integrate_to_one_in_units_of_the_metric(real, mcmc, data, minimize, bounds):
    grid = np.linspace(1e-6, 1 - 1e-6, 1001) if bounds[1] == 1 else np.geomspace(1e-4, 40, 2001)
    values = np.column_stack([np.broadcast_to([0.9, 0.5, 0.4], (len(grid), 3)), grid])
    mixture = mcmc.NormalMixture(np.array([[0.5], [0.9]]), np.array([[0.2], [0.3]]), np.log([[0.5], [0.5]]))
    rows = real.mixture_scores(lambda index, g: mixture, one_step_set(data, values, minimize, bounds), values, 3)
    assert integrate.trapezoid(np.exp(rows["log_prob"]), grid) == pytest.approx(1, abs=2e-3)
    g = real.metric_of(one_step_set(data, values, minimize, bounds), values[:1, :3]).forward(grid[None])[0]
    median = g[np.argmin(rows["error"])]
    assert median == pytest.approx(mixture.quantile(0.5)[0], abs=2e-3)
    central = integrate.trapezoid(np.exp(rows["log_prob"]) * (rows["covered"] > 0), grid)
    assert central == pytest.approx(0.9, abs=5e-3)


def test_ties_share_a_rank(real):
    rows = {name: {"log_prob": np.array([a]), "error": np.array([b]), "last_error": np.array([c])}
            for name, (a, b, c) in {"x": (1, 0.1, 0.2), "y": (3, 0.1, 0.3), "z": (2, 0.2, 0.1)}.items()}
    found = real.ranks(rows)
    assert [found[name]["log_prob"][0] for name in "xyz"] == [3, 1, 2]
    assert [found[name]["error"][0] for name in "xyz"] == [1.5, 1.5, 3]
    assert [found[name]["last_error"][0] for name in "xyz"] == [2, 3, 1]


def test_a_set_is_judged_by_all_methods(real, data, network, tmp_path):
    values = 0.8 - 0.5 * np.arange(1.0, 13) ** -np.linspace(0.2, 2, 6)[:, None]
    values = values + 0.01 * np.random.default_rng(0).standard_normal(values.shape)
    curves = one_step_set(data, values, False, (0, 1))
    extrapolator = LearningCurveExtrapolator(horizon=12, model=network, device="cpu")
    args = argparse.Namespace(curves=None, seed=0, mcmc_curves=2)
    oracle = real.CachedMCMC(tmp_path / "mcmc.json")
    oracle.SETTING = replace(oracle.SETTING, steps=40, burn_in=20)
    result = real.judge(curves, extrapolator, oracle, args)
    assert set(result) == {"10%", "20%", "40%", "60%", "80%"}
    for row in result.values():
        methods = row["methods"]
        ranks = [method["ranks"]["log_prob"] for method in methods.values() if "ranks" in method]
        assert sum(ranks) == pytest.approx(21)                                          # 1 + … + 6
        assert sum(method["ranks_beside_mcmc"]["error"] for method in methods.values()) == pytest.approx(28)
        assert methods["network"]["ranks"]["error"] > 1                                 # of random weights
    again = real.judge(curves, extrapolator, real.CachedMCMC(tmp_path / "mcmc.json"), args)
    assert again == result
    kept, mean = real.by_method(result), real.averages({"a": result, "b": result}, "20%")
    for name in ("network", "MCMC"):
        covered = result["20%"]["methods"][name]["scores"]["covered"]
        assert kept[name]["scores: covered"][1] == pytest.approx(covered, rel=1e-3)
        assert mean[name]["scores: covered"] == pytest.approx([covered] * 3)
        assert mean[name]["covered, pooled"] == pytest.approx([covered], abs=1e-4)


def test_the_network_is_judged_as_the_extrapolator_predicts(benchmark, network):
    prior = benchmark("learning_curves_prior")
    curves = np.stack([noisy_curve(seed=seed) for seed in range(3)])
    scores = prior.network_scores(network, curves, 20, 0.0)
    extrapolator = LearningCurveExtrapolator(bounds=None, horizon=100, prior="released", model=network, device="cpu")
    posterior = extrapolator.fit(STEPS[:20], curves[:, :20]).predict_distribution(STEPS[20:])
    np.testing.assert_allclose(scores["log_prob"], posterior.log_prob(curves[:, 20:]).mean(1), atol=0.01)
    np.testing.assert_allclose(scores["pit"], posterior.cdf(curves[:, 20:]), atol=0.01)


def test_calibration_of_uniform_and_of_central_transforms(benchmark):
    calibration = benchmark("learning_curves_prior").calibration
    uniform = (np.arange(1000) + 0.5) / 1000
    assert calibration(uniform) == {"coverage": {"50%": 0.5, "80%": 0.8, "95%": 0.95}, "pit_deviation": 0.0}
    timid = calibration(0.25 + uniform / 2)
    assert timid["coverage"] == {"50%": 1.0, "80%": 1.0, "95%": 1.0}
    assert timid["pit_deviation"] == pytest.approx(0.25, abs=1e-3)
