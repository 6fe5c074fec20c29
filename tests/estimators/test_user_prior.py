"""Beliefs about where the optimum is."""

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution as Categorical
from optuna.distributions import FloatDistribution as Float
from optuna.distributions import IntDistribution as Int
from scipy.stats import beta, expon, gaussian_kde, loguniform, norm, poisson, randint, uniform

from estimators.space import SearchSpace
from estimators.user_prior import UserPrior

SPACE = SearchSpace({
    "x": Float(-1.0, 3.0), "lr": Float(1e-5, 1.0, log=True), "step": Float(0.0, 1.0, step=0.1), "n": Int(1, 9),
    "width": Int(1, 1000, log=True), "kind": Categorical(["a", None, 2.5]), "fixed": Int(7, 7),
})


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def column(prior, name, n, rng):
    rows = prior.sample(n, rng)
    np.testing.assert_array_equal(SPACE.snap(rows), rows)
    return [point[name] for point in SPACE.decode(rows)]


def points(**values):
    """The same point with one parameter varied, as rows."""
    ((name, several),) = values.items()
    base = {"x": 0.0, "lr": 0.1, "step": 0.5, "n": 3, "width": 10, "kind": "a", "fixed": 7}
    return SPACE.encode([base | {name: value} for value in several])


def test_density_is_that_of_the_distribution():
    x = np.array([0.5, 0.9, 1.0, 1.3])
    found = UserPrior(SPACE, {"x": norm(1.0, 0.2)}).log_density(points(x=x))
    np.testing.assert_allclose(found, norm(1.0, 0.2).logpdf(x) - norm(1.0, 0.2).logpdf(1.0), atol=1e-9)


def test_densities_of_logarithmic_parameters_are_those_of_their_logarithm():
    found = UserPrior(SPACE, {"lr": loguniform(1e-5, 1.0)}).log_density(points(lr=[1e-5, 1e-3, 0.2, 1.0]))
    np.testing.assert_allclose(found, 0.0, atol=1e-9)


def test_beliefs_are_independent():
    rows = SPACE.sample(50, np.random.default_rng(0))
    beliefs = {"x": norm(1.0, 0.2), "n": poisson(4), "kind": {"a": 2, 2.5: 1}, "step": beta(2, 3), "width": expon(0, 100)}
    each = [UserPrior(SPACE, {name: belief}).log_density(rows) for name, belief in beliefs.items()]
    np.testing.assert_allclose(UserPrior(SPACE, beliefs).log_density(rows), sum(each))
    assert (UserPrior(SPACE, {}).log_density(rows) == 0).all()


@pytest.mark.parametrize(
    "belief",
    [norm(0.0, 1e-9), norm(100.0, 0.1), beta(0.5, 0.5), uniform(0.0, 0.1), expon(2.0, 0.1), norm(0.123456, 1e-4)],
)
def test_no_belief_is_certain(belief):
    """Relative to the largest density anywhere, whatever points are compared."""
    prior = UserPrior(SPACE, {"x": belief})
    x = np.linspace(-1.0, 3.0, 4001)
    found = prior.log_density(points(x=x))
    assert np.isfinite(found).all()
    assert found.min() >= np.log(1e-12) - 1e-9
    np.testing.assert_array_equal(prior.log_density(points(x=x[:5])), found[:5])


def test_weights_of_choices():
    prior = UserPrior(SPACE, {"kind": {None: 3.0, "a": 1.0}})
    np.testing.assert_allclose(prior.log_density(points(kind=[None, "a", 2.5])), [0.0, -np.log(3), np.log(1e-12)])


def test_draws_follow_the_belief(rng):
    n = 2000
    x = column(UserPrior(SPACE, {"x": norm(1.0, 0.2)}), "x", n, rng)
    assert np.mean(x) == pytest.approx(1.0, abs=4 * 0.2 / n**0.5)
    kinds = column(UserPrior(SPACE, {"kind": {None: 3, "a": 1}}), "kind", n, rng)
    assert kinds.count(None) / n == pytest.approx(0.75, abs=4 * (0.75 * 0.25 / n) ** 0.5)
    assert 2.5 not in kinds
    counts = column(UserPrior(SPACE, {"n": randint(2, 4)}), "n", n, rng)
    assert set(counts) == {2, 3}
    steps = column(UserPrior(SPACE, {"step": norm(0.52, 1e-3)}), "step", 20, rng)
    assert set(steps) == {0.5}


def test_parameters_without_a_belief_stay_uniform(rng):
    n = 1024
    x = np.array(column(UserPrior(SPACE, {"n": randint(2, 4)}), "x", n, rng))
    assert np.histogram(x, bins=8, range=(-1, 3))[0] == pytest.approx(np.full(8, n / 8), rel=0.1)


def test_draws_out_of_range_are_moved_to_the_nearer_end(rng):
    assert set(column(UserPrior(SPACE, {"x": norm(50.0, 1.0)}), "x", 10, rng)) == {3.0}
    assert set(column(UserPrior(SPACE, {"n": norm(-50.0, 1.0)}), "n", 10, rng)) == {1}
    assert set(column(UserPrior(SPACE, {"width": norm(1e6, 1.0)}), "width", 10, rng)) == {1000}


def test_draws_are_reproducible():
    prior = UserPrior(SPACE, {"x": norm(1.0, 0.2), "kind": {"a": 1, None: 1}})
    first, second = (prior.sample(20, np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_a_parameter_with_one_value(rng):
    prior = UserPrior(SPACE, {"fixed": norm(7.0, 1.0)})
    assert set(column(prior, "fixed", 5, rng)) == {7}
    np.testing.assert_allclose(prior.log_density(points(x=[0.0, 1.0])), 0.0)


@pytest.mark.parametrize(
    ("beliefs", "error", "message"),
    [
        ({"y": norm()}, ValueError, r"prior names \['y'\], which the space does not have; it has \['x', 'lr'"),
        ([norm()], TypeError, "is a list; pass a mapping from parameters to beliefs"),
        ({"x": 0.5}, TypeError, r"prior\['x'\]=0.5 is no frozen SciPy distribution; use for example scipy.stats.norm"),
        ({"x": {0.5: 1}}, TypeError, r"prior\['x'\]={0.5: 1} is no frozen SciPy distribution"),
        ({"x": gaussian_kde([1.0, 2.0])}, TypeError, r"is no frozen SciPy distribution"),
        ({"x": uniform(10.0, 1.0)}, ValueError, r"prior\['x'\] has no density anywhere in FloatDistribution"),
        ({"x": norm(0.0, -1.0)}, ValueError, r"prior\['x'\] has no density anywhere"),
        ({"kind": norm()}, ValueError, r"prior\['kind'\]=.* must map some of the choices \('a', None, 2.5\) to weights"),
        ({"kind": {"b": 1.0}}, ValueError, r"must map some of the choices"),
        ({"kind": {"a": 0.0}}, ValueError, r"to weights, not all 0"),
        ({"kind": {"a": -1.0, None: 2.0}}, ValueError, r"to weights, not all 0"),
        ({"kind": {"a": np.nan}}, ValueError, r"to weights, not all 0"),
        ({"kind": {"a": "much"}}, ValueError, r"to weights, not all 0"),
        ({"kind": {}}, ValueError, r"to weights, not all 0"),
    ],
)
def test_beliefs_that_are_none(beliefs, error, message):
    with pytest.raises(error, match=message):
        UserPrior(SPACE, beliefs)
