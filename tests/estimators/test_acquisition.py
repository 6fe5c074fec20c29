import itertools
import math

import numpy as np
import pytest
import scipy.integrate
import torch

from estimators.acquisition import (
    capped_log_feasibility,
    confidence_bound,
    constrained_log_ei,
    expected_violation,
    log_expected_hypervolume_improvement,
    log_expected_improvement,
    log_feasibility,
    log_probability_of_improvement,
    penalised_log_ei,
)
from estimators.hypervolume import hypervolume, is_pareto_optimal, non_dominated_boxes, pareto_front, reference_point
from pfn import BarPosterior, mixture


def random_bars(seed, *batch, n_bars=9, dtype=torch.float64):
    """Bars around 0 with borders of their own for every row of the batch."""
    generator = torch.Generator().manual_seed(seed)
    widths = torch.rand(*batch, n_bars + 1, generator=generator, dtype=torch.float64).mul(0.6).add(0.1)
    logits = 2 * torch.randn(*batch, n_bars, generator=generator, dtype=torch.float64)
    return BarPosterior((widths.cumsum(-1) - 2.5).to(dtype), logits.log_softmax(-1).to(dtype))


def shifted(bars, location):
    return bars.affine(torch.ones(()), torch.as_tensor(location, dtype=bars.log_mass.dtype))


def normal_bars(mean, std=1.0, n_bars=200, dtype=torch.float32):
    """Bars that approximate normal distributions with means (...)."""
    borders = torch.linspace(-5, 5, n_bars + 1, dtype=torch.float64)
    log_mass = torch.special.ndtr(borders).diff().log().log_softmax(-1).to(dtype)
    mean = torch.as_tensor(mean, dtype=dtype)
    return BarPosterior(borders.to(dtype) * std + mean.unsqueeze(-1), log_mass.expand(*mean.shape, -1))


def bars_below_zero(probability):
    """P(Y ≤ 0) as given, (...), float32."""
    p = torch.as_tensor(probability).float().unsqueeze(-1)
    mass = torch.cat([p / 2, p / 2, (1 - p) / 2, (1 - p) / 2], dim=-1)
    return BarPosterior(torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0]), mass.log())


def quadrature(bars, function, *kinks):
    """E function(Y) of a single distribution by SciPy."""
    low, high = bars.borders[0] - 40, bars.borders[-1] + 40
    points = sorted({*bars.borders.tolist(), *kinks, low.item(), high.item()})
    return sum(
        scipy.integrate.quad(lambda y: function(y) * bars.log_prob(y).exp().item(), a, b, epsabs=1e-13, limit=200)[0]
        for a, b in itertools.pairwise(points)
    )


# One objective


def test_scores_of_one_objective_agree_with_quadrature():
    objective = random_bars(0, 3)
    for i in range(3):
        one = BarPosterior(objective.borders[i], objective.log_mass[i])
        gain = quadrature(one, lambda y: max(0.4 - y, 0), 0.4)
        below = quadrature(one, lambda y: float(y < 0.4), 0.4)
        assert log_expected_improvement(objective, 0.4)[i].item() == pytest.approx(math.log(gain), abs=1e-9)
        assert log_probability_of_improvement(objective, 0.4)[i].item() == pytest.approx(math.log(below), abs=1e-9)
        bound = -confidence_bound(objective, 0.1)[i].item()
        assert quadrature(one, lambda y, bound=bound: float(y < bound), bound) == pytest.approx(0.1, abs=1e-9)


@pytest.mark.parametrize("score", [log_expected_improvement, log_probability_of_improvement])
def test_scores_rank_hopeless_candidates(score):
    """In float32 the improvement itself is 0 for all of them."""
    mean = torch.linspace(50, 1000, 20).requires_grad_()
    values = score(normal_bars(mean), 0.0)
    assert (values < -200).all()
    assert (values.diff() < 0).all()
    (gradient,) = torch.autograd.grad(values.sum(), mean)
    assert gradient.isfinite().all()
    assert (gradient < 0).all()


def test_the_better_candidate_has_the_higher_bound():
    bound = confidence_bound(normal_bars([0.0, 1.0]))
    assert bound.tolist() == pytest.approx([1.645, 0.645], abs=2e-3)                 # minus the 5 % quantile of a normal


# Constraints


def test_feasibility_is_the_product_of_the_probabilities():
    constraints = random_bars(1, 4, 3)
    probability = constraints.cdf(0.0)
    torch.testing.assert_close(log_feasibility(constraints), probability.log().sum(0))
    torch.testing.assert_close(capped_log_feasibility(constraints), (2 * probability).clamp_max(1).log().sum(0))


