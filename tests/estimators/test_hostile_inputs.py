"""Whatever users pass in ends in a correct result, or in an error that says what to change."""

import datetime
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.exceptions import DataConversionWarning

from estimators import PFNClassifier, PFNRegressor

N = 24
RAMP = np.random.default_rng(0).permutation(N)                      # so that no test rests on sorted rows
SIGNAL = np.linspace(-1.0, 1.0, N)[RAMP]
LABEL = np.where(SIGNAL > 0, "high", "low")
RNG = np.random.default_rng(1)


def classifier():
    return PFNClassifier(n_estimators=1, temperature=1.0, random_state=0)


def regressor():
    return PFNRegressor(n_estimators=1, random_state=0)


def beside_signal(column):
    """A frame in which the first column decides and the other must not harm."""
    return pd.DataFrame({"signal": SIGNAL, "hostile": column})


def cells(values):
    """An object column, its values as they are, repeated to N rows."""
    column = np.empty(N, dtype=object)
    for row in range(N):
        column[row] = values[row % len(values)]
    return pd.Series(column, dtype=object)


def assert_classifies(X, y=LABEL, X_test=None, y_test=None, accuracy=0.9):
    """Probabilities are probabilities, classes are those of y, and most of the answers are right."""
    X_test, y_test = (X, y) if X_test is None else (X_test, y_test)
    clf = classifier().fit(X, y)
    p, predicted = clf.predict_proba(X_test), clf.predict(X_test)
    assert p.shape == (len(y_test), len(np.unique(y)))
    assert np.isfinite(p).all()
    np.testing.assert_allclose(p.sum(1), 1.0, atol=1e-6)
    assert clf.classes_.tolist() == np.unique(y).tolist()
    np.testing.assert_array_equal(predicted, clf.classes_[p.argmax(1)])
    assert np.mean(predicted == np.asarray(y_test)) >= accuracy
    return p


def assert_regresses(X, y=SIGNAL, X_test=None, y_test=None, error=0.3):
    """Predictions are finite and within a share of the targets' spread, RMSE."""
    X_test, y_test = (X, y) if X_test is None else (X_test, y_test)
    mean, std = regressor().fit(X, y).predict(X_test, return_std=True)
    assert mean.shape == std.shape == (len(y_test),)
    assert np.isfinite(mean).all()
    assert np.isfinite(std).all()
    assert (std >= 0).all()
    y_test = np.asarray(y_test, dtype=np.float64)
    unit = np.abs(y_test - y_test.mean()).max()
    assert np.sqrt(np.mean(((mean - y_test) / unit) ** 2)) <= error


# --- columns that say nothing, beside one that says it all

