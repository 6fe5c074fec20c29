"""What happens in training runs besides smooth learning: events that change a curve's shape, and kinds of noise."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from priors.draw import Draw

# Shapes: f (n, m), curves inside [0, 1], gives other curves inside [0, 1]. The heights are bounded by what the curve
# leaves room for, so nothing needs rejection. No publication stands behind them: they are our choice.


def steps_of(f: Tensor) -> Tensor:  # (m,)
    return torch.arange(1, f.shape[1] + 1, dtype=f.dtype, device=f.device)


def _height(largest: Tensor, draw: Draw) -> Tensor:  # (n, 1)
    """U(0.05, largest), or U(0, largest) where there is less room."""
    low = torch.where(largest > 0.05, 0.05, 0.0)
    return low + (largest - low) * draw.uniform(*largest.shape)


def slow_start(f: Tensor, draw: Draw) -> Tensor:
    """Another curve instead: a sigmoid of ln t between two levels, flat until about step τ, with an inflection."""
    n, m = f.shape
    levels = draw.uniform(n, 2).sort(1).values
    steepness = draw.log_uniform(n, 1, low=1.0, high=8.0)
    tau = draw.log_uniform(n, 1, low=2.0, high=m)
    rise = (steepness * (steps_of(f) / tau).log()).sigmoid()
    return levels[:, :1] + (levels[:, 1:] - levels[:, :1]) * rise


def learning_rate_drops(f: Tensor, draw: Draw) -> Tensor:
    """One to three sudden gains that share a random part of the head-room above the curve."""
    n, m = f.shape
    tau = draw.uniform(n, 3, low=0.1 * m, high=m)
    kappa = draw.log_uniform(n, 3, low=0.5, high=5.0)
    share = -draw.uniform(n, 3).clamp_min(1e-12).log()                                   # exponential: even after scaling
    share = share * (torch.arange(3, device=f.device) < draw.integers(n, 1, low=1, high=3))
    room = draw.uniform(n, 1) * (1 - f.amax(1, keepdim=True))
    gain = room * share / share.sum(1, keepdim=True).clamp_min(1e-12)
    for drop in range(3):
        since = (steps_of(f) - tau[:, drop : drop + 1]).clamp_min(0)
        f = f - gain[:, drop : drop + 1] * torch.expm1(-since / kappa[:, drop : drop + 1])
    return f


def double_descent(f: Tensor, draw: Draw) -> Tensor:
    """A temporary dip, Gaussian in ln t."""
    n, m = f.shape
    tau = draw.log_uniform(n, 1, low=2.0, high=m)
    omega = draw.uniform(n, 1, low=0.1, high=0.6)
    dip = (-0.5 * ((steps_of(f) / tau).log() / omega).square()).exp()
    deepest = (f / dip.clamp_min(1e-6)).amin(1, keepdim=True)
    return f - _height(deepest, draw) * dip


def divergence(f: Tensor, draw: Draw) -> Tensor:
    """A loss for good from step τ on, sudden or gradual."""
    n, m = f.shape
    tau = draw.uniform(n, 1, low=0.1 * m, high=m)
    kappa = draw.log_uniform(n, 1, low=0.5, high=0.5 * m)
    delta = (0.5 * draw.normal(n, 1)).exp()
    since = (steps_of(f) - tau).clamp_min(0)
    # The least value after τ, which for a rising curve is that at τ: the curve must not fall below 0.
    largest = f.masked_fill(since == 0, 1.0).amin(1, keepdim=True)
    return f + _height(largest, draw) * torch.expm1(-((since / kappa) ** delta))


def overfitting(f: Tensor, draw: Draw) -> Tensor:
    """The curve up to a step t*, then a straight line down; its slope is 1e-4 … 1e-2 in a hundredth of the horizon."""
    n, m = f.shape
    step = torch.arange(m, device=f.device)
    best = draw.integers(n, 1, low=m // 10, high=m - 1)                                  # index of t*
    peak = f.gather(1, best)
    slope = draw.log_uniform(n, 1, low=1e-4, high=1e-2) * 100 / m
    slope = torch.minimum(slope, peak / (m - 1 - best).clamp_min(1))
    return torch.where(step < best, f, peak - slope * (step - best))


def decline(f: Tensor, draw: Draw) -> Tensor:
    """A loss from an early step τ on, faster or slower than in proportion to time: of log losses that overfit."""
    n, m = f.shape
    tau = draw.log_uniform(n, 1, low=2.0, high=m)
    power = draw.log_uniform(n, 1, low=0.3, high=1.5)
    loss = ((steps_of(f) - tau).clamp_min(0) / (m - tau).clamp_min(1e-6)) ** power
    largest = (f / loss.clamp_min(1e-6)).amin(1, keepdim=True)
    return f - draw.log_uniform(n, 1, low=0.02, high=1.0) * largest.clamp_max(1.0) * loss


def small_gain(f: Tensor, draw: Draw) -> Tensor:
    """A run that learns little or nothing: a share 1e-3 … 1 of all changes, log-uniform."""
    share = draw.log_uniform(len(f), 1, low=1e-3, high=1.0)
    return f[:, :1] + share * (f - f[:, :1])


SHAPES: dict[str, Callable[[Tensor, Draw], Tensor]] = {  # applied in this order
    "slow_start": slow_start,
    "learning_rate_drops": learning_rate_drops,
    "double_descent": double_descent,
    "divergence": divergence,
    "overfitting": overfitting,
    "decline": decline,
    "small_gain": small_gain,
}

# Noise: what may happen besides y_t = f(t) + σ ε_t.


def autocorrelated(white: Tensor, phi: Tensor) -> Tensor:
    """AR(1) noise of unit variance, e_t = φ e_(t-1) + √(1 - φ²) ε_t, from white noise (n, m) and φ (n, 1).

    e is a sum of φ^k ε_(t-k) over all k < t. Doubling makes it in ⌈log2 m⌉ sums: after j of them, e_t holds k < 2^j.
    """
    n_steps = white.shape[1]
    noise = white * (1 - phi.square()).sqrt()
    noise[:, :1] = white[:, :1]
    shift = 1
    while shift < n_steps:
        earlier = torch.nn.functional.pad(noise[:, :-shift], (shift, 0))
        noise = noise + phi**shift * earlier
        shift *= 2
    return noise


def wandering(n: int, m: int, draw: Draw) -> Tensor:
    """Brownian paths (n, m) of (t/m)^γ, γ ~ U(0.3, 1), whose standard deviation at the end is 1e-3 … 0.1, log-uniform.

    Real curves leave any smooth family for good, and most of it early.
    """
    time = (torch.arange(m + 1, device=draw.device) / m) ** draw.uniform(n, 1, low=0.3, high=1.0)
    path = (draw.normal(n, m) * time.diff().sqrt()).cumsum(1)
    return draw.log_uniform(n, 1, low=1e-3, high=0.1) * path


NOISE = ("decaying", "binomial", "autocorrelated", "wandering", "spikes", "rounded")
