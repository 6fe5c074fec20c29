"""The sums over neighbours and the search for them, against plain versions of both."""

import pytest
import torch

from estimators import tabr_kernels, tabr_search
from estimators.tabr_kernels import dropped, keep_mask, kept_share, mixed_relu, squared_distances
from estimators.tabr_search import nearest


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class TestKeepMask:
    @pytest.mark.parametrize("dropout", [0.0, 1 / 256, 0.1, 0.3885, 0.5, 255 / 256])
    def test_share_that_is_kept(self, dropout):
        n = 2**20
        share, expected = keep_mask((n,), dropout, seeded()).double().mean().item(), kept_share(dropout)
        assert share == pytest.approx(expected, abs=5 * (expected * (1 - expected) / n) ** 0.5 + 1e-12)

    def test_every_byte_has_every_value(self, monkeypatch):
        """Thresholds 1 … 255 together see each byte's whole distribution, at each of the eight places of a word."""
        n = 2**15
        at_least = torch.stack([keep_mask((n, 8), level / 256, seeded()) for level in range(256)]).double().mean(1)
        counts = -n * torch.diff(at_least, dim=0, append=torch.zeros(1, 8))
        deviations = ((counts - n / 256) ** 2 / (n / 256)).sum(0)              # chi-squared, 255 degrees of freedom
        assert deviations.max() < 255 + 6 * (2 * 255) ** 0.5
        assert deviations.min() > 255 - 6 * (2 * 255) ** 0.5

    def test_neighbours_are_independent(self):
        mask = keep_mask((2**20,), 0.5, seeded()).double() - 0.5
        for lag in (1, 7, 8, 9, 64):
            assert abs((mask[lag:] * mask[:-lag]).mean()) < 5 * 0.25 / 2**10

    def test_generator_decides(self):
        assert torch.equal(keep_mask((3, 5, 7), 0.4, seeded(1)), keep_mask((3, 5, 7), 0.4, seeded(1)))
        assert not torch.equal(keep_mask((3, 5, 7), 0.4, seeded(1)), keep_mask((3, 5, 7), 0.4, seeded(2)))
        generator, before = seeded(1), torch.get_rng_state()
        assert not torch.equal(keep_mask((64,), 0.4, generator), keep_mask((64,), 0.4, generator))
        assert torch.equal(torch.get_rng_state(), before)

    @pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 3), (2, 0, 4)])
    def test_shapes(self, shape):
        assert keep_mask(shape, 0.0, seeded()).shape == shape
        assert keep_mask(shape, 0.0, seeded()).all()

    def test_something_is_kept_of_almost_nothing(self):
        assert kept_share(0.9999) == 1 / 256
        assert keep_mask((100_000,), 0.9999, seeded()).double().mean() == pytest.approx(1 / 256, rel=0.3)


class TestDropped:
    def test_what_is_kept_makes_up_for_the_rest(self):
        x = torch.rand(200, 300)
        y = dropped(x, 0.3885, seeded())
        kept = keep_mask((200, 300), 0.3885, seeded())
        torch.testing.assert_close(y, torch.where(kept, x / kept_share(0.3885), 0.0))

    def test_evaluation_and_no_dropout_return_the_same_object(self):
        x = torch.rand(3)
        assert dropped(x, 0.5, None) is x
        assert dropped(x, 0.0, seeded()) is x


def plain_distances(query, key, index):
    return (query.unsqueeze(1) - key[index]).square().sum(-1)


def plain_mix(query, key, index, weight):
    return (weight.unsqueeze(-1) * torch.relu(query.unsqueeze(1) - key[index])).sum(1)


@pytest.fixture
def pairs():
    """Queries (5, 3), keys (6, 3), neighbours (5, 4) of them, one of them twice, and weights, in float64."""
    query, key = (torch.randn(n, 3, dtype=torch.float64, generator=seeded(n)) for n in (5, 6))
    index = torch.randint(6, (5, 4), generator=seeded(1))
    index[0] = 2
    return query, key, index, torch.rand(5, 4, dtype=torch.float64, generator=seeded(2)) + 0.1


