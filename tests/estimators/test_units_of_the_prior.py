"""Estimators of networks that read tables in the units of their prior."""

import numpy as np
import pytest
import torch

from estimators import PFNClassifier, PFNRegressor
from pfn import PFN, PFNConfig
from pfn.checkpoint import Envelope, ModelCard

SIZE = {"embed_dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "n_thinking_rows": 2, "row_features": 3}


def make(config):
    with torch.random.fork_rng():
        torch.random.manual_seed(0)
        model = PFN(config).eval().requires_grad_(False)
        if model.normal is not None:
            torch.nn.init.normal_(model.normal.weight, std=0.3)
    return model


@pytest.fixture
def network():
    config = PFNConfig(task="regression", n_outputs=32, scaling="prior", normal_base=True, **SIZE)
    model = make(config)
    model.target_scaling.copy_(torch.tensor([50.0, 10.0]))
    model.card = ModelCard(config, "test", Envelope(100, 3))
    return model


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    return rng.uniform(size=(20, 3)), rng.normal(50, 10, size=20), rng.uniform(size=(6, 3))


def test_the_estimator_says_what_the_network_says(network, table):
    """The mixture of the members, each with its order of columns, and nothing else."""
    X, y, queries = table
    reg = PFNRegressor(model=network, random_state=0).fit(X, y)
    x, y32, q = (torch.from_numpy(a).float() for a in (X, y, queries))
    orders = [view.columns for view in reg._views]
    assert len(orders) == 4
    posteriors = [network.posterior(x[None][..., order], y32[None], q[None][..., order]) for order in orders]
    mean = torch.stack([one.mean[0] for one in posteriors]).mean(0)
    density = torch.stack([one.log_prob(torch.full((1, 6), 47.0))[0] for one in posteriors]).logsumexp(0) - np.log(4)
    distribution = reg.predict_distribution(queries)
    np.testing.assert_allclose(distribution.mean, mean, rtol=1e-4)
    np.testing.assert_allclose(distribution.log_prob(np.full(6, 47.0)), density, atol=1e-3)
    np.testing.assert_allclose(reg.predict(queries), mean, rtol=1e-4)


def test_units_matter(network, table):
    X, y, queries = table
    reg = PFNRegressor(model=network, n_estimators=1, random_state=0)
    one, other = (reg.fit(X, scale * y).predict(queries) for scale in (1.0, 1.5))
    assert np.abs(other - 1.5 * one).max() > 0.1


def test_one_feature_needs_one_member(network, table):
    X, y, queries = table
    reg = PFNRegressor(model=network, random_state=0).fit(X[:, :1], y)
    assert len(reg._views) == 1
    assert reg.predict(queries[:, :1]).shape == (6,)


def test_local_contexts_are_in_the_same_units(network, table):
    rng = np.random.default_rng(1)
    X, y = rng.uniform(size=(200, 2)), rng.normal(50, 10, size=200)
    reg = PFNRegressor(model=network, n_estimators=1, max_context=40, random_state=0).fit(X, y)
    assert len(reg._views[0].cells) > 1
    assert 0 < reg.predict(X[:5]).min() < reg.predict(X[:5]).max() < 100


def test_explanations(network, table):
    X, y, queries = table
    reg = PFNRegressor(model=network, n_estimators=1, random_state=0).fit(X, y)
    assert reg.embed(queries).shape == (6, 16)
    influence = reg.context_influence(queries[:2])
    assert influence.shape == (2, 20)
    weights = np.ones(20)
    step = 1e-2
    change = []
    for sign in (1, -1):
        shifted = weights.copy()
        shifted[4] = np.exp(sign * step)
        change.append(PFNRegressor(model=network, n_estimators=1, random_state=0).fit(X, y, shifted).predict(queries[:2]))
    np.testing.assert_allclose(influence[:, 4], (change[0] - change[1]) / (2 * step), atol=2e-3, rtol=1e-3)


def test_low_precision_is_refused(network, table):
    with pytest.raises(ValueError, match="three digits"):
        PFNRegressor(model=network, precision="bfloat16").fit(*table[:2])


def test_save_and_load(network, table, tmp_path):
    X, y, queries = table
    reg = PFNRegressor(model=network, random_state=0).fit(X, y)
    reg.save(tmp_path / "gp.safetensors")
    again = PFNRegressor.load(tmp_path / "gp.safetensors")
    np.testing.assert_array_equal(again.predict(queries), reg.predict(queries))


def test_classifier(table):
    X, _, queries = table
    config = PFNConfig(n_outputs=4, scaling="prior", **SIZE)
    model = make(config)
    model.card = ModelCard(config, "test", Envelope(100, 3, 4))
    clf = PFNClassifier(model=model, random_state=0).fit(X, np.repeat(["a", "b"], 10))
    assert not any(view.ranks for view in clf._views)
    np.testing.assert_allclose(clf.predict_proba(queries).sum(1), 1.0)
