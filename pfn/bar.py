"""The bar distribution: a piecewise-constant density with half-normal tails, the head of every regression network."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pfn.bar_posterior import BarPosterior

__all__ = ["BarDistribution", "BarPosterior"]


@dataclass(frozen=True)
class BarDistribution:
    """Bars between `borders`; the first and the last are half-normals, so the support is the whole real line.

    A tail is anchored at the inner border of its bar and scaled such that half of its mass lies inside the bar.

    Parameters
    ----------
    borders : Tensor of shape (n_bars + 1,)
        Strictly increasing, in units of y.

    References
    ----------
    .. [1] S. Müller et al., "Transformers Can Do Bayesian Inference", ICLR 2022, Riemann distribution and its
       full-support variant.

    Examples
    --------
    >>> bars = BarDistribution(torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0]))
    >>> posterior = bars.posterior(torch.tensor([0.1, 0.2, 0.3, 0.4]).log())
    >>> posterior.quantile(torch.tensor([0.5]))
    tensor([0.6667])
    >>> posterior.expected_improvement(0.0)
    tensor(1.0232)
    """

    borders: Tensor

    def __post_init__(self) -> None:
        if self.borders.ndim != 1 or len(self.borders) < 3:
            raise ValueError(f"borders has shape {tuple(self.borders.shape)}; at least two bars need three borders.")
        if not bool((self.borders.diff() > 0).all()):
            raise ValueError("borders must increase strictly; remove repeated values.")

    @property
    def n_bars(self) -> int:
        return len(self.borders) - 1

    @classmethod
    def from_samples(cls, y: Tensor, n_bars: int) -> BarDistribution:
        """Borders such that every bar holds the same share of the sample `y` (any shape); ends at its extremes.

        Raises
        ------
        ValueError
            If `y` has fewer distinct values than borders are needed.
        """
        ordered = y.flatten().double().sort().values
        if len(ordered) <= n_bars:
            raise ValueError(f"{len(ordered)} samples cannot fill n_bars={n_bars} bars; draw at least {n_bars + 1}.")
        position = torch.arange(1, n_bars, device=y.device) * len(ordered) // n_bars
        inner = (ordered[position - 1] + ordered[position]) / 2
        borders = torch.cat([ordered[:1], inner, ordered[-1:]]).float().unique()
        if len(borders) != n_bars + 1:
            raise ValueError(
                f"y has too many equal values for n_bars={n_bars} distinct borders (got {len(borders)}); use fewer bars."
            )
        return cls(borders)

    def posterior(self, logits: Tensor) -> BarPosterior:
        """The distribution with these unnormalised log masses, (..., n_bars)."""
        if logits.shape[-1] != self.n_bars:
            raise ValueError(f"logits end in {logits.shape[-1]} values, but there are {self.n_bars} bars.")
        return BarPosterior(self.borders.to(logits.dtype), logits.log_softmax(-1))