# Rows 0 and 3 have all weights, row 1 some, row 2 none, row 4 one that is not the first.
SPARSE = torch.tensor([[1, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 1, 0]], dtype=torch.float64)


def with_gradients(function, *tensors):
    inputs = [tensor.clone().requires_grad_() for tensor in tensors]
    output = function(*inputs)
    gradients = torch.autograd.grad(output, inputs, torch.arange(output.numel(), dtype=output.dtype).view_as(output).cos())
    return output.detach(), *gradients


class TestSums:
    def test_gradients_of_distances(self, pairs):
        query, key, index, _ = pairs
        assert torch.autograd.gradcheck(lambda q, k: squared_distances(q, k, index), (query.requires_grad_(),
                                                                                      key.requires_grad_()))

    @pytest.mark.parametrize("mask", [torch.ones(5, 4).double(), SPARSE], ids=["dense", "sparse"])
    @pytest.mark.parametrize("dropout", [0.0, 0.4])
    def test_gradients_of_mixtures(self, pairs, mask, dropout):
        query, key, index, weight = pairs
        inputs = [tensor.requires_grad_() for tensor in (query, key, weight)]
        assert torch.autograd.gradcheck(
            lambda q, k, w: mixed_relu(q, k, index, w * mask, dropout, seeded() if dropout else None), inputs
        )

    @pytest.mark.parametrize("block", [1, 4, 6, 8, 1000])
    @pytest.mark.parametrize("mask", [torch.ones(5, 4).double(), SPARSE, 0 * SPARSE], ids=["dense", "sparse", "none"])
    def test_blocks_of_any_size_give_the_plain_sums(self, pairs, monkeypatch, mask, block):
        query, key, index, weight = pairs
        monkeypatch.setitem(tabr_kernels._BLOCK, "cpu", block)
        ours = with_gradients(lambda q, k: squared_distances(q, k, index), query, key)
        plain = with_gradients(lambda q, k: plain_distances(q, k, index), query, key)
        torch.testing.assert_close(ours, plain)
        ours = with_gradients(lambda q, k, w: mixed_relu(q, k, index, w * mask, 0.0, None), query, key, weight)
        plain = with_gradients(lambda q, k, w: plain_mix(q, k, index, w * mask), query, key, weight)
        torch.testing.assert_close(ours, plain)

    def test_without_gradients_the_same(self, pairs):
        query, key, index, weight = pairs
        for mask in (1.0, SPARSE):
            with torch.no_grad():
                quick = mixed_relu(query, key, index, weight * mask, 0.0, None)
            torch.testing.assert_close(quick, plain_mix(query, key, index, weight * mask))

    @pytest.mark.parametrize("shape", [(0, 4), (5, 0), (0, 0)])
    def test_no_rows_and_no_neighbours(self, pairs, shape):
        query, key = pairs[0][: shape[0]], pairs[1]
        index, weight = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.float64)
        output, *gradients = with_gradients(lambda q, k, w: mixed_relu(q, k, index, w, 0.3, seeded()), query, key, weight)
        assert output.shape == query.shape
        assert not output.any()
        assert not any(gradient.any() for gradient in gradients)
        distances, *gradients = with_gradients(lambda q, k: squared_distances(q, k, index), query, key)
        assert distances.shape == shape
        assert not any(gradient.any() for gradient in gradients)

    @pytest.mark.parametrize("needs_gradient", [False, True])
    def test_dropout_keeps_the_mean(self, pairs, needs_gradient):
        query, key, index, weight = (tensor[:2] if i != 1 else tensor for i, tensor in enumerate(pairs))
        n = 20_000
        repeated = [tensor.repeat(n, 1) for tensor in (query, index, weight)]
        repeated[0].requires_grad_(needs_gradient)
        mixed = mixed_relu(repeated[0], key, repeated[1], repeated[2], 0.4, seeded()).detach().view(n, 2, -1)
        error = mixed.std(0) / n**0.5
        assert error.max() > 0
        assert ((mixed.mean(0) - plain_mix(query, key, index, weight)).abs() < 5 * error + 1e-12).all()


