"""Parametric families of learning curves, from power laws to Hill functions; `priors.curves` adds them up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from priors.draw import Draw

Parameter = Callable[[Draw, int], Tensor]  # (draw, n) gives n independent values, shape (n, 1)


def uniform(low: float, high: float) -> Parameter:
    return lambda draw, n: draw.uniform(n, 1, low=low, high=high)


def normal(mean: float, std: float) -> Parameter:
    return lambda draw, n: mean + std * draw.normal(n, 1)


def log_uniform(low: float, high: float) -> Parameter:
    """exp U(low, high): the ends are those of the logarithm, as in the table of `FAMILIES`."""
    return lambda draw, n: draw.uniform(n, 1, low=low, high=high).exp()


def log_normal(mean: float, std: float) -> Parameter:
    """exp N(mean, std²)."""
    return lambda draw, n: (mean + std * draw.normal(n, 1)).exp()


@dataclass(frozen=True)
class CurveFamily:
    """Curves of one shape with random parameters.

    Parameters
    ----------
    formula : callable
        `formula(t, *parameters)` with t (m,) the steps 1 … m and each parameter (n, 1) gives n curves (n, m). Extreme
        parameters may give infinities or NaN, which the prior rejects.
    parameters : tuple of Parameter
        Independent distributions, in the order in which `formula` takes them.
    """

    formula: Callable[..., Tensor]
    parameters: tuple[Parameter, ...]

    def sample(self, n: int, t: Tensor, draw: Draw) -> Tensor:  # (n, m)
        return self.formula(t, *(parameter(draw, n) for parameter in self.parameters))


# The table of the code released with [1]; only the first three families take part in its prior. [2] is where they
# come from. References: see LearningCurvePrior.
FAMILIES: dict[str, CurveFamily] = {
    "pow3": CurveFamily(
        lambda t, c, a, alpha: c - a * t**-alpha,
        (uniform(0, 1.25), uniform(-0.6, 0.6), log_normal(0, 2)),
    ),
    "janoschek": CurveFamily(
        lambda t, a, beta, kappa, delta: a - (a - beta) * (-kappa * t**delta).exp(),
        (uniform(0, 1), uniform(0, 2), log_normal(-2, 1), log_normal(0, 0.5)),
    ),
    "ilog2": CurveFamily(
        lambda t, c, a: c - a / (t + 1).log(),
        (uniform(0, 1), uniform(-0.5, 0.5)),
    ),
    "log_power": CurveFamily(
        lambda t, a, b, c: a / (1 + (t / b.exp()) ** c),
        (normal(0.8, 0.1), normal(1, 1), uniform(-3, 0)),
    ),
    "weibull": CurveFamily(
        lambda t, alpha, beta, kappa, delta: alpha - (alpha - beta) * (-((kappa * t) ** delta)).exp(),
        (uniform(0, 1.5), uniform(0, 1), log_normal(-2, 1), log_normal(0, 0.5)),
    ),
    "mmf": CurveFamily(
        lambda t, alpha, beta, kappa, delta: alpha - (alpha - beta) / (1 + (kappa * t) ** delta),
        (normal(0.8, 0.1), normal(0.2, 0.1), log_normal(0, 2), log_normal(0, 1)),
    ),
    "vapour_pressure": CurveFamily(
        lambda t, a, b, c: (a + b / t + c * t.log()).exp(),
        (uniform(-2, 0), uniform(-4, 0), log_uniform(-8, 0)),
    ),
    "log_log_linear": CurveFamily(
        lambda t, a, b: (a * t.log() + b).log(),
        (log_normal(-2, 1), log_uniform(0, 1)),
    ),
    "exp4": CurveFamily(
        lambda t, c, a, alpha, b: c - (-a * t**alpha + b).exp(),
        (normal(0.8, 0.1), log_normal(-2, 1), log_normal(0, 1), log_normal(0, 0.5)),
    ),
    "pow4": CurveFamily(
        lambda t, one_minus_c, a, alpha, b: 1 - one_minus_c - (a * t + b) ** -alpha,
        (log_uniform(-5, 0), log_normal(-3, 2), log_normal(0, 1), log_uniform(0, 1)),
    ),
    # θ t^η / (κ^η + t^η), divided by t^η: finite where both powers overflow.
    "dr_hill": CurveFamily(
        lambda t, theta, eta, kappa: theta / (1 + (kappa / t) ** eta),
        (normal(0.8, 0.1), log_normal(1, 1), log_normal(1, 2)),
    ),
}
RELEASED = ("pow3", "janoschek", "ilog2")
