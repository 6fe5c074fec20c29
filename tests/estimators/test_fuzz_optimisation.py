"""Random spaces and histories of asking and telling, random learning curves: the valid is answered, the rest is named."""

import json
import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from sklearn.exceptions import NotFittedError

from estimators import BayesianOptimizer, FreezeThawOptimizer, LearningCurveExtrapolator
from estimators.goal import SearchSettings
from pfn import PFN, PFNConfig
from pfn.recipes import freeze_thaw, learning_curve

pytestmark = [
    pytest.mark.filterwarnings("ignore:the space has .* columns"),
    pytest.mark.filterwarnings("ignore:Choices for a categorical distribution should be"),
    pytest.mark.filterwarnings("ignore:The distribution is specified by .* not divisible"),  # by 0.1, in floats
]


@cache
def network(kind):
    """A small one that guesses: what is asked here must hold whatever it says."""
    small = {"embed_dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32, "n_outputs": 64}
    config = {
        "bayesopt": PFNConfig(task="regression", row_features=18, scaling="cube", normal_base=True, target_status=True,
                              **small),
        "freeze-thaw": replace(freeze_thaw().model, **small), "curves": replace(learning_curve().model, **small),
    }[kind]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = PFN(config).eval().requires_grad_(False)
    if kind == "curves":
        model.target_scaling.copy_(torch.tensor([-0.1, 0.9]))
    return model


# --- spaces and what is told

@st.composite
def distributions(draw):
    kind = draw(st.sampled_from(["float", "log", "step", "int", "int log", "choice"]))
    if kind == "choice":
        return CategoricalDistribution(draw(st.lists(
            st.sampled_from(["a", "b", "", "1", None, 2.5, -3, "é"]), min_size=1, max_size=5, unique=True)))
    if kind.startswith("int"):
        low, step = draw(st.integers(1 if "log" in kind else -50, 50)), 1 if "log" in kind else draw(st.integers(1, 3))
        high = low + step * draw(st.integers(0, 10 ** draw(st.integers(0, 9))))
        return IntDistribution(low, high, log="log" in kind, step=step)
    if kind == "log":
        low = 10 ** draw(st.floats(-12, 3))
        return FloatDistribution(low, low * 10 ** draw(st.floats(0, 9)), log=True)
    if kind == "step":
        step = draw(st.sampled_from([0.1, 0.25, 3.0]))
        low = step * draw(st.integers(-99, 99))
        return FloatDistribution(low, low + step * draw(st.integers(0, 9)), step=step)
    low = draw(st.floats(-1e6, 1e6))
    return FloatDistribution(low, low + draw(st.just(0.0) | st.floats(1e-3, 1e6)))


@st.composite
def spaces(draw, largest=5):
    names = draw(st.lists(st.text(min_size=1, max_size=3), min_size=1, max_size=largest, unique=True))
    return {name: draw(distributions()) for name in names}


extremes = st.sampled_from([math.nan, math.inf, -math.inf, 0.0, 1.0, 1e300, -1e300, 1e-300])
outcomes = st.none() | extremes | st.floats(-1e3, 1e3)


@examples(15)
@given(data=st.data())
def test_bayesian_optimizer(data, tmp_path_factory):
    space = data.draw(spaces())
    directions = data.draw(st.sampled_from(["minimize", "maximize", ["minimize", "maximize"]]))
    k, n_constraints = 1 if isinstance(directions, str) else 2, data.draw(st.integers(0, 2))
    settings = SearchSettings(
        acquisition=data.draw(st.sampled_from(["log_ei", "pi", "ucb", "thompson"])), n_candidates=20,
        constraint_handling=data.draw(st.sampled_from(["cei", "cei+", "penalty"])),
        outcome_transform=data.draw(st.sampled_from(["power", "rank", "none"])),
        noisy=data.draw(st.sampled_from(["auto", True, False])), local=data.draw(st.booleans()),
    )
    optimizer = BayesianOptimizer(space, directions, n_constraints, data.draw(st.integers(0, 99)), settings=settings,
                                  n_initial=data.draw(st.integers(0, 3)), model=network("bayesopt"))
    told = []
    for _ in range(data.draw(st.integers(1, 6))):
        asked = optimizer.ask(data.draw(st.integers(1, 3)))
        for params in asked:
            assert list(params) == list(space)
            assert optimizer.space.contains(params)
        for params in data.draw(st.permutations(optimizer.pending_)):
            if data.draw(st.integers(0, 4)) == 0:
                continue                                            # it is told later, or never
            value = data.draw(outcomes if k == 1 else st.none() | st.tuples(*[st.floats(-1e3, 1e3) | st.just(math.nan)] * k))
            known = st.floats(-10, 10) | st.sampled_from([math.nan, math.inf, 0.0])
            constraints = data.draw(st.lists(known, min_size=n_constraints, max_size=n_constraints))
            optimizer.tell(params, value, constraints, is_bound=data.draw(st.integers(0, 5)) == 0)
            told.append((params, value))
    assert [trial.params for trial in optimizer.trials_] == [params for params, _ in told]
    for trial, (_, value) in zip(optimizer.trials_, told, strict=True):
        failed = value is None or not np.isfinite(value).all()
        assert trial.value == (None if failed else value)
    feasible = [trial for trial in optimizer.trials_ if trial.is_feasible]
    if k == 1 and feasible:
        best = (min if directions == "minimize" else max)(trial.value for trial in feasible)
        assert optimizer.best_value_ == best
        assert optimizer.best_params_ in [trial.params for trial in feasible if trial.value == best]
    elif k == 1:
        with pytest.raises(NotFittedError, match="feasible"):
            _ = optimizer.best_value_
    points = [params for params, _ in told][:3]
    if points:
        try:
            quantiles = optimizer.predict(points, quantiles=[0.1, 0.5, 0.9])
        except (NotFittedError, ValueError) as error:
            assert "need two values" in str(error) or "single value" in str(error)  # noqa: PT017
        else:
            assert quantiles.shape == (len(points), 3)
            assert np.isfinite(quantiles).all()
            assert (np.diff(quantiles, axis=1) >= 0).all()
            p = optimizer.predict_feasible(points)
            assert ((p >= 0) & (p <= 1)).all()
    path = tmp_path_factory.mktemp("state") / "state.json"
    optimizer.save(path)
    loaded = BayesianOptimizer.load(path, model=network("bayesopt"))
    assert loaded.trials_ == optimizer.trials_ or "nan" in str(optimizer.trials_)
    assert str(loaded.trials_) == str(optimizer.trials_)
    assert loaded.ask(2) == optimizer.ask(2)
    again = path.with_name("again.json")
    loaded.save(again)
    optimizer.save(path)
    assert json.loads(again.read_text(), parse_constant=str) == json.loads(path.read_text(), parse_constant=str)


WRONG = [
    ({}, 1.0, None, "lacks"), ({"x": 2.0}, 1.0, None, "not a value of"),
    ({"x": 0.5, "y": 1}, 1.0, None, "unknown parameter 'y'"), ({"x": None}, 1.0, None, "not a value of"),
    (None, 1.0, None, "params=None"), ("x", 1.0, None, "params='x'"),
    ({"x": 0.5}, "1", None, "value='1'"), ({"x": 0.5}, [1.0, 2.0], None, "value="), ({"x": 0.5}, 1j, None, "value=1j"),
    ({"x": 0.5}, 1.0, [0.0, 0.0], "constraints="), ({"x": 0.5}, 1.0, ["a"], "constraints="),
]


@examples(15)
@given(wrong=st.sampled_from(WRONG), n_constraints=st.integers(0, 1))
def test_what_is_told_wrongly_is_named_and_forgotten(wrong, n_constraints):
    params, value, constraints, message = wrong
    optimizer = BayesianOptimizer({"x": FloatDistribution(0, 1)}, n_constraints=n_constraints, random_state=0)
    (first,) = optimizer.ask()
    with pytest.raises((ValueError, TypeError), match=message):
        optimizer.tell(params, value, [0.0] * n_constraints if constraints is None else constraints)
    assert optimizer.trials_ == []
    assert optimizer.pending_ == [first]


# --- freeze and thaw

@examples(12)
@given(data=st.data())
def test_freeze_thaw_optimizer(data, tmp_path_factory):
    space, horizon = data.draw(spaces(3)), data.draw(st.integers(1, 12) | st.just(1000))
    bounds = data.draw(st.sampled_from([(0, 1), (0, math.inf), (-math.inf, math.inf)]))
    direction = data.draw(st.sampled_from(["minimize", "maximize"]))
    optimizer = FreezeThawOptimizer(space, horizon, direction, bounds, data.draw(st.integers(0, 99)), n_candidates=10,
                                    steps_per_ask=data.draw(st.integers(1, 4)), n_initial=data.draw(st.integers(1, 3)),
                                    model=network("freeze-thaw"))
    low, high = np.clip(bounds, -1e6, 1e6)
    for _ in range(data.draw(st.integers(1, 6))):
        optimizer.ask(data.draw(st.integers(1, 3)))
        for one in data.draw(st.permutations(optimizer.pending_)):
            curve = optimizer.curves_[one.number]
            assert optimizer.space.contains(one.params)
            assert curve.reached < one.step <= horizon
            assert curve.crashed is None
            way = data.draw(st.integers(0, 5))
            if way == 0:
                continue
            steps = list(range(curve.reached + 1, one.step + 1))[-5:]
            values = [data.draw(st.floats(low, high)) for _ in steps]
            if way == 1:
                values[-1] = data.draw(st.sampled_from([None, math.nan, math.inf]))
            optimizer.tell(one, steps, values)
            told = dict(zip(optimizer.curves_[one.number].steps, optimizer.curves_[one.number].values, strict=True))
            assert all(told[step] == value for step, value in zip(steps[: len(steps) - (way == 1)], values, strict=False))
            assert (optimizer.curves_[one.number].crashed is not None) == (way == 1)
    begun = [curve for curve in optimizer.curves_ if curve.values]
    if begun:
        best = (min if direction == "minimize" else max)(value for curve in begun for value in curve.values)
        assert optimizer.best_value_ == best
        runs = [curve.number for curve in optimizer.curves_][:3]
        steps = sorted({1, max(1, horizon // 2), horizon})
        found = optimizer.predict(runs, steps, quantiles=[0.1, 0.5, 0.9])
        assert found.shape == (len(runs), len(steps), 3)
        for number, rows in zip(runs, found, strict=True):
            crashed = optimizer.curves_[number].crashed
            known = np.array([crashed is None or step <= optimizer.curves_[number].reached for step in steps])
            assert np.isfinite(rows[known]).all()
            assert np.isnan(rows[~known]).all()
            assert (np.diff(rows[known], axis=1) >= 0).all()
            assert ((rows[known] >= bounds[0]) & (rows[known] <= bounds[1])).all()
    else:
        with pytest.raises(NotFittedError, match="has a value"):
            _ = optimizer.best_value_
    path = tmp_path_factory.mktemp("state") / "state.json"
    optimizer.save(path)
    loaded = FreezeThawOptimizer.load(path, model=network("freeze-thaw"))
    assert loaded.curves_ == optimizer.curves_
    assert loaded.pending_ == optimizer.pending_
    assert loaded.ask(2) == optimizer.ask(2)


# --- learning curves

@st.composite
def curves(draw, low, high):
    """Steps in any order, some twice, and values, some missing."""
    unit = draw(st.sampled_from([1, 1, 0.1, 1000, 1e-9]))
    steps = draw(st.lists(st.integers(0, 60), max_size=25))
    values = draw(st.lists(st.floats(low, high) | st.just(math.nan), min_size=len(steps), max_size=len(steps)))
    return [step * unit for step in steps], values


@examples(20)
@given(data=st.data())
def test_learning_curves(data, tmp_path_factory):
    bounds = data.draw(st.sampled_from([(0, 1), (0, 1), (0, math.inf), (-math.inf, math.inf), (-5.0, 1000.0), None]))
    low, high = (-0.5, 1.5) if bounds is None else np.clip(bounds, -1e9, 1e9)
    few = data.draw(st.lists(curves(low, high), min_size=1, max_size=4))
    single = len(few) == 1 and data.draw(st.booleans())
    steps, values = few[0] if single else ([steps for steps, _ in few], [values for _, values in few])
    last = max([0.0, *(step for one, _ in few for step in one)])
    first = max([0.0, *(one[k] for one, y in few for k in range(len(one)) if not math.isnan(y[k]))])
    horizon = data.draw(st.none() | st.sampled_from([last * 2 + 1.0, last + 1e6]))
    settings = {"minimize": data.draw(st.booleans()), "bounds": bounds, "horizon": horizon, "model": network("curves"),
                "prior": data.draw(st.sampled_from(["auto", "released", "extended"]))}
    curve = LearningCurveExtrapolator(**settings).fit(steps, values)
    asked = [last + 0.5, last + 1.0] if horizon is None else [first, (first + horizon) / 2, horizon]
    q = [0.05, 0.5, 0.95]
    found = curve.predict(asked, quantiles=q)
    shape = (len(asked),) if single else (len(few), len(asked))
    assert found.shape == (*shape, 3)
    assert np.isfinite(found).all()
    assert (np.diff(found, axis=-1) >= 0).all()
    if bounds is not None:
        assert ((found >= bounds[0]) & (found <= bounds[1])).all()
    np.testing.assert_allclose(curve.predict(asked), found[..., 1], rtol=1e-5, atol=1e-5 * (1 + np.abs(found).max()))
    p = curve.prob_better(float(found.flat[1]), asked)
    assert p.shape == shape
    assert ((p >= 0) & (p <= 1)).all()
    misfit = np.atleast_1d(curve.misfit())
    assert ((misfit > 0) & (misfit <= 1)).all()
    posterior = curve.predict_distribution(asked)
    assert np.isfinite(posterior.mean).all()
    cdf = posterior.cdf(found[..., 1])
    assert ((cdf >= 0) & (cdf <= 1)).all()
    if not single:                                                  # other curves have no influence
        alone = LearningCurveExtrapolator(**settings).fit([few[0][0]], [few[0][1]]).predict(asked, quantiles=q)
        np.testing.assert_allclose(alone[0], found[0], rtol=1e-4, atol=1e-4 * (1 + np.abs(found[0]).max()))
    path = tmp_path_factory.mktemp("curves") / "curves.safetensors"
    LearningCurveExtrapolator(**settings | {"model": "learning-curve"}).fit(steps, values).save(path)
    assert LearningCurveExtrapolator.load(path).n_curves_ == curve.n_curves_
