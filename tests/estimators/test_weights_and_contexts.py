"""sample_weight, kept contexts, many tables at once, local contexts and the memory limit: what `fit` does with rows."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_wine
from sklearn.model_selection import KFold

from estimators import PFNClassifier, PFNRegressor
from estimators.context import Table
from estimators.inference import Pass, run_passes
from estimators.local import divide
from pfn import PFN, PFNConfig, load_pretrained


@pytest.fixture(scope="module")
def wine():
    X, y = load_wine(return_X_y=True)
    return X[::2], y[::2], X[1::2]


@pytest.fixture(scope="module")
def diabetes():
    X, y = load_diabetes(return_X_y=True)
    return X[:80], y[:80], X[200:260]


class TestSampleWeight:
    """An integer weight is that many copies, weight 0 is absence."""

    weight = np.random.default_rng(0).integers(0, 4, size=200)

    @pytest.mark.parametrize("precision", ["float32", "bfloat16"])
    def test_classifier(self, wine, precision):
        X, y, X_test = wine
        weight = self.weight[: len(X)]
        clf = PFNClassifier(n_estimators=2, precision=precision, random_state=0)
        weighted = clone(clf).fit(X, y, weight)
        copied = clone(clf).fit(np.repeat(X, weight, 0), np.repeat(y, weight))
        assert weighted.temperature_ == pytest.approx(copied.temperature_, rel=1e-6)
        np.testing.assert_allclose(weighted.predict_proba(X_test), copied.predict_proba(X_test), atol=1e-6)
        assert np.abs(weighted.predict_proba(X_test) - clf.fit(X, y).predict_proba(X_test)).max() > 1e-3

    def test_regressor(self, diabetes):
        X, y, X_test = diabetes
        weight = self.weight[: len(X)]
        weighted = PFNRegressor(random_state=0).fit(X, y, weight).predict_distribution(X_test)
        copied = PFNRegressor(random_state=0).fit(np.repeat(X, weight, 0), np.repeat(y, weight)).predict_distribution(X_test)
        np.testing.assert_allclose(weighted.mean, copied.mean, atol=1e-4 * y.std())
        np.testing.assert_allclose(weighted.std, copied.std, rtol=1e-4)

    def test_a_heavier_class_becomes_more_probable(self, wine):
        X, y, X_test = wine
        p = [PFNClassifier(n_estimators=1, temperature=1.0, random_state=0).fit(X, y, w).predict_proba(X_test)[:, 0].mean()
             for w in (None, np.where(y == 0, 5.0, 1.0), np.where(y == 0, 0.2, 1.0))]
        assert p[2] < p[0] < p[1]

    @pytest.mark.parametrize(("weight", "message"), [
        (-np.ones(89), "[Nn]egative"), (np.zeros(89), "non-zero|sample_weight is zero"), (np.ones(3), "sample_weight"),
        (np.full(89, np.nan), "NaN")])
    def test_bad_weights(self, wine, weight, message):
        with pytest.raises(ValueError, match=message):
            PFNClassifier(n_estimators=1).fit(wine[0], wine[1], weight)


def test_a_network_reads_weights_as_copies_in_a_batch_with_padding():
    torch.manual_seed(0)
    for task, targets in (("classification", torch.randint(3, (1, 12))), ("regression", torch.randn(1, 12))):
        model = PFN(PFNConfig(task=task, n_outputs=4, embed_dim=32, n_heads=2, cell_ranks=True))
        torch.nn.init.normal_(model.cells.embed_ranks.weight)
        x, query = torch.randn(1, 12, 4), torch.randn(1, 3, 4)
        x[0, 2, 1] = torch.nan
        weight = torch.tensor([[1, 2, 0, 1, 3, 1, 1, 0, 1, 1, 1, 2.0]])
        copies = weight[0].long()
        with torch.no_grad():
            weighted = model.decode(model.encode_context(x, targets, weight), query)
            copied = model.decode(
                model.encode_context(x.repeat_interleave(copies, 1), targets.repeat_interleave(copies, 1)), query
            )
        torch.testing.assert_close(weighted, copied, atol=1e-5, rtol=0)


class TestKeptContext:
    def test_the_second_call_equals_the_first(self, wine):
        X, y, X_test = wine
        clf = PFNClassifier(n_estimators=2, random_state=0).fit(X, y)
        first = clf.predict_proba(X_test)
        assert len(clf._contexts) == 2
        np.testing.assert_array_equal(clf.predict_proba(X_test), first)

    def test_nothing_is_kept_beyond_the_memory(self, wine):
        X, y, X_test = wine
        clf = PFNClassifier(n_estimators=2, random_state=0, memory_limit=0.01).fit(X, y)
        expected = PFNClassifier(n_estimators=2, random_state=0).fit(X, y).predict_proba(X_test)
        np.testing.assert_array_equal(clf.predict_proba(X_test), expected)
        assert len(clf._contexts) == 0

    def test_a_new_fit_forgets_the_old_table(self, wine):
        X, y, X_test = wine
        clf = PFNClassifier(n_estimators=1, random_state=0).fit(X, y)
        before = clf.predict_proba(X_test)
        after = clf.fit(X, (y + 1) % 3).predict_proba(X_test)
        np.testing.assert_allclose(after[:, [1, 2, 0]], before, atol=1e-6)


class TestManyTables:
    def test_answers_are_those_of_single_fits(self, wine):
        X, y, X_test = wine
        tables = [(X[train], y[train], X[test]) for train, test in KFold(5, shuffle=True, random_state=0).split(X)]
        tables.append((X[:30, :4], y[:30], X_test[:7, :4]))
        clf = PFNClassifier(n_estimators=2, random_state=0)
        together = clf.predict_proba_many(iter(tables))
        assert not hasattr(clf, "classes_")
        for (X_one, y_one, X_query), p in zip(tables, together, strict=True):
            np.testing.assert_allclose(p, clone(clf).fit(X_one, y_one).predict_proba(X_query), atol=0.02)

    def test_in_float32_to_rounding(self, diabetes):
        X, y, X_test = diabetes
        reg = PFNRegressor(n_estimators=3, precision="float32", random_state=0)
        tables = [(X[:n], y[:n], X_test[:5]) for n in (20, 22, 23, 60)]
        for (X_one, y_one, X_query), found in zip(tables, reg.predict_many(tables), strict=True):
            expected = clone(reg).fit(X_one, y_one).predict_distribution(X_query)
            np.testing.assert_allclose(found.mean, expected.mean, atol=1e-3 * y.std())
            np.testing.assert_allclose(found.std, expected.std, rtol=1e-3)

    def test_no_tables(self):
        assert PFNClassifier().predict_proba_many([]) == []
        assert PFNRegressor().predict_many([]) == []

    def test_batches_keep_the_order_of_the_passes(self):
        model = load_pretrained("regressor")
        generator = torch.Generator().manual_seed(0)
        passes = [Pass(torch.randn(n, f, generator=generator), torch.randn(n, generator=generator), None,
                       torch.randn(3, f, generator=generator)) for n, f in ((9, 2), (30, 3), (10, 2), (11, 3), (12, 2))]
        for one, together in zip(passes, run_passes(model, passes), strict=True):
            torch.testing.assert_close(together, run_passes(model, [one])[0], atol=1e-4, rtol=1e-4)


class TestLocalContexts:
    @pytest.fixture
    def table(self):
        rng = np.random.default_rng(0)
        x = rng.uniform(-1, 1, size=(3000, 2)).astype(np.float32)
        return Table.of(x, (rng.random(3000) < 0.02).astype(int))

    def test_cells_read_their_neighbourhood_and_a_sample_of_the_rest(self, table):
        centres, contexts = divide(table, table.y, 200, np.random.RandomState(0))
        assert len(centres) == len(contexts) == 30
        position = table.ranks(torch.from_numpy(table.x)).numpy()
        for centre, rows in zip(centres, contexts, strict=True):
            assert len(set(rows)) == 200
            assert set(table.y[rows]) == {0, 1}
            distance = np.linalg.norm(position - centre, axis=1)
            assert np.isin(np.argsort(distance)[:175], rows).all()

    def test_a_column_of_two_values_has_two_cells(self):
        x = np.repeat([0.0, 1.0], 300)[:, None].astype(np.float32)
        centres, contexts = divide(Table.of(x, np.arange(600.0)), np.zeros(600, dtype=int), 50, np.random.RandomState(0))
        assert len(centres) == len(contexts) == 2

    def test_predictions_do_not_depend_on_the_other_queries(self):
        rng = np.random.default_rng(0)
        X = rng.normal(size=(700, 3))
        y = np.sin(3 * X[:, 0]) > 0
        clf = PFNClassifier(n_estimators=1, context="local", max_context=100, random_state=0).fit(X, y)
        p = clf.predict_proba(X[:40])
        np.testing.assert_allclose(np.vstack([clf.predict_proba(X[i : i + 1]) for i in range(0, 40, 5)]), p[::5], atol=1e-5)
        assert len(clf._views[0].cells) == 14

    def test_local_contexts_see_what_a_sample_is_too_coarse_for(self):
        """A checkerboard of 12 × 12 fields, 3000 rows: 150 rows of all say nothing, the 150 nearest say much."""
        rng = np.random.default_rng(0)
        X = rng.uniform(0, 6, size=(3300, 2))
        y = (np.floor(2 * X).sum(1) % 2).astype(int)
        scores = {}
        for context in ("subsample", "local"):
            clf = PFNClassifier(n_estimators=1, context=context, max_context=150, random_state=0)
            scores[context] = clf.fit(X[:3000], y[:3000]).score(X[3000:], y[3000:])
        assert scores["subsample"] < 0.65
        assert scores["local"] > scores["subsample"] + 0.1


def test_full_contexts_that_do_not_fit_are_cut_with_a_warning():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(3000, 3)), rng.integers(2, size=3000)
    with pytest.warns(UserWarning, match=r"a context of 3000 rows needs about 0.1 GiB, more than memory_limit=0.005 GiB"):
        clf = PFNClassifier(n_estimators=1, context="full", memory_limit=0.005, temperature=1.0, random_state=0).fit(X, y)
    assert 16 <= len(clf._views[0].cells[0].rows) < 1000
    whole = PFNClassifier(n_estimators=1, context="full", max_context=100, temperature=1.0, random_state=0).fit(X, y)
    assert len(whole._views[0].cells[0].rows) == 3000
