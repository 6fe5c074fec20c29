"""Tables on which `test_fuzz_tables.py` found something wrong once."""

import numpy as np
import pandas as pd
import pytest
from test_fuzz_tables import TABR, rows_of

from estimators import PFNClassifier, PFNDensity, PFNImputer, PFNRegressor, TabRClassifier, TabRRegressor


def test_a_query_of_digits_alone_is_text_where_text_was():
    """Of "1" alone, a number was made, 1.0, which no category is called: another answer than beside "x"."""
    X, y = pd.DataFrame({"code": ["1", "2", "x"] * 10, "n": np.arange(30.0)}), [0, 1, 1] * 10
    query = pd.DataFrame({"code": ["1", "2", "x"], "n": [3.0, 4.0, 5.0]})
    for clf in (PFNClassifier(1, random_state=0), TabRClassifier(**TABR)):
        for table, asked in ((X, query), (X.to_numpy(dtype=object), query.to_numpy(dtype=object))):
            p = clf.fit(table, y).predict_proba(asked)
            for row in range(3):
                np.testing.assert_allclose(clf.predict_proba(rows_of(asked, [row]))[0], p[row], atol=1e-5)


@pytest.mark.parametrize("table", [pd.DataFrame, lambda rows: np.array(rows, dtype=object)], ids=["frame", "array"])
def test_a_column_that_was_missing_says_nothing_later(table):
    clf = PFNClassifier(1, random_state=0).fit(table([[1.0, None], [2.0, None], [3.0, None]]), [0, 1, 1])
    expected = clf.predict_proba(table([[1.0, None]]))
    for cell in (7.0, "text", True):
        np.testing.assert_array_equal(clf.predict_proba(table([[1.0, cell]])), expected)


def test_booleans_alone_are_those_that_stood_among_text():
    X = np.array([[True, 1.0], [False, 2.0], ["x", 3.0]] * 5, dtype=object)
    clf = PFNClassifier(1, random_state=0).fit(X, [0, 1, 1] * 5)
    np.testing.assert_allclose(clf.predict_proba(X[:1]), clf.predict_proba(X)[:1], rtol=0, atol=1e-5)
    density = PFNDensity(1, random_state=0).fit(X)
    np.testing.assert_allclose(density.score_samples(X[:1]), density.score_samples(X)[:1], rtol=1e-4)


def test_integers_and_booleans_that_came_as_objects_are_labels():
    X = np.arange(6.0)[:, None]
    for y in ([0, 1, 7, 0, 1, 7], [True, False] * 3):
        for make in (lambda: PFNClassifier(1, random_state=0), lambda: TabRClassifier(**TABR)):
            clf = make().fit(X, np.array(y, dtype=object))
            np.testing.assert_array_equal(clf.classes_, np.unique(y))
            np.testing.assert_array_equal(clf.predict_proba(X), make().fit(X, y).predict_proba(X))


def test_half_a_surrogate_pair_in_an_array():
    X = np.array([["\ud800", 1.0], ["b", 2.0]] * 5, dtype=object)
    p = PFNClassifier(1, random_state=0).fit(X, [0, 1] * 5).predict_proba(X)
    assert np.isfinite(p).all()
    assert PFNImputer(1, random_state=0).fit_transform(X)[0, 0] == "\ud800"
    frame = pd.DataFrame({"text": pd.Series([*X[:, 0], None], dtype=object), "n": [*X[:, 1], 1.0]})
    assert PFNImputer(1, random_state=0).fit_transform(frame)["text"].iloc[-1] in ("\ud800", "b")
    assert set(PFNDensity(1, random_state=0).fit(frame).sample(10)["text"]) <= {"\ud800", "b"}


def test_numbers_whose_differences_are_infinite():
    X = np.array([[1.7e308], [-1.7e308]] * 4)
    assert np.isfinite(PFNClassifier(1).fit(X, [0, 1] * 4).predict_proba(X)).all()
    for make in (lambda: PFNRegressor(1), lambda: TabRRegressor(**TABR)):
        with pytest.raises(ValueError, match=r"y has values up to 1.7e\+308, beyond 1e\+306; divide it by a constant"):
            make().fit(X, X[:, 0])
    for make in (PFNImputer, PFNDensity):
        with pytest.raises(ValueError, match=r"column 0 has values up to 1.7e\+308"):
            make().fit(X)


def test_the_mean_of_passes_does_not_overflow():
    X = np.array([[1e306, 0.0], [1e306, 1.0], [1e306, 0.5], [np.nan, 1.0]] * 3)
    assert np.isfinite(PFNImputer(1, n_passes=3, random_state=0).fit_transform(X)).all()


def test_integers_at_the_end_of_their_type_are_drawn():
    """The float next to 2⁶³ - 1 is 2⁶³, which int64 does not hold."""
    X = pd.DataFrame({"n": pd.array([2**63 - 1, None, 2**63 - 1, 0], dtype="Int64"), "m": np.full(4, 2**63 - 1)})
    drawn = PFNDensity(1, random_state=0).fit(X).sample(20)
    assert drawn["m"].tolist() == [2**63 - 1] * 20
    assert (drawn["n"] == 2**63 - 1).any()


def test_a_gap_among_integers_leaves_their_categories():
    """In a frame, it makes floats of integers."""
    X, y = pd.DataFrame({"code": pd.Series([1, 2, "x"] * 10, dtype=object)}), [0, 1, 1] * 10
    clf = PFNClassifier(1, random_state=0).fit(X, y)
    expected = clf.predict_proba(pd.DataFrame({"code": ["1", "2"]}))
    np.testing.assert_array_equal(clf.predict_proba(pd.DataFrame({"code": [1, 2, None]}))[:2], expected)


@pytest.mark.parametrize("dtype", ["string", "category", object])
def test_an_empty_query_column_of_any_type_is_missing(dtype):
    """The refusal of text where numbers were wanted to quote the first text, and there was none."""
    X = pd.DataFrame({"n": np.arange(12.0), "m": np.arange(12.0) % 3})
    reg = PFNRegressor(1, random_state=0).fit(X, X["n"])
    gap = pd.DataFrame({"n": [np.nan, np.nan], "m": [1.0, 2.0]})
    empty = gap.assign(n=pd.Series([None, None], dtype=dtype))
    np.testing.assert_array_equal(reg.predict(empty), reg.predict(gap))
