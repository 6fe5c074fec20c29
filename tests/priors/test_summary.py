import pytest
import torch

from priors import FunctionPrior, GPPrior, SCMPrior, TaskBatch, TaskShape, learnability, with_missing
from priors.summary import summarise


class Fixed:
    """Returns the batch it was given."""

    def __init__(self, batch):
        self.batch = batch

    def sample(self, shape, *, generator):
        return self.batch


def statistics(prior, shape=None):
    return summarise(prior, shape, generator=torch.Generator().manual_seed(0)).statistics


def test_marginals_of_known_distributions(generator):
    """Normal: 0 and 0. Exponential: skewness 2, excess kurtosis 6."""
    rows = 100_000
    normal, exponential = torch.randn(1, rows, generator=generator), torch.rand(1, rows, generator=generator).log().neg()
    found = statistics(Fixed(TaskBatch(torch.stack([normal, exponential], 2), normal, 10)))
    skewness, kurtosis = found["feature skewness, by column"], found["feature excess kurtosis, by column"]
    assert skewness.tolist() == pytest.approx([0.0, 2.0], abs=0.15)
    assert kurtosis.tolist() == pytest.approx([0.0, 6.0], abs=1.5)
    assert found["target skewness"].item() == pytest.approx(0.0, abs=0.05)


def test_correlation_gaps_and_codes_are_counted():
    a = torch.arange(10.0)
    x = torch.stack([a, 3 - 2 * a, torch.tensor([0.5, -0.5]).repeat(5)], dim=1).unsqueeze(0)
    x[0, 3, 2] = torch.nan
    found = statistics(Fixed(TaskBatch(x, a.unsqueeze(0), 5)))
    pairs = torch.corrcoef(torch.nan_to_num(x[0].T, nan=0.5 / 9))
    expected = (pairs[0, 1].abs() + pairs[0, 2].abs() + pairs[1, 2].abs()) / 3
    assert found["|correlation| of two features"].item() == pytest.approx(expected.item(), abs=1e-5)
    assert found["missing cells"].item() == pytest.approx(1 / 30)
    assert found["whole-numbered columns (codes, counts)"].item() == pytest.approx(2 / 3)


def test_masked_columns_do_not_count():
    x = torch.rand(2, 20, 3, generator=torch.Generator().manual_seed(0))
    x[:, :, 2] = torch.nan
    mask = torch.tensor([[True, True, False]] * 2)
    found = statistics(Fixed(TaskBatch(x, x[:, :, 0], 5, feature_mask=mask)))
    assert found["missing cells"].tolist() == [0.0, 0.0]
    assert len(found["feature skewness, by column"]) == 4


def test_classes_are_counted():
    y = torch.tensor([[0, 0, 0, 1, 2, 2, 0, 0]])
    found = statistics(Fixed(TaskBatch(torch.rand(1, 8, 2), y, 6, n_classes=torch.tensor([3]))))
    assert found["classes"].item() == 3
    assert found["share of the largest class"].item() == pytest.approx(5 / 8)
    assert found["share of the rarest class"].item() == pytest.approx(1 / 8)


def test_signal_is_learnability_and_tells_functions_from_noise():
    shape = TaskShape(20, 100, 2, 50)
    noise = FunctionPrior(lambda x, draw: draw.normal(*x.shape[:2]))
    assert statistics(noise, shape)["learnable (signal > 0.1)"].mean() < 0.2
    assert statistics(GPPrior(), shape)["learnable (signal > 0.1)"].mean() == 1
    batch = GPPrior().sample(shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(statistics(GPPrior(), shape)["signal"], learnability(batch))


@pytest.mark.parametrize("prior", [GPPrior(), SCMPrior(max_classes=5), with_missing(SCMPrior(), probability=1.0)])
@pytest.mark.parametrize("shape", [TaskShape(1, 2, 1, 1), TaskShape(3, 30, 4, 20), TaskShape(2, 20, 1, 5)])
def test_everything_is_finite_and_prints_as_a_table(prior, shape):
    summary = summarise(prior, shape, generator=torch.Generator().manual_seed(0))
    assert all(values.isfinite().all() for values in summary.statistics.values())
    head, titles, *lines = str(summary).splitlines()
    assert head.startswith(f"{shape.batch_size} tasks of {shape.n_rows} rows × {shape.n_features} features from ")
    assert titles.split() == ["mean", "10", "%", "50", "%", "90", "%"]
    assert len(lines) == len(summary.statistics)
    assert len({len(line) for line in lines}) == 1


def test_rows_hold_mean_and_quantiles():
    summary = summarise(GPPrior(), generator=torch.Generator().manual_seed(0))
    name, mean, low, median, high = next(row for row in summary.rows() if row[0] == "signal")
    values = summary.statistics[name]
    assert mean == pytest.approx(values.mean().item())
    assert [low, median, high] == pytest.approx(values.quantile(torch.tensor([0.1, 0.5, 0.9])).tolist())
