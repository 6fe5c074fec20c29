import numpy as np
import pytest
import scipy.stats
import torch

from priors import TaskShape
from priors.bnn import BNNPrior, _draw_levels
from priors.distributions import ScaledBeta, UniformInteger
from priors.draw import Draw

QUIET = {"noise_std": 0.0, "output_noise_std": 0.0}
PRESETS = {
    "default": BNNPrior(),
    "small": BNNPrior.small(),
    "small-identity": BNNPrior.small("identity"),
    "big-relu": BNNPrior.big("relu"),
    "tabular": BNNPrior.tabular(),
    "bo": BNNPrior.bo(),
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def assert_second_moment(batch, expected):
    """E[y² | x] of the first row of each task is `expected` up to four standard errors."""
    excess = batch.y[:, 0].square() - expected
    assert abs(excess.mean()) < 4 * excess.std() / len(excess) ** 0.5


def test_without_activation_and_noise_targets_are_affine():
    def residual(activation):
        prior = BNNPrior(1, 5, 1.0, activation, **QUIET)
        batch = prior.sample(TaskShape(10, 50, 3, 25), generator=seeded())
        design = torch.cat([torch.ones(10, 50, 1), batch.x], dim=2).double()
        y = batch.y.double().unsqueeze(2)
        return (y - design @ (torch.linalg.pinv(design) @ y)).abs().amax()

    assert residual("identity") < 1e-5
    assert residual("tanh") > 0.1
    assert residual("relu") > 0.1


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_networks_of_many_widths_in_one_batch_have_the_moments_of_each(activation):
    """E[y² | x] = σ² (E[width]·E[φ(h)²] + 1) with h ~ N(0, σ² (|x|² + 1)), by Gauss–Hermite quadrature."""
    prior = BNNPrior(1, UniformInteger(2, 9), 0.5, activation, **QUIET)
    batch = prior.sample(TaskShape(20_000, 1, 2, 0), generator=seeded())
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    h = 0.5 * (batch.x[:, 0].double().square().sum(1, keepdim=True) + 1).sqrt() * torch.as_tensor(nodes)
    phi = torch.tanh(h) if activation == "tanh" else h.relu()
    second = phi.square() @ torch.as_tensor(weights / weights.sum())
    assert_second_moment(batch, 0.25 * (5.5 * second + 1))


def test_networks_of_many_depths_in_one_batch_have_the_moments_of_each():
    """Without activation, the second moment of a unit is m' = σ² (width·m + 1) + noise²; sparsity leaves it alone."""
    prior = BNNPrior(UniformInteger(1, 3), 6, 0.5, "identity", 0.4, 0.3, 0.2, is_noise_per_unit=False)
    batch = prior.sample(TaskShape(20_000, 1, 2, 0), generator=seeded())
    moment = 0.25 * (batch.x[:, 0].square().sum(1) + 1) + 0.09
    outputs = []
    for _ in range(3):
        outputs.append(0.25 * (6 * moment + 1) + 0.04)
        moment = 0.25 * (6 * moment + 1) + 0.09
    assert_second_moment(batch, torch.stack(outputs).mean(0))


@pytest.mark.parametrize(("per_unit", "kurtosis"), [(False, 3.0), (True, 9.0)])
def test_noise_has_its_own_scale_in_each_unit(per_unit, kurtosis):
    """With |N(0, s²)| as standard deviation, E y⁴ / E[y²]² = 3 · 3."""
    prior = BNNPrior(1, 2, 1e-9, noise_std=0.0, output_noise_std=0.7, is_noise_per_unit=per_unit)
    y = prior.sample(TaskShape(40_000, 1, 1, 0), generator=seeded()).y[:, 0]
    assert abs(y.square().mean() - 0.49) < 4 * y.square().std() / 40_000**0.5
    assert y.pow(4).mean() / y.square().mean() ** 2 == pytest.approx(kurtosis, rel=0.15)


def test_classes_are_drawn_with_the_probabilities_of_the_outputs(monkeypatch):
    p = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    monkeypatch.setattr(BNNPrior, "_draw_outputs", lambda self, x, n_outputs, draw: p.log().expand(*x.shape[:2], 3) + 7.0)
    batch = BNNPrior(target="softmax", n_classes=3).sample(TaskShape(50, 400, 2, 200), generator=seeded())
    counts = torch.bincount(batch.y.flatten())
    assert scipy.stats.chisquare(counts.numpy(), (p * 50 * 400).numpy()).pvalue > 1e-3


def test_classes_of_the_tabular_networks_are_balanced():
    batch = BNNPrior.tabular().sample(TaskShape(20, 60, 5, 30), generator=seeded())
    assert (batch.y.sum(1) == 30).all()


def test_columns_become_codes_as_often_as_defined():
    x = torch.randn(400, 300, 10, generator=seeded())
    shown = _draw_levels(x, Draw(seeded(1)))
    is_coded = (shown == shown.round()).all(1)
    assert torch.equal(shown.mT[~is_coded], x.mT[~is_coded])
    share = is_coded.float().mean(1)
    edges = scipy.stats.beta(0.5, 0.8).cdf(np.linspace(0, 1, 12))
    expected = np.arange(11) @ np.diff(edges) / 10
    assert abs(share.mean() - expected) < 4 * share.std() / 400**0.5
    codes, values = shown.mT[is_coded], x.mT[is_coded]
    assert (codes >= 0).all()
    assert codes.max() <= 200
    sorted_codes = codes.gather(1, values.argsort(1))
    is_monotone = (sorted_codes.diff(dim=1) >= 0).all(1).float()
    assert 0.45 < is_monotone.mean() < 0.9                          # ordinal ones, and nominal ones in the order by chance
    # Each nominal code covers an interval of values, so few changes of code occur along the sorted column.
    n_changes = (sorted_codes.diff(dim=1) != 0).sum(1)
    assert (n_changes[is_monotone == 0] <= 10).all()


def test_a_column_of_one_code_stays_as_it_was():
    x = torch.randn(300, 2, 3, generator=seeded())
    shown = _draw_levels(x, Draw(seeded()))
    assert (shown[:, 0] != shown[:, 1]).all()


def test_presets_have_the_hyper_parameters_of_the_papers():
    assert ScaledBeta(2.0, 4.0, 2, 150) == BNNPrior.tabular().width
    assert BNNPrior.big().width == 64
    batch = BNNPrior.bo().sample(TaskShape(4, 50, 3, 25), generator=seeded())
    assert batch.x.min() >= 0
    assert batch.x.max() <= 1
    assert batch.n_classes is None


def test_sample_is_the_values_at_uniform_points():
    batch = BNNPrior.bo().sample(TaskShape(4, 50, 3, 25), generator=seeded())
    draw = Draw(seeded())
    assert torch.equal(batch.x, draw.uniform(4, 50, 3))
    assert torch.equal(batch.y, BNNPrior.bo().values(batch.x, draw))


def test_values_of_many_tasks_are_drawn_a_few_at_a_time():
    x = torch.rand(5, 800, 2, generator=seeded(1))                   # two of them hold 2,048 rows
    whole, draw = BNNPrior.bo().values(x, Draw(seeded())), Draw(seeded())
    assert whole.shape == (5, 800)
    assert torch.equal(whole, torch.cat([BNNPrior.bo().values(part, draw) for part in x.split(2)]))


@pytest.mark.parametrize("name", ["default", "small", "tabular"])
def test_values_are_of_functions_on_the_unit_cube(name):
    with pytest.raises(ValueError, match=r"real targets on the unit cube; use BNNPrior.bo\(\)"):
        PRESETS[name].values(torch.rand(2, 5, 3), Draw(seeded()))


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("shape", [TaskShape(3, 40, 8, 20), TaskShape(1, 2, 1, 1), TaskShape(2, 12, 40, 5)], ids=str)
def test_same_seed_gives_the_same_finite_batch(name, shape):
    first, second = (PRESETS[name].sample(shape, generator=seeded()) for _ in range(2))
    assert torch.equal(first.x, second.x)
    assert torch.equal(first.y, second.y)
    assert first.x.isfinite().all()
    assert first.y.isfinite().all()
    assert first.x.dtype == torch.float32
    assert first.y.dtype == (torch.float32 if PRESETS[name].target == "value" else torch.int64)


@pytest.mark.parametrize(("arguments", "message"), [
    ({"activation": "gelu"}, r"activation='gelu' is unknown; use one of 'identity', 'tanh', 'relu'"),
    ({"target": "class"}, r"target='class' is unknown; use one of 'value', 'median', 'softmax'"),
    ({"sparsity": 1.0}, r"sparsity=1.0 is no share below 1"),
    ({"n_classes": 1}, r"n_classes=1 allows a single class; use n_classes >= 2"),
    ({"width": 0}, r"width=0 is not positive and finite; use width > 0"),
])
def test_errors_name_argument_value_and_remedy(arguments, message):
    with pytest.raises(ValueError, match=message):
        BNNPrior(**arguments)
