"""Distributions of a prior's hyper-parameters: each may be a number, or one of these, drawn anew for every task."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from priors.draw import Draw


@runtime_checkable
class Distribution(Protocol):
    """A law of one real hyper-parameter."""

    def sample(self, *size: int, draw: Draw) -> Tensor:
        """Independent draws, float32, on the device of `draw`."""
        ...


Parameter = float | Distribution


def draw_parameter(value: Parameter, *size: int, draw: Draw) -> Tensor:
    """`value` itself everywhere if it is a number, else independent draws from it; float32 of the given size."""
    if isinstance(value, Distribution):
        return value.sample(*size, draw=draw)
    return torch.full(size, float(value), device=draw.device)


def check_parameter(name: str, value: Parameter, *, zero: bool = False) -> None:
    """Raise unless `value` is a distribution or a finite number above (with `zero`: at least) 0."""
    if isinstance(value, Distribution):
        return
    if not isinstance(value, int | float):
        raise TypeError(f"{name} is {value!r}; use a number or a distribution such as LogUniform(0.1, 10.0).")
    if not (0 <= value < math.inf if zero else 0 < value < math.inf):
        raise ValueError(f"{name}={value!r} is not {'at least 0' if zero else 'positive'} and finite; "
                         f"use {name} {'>=' if zero else '>'} 0.")


def fixed_value(name: str, value: Parameter) -> float:
    """The number `value`, for formulas that are exact for fixed hyper-parameters only."""
    if isinstance(value, Distribution):
        raise ValueError(
            f"{name}={value!r} is a distribution, and the posterior is exact for fixed hyper-parameters only; "
            f"use a prior with {name} set to a number."
        )
    return float(value)


def _check_positive(owner: object, *names: str) -> None:
    for name in names:
        value = getattr(owner, name)
        if not 0 < value < math.inf:
            raise ValueError(f"{name}={value!r} of {type(owner).__name__} is not positive and finite; use {name} > 0.")


def _check_order(owner: object, low: float, high: float) -> None:
    if not low < high:
        raise ValueError(f"low={low!r} of {type(owner).__name__} is not below high={high!r}; swap or separate them.")


@dataclass(frozen=True)
class Gamma:
    """Density ∝ v^(shape-1) exp(-rate·v), with mean shape / rate.

    Drawn as Gamma(shape + 1) · U^(1/shape) in logarithms, which is exact for any shape; with a shape of 1e-4 nearly all
    draws are then below the smallest float and come out as 0, so whoever needs a positive number sets a floor.
    """

    shape: float
    rate: float

    def __post_init__(self) -> None:
        _check_positive(self, "shape", "rate")

    @property
    def mean(self) -> float:
        return self.shape / self.rate

    @property
    def variance(self) -> float:
        return self.shape / self.rate**2

    def log_sample(self, *size: int, draw: Draw) -> Tensor:
        """Logarithm of a draw, which stays finite where the draw itself does not."""
        log_larger = draw.gamma(torch.full(size, self.shape + 1.0, device=draw.device)).log()
        return log_larger - draw.exponential(*size) / self.shape - math.log(self.rate)    # -ln U is Exp(1)

    def sample(self, *size: int, draw: Draw) -> Tensor:
        return self.log_sample(*size, draw=draw).exp()


@dataclass(frozen=True)
class InverseGamma:
    """1 / v is Gamma(shape, rate); the conjugate law of a Gaussian variance."""

    shape: float
    rate: float

    def __post_init__(self) -> None:
        _check_positive(self, "shape", "rate")

    @property
    def mean(self) -> float:
        return self.rate / (self.shape - 1) if self.shape > 1 else math.inf

    @property
    def variance(self) -> float:
        return self.mean**2 / (self.shape - 2) if self.shape > 2 else math.inf

    def sample(self, *size: int, draw: Draw) -> Tensor:
        return (-Gamma(self.shape, self.rate).log_sample(*size, draw=draw)).exp()


@dataclass(frozen=True)
class LogNormal:
    """exp N(log_mean, log_std²); both are of the logarithm."""

    log_mean: float
    log_std: float

    def __post_init__(self) -> None:
        _check_positive(self, "log_std")

    @property
    def mean(self) -> float:
        return math.exp(self.log_mean + self.log_std**2 / 2)

    @property
    def variance(self) -> float:
        return self.mean**2 * math.expm1(self.log_std**2)

    def sample(self, *size: int, draw: Draw) -> Tensor:
        return (self.log_mean + self.log_std * draw.normal(*size)).exp()


@dataclass(frozen=True)
class LogUniform:
    """exp U(ln low, ln high)."""

    low: float
    high: float

    def __post_init__(self) -> None:
        _check_positive(self, "low", "high")
        _check_order(self, self.low, self.high)

    @property
    def mean(self) -> float:
        return (self.high - self.low) / math.log(self.high / self.low)

    @property
    def variance(self) -> float:
        return (self.high**2 - self.low**2) / (2 * math.log(self.high / self.low)) - self.mean**2

    def sample(self, *size: int, draw: Draw) -> Tensor:
        return draw.log_uniform(*size, low=self.low, high=self.high)


@dataclass(frozen=True)
class Uniform:
    """U(low, high)."""

    low: float
    high: float

    def __post_init__(self) -> None:
        _check_order(self, self.low, self.high)

    @property
    def mean(self) -> float:
        return (self.low + self.high) / 2

    @property
    def variance(self) -> float:
        return (self.high - self.low) ** 2 / 12

    def sample(self, *size: int, draw: Draw) -> Tensor:
        return draw.uniform(*size, low=self.low, high=self.high)


@dataclass(frozen=True)
class UniformInteger:
    """Integers low … high, both included, as floats."""

    low: int
    high: int

    def __post_init__(self) -> None:
        if self.high < self.low:
            raise ValueError(f"low={self.low!r} of UniformInteger is above high={self.high!r}; swap them.")

    @property
    def mean(self) -> float:
        return (self.low + self.high) / 2

    @property
    def variance(self) -> float:
        return ((self.high - self.low + 1) ** 2 - 1) / 12

    def sample(self, *size: int, draw: Draw) -> Tensor:
        return draw.integers(*size, low=self.low, high=self.high).float()


@dataclass(frozen=True)
class ScaledBeta:
    """Integers low … high (as floats): low + ⌊v·(high - low + 1)⌋ with v ~ Beta(a, b)."""

    a: float
    b: float
    low: int
    high: int

    def __post_init__(self) -> None:
        _check_positive(self, "a", "b")
        if self.high < self.low:
            raise ValueError(f"low={self.low!r} of ScaledBeta is above high={self.high!r}; swap them.")

    def sample(self, *size: int, draw: Draw) -> Tensor:
        log_odds = Gamma(self.a, 1.0).log_sample(*size, draw=draw) - Gamma(self.b, 1.0).log_sample(*size, draw=draw)
        levels = self.high - self.low + 1
        return self.low + (log_odds.sigmoid() * levels).floor().clamp_max(levels - 1)
