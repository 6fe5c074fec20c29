"""A polynomial that an output follows almost exactly: subtracted from what the network sees, added to what it says."""

from __future__ import annotations

from itertools import combinations_with_replacement

import numpy as np
import torch
from torch import Tensor

# A polynomial must leave no more than this share of the variance, in leave-one-out predictions: all linear terms, or a few
# terms that were selected, which leave-one-out errors flatter. Where it leaves more, the network alone is better: on the
# outputs of the engineering suite its error was half of that with a polynomial that explains half of the variance.
_MOST_LEFT, _MOST_LEFT_BY_SELECTED = 1e-3, 1e-8
_ROWS_PER_TERM, _TERMS_PER_ROW = 2, 0.6
_MOST_TERMS = 220                           # to select from: third powers up to 9 features
_EXACT = 1e-20                              # of the variance


class Trends:
    """Polynomials of degree three or less, one for each output; 0 for outputs that none of them follows.

    Objectives and constraints of designs are often linear, or sums of a few products. A network that was trained on
    functions of every kind knows such a function to a percent or so of its range, least squares to the last digit. What the
    polynomial leaves is for the network.

    Parameters
    ----------
    exponents : tuple of tuples of int
        Of each term, the features that are multiplied, centred to [-1, 1]; () is the constant.
    coefficients : Tensor of shape (n_outputs, n_terms), float64
    is_exact : ndarray of bool, shape (n_outputs,)
        Which outputs leave nothing for the network.

    References
    ----------
    .. [1] S. Chen, S. A. Billings and W. Luo, "Orthogonal least squares methods and their application to non-linear system
       identification", International Journal of Control 50, 1989.
    .. [2] G. Blatman and B. Sudret, "Adaptive sparse polynomial chaos expansion based on least angle regression", Journal of
       Computational Physics 230, 2011: leave-one-out errors choose the number of terms.
    """

    def __init__(self, exponents: tuple[tuple[int, ...], ...], coefficients: Tensor, is_exact: np.ndarray) -> None:
        self.exponents, self.coefficients, self.is_exact = exponents, coefficients, is_exact

    @classmethod
    def fit(cls, x: np.ndarray, z: np.ndarray, known: np.ndarray) -> Trends | None:
        """Least squares on all linear terms, or on terms selected one after the other, as leave-one-out errors decide.

        Parameters
        ----------
        x : ndarray of shape (n, n_features)
            In [0, 1].
        z : ndarray of shape (n_outputs, n)
        known : ndarray of bool, shape (n_outputs, n)
            Which values there are; bounds and failures are none.

        Returns
        -------
        Trends or None
            None if no output has one.
        """
        exponents = _exponents(x.shape[1])
        table = _terms(2 * torch.from_numpy(x) - 1, exponents).numpy()
        coefficients, left = np.zeros((len(z), len(exponents))), np.ones(len(z))
        for output in range(len(z)):
            y, terms = z[output, known[output]], table[known[output]]
            scale = np.ptp(y) if len(y) else 0.0
            if scale > 0:
                coefficients[output], left[output] = _one_trend(terms, y / scale, x.shape[1])
                coefficients[output] *= scale
        used: np.ndarray = (coefficients != 0).any(axis=0)
        if not used.any():
            return None
        kept = tuple(one for one, is_used in zip(exponents, used, strict=True) if is_used)
        return cls(kept, torch.from_numpy(coefficients[:, used]), left <= _MOST_LEFT_BY_SELECTED)

    @property
    def has_trend(self) -> np.ndarray:  # (n_outputs,), bool
        """Which outputs have a polynomial."""
        return self.coefficients.any(1).numpy()

    def __call__(self, x: Tensor) -> Tensor:  # (Q, n_features) in [0, 1]; (n_outputs, Q), float64
        """Values at x; differentiable."""
        return self.coefficients @ _terms(2 * x.double() - 1, self.exponents).mT


