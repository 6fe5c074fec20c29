import matplotlib
import numpy as np
import pandas as pd
import pytest

from estimators import PFNRegressor
from estimators.plots import plot_bands

matplotlib.use("Agg")


@pytest.fixture(scope="module")
def fitted():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"load": rng.uniform(size=40), "width": rng.uniform(size=40)})
    return PFNRegressor(n_estimators=1, random_state=0).fit(frame, 3 * frame["load"] + 0.1 * rng.normal(size=40)), frame


def test_bands_are_the_quantiles_in_the_order_of_the_column(fitted):
    reg, frame = fitted
    ax = plot_bands(reg, frame, "load", levels=(0.8,))
    x, median = ax.lines[0].get_data()
    order = np.argsort(frame["load"].to_numpy())
    np.testing.assert_array_equal(x, frame["load"].to_numpy()[order])
    np.testing.assert_allclose(median, reg.predict_distribution(frame).median[order])
    drawn = ax.collections[0].get_paths()[0].vertices
    low, high = reg.predict(frame, quantiles=[0.1, 0.9]).T
    assert drawn[:, 1].min() == pytest.approx(low.min())
    assert drawn[:, 1].max() == pytest.approx(high.max())
    assert ax.get_xlabel() == "load"


@pytest.mark.parametrize(("arguments", "message"), [({"along": "height"}, "along='height' is no column of X"),
                                                    ({"along": 7}, "along=7 is no column"),
                                                    ({"levels": (90,)}, r"levels=\(90,\) holds 90")])
def test_bad_arguments(fitted, arguments, message):
    with pytest.raises(ValueError, match=message):
        plot_bands(*fitted, **arguments)
