"""Oracles, estimators and episodes of the studies in benchmarks/: function_classes, looped, localisation, few_shot."""

import importlib
import math
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from pfn import PFN, PFNConfig
from priors import TaskShape


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[2] / "benchmarks")
    return importlib.import_module


def network(task, n_features, n_outputs, **settings):
    size = {"embed_dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 16, "n_thinking_rows": 2}
    config = PFNConfig(task=task, n_outputs=n_outputs, row_features=n_features, scaling="prior", **(size | settings))
    with torch.random.fork_rng():
        torch.random.manual_seed(0)
        return PFN(config).eval().requires_grad_(False)


# Function classes


def data(benchmark, name, n, n_queries=4, n_tasks=3):
    shape = TaskShape(n_tasks, n + n_queries, 5, n)
    batch = benchmark.FUNCTION_CLASSES[name].sample(shape, generator=torch.Generator().manual_seed(1))
    return batch.x[:, :n], batch.y[:, :n], batch.x[:, n:], batch.y[:, n:]


@pytest.mark.parametrize("name", ["linear", "sparse linear", "mixture of regressions", "two-layer net", "decision tree"])
def test_density_of_a_query_is_a_ratio_of_evidences(study, name):
    """p(y* | D) = p(D, y*) / p(D): this ties evidence and predictive density of every oracle to each other."""
    benchmark = study("function_oracles")
    x, y, x_query, y_query = data(benchmark, name, 7, n_queries=1)
    oracle = benchmark.ORACLES[name]
    before = oracle(x, y, x_query, y_query)
    after = oracle(torch.cat([x, x_query], 1), torch.cat([y, y_query], 1), x_query, y_query)
    torch.testing.assert_close(before.log_prob[:, 0], after.log_evidence - before.log_evidence, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["linear", "sparse linear", "mixture of regressions", "two-layer net", "decision tree"])
def test_mean_is_that_of_the_density(study, name):
    benchmark = study("function_oracles")
    x, y, x_query, _ = data(benchmark, name, 4, n_queries=1, n_tasks=1)
    grid = torch.linspace(-25, 25, 5001)
    wide = benchmark.ORACLES[name](x, y, x_query.expand(-1, len(grid), -1), grid[None])
    density = wide.log_prob[0].exp()
    assert torch.trapezoid(density, grid.double()).item() == pytest.approx(1, abs=1e-6)
    assert torch.trapezoid(density * grid, grid.double()).item() == pytest.approx(wide.mean[0, 0].item(), abs=1e-5)


def test_tree_oracle_averages_over_all_trees(study, monkeypatch):
    """Depth 2 and two features: all eight trees, one Gaussian process each."""
    benchmark = study("function_oracles")
    from priors.functions import DecisionTreePrior
    monkeypatch.setitem(benchmark.FUNCTION_CLASSES, "decision tree", DecisionTreePrior(depth=2, noise=benchmark.NOISE))
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(9, 2, generator=generator), 2 * torch.randn(9, generator=generator)
    n, side = 6, (x > 0).tolist()
    log_weight, means = [], []
    for root, low, high in product(range(2), repeat=3):
        leaf = torch.tensor([(s[root], s[high if s[root] else low]) for s in side])
        same = (leaf[:, None] == leaf[None]).all(2).double()
        covariance = same[:n, :n] + benchmark.NOISE * torch.eye(n, dtype=torch.float64)
        normal = torch.distributions.MultivariateNormal(torch.zeros(n, dtype=torch.float64), covariance)
        log_weight.append(normal.log_prob(y[:n].double()))
        means.append(same[n:, :n] @ torch.linalg.solve(covariance, y[:n].double()))
    log_weight = torch.stack(log_weight)
    expected = log_weight.softmax(0) @ torch.stack(means)
    found = benchmark.tree_oracle(x[None, :n], y[None, :n], x[None, n:], y[None, n:])
    torch.testing.assert_close(found.mean[0], expected, rtol=1e-5, atol=1e-6)
    assert found.log_evidence.item() == pytest.approx(log_weight.logsumexp(0).item() - math.log(8), rel=1e-5)


def test_descent_is_what_its_steps_give_and_newton_squares_them(study):
    benchmark = study("function_oracles")
    x, y, x_query, _ = (tensor.double() for tensor in data(benchmark, "linear", 8, n_tasks=1))
    gram = x[0].T @ x[0] + benchmark.NOISE * torch.eye(5)
    step = 1.3 / torch.linalg.eigvalsh(gram)[-1]
    w, inverse = torch.zeros(5, dtype=torch.float64), step * torch.eye(5, dtype=torch.float64)
    for _ in range(8):
        w = w + step * (x[0].T @ y[0] - gram @ w)
    for _ in range(3):
        inverse = inverse @ (2 * torch.eye(5) - gram @ inverse)
    found = benchmark.descended(x, y, x_query, 1.3, 8)[0]
    torch.testing.assert_close(found, x_query[0] @ w)
    torch.testing.assert_close(found, x_query[0] @ inverse @ x[0].T @ y[0])


def test_iterations_needed_are_the_fewest(study):
    benchmark = study("function_classes")
    x, y = benchmark.draw_tasks("linear", 20, 0)
    found = benchmark.iterations(x, y, 10, 0.6)
    curve = found["gradient_descent"]
    steps, newton = found["steps_of_gradient_descent"], found["steps_of_newton"]
    assert curve[str(2**newton)] <= 0.6 < curve[str(2 ** (newton - 1))]
    assert 2 ** (newton - 1) < steps <= 2**newton
    assert benchmark.iterations(x, y, 10, 0.0)["steps_of_gradient_descent"] is None


def test_evidence_finds_the_class(study):
    benchmark = study("function_oracles")
    for name in benchmark.ORACLES:
        found = [oracle(*data(benchmark, name, 50, n_tasks=8)) for oracle in benchmark.ORACLES.values()]
        total = torch.stack([one.log_evidence for one in found]).sum(1)
        assert list(benchmark.ORACLES)[total.argmax()] == name
        both = benchmark.average([found[0], found[0]], torch.tensor([3.0, 1.0]))
        torch.testing.assert_close(both.mean, found[0].mean)
        torch.testing.assert_close(both.log_prob, found[0].log_prob)


def test_bayes_rule_over_classes_is_the_best_on_average(study):
    """In squared error and NLL, over tasks of all classes; no class's own oracle is."""
    benchmark = study("function_oracles")
    every = [data(benchmark, name, 6, n_tasks=60) for name in benchmark.ORACLES]
    pooled = [torch.cat(tensors) for tensors in zip(*every, strict=True)]
    found = [oracle(*pooled) for oracle in benchmark.ORACLES.values()]
    found.append(benchmark.average(found, benchmark.class_weights()))
    errors = torch.stack([(one.mean - pooled[3]).square().mean() for one in found])
    nll = torch.stack([-one.log_prob.mean() for one in found])
    assert errors.argmin() == nll.argmin() == len(found) - 1


def test_ratio_of_a_method_with_itself_is_certain(study):
    errors = torch.rand(50, generator=torch.Generator().manual_seed(0))
    assert study("function_classes").ratio_and_interval(2 * errors, errors) == pytest.approx([2, 2, 2])


def test_function_classes_end_to_end(study, monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    benchmark = study("function_classes")
    monkeypatch.setattr(benchmark, "CONTEXTS", (3, 10, 20))
    record = benchmark.evaluate(network("regression", 5, 32, normal_base=True), 6, 0)
    assert "linear, n = 10" in benchmark.verdict(record)
    assert benchmark.tables(record).count("| 20 |") == 5
    lasso = record["classes"]["sparse linear"]["20"]["error"]
    assert lasso["sparse linear"] <= lasso["Lasso"] + 0.2
    benchmark.draw(record, tmp_path / "classes.png")


# Loops


def test_other_loops_share_the_weights(study):
    benchmark = study("looped")
    tied = network("regression", 3, 32, normal_base=True, n_layers=1, n_loops=3)
    batch = benchmark.draw_tasks("linear", 5, 0)
    same, fewer = benchmark.looped(tied, 3), benchmark.looped(tied, 1)
    np.testing.assert_array_equal(benchmark.network_nll(same, batch, 10), benchmark.network_nll(tied, batch, 10))
    assert not np.allclose(benchmark.network_nll(fewer, batch, 10), benchmark.network_nll(tied, batch, 10))
    assert fewer.n_parameters == tied.n_parameters


def test_exact_nll_of_loops_falls_from_that_without_context(study):
    benchmark = study("looped")
    for name in benchmark.PRIORS:
        batch = benchmark.draw_tasks(name, 200, 0)
        nll = [benchmark.blind_nll(name, batch)] + [benchmark.exact_nll(name, batch, n).mean() for n in benchmark.CONTEXTS]
        assert nll == sorted(nll, reverse=True)


def test_loops_end_to_end(study, tmp_path):
    pytest.importorskip("matplotlib")
    benchmark = study("looped")
    untied = network("regression", 3, 32, normal_base=True)
    tied = network("regression", 3, 32, normal_base=True, n_layers=1, n_loops=2)
    with torch.inference_mode():
        record = {
            "comparison": benchmark.compare(untied, tied, 5, 0), "other_loops": benchmark.other_loops(tied, 3, 0),
            "parameters": {"layers": untied.n_parameters, "loops": tied.n_parameters}, "trained_loops": 2,
            "against_ridge": benchmark.against_ridge({"layers": untied, "loops": tied}, 5, 0),
        }
    whole, *parts = (record["comparison"][name]["rows"]["all"]["loops"] for name in (benchmark.BOTH, *benchmark.PRIORS))
    assert whole == pytest.approx(sum(parts) / 2)
    assert "target ≤ 5%" in benchmark.verdict(record)
    assert all(ratio[0] > 1 for ratio in record["against_ridge"].values())                # ridge is the posterior mean
    assert "layers, linear, n = 6" in benchmark.verdict(record)
    assert benchmark.tables(record).count("| 60 |") == 2
    benchmark.draw(record, tmp_path / "loops.png")


# Localisation


def test_bias_and_variance_are_unbiased(study):
    """Noise around p + 0.1: bias² 0.01 and variance 0.04, however few the replicates."""
    benchmark = study("localisation")
    rng = np.random.default_rng(0)
    p = rng.random(20)
    found = np.array([benchmark.bias_and_variance(p + 0.1 + 0.2 * rng.standard_normal((4, 20)), p) for _ in range(2000)])
    tolerance = 4 * found.std(0) / math.sqrt(len(found))
    assert np.all(np.abs(found.mean(0) - [0.01, 0.04]) < tolerance)


def test_summary_recovers_known_slopes(study):
    benchmark = study("localisation")
    rng = np.random.default_rng(1)
    p = np.full(50, 0.5)
    q = {n: p + n**-0.25 + n**-0.5 * rng.standard_normal((200, 50)) for n in (100, 400, 1600)}
    found = benchmark.summary(q, p, n_resamples=50)
    assert found["slope of variance"][0] == pytest.approx(-1, abs=0.05)
    bias = found["slope of bias², n > 256"]
    assert bias[0] == pytest.approx(-0.5, abs=0.1)
    assert bias[1] < bias[0] < bias[2]


@pytest.mark.parametrize(("n", "k"), [(100, 8), (250, 12), (500, 16), (1000, 22), (2000, 30), (4000, 40)])
def test_number_of_neighbours_is_that_of_the_paper(study, n, k):
    assert study("localisation").n_neighbours(n) == k


def test_local_prediction_ignores_what_is_far(study):
    benchmark = study("localisation")
    model = network("classification", 5, 2)
    (x, y), x_query = benchmark.replicate(0, 0), benchmark.queries()[:3]
    x, y = x[:200], y[:200]
    far = torch.ones(200, dtype=torch.bool)
    far[benchmark.nearest_rows(x, x_query).flatten()] = False
    other = torch.where(far, 1 - y, y)
    for method in (benchmark.local(model), benchmark.neighbours):
        torch.testing.assert_close(method(x, y, x_query), method(x, other, x_query))
    assert not torch.allclose(benchmark.plain(model)(x, y, x_query), benchmark.plain(model)(x, other, x_query))


def test_members_treat_both_classes_alike(study):
    benchmark = study("localisation")
    model = network("classification", 5, 2)
    x, y = benchmark.replicate(0, 0)
    x, y, x_query = x[None, :60], y[None, :60], benchmark.queries()[None, :4]
    found = benchmark.both_members(model, x, y, x_query)
    torch.testing.assert_close(benchmark.both_members(model, x.flip(2), 1 - y, x_query.flip(2)), 1 - found)


def test_predictions_are_continued(study, tmp_path):
    benchmark = study("localisation")
    path, calls = tmp_path / "cache.npz", []

    def method(x, y, x_query):
        calls.append(len(x))
        return y.float().mean().expand(len(x_query))

    benchmark.Predictions(path).fill("mean", method, 2, 0, (100,))
    again = benchmark.Predictions(path)
    again.fill("mean", method, 3, 0, (100, 250))
    assert calls == [100] * 3 + [250] * 3
    fresh = benchmark.Predictions(None)
    fresh.fill("mean", method, 3, 0, (100,))
    np.testing.assert_array_equal(again.arrays["mean/100"], fresh.arrays["mean/100"])


def test_frozen_network_is_the_same_at_256_keys(study):
    benchmark = study("localisation")
    model = network("classification", 5, 2, n_thinking_rows=0)
    for block in model.blocks:
        block.rows.length_scale.fill_(0.5)
    x, y = benchmark.replicate(0, 0)
    for n, is_same in ((256, True), (1000, False)):
        data = x[None, :n], y[None, :n], benchmark.queries()[None]
        frozen = benchmark.both_members(benchmark.frozen(model), *data)
        assert torch.allclose(frozen, benchmark.both_members(model, *data), atol=1e-6) is is_same


def test_localisation_end_to_end(study, monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    benchmark = study("localisation")
    monkeypatch.setattr(benchmark, "SIZES", (100, 300, 400))
    from argparse import Namespace
    args = Namespace(replicates=4, estimator=0, seed=0)
    found = benchmark.evaluate(network("classification", 5, 2), args, benchmark.Predictions(None))
    assert "target -1 ± 0.1" in benchmark.verdict(found)
    assert "n = 400" in benchmark.tables(found)
    benchmark.draw(found, tmp_path / "localisation.png")


# Few shots


def test_digit_episodes_have_five_shots_and_no_image_twice(study):
    benchmark = study("few_shot")
    x, y = benchmark.digit_episodes(10, 0)
    assert x.shape == (10, 50, 64)
    assert x.min() >= 0
    assert x.max() <= 1
    for half in (y[:, :25], y[:, 25:]):
        assert (torch.nn.functional.one_hot(half, 5).sum(1) == 5).all()
    assert all(len(images.unique(dim=0)) == 50 for images in x)
    from sklearn.datasets import load_digits
    images, digit = load_digits(return_X_y=True)
    owner = {tuple(image): d for image, d in zip(images, digit, strict=True)}
    found = [owner[tuple((16 * image).double().tolist())] for image in x[0]]
    assert len({(d, c) for d, c in zip(found, y[0].tolist(), strict=True)}) == 5


def test_stroke_episodes_have_five_shots_of_each_class(study):
    x, y = study("few_shot").stroke_episodes(10, 0)
    assert x.shape == (10, 50, 64)
    assert (torch.nn.functional.one_hot(y[:, :25], 5).sum(1) == 5).all()


def test_renamed_classes_are_named_back(study):
    """Of a "network" that knows the mean of each class's shots."""
    benchmark = study("few_shot")
    x, y = benchmark.digit_episodes(5, 0)

    def model(x, y):
        means = torch.nn.functional.one_hot(y, 5).float().mT @ x[:, :25] / 5
        return -torch.cdist(x[:, 25:], means)

    expected = benchmark.network_logits(model, x, y)
    torch.testing.assert_close(benchmark.network_logits(model, x, y, shift=3), expected)
    assert torch.equal(expected.argmax(2), benchmark.nearest_mean(x, y))


def test_baselines_of_few_shots_know_their_own_shots(study):
    benchmark = study("few_shot")
    x, y = benchmark.digit_episodes(5, 0)
    twice, labels = torch.cat([x[:, :25]] * 2, 1), torch.cat([y[:, :25]] * 2, 1)
    assert torch.equal(benchmark.nearest_image(twice, labels), y[:, :25])
    assert (benchmark.logistic(x, y) == y[:, 25:]).double().mean() > 0.7


def test_few_shot_end_to_end(study, tmp_path):
    pytest.importorskip("matplotlib")
    benchmark = study("few_shot")
    x, y = benchmark.stroke_episodes(4, 0)
    found, predicted = benchmark.evaluate(network("classification", 64, 5), x, y)
    sets = {"strokes": found}
    assert "best baseline" in benchmark.verdict(sets)
    assert "4 episodes" in benchmark.tables(sets)
    benchmark.draw({"strokes": (x[0], y[0], predicted[0])}, tmp_path / "few.png")
