import torch

from priors import CollinearPrior, FactorPrior, TaskShape


def draw(tasks=300, rows=120, features=4):
    return FactorPrior().sample(TaskShape(tasks, rows, features, 60), generator=torch.Generator().manual_seed(0))


def standardised(x):
    return (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True, correction=0)


def test_targets_are_linear_in_columns_and_categories():
    """Exactly so where all columns are numbers; with categories, mostly so in their one-hot codes."""
    batch = draw()
    whole = (batch.x == batch.x.round()).all(1)                          # (B, F), columns of codes
    columns = torch.cat([batch.x, torch.ones(300, 120, 1)], dim=2).double()
    fitted = columns @ torch.linalg.lstsq(columns, batch.y.double().unsqueeze(2), driver="gelsd").solution
    error = (fitted.squeeze(2) - batch.y).square().mean(1)
    numbers = ~whole.any(1)
    assert 0.3 < numbers.float().mean() < 0.75                           # 0.4, and those of small shares
    assert error[numbers].max() < 1e-8
    assert (error[~numbers] > 0.01).float().mean() > 0.5                 # effects of levels are not those of the codes
    torch.testing.assert_close(batch.y.std(1, correction=0), torch.ones(300), atol=1e-4, rtol=0)


def test_half_of_the_tasks_have_independent_columns():
    """By the largest correlation of two columns of numbers: 500 rows give independent ones 0.2 at most."""
    batch = draw(tasks=200, rows=500)
    z = standardised(batch.x).double()
    correlation = (z.mT @ z / 500 - torch.eye(4)).abs().amax((1, 2))
    assert 0.4 < (correlation < 0.2).float().mean() < 0.75               # a half, and where the common part is small
    assert (correlation > 0.5).float().mean() > 0.1


def test_most_columns_matter():
    """Least squares finds a weight for between three tenths and all of them."""
    batch = draw(tasks=200, rows=100, features=20)
    z = torch.cat([standardised(batch.x), torch.ones(200, 100, 1)], dim=2).double()
    numbers = ~(batch.x == batch.x.round()).all(1).any(1)
    weight = torch.linalg.lstsq(z, batch.y.double().unsqueeze(2), driver="gelsd").solution[numbers, :-1, 0]
    matter = (weight.abs() > 1e-4).double().mean(1)
    assert 0.55 < matter.mean() < 0.75
    assert matter.min() < 0.45
    assert matter.max() > 0.9


def test_marginals_are_normal_uniform_and_skewed():
    z = standardised(draw(tasks=400, rows=400, features=1).x).squeeze(2)
    skewness, kurtosis = (z**3).mean(1), (z**4).mean(1)
    assert (skewness > 1).float().mean() > 0.1                           # log-normal
    assert ((kurtosis < 2) & (skewness.abs() < 0.3)).float().mean() > 0.2  # uniform: 1.8
    assert ((kurtosis - 3).abs() < 0.6).float().mean() > 0.2             # normal


def test_collinear_columns_hold_the_target_in_small_components():
    """One direction carries most of the columns' variance and little of the target; all together carry nearly all of it."""
    batch = CollinearPrior().sample(TaskShape(200, 400, 40, 200), generator=torch.Generator().manual_seed(0))
    z = (batch.x - batch.x.mean(1, keepdim=True)).double()
    components, values, _ = torch.linalg.svd(z, full_matrices=False)                         # (B, R, F), (B, F)
    first = values[:, 0].square() / values.square().sum(1)
    explained = torch.einsum("brf,br->bf", components, batch.y.double()).square() / 400      # of the target, by component
    narrow = first > 0.7
    assert narrow.float().mean() > 0.3
    assert explained[narrow, 0].mean() < 0.5                             # one of two to eight factors
    assert (explained.sum(1) > 0.9).float().mean() > 0.4
    torch.testing.assert_close(batch.y.std(1, correction=0), torch.ones(200), atol=1e-4, rtol=0)


def test_collinear_targets_are_linear_in_the_factors():
    """Columns with little noise determine the factors, two to eight of them: so few components hold the target."""
    batch = CollinearPrior().sample(TaskShape(300, 400, 60, 200), generator=torch.Generator().manual_seed(1))
    z = (batch.x - batch.x.mean(1, keepdim=True)).double()
    components, _, _ = torch.linalg.svd(z, full_matrices=False)
    explained = torch.einsum("brf,br->bf", components, batch.y.double()).square() / 400
    eight = explained[:, :8].sum(1)
    assert eight.max() > 0.999
    assert (eight > 0.95).double().mean() > 0.6                          # else too faint beside the columns' noise
    assert explained[:, 8:].sum(1).median() < 0.001
