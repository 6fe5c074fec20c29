"""Files, pickles and copies of fitted estimators."""

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import safe_open, save_file
from tabr_cases import BOTH, FAST, N, said, target

from estimators import TabRClassifier, TabRRegressor
from pfn.checkpoint import CheckpointError


class TestPersistence:
    @BOTH
    def test_files_pickles_and_copies_say_the_same(self, make, frame, fitted, tmp_path):
        estimator = copy.deepcopy(fitted[make]).add_candidates(frame[:20], target(make, frame)[20:40])
        expected, neighbours = said(estimator, frame), estimator.kneighbors(frame)
        estimator.save(tmp_path / "e.safetensors")
        loaded = make.load(tmp_path / "e.safetensors")
        for other in (loaded, pickle.loads(pickle.dumps(estimator)), copy.deepcopy(estimator)):
            np.testing.assert_array_equal(said(other, frame), expected)
            for one, part in zip(other.kneighbors(frame), neighbours, strict=True):
                np.testing.assert_array_equal(one, part)
            assert other.get_params() == estimator.get_params()
            assert other.n_epochs_ == estimator.n_epochs_
            other.add_candidates(frame[:5], target(make, frame)[:5])
            assert other.kneighbors(frame[:5])[1].max() >= N
        np.testing.assert_array_equal(said(estimator, frame), expected)

    @BOTH
    def test_tables_of_other_kinds(self, make, tmp_path):
        for X in (np.arange(20.0)[:, None], np.ones((20, 2)), pd.DataFrame({"text": list("abcd") * 5})):
            estimator = make(**FAST).fit(X, np.arange(20) % 3)
            estimator.save(tmp_path / "e")
            np.testing.assert_array_equal(said(make.load(tmp_path / "e"), X), said(estimator, X))

    @BOTH
    def test_what_is_kept_is_not_pickled_twice(self, make, frame, fitted):
        estimator = copy.deepcopy(fitted[make])
        size = len(pickle.dumps(estimator))
        said(estimator, frame)
        assert len(pickle.dumps(estimator)) == size
        assert not {key for state in estimator.__getstate__()["_networks"] for key in state} - {"config", "weights"}

    def test_what_is_not_fitted_is_not_saved(self, tmp_path):
        with pytest.raises(ValueError, match="not fitted"):
            TabRClassifier().save(tmp_path / "c")

    def test_bad_files(self, fitted, tmp_path):
        clf = fitted[TabRClassifier]
        clf.save(tmp_path / "c")
        (tmp_path / "pickle").write_bytes(pickle.dumps(clf))
        (tmp_path / "stump").write_bytes((tmp_path / "c").read_bytes()[:500])
        (tmp_path / "empty").write_bytes(b"")
        (tmp_path / "garbage").write_bytes(np.random.default_rng(0).bytes(5000))
        for name, message in (("pickle", "is a pickle"), ("stump", "truncated"), ("empty", "empty"), ("garbage", "garbage")):
            with pytest.raises(CheckpointError, match=message):
                TabRClassifier.load(tmp_path / name)
        with pytest.raises(CheckpointError, match=r"holds a TabRClassifier; load it with TabRClassifier\.load"):
            TabRRegressor.load(tmp_path / "c")
        with pytest.raises(FileNotFoundError, match="no file at"):
            TabRClassifier.load(tmp_path / "nothing")

    @pytest.mark.parametrize(("old", "new"), [
        ('"TabRClassifier"', '"subprocess.Popen"'), ('"TabRTable"', '"os.system"'), ('"Rows"', '"Popen"'),
        ('"format": 4', '"format": 99'), ('"array.0"', '"array.999"'), ('"width", 32', '"width", 64'),
        ('"width", 32', '"width", "a"'), ('"width", 32', '"breadth", 32'), ('"n_labels", 3', '"n_labels", -1'),
        ('"config"', '"weights"'), ('"input.weight"', '"output.weight"'),
    ])
    def test_headers_that_ask_for_other_things(self, fitted, tmp_path, old, new):
        fitted[TabRClassifier].save(tmp_path / "c")
        with safe_open(tmp_path / "c", framework="pt") as archive:
            tensors = {key: archive.get_tensor(key) for key in archive.keys()}  # noqa: SIM118
            metadata = archive.metadata()
        assert any(old in value for value in metadata.values())
        changed = {key: value.replace(old, new) for key, value in metadata.items()}
        save_file(tensors, tmp_path / "d", metadata=changed)
        with pytest.raises(CheckpointError):
            TabRClassifier.load(tmp_path / "d")
