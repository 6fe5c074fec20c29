from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator

from estimators.table import TableEncoder, as_table


def encode(X, X_later=None):
    encoder = TableEncoder().fit(as_table(BaseEstimator(), X, reset=True))
    return encoder, encoder.transform(as_table(BaseEstimator(), X if X_later is None else X_later, reset=True))


@pytest.mark.parametrize(
    "column",
    [
        [1, 2, 4],
        np.array([1, 2, 4], dtype=np.int8),
        pd.array([1, 2, 4], dtype="Int64"),
        [Decimal(1), Decimal(2), Decimal(4)],
        pd.to_datetime(["2024-01-01", "2024-01-02", "2024-01-04"]),
        pd.to_datetime(["2024-01-01", "2024-01-02", "2024-01-04"]).as_unit("s"),
        pd.to_datetime(["2024-01-01", "2024-01-02", "2024-01-04"]).tz_localize("Europe/Berlin"),
        pd.to_timedelta([1, 2, 4], unit="h"),
    ],
    ids=lambda column: str(getattr(column, "dtype", type(column[0]))),
)
def test_every_kind_of_number_gives_the_same_column(column):
    _, x = encode(pd.DataFrame({"a": column}))
    z = np.array([1.0, 2.0, 4.0])
    np.testing.assert_allclose(x[:, 0], (z - z.mean()) / z.std(), atol=1e-6)


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA, pd.NaT], ids=str)
@pytest.mark.parametrize("values", [["x", "y"], [1.0, 2.0], [True, False]], ids=str)
def test_every_kind_of_gap_becomes_nan(values, missing):
    _, x = encode(pd.DataFrame({"a": pd.Series([*values, missing], dtype=object)}))
    assert np.isnan(x[:, 0]).tolist() == [False, False, True]


def test_categories_are_coded_in_sorted_order_and_unseen_ones_are_missing():
    encoder, x = encode(pd.DataFrame({"a": ["b", "a", "c"]}), pd.DataFrame({"a": ["a", "b", "c", "d", None]}))
    assert encoder.categories_ == {0: {"a": 0, "b": 1, "c": 2}}
    np.testing.assert_allclose(x[:3, 0], np.array([-1, 0, 1]) / np.std([0, 1, 2]), atol=1e-6)
    assert np.isnan(x[3:, 0]).all()


def test_timestamps_survive_float32():
    seconds = 1.7e9 + np.arange(5.0)
    _, x = encode(np.column_stack([seconds, seconds]))
    np.testing.assert_allclose(x[:, 0], (np.arange(5) - 2) / np.std(np.arange(5)), atol=1e-5)


def test_a_column_of_gaps_stays_one():
    _, x = encode(np.array([[np.nan, 1.0], [np.nan, 2.0]]))
    assert np.isnan(x[:, 0]).all()
    assert np.isfinite(x[:, 1]).all()


def test_duplicate_column_names_are_an_error():
    with pytest.raises(ValueError, match="column name 'x' occurs more than once in X; rename"):
        encode(pd.DataFrame([[1.0, "a"], [2.0, "b"]], columns=["x", "x"]))
