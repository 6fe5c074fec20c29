import json
import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import safe_open, save_file
from sklearn.datasets import load_diabetes, load_iris

from estimators import PFNClassifier, PFNRegressor
from pfn import PFNConfig, PretrainConfig, TaskSizes, pretrain, save_checkpoint
from pfn.checkpoint import CheckpointError
from priors import GPPrior


@pytest.fixture(scope="module")
def fitted():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"size": rng.normal(size=60), "colour": rng.choice(["red", "blue", None], 60)})
    frame.loc[::7, "size"] = np.nan
    return PFNClassifier(n_estimators=2, random_state=0).fit(frame, np.where(frame["size"] > 0, "yes", "no")), frame


@pytest.fixture(scope="module")
def network():
    small = PFNConfig(task="regression", n_outputs=16, embed_dim=16, n_heads=2, n_layers=1, hidden_dim=32)
    sizes = TaskSizes(rows=(16, 32), features=(1, 2), cells=256)
    return pretrain(PretrainConfig(GPPrior(), small, sizes, n_steps=3, decay_steps=0), progress=False)


def test_pickles_hold_the_table_and_not_the_weights():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(2000, 6))
    clf = PFNClassifier(n_estimators=2, context="full", temperature=1.0).fit(X, X[:, 0] > 0)
    clf.embed(X[:5])
    assert len(pickle.dumps(clf)) < X.nbytes + 2**20


def test_a_pickle_predicts_the_same_in_another_process(fitted, tmp_path):
    clf, frame = fitted
    (tmp_path / "clf.pkl").write_bytes(pickle.dumps(clf))
    frame.to_pickle(tmp_path / "frame.pkl")
    program = ("import pickle, sys, numpy as np; clf, frame = (pickle.load(open(p, 'rb')) for p in sys.argv[1:3]);"
               "np.save(sys.argv[3], clf.predict_proba(frame))")
    files = [str(tmp_path / name) for name in ("clf.pkl", "frame.pkl", "p.npy")]
    subprocess.run([sys.executable, "-c", program, *files], check=True)
    np.testing.assert_allclose(np.load(tmp_path / "p.npy"), clf.predict_proba(frame), atol=1e-6)


class TestSave:
    def test_classifier_of_a_frame(self, fitted, tmp_path):
        clf, frame = fitted
        clf.save(tmp_path / "clf.safetensors")
        other = PFNClassifier.load(tmp_path / "clf.safetensors")
        np.testing.assert_array_equal(other.predict_proba(frame), clf.predict_proba(frame))
        assert other.classes_.tolist() == ["no", "yes"]
        assert other.feature_names_in_.tolist() == ["size", "colour"]
        assert other.get_params() == clf.get_params()
        assert (tmp_path / "clf.safetensors").stat().st_size < 40_000

    @pytest.mark.parametrize("labels", [np.array([3, 5, 9]), np.array(["a", "b", "ü"]), np.array([True, False, True]),
                                        np.array(["a", 1, 2.5], dtype=object).astype(str).astype(object)])
    def test_labels_of_every_kind(self, labels, tmp_path):
        X, y = load_iris(return_X_y=True)
        clf = PFNClassifier(n_estimators=1, random_state=0).fit(X, labels[y])
        clf.save(tmp_path / "c")
        loaded = PFNClassifier.load(tmp_path / "c")
        assert loaded.classes_.dtype == clf.classes_.dtype
        np.testing.assert_array_equal(loaded.predict(X), clf.predict(X))

    def test_regressor_with_several_outputs(self, tmp_path):
        X, y = load_diabetes(return_X_y=True)
        reg = PFNRegressor(n_estimators=3, random_state=np.random.RandomState(0)).fit(X[:60], np.stack([y, -y], 1)[:60])
        reg.save(tmp_path / "reg.safetensors")
        loaded = PFNRegressor.load(tmp_path / "reg.safetensors")
        np.testing.assert_array_equal(loaded.predict(X[60:70]), reg.predict(X[60:70]))
        assert loaded.random_state is None

    def test_a_network_of_ones_own_is_in_the_file(self, network, tmp_path):
        X = np.linspace(0, 1, 20)[:, None]
        reg = PFNRegressor(model=network, random_state=0).fit(X, X[:, 0] ** 2)
        reg.save(tmp_path / "reg.safetensors")
        loaded = PFNRegressor.load(tmp_path / "reg.safetensors")
        np.testing.assert_array_equal(loaded.predict(X), reg.predict(X))
        assert loaded.model.card.prior == network.card.prior

    def test_a_network_from_a_file_that_is_gone(self, network, tmp_path):
        X = np.linspace(0, 1, 20)[:, None]
        save_checkpoint(network, tmp_path / "network.safetensors", network.card)
        reg = PFNRegressor(model=tmp_path / "network.safetensors", random_state=0).fit(X, X[:, 0] ** 2)
        reg.save(tmp_path / "reg.safetensors")
        pickled = pickle.dumps(reg)
        (tmp_path / "network.safetensors").unlink()
        for loaded in (PFNRegressor.load(tmp_path / "reg.safetensors"), pickle.loads(pickled)):
            np.testing.assert_array_equal(loaded.predict(X), reg.predict(X))

    def test_what_is_not_fitted_cannot_be_saved(self, tmp_path):
        with pytest.raises(ValueError, match="not fitted"):
            PFNClassifier().save(tmp_path / "c")
        assert not (tmp_path / "c").exists()


