"""Random tables through every estimator of tables: a valid answer to what is valid, an error that names what is not."""

import datetime
import re
import string
from decimal import Decimal
from fractions import Fraction
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from fuzzing import examples
from hypothesis import assume, given
from hypothesis import strategies as st

from estimators import PFNClassifier, PFNDensity, PFNImputer, PFNRegressor, TabRClassifier, TabRRegressor
from estimators.table import as_numeric
from pfn import PFN, PFNConfig

pytestmark = pytest.mark.filterwarnings("ignore:The number of unique classes is greater than 50%")
SIZE = {"embed_dim": 16, "n_heads": 2, "n_layers": 1, "hidden_dim": 16, "n_thinking_rows": 2}
# All rows are neighbours: among a few, two whose distances differ by rounding may change places with the size of a call.
TABR = {"n_estimators": 1, "embedding": "none", "width": 8, "context_size": 64, "max_epochs": 2, "random_state": 0}
LARGEST = np.finfo(float).max

# --- columns

numbers = st.floats(-1e300, 1e300) | st.sampled_from([0.0, -0.0, 5e-324, -1e-310, 1.0, 1 + 2**-52, LARGEST, -LARGEST])
short_text = st.text(string.ascii_letters + string.digits + " .é日🦜\0\ud800", max_size=4)
digits = st.sampled_from(["1", "2", "01", "1.0", " 1", "1e3", "inf", "nan", "x", "", "-0", "1_000", "٣"])
dates = st.datetimes(datetime.datetime(1700, 1, 1), datetime.datetime(2200, 1, 1))
anything = st.one_of(
    numbers, short_text, digits, st.booleans(), st.integers(-(10**20), 10**20), dates, st.dates(), st.tuples(short_text),
    st.binary(max_size=2), st.decimals(allow_nan=False, allow_infinity=False), st.fractions(),
    st.sampled_from([pd.NA, pd.NaT, Fraction(1, 3), Decimal("0.1")]),
)


def cells(values):
    """A column of objects, as they are."""
    column = np.empty(len(values), dtype=object)
    for row, value in enumerate(values):
        column[row] = value
    return pd.Series(column, dtype=object)                          # pandas' strings do not hold half a surrogate pair


def category(ordered, pool=("a", "b", "1", "z", "never")):
    dtype = pd.CategoricalDtype(list(pool), ordered=ordered)
    return st.none() | st.sampled_from(pool), lambda values: pd.Series(pd.Categorical(values, dtype=dtype))


KINDS = {                                                           # cells, and the column that is made of them
    "floats": (st.just(np.nan) | numbers, lambda values: pd.Series(values, dtype=float)),
    "float32": (st.floats(width=32, allow_infinity=False), lambda values: pd.Series(values, dtype="float32")),
    "small integers": (st.integers(-2, 2), lambda values: pd.Series(values, dtype="int64")),
    "integers": (st.integers(-(2**63), 2**63 - 1), lambda values: pd.Series(values, dtype="int64")),
    "huge integers": (st.integers(-(10**300), 10**300), cells),
    "booleans": (st.booleans(), lambda values: pd.Series(values, dtype=bool)),
    "booleans and None": (st.none() | st.booleans(), cells),
    "text": (st.none() | short_text, cells),
    "digits": (st.none() | digits, cells),
    "strings": (st.none() | st.text(string.printable, max_size=3), lambda values: pd.Series(values, dtype="string")),
    "category": category(False),
    "ordered category": category(True),
    "category of numbers": category(False, (3.0, 1.0, 2.5, 1e300)),
    "dates": (st.none() | dates, lambda values: pd.Series(pd.to_datetime(values))),
    "zoned dates": (st.none() | dates, lambda values: pd.Series(pd.to_datetime(values)).dt.tz_localize("UTC")),
    "durations": (st.none() | st.timedeltas(datetime.timedelta(-9999), datetime.timedelta(9999)),
                  lambda values: pd.Series(pd.to_timedelta(values))),
    "Int64": (st.none() | st.integers(-(2**63), 2**63 - 1), lambda values: pd.Series(values, dtype="Int64")),
    "Float64": (st.none() | numbers, lambda values: pd.Series(values, dtype="Float64")),
    "boolean": (st.none() | st.booleans(), lambda values: pd.Series(values, dtype="boolean")),
    "objects": (anything, cells),
    "missing": (st.sampled_from([None]), cells),
    "missing float": (st.just(np.nan), lambda values: pd.Series(values, dtype=float)),
}