def _exponents(n_features: int) -> tuple[tuple[int, ...], ...]:
    """Constant and linear terms first."""
    found: list[tuple[int, ...]] = []
    for degree in range(4):
        more = list(combinations_with_replacement(range(n_features), degree))
        if degree == 3 and len(found) + len(more) > _MOST_TERMS:
            break
        found += more
    return tuple(found)


def _terms(centred: Tensor, exponents: tuple[tuple[int, ...], ...]) -> Tensor:  # (n, n_features); (n, n_terms)
    """Products of features; columns are padded by one that is 1."""
    longest = max(map(len, exponents), default=0)
    one = centred.shape[1]
    padded = torch.cat([centred, torch.ones_like(centred[:, :1])], dim=1)
    index = torch.tensor([list(e) + [one] * (longest - len(e)) for e in exponents]).view(len(exponents), longest)
    return padded[:, index].prod(-1)


def _one_trend(terms: np.ndarray, y: np.ndarray, n_features: int) -> tuple[np.ndarray, float]:
    """Coefficients (n_terms,) of one output y (n,), 0 if no polynomial follows it, and the share of variance left."""
    n, coefficients = len(y), np.zeros(terms.shape[1])
    whole = np.square((y - y.mean()) * n / max(n - 1, 1)).sum()     # leave-one-out errors of the mean
    linear, share = terms[:, : n_features + 1], 1.0
    if n >= _ROWS_PER_TERM * linear.shape[1]:
        u, s, vt = np.linalg.svd(linear, full_matrices=False)
        kept = s > 1e-8 * s[0]
        u, projected = u[:, kept], u[:, kept].T @ y
        left = _press(y - u @ projected, np.square(u).sum(1)) / whole
        if left <= _MOST_LEFT:
            coefficients[: n_features + 1], share = (projected / s[kept]) @ vt[kept], left
    # How many terms there are to choose from, and how many are taken first: second powers, with all linear terms or without.
    n_quadratic = (n_features + 1) * (n_features + 2) // 2
    for n_terms, n_first in ((n_quadratic, 1), (n_quadratic, n_features + 1), (terms.shape[1], 1)):
        if share <= _MOST_LEFT_BY_SELECTED:
            break
        selected, left = _select(terms[:, :n_terms], y, n_first, int(_TERMS_PER_ROW * n), _MOST_LEFT_BY_SELECTED * whole)
        if selected:
            coefficients[:] = 0.0
            coefficients[selected], share = np.linalg.lstsq(terms[:, selected], y, rcond=None)[0], left / whole
    return coefficients, share


def _select(terms: np.ndarray, y: np.ndarray, n_first: int, most: int, most_left: float) -> tuple[list[int], float]:
    """Terms with a small leave-one-out error, and this error; chosen greedily by orthogonal least squares [1]_.

    The first `n_first` terms come first, in any order. No terms if the error stays larger than `most_left`.
    """
    size = np.square(terms).sum(0)
    rest, residual, leverage = terms.copy(), y.copy(), np.zeros(len(y))
    chosen: list[int] = []
    best: list[int] = []
    least, total = most_left, np.square(y - y.mean()).sum()
    while len(chosen) < most:
        norm = np.square(rest).sum(0)
        usable = norm > 1e-10 * size
        gain = np.where(usable, np.square(residual @ rest) / np.where(usable, norm, 1.0), -1.0)
        begins = usable[:n_first].any()
        number = int(np.argmax(gain[:n_first] if begins else gain))
        if not usable[number]:
            break
        q = rest[:, number] / np.sqrt(norm[number])
        residual = residual - q * (q @ residual)
        rest = rest - np.outer(q, q @ rest)
        leverage += np.square(q)
        chosen.append(number)
        error = _press(residual, leverage)
        if error < least:
            least, best = error, chosen.copy()
        if error <= _EXACT * total:
            break
    return best, least


def _press(residual: np.ndarray, leverage: np.ndarray) -> float:
    """Sum of squared leave-one-out errors."""
    return float(np.square(residual / (1 - leverage).clip(1e-6)).sum())
