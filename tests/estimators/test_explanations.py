import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.neighbors import KNeighborsClassifier

from estimators import PFNClassifier, PFNRegressor


@pytest.fixture(scope="module")
def cancer():
    X, y = load_breast_cancer(return_X_y=True)
    return X[:, :8], y


def derivative(fit, n, row, step=0.05):
    """Central difference of a prediction with respect to the logarithm of a row's weight."""
    found = []
    for factor in (1 + step, 1 - step):
        weight = np.ones(n)
        weight[row] = factor
        found.append(fit(weight))
    return (found[0] - found[1]) / np.log((1 + step) / (1 - step))


class TestInfluence:
    def test_is_the_derivative_of_the_log_probability(self, cancer):
        X, y = cancer
        clf = PFNClassifier(n_estimators=1, temperature=1.0, precision="float32", random_state=0)
        influence = clf.fit(X[:40], y[:40]).context_influence(X[100:103])
        assert influence.shape == (3, 40)
        for row in np.abs(influence).max(0).argsort()[-2:]:
            numeric = derivative(lambda w: np.log(clf.fit(X[:40], y[:40], w).predict_proba(X[100:103]).max(1)), 40, row)
            np.testing.assert_allclose(influence[:, row], numeric, atol=0.02 * np.abs(influence).max(), rtol=0.02)

    def test_is_the_derivative_in_tables_with_gaps_too(self, cancer):
        X, y = cancer[0].copy(), cancer[1]
        X[np.random.default_rng(0).uniform(size=X.shape) < 0.2] = np.nan
        X[~np.isnan(X[:, 7]), 7] = 1.0                               # constant but for its gaps
        clf = PFNClassifier(n_estimators=1, temperature=1.0, precision="float32", random_state=0)
        influence = clf.fit(X[:40], y[:40]).context_influence(X[100:103])
        for row in np.abs(influence).max(0).argsort()[-2:]:
            numeric = derivative(lambda w: np.log(clf.fit(X[:40], y[:40], w).predict_proba(X[100:103]).max(1)), 40, row)
            np.testing.assert_allclose(influence[:, row], numeric, atol=0.02 * np.abs(influence).max(), rtol=0.02)

    def test_is_the_derivative_of_the_mean(self):
        X, y = load_diabetes(return_X_y=True)
        reg = PFNRegressor(n_estimators=1, precision="float32", random_state=0)
        influence = reg.fit(X[:40], y[:40]).context_influence(X[100:102])
        for row in np.abs(influence).max(0).argsort()[-2:]:
            numeric = derivative(lambda w: reg.fit(X[:40], y[:40], w).predict(X[100:102]), 40, row)
            np.testing.assert_allclose(influence[:, row], numeric, atol=0.02 * np.abs(influence).max(), rtol=0.02)

    def test_copies_share_and_absent_rows_have_none(self, cancer):
        X, y = cancer
        rows = np.r_[0:20, 3, 3]
        weight = np.ones(22)
        weight[5] = 0
        clf = PFNClassifier(n_estimators=1, temperature=1.0, random_state=0).fit(X[rows], y[rows], weight)
        influence = clf.context_influence(X[100:101])[0]
        assert influence[3] == influence[20] == influence[21] != 0
        assert influence[5] == 0

    def test_rows_of_the_predicted_class_nearby_speak_for_it(self):
        X = np.r_[np.linspace(-2, -1, 10), np.linspace(1, 2, 10)][:, None]
        y = np.repeat([0, 1], 10)
        influence = PFNClassifier(temperature=1.0, random_state=0).fit(X, y).context_influence([[1.5]])[0]
        assert influence[y == 1].sum() > influence[y == 0].sum()


class TestEmbedding:
    def test_neighbours_in_the_embedding_have_the_same_class(self, cancer):
        X, y = cancer
        clf = PFNClassifier(n_estimators=2, random_state=0).fit(X[:100], y[:100])
        embedded = clf.embed(X)
        assert embedded.shape == (len(X), 2 * clf.model_.config.embed_dim)
        scores = [KNeighborsClassifier().fit(table[:100], y[:100]).score(table[100:], y[100:]) for table in (embedded, X)]
        assert scores[0] > scores[1]

    def test_a_row_alone_has_the_same_embedding(self, cancer):
        X, y = cancer
        clf = PFNClassifier(n_estimators=2, random_state=0).fit(X[:50], y[:50])
        np.testing.assert_allclose(clf.embed(X[60:61])[0], clf.embed(X[50:70])[10], atol=1e-5)


class TestGradient:
    def test_equals_predict_proba_and_finite_differences(self, cancer):
        X, y = cancer
        clf = PFNClassifier(n_estimators=2, precision="float32", random_state=0).fit(X[:60], y[:60])
        x = torch.tensor(X[100:103], requires_grad=True)
        p = clf.torch_predict_proba(x)
        np.testing.assert_allclose(p.detach().numpy(), clf.predict_proba(X[100:103]), atol=1e-6)
        p[:, 1].sum().backward()
        scale = X[:60].std(0)
        for column in (0, 3):
            step = np.zeros(8)
            step[column] = 1e-2 * scale[column]
            numeric = (clf.predict_proba(X[100:103] + step) - clf.predict_proba(X[100:103] - step))[:, 1] / 2e-2
            np.testing.assert_allclose(x.grad[:, column].numpy() * scale[column], numeric, atol=2e-3)

    @pytest.mark.parametrize(("X", "error", "message"), [
        (np.zeros((2, 8)), TypeError, "X is ndarray; pass a floating-point torch.Tensor"),
        (torch.zeros(2, 8, dtype=torch.int64), TypeError, "pass a floating-point torch.Tensor"),
        (torch.zeros(2, 3), ValueError, r"X has shape \(2, 3\), but fit saw 8 features"),
        (torch.zeros(0, 8), ValueError, r"X has shape \(0, 8\), no rows")])
    def test_bad_tensors(self, cancer, X, error, message):
        clf = PFNClassifier(n_estimators=1).fit(cancer[0][:20], cancer[1][:20])
        with pytest.raises(error, match=message):
            clf.torch_predict_proba(X)

    def test_categories_have_no_gradient(self):
        clf = PFNClassifier(n_estimators=1).fit([["a", 1.0], ["b", 2.0]], [0, 1])
        with pytest.raises(TypeError, match=r"columns \[0\] of the fitted table are no numbers"):
            clf.torch_predict_proba(torch.zeros(1, 2))
