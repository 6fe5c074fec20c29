"""Whether a prior can explain a curve: what it predicts from each beginning of the curve, against what came next."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from scipy.special import ndtri, stdtr

from estimators.curve_forecasts import ask, read_in_blocks
from estimators.curve_metric import CurveMetric
from pfn import PFN

_SHARES = (0.125, 0.25, 0.5, 0.75)         # of a curve, after which its next piece is predicted
_FEWEST = 4                                # values of a curve that can be judged
_LAGS, _FEWEST_PAIRS = 6, 8
_SMALLEST = 1e-12


def misfit(
    model: PFN, t: Sequence[np.ndarray], g: Sequence[np.ndarray], horizon: np.ndarray, extended: float
) -> np.ndarray:
    """p-values (n,) of n curves under the prior; 1 for curves of fewer than four values. Arguments as in `read_in_blocks`.

    Twice the smaller of `p_of_surprise` and `p_of_alternation`: at most one in a hundred curves of the prior should get less
    than 0.01, however dependent their values.
    """
    found = np.ones(len(t))
    for number, pieces in enumerate(tails_of_pieces(model, t, g, horizon, extended)):
        if pieces:
            smaller = min(p_of_surprise(pieces), p_of_alternation(pieces))
            found[number] = min(max(2.0 * smaller, _SMALLEST), 1.0)
    return found


def p_of_surprise(pieces: Sequence[np.ndarray]) -> float:
    """For the value that lies farthest out in its distribution, among the pieces' tails (2, k): Bonferroni's bound.

    Per piece and for all pieces, as a change of level is predicted by the pieces after it.
    """
    return min(len(pieces) * min(2.0 * piece.min() * piece.shape[1] for piece in pieces), 1.0)


def p_of_alternation(pieces: Sequence[np.ndarray]) -> float:
    """For values that keep swinging to the other side of what is predicted, from the pieces' tails (2, k).

    Normal scores are correlated with those 1 … 6 values later in the same piece. What is common to the values of a piece,
    such as an error of the predicted level, makes that positive; half a period of an oscillation makes it negative. The
    smallest p-value of a t-test for no correlation, times the number of lags.
    """
    # From the smaller tail: the normal score of a probability near 1 has no digits.
    scores = [np.copysign(ndtri(np.maximum(piece.min(0), 1e-300)), piece[0] - piece[1]) for piece in pieces]
    found = []
    for lag in range(1, _LAGS + 1):
        before = np.concatenate([score[:-lag] for score in scores])
        after = np.concatenate([score[lag:] for score in scores])
        n_pairs, size = len(before), np.sqrt(np.square(before).sum() * np.square(after).sum())
        if n_pairs < _FEWEST_PAIRS or size == 0:
            break
        correlation = np.clip(before @ after / size, -1 + 1e-9, 1 - 1e-9)
        found.append(stdtr(n_pairs, correlation * np.sqrt(n_pairs / (1 - correlation**2))))
    return min(len(found) * min(found), 1.0) if found else 1.0


def tails_of_pieces(
    model: PFN, t: Sequence[np.ndarray], g: Sequence[np.ndarray], horizon: np.ndarray, extended: float
) -> list[list[np.ndarray]]:
    """Of each curve's pieces after the first, the probabilities (2, k) below and above their values, given what came before.

    The network's own distributions are asked, which are not truncated: a curve that rests on a bound is no surprise.
    """
    pieces = []                                                     # number of the curve, where the piece begins and ends
    for number, own in enumerate(t):
        ends = sorted({max(round(len(own) * share), 1) for share in _SHARES} | {len(own)}) if len(own) >= _FEWEST else []
        pieces += [(number, begin, end) for begin, end in pairwise(ends)]
    found: list[list[np.ndarray]] = [[] for _ in t]
    numbers = np.array([number for number, _, _ in pieces], dtype=int)
    seen = [[curves[number][:begin] for number, begin, _ in pieces] for curves in (t, g)]
    metric = CurveMetric.of([np.empty(0)] * len(pieces), False, None, None)
    for rows, observed in read_in_blocks(model, seen[0], seen[1], horizon[numbers], extended):
        length = max(pieces[row][2] - pieces[row][1] for row in rows)
        wanted, values = np.ones((len(rows), length)), np.full((len(rows), length), np.nan)
        for line, row in enumerate(rows):
            number, begin, end = pieces[row]
            wanted[line, : end - begin], values[line, : end - begin] = t[number][begin:end], g[number][begin:end]
        distribution = ask(observed, wanted, metric.rows(rows))
        tails = np.stack([distribution.cdf(values), distribution.survival(values)])
        for line, row in enumerate(rows):
            number, begin, end = pieces[row]
            found[number].append(tails[:, line, : end - begin])
    return found
