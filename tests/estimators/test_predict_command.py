"""`pfn predict` from file to file: what the estimators answer, what users do wrong; every command's help and exit codes."""

import gzip
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from estimators import LearningCurveExtrapolator, PFNClassifier, PFNRegressor, TabRRegressor, predict_command
from estimators.table_files import read_table, write_table
from pfn.cli import main

RNG = np.random.default_rng(0)
N = 40
SIGNAL = RNG.normal(size=N)
FRAME = pd.DataFrame({
    "id": np.arange(N) + 100, "signal": SIGNAL, "colour": np.where(np.arange(N) % 3, "red", None),
    "day": pd.Timestamp("2024-01-01") + pd.to_timedelta(RNG.permutation(N), unit="D"),
    "zip": [f"{k:02}" for k in RNG.integers(0, 3, N)],              # "00", "01": numbers, also to a reader of CSV
    "kind": np.where(SIGNAL > 0, "high", "low"), "price": 10 * SIGNAL + 50,
})
TRAIN, QUERY = FRAME[:30], FRAME[30:].reset_index(drop=True)
FEATURES = ["signal", "colour", "day", "zip"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """With both tables, as CSV."""
    monkeypatch.chdir(tmp_path)
    TRAIN.to_csv("train.csv", index=False)
    QUERY.to_csv("query.csv", index=False)
    return tmp_path


def features(frame):
    """As read from CSV, where `zip` is made of numbers."""
    return frame[FEATURES].assign(day=frame["day"].dt.tz_localize("UTC"), zip=frame["zip"].astype(int))


def classifier():
    return PFNClassifier(random_state=0).fit(features(TRAIN), TRAIN["kind"].to_numpy())


def regressor():
    return PFNRegressor(random_state=0).fit(features(TRAIN), TRAIN["price"].to_numpy())


def run(*arguments, code=0):
    assert main(["predict", *map(str, arguments)]) == code


class TestClasses:
    ARGUMENTS = ("train.csv", "query.csv", "--target", "kind", "--drop", "id", "price")

    def test_the_answers_are_those_of_the_classifier(self, folder, capsys):
        run(*self.ARGUMENTS, "--out", "out.csv")
        found, p = pd.read_csv("out.csv"), classifier().predict_proba(features(QUERY))
        assert found.columns.tolist() == ["prediction", "p(high)", "p(low)"]
        np.testing.assert_allclose(found[["p(high)", "p(low)"]], p, rtol=0, atol=1e-15)
        assert found["prediction"].tolist() == classifier().predict(features(QUERY)).tolist()
        out, err = capsys.readouterr()
        assert out == ""
        assert "'kind' has 2 different values: classification" in err
        assert f"accuracy {(found['prediction'] == QUERY['kind']).mean():.4g} on 10 rows whose 'kind' is known" in err

    def test_without_out_it_prints_csv_and_nothing_else(self, folder, capsys):
        run(*self.ARGUMENTS, "--keep", "id")
        printed = capsys.readouterr().out.splitlines()
        assert printed[0] == "id,prediction,p(high),p(low)"
        assert [line.split(",")[0] for line in printed[1:]] == [str(number) for number in QUERY["id"]]

    def test_blocks_of_rows_change_nothing(self, folder, monkeypatch):
        run(*self.ARGUMENTS, "--out", "whole.csv")
        monkeypatch.setattr(predict_command, "_ROWS_AT_ONCE", 3)
        run(*self.ARGUMENTS, "--out", "blocks.csv")
        whole, blocks = (pd.read_csv(name, index_col="prediction") for name in ("whole.csv", "blocks.csv"))
        pd.testing.assert_frame_equal(whole, blocks, rtol=0, atol=1e-5)

    def test_rows_without_a_label_are_left_out_and_labels_stay_integers(self, folder, capsys):
        y = pd.Series(np.where(TRAIN["kind"] == "high", 1.0, 0.0)).where(TRAIN.index % 5 > 0)
        TRAIN[["signal"]].assign(y=y).to_csv("gaps.csv", index=False)
        run("gaps.csv", "query.csv", "--target", "y")
        out, err = capsys.readouterr()
        assert out.startswith("prediction,p(0),p(1)\n")
        assert "gaps.csv: 6 of 30 rows have no 'y' and are left out" in err
        assert "query.csv: columns that the training table has not are ignored: id, colour, day, zip, kind, price" in err
        known = y.notna().to_numpy()
        expected = PFNClassifier(random_state=0).fit(TRAIN[["signal"]][known], y[known].astype(int))
        p = np.array([line.split(",")[1:] for line in out.splitlines()[1:]], dtype=float)
        np.testing.assert_allclose(p, expected.predict_proba(QUERY[["signal"]]), rtol=0, atol=1e-15)


class TestNumbers:
    ARGUMENTS = ("train.csv", "query.csv", "--target", "price", "--drop", "id", "kind")

    def test_the_answers_are_those_of_the_regressor(self, folder, capsys):
        run(*self.ARGUMENTS, "--std", "--quantiles", "0.05", "0.95", "--out", "out.tsv.gz")
        with gzip.open("out.tsv.gz") as file:
            found = pd.read_csv(file, sep="\t")
        mean, std = regressor().predict(features(QUERY), return_std=True)
        expected = np.column_stack([mean, std, regressor().predict(features(QUERY), quantiles=[0.05, 0.95])])
        assert found.columns.tolist() == ["prediction", "std", "q0.05", "q0.95"]
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        rmse = np.sqrt(np.mean((found["prediction"] - QUERY["price"]) ** 2))
        assert f"RMSE {rmse:.4g}, mean absolute error" in capsys.readouterr().err

    def test_parquet(self, folder):
        pytest.importorskip("pyarrow")
        for frame, name in ((TRAIN, "train.parquet"), (QUERY, "query.parquet")):
            frame.to_parquet(name)
        run("train.parquet", "query.parquet", *self.ARGUMENTS[2:], "--out", "out.parquet")
        expected = PFNRegressor(random_state=0).fit(TRAIN[FEATURES], TRAIN["price"]).predict(QUERY[FEATURES])
        np.testing.assert_allclose(pd.read_parquet("out.parquet")["prediction"], expected, rtol=1e-12)

    @pytest.mark.parametrize("task", ["classification", "regression"])
    def test_the_task_can_be_given(self, task, folder, capsys):
        TRAIN[["signal"]].assign(y=np.arange(30) % 3).to_csv("three.csv", index=False)
        run("three.csv", "query.csv", "--target", "y", "--task", task)
        assert ("p(2)" in capsys.readouterr().out) == (task == "classification")

    @pytest.mark.parametrize(("y", "task"), [
        (["a", "b"] * 15, "classification"), ([True, False] * 15, "classification"), (np.arange(30) % 10, "classification"),
        (np.arange(30) % 11, "regression"), (np.arange(30), "regression"), (np.arange(30) / 4 % 1, "regression"),
        ([0.0, 1.0, None] * 10, "classification"),
    ], ids=["text", "booleans", "10 integers", "11 integers", "many integers", "fractions", "integers and gaps"])
    def test_the_task_is_inferred(self, y, task, folder, capsys):
        TRAIN[["signal"]].assign(y=y).to_csv("own.csv", index=False)
        run("own.csv", "query.csv", "--target", "y")
        out, err = capsys.readouterr()
        assert f"different values: {task} (--task overrides this)" in err
        assert ("p(" in out) == (task == "classification")


class TestSaved:
    def test_a_saved_estimator_answers_alike(self, folder, capsys):
        run(*TestClasses.ARGUMENTS, "--save", "fitted.safetensors", "--out", "first.csv")
        QUERY.drop(columns=["kind", "price"])[["zip", "day", "colour", "signal", "id"]].to_csv("new.csv", index=False)
        capsys.readouterr()
        run("--fitted", "fitted.safetensors", "new.csv", "--out", "second.csv")
        assert (folder / "first.csv").read_bytes() == (folder / "second.csv").read_bytes()
        err = capsys.readouterr().err
        assert "accuracy" not in err
        assert "new.csv: columns that the training table has not are ignored: id" in err

    def test_text_that_looks_like_numbers_stays_text(self, folder, capsys):
        """The category "1" beside gaps is not 1.0, as a reader of CSV would have it."""
        train = pd.DataFrame({"code": ["1", "2", "x"] * 10, "y": [0, 1, 1] * 10})
        train.to_csv("codes.csv", index=False)
        pd.DataFrame({"code": ["1", "2", None], "other": 0}).to_csv("numbers.csv", index=False)
        run("codes.csv", "numbers.csv", "--target", "y", "--save", "fitted.safetensors", "--out", "first.csv")
        run("--fitted", "fitted.safetensors", "numbers.csv", "--out", "second.csv")
        expected = PFNClassifier(random_state=0).fit(train[["code"]], train["y"])
        p = expected.predict_proba(pd.DataFrame({"code": ["1", "2", None]}))
        assert p[0, 0] > 0.8 > 0.2 > p[1, 0]
        for name in ("first.csv", "second.csv"):
            np.testing.assert_allclose(pd.read_csv(name)[["p(0)", "p(1)"]], p, rtol=0, atol=1e-15)

    def test_of_tabr(self, folder):
        train, X = pd.read_csv("train.csv")[["signal", "zip"]], pd.read_csv("query.csv")[["signal", "zip"]]
        tabr = TabRRegressor(n_estimators=1, max_epochs=2, random_state=0).fit(train, TRAIN["price"])
        tabr.save("tabr.safetensors")
        run("--fitted", "tabr.safetensors", "query.csv", "--target", "price", "--out", "out.csv")
        np.testing.assert_allclose(pd.read_csv("out.csv")["prediction"], tabr.predict(X), rtol=1e-5)

    def test_what_it_cannot_answer_is_named(self, folder, capsys):
        TabRRegressor(n_estimators=1, max_epochs=1).fit(TRAIN[["signal"]], TRAIN["price"]).save("tabr.safetensors")
        LearningCurveExtrapolator().fit([1, 2], [0.1, 0.2]).save("curve.safetensors")
        PFNRegressor(n_estimators=1).fit(TRAIN[["signal"]].to_numpy(), TRAIN["price"]).save("nameless.safetensors")
        two = PFNRegressor(n_estimators=1).fit(TRAIN[["signal"]], np.column_stack([SIGNAL[:30]] * 2))
        two.save("two.safetensors")
        (folder / "garbage.safetensors").write_bytes(b"garbage")
        for name, options, message in (
            ("tabr", ["--std"], "need a density, which TabRRegressor does not give; leave them out"),
            ("curve", [], "holds a LearningCurveExtrapolator; load it with LearningCurveExtrapolator.load"),
            ("nameless", [], "fitted on a table without column names; fit it on a data frame"),
            ("two", [], "predicts several targets; call it from Python"),
            ("garbage", [], "truncated or no safetensors file"),
            ("nowhere", [], "no file at 'nowhere.safetensors'"),
        ):
            run("--fitted", f"{name}.safetensors", "query.csv", *options, code=1)
            out, err = capsys.readouterr()
            assert out == ""
            assert message in err


WRONG = {                                                           # arguments, message
    "no such table": ("nowhere.csv query.csv --target kind", "No such file or directory: 'nowhere.csv'"),
    "no such query": ("train.csv nowhere.csv --target kind", "No such file or directory: 'nowhere.csv'"),
    "an address": ("https://example.org/train.csv query.csv --target kind", "No such file or directory: 'https:"),
    "unknown ending": ("train.xlsx query.csv --target kind", "'train.xlsx' is no table that is known by its ending"),
    "empty file": ("empty.csv query.csv --target kind", "'empty.csv' cannot be read as csv: No columns"),
    "no gzip": ("false.csv.gz query.csv --target kind", "gzip"),
    "half a gzip": ("half.csv.gz query.csv --target kind", "'half.csv.gz' cannot be read as csv"),
    "no Parquet": ("false.parquet query.csv --target kind", "'false.parquet' cannot be read as parquet"),
    "no UTF-8": ("latin.csv query.csv --target kind", "'latin.csv' cannot be read as csv: 'utf-8' codec"),
    "ragged": ("ragged.csv query.csv --target kind", "Expected 2 fields in line 3, saw 3"),
    "names of rows": ("names.csv query.csv --target y", "its rows have more cells than its header"),
    "no such target": ("train.csv query.csv --target Kind", "--target Kind is no column of 'train.csv', which has 'id'"),
    "no such column to drop": ("train.csv query.csv --target kind --drop ID", "--drop ID is no column"),
    "the target dropped": ("train.csv query.csv --target kind --drop kind", "--drop kind is the target"),
    "no such column to keep": ("train.csv query.csv --target kind --keep x", "--keep x is no column of 'query"),
    "kept name of a result": ("narrow.csv clash.csv --target kind --keep prediction", "has the name of a result"),
    "no labels": ("unlabelled.csv query.csv --target kind", "no row with a value of 'kind'"),
    "nothing but the target": ("target.csv query.csv --target kind", "no column besides the target"),
    "a column missing": ("train.csv clash.csv --target kind", "'clash.csv' has no column 'id', 'colour', 'day', 'zip'"),
    "a query without rows": ("narrow.csv header.csv --target kind", "'header.csv' has no rows"),
    "infinite": ("infinite.csv query.csv --target kind", "infinite value in column 'signal', row 3"),
    "infinite target": ("infinite.csv query.csv --target signal", "infinite value in column 'signal', row 3"),
    "infinite query": ("narrow.csv infinite.csv --target kind", "'infinite.csv' has an infinite value in column"),
    "text where numbers were": ("narrow.csv text.csv --target kind", "'signal' held numbers in fit but now holds 'x'"),
    "text to regress on": ("narrow.csv query.csv --target kind --task regression", "y is not numeric"),
    "classes of fractions": ("train.csv query.csv --target price --task classification", "continuous"),
    "quantiles of classes": ("narrow.csv query.csv --target kind --quantiles 0.5", "use --task regression"),
    "per cent": ("train.csv query.csv --target price --quantiles 95", "did you mean 0.95"),
    "no such network": ("narrow.csv query.csv --target kind --model big", "no bundled weights are called 'big'"),
    "network of the other task": ("narrow.csv query.csv --target kind --model regressor", "use one that classif"),
    "output over TRAIN": ("narrow.csv query.csv --target kind --out narrow.csv", "would overwrite an input"),
    "output over QUERY": ("narrow.csv query.csv --target kind --out ./link.csv", "would overwrite an input"),
    "saved over TRAIN": ("narrow.csv query.csv --target kind --save narrow.csv", "--save narrow.csv would over"),
    "output twice": ("narrow.csv query.csv --target kind --save o.csv --out ./o.csv", "give two names"),
    "output of unknown ending": ("narrow.csv query.csv --target kind --out out.json", "'out.json' is no table"),
    "output in no folder": ("narrow.csv query.csv --target kind --out no/out.csv", "folder that exists"),
    "output is a folder": ("narrow.csv query.csv --target kind --out sub.csv", "is a folder or lies in none"),
}


@pytest.fixture
def wrong(folder):
    narrow = TRAIN[["signal", "kind"]]
    narrow.to_csv("narrow.csv", index=False)
    narrow.assign(kind=None).to_csv("unlabelled.csv", index=False)
    narrow[["kind"]].to_csv("target.csv", index=False)
    narrow[:0].to_csv("header.csv", index=False)
    narrow.assign(signal=narrow["signal"].where(narrow.index != 2, np.inf)).to_csv("infinite.csv", index=False)
    narrow.assign(signal="x").to_csv("text.csv", index=False)
    QUERY[["signal"]].assign(prediction=1, price=2.0).to_csv("clash.csv", index=False)
    for name, content in {
        "empty.csv": b"", "false.csv.gz": b"signal,kind\n1,a\n", "false.parquet": b"signal,kind\n",
        "half.csv.gz": gzip.compress((folder / "train.csv").read_bytes())[:-40], "latin.csv": "kind\nü".encode("latin-1"),
        "ragged.csv": b"signal,kind\n1,a\n1,2,3\n", "names.csv": b"x,y\nfirst,1,2\nsecond,1,2\n",
    }.items():
        (folder / name).write_bytes(content)
    (folder / "link.csv").symlink_to("query.csv")
    (folder / "sub.csv").mkdir()
    return folder


@pytest.mark.parametrize(("arguments", "message"), WRONG.values(), ids=WRONG)
def test_errors_are_one_line_and_leave_no_file(arguments, message, wrong, capsys):
    before = {path: path.read_bytes() for path in wrong.iterdir() if path.is_file()}
    run(*arguments.split(), code=1)
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err.splitlines()[-1]
    assert err.splitlines()[-1].startswith("pfn: ")
    assert {path: path.read_bytes() for path in wrong.iterdir() if path.is_file()} == before


@pytest.mark.parametrize(("arguments", "message"), [
    ([], "the following arguments are required: TABLE"),
    (["train.csv", "--target", "kind"], "expected two tables, TRAIN and QUERY, got 1"),
    (["a.csv", "b.csv", "c.csv", "--target", "kind"], "expected two tables, TRAIN and QUERY, got 3"),
    (["train.csv", "query.csv"], "--target COLUMN says which column"),
    (["a.csv", "b.csv", "--fitted", "f.safetensors"], "--fitted takes one table, QUERY, got 2"),
    (["b.csv", "--fitted", "f.safetensors", "--drop", "id"], "--drop belongs to fitting"),
    (["b.csv", "--fitted", "f.safetensors", "--seed", "0"], "--seed belongs to fitting"),
    (["train.csv", "query.csv", "--target", "kind", "--task", "ranking"], "invalid choice: 'ranking'"),
], ids=str)
def test_wrong_usage_is_exit_code_2(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["predict", *arguments])
    assert message in capsys.readouterr().err


class TestFiles:
    @pytest.mark.parametrize("ending", ["csv", "tsv", "csv.gz", "tsv.gz", "CSV"])
    def test_what_is_written_is_read_again(self, ending, tmp_path):
        frame = FRAME.assign(day=FRAME["day"].dt.tz_localize("UTC"), quoted='a,"b"\tc')
        write_table(frame, tmp_path / f"table.{ending}")
        found = read_table(tmp_path / f"table.{ending}", text=["zip"])
        pd.testing.assert_frame_equal(found, frame, check_dtype=False)

    def test_dates_are_read_where_all_are_dates(self, tmp_path):
        cells = {"date": ["2024-01-31", "", "2024-02-01T10:00"], "zone": ["2024-01-31 00:00+02:00", "2024-01-31 00:00Z", ""],
                 "no": ["2024-01-31", "soon", ""], "invalid": ["2024-13-01", "2024-01-01", ""], "empty": ["", "", ""]}
        pd.DataFrame(cells).to_csv(tmp_path / "dates.csv", index=False)
        found = read_table(tmp_path / "dates.csv")
        dates = [pd.Timestamp("2024-01-31", tz="UTC"), pd.Timestamp("2024-02-01 10:00", tz="UTC")]
        assert found["date"].dropna().tolist() == dates
        assert found["zone"][0] == pd.Timestamp("2024-01-30 22:00", tz="UTC")
        assert found["no"][:2].tolist() == ["2024-01-31", "soon"]
        assert found["invalid"][0] == "2024-13-01"
        assert read_table(tmp_path / "dates.csv", text=["date"])["date"][0] == "2024-01-31"

    def test_a_byte_order_mark_is_no_part_of_a_name(self, tmp_path):
        (tmp_path / "excel.csv").write_bytes("\ufeffx,y\n1,2\n".encode())
        assert read_table(tmp_path / "excel.csv").columns.tolist() == ["x", "y"]

    def test_a_failed_write_leaves_the_old_file(self, tmp_path, monkeypatch):
        path = tmp_path / "out.csv"
        path.write_text("precious")

        def broken(self, path, **options):
            with open(path, "w") as file:
                file.write("half")
            raise OSError("disk full")

        monkeypatch.setattr(pd.DataFrame, "to_csv", broken)
        with pytest.raises(OSError, match="disk full"):
            write_table(FRAME, path)
        assert path.read_text() == "precious"
        assert os.listdir(tmp_path) == ["out.csv"]

    def test_parquet_without_pyarrow_says_what_to_install(self, tmp_path, monkeypatch):
        (tmp_path / "table.parquet").write_bytes(b"PAR1")
        for name in ("pyarrow", "fastparquet"):
            monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(ImportError, match=r"table\.parquet' is Parquet, which needs pyarrow: pip install pyarrow"):
            read_table(tmp_path / "table.parquet")
        with pytest.raises(ImportError, match="pip install pyarrow"):
            write_table(FRAME, tmp_path / "out.parquet")
        assert os.listdir(tmp_path) == ["table.parquet"]


COMMANDS = {"pretrain": ["nonsense"], "info": [], "evaluate": ["classifier", "--seeds", "x"], "certify": [],
            "sample": ["nonsense"], "export": ["classifier"], "predict": ["train.csv"]}
FAILURES = {"pretrain": ["gp", "--resume", "no.safetensors", "--out", "out.safetensors", "--device", "cpu"],
            "info": ["no.safetensors"], "evaluate": ["no.safetensors"], "certify": ["no.safetensors"],
            "sample": ["gp", "--rows", "0"], "export": ["no.safetensors", "--out", "out.safetensors"],
            "predict": ["no.csv", "no.csv", "--target", "y"]}


class TestEveryCommand:
    """0 for help, 1 with one line for what the message explains, 2 for wrong usage."""

    @pytest.mark.parametrize("command", COMMANDS)
    def test_exit_codes(self, command, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SystemExit, match="0"):
            main([command, "--help"])
        assert f"usage: pfn {command} " in capsys.readouterr().out
        with pytest.raises(SystemExit, match="2"):
            main([command, *COMMANDS[command]])
        assert f"pfn {command}: error: " in capsys.readouterr().err
        assert main([command, *FAILURES[command]]) == 1
        assert capsys.readouterr().err.startswith("pfn: ")
        assert os.listdir(tmp_path) == []

    def test_they_are_all_there(self, capsys):
        with pytest.raises(SystemExit, match="0"):
            main(["--help"])
        out = capsys.readouterr().out
        assert all(f"\n    {command} " in out for command in COMMANDS)

    def test_as_a_module(self, folder):
        command = [sys.executable, "-m", "pfn", "predict", *TestClasses.ARGUMENTS]
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        assert result.stdout.startswith("prediction,p(high),p(low)\n")
        assert all(line.startswith("pfn predict: ") for line in result.stderr.splitlines())     # no bar off a terminal
