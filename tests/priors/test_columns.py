import pytest
import torch

from priors.columns import MAX_LEVELS, compact_codes, cut_into_levels, draw_n_levels, emit_categories, level_masses
from priors.draw import Draw


def draw(seed=0):
    return Draw(torch.Generator().manual_seed(seed))


def test_number_of_levels():
    levels = draw_n_levels(20_000, draw()).float()
    assert levels.min() == 2
    assert levels.max() > 190
    # log_integers(12, 200) draws 12 with probability ln(13/12) / ln(201/12), about 0.028.
    assert (levels > 12).float().mean().item() == pytest.approx(0.1 * (1 - 0.028), abs=0.01)


def test_masses_are_shares_of_the_levels_in_use():
    n_levels = torch.tensor([2, 5, 40, 200]).repeat(50)
    mass = level_masses(n_levels, MAX_LEVELS, draw())
    assert torch.allclose(mass.sum(1), torch.ones(200))
    assert torch.equal((mass > 0).sum(1), n_levels)


def test_intervals_hold_the_shares_asked_for():
    value = torch.randn(3, 1000, generator=torch.Generator().manual_seed(0))
    mass = torch.tensor([[0.25, 0.75, 0.0], [0.1, 0.2, 0.7], [1.0, 0.0, 0.0]])
    code = cut_into_levels(value, mass)
    shares = torch.nn.functional.one_hot(code, 3).float().mean(1)
    assert torch.allclose(shares, mass, atol=2e-3)
    assert all((value[0][code[0] == 0].max() < value[0][code[0] == 1].min(),))


def test_codes_become_compact_and_keep_their_order():
    assert compact_codes(torch.tensor([[7, 2, 2, 9]]), 10).tolist() == [[1, 0, 0, 2]]


def test_a_category_has_one_effect():
    """What replaces the coordinate is either a function of the category alone, or the coordinate itself."""
    g = torch.Generator().manual_seed(0)
    nodes = torch.randn(50, 16, 300, generator=g)
    item = torch.arange(50)
    code, handed_on = emit_categories(nodes[:, 3].clone(), nodes, item, draw())
    replaced = 0
    for c, h, original in zip(code, handed_on, nodes[:, 3], strict=True):
        assert torch.equal(c.unique(), torch.arange(len(c.unique()), dtype=c.dtype))
        one_value_each = len(torch.stack([c, h]).unique(dim=1).T) == len(c.unique())
        assert one_value_each or torch.equal(h, original)
        replaced += one_value_each
    assert replaced / 50 == pytest.approx(0.67, abs=0.25)
