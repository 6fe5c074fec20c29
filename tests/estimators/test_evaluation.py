import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.datasets import load_diabetes, load_iris
from sklearn.dummy import DummyRegressor
from sklearn.metrics import log_loss, mean_pinball_loss, roc_auc_score

from estimators.datasets import Dataset, bundled_datasets, read_dataset, split_dataset
from estimators.evaluation import Evaluation, baseline_models, evaluate, fit_and_score, summary
from estimators.metrics import Normal, classification_scores, regression_scores
from pfn import PFN, Envelope, ModelCard, PFNConfig, load_pretrained, save_checkpoint
from pfn.cli import main


def untrained(task, n_outputs):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return PFN(PFNConfig(task=task, n_outputs=n_outputs, embed_dim=16, n_heads=2, n_layers=1, hidden_dim=32)).eval()


@pytest.fixture
def classifier():
    return untrained("classification", 3)


@pytest.fixture
def regressor():
    return untrained("regression", 16)


def checkpoint(model, path):
    save_checkpoint(model, path, ModelCard(model.config, "none", Envelope(max_rows=16, max_features=4)))
    return str(path)


@pytest.fixture
def folder(tmp_path):
    """A set of each task, the second with strings as labels and a categorical column."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 3)).astype(np.float32)
    X[::7, 1] = np.nan
    X[:, 2] = rng.integers(0, 3, 40)
    folder = tmp_path / "sets"
    folder.mkdir()
    np.savez(folder / "slope.npz", X=X, y=X[:, 0] + 0.1 * rng.normal(size=40), task="regression", cat_idx=[2])
    np.savez(folder / "sign.npz", X=X, y=np.where(X[:, 0] > 0, "up", "down"), task="classification", cat_idx=[2])
    return folder


class TestMetrics:
    def test_classification_by_hand(self):
        """Two rows of each class; confidences 0.9, 0.6, 0.8, 0.6 lie in the bins 13, 9, 12, 9, and the last row is wrong."""
        p = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.6, 0.4]])
        scores = classification_scores(np.array([0, 0, 1, 1]), p)
        assert scores["auc"] == pytest.approx((1 + 1 + 1 + 0.5) / 4)
        assert scores["log_loss"] == pytest.approx(-np.log([0.9, 0.6, 0.8, 0.4]).mean())
        assert scores["accuracy"] == 0.75
        assert scores["ece"] == pytest.approx((abs(0.9 - 1) + abs(1.2 - 1) + abs(0.8 - 1)) / 4)

    def test_classification_as_scikit_learn(self):
        rng = np.random.default_rng(0)
        y, p = rng.integers(0, 4, 200), rng.dirichlet(np.ones(4), 200)
        scores = classification_scores(y, 3.0 * p)
        assert scores["auc"] == pytest.approx(roc_auc_score(y, p, multi_class="ovo", average="macro"))
        assert scores["log_loss"] == pytest.approx(log_loss(y, p))

    def test_a_class_without_test_rows_is_left_out_of_the_auc(self):
        rng = np.random.default_rng(0)
        y, p = rng.integers(0, 3, 100), rng.dirichlet(np.ones(3), 100)
        wider = np.column_stack([0.5 * p, np.full(100, 0.5)])
        assert classification_scores(y, wider)["auc"] == pytest.approx(classification_scores(y, p)["auc"])

    def test_regression_as_scipy_and_scikit_learn(self):
        rng = np.random.default_rng(0)
        y, mean, std, scale = rng.normal(5, 3, 50), rng.normal(5, 3, 50), rng.uniform(1, 4, 50), 2.5
        scores = regression_scores(y, Normal(mean, std), scale)
        assert scores["rmse"] == pytest.approx(np.sqrt(((y - mean) ** 2).mean() / y.var()))
        standardised = stats.norm((mean - 1.0) / scale, std / scale).logpdf((y - 1.0) / scale)
        assert scores["nll"] == pytest.approx(-standardised.mean())
        levels = np.linspace(0.1, 0.9, 9)
        pinball = [mean_pinball_loss(y, stats.norm(mean, std).ppf(q), alpha=q) for q in levels]
        assert scores["pinball"] == pytest.approx(np.mean(pinball) / scale)
        assert scores["coverage"] == pytest.approx((abs(y - mean) <= stats.norm.ppf(0.95) * std).mean())

    def test_regression_does_not_depend_on_the_unit_of_y(self):
        rng = np.random.default_rng(0)
        y, mean = rng.normal(size=(2, 30))
        metres = regression_scores(y, Normal(mean, 0.7), 1.2)
        millimetres = regression_scores(1e3 * y + 5, Normal(1e3 * mean + 5, 700.0), 1.2e3)
        assert metres == pytest.approx(millimetres)

    def test_the_truth_has_coverage_90_and_the_entropy_as_nll(self):
        y = 3.0 * np.random.default_rng(0).normal(size=4000)
        scores = regression_scores(y, Normal(np.zeros(4000), 3.0), 3.0)
        assert abs(scores["coverage"] - 0.9) < 4.5 * np.sqrt(0.09 / 4000)
        assert abs(scores["nll"] - stats.norm.entropy()) < 4.5 * np.sqrt(0.5 / 4000)       # z²/2 has variance 1/2

    def test_what_cannot_be_scored_is_named(self):
        with pytest.raises(ValueError, match=r"scale=0\.0 is not positive; pass the standard deviation"):
            regression_scores(np.arange(3.0), Normal(np.zeros(3), 1.0), 0.0)
        with pytest.raises(ValueError, match=r"y is 2 in all 3 test rows"):
            regression_scores(np.full(3, 2.0), Normal(np.zeros(3), 1.0), 1.0)


class TestDatasets:
    def test_classes_are_numbered_and_categories_kept(self, folder):
        dataset = read_dataset(folder / "sign.npz")
        assert (dataset.name, dataset.task, dataset.n_classes) == ("sign", "classification", 2)
        np.testing.assert_array_equal(dataset.y, (dataset.X[:, 0] > 0).astype(int))
        assert list(dataset.categorical) == [2]

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"X": np.ones((3, 1)), "task": "regression"}, r"set\.npz' has no array 'y'; save it with np\.savez"),
            ({"X": np.ones((3, 1)), "y": np.ones(3), "task": "ranking"}, r"task='ranking'; use 'classification' or"),
            ({"X": np.ones((3, 1)), "y": np.ones(4), "task": "regression"}, r"X of shape \(3, 1\) and y of shape \(4,\)"),
        ],
    )
    def test_broken_files_are_named(self, arrays, message, tmp_path):
        np.savez(tmp_path / "set.npz", **arrays)
        with pytest.raises(ValueError, match=message):
            read_dataset(tmp_path / "set.npz")

    def test_halves_are_disjoint_stratified_and_cut(self):
        y = load_iris().target
        dataset = Dataset("iris", "classification", np.arange(150.0)[:, None], y, np.empty(0, int))
        split = split_dataset(dataset, seed=3, max_train=30)
        assert split.X.shape == (30, 1)
        assert split.X_test.shape == (75, 1)
        assert not set(split.X[:, 0]) & set(split.X_test[:, 0])
        np.testing.assert_array_equal(np.bincount(split.y), [10, 10, 10])
        np.testing.assert_array_equal(np.bincount(split.y_test), [25, 25, 25])
        np.testing.assert_array_equal(split.y, y[split.X[:, 0].astype(int)])
        again, other = split_dataset(dataset, 3, 30), split_dataset(dataset, 4, 30)
        np.testing.assert_array_equal(again.X, split.X)
        assert not np.array_equal(other.X, split.X)

    def test_regression_is_split_at_random(self):
        split = split_dataset(bundled_datasets("regression")[0], seed=0)
        assert split.X.shape == split.X_test.shape == (221, 10)
        assert set(split.y) <= set(load_diabetes().target)

    def test_what_cannot_be_split_is_named(self):
        X, y = np.zeros((6, 1)), np.array([0, 0, 0, 1, 1, 2])
        with pytest.raises(ValueError, match=r"dataset 'rare' cannot be split with max_train=1000: .*only 1 member"):
            split_dataset(Dataset("rare", "classification", X, y, np.empty(0, int)), 0)
        with pytest.raises(ValueError, match=r"dataset 'flat' has the same y in all 3 training rows"):
            split_dataset(Dataset("flat", "regression", X, np.ones(6), np.empty(0, int)), 0)


class TestFitAndScore:
    def test_points_get_a_normal_whose_spread_comes_from_held_out_rows(self):
        """The mean of the others predicts the held-out fifth; for 800 rows of N(0, 1) its error is 1, up to 1/√320."""
        y = np.random.default_rng(0).normal(size=1600)
        split = split_dataset(Dataset("noise", "regression", np.zeros((1600, 1)), y, np.empty(0, int)), 0)
        scores = fit_and_score(DummyRegressor(), split)
        assert scores["rmse"] == pytest.approx(1, abs=0.01)
        assert abs(scores["nll"] - stats.norm.entropy()) < 0.1
        assert abs(scores["coverage"] - 0.9) < 0.06

    def test_a_class_without_training_rows_has_probability_zero(self, folder):
        split = split_dataset(read_dataset(folder / "sign.npz"), 0)
        rare = split.__class__(split.task, split.X, split.y, split.X_test, np.where(np.arange(20) == 0, 2, split.y_test),
                               split.categorical)
        assert fit_and_score(baseline_models("classification", [2])["forest"], rare)["log_loss"] > 1


class TestEvaluate:
    def test_classifier_on_a_folder(self, classifier, folder):
        result = evaluate(classifier, folder, seeds=[0, 1], progress=False)
        assert result.rows.keys() == {f"sign/{seed}/{model}" for seed in (0, 1) for model in ("pfn", "logistic", "forest")}
        assert result.rows["sign/0/forest"]["auc"] > 0.9
        assert result.left_out == {"slope": "its task is regression"}
        text = str(result)
        assert text.startswith("1 dataset\n\n| model | AUC | log loss | accuracy | ECE | rank AUC |")
        mean = np.mean([result.rows[f"sign/{seed}/logistic"]["log_loss"] for seed in (0, 1)])
        assert f"| logistic regression | {np.mean([result.rows[f'sign/{s}/logistic']['auc'] for s in (0, 1)]):.4f} " in text
        assert f" {mean:.4f} |" in text
        assert text.endswith("left out: slope, its task is regression")

    def test_regressor_on_a_folder(self, regressor, folder, tmp_path):
        path = checkpoint(regressor, tmp_path / "own.safetensors")
        result = evaluate(path, folder, max_train=15, progress=False)
        assert result.rows.keys() == {f"slope/0/{model}" for model in ("pfn", "ridge", "forest")}
        assert set(result.rows["slope/0/pfn"]) == {"rmse", "nll", "pinball", "coverage"}
        assert result.rows["slope/0/ridge"]["rmse"] < 0.5
        assert "| model | RMSE/std | NLL | pinball | coverage 90 % | rank RMSE/std |" in str(result)
        assert result == evaluate(regressor, folder, max_train=15, progress=False)

    def test_bundled_datasets_without_baselines(self, classifier):
        result = evaluate(classifier, max_train=10, baselines=False, progress=False)
        assert result.rows.keys() == {f"{name}/0/pfn" for name in ("iris", "wine", "breast_cancer")}
        assert result.left_out == {"digits": "it has 10 classes, the network at most 3"}
        assert "| PFN |" in str(result)

    def test_wins_and_ranks_are_counted_in_the_direction_of_the_metric(self):
        good, bad = {"rmse": 0.1, "nll": -1.0, "pinball": 0.1, "coverage": 0.9}, \
                    {"rmse": 0.2, "nll": 0.5, "pinball": 0.2, "coverage": 1.0}
        rows = {"a/0/pfn": good, "a/0/ridge": bad, "b/0/pfn": bad, "b/0/ridge": good, "c/0/pfn": good, "c/0/ridge": bad,
                "d/0/ridge": good}
        lines = summary(rows, "regression", ["pfn", "ridge"]).splitlines()
        assert lines[0] == "3 datasets"
        assert lines[4] == "| PFN | 0.1333 | -0.5000 | 0.1333 | 0.9333 | 1.33 | 1.33 | 1.33 | – |"
        assert lines[5] == "| ridge | 0.1667 | 0.0000 | 0.1667 | 0.9667 | 1.67 | 1.67 | 1.67 | 2 / 2 / 2 |"
        assert json.loads(Evaluation("regression", rows, {}).to_json())["rows"] == rows

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"seeds": []}, r"seeds=\[\] is empty"),
            ({"seeds": [0, -1]}, r"seeds=\[0, -1\] is empty or has a negative number; give one or more from 0 up"),
            ({"max_train": 1}, r"max_train=1 is too few rows"),
            ({"max_train": 2}, r"dataset 'iris' cannot be split with max_train=2: .*number of classes = 3"),
        ],
    )
    def test_wrong_arguments_are_named(self, arguments, message, classifier):
        with pytest.raises(ValueError, match=message):
            evaluate(classifier, **arguments)

    def test_a_folder_without_a_fitting_set_says_why(self, regressor, folder):
        (folder / "slope.npz").unlink()
        with pytest.raises(ValueError, match=r"no dataset for this regression network \(sign: its task is classification\)"):
            evaluate(regressor, folder)


class TestCommand:
    def test_table_and_json(self, classifier, folder, tmp_path, capsys):
        path = checkpoint(classifier, tmp_path / "own.safetensors")
        assert main(["evaluate", path, "--data", str(folder), "--max-train", "10"]) == 0
        assert "| random forest |" in capsys.readouterr().out
        assert main(["evaluate", path, "--data", str(folder), "--seeds", "0", "1", "--no-baselines", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["task"] == "classification"
        assert found["rows"].keys() == {"sign/0/pfn", "sign/1/pfn"}

    def test_record_writes_the_means_into_the_card_and_info_prints_them(self, classifier, folder, tmp_path, capsys):
        path = checkpoint(classifier, tmp_path / "own.safetensors")
        before = load_pretrained(path)
        assert main(["evaluate", path, "--data", str(folder), "--max-train", "10", "--record", "signs", "--json"]) == 0
        rows = json.loads(capsys.readouterr().out)["rows"]
        after = load_pretrained(path)
        assert after.card.scores["signs"]["log_loss"] == pytest.approx(rows["sign/0/pfn"]["log_loss"], abs=1e-4)
        assert after.card.scores["signs"] | {"datasets": 1, "splits": 1, "max_train": 10} == after.card.scores["signs"]
        assert after.card.training == before.card.training
        assert all(torch.equal(tensor, after.state_dict()[name]) for name, tensor in before.state_dict().items())
        assert main(["info", path]) == 0
        line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("signs: "))
        assert f" auc {after.card.scores['signs']['auc']}, " in line

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["nothing.safetensors"], "pfn: no checkpoint at 'nothing.safetensors'"),
            (["classifier", "--data", "nowhere"], "pfn: no .npz files in data='nowhere'; give a folder of datasets"),
            (["classifier", "--seeds", "-1"], "pfn: seeds=[-1] is empty or has a negative number"),
            (["classifier", "--max-train", "0"], "pfn: max_train=0 is too few rows"),
        ],
    )
    def test_errors_are_one_line_and_exit_code_1(self, arguments, message, capsys):
        assert main(["evaluate", *arguments]) == 1
        assert capsys.readouterr().err.startswith(message)

    def test_help_knows_it(self, capsys):
        with pytest.raises(SystemExit, match="0"):
            main(["--help"])
        assert "compare a checkpoint with baselines on real datasets" in capsys.readouterr().out

    def test_other_commands_do_not_import_the_estimators(self):
        code = "import sys, pfn.cli; pfn.cli.main(['info', 'classifier']); assert 'estimators' not in sys.modules"
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("name", ["gp", "learning-curve"])
def test_networks_in_the_units_of_their_prior_are_refused(name):
    with pytest.raises(ValueError, match=f"model='{name}' reads values in the units of its prior"):
        evaluate(name)