class TestBadFiles:
    def change(self, source, target, edit):
        with safe_open(source, framework="pt") as archive:
            tensors, metadata = {key: archive.get_tensor(key) for key in archive.keys()}, archive.metadata()  # noqa: SIM118
        del metadata["pfnkit-crc32"]                                # who forges a file leaves it out
        save_file(tensors, target, metadata=edit(metadata))

    def test_another_class(self, fitted, tmp_path):
        fitted[0].save(tmp_path / "c")
        with pytest.raises(CheckpointError, match=r"holds a PFNClassifier; load it with PFNClassifier.load"):
            PFNRegressor.load(tmp_path / "c")

    def test_a_checkpoint_a_pickle_a_stump_and_nothing(self, fitted, network, tmp_path):
        save_checkpoint(network, tmp_path / "network", network.card)
        (tmp_path / "pickle").write_bytes(pickle.dumps(fitted[0]))
        fitted[0].save(tmp_path / "c")
        (tmp_path / "stump").write_bytes((tmp_path / "c").read_bytes()[:500])
        for name, message in (("network", "holds no estimator"), ("pickle", "is a pickle"), ("stump", "truncated")):
            with pytest.raises(CheckpointError, match=message):
                PFNClassifier.load(tmp_path / name)
        with pytest.raises(FileNotFoundError, match="no file at"):
            PFNClassifier.load(tmp_path / "nothing")

    @pytest.mark.parametrize(("old", "new"), [('"PFNClassifier"', '"subprocess.Popen"'), ('"Table"', '"os.system"'),
                                              ('"format": 4', '"format": 1'), ('"array.0"', '"array.999"')])
    def test_headers_that_ask_for_other_things(self, fitted, tmp_path, old, new):
        fitted[0].save(tmp_path / "c")
        self.change(tmp_path / "c", tmp_path / "d", lambda metadata: {k: v.replace(old, new) for k, v in metadata.items()})
        with pytest.raises(CheckpointError):
            PFNClassifier.load(tmp_path / "d")

    def test_the_header_is_json(self, fitted, tmp_path):
        fitted[0].save(tmp_path / "c")
        with safe_open(tmp_path / "c", framework="pt") as archive:
            assert json.loads(archive.metadata()["pfnkit-estimator"])["estimator"]["class"] == "PFNClassifier"
