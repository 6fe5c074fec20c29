r"""How far, and how probably, y exceeds a threshold: each bar's share of expected improvement, in log space.

The bars' terms are all positive, so their logsumexp with the log masses is the logarithm of the whole without cancellation,
however far out the threshold lies. Formulas, with τ the threshold, l and r a bar's borders, c = max(l, τ), a a tail's
inner border, s its scale, u the distance of τ from a in scales, φ and Φ of the standard normal:

=================  =========================================  ==========================================
..                 E[(Y − τ)₊ \| bar]                          P(Y > τ \| bar)
=================  =========================================  ==========================================
bar, τ < r         (r − c)/(r − l) · ((r − τ) + (c − τ))/2    (r − c)/(r − l)
left, τ < a        s[u(2Φ(u) − 1) − 2(φ(0) − φ(u))]           2Φ(u) − 1
right, τ ≤ a       a − τ + s√(2/π)                            1
right, τ > a       2s[φ(u) − uΦ(−u)]                          2Φ(−u)
=================  =========================================  ==========================================

Elsewhere both are 0. The widespread implementation of PFNs 0.4.2 and PFNs4BO 0.1.5 omits a − τ in the third line and
returns E min(sZ, us) instead of us − E min(sZ, us) in the second; tests/pfn/test_bar_improvement.py has an example.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pfn.bar_grid import HALF_NORMAL_MEAN, per_bar, tail_scales

_SERIES = (-3.0, 15.0, -105.0, 945.0, -10395.0, 135135.0)          # (−1)ᵏ(2k + 1)!!, k = 1 … 6


def log_mean_excess(
    u: Tensor,           # (...), at least 0
) -> Tensor:             # (...)
    """ln E(Z − u)₊ of a half-normal Z, that is ln 2[φ(u) − uΦ(−u)].

    With Mills' ratio R = Φ(−u)/φ(u) it is ln 2φ(u) + ln(1 − uR). The difference 1 − uR ≈ u⁻² loses u² roundings, so for
    large u it is replaced by its asymptotic series u⁻²(1 − 3u⁻² + 15u⁻⁴ − …). Where the two meet, both are right to 1e-5
    in float32 and to 1e-12 in float64; float32 cannot resolve 1e-5 in the sum either.
    """
    limit = 30.0 if u.dtype == torch.float64 else 10.0
    near, far = u.clamp_max(limit), u.clamp_min(limit)             # each finite where the other one is used
    direct = torch.log1p(-near * math.sqrt(math.pi / 2) * torch.special.erfcx(near / math.sqrt(2)))
    inverse_square = far.square().reciprocal()
    series = torch.zeros_like(far)
    for coefficient in reversed(_SERIES):
        series = (series + coefficient) * inverse_square
    asymptotic = torch.log1p(series) - 2 * far.log()
    return math.log(HALF_NORMAL_MEAN) - 0.5 * u.square() + torch.where(u < limit, direct, asymptotic)


def log_gains_above(
    borders: Tensor,     # (..., n_bars + 1)
    threshold: Tensor,   # (...), in units of y
) -> Tensor:             # (..., n_bars), in log units of y; -inf for bars below the threshold
    """ln E[(Y − τ)₊ | bar] of every bar."""
    low, high, start, reached = _above(borders, threshold)
    tau = threshold.unsqueeze(-1)
    excess = torch.where(reached, (high - tau) + (start - tau), 1.0) / 2                 # mean of what lies above τ
    interior = torch.where(reached, _log_share(low, high, start, reached) + excess.log(), -torch.inf)
    left, right = tail_scales(borders)
    depth, inside = _depth_in_left_tail(borders, threshold)
    # expm1 because φ(0) − φ(u) cancels for small u; divided by u because u² underflows first.
    share = torch.special.erf(depth / math.sqrt(2)) + HALF_NORMAL_MEAN * torch.expm1(-0.5 * depth.square()) / depth
    in_left = torch.where(inside, left.log() + depth.log() + share.log(), -torch.inf)
    beyond = (threshold - borders[..., -2]) / right
    before = ((borders[..., -2] - threshold).clamp_min(0.0) + HALF_NORMAL_MEAN * right).log()
    return per_bar(
        in_left, interior, torch.where(beyond <= 0, before, right.log() + log_mean_excess(beyond.clamp_min(0.0)))
    )


def log_shares_above(
    borders: Tensor,     # (..., n_bars + 1)
    threshold: Tensor,   # (...), in units of y
) -> Tensor:             # (..., n_bars); -inf for bars below the threshold
    """ln P(Y > τ | bar) of every bar."""
    low, high, start, reached = _above(borders, threshold)
    interior = torch.where(reached, _log_share(low, high, start, reached), -torch.inf)
    depth, inside = _depth_in_left_tail(borders, threshold)
    in_left = torch.where(inside, torch.special.erf(depth / math.sqrt(2)).log(), -torch.inf)
    beyond = (threshold - borders[..., -2]) / tail_scales(borders)[1]
    u = beyond.clamp_min(0.0)
    # ln 2Φ(−u); not by torch.special.log_ndtr, whose derivative in float32 vanishes a thousand scales out.
    in_right = torch.special.erfcx(u / math.sqrt(2)).log() - 0.5 * u.square()
    return per_bar(in_left, interior, in_right)


def mirrored(
    function: Callable[[Tensor, Tensor], Tensor],
    borders: Tensor,
    threshold: Tensor,
) -> Tensor:
    """What `function` says of each bar if "above the threshold" is read as "below"."""
    return function(-borders.flip(-1), -threshold).flip(-1)


def _above(borders: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    low, high, tau = borders[..., 1:-2], borders[..., 2:-1], threshold.unsqueeze(-1)
    return low, high, torch.maximum(low, tau), high > tau


def _log_share(low: Tensor, high: Tensor, start: Tensor, reached: Tensor) -> Tensor:
    """Where not `reached`, any finite number: -inf would have no gradient, and `where` would pass its NaN on."""
    return torch.where(reached, high - start, 1.0).log() - (high - low).log()


def _depth_in_left_tail(borders: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
    """Distance of τ from the inner border in tail scales, or 1 if τ lies right of it; and whether it lies left of it."""
    depth = (borders[..., 1] - threshold) / tail_scales(borders)[0]
    return torch.where(depth > 0, depth, 1.0), depth > 0