@st.composite
def column(draw, kind, n):
    values, make = KINDS[kind]
    if draw(st.integers(0, 9)) == 0:
        values = st.just(draw(values))                              # the same in all rows
    return make(draw(st.lists(values, min_size=n, max_size=n)))


@st.composite
def schemas(draw):
    """Kinds of columns, and which of them is a copy of the first."""
    kinds = draw(st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=6))
    return kinds, draw(st.booleans())


@st.composite
def frames(draw, schema, n):
    kinds, copied = schema
    columns = [draw(column(kind, n)) for kind in kinds]
    if copied:
        columns[-1] = columns[0]
    return pd.concat(columns, axis=1, keys=[f"c{k}" for k in range(len(columns))])


@st.composite
def tables(draw):
    """A table to fit and one to ask, of the same types."""
    schema = draw(schemas())
    X = draw(frames(schema, draw(st.integers(1, 40) | st.integers(1, 3))))
    query = draw(frames(schema, draw(st.integers(1, 6))))
    if draw(st.booleans()):                                         # rows that were seen
        query = pd.concat([query, X.iloc[:2]], ignore_index=True)
    if draw(st.integers(0, 3)) == 0:
        return X.to_numpy(dtype=object), query.to_numpy(dtype=object)
    if all(dtype.kind in "fib" for dtype in X.dtypes) and draw(st.booleans()):
        return X.to_numpy(), query.to_numpy()
    return X, query


@st.composite
def labels(draw, n):
    pool = draw(st.sampled_from([[0, 1], ["a", "b", "ab"], [True, False], [-3, 2**40, 7], [0.0, 2.0], ["", "é"], ["one"],
                                 list(range(14)), ["nan", "None", "<NA>"]]))
    found = draw(st.lists(st.sampled_from(pool), min_size=n, max_size=n))
    as_type = draw(st.sampled_from([list, np.array, pd.Series, lambda values: np.array(values, dtype=object),
                                    lambda values: pd.Series(values, index=range(n, 0, -1))]))
    return as_type(found)


@st.composite
def targets(draw, n):
    unit = draw(st.sampled_from([1.0, 1e-300, 1e-30, 1e30, 1e298]))
    values = draw(st.lists(st.sampled_from([0.0, 1.0, 1.0]) | st.floats(-100, 100), min_size=n, max_size=n))
    return unit * np.array(values) + draw(st.sampled_from([0.0, unit, 1e6 * unit]))


# --- estimators and what they promise