def test_38_improbable_constraints_still_rank_candidates():
    """P = 1e-9 each and 1 % more from candidate to candidate; the product, 1e-342, is 0 even in float64."""
    probability = (1e-9 * 1.01 ** torch.arange(5.0)).repeat(38, 1).requires_grad_()
    constraints = bars_below_zero(probability)
    expected = 38 * (math.log(1e-9) + math.log(1.01) * torch.arange(5.0))
    torch.testing.assert_close(log_feasibility(constraints), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(capped_log_feasibility(constraints), expected + 38 * math.log(2), rtol=1e-6, atol=0)
    (gradient,) = torch.autograd.grad(log_feasibility(constraints).sum(), probability)
    torch.testing.assert_close(gradient, 1 / probability.detach(), rtol=1e-5, atol=0)


def test_38_nearly_certain_constraints_keep_the_probability_of_violation():
    """1 - P = 1e-10 is nothing beside 1 in float32, but not beside 0."""
    constraints = bars_below_zero(torch.full((38, 1), 1e-10)).affine(-1.0)
    assert log_feasibility(constraints).item() == pytest.approx(-38e-10, rel=1e-6)


def test_far_outside_the_bars_all_scores_and_gradients_are_finite():
    location = torch.tensor([-1e4, -100.0, 0.0, 100.0, 1e4]).repeat(3, 1).requires_grad_()
    objective = normal_bars(location[0])
    constraints = normal_bars(location)
    for score in (
        log_feasibility(constraints), capped_log_feasibility(constraints), expected_violation(constraints),
        constrained_log_ei(objective, constraints, 0.0), constrained_log_ei(objective, constraints, 0.0, capped=True),
        constrained_log_ei(objective, constraints, None), penalised_log_ei(objective, constraints, 0.0, 0.1),
        confidence_bound(objective),
    ):
        assert score.isfinite().all()
        (gradient,) = torch.autograd.grad(score.sum(), location, retain_graph=True)
        assert gradient.isfinite().all()


def test_constrained_improvement_agrees_with_samples():
    """A million joint draws of the objective and two constraints; four standard errors."""
    objective, constraints = random_bars(2, 1), random_bars(3, 2, 1)
    generator = torch.Generator().manual_seed(0)
    y, g = objective.sample(1_000_000, generator=generator)[0], constraints.sample(1_000_000, generator=generator)[:, 0]
    gain = (0.2 - y).clamp_min(0) * (g <= 0).all(0)
    assert constrained_log_ei(objective, constraints, 0.2).exp().item() == pytest.approx(
        gain.mean().item(), abs=4 * gain.std().item() / 1000
    )


def test_before_a_feasible_observation_feasibility_is_all_that_counts():
    objective, constraints = random_bars(4, 5), random_bars(5, 3, 5)
    for capped in (False, True):
        assert torch.equal(constrained_log_ei(objective, constraints, None, capped=capped), log_feasibility(constraints))


def test_cei_plus_is_the_improvement_where_all_constraints_probably_hold():
    objective, constraints = normal_bars([0.0, 0.0]), normal_bars([[-1.0, 1.0], [-0.1, -5.0]])
    values = constrained_log_ei(objective, constraints, 0.0, capped=True)
    improvement = log_expected_improvement(objective, 0.0)
    assert values[0] == improvement[0]
    assert values[1].item() == pytest.approx(improvement[1].item() + math.log(2 * 0.158655), abs=1e-3)


@pytest.mark.parametrize("location", [-30.0, -2.0, -0.3, 0.0, 1.1, 2.4, 30.0])
def test_violation_agrees_with_quadrature(location):
    bars = shifted(random_bars(6), location)
    exact = quadrature(bars, lambda g: max(g, 0.0) ** 2, 0.0)
    assert expected_violation(bars.unsqueeze().unsqueeze()).item() == pytest.approx(exact, rel=1e-8, abs=1e-12)


def test_violation_of_a_mixture_is_the_mean_of_its_components():
    parts = [random_bars(seed, 2, 3) for seed in (7, 8)]
    expected = 0.25 * expected_violation(parts[0]) + 0.75 * expected_violation(parts[1])
    torch.testing.assert_close(expected_violation(mixture(parts, [0.25, 0.75])), expected)


def test_penalised_improvement_is_a_lower_bound_that_is_sharp_for_certain_violations():
    objective, constraints = random_bars(9, 1), random_bars(10, 2, 1)
    generator = torch.Generator().manual_seed(0)
    y, g = objective.sample(1_000_000, generator=generator)[0], constraints.sample(1_000_000, generator=generator)[:, 0]
    gain = (2.0 - y - 0.5 * g.clamp_min(0).square().sum(0)).clamp_min(0)
    assert penalised_log_ei(objective, constraints, 2.0, 0.5).exp().item() <= gain.mean().item()
    certain = normal_bars(torch.tensor([[1.0], [-1.0]]), std=1e-6, dtype=torch.float64)  # violations 1 and 0
    torch.testing.assert_close(
        penalised_log_ei(objective, certain, 2.0, 0.5), log_expected_improvement(objective, 1.5), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("score", [log_feasibility, capped_log_feasibility, expected_violation])
def test_constraints_without_their_axis_are_refused(score):
    with pytest.raises(ValueError, match=r"shape \(4,\); expected \(m, Q\)"):
        score(random_bars(0, 4))


# Fronts


def random_front(n, k, seed=0):
    """Points whose non-dominated ones are about n of many."""
    rng = np.random.default_rng(seed)
    directions = np.abs(rng.normal(size=(n, k))) + 1e-3
    return 1 - directions / np.linalg.norm(directions, axis=1, keepdims=True)


def test_front_against_the_definition():
    values = np.random.default_rng(0).integers(0, 6, size=(60, 3)).astype(float)     # many ties and duplicates
    dominated = [any((other <= row).all() and (other < row).any() for other in values) for row in values]
    assert (is_pareto_optimal(values) == ~np.array(dominated)).all()
    front = pareto_front(values)
    assert {tuple(row) for row in front} == {tuple(row) for row, out in zip(values, dominated, strict=True) if not out}
    assert len(np.unique(front, axis=0)) == len(front)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_hypervolume_against_a_grid(k):
    """Integer coordinates: the volume is the number of unit cells whose lower corner some point dominates."""
    for seed in range(5):
        points = np.random.default_rng(seed).integers(0, 9, size=(12, k))
        cells = np.stack(np.meshgrid(*[np.arange(8)] * k, indexing="ij"), axis=-1).reshape(-1, k)
        count = (points[:, None, :] <= cells).all(-1).any(0).sum()
        assert hypervolume(points, [8] * k) == count


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("ties", [False, True])
def test_boxes_tile_the_non_dominated_region(k, ties):
    """Every point of a cloud lies in one box if it dominates the reference and no front point dominates it, else in none."""
    for seed in range(5):
        rng = np.random.default_rng(seed)
        points = rng.integers(0, 6, size=(15, k)) + (0.0 if ties else rng.random((15, k)))
        cloud = rng.uniform(-2, 7, size=(3000, k))
        reference = np.full(k, 5.0)
        lower, upper = non_dominated_boxes(points, reference)
        inside = ((lower <= cloud[:, None]) & (cloud[:, None] < upper)).all(-1).sum(1)
        free = (cloud < reference).all(1) & ~(points <= cloud[:, None]).all(-1).any(1)
        assert (inside == free).all()
        assert (lower < upper).all()


@pytest.mark.parametrize(("k", "most"), [(2, 201), (3, 401)])
def test_boxes_are_few(k, most):
    front = random_front(200, k)
    assert len(pareto_front(front)) == 200
    lower, upper = non_dominated_boxes(front, np.full(k, 1.1))
    assert len(lower) <= most
    clipped = np.clip(np.where(np.isinf(lower), 0.0, lower), 0, None)                # the front lies in [0, 1]
    free = np.prod(upper - clipped, axis=1).sum()
    assert hypervolume(front, np.full(k, 1.1)) == pytest.approx(1.1**k - free, rel=1e-10)


def test_an_empty_front_leaves_everything_below_the_reference():
    for front in ([], np.empty((0, 2)), [[3.0, -5.0], [2.0, 2.0]]):                  # also if all lie beyond it
        lower, upper = non_dominated_boxes(front, [2.0, 2.0])
        assert np.isneginf(lower).all()
        assert upper.tolist() == [[2.0, 2.0]]
        assert hypervolume(front, [2.0, 2.0]) == 0
    assert non_dominated_boxes([], [1.0, 2.0, 3.0])[1].tolist() == [[1.0, 2.0, 3.0]]


def test_reference_point_is_a_little_worse_than_the_front():
    assert reference_point([[0.0, 10.0], [1.0, 0.0], [5.0, 50.0]]).tolist() == pytest.approx([1.1, 11.0])
    assert reference_point([[0.0, 10.0], [4.0, 30.0]]).tolist() == pytest.approx([0.4, 12.0])    # a front of one point
    assert reference_point([[0.0, -10.0]]).tolist() == pytest.approx([0.1, -9.0])


def test_bad_fronts_are_refused():
    with pytest.raises(ValueError, match=r"finite, got \[nan, 1.0\] in row 1"):
        pareto_front([[0.0, 0.0], [np.nan, 1.0]])
    with pytest.raises(ValueError, match="2 objectives and reference 3"):
        hypervolume([[0.0, 0.0]], [1.0, 1.0, 1.0])
    with pytest.raises(ValueError, match="two or three objectives, got 4"):
        non_dominated_boxes(np.zeros((1, 4)), np.ones(4))
    with pytest.raises(ValueError, match="finite value"):
        non_dominated_boxes([[0.0, 0.0]], [1.0, np.inf])
    with pytest.raises(ValueError, match="no rows"):
        reference_point(np.empty((0, 2)))


# Expected hypervolume improvement


@pytest.mark.parametrize("k", [2, 3])
def test_expected_hypervolume_improvement_agrees_with_samples(k):
    """4,000 draws and their hypervolumes by slicing, which shares no code with the boxes; four standard errors."""
    front, reference = random_front(6, k), np.full(k, 1.2)
    objectives = [random_bars(seed, 2) for seed in range(k)]
    generator = torch.Generator().manual_seed(0)
    values = log_expected_hypervolume_improvement(objectives, non_dominated_boxes(front, reference)).exp()
    draws = torch.stack([o.sample(4000, generator=generator) for o in objectives], dim=-1).numpy()
    before = hypervolume(front, reference)
    for row, value in zip(draws, values, strict=True):
        gain = np.array([hypervolume(np.vstack([front, y]), reference) - before for y in row])
        assert value.item() == pytest.approx(gain.mean(), abs=4 * gain.std() / math.sqrt(4000))


@pytest.mark.parametrize("k", [2, 3])
def test_nearly_certain_outcomes_improve_by_what_they_add(k):
    front, reference = random_front(5, k, seed=1), np.full(k, 1.2)
    outcomes = np.random.default_rng(1).uniform(-0.5, 1.0, size=(20, k))
    objectives = [normal_bars(outcomes[:, i], std=1e-9, dtype=torch.float64) for i in range(k)]
    values = log_expected_hypervolume_improvement(objectives, non_dominated_boxes(front, reference)).exp()
    gains = [hypervolume(np.vstack([front, y]), reference) - hypervolume(front, reference) for y in outcomes]
    assert values.tolist() == pytest.approx(gains, abs=1e-7)


def test_without_a_front_it_is_the_product_of_the_improvements():
    objectives = [random_bars(seed, 4) for seed in range(3)]
    values = log_expected_hypervolume_improvement(objectives, non_dominated_boxes([], [0.1, 0.2, 0.3]))
    expected = sum(log_expected_improvement(o, best) for o, best in zip(objectives, (0.1, 0.2, 0.3), strict=True))
    torch.testing.assert_close(values, expected)


def test_points_beyond_the_reference_change_nothing():
    objectives = [random_bars(seed, 4) for seed in range(2)]
    front, reference = [[0.0, 0.5], [0.5, 0.0]], [1.0, 1.0]
    more = [*front, [-3.0, 1.0], [2.0, -9.0], [0.7, 0.7]]
    values = [log_expected_hypervolume_improvement(objectives, non_dominated_boxes(f, reference)) for f in (front, more)]
    assert torch.equal(*values)


@pytest.mark.parametrize("k", [2, 3])
def test_hopeless_candidates_are_ranked_by_hypervolume_improvement(k):
    front = random_front(50, k)
    mean = torch.linspace(40, 2000, 30).requires_grad_()
    values = log_expected_hypervolume_improvement([normal_bars(mean)] * k, non_dominated_boxes(front, np.full(k, 1.1)))
    assert values.isfinite().all()
    assert (values.diff() < 0).all()
    (gradient,) = torch.autograd.grad(values.sum(), mean)
    assert gradient.isfinite().all()
    assert (gradient < 0).all()


def test_gradient_of_hypervolume_improvement_agrees_with_differences():
    boxes = non_dominated_boxes(random_front(8, 3), np.full(3, 1.1))
    mean = torch.tensor([[-0.5, 0.6, 2.0]], dtype=torch.float64).requires_grad_()

    def score(mean):
        return log_expected_hypervolume_improvement([normal_bars(mean[:, i], 0.3, 20, mean.dtype) for i in range(3)], boxes)

    assert torch.autograd.gradcheck(score, mean, eps=1e-6, atol=1e-5)


def test_likely_and_hopeless_candidates_score_together_as_alone():
    """Shared borders: the likely ones by a product of matrices, the hopeless ones by log sums; the same with own borders."""
    borders = torch.linspace(-3, 3, 41, dtype=torch.float64)
    centre = torch.tensor([-1.0, 0.0, 2.9, 0.3], dtype=torch.float64).unsqueeze(-1)
    std = torch.tensor([1.0, 0.3, 0.02, 0.05], dtype=torch.float64).unsqueeze(-1)        # masses down to exp(-40,000)
    logits = (-0.5 * ((borders[1:] + borders[:-1]) / 2 - centre).div(std).square()).requires_grad_()
    shared = BarPosterior(borders.expand(1, -1), logits.log_softmax(-1))
    own = BarPosterior(borders.expand(4, -1), logits.log_softmax(-1))
    boxes = non_dominated_boxes(random_front(20, 2), [1.1, 1.1])
    fast, slow = (log_expected_hypervolume_improvement([o, o], boxes) for o in (shared, own))
    assert slow[2] < -1000
    torch.testing.assert_close(fast, slow, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad(values.sum(), logits, retain_graph=True)[0] for values in (fast, slow)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)


def test_candidates_and_borders_do_not_depend_on_blocks(monkeypatch):
    objectives = [random_bars(seed, 5) for seed in range(2)]
    boxes = non_dominated_boxes(random_front(30, 2), [1.1, 1.1])
    whole = log_expected_hypervolume_improvement(objectives, boxes)
    monkeypatch.setattr("estimators.acquisition._NUMBERS_AT_ONCE", 100)
    torch.testing.assert_close(log_expected_hypervolume_improvement(objectives, boxes), whole, rtol=1e-13, atol=0)


def test_a_mixture_improves_by_the_mean_of_its_components():
    parts, other = [random_bars(seed, 3) for seed in (0, 1)], random_bars(2, 3)
    boxes = non_dominated_boxes(random_front(4, 2), [1.1, 1.1])
    single = [log_expected_hypervolume_improvement([part, other], boxes).exp() for part in parts]
    both = log_expected_hypervolume_improvement([mixture(parts), other], boxes).exp()
    torch.testing.assert_close(both, (single[0] + single[1]) / 2)


def test_objectives_must_match_the_boxes():
    with pytest.raises(ValueError, match="1 objectives, but boxes in 2"):
        log_expected_hypervolume_improvement([random_bars(0, 3)], non_dominated_boxes([], [1.0, 1.0]))


# BoTorch as an oracle


@pytest.mark.parametrize("k", [2, 3])
def test_boxes_and_volumes_agree_with_botorch(k):
    pytest.importorskip("botorch")
    from botorch.utils.multi_objective.box_decompositions.dominated import DominatedPartitioning

    front, reference = random_front(40, k), np.full(k, 1.1)
    oracle = DominatedPartitioning(ref_point=torch.as_tensor(-reference), Y=torch.as_tensor(-front))
    assert hypervolume(front, reference) == pytest.approx(oracle.compute_hypervolume().item(), rel=1e-12)


@pytest.mark.parametrize("k", [2, 3])
def test_improvement_of_nearly_normal_bars_agrees_with_botorch(k):
    """BoTorch's closed form for independent normals, which 2,000 bars approximate."""
    pytest.importorskip("botorch")
    from botorch.acquisition.multi_objective.analytic import ExpectedHypervolumeImprovement
    from botorch.utils.multi_objective.box_decompositions.non_dominated import FastNondominatedPartitioning
    from botorch.utils.testing import MockModel, MockPosterior

    front, reference = random_front(10, k), np.full(k, 1.1)
    means = torch.as_tensor(np.random.default_rng(0).uniform(-1, 2, size=(6, k)))
    partitioning = FastNondominatedPartitioning(ref_point=torch.as_tensor(-reference), Y=torch.as_tensor(-front))
    model = MockModel(MockPosterior(mean=-means.unsqueeze(1), variance=torch.ones(6, 1, k, dtype=torch.float64)))
    oracle = ExpectedHypervolumeImprovement(model, ref_point=(-reference).tolist(), partitioning=partitioning)
    objectives = [normal_bars(means[:, i], n_bars=2000, dtype=torch.float64) for i in range(k)]
    values = log_expected_hypervolume_improvement(objectives, non_dominated_boxes(front, reference)).exp()
    torch.testing.assert_close(values, oracle(torch.zeros(6, 1, 1)), rtol=2e-4, atol=0)
