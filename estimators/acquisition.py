r"""How much is expected of evaluating a candidate: acquisition functions of exact posteriors, in log space.

Everything is minimised, a constraint is satisfied at ≤ 0, and the best candidate has the largest score. Scores are
differentiable with respect to the posteriors, hence to the candidates. They are logarithms of sums of positive terms:
products of many small probabilities underflow in float32, and then every candidate scores 0.

Posteriors are bar posteriors or mixtures of them: of an objective (Q,), one for each candidate; of constraints (m, Q), the
borders (m, 1, n_bars + 1) or shared. Outputs are taken as independent given the context, as all of this literature does.

Two wishes are answered elsewhere. *Noise*: pass as `best` the smallest predicted mean among the observed points, not the
smallest observation, which is lucky. *Thompson sampling* needs one joint draw over all candidates. Independent draws from
`posterior.sample` are none: with many candidates their minimum is wherever the noise is, so no function here offers them.
Draw jointly by conditioning the network on each drawn value before the next.

References
----------
.. [1] S. Ament et al., "Unexpected Improvements to Expected Improvement for Bayesian Optimization", NeurIPS 2023.
.. [2] M. Schonlau, W. Welch and D. Jones, "Global versus local search in constrained optimization of computer models",
   IMS Lecture Notes 34, 1998; J. Gardner et al., "Bayesian Optimization with Inequality Constraints", ICML 2014.
.. [3] R. Yu et al., arXiv 2404.04495, 2024 (its CEI, CEI+ and penalty, with pretrained networks).
.. [4] K. Yang et al., "Efficient computation of expected hypervolume improvement using box decomposition algorithms",
   Journal of Global Optimization 75, 2019.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from estimators.hypervolume import FloatArray
from pfn import BarPosterior, MixturePosterior
from pfn.bar_grid import HALF_NORMAL_MEAN, per_bar, tail_scales
from pfn.bar_improvement import log_gains_above, mirrored

Bars: TypeAlias = BarPosterior | MixturePosterior

_LOG_HALF = math.log(0.5)
_TINY = 1e-200                # products of smaller float64 numbers with usual ones may have lost digits or vanish
_NUMBERS_AT_ONCE = 2**22      # thresholds × candidates × bars in one pass: 32 MiB for each intermediate result


# One objective


def log_expected_improvement(
    objective: Bars,              # (Q,)
    best: Tensor | float,
) -> Tensor:                      # (Q,), in log units of y
    """ln E[(best − Y)₊], finite however unlikely an improvement is [1]_."""
    return objective.log_expected_improvement(best, maximize=False)


def log_probability_of_improvement(
    objective: Bars,              # (Q,)
    best: Tensor | float,
) -> Tensor:                      # (Q,)
    """ln P(Y < best)."""
    return objective.log_probability_of_improvement(best, maximize=False)


def confidence_bound(
    objective: Bars,              # (Q,)
    quantile: float = 0.05,
) -> Tensor:                      # (Q,), in units of y
    """Minus the exact quantile: what the objective falls below with probability `quantile`, tails included."""
    return -objective.quantile(torch.tensor([quantile], dtype=torch.float64, device=_device(objective))).squeeze(-1)


# Constraints


def log_feasibility(
    constraints: Bars,            # (m, Q)
) -> Tensor:                      # (Q,)
    """Σ ln P(gᵢ ≤ 0): the log probability that all constraints hold."""
    return _log_satisfied(constraints).sum(0)


def capped_log_feasibility(
    constraints: Bars,            # (m, Q)
) -> Tensor:                      # (Q,)
    """Σ min(0, ln 2Pᵢ) of CEI+ [3]_: a constraint that holds more likely than not costs nothing."""
    return (_log_satisfied(constraints) - _LOG_HALF).clamp_max(0.0).sum(0)


def constrained_log_ei(
    objective: Bars,              # (Q,)
    constraints: Bars,            # (m, Q)
    best: Tensor | float | None,  # best value of a *feasible* observation; None: there is none yet
    *,
    capped: bool = False,         # CEI+
) -> Tensor:                      # (Q,)
    """ln EI + Σ ln Pᵢ, the log expected improvement by a feasible value [2]_; `capped` makes it CEI+ [3]_.

    Without a feasible observation every feasible value improves infinitely, and the probability of one is all that counts:
    the score is `log_feasibility`. So it is for CEI+, whose cap would leave all candidates beyond ½ equal.
    """
    if best is None:
        return log_feasibility(constraints)
    feasibility = capped_log_feasibility(constraints) if capped else log_feasibility(constraints)
    return log_expected_improvement(objective, best) + feasibility


def expected_violation(
    constraints: Bars,            # (m, Q)
) -> Tensor:                      # (Q,), in squared units of g
    """Σ E[max(0, gᵢ)²], exact."""
    return _sum_over_constraints(_mean_squared_excess(constraints))


def penalised_log_ei(
    objective: Bars,              # (Q,)
    constraints: Bars,            # (m, Q)
    best: Tensor | float,         # smallest f + ρ Σ max(0, gᵢ)² observed, feasible or not
    weight: float = 1.0,          # ρ, in units of f per squared unit of g
) -> Tensor:                      # (Q,)
    """ln E[(best − ρV − f)₊] with V = Σ E[max(0, gᵢ)²]: expected improvement of the penalised objective, from below.

    As (·)₊ is convex, by Jensen's inequality the expectation over the violations, too, is at least this if they are
    independent of f; both are equal where the violations are certain. Constraints should be scaled alike.
    """
    return log_expected_improvement(objective, best - weight * expected_violation(constraints))


def _log_satisfied(constraints: Bars) -> Tensor:
    """ln P(gᵢ ≤ 0), (m, Q): relatively accurate near -inf, and near 0, where it is minus the probability of violation."""
    log_holds = constraints.log_probability_of_improvement(0.0, maximize=False)
    log_fails = constraints.log_probability_of_improvement(0.0).clamp_max(_LOG_HALF)
    if log_holds.ndim < 2:
        raise ValueError(f"constraints have shape {tuple(log_holds.shape)}; expected (m, Q), for one constraint (1, Q).")
    return torch.where(log_holds < _LOG_HALF, log_holds, torch.log1p(-log_fails.exp()))


def _sum_over_constraints(values: Tensor) -> Tensor:
    if values.ndim < 2:
        raise ValueError(f"constraints have shape {tuple(values.shape)}; expected (m, Q), for one constraint (1, Q).")
    return values.sum(0)


def _mean_squared_excess(posterior: Bars) -> Tensor:
    r"""E[max(0, Y)²], (...).

    A bar [l, r] reaching above 0 has (r³ − c³) / (3(r − l)) with c = max(l, 0). A right tail Y = a + sZ, Z half-normal, has
    a² + 2as√(2/π) + s² if a ≥ 0, else s² E(Z − u)₊² = 2s²[(1 + u²)Φ(−u) − uφ(u)] with u = −a/s. A left tail Y = a − sZ has
    s² E(u − Z)₊² = s²[(1 + u²)(2Φ(u) − 1) − 4uφ(0) + 2uφ(u)] with u = max(a, 0)/s.
    """
    if isinstance(posterior, MixturePosterior):
        parts = torch.stack(torch.broadcast_tensors(*(_mean_squared_excess(c) for c in _bars(posterior))), dim=-1)
        return (parts * posterior.log_weights.exp().to(parts)).sum(-1)
    borders = posterior.borders
    low, high = borders[..., 1:-2], borders[..., 2:-1]
    start, end = low.clamp_min(0.0), high.clamp_min(0.0)
    # (r³ − c³) / 3 without cancellation
    interior = (end - start) / (high - low) * (end.square() + end * start + start.square()) / 3
    (left, right), root_two = tail_scales(borders), math.sqrt(2)
    u = borders[..., 1].clamp_min(0.0) / left
    density = HALF_NORMAL_MEAN * torch.exp(-0.5 * u.square())                            # 2φ(u)
    in_left = left.square() * ((1 + u.square()) * torch.erf(u / root_two) + u * (density - 2 * HALF_NORMAL_MEAN))
    anchor = borders[..., -2]
    above = anchor.clamp_min(0.0)
    u = (-anchor).clamp_min(0.0) / right
    density = HALF_NORMAL_MEAN * torch.exp(-0.5 * u.square())
    beyond = right.square() * ((1 + u.square()) * torch.erfc(u / root_two) - u * density)
    in_right = above.square() + 2 * above * right * HALF_NORMAL_MEAN + beyond            # beyond = s² for a ≥ 0
    return (posterior.log_mass.exp() * per_bar(in_left.clamp_min(0.0), interior, in_right.clamp_min(0.0))).sum(-1)


# Two or three objectives


def log_expected_hypervolume_improvement(
    objectives: Sequence[Bars],              # k posteriors (Q,)
    boxes: tuple[FloatArray, FloatArray],    # of `non_dominated_boxes`
) -> Tensor:                                 # (Q,), float64
    r"""Log of the volume by which the new point is expected to enlarge what the front dominates, exact.

    A point y dominates the box [l, u] from max(l, y) on. With independent objectives the expectation of its volume is the
    product over objectives of :math:`E[(u - Y)_+] - E[(l - Y)_+]`, differences of expected improvements, and the boxes
    add up [4]_. Add `log_feasibility` if there are constraints.

    Notes
    -----
    In float64, since the differences for thin boxes cancel. A box thinner than 1e-16 of the distance to the posterior is
    left out; there is always one that reaches down to -inf, so the sum is finite. The expected improvements are computed
    once for each distinct border, a few at a time: memory does not grow with the front, unless a gradient is asked for.
    """
    lower, upper = boxes
    if not len(objectives) == lower.shape[1] == upper.shape[1]:
        raise ValueError(f"{len(objectives)} objectives, but boxes in {lower.shape[1]} dimensions.")
    log_volumes = [_log_mean_overlap(o, lower[:, k], upper[:, k]) for k, o in enumerate(objectives)]
    return torch.stack(log_volumes).sum(0).logsumexp(-1)


def _log_mean_overlap(posterior: Bars, lower: FloatArray, upper: FloatArray) -> Tensor:
    """ln(E[(u − Y)₊] − E[(l − Y)₊]) for all intervals, (Q, n_boxes); -inf where it vanishes beside its terms."""
    thresholds, index = np.unique(np.concatenate([upper, lower[np.isfinite(lower)]]), return_inverse=True)
    device = _device(posterior)
    gains = _log_gains(_in_double(posterior), torch.as_tensor(thresholds, device=device))
    at = torch.as_tensor(index, device=device)
    top = gains[..., at[: len(upper)]]
    bottom = torch.full_like(top, -math.inf)
    bottom[..., torch.as_tensor(np.isfinite(lower), device=device)] = gains[..., at[len(upper) :]]
    gap = top - bottom                                                                   # inf below unbounded boxes
    counts = gap > 0
    return torch.where(counts, top + torch.log(-torch.expm1(-torch.where(counts, gap, 1.0))), -math.inf)


def _log_gains(posterior: Bars, thresholds: Tensor) -> Tensor:
    """Log expected improvements of every posterior beyond every threshold, (Q, n_thresholds), in float64."""
    if isinstance(posterior, BarPosterior) and posterior.borders.shape[:-1].numel() == 1:
        return _log_gains_on_shared_borders(posterior.borders.reshape(-1), posterior.log_mass, thresholds)
    return _log_gains_in_blocks(posterior, thresholds)


def _log_gains_in_blocks(posterior: Bars, thresholds: Tensor) -> Tensor:
    rows = posterior.unsqueeze()
    size = max(1, _NUMBERS_AT_ONCE // _n_numbers(posterior))
    return torch.cat([rows.log_expected_improvement(t, maximize=False) for t in thresholds.split(size)], dim=-1)


def _log_gains_on_shared_borders(borders: Tensor, log_mass: Tensor, thresholds: Tensor) -> Tensor:
    """One product of matrices, thirty times faster, for rows of which nothing comes near underflow; the others as above."""
    gains = mirrored(log_gains_above, borders, thresholds).exp()                         # (n_thresholds, n_bars)
    totals = log_mass.exp() @ gains.T
    values = totals.clamp_min(_TINY).log()                                               # no gradient where it is clamped
    small = (totals < _TINY).any(-1)
    if bool(small.any()):
        values = values.index_put((small,), _log_gains_in_blocks(BarPosterior(borders, log_mass[small]), thresholds))
    return values


# Mixtures


def _bars(posterior: MixturePosterior) -> list[Bars]:
    bars: list[Bars] = [c for c in posterior.components if isinstance(c, BarPosterior | MixturePosterior)]
    if len(bars) < len(posterior.components):
        raise TypeError("a component of the mixture is no BarPosterior; improvement is exact for bars only.")
    return bars


def _in_double(posterior: Bars) -> Bars:
    if isinstance(posterior, MixturePosterior):
        return MixturePosterior(tuple(_in_double(c) for c in _bars(posterior)), posterior.log_weights)
    return BarPosterior(posterior.borders.double(), posterior.log_mass.double())


def _n_numbers(posterior: Bars) -> int:
    if isinstance(posterior, MixturePosterior):
        return sum(_n_numbers(c) for c in _bars(posterior))
    return posterior.batch_shape.numel() * posterior.n_bars


def _device(posterior: Bars) -> torch.device:
    return posterior.log_weights.device if isinstance(posterior, MixturePosterior) else posterior.log_mass.device
