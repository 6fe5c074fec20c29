"""One bar distribution a row: density, cdf, quantiles, moments, scores, improvement and transformations, all exact."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pfn.bar_grid import HALF_NORMAL_MEAN, entry_before, locate, log_heights, per_bar, tail_scales, take
from pfn.bar_improvement import log_gains_above, log_shares_above, mirrored
from pfn.bar_scores import crps, pinball
from pfn.bar_transform import TransformedPosterior

_UNIT_NODES, _UNIT_WEIGHTS = np.polynomial.legendre.leggauss(8)    # on (-1, 1), for one bar
_TAIL_NODES, _TAIL_WEIGHTS = np.polynomial.legendre.leggauss(64)   # for the first 12 scales of a tail
_TAIL_END = 12.0


@dataclass(frozen=True)
class BarPosterior:
    """One bar distribution for each index of a batch. All is exact and differentiable; only `expectation` is a quadrature.

    Parameters
    ----------
    borders : Tensor of shape (n_bars + 1,) or (..., n_bars + 1)
        Increasing, in units of y. One-dimensional borders are shared by all and save memory and time.
    log_mass : Tensor of shape (..., n_bars)
        Normalised log probabilities. The leading axes of both broadcast to `batch_shape`, written (...) below.

    Notes
    -----
    Arguments `y` and `best` are numbers or tensors that broadcast with (...). For k values in each row, ask
    `posterior.unsqueeze()`, whose batch shape (..., 1) broadcasts with (..., k).

    Where values accumulate, mass is summed from the nearer end, so that both tails keep their relative accuracy in
    float32. Derivatives with respect to `log_mass` are meant along normalised masses, as after `log_softmax`.
    """

    borders: Tensor
    log_mass: Tensor

    def __post_init__(self) -> None:
        if self.borders.shape[-1] != self.log_mass.shape[-1] + 1:
            raise ValueError(
                f"borders end in {self.borders.shape[-1]} values and log_mass in {self.log_mass.shape[-1]}; "
                f"n bars need n + 1 borders."
            )

    @property
    def batch_shape(self) -> torch.Size:
        return torch.broadcast_shapes(self.borders.shape[:-1], self.log_mass.shape[:-1])

    @property
    def n_bars(self) -> int:
        return self.log_mass.shape[-1]

    def unsqueeze(self) -> BarPosterior:
        """The same distributions with batch shape (..., 1), for several values of y in each."""
        borders = self.borders if self.borders.ndim == 1 else self.borders.unsqueeze(-2)
        return BarPosterior(borders, self.log_mass.unsqueeze(-2))

    # Density, cdf, quantiles

    def log_prob(self, y: Tensor | float) -> Tensor:
        """Log density at y (...), in nats per unit of y."""
        place = locate(self.borders, self._values("y", y))
        return place.of(self.log_mass) + place.of(log_heights(self.borders)) - 0.5 * place.depth.square()

    def cdf(self, y: Tensor | float) -> Tensor:
        """P(Y ≤ y) for y (...)."""
        below, above = self._mass_beside(y)
        return torch.where(below < above, below, 1 - above)

    def survival(self, y: Tensor | float) -> Tensor:
        """P(Y > y) for y (...); unlike 1 - `cdf` it keeps its relative accuracy in the right tail."""
        below, above = self._mass_beside(y)
        return torch.where(below < above, 1 - below, above)

    def _mass_beside(self, y: Tensor | float) -> tuple[Tensor, Tensor]:
        y = self._values("y", y)
        place = locate(self.borders, y)
        mass = self.log_mass.exp()
        low, high = place.of(self.borders[..., :-1]), place.of(self.borders[..., 1:])
        outside = torch.special.erfc(place.depth / math.sqrt(2))                         # of the tail, further out than y
        inside = torch.special.erf(place.depth / math.sqrt(2))
        share_below = torch.where(place.in_right, inside, ((y - low) / (high - low)).clamp(0.0, 1.0))
        share_above = torch.where(place.in_right, outside, ((high - y) / (high - low)).clamp(0.0, 1.0))
        here = place.of(mass)
        below, above = place.sums_beside(mass, mass)
        below = below + here * torch.where(place.in_left, outside, share_below)
        return below, above + here * torch.where(place.in_left, inside, share_above)

    def quantile(self, q: Tensor) -> Tensor:
        """Inverse of `cdf`: values (..., n_quantiles) for probabilities q in [0, 1], (n_quantiles,) or (..., n_quantiles).

        0 and 1 give -inf and inf, the ends of the support. Above ½ mass is counted from the right, with 1 - q: pass q in
        float64 if 1 - q is small, whatever the precision of the masses.
        """
        q = check_probabilities(q)
        low = self._quantile_from_the_left(q.clamp_max(0.5))
        if bool((q <= 0.5).all()):
            return low
        high = -self.affine(-1.0)._quantile_from_the_left((1 - q).clamp_max(0.5))
        return torch.where(q <= 0.5, low, high)

    def _quantile_from_the_left(self, q: Tensor) -> Tensor:
        mass = self.log_mass.exp()
        shape = torch.broadcast_shapes(self.batch_shape, q.shape[:-1])
        q = q.to(mass.dtype).expand(*shape, -1)
        upper = mass.cumsum(-1)
        bar = torch.searchsorted(upper.expand(*shape, -1).contiguous(), q.contiguous()).clamp_max(self.n_bars - 1)
        below = entry_before(upper, bar)
        share = (q - below) / take(mass, bar).clamp_min(torch.finfo(mass.dtype).tiny)
        share = share.clamp(0.0, 1.0)
        value = take(self.borders[..., :-1], bar) + share * take(self.borders.diff(), bar)
        in_left, in_right = bar == 0, bar == self.n_bars - 1
        left, right = tail_scales(self.borders)
        # Harmless shares for the other bars: ndtri(0) and erfinv(1) have infinite derivatives that `where` would pass on.
        left_depth = torch.special.ndtri(0.5 * torch.where(in_left, share, 0.5))
        right_depth = math.sqrt(2) * torch.special.erfinv(torch.where(in_right, share, 0.5))
        value = torch.where(in_left, self.borders[..., 1:2] + left.unsqueeze(-1) * left_depth, value)
        return torch.where(in_right, self.borders[..., -2:-1] + right.unsqueeze(-1) * right_depth, value)

    def sample(self, n_samples: int, *, generator: torch.Generator) -> Tensor:
        """Independent draws (..., n_samples), by inversion; in float64, where 0 and thus -inf does not come up."""
        q = torch.rand(
            *self.batch_shape, n_samples, generator=generator, device=generator.device, dtype=torch.float64
        )
        return self.quantile(q.to(self.log_mass.device))

    # Summaries

    @property
    def mean(self) -> Tensor:
        """Expectation (...)."""
        return (self.log_mass.exp() * self._centres()).sum(-1)

    @property
    def variance(self) -> Tensor:
        """Variance (...): within the bars plus between them. A difference of moments would cancel far from 0."""
        left, right = tail_scales(self.borders)
        in_tail = 1 - HALF_NORMAL_MEAN**2
        within = per_bar(in_tail * left.square(), self.borders[..., 1:-1].diff().square() / 12, in_tail * right.square())
        between = (self._centres() - self.mean.unsqueeze(-1)).square()
        return (self.log_mass.exp() * (within + between)).sum(-1)

    @property
    def median(self) -> Tensor:
        """Median (...)."""
        return self.quantile(torch.tensor([0.5], device=self.log_mass.device)).squeeze(-1)

    @property
    def mode(self) -> Tensor:
        """Where the density is highest (...): the middle of the densest bar, or the inner border of a tail."""
        highest = (self.log_mass + log_heights(self.borders)).argmax(-1, keepdim=True)
        middles = (self.borders[..., 1:-2] + self.borders[..., 2:-1]) / 2
        return take(per_bar(self.borders[..., 1], middles, self.borders[..., -2]), highest).squeeze(-1)

    @property
    def entropy(self) -> Tensor:
        """Differential entropy (...), -E log_prob(Y), in nats for y in its units."""
        mass = self.log_mass.exp()
        log_density = (self.log_mass + log_heights(self.borders)).masked_fill(mass == 0, 0.0)
        return 0.5 * (mass[..., 0] + mass[..., -1]) - (mass * log_density).sum(-1)       # E depth² = 1 in the tails

    def expectation(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """E function(Y), (...), for an elementwise function that all distributions share.

        Gauss–Legendre with 8 points in each bar and 64 in the first 12 scales of each tail: exact to rounding if the
        function is a polynomial of degree 15 within each bar, and, in float64, to 1e-10 for exp(t·y) with t below 4 / tail
        scale. What grows like exp(y²) may have no expectation, and none is found out.
        """
        like, low, widths = self.log_mass, self.borders[..., 1:-2, None], self.borders[..., 1:-1].diff().unsqueeze(-1)
        node, weight = (like.new_tensor(v) for v in (_UNIT_NODES, _UNIT_WEIGHTS))
        interior = (function(low + widths * (node + 1) / 2) * weight / 2).sum(-1)        # (..., n_bars - 2)
        depth, weight = (like.new_tensor(_TAIL_END / 2 * v) for v in (_TAIL_NODES + 1, _TAIL_WEIGHTS))
        weight = weight * HALF_NORMAL_MEAN * torch.exp(-0.5 * depth.square())
        left, right = (scale.unsqueeze(-1) for scale in tail_scales(self.borders))
        left_tail = (function(self.borders[..., 1:2] - left * depth) * weight).sum(-1)
        right_tail = (function(self.borders[..., -2:-1] + right * depth) * weight).sum(-1)
        return (self.log_mass.exp() * per_bar(left_tail, interior, right_tail)).sum(-1)

    def _centres(self) -> Tensor:
        """Expectation of each bar, (..., n_bars)."""
        left, right = tail_scales(self.borders)
        return per_bar(
            self.borders[..., 1] - HALF_NORMAL_MEAN * left,
            (self.borders[..., 1:-2] + self.borders[..., 2:-1]) / 2,
            self.borders[..., -2] + HALF_NORMAL_MEAN * right,
        )

    # Scores

    def crps(self, y: Tensor | float) -> Tensor:
        """Continuous ranked probability score ∫ (F(t) − [t ≥ y])² dt at y (...), in units of y; smaller is better."""
        return crps(self.borders, self.log_mass, self._values("y", y))

    def pinball(self, y: Tensor | float, q: Tensor) -> Tensor:
        """Pinball loss (..., n_quantiles) of the quantiles q (n_quantiles,) in (0, 1) at y (...), in units of y.

        Its integral over q is half of `crps`.
        """
        q = check_probabilities(q, inside=True)
        return pinball(self.quantile(q), self._values("y", y), q.to(self.log_mass.dtype))

    # Improvement

    def expected_improvement(self, best: Tensor | float, *, maximize: bool = True) -> Tensor:
        """E[(Y − best)₊], or E[(best − Y)₊] to minimise, (...), in units of y. Positive unless it underflows."""
        return self.log_expected_improvement(best, maximize=maximize).exp()

    def log_expected_improvement(self, best: Tensor | float, *, maximize: bool = True) -> Tensor:
        """ln of `expected_improvement`, finite and with a useful gradient however far `best` lies outside the bars."""
        return self._log_total(log_gains_above, best, maximize)

    def probability_of_improvement(self, best: Tensor | float, *, maximize: bool = True) -> Tensor:
        """P(Y > best), or P(Y < best) to minimise, (...)."""
        return self.log_probability_of_improvement(best, maximize=maximize).exp()

    def log_probability_of_improvement(self, best: Tensor | float, *, maximize: bool = True) -> Tensor:
        """ln of `probability_of_improvement`, finite however far `best` lies outside the bars."""
        return self._log_total(log_shares_above, best, maximize)

    def _log_total(
        self, function: Callable[[Tensor, Tensor], Tensor], best: Tensor | float, maximize: bool
    ) -> Tensor:
        best = self._values("best", best)
        parts = function(self.borders, best) if maximize else mirrored(function, self.borders, best)
        return (self.log_mass + parts).logsumexp(-1)

    # Transformations

    def affine(self, scale: Tensor | float, location: Tensor | float = 0.0) -> BarPosterior:
        """The distribution of scale · Y + location; both broadcast with (...), a negative scale mirrors.

        Raises
        ------
        ValueError
            If a scale is 0: that would be a point, which has no density.
        """
        scale, location = self._values("scale", scale), self._values("location", location)
        if bool((scale == 0).any()):
            raise ValueError(f"scale={scale.tolist()} has a 0, which leaves a point without a density; use a scale ≠ 0.")
        borders, mirror = scale.unsqueeze(-1) * self.borders + location.unsqueeze(-1), scale < 0
        if not bool(mirror.any()):
            return BarPosterior(borders, self.log_mass)
        if bool(mirror.all()):
            return BarPosterior(borders.flip(-1), self.log_mass.flip(-1))
        mirror = mirror.unsqueeze(-1)
        return BarPosterior(
            torch.where(mirror, borders.flip(-1), borders), torch.where(mirror, self.log_mass.flip(-1), self.log_mass)
        )

    def transformed(
        self, forward: Callable[[Tensor], Tensor], inverse: Callable[[Tensor], Tensor]
    ) -> TransformedPosterior:
        """The distribution of forward(Y), `forward` increasing, see `TransformedPosterior`."""
        return TransformedPosterior(self, forward, inverse)

    def _values(self, name: str, values: Tensor | float) -> Tensor:
        """`values` as a tensor of the masses' dtype, checked to broadcast with the batch."""
        if not isinstance(values, Tensor):
            if not isinstance(values, int | float):
                raise TypeError(f"{name} is {values!r}, a {type(values).__name__}; pass a float or a torch.Tensor.")
            return self.log_mass.new_tensor(values)
        try:
            torch.broadcast_shapes(values.shape, self.batch_shape)
        except RuntimeError:
            raise ValueError(
                f"{name} has shape {tuple(values.shape)}, the distributions {tuple(self.batch_shape)}; pass one value for "
                f"each, or use posterior.unsqueeze() for several."
            ) from None
        return values.to(self.log_mass.dtype)


def check_probabilities(
    q: Tensor,               # (n_quantiles,) or (..., n_quantiles)
    *,
    inside: bool = False,    # 0 and 1 are wrong too
) -> Tensor:
    if q.ndim == 0:
        raise ValueError(f"quantiles must have an axis, got the number {q.item():g}; pass torch.tensor([{q.item():g}]).")
    if not bool(((q >= 0) & (q <= 1)).all()):
        raise ValueError(f"quantiles must lie in [0, 1], got {q.tolist()}; 95 % is 0.95.")
    if inside and bool(((q == 0) | (q == 1)).any()):
        raise ValueError(f"quantiles must lie inside (0, 1), got {q.tolist()}; those of 0 and 1 are infinite.")
    return q
