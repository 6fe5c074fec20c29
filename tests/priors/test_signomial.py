import pytest
import torch

from priors import SignomialPrior, TaskShape
from priors.draw import Draw, standardise
from priors.signomial import _POWERS


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_one_term_of_one_feature_is_a_power_of_it():
    """Redo the draws of t: y is affine in t^p for one of the powers, in the three quarters that stay sums at least."""
    x = torch.rand(2000, 40, 1, generator=seeded(1))
    y = SignomialPrior(max_terms=1).values(x, Draw(seeded()))
    draw = Draw(seeded())
    least = draw.log_uniform(2000, 1, 1, low=0.02, high=1.0)
    t = least + (1 - least) * torch.where(draw.chance(2000, 1, 1, p=0.3), 1 - x, x)
    assert t.min() >= 0.02
    assert t.max() <= 1
    powers = standardise(t.double() ** torch.tensor(_POWERS).double())                               # (B, R, P)
    sign = (powers * y.unsqueeze(2)).sum(1).sign().unsqueeze(1)
    error = (sign * powers - y.unsqueeze(2)).abs().amax(1)                                            # (B, P)
    varied = least.squeeze() < 0.9                                   # else all powers are nearly the same
    is_power = error.amin(1)[varied] < 1e-3
    assert 0.75 - 4 * (0.75 * 0.25 / varied.sum()) ** 0.5 < is_power.float().mean() < 0.92
    shares = torch.bincount(error[varied][is_power].argmin(1), minlength=len(_POWERS)) / is_power.sum()
    assert shares.argmax() == _POWERS.index(1.0)
    assert (shares > 0).all()


def test_a_term_takes_one_to_four_features():
    x = torch.rand(500, 30, 9, generator=seeded(1))
    before = SignomialPrior(max_terms=1).values(x, Draw(seeded()))
    counts = torch.zeros(500, dtype=torch.long)
    for feature in range(9):
        changed = x.clone()
        changed[:, :, feature] = changed[:, :, feature].flip(1)
        counts += (SignomialPrior(max_terms=1).values(changed, Draw(seeded())) - before).abs().amax(1) > 1e-4
    assert counts.min() >= 1
    assert counts.max() <= 8                                         # a maximum and a ratio are of two terms
    shares = torch.bincount(counts, minlength=9) / 500
    for count, probability in enumerate([0.35, 0.3, 0.2, 0.15], start=1):
        error = 4 * (probability * (1 - probability) / 500) ** 0.5
        assert 0.875 * probability - error < shares[count] < probability + 0.125 + error


@pytest.mark.parametrize("n_features", [1, 4, 30])
def test_targets_are_standardised_and_finite_up_to_the_faces(n_features):
    x = torch.rand(300, 50, n_features, generator=seeded(1))
    x[:, ::3] = x[:, ::3].round()
    y = SignomialPrior(max_terms=12).values(x, Draw(seeded()))
    assert y.isfinite().all()
    torch.testing.assert_close(y.mean(1), torch.zeros(300), atol=1e-4, rtol=0)
    spread = y.std(1, correction=0)
    assert ((spread - 1).abs() < 1e-3).float().mean() > 0.98         # but for those that are constant


def test_sample_is_the_values_at_uniform_points():
    prior = SignomialPrior()
    batch = prior.sample(TaskShape(5, 20, 3, 10), generator=seeded())
    draw = Draw(seeded())
    assert torch.equal(batch.x, draw.uniform(5, 20, 3))
    assert torch.equal(batch.y, prior.values(batch.x, draw))


def test_same_seed_gives_the_same_batch():
    first, second = (SignomialPrior().sample(TaskShape(3, 20, 2, 10), generator=seeded(3)) for _ in range(2))
    assert torch.equal(first.x, second.x)
    assert torch.equal(first.y, second.y)


@pytest.mark.parametrize("max_terms", [0, -1, 1.5])
def test_errors_name_argument_value_and_remedy(max_terms):
    with pytest.raises(ValueError, match=rf"max_terms={max_terms} is not a positive integer"):
        SignomialPrior(max_terms=max_terms)
