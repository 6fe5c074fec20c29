import matplotlib
import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from sklearn.exceptions import NotFittedError

from estimators import BayesianOptimizer
from estimators.plots import plot_slice, plot_trace

matplotlib.use("Agg")

SPACE = {
    "lr": FloatDistribution(1e-3, 10.0, log=True), "depth": IntDistribution(1, 5),
    "kind": CategoricalDistribution(["a", "b", "c"]), "fixed": IntDistribution(7, 7),
}
AT = {"lr": 0.1, "depth": 2, "kind": "b", "fixed": 7}


def told(values, direction="minimize", constraints=None, **options):
    """An optimiser that was told these values, of spread points."""
    optimizer = BayesianOptimizer(SPACE, direction, 0 if constraints is None else 1, random_state=0, n_initial=20, **options)
    for i, (params, value) in enumerate(zip(optimizer.ask(len(values)), values, strict=True)):
        optimizer.tell(params, value, None if constraints is None else [constraints[i]])
    return optimizer


def lines(ax):
    return {line.get_label(): line.get_data() for line in ax.lines}


# The trace


@pytest.mark.parametrize(("direction", "expected"), [("minimize", [3, 3, 1, 1, 1]), ("maximize", [3, 5, 5, 5, 5])])
def test_the_best_so_far(direction, expected):
    ax = plot_trace(told([3.0, 5.0, 1.0, 4.0, 2.0], direction))
    x, best = lines(ax)["best so far"]
    np.testing.assert_array_equal(x, [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(best, expected)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("trial", "value")


def test_infeasible_and_failed_trials_are_marked_and_are_never_the_best():
    optimizer = told([0.0, 3.0, None, 1.0, 2.0], constraints=[1.0, -1.0, 0.0, np.nan, -1.0])
    optimizer.tell(AT, -5.0, [-1.0], is_bound=True)
    ax = plot_trace(optimizer)
    drawn = lines(ax)
    np.testing.assert_array_equal(drawn["feasible"], [[2, 5], [3, 2]])
    np.testing.assert_array_equal(drawn["infeasible or stopped early"], [[1, 4, 6], [0, 1, -5]])
    np.testing.assert_array_equal(drawn["best so far"][1], [np.nan, 3, 3, 3, 2, 2])
    assert [list(line.get_xdata()) for line in ax.lines if line.get_color() == "tab:red"] == [[3, 3]]
    assert ax.get_xlabel() == "trial (red lines: failed)"
    low, high = ax.get_ylim()
    assert -5 < low < 2 < 3 < high


@pytest.mark.parametrize("values", [[], [None, None], [2.0], [0.0, 0.0]])
def test_traces_of_little(values):
    ax = plot_trace(told(values) if values else BayesianOptimizer(SPACE))
    low, high = ax.get_ylim()
    assert low < high
    assert len(lines(ax)["best so far"][0]) == len(values)


def test_a_trace_is_drawn_where_asked_for():
    ax = matplotlib.figure.Figure().add_subplot()
    assert plot_trace(told([1.0, 2.0]), ax=ax) is ax


def test_no_trace_of_several_objectives():
    with pytest.raises(ValueError, match=r"a trace is of one objective; plot .* optimizer\.pareto_trials_"):
        plot_trace(BayesianOptimizer(SPACE, ["minimize", "maximize"]))


# The slice


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_a_slice_is_what_is_predicted_through_the_best_trial(direction):
    optimizer = told([3.0, 5.0, 1.0, 4.0, 2.0, 2.5], direction)
    ax = plot_slice(optimizer, "lr", levels=(0.8,))
    assert ax.get_xscale() == "log"
    assert ax.get_xlabel() == "lr"
    x, median = lines(ax)["median"]
    assert (x[0], x[-1]) == pytest.approx((1e-3, 10.0))
    np.testing.assert_allclose(x, np.geomspace(1e-3, 10.0, 101))
    points = [optimizer.best_params_ | {"lr": float(value)} for value in x]
    np.testing.assert_allclose(median, optimizer.predict(points), rtol=1e-4, atol=1e-5)
    low, high = optimizer.predict(points, [0.1, 0.9]).T
    assert (low <= high).all()
    drawn = ax.collections[0].get_paths()[0].vertices
    assert drawn[:, 1].min() == pytest.approx(low.min(), rel=1e-4)
    assert drawn[:, 1].max() == pytest.approx(high.max(), rel=1e-4)
    assert len(ax.figure.axes) == 1


def test_a_slice_along_an_integer_through_a_given_point():
    optimizer = told([3.0, 5.0, 1.0, 4.0])
    ax = plot_slice(optimizer, "depth", at={name: value for name, value in AT.items() if name != "depth"})
    assert ax.get_xscale() == "linear"
    x, median = lines(ax)["median"]
    assert sorted(set(x)) == [1, 2, 3, 4, 5]
    np.testing.assert_allclose(median[0], optimizer.predict([AT | {"depth": 1}])[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("values", "constraints"), [([3.0, None, 1.0, 4.0], None), ([3.0, 2.0, 1.0], [-1.0, 1.0, -0.5])])
def test_feasibility_has_an_axis_of_its_own(values, constraints):
    optimizer = told(values, constraints=constraints)
    ax = plot_slice(optimizer, "lr")
    _, beside = ax.figure.axes
    x, probability = beside.lines[0].get_data()
    points = [optimizer.best_params_ | {"lr": float(value)} for value in x]
    np.testing.assert_allclose(probability, optimizer.predict_feasible(points), rtol=1e-3, atol=1e-4)
    assert beside.get_ylabel() == "probability of being feasible"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("width", {}, r"name='width' is no numerical parameter of the space, which has \['lr', 'depth', 'kind', 'fixed'\]"),
        ("kind", {}, "name='kind' is no numerical parameter"),
        ("fixed", {}, "name='fixed' has a single value; choose a parameter that varies"),
        ("lr", {"levels": (90,)}, r"levels=\(90,\) holds 90"),
        ("lr", {"at": AT | {"width": 1}}, "unknown parameter 'width'"),
        ("lr", {"at": {"depth": 2}}, r"lacks \['kind'\]"),
        ("lr", {"at": AT | {"depth": 9}}, "depth=9 in point 0 is not a value of"),
    ],
)
def test_slices_that_do_not_exist(name, options, message):
    with pytest.raises(ValueError, match=message):
        plot_slice(told([3.0, 5.0, 1.0]), name, **options)


def test_a_slice_needs_a_point_and_values():
    with pytest.raises(NotFittedError, match="no single best trial to cut through; pass values of the others"):
        plot_slice(told([None, None]), "lr")
    with pytest.raises(NotFittedError, match="predictions need two values"):
        plot_slice(told([1.0]), "lr")
    with pytest.raises(NotFittedError, match="no single best trial to cut through"):
        plot_slice(told([(1.0, 2.0), (2.0, 1.0)], ["minimize", "minimize"]), "lr")
    ax = plot_slice(told([(1.0, 2.0), (2.0, 1.0), (0.0, 3.0)], ["minimize", "minimize"]), "lr", at=AT)
    assert len(lines(ax)["median"][0]) == 101