@cache
def networks():
    """Untrained: what is asked here must hold whatever the network says."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return {"regressor": PFN(PFNConfig(task="regression", n_outputs=32, **SIZE)).eval(),
                "classifier": PFN(PFNConfig(n_outputs=10, **SIZE)).eval()}


def unchanged(table, before):
    pd.testing.assert_frame_equal(objects(table), objects(before))


def rows_of(table, rows):
    return table.iloc[rows] if isinstance(table, pd.DataFrame | pd.Series) else np.asarray(table)[rows]


def objects(table):
    """A frame; of an array, its cells as they are."""
    return table if isinstance(table, pd.DataFrame) else pd.DataFrame(table, dtype=object)


def is_moderate(table):
    """Whether no number is so large that the difference of two of them is infinite."""
    columns = (as_numeric(column) for _, column in objects(table).items())
    return all(column is None or not (np.abs(column) > 1e306).any() for column in columns)


def fitting_query(ask, X, query):
    """The query, or the table itself where a column that looked like numbers in `fit` now holds text."""
    try:
        ask(query)
    except ValueError as error:
        if not re.search("column .* held numbers in fit but now holds", str(error)):
            raise
        return X
    return query


def assert_classifies(make, X, y, query):
    before = X.copy(), y.copy()
    clf = make().fit(X, y)
    query = fitting_query(clf.predict, X, query)
    asked = query.copy()
    p = clf.predict_proba(query)
    assert clf.classes_.tolist() == np.unique(np.asarray(y)).tolist()
    assert p.shape == (len(query), len(clf.classes_))
    assert np.isfinite(p).all()
    assert (p >= 0).all()
    np.testing.assert_allclose(p.sum(1), 1.0, atol=1e-6)
    np.testing.assert_array_equal(clf.predict(query), clf.classes_[p.argmax(1)])
    for row in (0, -1):
        alone = rows_of(query, [row])
        np.testing.assert_allclose(clf.predict_proba(alone)[0], p[row], rtol=0, atol=1e-5)
    unchanged(X, before[0])
    unchanged(query, asked)
    np.testing.assert_array_equal(np.asarray(y), np.asarray(before[1]))
    return clf, query, p


def assert_regresses(make, X, y, query):
    before = X.copy(), y.copy()
    reg = make().fit(X, y)
    query = fitting_query(reg.predict, X, query)
    asked = query.copy()
    mean = reg.predict(query)
    assert mean.shape == (len(query),)
    assert np.isfinite(mean).all()
    for row in (0, -1):
        alone = reg.predict(rows_of(query, [row]))
        np.testing.assert_allclose(alone[0], mean[row], rtol=1e-4, atol=1e-4 * np.abs(y - y.mean()).max())
    unchanged(X, before[0])
    unchanged(query, asked)
    np.testing.assert_array_equal(y, before[1])
    return reg, query, mean


@examples(20)
@given(data=st.data())
def test_classifier(data):
    X, query = data.draw(tables())
    y = data.draw(labels(len(X)))
    settings = {"model": networks()["classifier"], "n_estimators": data.draw(st.integers(1, 4)),
                "temperature": data.draw(st.sampled_from(["auto", 1.0])), "random_state": data.draw(st.integers(0, 9)),
                "max_context": data.draw(st.sampled_from([1000, 1000, 8]))}
    clf, query, p = assert_classifies(lambda: PFNClassifier(**settings), X, y, query)
    assert np.isfinite(clf.predict_log_proba(query)).all()
    order = data.draw(st.permutations(range(len(X))))
    shuffled = PFNClassifier(**settings).fit(rows_of(X, order), rows_of(y, order))
    np.testing.assert_array_equal(shuffled.predict_proba(query), p)


@examples(20)
@given(data=st.data())
def test_regressor(data):
    X, query = data.draw(tables())
    y = data.draw(targets(len(X)))
    settings = {"model": networks()["regressor"], "n_estimators": data.draw(st.integers(1, 4)), "random_state": 0,
                "max_context": data.draw(st.sampled_from([1000, 1000, 8]))}
    reg, query, mean = assert_regresses(lambda: PFNRegressor(**settings), X, y, query)
    same, std = reg.predict(query, return_std=True)
    np.testing.assert_array_equal(same, mean)
    assert np.isfinite(std).all()
    assert (std > 0).all()
    q = np.sort(data.draw(st.lists(st.floats(0.001, 0.999), min_size=1, max_size=5)))
    quantiles = reg.predict(query, quantiles=q)
    assert quantiles.shape == (len(query), len(q))
    assert np.isfinite(quantiles).all()
    assert (np.diff(quantiles, axis=1) >= 0).all()
    posterior = reg.predict_distribution(query)
    sharp = std > 1e-6 * np.abs(mean)                               # wide enough for float64 to tell its quantiles apart
    np.testing.assert_allclose(posterior.cdf(quantiles)[sharp], np.tile(q, (sharp.sum(), 1)), atol=1e-6)
    assert np.isfinite(posterior.log_prob(np.full(len(query), y[0]))).all()
    order = data.draw(st.permutations(range(len(X))))
    shuffled = PFNRegressor(**settings).fit(rows_of(X, order), y[order])
    np.testing.assert_array_equal(shuffled.predict(query), mean)


@examples(15)
@given(data=st.data())
def test_integer_weights_are_copies(data):
    X, query = data.draw(tables())
    weight = np.array(data.draw(st.lists(st.integers(0, 4), min_size=len(X), max_size=len(X))))
    assume(weight.any())
    copies = np.repeat(np.arange(len(X)), weight)
    y = data.draw(labels(len(X)))
    settings = {"n_estimators": 2, "random_state": 0}
    weighted = PFNClassifier(model=networks()["classifier"], **settings).fit(X, y, sample_weight=weight)
    query = fitting_query(weighted.predict, rows_of(X, copies), query)
    repeated = PFNClassifier(model=networks()["classifier"], **settings).fit(rows_of(X, copies), rows_of(y, copies))
    np.testing.assert_allclose(weighted.predict_proba(query), repeated.predict_proba(query), rtol=0, atol=2e-5)
    target = np.arange(len(X)) % 7.0
    weighted = PFNRegressor(model=networks()["regressor"], **settings).fit(X, target, sample_weight=weight)
    repeated = PFNRegressor(model=networks()["regressor"], **settings).fit(rows_of(X, copies), target[copies])
    np.testing.assert_allclose(weighted.predict(query), repeated.predict(query), rtol=0, atol=1e-3)


@examples(8)
@given(data=st.data())
def test_saved_estimators_answer_alike(data, tmp_path_factory):
    X, query = data.draw(tables())
    path = tmp_path_factory.mktemp("saved") / "fitted.safetensors"
    clf = PFNClassifier(1, random_state=0).fit(X, data.draw(labels(len(X))))
    query = fitting_query(clf.predict, X, query)
    clf.save(path)
    loaded = PFNClassifier.load(path)
    np.testing.assert_array_equal(loaded.predict_proba(query), clf.predict_proba(query))
    assert loaded.classes_.tolist() == clf.classes_.tolist()


@examples(15)
@given(data=st.data())
def test_imputer(data):
    X, query = data.draw(tables().filter(lambda pair: all(map(is_moderate, pair))))
    before = X.copy()
    imputer = PFNImputer(1, n_passes=data.draw(st.integers(1, 2)), random_state=0, **networks()).fit(X)
    query = fitting_query(imputer.transform, X, query)
    asked = query.copy()
    filled = imputer.transform(query)
    together = PFNImputer(1, n_passes=2, random_state=0, **networks()).fit_transform(X)
    unchanged(X, before)
    unchanged(query, asked)
    assert np.shape(together) == np.shape(X)
    assert np.shape(filled) == np.shape(query)
    seen = objects(X).notna().any().to_numpy()
    result, asked = objects(filled), objects(query)
    for j in range(asked.shape[1]):
        for found, cell in zip(result.iloc[:, j], asked.iloc[:, j], strict=True):
            assert not (pd.isna(found) and (seen[j] or not pd.isna(cell)))
            if isinstance(query, pd.DataFrame) and not pd.isna(cell):
                assert found == cell or float(found) == float(cell)


@examples(15)
@given(data=st.data())
def test_density(data):
    X, query = data.draw(tables().filter(lambda pair: all(map(is_moderate, pair))))
    before = X.copy()
    density = PFNDensity(data.draw(st.integers(1, 2)), random_state=0, **networks()).fit(X)
    query = fitting_query(density.score_samples, X, query)
    score = density.score_samples(query)
    assert score.shape == (len(query),)
    assert (score < np.inf).all()                                   # 1e154 widths away a log density leaves float64: -inf
    assert np.isfinite(density.score_samples(X)).all()
    alone = density.score_samples(rows_of(query, [0]))
    np.testing.assert_allclose(alone[0], score[0], rtol=1e-4, atol=1e-3)
    drawn = density.sample(3)
    assert np.shape(drawn) == (3, np.shape(X)[1])
    unchanged(X, before)


@examples(10)
@given(data=st.data())
def test_tabr(data):
    X, query = data.draw(tables())
    changes = TABR | {"validation_fraction": data.draw(st.sampled_from([0.0, 0.3])),
                      "embedding": data.draw(st.sampled_from(["none", "periodic"]))}
    if data.draw(st.booleans()):
        clf, query, _ = assert_classifies(lambda: TabRClassifier(**changes), X, data.draw(labels(len(X))), query)
        weight, neighbours = clf.kneighbors(query)
    else:
        reg, query, _ = assert_regresses(lambda: TabRRegressor(**changes), X, data.draw(targets(len(X))), query)
        weight, neighbours = reg.kneighbors(query)
    np.testing.assert_allclose(weight.sum(1), 1.0, atol=1e-4)
    assert ((neighbours >= -1) & (neighbours < len(X))).all()
    assert (weight[neighbours < 0] == 0).all()


# --- what is wrong is named

def with_cell(X, row, name, value):
    X = X.astype({name: object})
    X.loc[row, name] = value
    return X


def set_first(values, value):
    values = np.array(values, dtype=object)
    values[0] = value
    return values


WRONG = {
    "inf": (lambda X, y, w: (X.assign(c0=[-np.inf] + [1.0] * (len(X) - 1)), y, w), "infinity: row 0, column 0"),
    "list": (lambda X, y, w: (with_cell(X, 0, "c0", [1]), y, w), "column 'c0' holds"),
    "array": (lambda X, y, w: (with_cell(X, 0, "c0", np.zeros(2)), y, w), "column 'c0' holds"),
    "complex": (lambda X, y, w: (X.assign(c0=1j), y, w), "column 'c0'"),
    "names twice": (lambda X, y, w: (pd.concat([X, X], axis=1), y, w), "column name 'c0' occurs more than once in X"),
    "mixed names": (lambda X, y, w: (X.rename(columns={"c0": 0}), y, w), "feature names"),
    "no rows": (lambda X, y, w: (X[:0], y[:0], w[:0]), "0 sample"),
    "no columns": (lambda X, y, w: (X[[]], y, w), "0 feature"),
    "long y": (lambda X, y, w: (X, [*y, y[0]], w), "inconsistent numbers of samples"),
    "missing y": (lambda X, y, w: (X, set_first(y, None), w), "y contains NaN, None or NA, first in row 0"),
    "NaN in y": (lambda X, y, w: (X, set_first(y, np.nan), w), "y contains NaN, None or NA, first in row 0"),
    "infinite y": (lambda X, y, w: (X, np.full(len(y), np.inf), w), "y contains infinity"),
    "no y": (lambda X, y, w: (X, None, w), "target y is None"),
    "long weights": (lambda X, y, w: (X, y, np.ones(len(y) + 1)), "sample_weight"),
    "negative weight": (lambda X, y, w: (X, y, set_first(w, -1.0).astype(float)), "(?i)sample.weight"),
    "NaN weight": (lambda X, y, w: (X, y, set_first(w, np.nan).astype(float)), "sample_weight"),
    "no weight": (lambda X, y, w: (X, y, 0 * w), "(?i)sample.weight"),
}


@pytest.mark.parametrize("kind", WRONG)
@examples(6)
@given(data=st.data())
def test_wrong_tables_are_named(kind, data):
    schema = data.draw(schemas())
    n = data.draw(st.integers(1, 12))
    X = data.draw(frames((["objects", *schema[0]], False), n))
    change, message = WRONG[kind]
    X, y, weight = change(X, np.arange(n) % 2, np.ones(n))
    make = data.draw(st.sampled_from([
        lambda: PFNClassifier(1, networks()["classifier"]), lambda: PFNRegressor(1, networks()["regressor"]),
        lambda: TabRClassifier(**TABR), lambda: TabRRegressor(**TABR),
    ]))
    with pytest.raises((ValueError, TypeError), match=message):
        make().fit(X, y, weight)


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
@examples(15)
@given(data=st.data())
def test_queries_of_other_columns_are_named(data):
    X, _ = data.draw(tables().filter(lambda pair: isinstance(pair[0], pd.DataFrame)))
    clf = PFNClassifier(1, networks()["classifier"]).fit(X, np.arange(len(X)) % 2)
    change, message = data.draw(st.sampled_from([
        (lambda: X.assign(extra=1), "unseen at fit time"), (lambda: X.rename(columns={"c0": "C"}), "unseen at fit time"),
        (lambda: X.drop(columns="c0").assign(c9=1), "unseen at fit time"), (lambda: X.iloc[:0], "0 sample"),
        (lambda: X["c0"], "2-dimensional container|1D array"),
        (lambda: X.assign(extra=1).to_numpy(dtype=object), "X has .* features"),
    ]))
    with pytest.raises(ValueError, match=message):
        clf.predict(change())