def brute_force(query, key, n_neighbors, allowed=None):
    """By float64 distances and a stable sort."""
    distance = torch.cdist(query.double(), key.double(), compute_mode="donot_use_mm_for_euclid_dist")
    if allowed is not None:
        pairs = allowed(torch.arange(len(query)), torch.arange(len(key)))
        distance = distance.masked_fill(~pairs, torch.inf)
    distance, index = distance.sort(dim=1, stable=True)
    return torch.where(distance.isinf(), -1, index)[:, :n_neighbors]


def on_a_grid(n, seed):
    """Points with many copies and equal distances; the mean of 2^k of them, and so all arithmetic, is exact."""
    return torch.randint(-3, 4, (n, 3), generator=seeded(seed)).float()


class TestNearest:
    @pytest.mark.parametrize(("candidates", "queries"), [(16_384, 128), (100, 128), (64, 7), (1, 1), (256, 50), (255, 10)])
    @pytest.mark.parametrize("n_neighbors", [1, 5, 96])
    def test_equals_brute_force(self, monkeypatch, candidates, queries, n_neighbors):
        monkeypatch.setattr(tabr_search, "_CANDIDATES", candidates)
        monkeypatch.setattr(tabr_search, "_QUERIES", queries)
        query, key = on_a_grid(50, 0), on_a_grid(256, 1)
        assert torch.equal(nearest(query, key, n_neighbors), brute_force(query, key, n_neighbors))

    @pytest.mark.parametrize("candidates", [16_384, 100, 8])
    def test_only_what_is_allowed_is_found(self, monkeypatch, candidates):
        monkeypatch.setattr(tabr_search, "_CANDIDATES", candidates)
        monkeypatch.setattr(tabr_search, "_QUERIES", 16)
        query, key = on_a_grid(50, 0), on_a_grid(256, 1)

        def allowed(queries, rows):
            assert queries.dtype == rows.dtype == torch.int64
            return rows < 5 * queries.unsqueeze(1)                  # none for query 0, all from query 52 on

        found = nearest(query, key, 20, allowed)
        assert torch.equal(found, brute_force(query, key, 20, allowed))
        assert (found[0] == -1).all()
        assert (found[1] >= 0).sum() == 5

    def test_distances_of_normal_points_agree(self):
        query, key = (torch.randn(n, 32, generator=seeded(n)) + 5.0 for n in (300, 1000))
        found, exact = nearest(query, key, 10), brute_force(query, key, 10)
        distance, best = (torch.linalg.vector_norm(query.double().unsqueeze(1) - key.double()[one], dim=-1)
                          for one in (found, exact))
        torch.testing.assert_close(distance, best, rtol=1e-5, atol=0)

    def test_copies_come_in_order_also_far_from_the_origin(self):
        key = torch.randn(4, 8, generator=seeded()).repeat(50, 1) + 1000.0
        found = nearest(key[:4], key, 50)
        assert torch.equal(found, torch.arange(4).unsqueeze(1) + 4 * torch.arange(50))

    @pytest.mark.parametrize(("n_queries", "n_keys"), [(1, 1), (3, 2), (0, 5), (3, 0)])
    def test_few_rows(self, n_queries, n_keys):
        query, key = on_a_grid(n_queries, 0), on_a_grid(n_keys, 1)
        found = nearest(query, key, 96)
        assert found.shape == (n_queries, n_keys)
        assert found.dtype == torch.int64
        assert torch.equal(found.sort(1).values, torch.arange(n_keys).expand(n_queries, -1))

    def test_a_row_never_feels_the_others(self):
        query, key = torch.randn(300, 32, generator=seeded()), torch.randn(500, 32, generator=seeded(1))
        together = nearest(query, key, 96)
        alone = torch.cat([nearest(query[row : row + 1], key, 96) for row in range(300)])
        assert torch.equal(alone, together)