IDLE = {
    "constant": np.ones(N),
    "constant text": ["same"] * N,
    "constant zero of minus and plus": [0.0, -0.0] * (N // 2),
    "duplicate of the signal": SIGNAL,
    "all missing, float": [np.nan] * N,
    "all missing, None": cells([None]),
    "all missing, pd.NA": pd.array([pd.NA] * N, dtype="Int64"),
    "all missing, NaT": pd.array([pd.NaT] * N, dtype="datetime64[ns]"),
    "all missing, category": pd.Categorical([None] * N, categories=["a", "b"]),
    "one value, the others missing": [3.0] + [np.nan] * (N - 1),
    "pd.NA among numbers": cells([1, 2.5, pd.NA]),
    "NaT among dates": pd.to_datetime(["2024-01-01", None, "2024-03-01"] * (N // 3)),
    "None among booleans": cells([True, False, None]),
    "None among text": cells(["a", "b", None]),
    "nullable Int64": pd.array([1, 2, pd.NA] * (N // 3), dtype="Int64"),
    "nullable Float64": pd.array([0.5, 2.5, pd.NA] * (N // 3), dtype="Float64"),
    "nullable boolean": pd.array([True, False, pd.NA] * (N // 3), dtype="boolean"),
    "nullable string": pd.array(["a", "b", pd.NA] * (N // 3), dtype="string"),
    "category with unused levels": pd.Categorical(["a", "b"] * (N // 2), categories=["z", "b", "never", "a"]),
    "category of numbers": pd.Categorical([10, 2, 33] * (N // 3)),
    "category of dates": pd.Categorical(pd.to_datetime(["2024-01-01", "2025-01-01"] * (N // 2))),
    "intervals": pd.cut(RNG.normal(size=N), 3),
    "pandas sparse": pd.arrays.SparseArray([0.0, 0.0, 1.0] * (N // 3)),
    "empty strings": ["", " ", "x"] * (N // 3),
    "text that spells missing": ["nan", "None", "<NA>"] * (N // 3),
    "unicode": ["α", "日本", "🦜"] * (N // 3),
    "surrogates and NUL": cells(["\ud800", "a\0b", "é", "e\u0301"]),
    "long strings": ["x" * 20_000 + str(i % 3) for i in range(N)],
    "as many strings as rows": [f"id-{i}" for i in RNG.permutation(N)],
    "bytes": cells([b"red", b"green"]),
    "tuples": cells([(1, 2), (3,)]),
    "numbers, text and dates": cells([1, "one", 2.5, datetime.date(2024, 1, 1), None, True]),
    "date objects": cells([datetime.date(2024, 1, 1), datetime.date(2025, 1, 1)]),
    "time zones mixed": cells([pd.Timestamp("2024-01-01", tz="UTC"), pd.Timestamp("2024-01-01", tz="Asia/Tokyo")]),
    "dates before 1677": cells([datetime.datetime(1066, 10, 14), datetime.datetime(2024, 1, 1)]),
    "huge integers": cells([10**30, -(10**30), 7]),
    "int64 at its limits": np.array([2**63 - 1, -(2**63), 0] * (N // 3)),
    "uint64 at its limit": np.array([2**64 - 1, 0, 1] * (N // 3), dtype=np.uint64),
    "one outlier of 1e300": np.where(np.arange(N) == 5, 1e300, 0.0),
    "both ends of float64": np.array([np.finfo(float).max, np.finfo(float).min] * (N // 2)),
    "numbers that differ in the last bit": 1.0 + np.finfo(float).eps * (np.arange(N) % 2),
}


@pytest.mark.parametrize("column", IDLE.values(), ids=IDLE)
def test_idle_column_does_no_harm(column):
    X = beside_signal(column)
    assert_classifies(X)
    assert_regresses(X)


# --- the signal itself, as users may store it

UNITS = {
    "float16": SIGNAL.astype(np.float16),
    "float32": SIGNAL.astype(np.float32),
    "longdouble": SIGNAL.astype(np.longdouble),
    "big-endian": SIGNAL.astype(">f8"),
    "uint8": RAMP.astype(np.uint8),
    "nullable Int64": pd.array(RAMP, dtype="Int64"),
    "nullable Float64": pd.array(SIGNAL, dtype="Float64"),
    "Decimal": [Decimal(str(value)) for value in SIGNAL],
    "Fraction": [Fraction(value) for value in SIGNAL],
    "integers beyond int64": [10**25 * int(rank) for rank in RAMP],
    "category of numbers": pd.Categorical(RAMP),
    "datetime": pd.Timestamp("2024-01-01") + pd.to_timedelta(RAMP, unit="D"),
    "datetime with time zone": pd.Timestamp("2024-01-01", tz="Europe/Berlin") + pd.to_timedelta(RAMP, unit="D"),
    "datetime of seconds": (pd.Timestamp("2024-01-01") + pd.to_timedelta(RAMP, unit="D")).as_unit("s"),
    "datetime objects": cells([datetime.datetime(2024, 1, 1) + datetime.timedelta(days=int(rank)) for rank in RAMP]),
    "timedelta": pd.to_timedelta(RAMP, unit="h"),
    "Period": pd.PeriodIndex(pd.Timestamp("2024-01-01") + pd.to_timedelta(RAMP, unit="D"), freq="D"),
    "huge, 1e300": 1e300 * SIGNAL,
    "tiny, 1e-300": 1e-300 * SIGNAL,
    "denormal": np.ldexp(RAMP.astype(np.float64), -1074),
    "offset of 1e9": 1e9 + SIGNAL,
    "skewed over 3 orders of magnitude": 10.0 ** (1.5 * SIGNAL),
}


@pytest.mark.parametrize("column", UNITS.values(), ids=UNITS)
def test_signal_is_seen_in_any_unit(column):
    X = pd.DataFrame({"only": column})
    assert_classifies(X)
    if X["only"].dtype != "category":
        assert_regresses(X, y=SIGNAL, error=0.7)


def test_numbers_as_text_are_numbers():
    text = pd.DataFrame({"only": [f"{value:.3f}" for value in SIGNAL]})
    between = pd.DataFrame({"only": ["-0.7777", "-0.3333", "0.3333", "0.7777"]})       # none of them is in `text`
    assert_classifies(text, LABEL, between, ["low", "low", "high", "high"])


def test_ordered_category_keeps_its_order():
    sizes = ["small", "medium", "large", "huge"]
    level = RNG.integers(0, 4, N)
    named = pd.DataFrame({"size": pd.Categorical.from_codes(level, categories=sizes, ordered=True)})
    p = assert_classifies(named, level >= 2)
    np.testing.assert_array_equal(p, assert_classifies(level[:, None].astype(float), level >= 2))


def test_numbers_and_their_text_are_one_category():
    X = beside_signal(cells([1, "1", 2, "2"]))
    Y = beside_signal(cells(["1", "1", "2", "2"]))
    np.testing.assert_array_equal(assert_classifies(X), assert_classifies(Y))


# --- tables

TWO = np.column_stack([SIGNAL, RNG.normal(size=N)])
READ_ONLY = TWO.copy()
READ_ONLY.flags.writeable = False
TABLES = {
    "list of lists": TWO.tolist(),
    "list of tuples": [tuple(row) for row in TWO.tolist()],
    "list of arrays": list(TWO),
    "list of mixed rows": [[value, "a", None, True] for value in SIGNAL.tolist()],
    "array of strings and numbers": np.array([[value, "a"] for value in SIGNAL.tolist()], dtype=object),
    "Fortran order": np.asfortranarray(TWO),
    "negative strides": np.ascontiguousarray(TWO[::-1, ::-1])[::-1, ::-1],
    "every second column": np.repeat(TWO, 2, axis=1)[:, ::2],
    "read-only": READ_ONLY,
    "array of booleans": np.column_stack([SIGNAL > 0, SIGNAL < 2]),
    "array of dates": (np.datetime64("2024-01-01") + np.column_stack([RAMP, RAMP])).astype("datetime64[ns]"),
    "frame with integer names": pd.DataFrame(TWO, columns=[7, 3]),
    "frame with unicode names": pd.DataFrame(TWO, columns=["größe", "値段 🦜"]),
    "frame with empty names": pd.DataFrame(TWO, columns=["", " "]),
    "frame with MultiIndex columns": pd.DataFrame(TWO, columns=pd.MultiIndex.from_product([["a"], ["x", "y"]])),
    "frame with a shuffled, repeated index": pd.DataFrame(TWO, index=np.arange(N)[::-1] // 2),
    "frame with a MultiIndex": pd.DataFrame(TWO, index=pd.MultiIndex.from_product([range(N // 2), ["a", "b"]])),
    "frame of one column": pd.DataFrame({"only": SIGNAL}),
    "more features than rows": np.column_stack([SIGNAL, RNG.normal(size=(N, 2 * N))])[:, : N + 10],
}


@pytest.mark.parametrize("X", TABLES.values(), ids=TABLES)
def test_table_is_read(X):
    assert_classifies(X, accuracy=0.8)


def test_polars_frame():
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame({"signal": SIGNAL, "text": ["a", None] * (N // 2)})
    clf = classifier().fit(frame, LABEL)
    assert clf.feature_names_in_.tolist() == ["signal", "text"]
    assert_classifies(frame)


def test_masked_cells_are_missing():
    hidden = np.ma.array(TWO, mask=np.zeros_like(TWO, dtype=bool))
    hidden[::4, 1] = np.ma.masked
    hidden.data[::4, 1] = 1e6                                       # what is under the mask must not matter
    np.testing.assert_array_equal(assert_classifies(hidden), assert_classifies(hidden.filled(np.nan)))


def test_two_hundred_columns():
    p = assert_classifies(np.column_stack([RNG.normal(size=(N, 199)), SIGNAL]), accuracy=0.0)
    assert p.shape == (N, 2)


def test_five_hundred_different_strings():
    signal = np.linspace(-1, 1, 500)
    X = pd.DataFrame({"signal": signal, "name": [f"name {i}" for i in RNG.permutation(500)]})
    assert_classifies(X, np.where(signal > 0, "high", "low"))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_handful_of_rows(n):
    rows = [RAMP.argmin(), RAMP.argmax(), RAMP.argsort()[1]][:n]
    X = beside_signal(["a", None, "b"] * (N // 3)).iloc[rows]
    assert_classifies(X, LABEL[rows], accuracy=0.0)
    mean = regressor().fit(X, SIGNAL[rows]).predict(X)
    assert np.isfinite(mean).all()


def test_equal_rows_with_different_labels_share_the_probability():
    p = assert_classifies(np.ones((N, 2)), np.array([0, 0, 0, 1] * (N // 4)), accuracy=0.0)
    np.testing.assert_allclose(p, [[0.75, 0.25]] * N, atol=0.1)
    mean, std = regressor().fit(np.ones((N, 2)), [0.0, 1.0] * (N // 2)).predict(np.ones((1, 2)), return_std=True)
    assert mean == pytest.approx(0.5, abs=0.1)
    assert std == pytest.approx(0.5, abs=0.15)


STRUCTURED = np.zeros(N, dtype=[("size", float), ("weight", float)])
BAD_TABLES = {
    "None": (None, "2D array"),
    "a number": (3.0, "Expected 2D array, got scalar array"),
    "text": ("table.csv", "2D array, got scalar array.*\n?.*table.csv"),
    "a dict": ({"a": SIGNAL}, "2D array, got scalar array"),
    "a generator": ((row for row in TWO), "2D array, got scalar array"),
    "a set": ({1.0, 2.0}, "2D array, got scalar array"),
    "1-D": (SIGNAL, "Expected 2D array, got 1D array"),
    "1-D of text": (LABEL, "Expected 2D array, got 1D array"),
    "a Series": (pd.Series(SIGNAL), "Expected a 2-dimensional container but got .*Series"),
    "3-D": (np.zeros((N, 2, 2)), "dim 3"),
    "0 rows": (np.zeros((0, 2)), r"0 sample\(s\)"),
    "0 rows of a frame": (beside_signal(cells(["a"])).iloc[:0], r"0 sample\(s\)"),
    "0 columns": (np.zeros((N, 0)), r"0 feature\(s\)"),
    "0 columns of a frame": (pd.DataFrame(index=range(N)), r"0 feature\(s\)"),
    "lists of unequal length": ([[1.0, 2.0]] * (N - 1) + [[1.0]], "2D array|inhomogeneous"),
    "sparse matrix": (sparse.csr_matrix(TWO), "[Ss]parse.*toarray"),
    "sparse array": (sparse.csr_array(TWO), "[Ss]parse.*toarray"),
    "complex": (TWO + 1j, "Complex data not supported"),
    "complex column": (beside_signal(SIGNAL + 1j), "Complex data not supported: column 'hostile'"),
    "infinite": (np.where(np.eye(N, 2), np.inf, TWO), "infinity"),
    "minus infinite": (beside_signal([-np.inf] + [0.0] * (N - 1)), "infinity"),
    "infinite beside text": (beside_signal([np.inf] * N).assign(text="a"), "infinity: row 0, column 1.*NaN"),
    "infinite Decimal": (beside_signal(cells([Decimal("Infinity"), Decimal(1)])), "infinity.*NaN"),
    "integers beyond float64": (beside_signal(cells([10**400, 1])), "'hostile'.*float64"),
    "lists in cells": (beside_signal(cells([[1, 2], [3]])), r"'hostile'.*\[1, 2\]"),
    "dicts in cells": (beside_signal(cells([{"a": 1}, {"b": 2}])), r"'hostile'.*\{'a': 1\}"),
    "sets in cells": (beside_signal(cells([{1}, {2}])), r"'hostile'.*\{1\}"),
    "arrays in cells": (beside_signal(cells([np.zeros(2), np.ones(2)])), r"'hostile'.*array"),
    "structured array": (STRUCTURED, "'size'.*pd.DataFrame"),
    "duplicated names": (pd.DataFrame(TWO, columns=["x", "x"]), "column name 'x' occurs more than once in X; rename"),
    "names of text and numbers": (pd.DataFrame(TWO, columns=["x", 0]), "feature names.*string"),
    "too few rows": (TWO[:-1], r"inconsistent numbers of samples: \[23, 24\]"),
    "too many rows": (np.vstack([TWO, TWO]), r"inconsistent numbers of samples: \[48, 24\]"),
}


@pytest.mark.parametrize(("X", "message"), BAD_TABLES.values(), ids=BAD_TABLES)
@pytest.mark.parametrize("make", [classifier, regressor])
def test_bad_table_is_named(make, X, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make().fit(X, LABEL if make is classifier else SIGNAL)


# --- targets

HIGH = SIGNAL > 0
LABELS = {
    "booleans": HIGH,
    "text": LABEL,
    "objects": LABEL.astype(object),
    "dates": np.array(["2024-01-01", "2025-01-01"], dtype="datetime64[D]")[HIGH * 1],
    "floats that are integers": HIGH * 2.0,
    "negative integers": np.where(HIGH, -1, -7),
    "integers beyond int32": np.where(HIGH, 2**40, -(2**40)),
    "uint8": HIGH.astype(np.uint8),
    "empty string": np.where(HIGH, "", "x"),
    "nullable Int64": pd.Series(HIGH * 1, dtype="Int64"),
    "nullable boolean": pd.Series(HIGH, dtype="boolean"),
    "nullable string": pd.Series(LABEL, dtype="string"),
    "category": pd.Series(LABEL, dtype=pd.CategoricalDtype(["never", "low", "high"])),
    "Series with another index": pd.Series(LABEL, index=np.arange(N) + 100),
    "list": LABEL.tolist(),
    "one class": np.ones(N, dtype=int),
    "one class of text": np.array(["only"] * N),
    "ten classes": RAMP * 10 // N,
    "a class with one row": np.where(RAMP == 0, 0, 1 + HIGH),
}


@pytest.mark.parametrize("y", LABELS.values(), ids=LABELS)
def test_labels_of_any_type(y):
    assert_classifies(TWO, y, accuracy=0.85 if len(np.unique(y)) < 10 else 0.5)


TARGETS = {
    "integers": RAMP,
    "booleans": HIGH,
    "text of numbers": np.array([str(value) for value in SIGNAL]),
    "Decimal": np.array([Decimal(str(value)) for value in SIGNAL], dtype=object),
    "nullable Float64": pd.Series(SIGNAL, dtype="Float64"),
    "float16": SIGNAL.astype(np.float16),
    "huge, 1e30": 1e30 * SIGNAL,
    "huge, 1e300": 1e300 * SIGNAL,
    "tiny, 1e-30": 1e-30 * SIGNAL,
    "tiny, 1e-300": 1e-300 * SIGNAL,
    "offset of 1e9": 1e9 + SIGNAL,
}


@pytest.mark.parametrize("y", TARGETS.values(), ids=TARGETS)
def test_targets_of_any_scale(y):
    assert_regresses(TWO, y, error=0.5)


def test_constant_target_is_predicted():
    np.testing.assert_allclose(regressor().fit(TWO, np.full(N, 7.0)).predict(TWO), 7.0, atol=0.5)


@pytest.mark.parametrize("make", [classifier, regressor])
def test_column_vector_warns_and_works(make):
    y = LABEL if make is classifier else SIGNAL
    with pytest.warns(DataConversionWarning, match="column-vector y was passed"):
        estimator = make().fit(TWO, y[:, None])
    np.testing.assert_array_equal(estimator.predict(TWO), make().fit(TWO, y).predict(TWO))


def with_first(value, y=LABEL):
    y = y.astype(object)
    y[0] = value
    return y


BAD_TARGETS = {
    "classifier, continuous": (classifier, SIGNAL, "Unknown label type: continuous"),
    "classifier, None": (classifier, None, "target y is None"),
    "classifier, None inside": (classifier, with_first(None), "y.*(None|NaN|missing)"),
    "classifier, NaN inside": (classifier, with_first(np.nan), "y contains NaN"),
    "classifier, NaN float": (classifier, np.where(RAMP == 0, np.nan, 1.0), "y contains NaN"),
    "classifier, pd.NA inside": (classifier, pd.Series(LABEL, dtype="string").mask(RAMP == 0), "y.*(NA|NaN|missing)"),
    "classifier, NaN category": (classifier, pd.Series(LABEL, dtype="category").mask(RAMP == 0), "y.*(NA|NaN|missing)"),
    "classifier, text and numbers": (classifier, with_first(3), "y.*(types|type)|Unknown label type"),
    "classifier, lists": (classifier, [[1], [2, 3]] * (N // 2), "y|sequence"),
    "classifier, two columns": (classifier, np.column_stack([HIGH, HIGH]), r"1d array.*\(24, 2\)"),
    "classifier, infinite": (classifier, np.where(HIGH, np.inf, 0.0), "y contains infinity"),
    "classifier, bytes": (classifier, LABEL.astype("S"), "bytes is not supported. Convert the labels to a string"),
    "classifier, sparse": (classifier, sparse.csr_matrix(HIGH[:, None] * 1), "[Ss]parse|1d array"),
    "regressor, None": (regressor, None, "target y is None"),
    "regressor, text": (regressor, LABEL, "y is not numeric.*'(low|high)'.*PFNClassifier"),
    "regressor, NaN": (regressor, np.where(RAMP == 0, np.nan, SIGNAL), "y contains NaN"),
    "regressor, None inside": (regressor, with_first(None, SIGNAL), "y.*(None|NaN|missing)"),
    "regressor, pd.NA inside": (regressor, pd.Series(SIGNAL, dtype="Float64").mask(RAMP == 0), "y.*(NA|NaN|missing)"),
    "regressor, infinite": (regressor, np.where(RAMP == 0, np.inf, SIGNAL), "y contains infinity"),
    "regressor, text of infinity": (regressor, with_first("inf", SIGNAL), "y.*infin"),
    "regressor, complex": (regressor, SIGNAL + 1j, "[Cc]omplex"),
    "regressor, dates": (regressor, np.datetime64("2024-01-01") + RAMP, "y.*(datetime|numeric)"),
    "regressor, 3-D": (regressor, np.zeros((N, 2, 2)), "array with dim 3"),
}


@pytest.mark.parametrize(("make", "y", "message"), BAD_TARGETS.values(), ids=BAD_TARGETS)
def test_bad_target_is_named(make, y, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make().fit(TWO, y)
