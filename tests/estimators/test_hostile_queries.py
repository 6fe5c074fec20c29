"""The same for what is passed to an estimator that has been fitted, and what becomes of the data it was fitted on."""

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from test_hostile_inputs import LABEL, RNG, SIGNAL, TWO, N, cells, classifier, regressor

MIXED = pd.DataFrame({"signal": SIGNAL, "colour": ["red", "green", None] * (N // 3), "size": RNG.normal(size=N)})


@pytest.fixture(scope="module")
def fitted():
    return classifier().fit(MIXED, LABEL)


LATER = {
    "a category that was not seen": MIXED.assign(colour="ultraviolet"),
    "a column without values": MIXED.assign(size=np.nan),
    "a text column without values": MIXED.assign(colour=None),
    "numbers where text was": MIXED.assign(colour=3.5),
    "category where text was": MIXED.astype({"colour": "category"}),
    "integers where floats were": MIXED.assign(size=1),
    "booleans where floats were": MIXED.assign(size=True),
    "objects where floats were": MIXED.astype({"size": object}),
    "values far outside": MIXED.assign(size=1e300),
    "another index": MIXED.set_index(np.zeros(N)),
}


@pytest.mark.parametrize("X", LATER.values(), ids=LATER)
def test_new_tables_may_differ_in_values(fitted, X):
    p = fitted.predict_proba(X)
    assert np.isfinite(p).all()
    np.testing.assert_allclose(p.sum(1), 1.0, atol=1e-6)
    assert (fitted.predict(X) == LABEL).mean() >= 0.75


def test_rows_without_any_value_get_a_probability(fitted):
    p = fitted.predict_proba(MIXED.iloc[:2].assign(signal=np.nan, colour=None, size=np.nan))
    assert np.isfinite(p).all()
    np.testing.assert_array_equal(p[0], p[1])


BAD_LATER = {
    "columns swapped": (MIXED[["colour", "signal", "size"]], "must be in the same order"),
    "a column missing": (MIXED[["signal", "colour"]], "(?s)missing.*size"),
    "a column too many": (MIXED.assign(extra=1.0), "(?s)unseen at fit time.*extra"),
    "a column renamed": (MIXED.rename(columns={"size": "Size"}), "(?s)unseen at fit time.*Size"),
    "text where numbers were": (MIXED.assign(size="large"), "column 'size' held numbers in fit but now holds 'large'"),
    "infinite": (MIXED.assign(size=np.inf), "infinity: row 0, column 2"),
    "lists where text was": (MIXED.assign(colour=cells([[1, 2]])), r"'colour'.*\[1, 2\]"),
    "sparse": (sparse.csr_matrix(TWO), "[Ss]parse"),
    "1-D": (SIGNAL, "Expected 2D array, got 1D array"),
    "0 rows": (MIXED.iloc[:0], r"0 sample\(s\)"),
}


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
@pytest.mark.parametrize(("X", "message"), BAD_LATER.values(), ids=BAD_LATER)
def test_new_tables_that_do_not_fit_are_named(fitted, X, message):
    with pytest.raises((ValueError, TypeError), match=message):
        fitted.predict(X)


def test_another_number_of_columns_is_named():
    with pytest.raises(ValueError, match="X has 3 features, but PFNClassifier is expecting 2 features"):
        classifier().fit(TWO, LABEL).predict(np.zeros((1, 3)))


def test_names_that_come_or_go_warn():
    frame = pd.DataFrame(TWO, columns=["a", "b"])
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        named = classifier().fit(frame, LABEL).predict_proba(TWO)
    with pytest.warns(UserWarning, match="X has feature names, but PFNClassifier was fitted without"):
        unnamed = classifier().fit(TWO, LABEL).predict_proba(frame)
    np.testing.assert_array_equal(named, unnamed)


def test_fit_keeps_no_reference_to_its_data():
    X, frame, y = TWO.copy(), MIXED.copy(), SIGNAL.copy()
    label = LABEL.copy()
    models = [(classifier().fit(X, label), TWO), (classifier().fit(frame, label), MIXED), (regressor().fit(X, y), TWO)]
    before = [model.predict(table) for model, table in models]
    X[:], y[:], label[:] = 0.0, 0.0, "low"
    frame["signal"] = 0.0
    for (model, table), expected in zip(models, before, strict=True):
        np.testing.assert_array_equal(model.predict(table), expected)


@pytest.mark.parametrize("X", [TWO, MIXED, TWO.tolist(), TWO.astype(object)], ids=["array", "frame", "list", "objects"])
def test_inputs_are_left_as_they_are(X):
    before, y = pd.DataFrame(X).copy(deep=True), SIGNAL.copy()
    regressor().fit(X, y).predict(X)
    classifier().fit(X, LABEL).predict(X)
    pd.testing.assert_frame_equal(pd.DataFrame(X), before)
    np.testing.assert_array_equal(y, SIGNAL)


def test_what_predict_returns_is_the_users_own(fitted):
    first = fitted.predict_proba(MIXED)
    expected = first.copy()
    first[:] = -1
    np.testing.assert_array_equal(fitted.predict_proba(MIXED), expected)
