"""Bar distributions known to lie between limits: exact density, cdf and quantiles, and expectations of any function."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from pfn.bar_grid import entry_before, locate, log_heights, tail_scales

_TAIL_END = 12.0            # scales; beyond lies 1e-33 of a tail


def _smooth_nodes(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights on (0, 1) whose density vanishes at both ends, for functions with logarithms there.

    Gauss–Legendre in x with the substitution x³ (10 - 15 x + 6 x²).
    """
    node, weight = np.polynomial.legendre.leggauss(n)
    x = (node + 1) / 2
    return x**3 * (10 - 15 * x + 6 * x**2), weight / 2 * 30 * x**2 * (1 - x) ** 2


_IN_BAR, _IN_TAIL = _smooth_nodes(16), _smooth_nodes(64)


@dataclass(frozen=True)
class TruncatedBars:
    """Distributions of X given low ≤ X ≤ high, where X has the bars and half-normal tails of a `pfn.BarPosterior`.

    Axes: n curves, s steps, K bars. All is float64.

    Parameters
    ----------
    borders : Tensor of shape (K + 1,)
    log_mass : Tensor of shape (n, s, K)
        Normalised log probabilities, before the truncation.
    low, high : Tensors of shape (n,)
        Infinite for no truncation.
    """

    borders: Tensor
    log_mass: Tensor
    low: Tensor
    high: Tensor

    def log_prob(self, x: Tensor) -> Tensor:  # (n, s, k)
        """Log density at x, -inf beyond the limits."""
        place = locate(self.borders, x)
        log_density = self.log_mass.gather(-1, place.bar) + log_heights(self.borders)[place.bar] - 0.5 * place.depth.square()
        inside = (x >= self._limit(self.low)) & (x <= self._limit(self.high))
        return torch.where(inside, log_density - self._total.log(), -math.inf)

    def shares(self, x: Tensor) -> tuple[Tensor, Tensor]:  # (n, s, k)
        """P(X ≤ x) and P(X > x)."""
        x = x.clamp(self._limit(self.low), self._limit(self.high))
        bar = locate(self.borders, x).bar
        here = self._part(bar, x)
        low, high = self._ends(bar)
        mass = self.log_mass.gather(-1, bar).exp()
        below = entry_before(self._cumulated, bar) + mass * (here - low)
        above = self._total - self._cumulated.gather(-1, bar) + mass * (high - here)
        return below / self._total, above / self._total

    def quantile(self, q: Tensor) -> Tensor:  # (n, s, k)
        """Where the cdf is q; `low` for 0 and `high` for 1."""
        wanted = (q * self._total).contiguous()
        bar = torch.searchsorted(self._cumulated, wanted).clamp_max(self.log_mass.shape[-1] - 1)
        low, high = self._ends(bar)
        mass = self.log_mass.gather(-1, bar).exp()
        part = low + (wanted - entry_before(self._cumulated, bar)) / mass
        x = self._at_part(bar, torch.minimum(torch.maximum(part, low), high))
        x = x.clamp(self._limit(self.low), self._limit(self.high))
        return torch.where(q == 0, self._limit(self.low), torch.where(q == 1, self._limit(self.high), x))

    @property
    def nodes(self) -> Tensor:
        """Where `expectations` wants to know functions, (n, n_nodes); those that count lie strictly between the limits."""
        return self._quadrature[0]

    def expectations(self, values: Tensor) -> Tensor:
        """E f(X), (n, s), from f at the `nodes`, (n, n_nodes).

        Exact to rounding for polynomials of degree 5 on every bar, and to 2e-6 of a bar's share for the logarithm of the
        distance to one of its ends.
        """
        weight = self._quadrature[1]
        weighted = torch.where(weight > 0, values, 0.0) * weight
        n, (left, right) = len(values), (len(_IN_TAIL[0]), len(_IN_TAIL[0]))
        inner = weighted[:, left:-right].reshape(n, -1, len(_IN_BAR[0])).sum(-1)
        per_bar = torch.cat([weighted[:, :left].sum(1, keepdim=True), inner, weighted[:, -right:].sum(1, keepdim=True)], 1)
        return (self._mass_before @ per_bar.unsqueeze(-1)).squeeze(-1) / self._total.squeeze(-1)

    # The mass of a bar is spread by its own cdf, "part", that runs from 0 to 1 over the whole bar.

    def _part(self, bar: Tensor, x: Tensor) -> Tensor:
        """The cdf within a bar, at x (n, s, k)."""
        left, right = tail_scales(self.borders)
        inner = (x - self.borders[bar]) / self.borders.diff()[bar]
        in_left = torch.special.erfc((self.borders[1] - x) / (left * math.sqrt(2)))
        in_right = torch.special.erf((x - self.borders[-2]) / (right * math.sqrt(2)))
        return torch.where(bar == 0, in_left, torch.where(bar == len(self.borders) - 2, in_right, inner)).clamp(0.0, 1.0)

    def _at_part(self, bar: Tensor, part: Tensor) -> Tensor:
        """Inverse of `_part`."""
        left, right = tail_scales(self.borders)
        inner = self.borders[bar] + part * self.borders.diff()[bar]
        in_left = self.borders[1] + left * torch.special.ndtri(part / 2)
        in_right = self.borders[-2] + right * math.sqrt(2) * torch.special.erfinv(part)
        return torch.where(bar == 0, in_left, torch.where(bar == len(self.borders) - 2, in_right, inner))

    def _limit(self, limit: Tensor) -> Tensor:
        return limit.view(-1, 1, 1)

    @cached_property
    def _parts_of_bars(self) -> tuple[Tensor, Tensor]:
        """Parts (n, K) of all bars at which the limits cut them: 0 and 1 of those that lie between the limits."""
        bar = torch.arange(len(self.borders) - 1).expand(len(self.low), -1)
        lower = torch.cat([self.borders.new_tensor([-math.inf]), self.borders[1:-1]])
        upper = torch.cat([self.borders[1:-1], self.borders.new_tensor([math.inf])])
        low = torch.minimum(torch.maximum(self.low.unsqueeze(1), lower), upper)
        high = torch.minimum(torch.maximum(self.high.unsqueeze(1), lower), upper)
        return self._part(bar, low), self._part(bar, high)

    def _ends(self, bar: Tensor) -> tuple[Tensor, Tensor]:  # (n, s, k)
        low, high = self._parts_of_bars
        index = bar.flatten(1)
        return low.gather(1, index).view(bar.shape), high.gather(1, index).view(bar.shape)

    @cached_property
    def _mass_before(self) -> Tensor:  # (n, s, K)
        return self.log_mass.exp()

    @cached_property
    def _cumulated(self) -> Tensor:  # (n, s, K)
        low, high = self._parts_of_bars
        return (self._mass_before * (high - low).unsqueeze(1)).cumsum(-1)

    @property
    def _total(self) -> Tensor:  # (n, s, 1)
        """Mass between the limits."""
        return self._cumulated[..., -1:]

    @cached_property
    def _quadrature(self) -> tuple[Tensor, Tensor]:
        """Nodes and weights (n, n_nodes) of the left tail, the bars, the right tail; weights of a bar sum to its share."""
        low, high = self.low.unsqueeze(1), self.high.unsqueeze(1)
        start, width = self.borders[1:-2], self.borders[1:-1].diff()
        begin = start.clamp(low, high)                                               # (n, K - 2)
        length = (start + width).clamp(low, high) - begin
        node, weight = (self.borders.new_tensor(v) for v in _IN_BAR)
        x = [(begin.unsqueeze(-1) + length.unsqueeze(-1) * node).flatten(1)]
        w = [((length / width).unsqueeze(-1) * weight).flatten(1)]
        node, weight = (self.borders.new_tensor(v) for v in _IN_TAIL)
        for scale, anchor, side in zip(tail_scales(self.borders), (self.borders[1], self.borders[-2]), (-1, 1), strict=True):
            inner, outer = ((side * (limit - anchor) / scale).clamp(0.0, _TAIL_END) for limit in (low, high)[::side])
            depth = inner + (outer - inner) * node                                   # (n, 64)
            density = math.sqrt(2.0 / math.pi) * torch.exp(-0.5 * depth.square())
            x.insert(0 if side < 0 else 2, anchor + side * scale * depth)
            w.insert(0 if side < 0 else 2, (outer - inner) * density * weight)
        return torch.cat(x, 1), torch.cat(w, 1)
